"""The words in which the engine and the layers above speak: values, observations of attempts, and plans.

Plain frozen data. Times are seconds since the epoch as floats, rounded to milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from penstock.api.execution import ExecutionOutput, ExecutionPhase
    from penstock.engine.compile import CompiledStep

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class File:
    """A file or folder in the object store.

    Attributes:
        key: where it is in the store.
        sha256: hexadecimal digest of its content (of a folder: of the sorted digests of its entries).
        size: bytes of content in all.
        folder: whether it is a folder.
    """

    key: str
    sha256: str
    size: int
    folder: bool = False


Value: TypeAlias = "Json | File | list[File | None]"
"""What an input or output holds: JSON, a file, or the files of a fan-out in item order."""


class TaskId(NamedTuple):
    """The thing that has attempts: a step (`index` -1), or one item of a fan-out (`index` from 0)."""

    step: str
    index: int = -1  # type: ignore[assignment]  # hides tuple.index, which nobody misses here


class AttemptId(NamedTuple):
    """One try of a task; `attempt` counts from 1."""

    step: str
    index: int  # type: ignore[assignment]
    attempt: int

    @property
    def task(self) -> TaskId:
        """The task that this is a try of."""
        return TaskId(self.step, self.index)


class AttemptPhase(StrEnum):
    """Where an attempt stands, as seen from outside."""

    PENDING = "Pending"  # asked for, not running yet: queued, image being pulled, unschedulable
    RUNNING = "Running"
    ENDED = "Ended"
    LOST = "Lost"  # it was asked for and is not there: no trace of it, and none will come


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one attempt.

    Attributes:
        id: which attempt.
        phase: where it stands.
        started_at: when its command began.
        finished_at: when its command ended.
        exit_code: exit code of its command; None where there is none (never started, lost).
        reason: for an ended attempt that did not simply exit: `StepError`, `Disrupted`, `TimedOut`, `InvalidOutputs`
            or another reason of the table in `engine.reasons`. None: judged by the exit code, 0 is success.
        message: a sentence for people, for example why it is pending or what was wrong with its outputs.
        outputs: what it wrote, checked against the declarations.
    """

    id: AttemptId
    phase: AttemptPhase
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    reason: str | None = None
    message: str | None = None
    outputs: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Asks for an attempt. Doing it twice is the same as doing it once.

    Attributes:
        id: which attempt.
        step: the compiled step: command, outputs, environment, resources (`step.settings`).
        image: the image, from `image` or evaluated from `imageFrom`; None where the manifest gives none.
        inputs: the values of the step's inputs by name.
        timeout_seconds: how long the attempt may run.
    """

    id: AttemptId
    step: CompiledStep
    image: str | None
    inputs: Mapping[str, Value]
    timeout_seconds: int | None


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Asks that an attempt be ended. Doing it twice is the same as doing it once.

    Attributes:
        id: which attempt.
        reason: why: `TimedOut`, `Cancelled` or another reason of the table.
    """

    id: AttemptId
    reason: str


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """An earlier success that may be reused.

    Attributes:
        fingerprint: SHA-256 of what the step is and gets, hexadecimal.
        outputs: what it gave.
        created_at: when it succeeded, seconds since the epoch.
        execution: name of the execution it was part of.
    """

    fingerprint: str
    outputs: Mapping[str, Value]
    created_at: float
    execution: str


@dataclass(frozen=True, slots=True)
class Request:
    """What the person who owns an execution asks of it, from its spec.

    Attributes:
        inputs: values for the pipeline's inputs (files already resolved).
        cancel: whether it is to be cancelled.
        suspend: whether nothing new is to be started.
        timeout_seconds: its own time limit.
        outputs: where its outputs go that are not just kept.
    """

    inputs: Mapping[str, Value] = field(default_factory=dict)
    cancel: bool = False
    suspend: bool = False
    timeout_seconds: int | None = None
    outputs: Sequence[ExecutionOutput] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an execution is; expressions see it as `execution.name`, `.uid` and `.namespace`."""

    name: str
    uid: str
    namespace: str = "default"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that hold for every execution; settings of the operator may change them.

    Attributes:
        input_bytes: bound of the values into an execution, as compact JSON in UTF-8, files exempt.
        output_bytes: the same for the values out of it.
        step_output_bytes: bound of the values that one attempt may give.
        status_bytes: bound of all step outputs that an execution holds at once; keeps its object within what the
            API server stores (1.5 MiB).
        object_bytes: bound of the values into an execution, of all step outputs and of the values out of it together:
            they are stored in one object.
        disruptions: how often an attempt that the platform ended is tried again.
        disruption_delay_seconds: wait before such a retry, doubled each time up to 300.
    """

    input_bytes: int = 60_000
    output_bytes: int = 60_000
    step_output_bytes: int = 1_048_576
    status_bytes: int = 1_048_576
    object_bytes: int = 1_310_720
    disruptions: int = 10
    disruption_delay_seconds: int = 1


@dataclass(frozen=True, slots=True)
class Head:
    """What an execution's status holds besides its steps. See `api.execution.ExecutionStatus` for the fields."""

    phase: ExecutionPhase
    reason: str | None = None
    message: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    suspended_at: float | None = None
    suspended_seconds: float = 0.0
    finally_at: float | None = None
    outcome: str | None = None
    stopping: str | None = None
    done: int = 0
    total: int = 0
    outputs: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now, in this order: starts, one write of the status, stops, cache entries.

    The status is written before anything is stopped, so that a crash in between cannot make a stop look like a failure;
    stops are asked for again when an execution is taken up.

    Attributes:
        lookups: fingerprints to look up in the cache before anything else; when there are any, look them up and decide
            again: the rest of the plan holds all the same.
        starts: attempts to ask for.
        stops: attempts to end.
        head: the execution's own status, if it changed.
        steps: names of the steps whose own records changed.
        tasks: the items of fan-outs whose records changed.
        urgent: whether what changed is worth a write now; what is not can wait for the next write, or a few seconds.
        remember: successes to put into the cache.
        wake_at: when to decide again even if nothing happens; None where only events matter.
        finished: whether the execution is over.
    """

    lookups: tuple[str, ...] = ()
    starts: tuple[StartAttempt, ...] = ()
    stops: tuple[StopAttempt, ...] = ()
    head: Head | None = None
    steps: tuple[str, ...] = ()
    tasks: tuple[TaskId, ...] = ()
    urgent: bool = False
    remember: tuple[CacheEntry, ...] = ()
    wake_at: float | None = None
    finished: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is anything to write to the status."""
        return self.head is not None or bool(self.steps) or bool(self.tasks)
