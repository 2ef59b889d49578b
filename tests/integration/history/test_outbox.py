"""The recorder: everything gets into the history once, in order, whatever happens to the database in between."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from history_bodies import MANIFEST, NOON, a_step, an_execution, uid
from penstock.storage.history.filters import Filter, Sort
from penstock.storage.history.history import History
from penstock.storage.history.outbox import Recorder
from penstock.storage.history.records import NotAnExecution
from postgres import Server

WAIT_SECONDS = 60


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 - what changes is inside of what is tested
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _running(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _recorder(history: History, **settings: int) -> Recorder:
    return Recorder(history, lambda: NOON, first_wait=0.02, longest_wait=0.1, **settings)


async def test_what_is_noted_is_recorded_and_said_to_be(history: History) -> None:
    recorder = _recorder(history)
    recorder.note(an_execution(), revision_manifest=MANIFEST)
    assert not recorder.recorded(uid(0))
    assert recorder.lag().waiting == 1
    async with _running(recorder):
        await recorder.wait_recorded(uid(0))
    assert recorder.recorded(uid(0))
    assert recorder.lag().waiting == 0
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert found.manifest == MANIFEST


async def test_of_versions_that_wait_the_newest_is_written(history: History) -> None:
    recorder = _recorder(history)
    recorder.note(an_execution(phase="Pending"), step_inputs={"train": {"rows": 1}}, revision_manifest=MANIFEST)
    recorder.note(an_execution(phase="Succeeded"))
    recorder.note(an_execution(phase="Running"))  # an event that came late
    assert recorder.lag().waiting == 1
    async with _running(recorder):
        await recorder.wait_recorded(uid(0))
    found = await history.get("default", uid=uid(0))
    (step,) = (await history.steps()).items
    assert found is not None
    assert (found.body["status"]["phase"], found.manifest, step.inputs) == ("Succeeded", MANIFEST, {"rows": 1})


async def test_something_newer_makes_it_unrecorded_until_that_is_written(history: History) -> None:
    recorder = _recorder(history)
    async with _running(recorder):
        recorder.note(an_execution(phase="Running"))
        await recorder.wait_recorded(uid(0))
        recorder.note(an_execution())
        assert not recorder.recorded(uid(0))
        await recorder.wait_recorded(uid(0))
    assert await history.count(Filter(phases=("Succeeded",))) == 1


async def test_a_removal_is_written_after_the_end_that_was_noted_before_it(history: History) -> None:
    recorder = _recorder(history)
    recorder.note(an_execution())
    recorder.removed(uid(0), NOON + 60)
    async with _running(recorder):
        assert await recorder.drain(WAIT_SECONDS)
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert (found.deleted_at, found.body["status"]["phase"]) == (NOON + 60, "Succeeded")
    with pytest.raises(LookupError, match="was not noted"):
        await recorder.wait_recorded(uid(0))


async def test_one_that_cannot_be_recorded_keeps_nobody_else_waiting(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = _recorder(history)
    spoiled = an_execution(3)
    spoiled["metadata"]["creationTimestamp"] = "soon"
    for number in range(8):
        recorder.note(spoiled if number == 3 else an_execution(number))
    async with _running(recorder):
        with pytest.raises(NotAnExecution, match="creationTimestamp"):
            await recorder.wait_recorded(uid(3))
        assert await recorder.drain(WAIT_SECONDS)
        assert [n for n in range(8) if recorder.recorded(uid(n))] == [0, 1, 2, 4, 5, 6, 7]
        assert recorder.lag().refused == 1
        assert f"execution {uid(3)} cannot be recorded" in caplog.text
        recorder.note(an_execution(3))
        await recorder.wait_recorded(uid(3))
    assert await history.count() == 8
    assert recorder.lag().refused == 0


async def test_that_one_was_removed_is_recorded_even_if_its_last_state_cannot_be(history: History) -> None:
    recorder = _recorder(history)
    await history.record(an_execution(), sequence=1)
    spoiled = an_execution()
    spoiled["spec"]["timeoutSeconds"] = "long" * 3
    spoiled["status"]["startedAt"] = "soon"
    recorder.note(spoiled)
    recorder.removed(uid(0), NOON + 9)
    async with _running(recorder):
        assert await recorder.drain(WAIT_SECONDS)
    assert await history.count(Filter(deleted=True)) == 1


async def test_what_is_forgotten_is_no_longer_known_to_be_recorded(history: History) -> None:
    recorder = _recorder(history)
    recorder.note(an_execution())
    async with _running(recorder):
        await recorder.wait_recorded(uid(0))
        recorder.forget(uid(0))
    assert not recorder.recorded(uid(0))
    assert await history.count() == 1


async def test_where_there_is_no_room_the_live_go_first_and_are_named(history: History) -> None:
    recorder = _recorder(history, most=20)
    for number in range(12):  # of size 2: an execution and its step
        recorder.note(an_execution(number, "Running" if number % 2 else "Succeeded"))
    missing = recorder.missing()
    assert missing == {uid(1), uid(3)}
    waits = asyncio.create_task(recorder.wait_recorded(uid(1)))
    async with _running(recorder):
        assert await recorder.drain(WAIT_SECONDS)
        assert not recorder.recorded(uid(1))
        assert not waits.done()
        for number in (1, 3):
            recorder.note(an_execution(number))
        await waits
        assert await recorder.drain(WAIT_SECONDS)
    assert recorder.missing() == frozenset()
    assert await history.count() == 12


async def test_a_server_that_is_killed_while_100_executions_are_recorded_has_each_exactly_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    try:
        history = await History.open(server.url(server.database()))
        recorder = _recorder(history, batch=7)
        async with _running(recorder):
            for number in range(100):
                recorder.note(an_execution(number, "Running"))
                await asyncio.sleep(0)
                if number in {30, 60}:
                    await recorder.wait_recorded(uid(number - 20))
                    await asyncio.to_thread(server.kill)
                    recorder.note(an_execution(number - 1))
                    await _until(lambda: recorder.lag().trouble != "")
                    assert not recorder.recorded(uid(number - 1))
                if number in {45, 75}:
                    await asyncio.to_thread(server.start)
                    await _until(lambda: recorder.lag().trouble == "")
            for number in range(100):
                recorder.note(an_execution(number, steps=[a_step("a"), a_step("b")], revision="iris-3"))
            for number in range(100):
                await recorder.wait_recorded(uid(number))
        found = await history.list(sort=Sort(descending=False), limit=1_000)
        assert [each.uid for each in found.items] == [uid(number) for number in range(100)]
        assert {each.body["status"]["phase"] for each in found.items} == {"Succeeded"}
        assert await history.count_steps() == 200
        told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        assert all(message.startswith("executions wait to be recorded: postgresql://") for message in told)
        assert len(told) < 20, "not once a try"
        await history.close()
    finally:
        server.close()


async def test_a_file_that_is_locked_for_a_while_gets_all_in_the_end(tmp_path: Path) -> None:
    history = await History.open(f"sqlite:///{tmp_path}/history.db?timeout=0.01")
    recorder = _recorder(history, batch=7)
    other = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
    async with _running(recorder):
        for number in range(100):
            if number == 30:
                other.execute("BEGIN IMMEDIATE")
            recorder.note(an_execution(number))
            await asyncio.sleep(0)
            if number == 60:
                await _until(lambda: recorder.lag().trouble != "")
                assert not recorder.recorded(uid(60))
                other.execute("ROLLBACK")
        for number in range(100):
            await recorder.wait_recorded(uid(number))
    other.close()
    assert await history.count() == 100
    await history.close()


async def test_what_was_not_written_when_it_ends_is_written_by_the_next(history: History) -> None:
    recorder = _recorder(history)
    async with _running(recorder):
        await asyncio.sleep(0)
        recorder.note(an_execution(0))
        await asyncio.sleep(0)  # it has begun to write
    recorder.note(an_execution(1))
    assert not await recorder.drain(0)
    async with _running(recorder):
        assert await recorder.drain(WAIT_SECONDS)
    assert await history.count() == 2


async def test_a_version_noted_by_the_next_process_is_newer(history: History) -> None:
    for now, reason in ((NOON, "first"), (NOON + 1, "second")):
        recorder = Recorder(history, lambda now=now: now)  # type: ignore[misc]
        async with _running(recorder):
            for _ in range(5):
                recorder.note(an_execution(phase="Running", reason=reason))
            await recorder.wait_recorded(uid(0))
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert found.body["status"]["reason"] == "second"
