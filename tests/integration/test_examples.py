"""Every example, run through the real command line just as its own first lines say.

The first lines of an example are comments: each `penstock run examples/….yaml …` in them is run here, in their order
and with one home, and each must end with the exit code that `# expect: N` names (0 without such a line). Examples check
themselves; what is asserted here on top is that the checks ran.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from project import ROOT, penstock

# gitops/ needs a cluster; test_deployment_examples.py has deployments/.
APART = {"gitops", "deployments"}
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if not APART & {*path.parts})
NAMES = [str(path.relative_to(ROOT)) for path in EXAMPLES]
PHASES = {0: "Succeeded", 1: "Failed"}

_COMMAND = re.compile(r"^#\s+penstock (run .*?)(?:\s{2,}#.*)?$", re.MULTILINE)
_EXPECT = re.compile(r"^# expect: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """What one command gave."""

    command: str
    code: int
    execution: dict[str, Any]
    errors: str

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """The steps of the execution by name."""
        return {step["name"]: step for step in self.execution["status"]["steps"]}

    @property
    def outputs(self) -> dict[str, Any]:
        """The values that the pipeline gave, by name; files are left out."""
        return {given["name"]: given["value"] for given in self.execution["status"]["outputs"] if "value" in given}


def header(name: str) -> str:
    """The comment at the top of an example."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def commands(name: str) -> list[list[str]]:
    """The commands that an example's first lines name, as arguments of `penstock`."""
    return [shlex.split(found) for found in _COMMAND.findall(header(name))]


def run_all(name: str, home: Path) -> list[Ended]:
    """Run an example's commands one after the other in one home."""
    ended = []
    for arguments in commands(name):
        done = penstock(home, *arguments, "--output", "json")
        shown = f"penstock {shlex.join(arguments)}"
        try:
            execution = json.loads(done.stdout)
        except json.JSONDecodeError:
            execution = {}
        ended.append(Ended(shown, done.returncode, execution, done.stdout[-4000:] + done.stderr[-4000:]))
    return ended


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[list[Ended]]]]:
    """The selected examples, two at a time: most of their time is the start of processes."""
    selected = {
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "runs" in item.fixturenames
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        started = {name: pool.submit(run_all, name, tmp_path_factory.mktemp("home")) for name in sorted(selected)}
        yield started
        for future in started.values():
            future.cancel()


@pytest.mark.parametrize("name", NAMES)
def test_example_ends_as_it_says_and_its_checks_ran(name: str, runs: Mapping[str, Future[list[Ended]]]) -> None:
    expected = _EXPECT.search(header(name))
    code = int(expected[1]) if expected else 0
    all_ended = runs[name].result()

    assert all_ended, "the first lines name no command"
    for ended in all_ended:
        assert ended.code == code, f"{ended.command}\n{ended.errors}"
        assert ended.execution["status"]["phase"] == PHASES[code]
        checks = [step["phase"] for step in ended.steps.values() if step["name"] in {"check", "ran", "summary"}]
        if name != "examples/iris/pipeline.yaml":
            assert "check" in ended.steps, "an example checks itself in a step called check"
        assert set(checks) == {"Succeeded"}, f"{ended.command}\n{ended.execution['status']['steps']}"
    EXTRA.get(name, _nothing)(all_ended)


def _nothing(_: list[Ended]) -> None:
    """Most examples say all by themselves."""


def _iris(ended: list[Ended]) -> None:
    with_defaults, with_other_inputs = ended
    assert with_defaults.outputs == {"accuracy": pytest.approx(43 / 45), "best_k": 3}
    assert with_other_inputs.outputs["best_k"] in {1, 2, 3}
    report = next(given for given in with_defaults.execution["status"]["outputs"] if given["name"] == "report")
    assert report["file"]["size"] > 0


def _cache(ended: list[Ended]) -> None:
    first, again, other_key = ended
    assert first.steps["prepare"]["phase"] == "Succeeded"
    assert again.steps["prepare"]["phase"] == "Cached"
    assert again.outputs == first.outputs
    assert other_key.steps["prepare"]["phase"] == "Succeeded"
    assert other_key.outputs != first.outputs


def _hello(ended: list[Ended]) -> None:
    assert [each.outputs for each in ended] == [{"greeting": "Hello, World!"}, {"greeting": "Hello, Ada!"}]


def _retry(ended: list[Ended]) -> None:
    assert ended[0].steps["flaky"]["attempts"] == 3


def _timeout(ended: list[Ended]) -> None:
    assert ended[0].steps["slow"]["reason"] == "TimedOut"


EXTRA = {
    "examples/iris/pipeline.yaml": _iris,
    "examples/cache.yaml": _cache,
    "examples/hello.yaml": _hello,
    "examples/retry.yaml": _retry,
    "examples/timeout.yaml": _timeout,
}


def test_lint_finds_nothing_in_any_example(tmp_path: Path) -> None:
    done = penstock(tmp_path, "lint", "--strict", *NAMES)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_example_is_in_the_table_of_the_readme() -> None:
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)#]+\.yaml)\)", readme))

    there = [*EXAMPLES, *(ROOT / "examples" / "deployments").rglob("*.yaml")]
    assert linked == {str(path.relative_to(ROOT / "examples")) for path in there}


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_the_first_lines_run_the_file_they_are_in(name: str) -> None:
    assert all(arguments[:2] == ["run", name] for arguments in commands(name))
