"""What is known of one execution, with the counters and queues that keep a pass from going over all steps.

`ExecutionState` is owned by one caller, advanced by `decide`, and can be rebuilt at any time from the execution's
stored status (`status.load`). If a plan could not be carried out, throw the state away and load it again.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.api.execution import ExecutionPhase, StepPhase
from penstock.engine.compile import CompiledPipeline, CompiledStep
from penstock.engine.types import AttemptId, Head, Identity, Limits, TaskId, Value

STEP = -1
"""Index of a step's own record; items of a fan-out count from 0."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """What is known of a step (its own record) or of one item of a fan-out.

    Attributes:
        phase: where it stands.
        reason: one word of the table in `reasons`.
        message: a sentence for people.
        attempts: attempts that were asked for.
        failures: attempts that failed for reasons that count against `retry.limit`.
        disruptions: attempts that the platform ended.
        stopping: why the attempt in flight is being stopped.
        queued_at: when the first attempt was asked for.
        attempt_at: when the attempt in flight was asked for.
        started_at: when the last attempt's command began.
        finished_at: when it was over.
        retry_at: when the next attempt is due.
        exit_code: exit code of the last attempt.
        outputs: what it gave.
        item_count: for a fan-out's own record: how many items there are.
        items_finished: for a fan-out's own record: how many have finished.
    """

    phase: StepPhase = StepPhase.PENDING
    reason: str | None = None
    message: str | None = None
    attempts: int = 0
    failures: int = 0
    disruptions: int = 0
    stopping: str | None = None
    queued_at: float | None = None
    attempt_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    retry_at: float | None = None
    exit_code: int | None = None
    outputs: Mapping[str, Value] = field(default_factory=dict)
    item_count: int | None = None
    items_finished: int = 0

    @property
    def in_flight(self) -> bool:
        """Whether there is an attempt that was asked for and has not ended."""
        return self.attempt_at is not None and not self.phase.finished and self.phase is not StepPhase.RETRYING

    @property
    def unstarted(self) -> bool:
        """Whether nothing was ever done for it."""
        return self.phase is StepPhase.PENDING and self.attempts == 0


NEW = TaskState()


class ExecutionState:
    """One execution between two passes.

    Args:
        pipeline: the compiled revision.
        identity: who the execution is.
        limits: bounds that hold for it.
        code: digest of local sources, for cache fingerprints.
    """

    def __init__(
        self, pipeline: CompiledPipeline, identity: Identity, limits: Limits | None = None, code: str = ""
    ) -> None:
        self.pipeline = pipeline
        self.identity = identity
        self.limits = limits or Limits()
        self.code = code
        self.head = Head(phase=ExecutionPhase.PENDING, total=len(pipeline.steps))
        self.inputs: dict[str, Value] = {}
        self.inputs_known = False
        self.input_bytes = 0
        self.tasks: dict[TaskId, TaskState] = {}
        # All below can be derived from the above.
        self.waiting = {name: len(step.deps) for name, step in pipeline.steps.items()}
        self.items: dict[str, Sequence[Any]] = {}
        self.cursor: dict[str, int] = {}
        self.ready: list[tuple[int, str]] = []
        self.to_settle: list[str] = []
        self.active: dict[TaskId, None] = {}
        self.active_items: dict[str, int] = {}
        self.timers: list[tuple[float, TaskId]] = []
        self.open_main = len(pipeline.main)
        self.open_final = len(pipeline.finals)
        self.failed: dict[str, float] = {}
        self.value_bytes = 0
        self._changed: set[TaskId] = set()
        self._head_changed = False
        self.urgent = False

    def step(self, name: str) -> TaskState:
        """A step's own record."""
        return self.tasks.get(TaskId(name), NEW)

    def task(self, task: TaskId) -> TaskState:
        """The record of a step or item."""
        return self.tasks.get(task, NEW)

    def expected(self) -> list[AttemptId]:
        """The attempts that are in flight."""
        return [AttemptId(task.step, task.index, self.tasks[task].attempts) for task in self.active]

    def failed_steps(self, *, final: bool) -> list[str]:
        """Steps of one stage whose failure counts, the one that failed first in front."""
        names = [name for name in self.failed if self.pipeline.steps[name].final == final]
        return sorted(names, key=lambda name: (self.failed[name], self.pipeline.steps[name].position))

    def put(self, task: TaskId, *, quiet: bool = False, **changes: Any) -> TaskState:
        """Change a record and everything that is derived from it. `quiet`: alone not worth a write of its own."""
        before = self.task(task)
        after = replace(before, **changes)
        if after == before and task in self.tasks:
            return after
        self.tasks[task] = after
        self._changed.add(task)
        self.urgent = self.urgent or not quiet
        self._track_activity(task, before, after)
        if task.index == STEP and after.phase.finished and not before.phase.finished:
            self._close(task.step)
        return after

    def put_head(self, *, quiet: bool = False, **changes: Any) -> None:
        """Change the execution's own status."""
        after = replace(self.head, **changes)
        if after != self.head:
            self.head = after
            self._head_changed = True
            self.urgent = self.urgent or not quiet

    def take_changes(self) -> tuple[bool, list[TaskId], bool]:
        """Whether the head changed, which records changed, and whether that is worth a write; starts afresh."""
        in_order = sorted(self._changed, key=lambda task: (task.step, task.index < 0, task.index))
        changes = self._head_changed, in_order, self.urgent
        self._changed = set()
        self._head_changed = self.urgent = False
        return changes

    def _track_activity(self, task: TaskId, before: TaskState, after: TaskState) -> None:
        if after.in_flight and not before.in_flight:
            self.active[task] = None
            if task.index != STEP:
                self.active_items[task.step] = self.active_items.get(task.step, 0) + 1
        elif before.in_flight and not after.in_flight:
            del self.active[task]
            if task.index != STEP:
                self.active_items[task.step] -= 1
        due = self.due(task, after)
        if due is not None and due != self.due(task, before):
            heapq.heappush(self.timers, (due, task))

    def _close(self, name: str) -> None:
        """A step has finished: whoever waited for it comes nearer, counters move."""
        step = self.pipeline.steps[name]
        if step.final:
            self.open_final -= 1
        else:
            self.open_main -= 1
        for dependant in self.pipeline.dependants[name]:
            self.waiting[dependant] -= 1
            if self.waiting[dependant] == 0:
                self.to_settle.append(dependant)
        self.put_head(done=self.head.done + 1)

    def due(self, task: TaskId, state: TaskState | None = None) -> float | None:
        """When something must be done about a record even if nothing happens: its retry, or its attempt's deadline."""
        state = state or self.task(task)
        if state.phase is StepPhase.RETRYING:
            return state.retry_at
        timeout = self.compiled(task).spec.timeout_seconds
        if state.phase is StepPhase.RUNNING and state.in_flight and timeout is not None and state.stopping is None:
            return (state.started_at or state.attempt_at or 0.0) + timeout
        return None

    def compiled(self, task: TaskId) -> CompiledStep:
        """The step that a record belongs to."""
        return self.pipeline.steps[task.step]

    def due_tasks(self, now: float) -> list[TaskId]:
        """The records whose time has come, earliest first; they stay on the heap until their record changes."""
        found: list[TaskId] = []
        kept: list[tuple[float, TaskId]] = []
        while self.timers and self.timers[0][0] <= now:
            at, task = heapq.heappop(self.timers)
            if self.due(task) == at:
                found.append(task)
                kept.append((at, task))
        for entry in kept:
            heapq.heappush(self.timers, entry)
        return list(dict.fromkeys(found))

    def next_due(self, now: float) -> float | None:
        """The earliest time in the future at which a record needs attention."""
        later: list[tuple[float, TaskId]] = []
        try:
            while self.timers:
                at, task = self.timers[0]
                if self.due(task) != at:
                    heapq.heappop(self.timers)
                elif at <= now:  # due, but for want of room or because of a suspension not dealt with yet
                    later.append(heapq.heappop(self.timers))
                else:
                    return at
            return None
        finally:
            for entry in later:
                heapq.heappush(self.timers, entry)
