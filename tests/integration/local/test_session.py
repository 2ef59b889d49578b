"""Whole executions on this machine: real processes, a real database, penstock killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.api.execution import Execution
from penstock.api.pipeline import PipelineSpec
from penstock.local.home import HomeError, NameTaken, NotFound
from penstock.local.session import LocalSession, Settings
from penstock.local.sources import scan


@asynccontextmanager
async def opened(home: Path, *, runner: str = "process", **settings: Any) -> AsyncIterator[LocalSession]:
    """A session that is closed at the end of the block."""
    session = LocalSession(Settings(home=home, runner=runner, **settings))
    try:
        yield session
    finally:
        await session.close()


def submit(session: LocalSession, execution: Execution, spec: PipelineSpec, source: Path | None = None) -> str:
    tree = None if source is None else scan(source, session.home.root)
    return session.submit(execution, revision=session.revision("p", spec), source=tree)


async def taken_up(session: LocalSession, execution: Execution, spec: PipelineSpec) -> str | None:
    """The execution that was interrupted, if nobody runs it."""
    return await session.interrupted(execution, revision=session.revision("p", spec))


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition, not for a time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.005)


def pipeline(*steps: dict[str, Any], **spec: Any) -> PipelineSpec:
    return PipelineSpec.model_validate({"steps": list(steps), **spec})


def execution(name: str = "one", **spec: Any) -> Execution:
    return Execution.model_validate({"metadata": {"name": name}, "spec": {"pipeline": {"name": "p"}, **spec}})


async def run(tmp_path: Path, spec: PipelineSpec, *, source: Path | None = None, **request: Any) -> dict[str, Any]:
    async with opened(tmp_path / "home") as session:
        uid = submit(session, execution(**request), spec, source)
        return await asyncio.wait_for(session.run(uid), 30)


def step_of(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(step for step in found["status"]["steps"] if step["name"] == name)


def value_of(found: dict[str, Any], name: str) -> Any:
    return next(output["value"] for output in found["status"]["outputs"] if output["name"] == name)


async def test_values_and_files_travel_from_step_to_step(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "make.py").write_text(
        "import os, pathlib\n"
        "pathlib.Path(os.environ['PENSTOCK_OUTPUTS'], 'table').write_text('a,b\\n' * int(os.environ['INPUT_ROWS']))\n"
        "print('rows=' + os.environ['INPUT_ROWS'], file=open(os.environ['PENSTOCK_OUTPUT'], 'a'))\n"
    )
    spec = pipeline(
        {
            "name": "make",
            "command": ["python", "make.py"],
            "inputs": [{"name": "rows", "from": "inputs.rows"}],
            "outputs": [{"name": "table", "type": "file"}, {"name": "rows", "type": "number"}],
        },
        {
            "name": "count",
            "script": 'echo "lines=$(wc -l < "$INPUT_TABLE")" >> "$PENSTOCK_OUTPUT"',
            "inputs": [{"name": "table", "from": "steps.make.outputs.table"}],
            "outputs": [{"name": "lines", "type": "number"}],
        },
        inputs=[{"name": "rows", "type": "number", "default": 3}],
        outputs=[{"name": "lines", "type": "number", "from": "steps.count.outputs.lines"}],
    )
    found = await run(tmp_path, spec, source=source, inputs=[{"name": "rows", "value": 5}])
    assert found["status"]["phase"] == "Succeeded", found["status"]
    assert value_of(found, "lines") == 5
    assert found["status"]["revision"] == "p-1"
    assert found["metadata"]["name"] == "one"
    assert not (source / ".penstock").exists()
    key = next(output["file"]["key"] for output in step_of(found, "make")["outputs"] if output["name"] == "table")
    assert key == f"executions/{found['metadata']['uid']}/make/1/table"
    kept = tmp_path / "home" / "objects" / key.removeprefix("executions/")
    assert kept.read_text() == "a,b\n" * 5
    assert kept.stat().st_mode & 0o222 == 0, "what a step gave cannot be written any more"


@pytest.mark.parametrize(
    ("step", "phase", "reason", "words"),
    [
        (
            {"command": ["no-such-thing"]},
            "Failed",
            "StepFailed",
            ["spec.steps[s].command", "no-such-thing", "--runner"],
        ),
        ({"script": "echo oh; echo 'it broke' >&2; exit 3"}, "Failed", "StepFailed", ["it broke"]),
        ({"image": "x"}, "Error", "StepError", ["spec.steps[s]", "no command"]),
        ({"script": "x" * 131_072}, "Error", "StepError", ["spec.steps[s]", "131,072 bytes"]),
        (
            {"script": "echo n=abc >> $PENSTOCK_OUTPUT", "outputs": [{"name": "n", "type": "number"}]},
            "Failed",
            "InvalidOutputs",
            ['output "n"', "a number", "abc"],
        ),
        (
            {
                "script": "true",
                "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "token", "key": "t"}}}],
            },
            "Error",
            "StepError",
            ["spec.steps[s].env[T].valueFrom", "Secret 'token'"],
        ),
    ],
    ids=["no such program", "exit code", "image only", "script too long", "wrong type", "secret"],
)
async def test_what_goes_wrong_is_told_in_one_paragraph(
    tmp_path: Path, step: dict[str, Any], phase: str, reason: str, words: list[str]
) -> None:
    found = await run(tmp_path, pipeline({"name": "s", **step}))
    status = step_of(found, "s")
    assert (status["phase"], status["reason"]) == (phase, reason), status
    for word in words:
        assert word in status["message"]
    assert "Traceback" not in status["message"]
    assert "\n" not in status["message"]


async def test_builtins_variables_with_odd_names_and_dollar_references_reach_programs(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    spec = pipeline(
        {"name": "a", "command": ["echo", "$(WHO)", "$(HOME)"], "env": [{"name": "WHO", "value": "me"}]},
        {
            "name": "b",
            "command": [
                "python",
                "-c",
                "import os; assert os.environ['my.var'] == 'x y'; assert os.getcwd().endswith('work')",
            ],
            "env": [{"name": "my.var", "value": "x y"}],
        },
    )
    async with opened(tmp_path / "home") as session:
        uid = submit(session, execution(), spec, tmp_path / "src")
        found = await session.run(uid)
        assert found["status"]["phase"] == "Succeeded", found["status"]
        assert (tmp_path / "home" / "runs" / uid / "a" / "1" / "log").read_text() == "me $(HOME)\n"


async def test_a_cancel_stops_the_whole_process_group(tmp_path: Path) -> None:
    spec = pipeline({"name": "s", "script": "sleep 1000 & echo $! > $PENSTOCK_OUTPUTS/../pid; wait"})
    async with opened(tmp_path / "home") as session:
        uid = submit(session, execution(), spec, None)
        task = asyncio.create_task(session.run(uid))
        pid_file = tmp_path / "home" / "runs" / uid / "s" / "1" / "pid"
        await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
        session.cancel(uid)
        found = await asyncio.wait_for(task, 20)
    assert found["status"]["phase"] == "Cancelled"
    await until(lambda: not _runs(int(pid_file.read_text())))


async def test_a_step_that_has_only_just_been_started_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    spec = pipeline({"name": "broken", "script": "exit 1"}, {"name": "long", "script": "sleep 1000"})
    codes = []
    async with opened(tmp_path / "home") as session:
        for number in range(25):
            uid = submit(session, execution(f"run-{number}"), spec)
            found = await asyncio.wait_for(session.run(uid), 60)
            codes += [step.get("exitCode") for step in found["status"]["steps"] if step["name"] == "long"]
    # 137 would be SIGKILL, after SIGTERM got lost between the shell's fork and its exec.
    assert set(codes) <= {143, None}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


_PROGRAM = """
import asyncio, sys
from pathlib import Path
from penstock.api.execution import Execution
from penstock.local.session import LocalSession, Settings
async def main():
    session = LocalSession(Settings(home=Path(sys.argv[1])))
    asked = Execution.model_validate({"metadata": {"name": "one"}, "spec": {"pipeline": {"name": "p"}}})
    uid = await session.interrupted(asked, revision=session.store.revision("p"))
    await session.run(uid)
asyncio.run(main())
"""


@pytest.mark.parametrize("ends", ["while penstock is away", "after penstock is back"])
async def test_penstock_killed_in_the_middle_goes_on_and_runs_nothing_twice(tmp_path: Path, ends: str) -> None:
    gate, count = tmp_path / "gate", tmp_path / "count"
    spec = pipeline(
        {"name": "a", "script": f"echo a >> {count}"},
        {
            "name": "b",
            "dependsOn": ["a"],
            "script": f"echo b >> {count}; while [ ! -e {gate} ]; do sleep 0.02; done; "
            "echo kept > $PENSTOCK_OUTPUTS/f; echo n=7 >> $PENSTOCK_OUTPUT; echo done",
            "outputs": [{"name": "n", "type": "number"}, {"name": "f", "type": "file"}],
        },
        {"name": "c", "dependsOn": ["b"], "script": f"echo c >> {count}"},
        outputs=[{"name": "n", "type": "number", "from": "steps.b.outputs.n"}],
    )
    async with opened(tmp_path / "home") as session:
        uid = submit(session, execution(), spec, None)
    first = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(tmp_path / "home")])  # noqa: ASYNC220
    await until(lambda: count.exists() and count.read_text() == "a\nb\n")
    async with opened(tmp_path / "home") as other:
        assert await taken_up(other, execution(), spec) is None, "another process runs it"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    log = tmp_path / "home" / "runs" / uid / "b" / "1" / "log"
    if ends == "while penstock is away":
        gate.touch()
        await until(lambda: "done" in log.read_text() and "exit 0" in (log.parent / "state").read_text())
    async with opened(tmp_path / "home") as session:
        assert await taken_up(session, execution(), spec) == uid
        task = asyncio.create_task(session.run(uid))
        gate.touch()
        found = await asyncio.wait_for(task, 20)
    assert found["status"]["phase"] == "Succeeded", json.dumps(found["status"])
    assert count.read_text() == "a\nb\nc\n"
    assert value_of(found, "n") == 7
    assert step_of(found, "b")["attempts"] == 1


async def test_an_attempt_killed_with_its_shell_is_disrupted_and_tried_again(tmp_path: Path) -> None:
    marker = tmp_path / "second"
    spec = pipeline({"name": "s", "script": f"[ -e {marker} ] && exit 0; touch {marker}; sleep 1000"})
    async with opened(tmp_path / "home") as session:
        uid = submit(session, execution(), spec, None)
        task = asyncio.create_task(session.run(uid))
        await until(marker.exists)
        state = (tmp_path / "home" / "runs" / uid / "s" / "1" / "state").read_text()
        os.kill(int(state.split("pid ")[1].split()[0]), signal.SIGKILL)
        found = await asyncio.wait_for(task, 20)
    assert found["status"]["phase"] == "Succeeded"
    assert (step_of(found, "s")["attempts"], step_of(found, "s")["disruptions"]) == (2, 1)


async def test_a_fan_out_runs_no_more_at_once_than_it_may(tmp_path: Path) -> None:
    spec = pipeline(
        {
            "name": "each",
            "forEach": {"items": list(range(12))},
            "inputs": [{"name": "n", "from": "item * 2"}],
            "script": "echo n=$INPUT_N >> $PENSTOCK_OUTPUT",
            "outputs": [{"name": "n", "type": "number"}],
        },
        outputs=[{"name": "all", "type": "array", "from": "steps.each.outputs.n"}],
    )
    found = await run(tmp_path, spec)
    assert value_of(found, "all") == [n * 2 for n in range(12)]
    assert "items" not in step_of(found, "each"), "of a finished fan-out only items that did not succeed are kept"


async def test_a_cached_step_is_not_run_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    spec = pipeline({"name": "s", "script": f"echo x >> {count}", "cache": {}})
    await run(tmp_path, spec, name="first")
    found = await run(tmp_path, spec, name="second")
    assert step_of(found, "s")["phase"] == "Cached"
    assert count.read_text() == "x\n"


def test_names_revisions_and_objects(tmp_path: Path) -> None:
    async def go() -> None:
        session = LocalSession(Settings(home=tmp_path / "home"))
        spec, other = pipeline({"name": "s", "script": "true"}), pipeline({"name": "s", "script": "false"})
        assert [session.store.add_revision("p", each).number for each in (spec, other, spec)] == [1, 2, 1]
        uid = submit(session, execution(), spec, None)
        with pytest.raises(NameTaken, match=r"metadata\.name"):
            submit(session, execution(), spec, None)
        with pytest.raises(NotFound, match=r"spec.inputs\[f\].object"):
            submit(session, execution("two", inputs=[{"name": "f", "object": "no/such"}]), spec, None)
        with pytest.raises(NotFound, match="no pipeline"):
            session.store.revision("q")
        unnamed = Execution.model_validate({"metadata": {"generateName": "x-"}, "spec": {"pipeline": {"name": "p"}}})
        generated = submit(session, unnamed, spec)
        assert len(session.store.get(generated)["metadata"]["name"]) == len("x-12345")
        assert session.store.unfinished() == [uid, generated]
        await session.close()

    asyncio.run(go())


def test_a_home_of_a_newer_penstock_is_refused(tmp_path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(tmp_path / "penstock.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(HomeError, match=r"newer penstock .*99"):
        LocalSession(Settings(home=tmp_path))
