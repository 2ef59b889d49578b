"""Writing Events for people: what the API server gets, how repetitions are counted, and what happens to too many."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock.controller.contract import SystemClock
from penstock.kube.events import NOTE_BYTES, Event, Limits, Recorder
from penstock.kube.resources import EXECUTIONS, ObjectId
from penstock.kube.settings import Events
from penstock.kube.transport import Settings

from .support import Bench, refuse

ONCE = Settings(tries=1, max_writes=1)
WRONG = Event("StepFailed", "RunStep", "exit code 3", warning=True, subject="a")
FINE = Event("Succeeded", "Finish", "3/3 steps finished")
PATH = "/apis/events.k8s.io/v1/namespaces/here/events"


@dataclass
class Running:
    """A recorder at work, and what came of its events."""

    recorder: Recorder
    bench: Bench
    outcomes: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds."""
        async with asyncio.timeout(10):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    @property
    def bodies(self) -> list[Any]:
        """What the server got."""
        return [seen.body for seen in self.bench.server.seen]


@asynccontextmanager
async def recording(
    bench: Bench, which: Events = Events.ALL, *, at_once: bool = True, **limits: Any
) -> AsyncIterator[Running]:
    """A recorder that writes (`at_once`: from the beginning, otherwise when the test has it `begin`)."""

    def on_outcome(how: str) -> None:
        running.outcomes[how] += 1
        running.changed.set()

    recorder = Recorder(bench.client(ONCE), SystemClock(), "operator-0", which, on_outcome, Limits(**limits))
    running = Running(recorder, bench)
    task = asyncio.create_task(recorder.run())
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def execution(name: str = "iris-x") -> ObjectId:
    return ObjectId(EXECUTIONS, "here", name, f"uid-of-{name}")


async def test_an_event_says_what_it_is_about_and_who_reports_it(fake: Bench) -> None:
    async with recording(fake) as running:
        running.recorder.tell(execution(), WRONG)
        await running.until(lambda: running.outcomes["written"] == 1)
    (seen,) = fake.server.seen
    assert (seen.method, seen.path) == ("POST", PATH)
    body = seen.body
    assert body["metadata"]["namespace"] == "here"
    assert body["metadata"]["name"].startswith("iris-x.")
    assert body["regarding"] == {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Execution",
        "namespace": "here",
        "name": "iris-x",
        "uid": "uid-of-iris-x",
    }
    assert (body["type"], body["reason"], body["action"], body["note"]) == (
        "Warning",
        "StepFailed",
        "RunStep",
        "exit code 3",
    )
    assert (body["reportingController"], body["reportingInstance"]) == ("penstock.dev/operator", "operator-0")
    assert "series" not in body


@pytest.mark.parametrize(
    ("which", "told"), [(Events.ALL, {"Warning", "Normal"}), (Events.WARNINGS, {"Warning"}), (Events.NONE, set())]
)
async def test_only_the_events_that_are_wanted_are_written(fake: Bench, which: Events, told: set[str]) -> None:
    async with recording(fake, which) as running:
        running.recorder.tell(execution(), FINE)
        running.recorder.tell(execution(), WRONG)
        await running.until(lambda: running.outcomes["written"] == len(told))
    assert {body["type"] for body in running.bodies} == told


async def test_repetitions_are_counted_in_the_event_that_is_there(fake: Bench) -> None:
    async with recording(fake, repeat_seconds=0.0) as running:
        running.recorder.tell(execution(), WRONG)
        await running.until(lambda: running.outcomes["written"] == 1)
        running.recorder.tell(execution(), WRONG)
        running.recorder.tell(execution(), WRONG)
        await running.until(lambda: running.outcomes["written"] == 2)
    created, repeated = fake.server.seen
    assert (repeated.method, repeated.path) == ("PATCH", f"{PATH}/{created.body['metadata']['name']}")
    assert repeated.body["series"]["count"] == 3


async def test_repetitions_before_the_first_is_written_make_one_write(fake: Bench) -> None:
    async with recording(fake) as running:
        for _ in range(1_000):
            running.recorder.tell(execution(), WRONG)
        await running.until(lambda: running.outcomes["written"] == 1)
    (body,) = running.bodies
    assert body["series"]["count"] == 1_000


async def test_another_step_another_reason_and_another_execution_are_other_events(fake: Bench) -> None:
    async with recording(fake) as running:
        running.recorder.tell(execution(), WRONG)
        running.recorder.tell(execution("other"), WRONG)
        running.recorder.tell(execution(), Event("StepRetrying", "Retry", "exit code 3", True, "a"))
        running.recorder.tell(execution(), Event("StepFailed", "RunStep", "exit code 3", True, "b"))
        await running.until(lambda: running.outcomes["written"] == 4)
    assert len({body["metadata"]["name"] for body in running.bodies}) == 4


async def test_a_burst_is_dropped_beyond_what_is_kept_and_counted(fake: Bench) -> None:
    async with recording(fake, kept=10) as running:
        for number in range(2_000):
            running.recorder.tell(execution(f"e-{number}"), WRONG)
        assert running.outcomes["dropped"] == 1_990
        await running.until(lambda: running.outcomes["written"] == 10)
        running.recorder.tell(execution("later"), WRONG)  # what is written makes room
        await running.until(lambda: running.outcomes["written"] == 11)
    assert running.outcomes["dropped"] == 1_990


async def test_no_more_is_written_at_once_than_the_rate_allows(fake: Bench) -> None:
    async with recording(fake, burst=2, per_second=0.001) as running:
        for number in range(3):
            running.recorder.tell(execution(f"e-{number}"), WRONG)
        await running.until(lambda: running.outcomes["written"] == 2)
        third = asyncio.create_task(running.until(lambda: running.outcomes["written"] == 3))
        await asyncio.wait({third}, timeout=0.1)
        assert not third.done()
        third.cancel()
    assert len(fake.server.seen) == 2


async def test_what_the_server_refuses_is_counted_and_not_tried_again(fake: Bench) -> None:
    fake.server.script = [refuse(403, "Forbidden"), refuse(500, "InternalError")]
    async with recording(fake) as running:
        running.recorder.tell(execution("a"), WRONG)
        running.recorder.tell(execution("b"), WRONG)
        running.recorder.tell(execution("c"), WRONG)
        await running.until(lambda: running.outcomes.total() == 3)
    assert running.outcomes == {"failed": 2, "written": 1}
    assert len(fake.server.seen) == 3


async def test_a_repetition_of_what_the_server_has_forgotten_begins_anew(fake: Bench) -> None:
    async with recording(fake, repeat_seconds=0.0) as running:
        running.recorder.tell(execution(), WRONG)
        await running.until(lambda: running.outcomes["written"] == 1)
        fake.server.script = [refuse(404, "NotFound")]
        running.recorder.tell(execution(), WRONG)
        await running.until(lambda: running.outcomes["written"] == 2)
    assert [seen.method for seen in fake.server.seen] == ["POST", "PATCH", "POST"]
    assert running.bodies[0]["metadata"]["name"] != running.bodies[2]["metadata"]["name"]


async def test_a_long_note_is_cut_to_what_the_server_takes_at_a_whole_character(fake: Bench) -> None:
    async with recording(fake) as running:
        running.recorder.tell(execution(), Event("StepFailed", "RunStep", "é" * 2_000, warning=True))
        await running.until(lambda: running.outcomes["written"] == 1)
    note = running.bodies[0]["note"]
    assert len(note.encode()) <= NOTE_BYTES
    assert note.startswith("éé")
    assert note.endswith(" …")
