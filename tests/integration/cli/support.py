"""The real command line in processes of their own, and what tests need around it. No pytest fixtures and no tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from penstock.api.execution import Execution

DEADLINE_SECONDS = 60.0
"""How long anything may take before a test gives up; nothing takes near as long."""
PENSTOCK = (sys.executable, "-m", "penstock.cli")
_MARK = "CLI_TEST_MARK"


def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for a condition, not for a time."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"never came true: {what or condition}"
        time.sleep(0.005)


def pipeline(name: str, steps: Sequence[Mapping[str, Any]], **spec: Any) -> dict[str, Any]:
    """A Pipeline as a dict."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": name},
        "spec": {"defaults": {"image": "any"}, "steps": list(steps), **spec},
    }


def execution(metadata: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """An Execution as a dict."""
    return {"apiVersion": "penstock.dev/v1alpha1", "kind": "Execution", "metadata": dict(metadata), "spec": spec}


@dataclass(frozen=True)
class Ended:
    """What one command gave."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> dict[str, Any]:
        """The Execution on standard output; it must be all that is there, and fit the model."""
        found: dict[str, Any] = json.loads(self.out)
        Execution.model_validate_json(self.out, strict=True)
        return found

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        """Its steps by name."""
        return {step["name"]: step for step in self.object["status"]["steps"]}

    @property
    def phases(self) -> dict[str, str]:
        """Phases of its steps."""
        return {name: step["phase"] for name, step in self.steps.items()}

    @property
    def values(self) -> dict[str, Any]:
        """The values that the pipeline gave."""
        return {each["name"]: each["value"] for each in self.object["status"]["outputs"] if "value" in each}


class Running:
    """A command that runs in the background; what it prints goes to files, so that it never waits for a reader."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path) -> None:
        self._out, self._err = out.with_suffix(".out"), out.with_suffix(".err")
        with self._out.open("wb") as stdout, self._err.open("wb") as stderr:
            self._popen = subprocess.Popen(argv, cwd=cwd, env=env, stdout=stdout, stderr=stderr)

    @property
    def err(self) -> str:
        """What it has written to standard error so far."""
        return self._err.read_text(encoding="utf-8")

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send it, and nobody else, a signal."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """`kill -9`, as a crash would be."""
        self._popen.kill()
        self._popen.wait(DEADLINE_SECONDS)

    def ended(self) -> Ended:
        """Wait for its end."""
        code = self._popen.wait(DEADLINE_SECONDS)
        return Ended(code, self._out.read_text(encoding="utf-8"), self.err)


_NOT_HANDED_ON = frozenset({"PENSTOCK_HOME", "NO_COLOR", "COLUMNS", "LINES"})
"""Variables that would change what is printed; xdist sets the last two for its workers."""


class Cli:
    """A folder with manifests, and `penstock` in it.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._started = 0
        self._env = {
            **{name: value for name, value in os.environ.items() if name not in _NOT_HANDED_ON},
            _MARK: str(folder),
        }

    def write(self, name: str, *content: Mapping[str, Any] | str) -> str:
        """Write a file: text, or objects as YAML documents; gives its name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        documents = [each if isinstance(each, str) else yaml.safe_dump(each, sort_keys=False) for each in content]
        path.write_text("---\n".join(documents), encoding="utf-8")
        return name

    def pipeline(self, steps: Sequence[Mapping[str, Any]], name: str = "p", **spec: Any) -> str:
        """Write a Pipeline into a folder in which nothing else changes; gives the name of its file."""
        return self.write(f"src/{name}.yaml", pipeline(name, steps, **spec))

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of what is started."""
        return {**self._env, "PENSTOCK_HOME": str(self.home), **(more or {})}

    def __call__(
        self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> Ended:
        """Run `penstock` with arguments to its end."""
        done = subprocess.run(
            [*prefix, *PENSTOCK, *arguments],
            cwd=self.folder,
            env=self.env(env),
            input=stdin.encode(),
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def run(self, *arguments: str, **options: Any) -> Ended:
        """`penstock run … --output json`."""
        return self("run", *arguments, "--output", "json", **options)

    def start(self, *arguments: str) -> Running:
        """Start `penstock` with arguments in the background."""
        self._started += 1
        return Running([*PENSTOCK, *arguments], self.folder, self.env(), self.folder / f".background-{self._started}")

    def shell(self, script: str) -> Ended:
        """Run a shell script in which `$PENSTOCK` stands for the command."""
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=self.folder,
            env=self.env({"PENSTOCK": " ".join(PENSTOCK)}),
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def lines(self, name: str) -> list[str]:
        """The lines of a file that steps append to; none while it is not there."""
        path = self.folder / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def left_behind(self) -> dict[int, str]:
        """Processes that were started from here and still live, by pid, with their command lines."""
        mark = f"{_MARK}={self.folder}\0".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes() + b"\0":
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # gone meanwhile, or another user's
        return found
