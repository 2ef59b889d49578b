"""Deployments: which executions they start, let go, stop and forget, and what their status says.

One pass looks at one deployment: is it without problems, which times are due, what becomes of its executions. A pass is
made when something has happened, or when the next time has come; an idle deployment costs a timer and nothing else. All
that is remembered is in the stored status and in the names of executions: a restart at any point changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from penstock.api.deployment import ConcurrencyPolicy, DeploymentSpec
from penstock.api.pipeline import PipelineSpec
from penstock.api.problems import Problem
from penstock.api.rules import deployment_problems as rule_problems
from penstock.controller.checking import deployment_problems
from penstock.controller.conditions import Condition, conditions
from penstock.controller.passes import Passes
from penstock.controller.ports import (
    Brief,
    Clock,
    Deployments,
    NewExecution,
    Refused,
    StoredDeployment,
)
from penstock.controller.queue import DirtyQueue
from penstock.controller.tokens import Access, Tokens
from penstock.engine import schedule as schedules
from penstock.engine.admission import MAX_WAITING, Active, Admission, Finished, admit, surplus
from penstock.engine.mapping import INPUT_BYTES, NotBound, bind, config_keys
from penstock.engine.schedule import Due, Mark, fire_name
from penstock.engine.sentence import sentence
from penstock.engine.status import from_timestamp, to_timestamp
from penstock.step.values import JsonObject

log = logging.getLogger(__name__)

RESULT_SECONDS: Final = 3_600
"""How long executions of endpoints are kept at least, whatever the history says: somebody may come for the results."""
MAX_RESULTS: Final = 10_000
"""How many of those at most."""
RETRY_SECONDS: Final = 30
"""When to try again what a person has to mend elsewhere: a ConfigMap, a quota."""
JUMP_SECONDS: Final = 2.0
"""What a clock may be put off by before everything is looked at again."""
CLOCK_SECONDS: Final = 30.0
"""How often the clock is looked at; once for all deployments."""
_PROBLEMS: Final = 20
_LAZY: Final = frozenset({"active", "waiting", "lastTime", "lastExecution"})
"""What people want to know, but not each time that it changes."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """Whether a deployment can start executions: the condition `Ready`, and which of kstatus' others goes with it."""

    ready: bool
    reason: str
    message: str
    beside: str = ""


@dataclass(slots=True)
class _Pass:
    """What one pass has found and done."""

    key: str
    stored: StoredDeployment
    now: float
    spec: DeploymentSpec | None = None
    pipeline: PipelineSpec | None = None
    standing: _Standing = _Standing(True, "Ready", "")
    due: Due | None = None
    access: Access | None = None
    acted: bool = False
    again_at: list[float] = field(default_factory=list)
    started: list[Brief] = field(default_factory=list)


class DeploymentController:
    """Looks after deployments.

    Args:
        deployments: where they are stored.
        clock: the time.
        quiet_seconds: how long after a write of a status the next one comes at the earliest, if it only says how many
            executions run and which was the last.
        input_bytes: bound of the values into an execution.
        workers: how many deployments are worked on at once.
        on_told: called when a deployment's condition `Ready` was written, with its key, whether it is, and why.
        on_fired: called for each execution that was made for a time of a schedule, with how late that was, in seconds.
        on_dropped: called for each execution that was due and is not made, or was cancelled to make room, with the key,
            the name and why.
    """

    def __init__(
        self,
        *,
        deployments: Deployments,
        clock: Clock,
        quiet_seconds: float = 10.0,
        input_bytes: int = INPUT_BYTES,
        workers: int = 4,
        on_told: Callable[[str, bool, str], None] | None = None,
        on_dropped: Callable[[str, str, str], None] | None = None,
        on_fired: Callable[[float], None] | None = None,
    ) -> None:
        self.queue = DirtyQueue(clock.now)
        self._deployments = deployments
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        self._input_bytes = input_bytes
        self._workers = workers
        self._on_told = on_told
        self._on_dropped = on_dropped
        self._on_fired = on_fired
        self._tokens = Tokens(deployments)
        self._written: dict[str, float] = {}
        self._passes = Passes(self.queue, clock, self.reconcile, what="deployment", on_failed=self._on_failed)

    def mark(self, key: str, *, urgent: bool = True) -> None:
        """Something has happened to a deployment or its executions; if it is not urgent, it can wait for more."""
        if urgent:
            self.queue.add(key)
        else:
            self.queue.add_at(key, self._clock.now() + self._quiet_seconds)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            Halt: nothing can go on until a person has done something.
        """
        await self._passes.run(self._workers, self._watch_clock)

    async def _watch_clock(self) -> None:
        """Look at everything again when the clock was put forward or back, or the machine has slept."""
        ahead = self._clock.now() - time.monotonic()
        while True:
            await asyncio.sleep(CLOCK_SECONDS)
            before, ahead = ahead, self._clock.now() - time.monotonic()
            if abs(ahead - before) > JUMP_SECONDS:
                self.queue.expedite()

    def _on_failed(self, key: str, message: str | None) -> None:
        if message is not None:
            log.warning("a deployment is looked at again: %s", message)

    def forget(self, key: str) -> None:
        """A deployment is gone."""
        self.queue.forget(key)
        self._tokens.forget(key)
        self._written.pop(key, None)
        self._passes.forget(key)

    async def reconcile(self, key: str) -> None:
        """One pass over one deployment.

        Raises:
            Conflict, Transient: try again.
        """
        stored = await self._deployments.load(key)
        if stored is None:
            self.forget(key)
            return
        if stored.pipeline.reading:
            return
        work = _Pass(key, stored, self._clock.now())
        self._judge(work)
        await self._open(work)
        await self._act(work)
        await self._tell(work)
        await self._clean(work)
        for at in work.again_at:
            self.queue.add_at(key, at)

    # Whether it can start executions

    def _judge(self, work: _Pass) -> None:
        stored = work.stored
        try:
            work.spec = DeploymentSpec.model_validate(stored.spec)
        except ValidationError as error:  # an object from before its definition was tightened
            said = "; ".join(f"spec.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:20])
            work.standing = _Standing(False, "InvalidDeployment", said, "Stalled")
            return
        problems = [problem for problem in rule_problems(work.spec) if problem.severity == "error"]
        if problems:
            work.standing = _invalid(problems)
            work.spec = None if any(problem.loc[:2] == ("spec", "schedule") for problem in problems) else work.spec
            return
        pipeline = stored.pipeline
        if pipeline.spec is None:
            beside = "Stalled" if pipeline.broken else "Reconciling"
            work.standing = _Standing(False, "PipelineNotReady", pipeline.problem, beside)
        elif problems := deployment_problems(pipeline.spec, work.spec):
            work.standing = _invalid(problems)
        elif stored.rival:
            message = f'spec.endpoint.path: deployment "{stored.rival}" has this path already; choose another'
            work.standing = _Standing(False, "PathTaken", message, "Stalled")
        else:
            work.pipeline = pipeline.spec
            work.standing = _standing(work.spec)

    async def _open(self, work: _Pass) -> None:
        """See to the token of an endpoint."""
        if work.spec is None or work.spec.endpoint is None:
            return
        work.access = await self._tokens.access(work.key, work.stored, work.spec, work.now)
        if work.access.wake_at is not None:
            work.again_at.append(work.access.wake_at)
        if work.access.problem and work.standing.ready:
            work.standing = _Standing(False, "TokenUnavailable", work.access.problem, "Stalled")
            work.again_at.append(work.now + RETRY_SECONDS)
        elif work.access.note and work.standing.ready:
            work.standing = _Standing(True, work.standing.reason, work.access.note)

    # What becomes of executions

    async def _act(self, work: _Pass) -> None:
        spec = work.spec
        if spec is None or work.pipeline is None:
            return
        if spec.schedule is not None:
            work.due = schedules.due(
                spec.schedule,
                suspended=spec.suspend,
                mark=_mark(work.stored.status),
                now=work.now,
                edited_at=work.stored.edited_at,
            )
            if work.due.next_at is not None:
                work.again_at.append(float(work.due.next_at))
            if work.due.clock_behind > JUMP_SECONDS:
                message = f"the clock was set back: nothing starts before {to_timestamp(work.due.mark.through)}"
                work.standing = _Standing(True, work.standing.reason, message)
        known = {each.name for each in work.stored.executions}
        at = {fire_name(work.stored.name, at): at for at in (work.due.fires if work.due else ())}
        fires = [name for name in at if name not in known]
        work.acted = bool(at)
        admission = _admission(spec, work.stored.executions, fires)
        await self._carry_out(work, admission, at)

    async def _carry_out(self, work: _Pass, admission: Admission, at: Mapping[str, int]) -> None:
        queued = {each.name for each in work.stored.executions if each.queued}
        policy = work.spec.concurrency.policy if work.spec else ConcurrencyPolicy.ALLOW
        for name in admission.cancel:
            await self._cancel(work, name, f"a newer execution took its place (concurrency {policy})")
        for drop in admission.drop:
            if drop.name in queued:
                await self._cancel(work, drop.name, drop.why)
            else:
                self._leave_out(work, drop.name, f"it was not started: {drop.why}")
        for name in admission.start:
            if name in queued:
                await self._deployments.release(work.key, name)
        new = [(name, False) for name in admission.start if name not in queued]
        new += [(name, True) for name in admission.wait if name not in queued]
        if new:
            await self._start(work, new, at)
        elif _kept_back(work.stored):
            # Nothing has shown yet that it is mended.
            work.standing = _as_before(work.stored)

    async def _cancel(self, work: _Pass, name: str, why: str) -> None:
        await self._deployments.cancel(work.key, name, why)
        self._leave_out(work, name, f"it was cancelled: {why}")

    def _leave_out(self, work: _Pass, name: str, why: str) -> None:
        if self._on_dropped is not None:
            self._on_dropped(work.key, name, why)

    async def _start(self, work: _Pass, new: Sequence[tuple[str, bool]], at: Mapping[str, int]) -> None:
        assert work.spec is not None  # noqa: S101 - for mypy
        assert work.pipeline is not None  # noqa: S101
        try:
            config = await self._deployments.config(work.key, config_keys(work.spec))
            bound = bind(work.pipeline, work.spec, {}, config, limit=self._input_bytes)
            for name, queued in new:
                pipeline = work.spec.pipeline.name
                execution = NewExecution(name, pipeline, work.stored.pipeline.revision, bound, queued, at[name])
                if not await self._deployments.create(work.key, execution):
                    self._leave_out(work, name, "it was not started: somebody else has an execution of this name")
                    continue
                if self._on_fired is not None:
                    self._on_fired(max(0.0, self._clock.now() - at[name]))
                work.started.append(Brief(name, float(int(work.now)), "schedule", queued))  # as the API server has it
        except NotBound as error:
            work.standing = _Standing(False, "InputsUnavailable", str(error), "Stalled")
        except Refused as error:
            work.standing = _Standing(False, "ExecutionRefused", str(error), "Stalled")
        if not work.standing.ready:
            # The mark stays: within its time it is tried again, and what is too late then is dropped.
            work.due = None
            work.again_at.append(work.now + RETRY_SECONDS)

    async def _clean(self, work: _Pass) -> None:
        """Delete what the history does not keep. After the status was written: a name must not be free too early."""
        if work.spec is None:
            return
        over = {each.name: each for each in work.stored.executions if each.finished_at is not None}
        finished = [Finished(each.name, each.succeeded, each.finished_at or 0.0) for each in over.values()]
        gone = surplus(finished, work.spec.history)
        for number, name in enumerate(gone):
            keep_until = (over[name].finished_at or 0.0) + RESULT_SECONDS
            many = len(gone) - number > MAX_RESULTS
            if over[name].trigger == "endpoint" and work.now < keep_until and not many:
                work.again_at.append(keep_until)
            else:
                await self._deployments.delete(work.key, name)

    # What its status says

    async def _tell(self, work: _Pass) -> None:
        status = self._status(work)
        said = work.stored.status
        changed = {name: value for name, value in status.items() if said.get(name) != value}
        if not changed:
            return
        soonest = self._written.get(work.key, 0.0) + self._quiet_seconds
        if changed.keys() <= _LAZY and not work.acted and work.now < soonest:
            work.again_at.append(soonest)
            return
        await self._deployments.save(work.key, changed)
        self._written[work.key] = work.now
        if "conditions" in changed and self._on_told is not None:
            self._on_told(work.key, work.standing.ready, work.standing.message)

    def _status(self, work: _Pass) -> dict[str, Any]:
        stored, spec = work.stored, work.spec
        executions = [*stored.executions, *work.started]
        status: dict[str, Any] = {
            "observedGeneration": stored.generation,
            "conditions": _conditions(work),
            "active": sum(1 for each in executions if each.finished_at is None and not each.queued),
            "waiting": sum(1 for each in executions if each.finished_at is None and each.queued),
        }
        newest = max(executions, key=lambda each: (each.created_at, each.name), default=None)
        if newest is not None:
            before = stored.status.get("lastTime")
            if before is None or newest.created_at >= from_timestamp(before):
                status |= {"lastTime": _to_second(newest.created_at), "lastExecution": newest.name}
        due = work.due
        if due is not None:
            mark = {"key": due.mark.key, "through": to_timestamp(due.mark.through)}
            status |= {"schedule": mark, "nextTime": None if due.next_at is None else _to_second(due.next_at)}
        elif not work.standing.ready or (spec is not None and spec.schedule is None):
            status["nextTime"] = None
        if spec is not None:
            called = "When its endpoint is called"
            status["summary"] = sentence(spec.schedule) if spec.schedule is not None else called
            status["url"] = (stored.url or None) if spec.endpoint is not None else None
            if spec.endpoint is None:
                status["endpoint"] = None
            elif work.access is not None and work.access.status is not None:
                status["endpoint"] = dict(work.access.status)
            if spec.schedule is None:
                status["schedule"] = None
        return status


def _admission(spec: DeploymentSpec, executions: Sequence[Brief], fires: Sequence[str]) -> Admission:
    unfinished = [each for each in executions if each.finished_at is None]
    unfinished.sort(key=lambda each: (each.created_at, each.name))
    active = [Active(each.name, each.stopping) for each in unfinished if not each.queued]
    queued = [each.name for each in unfinished if each.queued and not each.stopping]
    # Of those that somebody has asked for, only a queue has promised anything.
    promised = len(queued) if spec.concurrency.policy is ConcurrencyPolicy.ALLOW else 0
    promised = MAX_WAITING if spec.concurrency.policy is ConcurrencyPolicy.QUEUE else promised
    return admit(
        spec.concurrency,
        active=active,
        waiting=queued[:promised],
        due=[*queued[promised:], *fires],
        suspended=spec.suspend,
    )


def _standing(spec: DeploymentSpec) -> _Standing:
    if spec.suspend:
        return _Standing(True, "Suspended", "nothing is started until it is resumed")
    if spec.schedule is not None:
        return _Standing(True, "Scheduled", "executions are started when they are due")
    return _Standing(True, "Serving", "its endpoint can be called")


def _invalid(problems: Sequence[Problem]) -> _Standing:
    message = "; ".join(problem.sentence() for problem in problems[:_PROBLEMS])
    return _Standing(False, "InvalidDeployment", message, "Stalled")


def _kept_back(stored: StoredDeployment) -> bool:
    """Whether the last execution that was due could not be made, and nothing has been changed since."""
    ready = _condition(stored, "Ready")
    wanted = {"InputsUnavailable", "ExecutionRefused"}
    return ready.get("reason") in wanted and ready.get("observedGeneration") == stored.generation


def _as_before(stored: StoredDeployment) -> _Standing:
    ready = _condition(stored, "Ready")
    return _Standing(False, str(ready["reason"]), str(ready.get("message", "")), "Stalled")


def _condition(stored: StoredDeployment, kind: str) -> Mapping[str, Any]:
    found = stored.status.get("conditions") or ()
    return next((each for each in found if each["type"] == kind), {})


def _conditions(work: _Pass) -> list[JsonObject]:
    """As kstatus has them: Ready, and beside it Reconciling or Stalled where it is not."""
    standing = work.standing
    wanted = [Condition("Ready", standing.ready, standing.reason, standing.message)]
    if standing.beside:
        wanted.append(Condition(standing.beside, True, standing.reason, standing.message))
    stored = work.stored
    said = stored.status.get("conditions") or ()
    return conditions(wanted, said, generation=stored.generation, now=work.now)


def _mark(status: JsonObject) -> Mark | None:
    told = status.get("schedule")
    return None if not told else Mark(told["key"], from_timestamp(told["through"]))


def _to_second(at: float) -> str:
    return to_timestamp(at).replace(".000Z", "Z")
