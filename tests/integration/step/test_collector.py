"""The collector with files: what it uploads is in its result, and nothing ends it on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from penstock.step import collector
from penstock.step.digest import digest
from penstock.step.report import MESSAGE_BYTES, Result, parse_message
from penstock.step.values import Declared
from penstock.step.wire import PATIENCE

from .support import Handler, Store, cut, wanted, write_plan

DECLARED = (Declared("model", "file"), Declared("rows", "number"))


class Beside:
    """A collector beside a step that has ended."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.outputs, self.message = folder / "outputs", folder / "message"
        self.outputs.mkdir()
        self.output = folder / "output"
        self.output.write_text("rows=3\n")
        told = collector.environment(
            DECLARED,
            output_file=str(self.output),
            outputs_dir=str(self.outputs),
            message_file=str(self.message),
            message_bytes=MESSAGE_BYTES,
            limit=1_000_000,
            wait=collector.SIGNAL,
            plan_file=str(folder / "plan"),
        )
        self.env = {**os.environ, **told, **env}

    def run(self, meanwhile: threading.Event | None = None) -> Result:
        """Let it collect; once `meanwhile` is set, it is told to end again and again."""
        command = (sys.executable, "-m", "penstock.step.collector")
        with subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while not _catches_sigterm(process.pid):
                assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == f"{collector.OVER}\n"
            if meanwhile is not None:
                assert meanwhile.wait(20)
                for _ in range(3):
                    process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        assert process.returncode == 0
        found = parse_message(self.message.read_text())
        assert isinstance(found, Result)
        return found


def _catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_files_are_in_the_store_before_they_are_reported(tmp_path: Path, store: Store) -> None:
    beside = Beside(tmp_path)
    (beside.outputs / "model").mkdir()
    (beside.outputs / "model" / "a").write_text("a")
    write_plan(tmp_path / "plan", wanted(store, "model", key="executions/u/s/1/model"))
    found = beside.run()
    told = digest(beside.outputs / "model")
    assert found.outputs == {"rows": 3}
    assert (found.problems, found.transient) == ([], False)
    assert found.files == {"model": {"key": "executions/u/s/1/model", "sha256": told.sha256, "size": 1, "folder": True}}
    assert store.path("model").stat().st_size > 0


def test_an_upload_is_not_ended_by_sigterm(tmp_path: Path, store: Store) -> None:
    beside = Beside(tmp_path)
    (beside.outputs / "model").write_bytes(os.urandom(1_000))
    write_plan(tmp_path / "plan", wanted(store, "model"))
    under_way, told = threading.Event(), threading.Event()

    def wait(_: Handler) -> bool:
        under_way.set()
        told.wait(1.0)
        return False

    store.faults.append(wait)
    assert set(beside.run(under_way).files) == {"model"}
    assert store.path("model").read_bytes() == (beside.outputs / "model").read_bytes()


def test_a_store_that_stays_away_is_not_the_steps_fault(tmp_path: Path, store: Store) -> None:
    beside = Beside(tmp_path, **{PATIENCE: "0.5"})
    (beside.outputs / "model").write_text("x")
    write_plan(tmp_path / "plan", wanted(store, "model"))
    store.always = cut
    found = beside.run()
    assert (found.outputs, found.files, found.transient) == ({"rows": 3}, {}, True)
    (problem,) = found.problems
    assert problem.startswith('output "model": ')


def test_what_is_wrong_with_the_outputs_is_no_passing_trouble(tmp_path: Path, store: Store) -> None:
    beside = Beside(tmp_path, **{PATIENCE: "0.5"})
    (beside.outputs / "model").write_text("x")
    beside.output.write_text("rows=many\n")
    write_plan(tmp_path / "plan", wanted(store, "model"))
    store.always = cut
    found = beside.run()
    assert (len(found.problems), found.transient) == (2, False)


def test_without_its_plan_nothing_is_reported_as_uploaded(tmp_path: Path) -> None:
    beside = Beside(tmp_path)
    (beside.outputs / "model").write_text("x")
    found = beside.run()
    assert found.files == {}
    assert "the plan" in found.problems[0]
