"""What is given to a history and what it gives back. Moments are seconds since the epoch, to the millisecond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from penstock.step.values import JsonObject

_T = TypeVar("_T")

NOT_YET: Final = 2**53 - 1
"""A moment that has not come, or a duration that has not ended, where they are sorted by: in milliseconds."""
PLAIN = -1
"""The item of a step that is no fan-out."""


class NotAnExecution(ValueError):  # noqa: N818 - a fact
    """An object that cannot be recorded: it lacks what every execution has; the message names it."""


@dataclass(frozen=True, slots=True)
class Version:
    """One state of an execution, to be recorded.

    Attributes:
        body: the object as `kubectl get -o json` shows it, live or finished.
        sequence: tells older from newer states of one execution: the higher is the newer, also across restarts.
        manifest: spec of the pipeline's revision that it runs; None: not known here, or it is in the body.
        inputs: what steps were given, by step, where that is known.
    """

    body: JsonObject
    sequence: int
    manifest: JsonObject | None = None
    inputs: Mapping[str, JsonObject] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An execution in the history.

    Attributes:
        uid: its uid.
        body: the object as it was recorded, without `metadata.managedFields` and what kubectl keeps of the last apply.
            In lists also without `status.steps` and `spec.pipelineSpec`.
        sequence: that of the version that this is; a new version has a higher one.
        deleted_at: when its object was removed; None: it is there, as far as is known.
        manifest: spec of the pipeline that it runs; None in lists, and where it is not known.
    """

    uid: str
    body: JsonObject
    sequence: int
    deleted_at: float | None = None
    manifest: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step of an execution in the history.

    Attributes:
        id: a UUID made from the execution's uid and the step's name.
        execution: uid of its execution.
        namespace: namespace of its execution.
        position: its place among the steps, from 0.
        status: its entry of `status.steps`, with the items that stand in it.
        inputs: what it was given, by name; None: not known.
    """

    id: str
    execution: str
    namespace: str
    position: int
    status: JsonObject
    inputs: JsonObject | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a step or item.

    Attributes:
        step: name of the step.
        item: index of the item; -1: the step is no fan-out.
        number: counts from 1.
        status: the entry of the step or item while this was its attempt, as it was last seen; `Retrying` is one that
            failed. None: it was over before it was seen.
    """

    step: str
    item: int
    number: int
    status: JsonObject | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a step recorded. The same one twice is one.

    Attributes:
        execution: uid of the execution.
        step: name of the step.
        name: what it measures, for example `loss`.
        value: the number; may be NaN or infinite.
        at: when.
        number: how far the step was, for example the epoch.
        item: index of the item of a fan-out; -1: the step is none.
    """

    execution: str
    step: str
    name: str
    value: float
    at: float
    number: int = 0
    item: int = PLAIN


@dataclass(frozen=True, slots=True)
class Page(Generic[_T]):
    """Some of what was asked for.

    Attributes:
        items: in the order that was asked for.
        after: give it to the next call to get what comes next; None: there is no more.
    """

    items: Sequence[_T]
    after: str | None = None
