"""Events for people: what `kubectl describe` and `kubectl get events` tell of executions and pipelines.

Best effort. They are told after the status was written, written by one task at a bounded rate from a bounded queue, and
nothing waits for them or depends on them: what does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock.api.execution import ExecutionPhase, StepPhase
from penstock.controller.ports import Clock
from penstock.controller.queue import DirtyQueue
from penstock.engine.reasons import Reason
from penstock.engine.state import STEP, ExecutionState, TaskState
from penstock.engine.types import Observation, TaskId
from penstock.kube.client import Client
from penstock.kube.errors import AlreadyExists, ApiError, NotFound
from penstock.kube.resources import EVENTS_V1, ObjectId
from penstock.kube.settings import Events
from penstock.step.values import JsonObject

log = logging.getLogger(__name__)

CONTROLLER = "penstock.dev/operator"
NOTE_BYTES = 1_024
"""What the API server takes as a note."""
_INSTANCE = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be written.

    Attributes:
        kept: events that wait or may still be repeated; what comes when there are as many is dropped.
        per_second: writes a second in the long run.
        burst: writes that may be made at once after a quiet time.
        repeat_seconds: how long a repetition waits at least, to be counted together with those that follow.
        series_seconds: what comes so long after the last repetition is a new event.
    """

    kept: int = 1_000
    per_second: float = 10.0
    burst: int = 50
    repeat_seconds: float = 30.0
    series_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling.

    Attributes:
        reason: what, in one CamelCase word.
        action: what was done or tried, in one CamelCase word.
        note: for people.
        warning: whether something is wrong.
        subject: the part of the object that it is about, a step for example: of others it is no repetition.
    """

    reason: str
    action: str
    note: str
    warning: bool = False
    subject: str = ""


@dataclass(slots=True)
class _Series:
    """An event and its repetitions.

    Attributes:
        regarding: what it is about.
        event: as it was first.
        first: when it was first.
        last: when it was last.
        count: how often it was.
        written: the count that is written; 0: it is not there yet.
    """

    regarding: ObjectId
    event: Event
    first: float
    last: float
    count: int = 1
    written: int = 0

    @property
    def name(self) -> str:
        """Name of the object, the same however often its creation is tried."""
        made_of = f"{self.regarding.uid} {self.event.reason} {self.event.subject} {self.first}"
        return f"{self.regarding.name[:200].rstrip('-.')}.{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"


class Recorder:
    """Writes events.

    Args:
        client: the REST client.
        clock: the time.
        instance: who reports: this replica.
        which: which events are written.
        on_outcome: called with `written`, `failed` or `dropped` for every event and repetition.
        limits: how much may be written.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        instance: str,
        which: Events,
        on_outcome: Callable[[str], None],
        limits: Limits | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._instance = instance[:_INSTANCE]
        self._which = which
        self._on_outcome = on_outcome
        self._limits = limits or Limits()
        self._series: dict[str, _Series] = {}
        self._queue = DirtyQueue(clock.now)
        self._tokens = float(self._limits.burst)
        self._filled_at = clock.now()

    def tell(self, regarding: ObjectId, event: Event) -> None:
        """Have an event written some time soon, or dropped. Never waits and never raises."""
        if self._which is Events.NONE or (self._which is Events.WARNINGS and not event.warning):
            return
        now = self._clock.now()
        key = f"{regarding.uid} {event.reason} {event.subject}"
        series = self._series.get(key)
        if series is not None and (series.written < series.count or now - series.last <= self._limits.series_seconds):
            series.count += 1
            series.last = now
            if series.written:
                self._queue.add_at(key, now + self._limits.repeat_seconds)
            return
        if series is None and len(self._series) >= self._limits.kept:
            self._forget_old(now)
            if len(self._series) >= self._limits.kept:
                self._on_outcome("dropped")
                return
        self._series[key] = _Series(regarding, event, now, now)
        self._queue.add(key)

    def _forget_old(self, now: float) -> None:
        """Make room: first what can no more be repeated, then the oldest of what is written."""
        written = [key for key, series in self._series.items() if series.written == series.count]
        old = [key for key in written if now - self._series[key].last > self._limits.series_seconds]
        for key in old or written[: max(1, self._limits.kept // 10)]:
            del self._series[key]

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            await self._queue.work(self._write)
        finally:
            self._queue.close()

    async def _write(self, key: str) -> None:
        series = self._series.get(key)
        if series is None or series.written == series.count:
            return
        await self._turn()
        count = series.count
        try:
            await self._send(series)
        except ApiError as error:
            log.info("an event was not written: %s", error)
            self._series.pop(key, None)
            self._on_outcome("failed")
            return
        series.written = count
        if series.count > count:  # while it was written
            self._queue.add_at(key, self._clock.now() + self._limits.repeat_seconds)
        self._on_outcome("written")

    async def _turn(self) -> None:
        """Wait until the rate allows one more write."""
        while True:
            now = self._clock.now()
            gained = max(0.0, now - self._filled_at) * self._limits.per_second
            self._tokens, self._filled_at = min(float(self._limits.burst), self._tokens + gained), now
            if self._tokens >= 1:
                self._tokens -= 1
                return
            await asyncio.sleep((1 - self._tokens) / self._limits.per_second)

    async def _send(self, series: _Series) -> None:
        where = series.regarding.namespace
        if series.written:
            try:
                await self._client.patch(EVENTS_V1, series.name, where, {"series": _repeated(series)})
            except NotFound:
                # The API server forgets events after an hour: those that are told of now begin anew.
                series.first, series.count, series.written = series.last, 1, 0
                await self._create(series)
            return
        await self._create(series)

    async def _create(self, series: _Series) -> None:
        about, event = series.regarding, series.event
        body: JsonObject = {
            "metadata": {"name": series.name, "namespace": about.namespace},
            "eventTime": _micro_time(series.first),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": about.resource.api_version,
                "kind": about.resource.kind,
                "namespace": about.namespace,
                "name": about.name,
                "uid": about.uid,
            },
            "reason": event.reason,
            "action": event.action,
            "note": _clipped(event.note),
            "type": "Warning" if event.warning else "Normal",
        }
        if series.count > 1:
            body["series"] = _repeated(series)
        try:
            await self._client.create(EVENTS_V1, body)
        except AlreadyExists:
            return  # our own, the answer was lost


def _repeated(series: _Series) -> JsonObject:
    return {"count": series.count, "lastObservedTime": _micro_time(series.last)}


def _micro_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _clipped(note: str) -> str:
    raw = note.encode("utf-8", "replace")
    if len(raw) <= NOTE_BYTES:
        return raw.decode()
    return raw[: NOTE_BYTES - 4].decode("utf-8", "ignore") + " …"


# What is worth telling


def of_pass(state: ExecutionState, changed: Sequence[TaskId]) -> Iterator[Event]:
    """What a pass has brought that people should hear of. What only went well is not among it.

    Args:
        state: the execution after the pass.
        changed: the records that changed in it.
    """
    # How an execution that did not succeed ended names the step: another event would say it twice.
    told_by_end = state.head.phase.finished and state.head.phase is not ExecutionPhase.SUCCEEDED
    for task in changed:
        record = state.task(task)
        why = f"{_name(task)}: {_why(record.message, record.reason)}"
        if record.phase.failed and not told_by_end:
            yield Event(f"Step{record.phase}", "RunStep", why, True, task.step)
        elif _waits(record):
            yield Event("StepWaiting", "StartStep", why, True, task.step)


def retried(state: ExecutionState, seen: Observation) -> Event | None:
    """An attempt failed and its step is tried again; None if this one's is not."""
    task, record = seen.id.task, state.task(seen.id.task)
    if record.phase is StepPhase.RETRYING:
        why = _why(record.message, record.reason)
    elif record.attempts > seen.id.attempt:  # at once: its record is that of the next one already
        wrong = Reason.INVALID_OUTPUTS if seen.exit_code == 0 else Reason.STEP_FAILED
        why = _why(seen.message or f"exit code {seen.exit_code}", seen.reason or str(wrong))
    else:
        return None
    return Event("StepRetrying", "Retry", f"{_name(task)}: {why}; it is tried again", True, task.step)


def started(pipeline: str, revision: str) -> Event:
    """The first attempts of an execution were asked for."""
    what = f'pipeline "{pipeline}"' if pipeline else "a pipeline of its own"
    return Event("Started", "Start", f"runs {what}{f', revision {revision}' if revision else ''}")


def ended(phase: str, reason: str, message: str, progress: str) -> Event:
    """An execution is over."""
    steps = f"{progress} steps finished" if progress else "nothing was started"
    if phase == "Succeeded":
        return Event(phase, "Finish", steps)
    return Event(phase, "Finish", f"{_why(message, reason)}; {steps}", warning=phase != "Cancelled")


def pipeline_read(broken: str) -> Event:
    """A pipeline was read."""
    if broken:
        return Event(str(Reason.INVALID_PIPELINE), "Read", broken, warning=True)
    return Event("Ready", "Read", "it can be run")


def deployment_read(ready: bool, message: str) -> Event:
    """It was found out whether a deployment can start executions."""
    if ready:
        return Event("Ready", "Read", message)
    return Event("NotReady", "Read", message, warning=True)


def left_out(execution: str, why: str) -> Event:
    """An execution that was due was not started, or was cancelled for another."""
    return Event("LeftOut", "Start", f'execution "{execution}": {why}', True, execution)


def _waits(record: TaskState) -> bool:
    held_up = record.phase is StepPhase.PENDING and record.in_flight and record.reason is not None
    return held_up and record.reason != Reason.SUSPENDED


def _name(task: TaskId) -> str:
    return f'step "{task.step}"' if task.index == STEP else f'step "{task.step}", item {task.index}'


def _why(message: str | None, reason: str | None) -> str:
    if not message:
        return reason or "no reason is known"
    return f"{message} ({reason})" if reason else message
