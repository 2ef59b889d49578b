"""What can be asked of a history. All fields of a filter hold at once; None stands for anything, `()` for nothing.

`where` holds what the fields cannot say: any comparison of any field, and combinations of them with and and or, so that
the query languages of other APIs (ZenML's `op:value` and `logical_operator`) can be said in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Op(StrEnum):
    """How a field is compared. Text is compared by code point; `contains`, `starts` and `ends` ignore ASCII's case."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in"
    NOT_IN = "notin"
    CONTAINS = "contains"
    STARTS = "starts"
    ENDS = "ends"


class BadQuery(ValueError):  # noqa: N818 - a fact
    """A filter, sort or cursor that cannot be; the message names it."""


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison.

    Attributes:
        field: see `Filter` and `StepFilter`, which name the fields that there are.
        op: how.
        value: text, a number or, for moments and durations, seconds; several of them for `in` and `notin`.
    """

    field: str
    op: Op
    value: str | float | bool | tuple[str | float, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of these hold."""

    parts: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of these holds."""

    parts: tuple[Clause, ...]


class LabelOp(StrEnum):
    """How a label is compared, as in Kubernetes' selectors: one that is missing is unlike any value."""

    EQ = "="
    NE = "!="
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    MISSING = "!"


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What a label must be.

    Attributes:
        key: its key.
        op: how it is compared.
        values: with what: one, several for `in` and `notin`, none for `exists` and `!`.
    """

    key: str
    op: LabelOp = LabelOp.EXISTS
    values: tuple[str, ...] = ()


Clause: TypeAlias = "Compare | AllOf | AnyOf | LabelRule"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which executions.

    Fields of `Compare`: `uid`, `namespace`, `name`, `pipeline`, `revision`, `revision_number`, `deployment`, `trigger`,
    `created_by`, `phase`, `reason`, `message`, `finished` (bool), `timeout_seconds`, and in seconds `created`,
    `started`, `ended`, `updated`, `duration`.

    Served by an index: in every order, one namespace; in the order of `created`, one label with `=`, and where one
    namespace is named, each of pipeline, deployment, phase, trigger and created_by. With them can be answered: ZenML's
    filters of runs (id, name, pipeline, status, user, created, updated, start_time, end_time, tags and metadata as
    labels, or) and Moderately's of executions (ids, pipeline ids, version ids as revisions, status and statuses).

    Attributes:
        namespaces: where they are.
        uids: their uids.
        pipelines: names of their pipelines.
        revisions: names of their pipelines' revisions, for example `iris-3`.
        deployments: names of their deployments; an empty name is none.
        triggers: what has started them: `schedule`, `endpoint`, `manual` or `run`.
        phases: where they stand.
        created_by: who made them.
        name_prefix: how their names begin.
        created_from: when they were created at the earliest, seconds since the epoch.
        created_to: before when they were created.
        finished_from: when they were over at the earliest; leaves out those that are not.
        finished_to: before when they were over.
        labels: all these must hold.
        deleted: whether their objects were removed.
        where: what must hold besides.
    """

    namespaces: tuple[str, ...] | None = None
    uids: tuple[str, ...] | None = None
    pipelines: tuple[str, ...] | None = None
    revisions: tuple[str, ...] | None = None
    deployments: tuple[str, ...] | None = None
    triggers: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = None
    created_by: tuple[str, ...] | None = None
    name_prefix: str | None = None
    created_from: float | None = None
    created_to: float | None = None
    finished_from: float | None = None
    finished_to: float | None = None
    labels: tuple[LabelRule, ...] = ()
    deleted: bool | None = None
    where: Clause | None = None


@dataclass(frozen=True, slots=True)
class StepFilter:
    """Which steps.

    Fields of `Compare`: `id`, `execution`, `namespace`, `name`, `phase`, `reason`, `message`, `attempts`, `exit_code`,
    `cached` (bool), and in seconds `created` (when it was asked for), `started`, `ended`, `duration`.

    Answers ZenML's filters of steps: id, name, status, created, start_time, end_time, pipeline_run_id, and or.

    Attributes:
        namespaces: where their executions are.
        executions: uids of their executions.
        ids: their ids.
        names: their names.
        phases: where they stand.
        created_from: when they were asked for at the earliest.
        created_to: before when they were asked for.
        cached: whether they were taken from the cache.
        where: what must hold besides.
    """

    namespaces: tuple[str, ...] | None = None
    executions: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = None
    created_from: float | None = None
    created_to: float | None = None
    cached: bool | None = None
    where: Clause | None = None


@dataclass(frozen=True, slots=True)
class MetricFilter:
    """Which metrics.

    Attributes:
        executions: uids of their executions.
        names: what they measure.
        steps: names of their steps.
        last: only the newest of each execution, step, item and name: that with the highest number.
    """

    executions: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    steps: tuple[str, ...] | None = None
    last: bool = False


class SortKey(StrEnum):
    """By what executions are sorted. What has not come yet is after all that has; ties are broken by uid.

    `created` and `name` never change: pages by them show what was there when the first was asked for exactly once,
    whatever is recorded in between. An execution that starts, or ends, in between moves in the order of the others.
    """

    CREATED = "created"
    STARTED = "started"
    ENDED = "ended"
    UPDATED = "updated"
    DURATION = "duration"
    NAME = "name"


class StepSortKey(StrEnum):
    """By what steps are sorted; ties are broken by id, those of `position` by execution first."""

    CREATED = "created"
    STARTED = "started"
    ENDED = "ended"
    DURATION = "duration"
    NAME = "name"
    POSITION = "position"


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of executions."""

    key: SortKey = SortKey.CREATED
    descending: bool = True


@dataclass(frozen=True, slots=True)
class StepSort:
    """An order of steps."""

    key: StepSortKey = StepSortKey.POSITION
    descending: bool = False
