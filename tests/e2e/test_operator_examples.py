"""Every example that needs neither files nor the cache ends on a cluster just as it does on this machine.

They are the manifests of `examples/` as they are, applied with `kubectl`; all run at once, and so do the local runs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.image import REPOSITORY
from e2e.operator_fixtures import API, Place, execution
from project import penstock

pytest_plugins = ["e2e.operator_fixtures"]

EXAMPLES = REPOSITORY / "examples"
# These need an object store, for files or the cache; test_operator_file_examples.py has them.
NOT_YET = frozenset(
    {
        "cache.yaml",
        "fan-out-files.yaml",
        "files.yaml",
        "folders.yaml",
        "inputs.yaml",
        "iris/pipeline.yaml",
        "python-function.yaml",
    }
)
# What is in gitops/ belongs together; test_gitops.py applies it, and test_deployments.py deployments/.
FILES = sorted(path for path in EXAMPLES.rglob("*.yaml") if not {"gitops", "deployments"} & {*path.parts})
NAMES = sorted(name for path in FILES if (name := str(path.relative_to(EXAMPLES))) not in NOT_YET)
COMMAND = re.compile(r"^#\s+penstock (run .*?)(?:\s{2,}#.*)?$", re.MULTILINE)
EXAMPLES_SECONDS = 180
# Whether a step that is stopped has begun by then, and which signal ends it, is chance.
STOPPED = frozenset({"FailedFast", "TimedOut", "Cancelled"})
TIMES_AS_OUTPUTS = frozenset({"depends-on.yaml"})
# Its meaning depends on which of two steps ends first, so nothing else may keep the node busy.
ALONE = "failure-policy.yaml"
# The outcome, not when it was and what it took.
COMPARED = ("name", "phase", "reason", "attempts", "exitCode", "outputs", "itemCount", "itemsFinished")


@dataclass
class Ended:
    """Executions of one example, a status for each command in its first lines."""

    local: list[dict[str, Any]] = field(default_factory=list)
    cluster: list[dict[str, Any]] = field(default_factory=list)


def commands(name: str) -> list[list[str]]:
    """The commands in the first lines of an example, without the example itself: `["--input", "rows=3"]`."""
    return [shlex.split(found)[2:] for found in COMMAND.findall((EXAMPLES / name).read_text())]


def inputs_of(arguments: list[str], manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inputs that a command gives, as a manifest of an execution has them."""
    declared = {each["name"]: each["type"] for each in manifest["spec"].get("inputs", ())}
    found = []
    for option, given in zip(arguments[::2], arguments[1::2], strict=True):
        assert option == "--input", f"the test does not know {option}"
        name, _, text = given.partition("=")
        found.append({"name": name, "value": text if declared[name] == "string" else json.loads(text)})
    return found


def run_locally(name: str, home: Path) -> list[dict[str, Any]]:
    """What `penstock run` makes of an example's commands."""
    found = []
    for arguments in commands(name):
        done = penstock(home, "run", f"examples/{name}", *arguments, "--output", "json")
        found.append(json.loads(done.stdout)["status"])
    return found


@pytest.fixture(scope="module")
def ended(operator: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All examples, run at both places at once."""
    manifests = {name: yaml.safe_load((EXAMPLES / name).read_text()) for name in NAMES}
    operator.kubectl.apply(*(each for each in manifests.values() if each["kind"] == "Pipeline"))
    started: list[tuple[str, dict[str, Any]]] = []
    for name, manifest in manifests.items():
        for arguments in commands(name):
            given = manifest
            if manifest["kind"] == "Pipeline":
                given = execution(manifest["metadata"]["name"], inputs=inputs_of(arguments, manifest))
            started.append((name, given))
    asked = operator.start_all([each for name, each in started if name == ALONE])
    operator.wait_all(asked)
    asked += operator.start_all([each for name, each in started if name != ALONE])
    with ThreadPoolExecutor(max_workers=2) as pool:
        local = {name: pool.submit(run_locally, name, tmp_path_factory.mktemp("home")) for name in NAMES}
        statuses = operator.wait_all(asked, seconds=EXAMPLES_SECONDS)
        found = {name: Ended(local=local[name].result()) for name in NAMES}
    for name, each in started:
        found[name].cluster.append(statuses[each["metadata"]["name"]])
    return found


def told(name: str, status: Mapping[str, Any]) -> dict[str, Any]:
    """What a status says of the outcome."""
    return {
        "phase": status["phase"],
        "reason": status.get("reason"),
        "outputs": status.get("outputs", []),
        "steps": [_told_of_step(name, step) for step in status["steps"]],
    }


def _told_of_step(name: str, step: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: step[key] for key in COMPARED if key in step}
    if step.get("reason") in STOPPED:
        found.pop("exitCode", None)
    if name in TIMES_AS_OUTPUTS:
        found["outputs"] = [each["name"] for each in step.get("outputs", ())]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_example_ends_on_the_cluster_as_it_does_here(name: str, ended: Mapping[str, Ended]) -> None:
    here, there = ended[name].local, ended[name].cluster
    assert here
    assert len(here) == len(there)
    for local, cluster in zip(here, there, strict=True):
        messages = [(step["name"], step.get("message")) for step in cluster["steps"]]
        assert told(name, cluster) == told(name, local), messages


def test_all_other_examples_need_files_or_the_cache() -> None:
    assert {str(path.relative_to(EXAMPLES)) for path in FILES} == {*NAMES, *NOT_YET}
    for name in NOT_YET:
        text = (EXAMPLES / name).read_text()
        assert "type: file" in text or "cache:" in text, f"{name} could run on a cluster"


def test_the_examples_are_what_the_api_server_takes(operator: Place) -> None:
    paths = [str(path) for path in FILES]
    named = [word for path in paths for word in ("-f", path)]
    said = operator.kubectl("apply", "--dry-run=server", "--validate=strict", *named)
    assert len(said.splitlines()) == len(paths)
    assert API.partition("/")[0] in said
