"""Executions that an API server has, filtered, sorted and paged as a history does it: where there is no history.

Each page costs a list of all objects of the namespace, so there is a bound on how many that may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.api.labels import CREATED_BY, DEPLOYMENT, TRIGGER
from penstock.engine.status import from_timestamp
from penstock.gateway.problems import Problem
from penstock.step.values import JsonObject
from penstock.storage.history.cursors import cursor, read_cursor
from penstock.storage.history.filters import BadQuery, Filter, LabelOp, LabelRule, Sort, SortKey
from penstock.storage.history.records import NOT_YET, Page

MAX_OBJECTS: Final = 10_000
"""Executions of a namespace that are looked through for one answer."""
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Known:
    """What is asked for of an execution. Moments and durations are milliseconds."""

    uid: str
    name: str
    labels: JsonObject
    pipeline: str
    phase: str
    created_by: str
    created: int
    started: int
    ended: int
    body: JsonObject

    @property
    def duration(self) -> int:
        """How long it took."""
        return NOT_YET if NOT_YET in {self.started, self.ended} else max(0, self.ended - self.started)


def known(body: JsonObject) -> Known:
    """What is asked for of an object."""
    meta, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    return Known(
        uid=meta["uid"],
        name=meta["name"],
        labels=meta.get("labels") or {},
        pipeline=(spec.get("pipeline") or {}).get("name", ""),
        phase=status.get("phase") or "Pending",
        created_by=(meta.get("annotations") or {}).get(CREATED_BY, ""),
        created=_milliseconds(meta.get("creationTimestamp")),
        started=_milliseconds(status.get("startedAt")),
        ended=_milliseconds(status.get("finishedAt")),
        body=brief(body),
    )


def shown(body: JsonObject) -> JsonObject:
    """An object without what only its managers read."""
    meta = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    if _LAST_APPLIED in (meta.get("annotations") or {}):
        meta["annotations"] = {key: value for key, value in meta["annotations"].items() if key != _LAST_APPLIED}
    return {**body, "metadata": meta}


def brief(body: JsonObject) -> JsonObject:
    """An execution as it stands in lists: without its steps and without a pipeline written in place."""
    found: dict[str, Any] = dict(shown(body))
    for part, name in (("spec", "pipelineSpec"), ("status", "steps")):
        if name in (found.get(part) or {}):
            found[part] = {key: value for key, value in found[part].items() if key != name}
    return found


def bounded(found: Sequence[object]) -> None:
    """Refuse to look through more than there may be.

    Raises:
        Problem: there are more.
    """
    if len(found) > MAX_OBJECTS:
        raise Problem(
            422,
            "TooMany",
            f"this namespace has more than {MAX_OBJECTS} executions, and no history is kept that could be asked; "
            "ask for fewer with `labels`, which the cluster itself looks for, or set PENSTOCK_HISTORY_URL",
        )


def page(found: Iterable[Known], wanted: Filter, sort: Sort, limit: int, after: str | None) -> Page[JsonObject]:
    """A page of them; see `History.list`.

    Raises:
        Problem: the cursor is none.
    """
    order = f"l.{sort.key.value}"
    last = None if after is None else place(after, order, sort.descending, text=sort.key is SortKey.NAME)

    def key(each: Known) -> tuple[Any, str]:
        return getattr(each, sort.key.value), each.uid

    mine = sorted((each for each in found if matches(each, wanted)), key=key, reverse=sort.descending)
    if last is not None:
        mine = [each for each in mine if (key(each) < last if sort.descending else key(each) > last)]
    more = cursor(order, sort.descending, *key(mine[limit - 1])) if len(mine) > limit else None
    return Page([each.body for each in mine[:limit]], more)


def matches(each: Known, wanted: Filter) -> bool:
    """Whether a filter holds."""
    named = (
        (each.pipeline, wanted.pipelines),
        (each.labels.get(DEPLOYMENT, ""), wanted.deployments),
        (each.labels.get(TRIGGER) or "run", wanted.triggers),
        (each.phase, wanted.phases),
        (each.created_by, wanted.created_by),
    )
    return (
        all(values is None or value in values for value, values in named)
        and each.name.startswith(wanted.name_prefix or "")
        and _between(each.created, wanted.created_from, wanted.created_to)
        and _between(each.ended, wanted.finished_from, wanted.finished_to)
        and all(label_holds(each.labels, rule) for rule in wanted.labels)
    )


def label_holds(labels: JsonObject, rule: LabelRule) -> bool:
    """Whether a rule holds of an object with these labels."""
    value = labels.get(rule.key)
    found = value is not None if rule.op in {LabelOp.EXISTS, LabelOp.MISSING} else value in rule.values
    return found is not (rule.op in {LabelOp.NE, LabelOp.NOT_IN, LabelOp.MISSING})


def _between(at: int, begin: float | None, end: float | None) -> bool:
    if begin is not None and (at == NOT_YET or at < round(begin * 1000)):
        return False
    return end is None or at < round(end * 1000)


def _milliseconds(text: str | None) -> int:
    return NOT_YET if not text else round(from_timestamp(text) * 1000)


def place(given: str, order: str, descending: bool, *, text: bool) -> tuple[Any, str]:
    """The key of a cursor: what is sorted by, which is text or a whole number, and a text that tells equals apart.

    Raises:
        Problem: it is none, or that of another order.
    """
    try:
        by, uid = read_cursor(given, order, descending, [str if text else int, str])
    except BadQuery as error:
        raise bad_cursor(error) from None
    return by, uid


def bad_cursor(error: BadQuery) -> Problem:
    """A cursor cannot be used."""
    return Problem(400, "BadCursor", f"query.{error}")
