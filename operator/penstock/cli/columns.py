"""Tables of objects: their columns, ages and durations for people. Plain text; prints nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.api.labels import CREATED_BY, TRIGGER
from penstock.engine.status import duration, from_timestamp

Body = Mapping[str, Any]
Cell = Callable[[Body, float], str]

NONE = "-"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def age(text: str | None, now: float) -> str:
    """How long ago a moment was, in its largest unit: `5s`, `3m`, `2h`, `4d`."""
    if not text:
        return NONE
    seconds = max(0, int(now - from_timestamp(text)))  # the server's clock may be ahead of ours
    for size, unit, least in ((86_400, "d", 172_800), (3_600, "h", 7_200), (60, "m", 120)):
        if seconds >= least:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def took(status: Body, now: float) -> str:
    """How long something ran, or has run so far."""
    began, ended = status.get("startedAt"), status.get("finishedAt")
    if not began:
        return NONE
    return duration(max(0.0, (from_timestamp(ended) if ended else now) - from_timestamp(began)))


def condition(body: Body, kind: str) -> Body:
    """The condition of this type; empty where there is none."""
    found: Sequence[Body] = (body.get("status") or {}).get("conditions") or ()
    return next((each for each in found if each.get("type") == kind), {})


def text_of(value: object) -> str:
    """A value on one line; a dash where there is none."""
    if value is None or value == "":
        return NONE
    return _CONTROL.sub(" ", str(value)).strip() or NONE


def _at(*path: str) -> Cell:
    def cell(body: Body, now: float) -> str:
        here: Any = body
        for part in path:
            here = here.get(part) if isinstance(here, Mapping) else None
        return text_of(here)

    return cell


def _condition(kind: str, field: str) -> Cell:
    return lambda body, now: text_of(condition(body, kind).get(field))


def phase(body: Body) -> str:
    """The phase of an execution; one that nobody has looked at yet is `Pending`."""
    found = str((body.get("status") or {}).get("phase") or "Pending")
    # What was asked for and has not come about yet is what people want to know.
    return f"{found} (cancelling)" if body["spec"].get("cancel") and not finished(found) else found


def finished(found: str) -> bool:
    """Whether nothing more happens to an execution in this phase."""
    return found in {"Succeeded", "Failed", "Error", "Cancelled"}


def _age(body: Body, now: float) -> str:
    return age(body["metadata"].get("creationTimestamp"), now)


def _pipeline(body: Body, now: float) -> str:
    return text_of(
        (body["spec"].get("pipeline") or {}).get("name") or ("(inline)" if "pipelineSpec" in body["spec"] else "")
    )


def _last(body: Body, now: float) -> str:
    return age((body.get("status") or {}).get("lastTime"), now)


_NAME = ("NAME", _at("metadata", "name"))
COLUMNS: Mapping[str, Sequence[tuple[str, Cell]]] = {
    "Execution": (
        _NAME,
        ("PIPELINE", _pipeline),
        ("PHASE", lambda body, now: phase(body)),
        ("PROGRESS", _at("status", "progress")),
        ("AGE", _age),
        ("DURATION", lambda body, now: took(body.get("status") or {}, now)),
    ),
    "Pipeline": (
        _NAME,
        ("READY", _condition("Ready", "status")),
        ("REVISION", _at("status", "revision")),
        ("AGE", _age),
    ),
    "Deployment": (
        _NAME,
        ("PIPELINE", _pipeline),
        ("SCHEDULE", _at("spec", "schedule", "cron")),
        ("ENDPOINT", _at("spec", "endpoint", "path")),
        ("SUSPENDED", lambda body, now: "True" if body["spec"].get("suspend") else "False"),
        ("ACTIVE", _at("status", "active")),
        ("LAST", _last),
        ("NEXT", _at("status", "nextTime")),
        ("READY", _condition("Ready", "status")),
        ("AGE", _age),
    ),
}
_HISTORY: Sequence[tuple[str, Cell]] = (
    ("TRIGGER", lambda body, now: text_of((body["metadata"].get("labels") or {}).get(TRIGGER) or "run")),
    ("BY", _at("metadata", "annotations", CREATED_BY)),
    ("REMOVED", lambda body, now: age(body.get("deletedAt"), now)),
)
WIDE: Mapping[str, Sequence[tuple[str, Cell]]] = {
    "Execution": (
        ("REVISION", _at("status", "revision")),
        ("REASON", _at("status", "reason")),
        ("MESSAGE", _at("status", "message")),
    ),
    "Pipeline": (
        ("REASON", _condition("Ready", "reason")),
        ("DESCRIPTION", _at("spec", "description")),
        ("MESSAGE", _condition("Ready", "message")),
    ),
    "Deployment": (
        ("RULE", _at("status", "summary")),
        ("URL", _at("status", "url")),
        ("REASON", _condition("Ready", "reason")),
        ("MESSAGE", _condition("Ready", "message")),
    ),
}


def widths_of(rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide each column is, in characters."""
    return [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]


def table(rows: Sequence[Sequence[str]], *, indent: str = "", widths: Sequence[int] | None = None) -> list[str]:
    """Lines of a table whose columns are three spaces apart; the first row is its head."""
    if not rows:
        return []
    widths = widths or widths_of(rows)
    return [
        (indent + "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def object_rows(kind: str, bodies: Sequence[Body], now: float, *, wide: bool, namespaces: bool) -> list[list[str]]:
    """The table of some objects: its head, and a row for each.

    Args:
        kind: their kind.
        bodies: the objects.
        now: seconds since the epoch.
        wide: with the columns that are often too much.
        namespaces: with a first column that says where each is.
    """
    columns = [*COLUMNS[kind], *(WIDE[kind] if wide else ())]
    if namespaces:
        columns.insert(0, ("NAMESPACE", _at("metadata", "namespace")))
    rows = [[head for head, _ in columns]]
    return rows + [[cell(body, now) for _, cell in columns] for body in bodies]


def history_table(bodies: Sequence[Body], now: float) -> list[str]:
    """Lines of a table of executions that there are and were, with what has started them and who.

    Args:
        bodies: the objects; `deletedAt` says since when one is gone.
        now: seconds since the epoch.
    """
    columns = [*COLUMNS["Execution"], *_HISTORY]
    return table([[head for head, _ in columns], *([cell(body, now) for _, cell in columns] for body in bodies)])


def object_table(kind: str, bodies: Sequence[Body], now: float, *, wide: bool, namespaces: bool) -> list[str]:
    """Lines of that table; the arguments are those of `object_rows`."""
    return table(object_rows(kind, bodies, now, wide=wide, namespaces=namespaces))
