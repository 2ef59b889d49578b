"""What a query of the REST API asks for, as a filter, an order and a page. Reads text; asks nobody."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from penstock.api.execution import ExecutionPhase
from penstock.gateway.problems import Problem
from penstock.storage.history.filters import Filter, LabelOp, LabelRule, Sort, SortKey

MAX_LIMIT: Final = 500
"""Objects on a page at most."""
LIMIT: Final = 100
"""Objects on a page where nobody says how many."""
MAX_VALUES: Final = 100
"""Values of one parameter."""

_AGES: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGE: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LABEL_NAME: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY: Final = rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL_NAME}"
_LABEL_VALUE: Final = rf"(?:{_LABEL_NAME})?"
_RULE: Final = re.compile(
    rf"\s*(?:(?P<missing>!)\s*)?(?P<key>{_LABEL_KEY})\s*"
    rf"(?:(?P<op>==|=|!=)\s*(?P<value>{_LABEL_VALUE})|(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*(?:,|$)"
)
_SORTS: Final = {
    "created": SortKey.CREATED,
    "started": SortKey.STARTED,
    "finished": SortKey.ENDED,
    "duration": SortKey.DURATION,
    "name": SortKey.NAME,
}


def moment(text: str, now: float) -> float:
    """A moment in seconds since the epoch.

    Args:
        text: as RFC 3339 has it, or how long ago: `90s`, `15m`, `3h`, `2d`, `1w`.
        now: seconds since the epoch.

    Raises:
        ValueError: it is neither.
    """
    if ago := _AGE.fullmatch(text):
        return now - int(ago[1]) * _AGES[ago[2]]
    if _RFC_3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except (ValueError, OverflowError):
            pass
    raise ValueError(
        "is no moment; write it as RFC 3339 has it, for example 2026-01-31T12:00:00Z (a + of a time zone as %2B), or "
        "how long ago it was, for example 2d, 3h or 15m"
    )


def label_rules(text: str) -> tuple[LabelRule, ...]:
    """The rules of a label selector, as `kubectl -l` takes it.

    Raises:
        ValueError: it is none.
    """
    found: list[LabelRule] = []
    position = 0
    while position < len(text):
        rule = _RULE.match(text, position)
        if rule is None or (rule["missing"] and (rule["op"] or rule["set"])):
            raise ValueError("is no label selector; write for example team=vision,tier!=test,stage in (a,b),gpu,!draft")
        found.append(_rule(rule))
        position = rule.end()
    return tuple(found)


def _rule(rule: re.Match[str]) -> LabelRule:
    key = rule["key"]
    if rule["set"]:
        values = tuple(each.strip() for each in rule["values"].split(","))
        if wrong := [each for each in values if not re.fullmatch(_LABEL_VALUE, each)]:
            raise ValueError(f"{wrong[0]!r} is no value of a label")
        return LabelRule(key, LabelOp.IN if rule["set"] == "in" else LabelOp.NOT_IN, values)
    if rule["op"]:
        return LabelRule(key, LabelOp.NE if rule["op"] == "!=" else LabelOp.EQ, (rule["value"],))
    return LabelRule(key, LabelOp.MISSING if rule["missing"] else LabelOp.EXISTS)


def _checked(read: Callable[[str], object]) -> AfterValidator:
    """Makes sure that a text can be read; it stays what it is."""

    def check(text: str) -> str:
        try:
            read(text)
        except ValueError as error:
            raise PydanticCustomError("text", "{said}", {"said": str(error)}) from None
        return text

    return AfterValidator(check)


Moment = Annotated[
    str,
    _checked(lambda text: moment(text, 0.0)),
    Field(description="RFC 3339, or how long ago: `2d`, `3h`.", examples=["2d", "2026-01-31T12:00:00Z"]),
]
Labels = Annotated[
    str,
    _checked(label_rules),
    Field(
        max_length=4_096, description="Label selector.", examples=["team=vision,tier!=test", "stage in (a,b),!draft"]
    ),
]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many at most.")]
After = Annotated[str, Field(max_length=4_096, description="`next` of the page before, with the same order.")]
Names = Annotated[list[Annotated[str, Field(max_length=320)]], Field(max_length=MAX_VALUES)]
NamePrefix = Annotated[str, Field(max_length=253, description="How names begin.")]


class ExecutionQuery(BaseModel):
    """Which executions, in which order, which page. What can be given several times holds if one of them does."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pipeline: Names = []
    """Names of pipelines."""
    deployment: Names = []
    """Names of deployments."""
    phase: Annotated[list[ExecutionPhase], Field(max_length=MAX_VALUES)] = []
    """Where they stand."""
    trigger: Annotated[list[Literal["endpoint", "manual", "run", "schedule"]], Field(max_length=MAX_VALUES)] = []
    """What has started them; `run` is what no deployment has."""
    created_by: Names = []
    """Who has made them."""
    labels: Labels | None = None
    name_prefix: NamePrefix | None = None
    created_since: Moment | None = None
    created_until: Moment | None = None
    finished_since: Moment | None = None
    finished_until: Moment | None = None
    sort: Literal[
        "created", "started", "finished", "duration", "name", "-created", "-started", "-finished", "-duration", "-name"
    ] = "-created"
    """By what; with `-` the greatest first. What has not come yet is after all that has."""
    limit: Limit = LIMIT
    after: After | None = None

    def order(self) -> Sort:
        """In which order."""
        return Sort(_SORTS[self.sort.removeprefix("-")], self.sort.startswith("-"))

    def filter(self, namespace: str) -> Filter:
        """Which executions of a namespace."""
        now = time.time()

        def at(text: str | None) -> float | None:
            return None if text is None else moment(text, now)

        return Filter(
            namespaces=(namespace,),
            pipelines=tuple(self.pipeline) or None,
            deployments=tuple(self.deployment) or None,
            triggers=tuple(self.trigger) or None,
            phases=tuple(each.value for each in self.phase) or None,
            created_by=tuple(self.created_by) or None,
            name_prefix=self.name_prefix,
            created_from=at(self.created_since),
            created_to=at(self.created_until),
            finished_from=at(self.finished_since),
            finished_to=at(self.finished_until),
            labels=label_rules(self.labels or ""),
        )


class ObjectQuery(BaseModel):
    """Which pipelines or deployments, by name, and which page."""

    labels: Labels | None = None
    name_prefix: NamePrefix | None = None
    limit: Limit = LIMIT
    after: After | None = None


ExecutionsAsked = Annotated[ExecutionQuery, Query()]
ObjectsAsked = Annotated[ObjectQuery, Query()]


def only(*allowed: str, of: type[BaseModel] | None = None) -> Callable[[Request], None]:
    """A check that a request has no other parameters: a misspelt filter would be none.

    Args:
        allowed: their names.
        of: whose fields are allowed too.
    """
    names = {*allowed, *(() if of is None else of.model_fields)}

    def check(request: Request) -> None:
        _refuse_others(request.query_params, names)

    return check


def _refuse_others(given: Mapping[str, Any], names: set[str]) -> None:
    if unknown := sorted(set(given) - names):
        there = f"there are: {', '.join(sorted(names))}" if names else "this takes none"
        raise Problem(422, "Invalid", f"query.{unknown[0]}: no such parameter; {there}")
