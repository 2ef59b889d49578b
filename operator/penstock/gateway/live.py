"""Executions that an API server has, filtered, sorted and paged as a history does it: where there is no history.

Each page costs a list of all objects of the namespace, so there is a bound on how many that may be.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.api.labels import CREATED_BY, DEPLOYMENT, TRIGGER
from penstock.engine.status import from_timestamp
from penstock.gateway.problems import Problem
from penstock.step.values import JsonObject
from penstock.storage.history.filters import Filter, LabelOp, LabelRule, Sort, SortKey
from penstock.storage.history.records import Page

MAX_OBJECTS: Final = 10_000
"""Executions of a namespace that are looked through for one answer."""
_NOT_YET: Final = 2**53 - 1
"""A moment that has not come, in milliseconds."""
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
        return _NOT_YET if _NOT_YET in {self.started, self.ended} else max(0, self.ended - self.started)


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
    place = None if after is None else read_cursor(after, order, sort.descending, text=sort.key is SortKey.NAME)

    def key(each: Known) -> tuple[Any, str]:
        return getattr(each, sort.key.value), each.uid

    mine = sorted((each for each in found if matches(each, wanted)), key=key, reverse=sort.descending)
    if place is not None:
        mine = [each for each in mine if (key(each) < place if sort.descending else key(each) > place)]
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
    if begin is not None and (at == _NOT_YET or at < round(begin * 1000)):
        return False
    return end is None or at < round(end * 1000)


def _milliseconds(text: str | None) -> int:
    return _NOT_YET if not text else round(from_timestamp(text) * 1000)


# Cursors: the key of the last object that was shown, and the order that it is a key of


def cursor(order: str, descending: bool, *key: object) -> str:
    """The cursor after an object."""
    text = json.dumps([order, descending, *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(given: str, order: str, descending: bool, *, text: bool) -> tuple[Any, str]:
    """The key of a cursor.

    Args:
        given: what was given.
        order: the order that is asked for.
        descending: whether the greatest come first.
        text: whether what is sorted by is text, else it is a number.

    Raises:
        Problem: it is none, or that of another order.
    """
    try:
        found = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    kinds = [str, bool, str if text else int, str]
    if not isinstance(found, list) or [type(each) for each in found] != kinds:
        raise bad_cursor("is no cursor that a page has given")
    if found[:2] != [order, descending]:
        raise bad_cursor("is a cursor of another order; ask for the first page of this one")
    return found[2], found[3]


def bad_cursor(what: str) -> Problem:
    """A cursor cannot be used."""
    return Problem(400, "BadCursor", f"query.after: {what}")
