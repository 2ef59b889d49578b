"""The reconcile loop: take a dirty key, gather what is known, decide, apply, look again when it is time.

The controller keeps each live execution's state between passes, so that a pass costs what has changed. Whenever a plan
could not be carried out as a whole, that state is dropped and loaded again: a restart at any point changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.api.problems import InvalidManifest
from penstock.controller.passes import Passes
from penstock.controller.ports import (
    Attempts,
    CacheStore,
    Clock,
    Executions,
    Loaded,
    Publisher,
)
from penstock.controller.publishing import handed_on
from penstock.controller.queue import DirtyQueue, Turn
from penstock.engine.compile import CompiledPipeline, compile_pipeline
from penstock.engine.decide import Snapshot, decide
from penstock.engine.reasons import Reason
from penstock.engine.state import ExecutionState
from penstock.engine.status import load
from penstock.engine.types import (
    AttemptId,
    AttemptPhase,
    CacheEntry,
    Limits,
    Observation,
    Plan,
    Request,
    StartAttempt,
    StopAttempt,
    TaskId,
)

_FLUSHES_PER_SECOND = 50
"""How many writes a second may go to what is not worth one of its own: the more executions run, the longer it waits."""

_OVER = frozenset({AttemptPhase.ENDED, AttemptPhase.LOST})


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Make calls that do not depend on each other at once; adapters bound how many are under way."""
    waiting = list(calls)
    if len(waiting) == 1:
        await waiting[0]
    elif waiting:
        results = await asyncio.gather(*waiting, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def until_one_ends(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait until the first of tasks ends, raise what it raised, and cancel the others in any case."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Held:
    """A live execution between passes, with what has not been written yet because it is not urgent."""

    state: ExecutionState
    request: Request
    head: bool = False
    steps: dict[str, None] = field(default_factory=dict)
    tasks: dict[TaskId, None] = field(default_factory=dict)
    flush_at: float | None = None


@dataclass(slots=True)
class _Work:
    """What one pass is to do, gathered over the rounds that cache look-ups need."""

    starts: list[StartAttempt] = field(default_factory=list)
    stops: list[StopAttempt] = field(default_factory=list)
    remember: list[CacheEntry] = field(default_factory=list)
    ended: list[AttemptId] = field(default_factory=list)
    changed: dict[TaskId, None] = field(default_factory=dict)
    urgent: bool = False
    plan: Plan = field(default_factory=Plan)


class Controller:
    """Brings executions forward.

    Args:
        executions: where executions are stored.
        attempts: what runs attempts.
        cache: earlier successes.
        publisher: takes files to the data store; None: nobody does.
        clock: time.
        limits: bounds that hold for every execution.
        quiet_seconds: how long a change that is not worth a write of its own may wait for one; longer while many run.
        workers: how many executions are worked on at once.
        on_pass: called after each pass of an execution with its key, its state and the records that changed.
        on_ended: called after a pass, before `on_pass`, with the same key and state and what was seen of attempts that
            ended: of one that is tried again at once the records say nothing.
        on_finished: called once for each execution that has finished, after its status was written.
        on_trouble: called when a pass failed and will be repeated, with the key and what to tell people.
        on_taken: called before each pass, by the task that makes it, with the key and the seconds it waited for it.
        on_timed: called after each pass with the seconds it took, failed or not.
    """

    def __init__(
        self,
        *,
        executions: Executions,
        attempts: Attempts,
        cache: CacheStore,
        clock: Clock,
        publisher: Publisher | None = None,
        limits: Limits | None = None,
        quiet_seconds: float = 2.0,
        workers: int = 8,
        on_pass: Callable[[str, ExecutionState, Sequence[TaskId]], None] | None = None,
        on_ended: Callable[[str, ExecutionState, Sequence[Observation]], None] | None = None,
        on_finished: Callable[[str], None] | None = None,
        on_trouble: Callable[[str, str], None] | None = None,
        on_taken: Callable[[str, float], None] | None = None,
        on_timed: Callable[[float], None] | None = None,
    ) -> None:
        self.executions = executions
        self.attempts = attempts
        self.cache = cache
        self.publisher = publisher
        self.clock = clock
        self.limits = limits or Limits()
        self.quiet_seconds = quiet_seconds
        self.workers = workers
        self.queue = DirtyQueue(clock.now, on_taken)
        self._held: dict[str, Held] = {}
        self._compiled: dict[str, CompiledPipeline] = {}
        self._passes = Passes(self.queue, clock, self._timed, what="execution", on_failed=self._on_failed)
        self._on_pass = on_pass
        self._on_ended = on_ended
        self._on_finished = on_finished
        self._on_trouble = on_trouble
        self._on_timed = on_timed

    def mark(self, key: str, turn: Turn = Turn.NEXT) -> None:
        """Something may have happened to an execution: look at it when it is its turn."""
        self.queue.add(key, turn)

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            Halt: nothing can go on until a person has done something.
        """
        await self._passes.run(self.workers)

    async def _timed(self, key: str) -> None:
        began = time.perf_counter()
        try:
            await self.reconcile(key)
        finally:
            if self._on_timed is not None:
                self._on_timed(time.perf_counter() - began)

    def _on_failed(self, key: str, message: str | None) -> None:
        self._held.pop(key, None)
        if message is not None and self._on_trouble is not None:
            self._on_trouble(key, message)

    async def reconcile(self, key: str) -> None:
        """One pass over one execution: gather, decide, apply."""
        gathered = await self._gather(key)
        if gathered is None:
            await self.attempts.forget(key)
            self._forget(key)
            return
        held, observations = gathered
        work = await self._decide(held, observations)
        await self._apply(key, held, work)
        if work.ended and self._on_ended is not None:
            ended = [seen for seen in observations if seen.phase in _OVER]
            self._on_ended(key, held.state, ended)
        if self._on_pass is not None:
            self._on_pass(key, held.state, list(work.changed))
        if work.plan.finished:
            await self.attempts.forget(key)
            self._forget(key)
            if self._on_finished is not None:
                self._on_finished(key)
            return
        self._schedule(key, held, work.plan)

    def _schedule(self, key: str, held: Held, plan: Plan) -> None:
        if plan.wake_at is not None:
            self.queue.add_at(key, plan.wake_at)
        if held.flush_at is not None:
            # Under load most of these writes never happen: what comes next is written with what it was about.
            self.queue.add_at(key, held.flush_at, Turn.LAST)

    def _forget(self, key: str) -> None:
        self._held.pop(key, None)
        self._passes.forget(key)
        self.queue.forget(key)

    async def _gather(self, key: str) -> tuple[Held, list[Observation]] | None:
        held = self._held.get(key)
        if held is not None:
            request = await self.executions.request(key)
            if request is None:
                return None
            held.request = request
            return held, list(self.attempts.news(key))
        loaded = await self.executions.load(key)
        if loaded is None:
            return None
        try:
            compiled = self._compile(loaded)
        except InvalidManifest as error:
            await self.executions.refuse(key, str(Reason.INVALID_PIPELINE), str(error))
            if self._on_finished is not None:
                self._on_finished(key)
            return None
        state = load(compiled, loaded.identity, loaded.status, self.limits, loaded.code)
        held = Held(state, loaded.request)
        observations = [] if state.head.phase.finished else await self.attempts.recover(key, state.expected())
        self._held[key] = held
        return held, list(observations)

    def _compile(self, loaded: Loaded) -> CompiledPipeline:
        """The compiled revision; revisions are immutable, so it is compiled once."""
        compiled = self._compiled.get(loaded.revision)
        if compiled is None or (compiled.spec is not loaded.pipeline and compiled.spec != loaded.pipeline):
            compiled = compile_pipeline(loaded.pipeline)
            if loaded.revision:
                self._compiled[loaded.revision] = compiled
        return compiled

    async def _decide(self, held: Held, observations: list[Observation]) -> _Work:
        """Decide, looking up cache entries as they are asked for. News is folded in once, rounds add to the plan."""
        work = _Work(ended=[seen.id for seen in observations if seen.phase in _OVER])
        cache: dict[str, CacheEntry | None] = {}
        while True:
            plan = decide(Snapshot(held.state, held.request, observations, cache), self.clock.now())
            observations = []
            work.plan = plan
            work.starts += plan.starts
            work.stops += plan.stops
            work.remember += plan.remember
            work.urgent = work.urgent or plan.urgent
            held.head = held.head or plan.head is not None
            held.steps |= dict.fromkeys(plan.steps)
            held.tasks |= dict.fromkeys(plan.tasks)
            work.changed |= dict.fromkeys(map(TaskId, plan.steps)) | dict.fromkeys(plan.tasks)
            if not plan.lookups:
                return work
            for fingerprint in plan.lookups:
                cache[fingerprint] = await self.cache.lookup(held.state.identity.namespace, fingerprint)

    async def _apply(self, key: str, held: Held, work: _Work) -> None:
        """Starts, one write of the status, stops, cache entries: see `Plan` for why in this order."""
        await _all(self.attempts.start(key, start) for start in work.starts)
        if work.plan.finished:
            held.state.head = await handed_on(
                self.publisher, held.state.identity, held.state.head, held.request.outputs
            )
        unwritten = held.head or bool(held.steps) or bool(held.tasks)
        now = self.clock.now()
        if work.urgent or (held.flush_at is not None and now >= held.flush_at):
            head = held.state.head if held.head else None
            plan = replace(work.plan, head=head, steps=tuple(held.steps), tasks=tuple(held.tasks))
            await self.executions.save(key, plan, held.state)
            held.head, held.steps, held.tasks, held.flush_at = False, {}, {}, None
        elif unwritten and held.flush_at is None:
            held.flush_at = now + max(self.quiet_seconds, len(self._held) / _FLUSHES_PER_SECOND)
        await _all(self.attempts.stop(key, stop) for stop in work.stops)
        if work.ended:
            await self.attempts.recorded(key, work.ended)
        for entry in work.remember:
            await self.cache.remember(held.state.identity.namespace, entry)
