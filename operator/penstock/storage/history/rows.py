"""Rows from objects and objects from rows. Pure: no clock, no database; the same object makes the same rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from penstock.api.execution import FINISHED, ExecutionPhase, StepPhase
from penstock.api.labels import CREATED_BY, DEPLOYMENT, TRIGGER
from penstock.engine.status import to_timestamp
from penstock.step.values import JsonObject
from penstock.storage.history.records import (
    NOT_YET,
    PLAIN,
    Attempt,
    Metric,
    NotAnExecution,
    Recorded,
    RecordedStep,
    Version,
)

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_NO_DEPLOYMENT: Final = "run"

_STEP_IDS: Final = UUID("7d1f2c9e-54c0-5f0a-9c43-6b1f0a7c2e11")
"""The name space of ids of steps. It never changes: ids are kept by others."""
_LONGEST_KEY: Final = 320
"""Characters of text that an index holds: a label's key has at most so many, and PostgreSQL's pages are small."""
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")

_FINISHED_STEP: Final = frozenset(phase.value for phase in StepPhase if phase.finished)
_MOMENTS: Final = ("startedAt", "finishedAt", "suspendedAt", "finallyAt", "queuedAt", "attemptAt", "lastTransitionTime")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of one version of an execution.

    Attributes:
        execution: the row of `executions`.
        manifest: the row of `manifests`; None: it is not known.
        labels: rows of `labels`.
        steps: rows of `steps`, in their order.
        attempts: rows of `attempts`.
    """

    execution: Row
    manifest: Row | None
    labels: Sequence[Row]
    steps: Sequence[Row]
    attempts: Sequence[Row]


def milliseconds(at: float) -> int:
    """A moment in seconds as the tables have it."""
    return round(at * 1000)


def seconds(stored: int) -> float:
    """A moment of the tables in seconds."""
    return stored / 1000


def step_id(uid: str, name: str) -> str:
    """The id of a step: a UUID that follows from its execution's uid and its name."""
    return str(uuid5(_STEP_IDS, f"{uid}/{name}"))


# From objects to rows


def rows_of(version: Version) -> Rows:
    """The rows of a version.

    Raises:
        NotAnExecution: it lacks what every execution has, or holds something else there.
    """
    try:
        return _rows(version)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, NotAnExecution):
            raise
        raise NotAnExecution(f"not as an Execution is: {type(error).__name__} {error}") from error


def _rows(version: Version) -> Rows:
    body = version.body
    meta, spec = _part(body, "metadata"), _part(body, "spec")
    status = body.get("status") or {}
    uid, namespace, created = _named(meta, "uid"), _named(meta, "namespace"), _created(meta)
    manifest = spec["pipelineSpec"] if isinstance(spec.get("pipelineSpec"), dict) else version.manifest
    stored = _manifest(manifest)
    rest, columns = _divide(body, meta, spec, status)
    found_labels: Mapping[str, str] = columns["labels"] or {}
    entries: Sequence[JsonObject] = status.get("steps") or ()
    pipeline = str(_mapping(spec, "pipeline").get("name", ""))
    revision = str(status.get("revision") or "")
    phase = str(status.get("phase") or ExecutionPhase.PENDING.value)
    began, ended = _moment(status, "startedAt"), _moment(status, "finishedAt")
    deployment = found_labels.get(DEPLOYMENT, "")
    row = columns | {
        "uid": uid,
        "namespace": namespace,
        "name": _named(meta, "name"),
        "pipeline": _key(pipeline),
        "revision": _key(revision),
        "revision_number": _revision_number(pipeline, revision),
        "manifest": None if stored is None else stored["digest"],
        "deployment": _key(deployment),
        "trigger": _key(found_labels.get(TRIGGER) or _NO_DEPLOYMENT),
        "created_by": _key((columns["annotations"] or {}).get(CREATED_BY, "")),
        "phase": _key(phase),
        "reason": _key(status.get("reason") or ""),
        "message": storable(status.get("message") or ""),
        "finished": phase in FINISHED,
        "created_at": created,
        "started_at": began,
        "finished_at": ended,
        "updated_at": _updated(created, status, entries),
        "duration": _duration(began, ended),
        "timeout_seconds": spec.get("timeoutSeconds"),
        "body": rest,
        "deleted_at": None,
        "sequence": version.sequence,
    }
    return Rows(
        execution=row,
        manifest=stored,
        labels=[
            {
                "execution": uid,
                "key": _key(key),
                "value": _key(value),
                "namespace": namespace,
                "created_at": created,
            }
            for key, value in found_labels.items()
        ],
        steps=[
            _step(uid, namespace, position, entry, version.inputs.get(entry["name"]))
            for position, entry in enumerate(entries)
        ],
        attempts=list(_attempts(uid, entries)),
    )


def _divide(body: JsonObject, meta: JsonObject, spec: JsonObject, status: JsonObject) -> tuple[JsonObject, Row]:
    """The object without what has a column or table of its own, and those columns.

    An empty `steps` and `pipelineSpec` are left where there were some.
    """
    columns: Row = {
        "labels": meta["labels"] if isinstance(meta.get("labels"), dict) else None,
        "annotations": meta["annotations"] if isinstance(meta.get("annotations"), dict) else None,
        "inputs": spec["inputs"] if isinstance(spec.get("inputs"), list) else None,
        "outputs": status["outputs"] if isinstance(status.get("outputs"), list) else None,
    }
    if columns["annotations"] is not None:
        columns["annotations"] = {key: each for key, each in columns["annotations"].items() if key != _LAST_APPLIED}
    taken = {key for key, value in columns.items() if value is not None}
    rest = dict(body)
    rest["metadata"] = {key: each for key, each in meta.items() if key not in taken | {"managedFields"}}
    rest["spec"] = {key: each for key, each in spec.items() if key not in taken}
    if isinstance(spec.get("pipelineSpec"), dict):
        rest["spec"]["pipelineSpec"] = {}
    if "status" in body and isinstance(body["status"], dict):
        rest["status"] = {key: each for key, each in status.items() if key not in taken}
        if isinstance(status.get("steps"), list):
            rest["status"]["steps"] = []
    return rest, columns


def _step(uid: str, namespace: str, position: int, entry: JsonObject, inputs: JsonObject | None) -> Row:
    outputs = entry["outputs"] if isinstance(entry.get("outputs"), list) else None
    phase = str(entry.get("phase", StepPhase.PENDING.value))
    began, ended = _moment(entry, "startedAt"), _moment(entry, "finishedAt")
    return {
        "id": step_id(uid, entry["name"]),
        "execution": uid,
        "namespace": namespace,
        "position": position,
        "name": _key(entry["name"]),
        "phase": _key(phase),
        "reason": _key(entry.get("reason") or ""),
        "message": storable(entry.get("message") or ""),
        "attempts": entry.get("attempts", 0),
        "exit_code": entry.get("exitCode"),
        "cached": phase == StepPhase.CACHED.value,
        "item_count": entry.get("itemCount"),
        "items_finished": entry.get("itemsFinished"),
        "created_at": _moment(entry, "queuedAt"),
        "started_at": began,
        "finished_at": ended,
        "duration": _duration(began, ended),
        "inputs": inputs,
        "outputs": outputs,
        "entry": {key: each for key, each in entry.items() if key != "outputs" or outputs is None},
        "mark": _digest([position, entry, inputs])[:16],
    }


def _attempts(uid: str, entries: Iterable[JsonObject]) -> Iterator[Row]:
    for entry in entries:
        for item in (entry, *entry.get("items", ())):
            number = item.get("attempts", 0)
            if number > 1 or (number == 1 and item.get("phase") == StepPhase.RETRYING.value):
                kept = {key: each for key, each in item.items() if key not in {"items", "name", "index"}}
                index = PLAIN if item is entry else item["index"]
                name = _key(entry["name"])
                yield {"execution": uid, "step": name, "item": index, "attempt": number, "entry": kept}


def _manifest(manifest: JsonObject | None) -> Row | None:
    return None if manifest is None else {"digest": _digest(manifest), "manifest": manifest}


def _digest(value: object) -> str:
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _updated(created: int, status: JsonObject, entries: Sequence[JsonObject]) -> int:
    """The newest moment that an object tells of; API servers keep none of their own."""
    found = created
    for entry in (status, *status.get("conditions", ()), *entries, *(i for e in entries for i in e.get("items", ()))):
        for key in _MOMENTS:
            if entry.get(key):
                found = max(found, _moment(entry, key))
    return found


def _revision_number(pipeline: str, revision: str) -> int | None:
    digits = revision.removeprefix(f"{pipeline}-")
    return int(digits) if digits != revision and digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _part(body: JsonObject, name: str) -> JsonObject:
    found = body.get(name)
    if not isinstance(found, dict):
        raise NotAnExecution(f"{name}: is missing; every execution has it")
    return found


def _mapping(spec: JsonObject, name: str) -> JsonObject:
    found = spec.get(name)
    return found if isinstance(found, dict) else {}


def _named(meta: JsonObject, name: str) -> str:
    found = meta.get(name)
    if not isinstance(found, str) or not found:
        raise NotAnExecution(f"metadata.{name}: is missing; every execution that is stored somewhere has it")
    return _key(found)


def _created(meta: JsonObject) -> int:
    found = _named(meta, "creationTimestamp")
    try:
        return _parsed(found)
    except ValueError as error:
        raise NotAnExecution(f"metadata.creationTimestamp: {found!r} is not a moment as RFC 3339 has it") from error


def _moment(entry: JsonObject, key: str) -> int:
    text = entry.get(key)
    return _parsed(text) if text else NOT_YET


def _parsed(text: str) -> int:
    return milliseconds(datetime.fromisoformat(text).timestamp())


def _duration(began: int, ended: int) -> int:
    return NOT_YET if NOT_YET in {began, ended} else max(0, ended - began)


def storable(value: str) -> str:
    """Text for a column: databases take neither NUL nor lone surrogates. The object itself keeps them."""
    return _UNSTORABLE.sub("\ufffd", str(value))


def _key(value: str) -> str:
    return storable(value)[:_LONGEST_KEY]


# An object that was removed


def ended_by_removal(body: JsonObject, at: float) -> JsonObject:
    """An execution that was removed before it had finished: nothing runs it any more, so it is cancelled.

    Args:
        body: the object.
        at: when it was removed.
    """
    when = to_timestamp(at)
    message = "the object was deleted before it had finished"
    ended: JsonObject = {
        "phase": ExecutionPhase.CANCELLED.value,
        "reason": "Deleted",
        "message": message,
        "finishedAt": when,
    }
    status = body.get("status") or {}
    steps = [
        entry
        if entry.get("phase") in _FINISHED_STEP
        else entry | ended | {"phase": StepPhase.CANCELLED.value if entry.get("queuedAt") else StepPhase.OMITTED.value}
        for entry in status.get("steps", ())
    ]
    return body | {"status": status | ended | ({"steps": steps} if steps else {})}


# From rows to objects


def brief(row: Mapping[str, Any]) -> Recorded:
    """An execution without its steps and without a pipeline written in place."""
    body = _joined(row)
    body["spec"].pop("pipelineSpec", None)
    if "status" in body:
        body["status"].pop("steps", None)
    return _recorded(row, body, None)


def whole(row: Mapping[str, Any], manifest: JsonObject | None, step_rows: Iterable[Mapping[str, Any]]) -> Recorded:
    """An execution as it was recorded.

    Args:
        row: its row.
        manifest: its pipeline's spec, if it is known.
        step_rows: rows of its steps, in their order.
    """
    body = _joined(row)
    if "pipelineSpec" in body["spec"]:
        body["spec"]["pipelineSpec"] = manifest
    if "steps" in body.get("status", ()):
        body["status"]["steps"] = [_entry(each) for each in step_rows]
    return _recorded(row, body, manifest)


def _joined(row: Mapping[str, Any]) -> JsonObject:
    body = dict(row["body"])
    for part, names in (("metadata", ("labels", "annotations")), ("spec", ("inputs",)), ("status", ("outputs",))):
        given = {name: row[name] for name in names if row[name] is not None}
        if part in body and isinstance(body[part], dict):
            body[part] = body[part] | given
    return body


def _recorded(row: Mapping[str, Any], body: JsonObject, manifest: JsonObject | None) -> Recorded:
    deleted = None if row["deleted_at"] is None else seconds(row["deleted_at"])
    return Recorded(row["uid"], body, row["sequence"], deleted, manifest)


def _entry(row: Mapping[str, Any]) -> JsonObject:
    entry: JsonObject = row["entry"]
    return entry if row["outputs"] is None else entry | {"outputs": row["outputs"]}


def step_of(row: Mapping[str, Any]) -> RecordedStep:
    """A step from its row."""
    return RecordedStep(
        row["id"], row["execution"], row["namespace"], row["position"], status=_entry(row), inputs=row["inputs"]
    )


def attempts_of(status: JsonObject, seen: Mapping[tuple[int, int], JsonObject]) -> list[Attempt]:
    """All attempts of a step and of the items that stand in its status, in their order.

    Args:
        status: the step's entry.
        seen: attempts that were seen, by item and number.
    """
    name = status["name"]
    last = {(PLAIN, status.get("attempts", 0)): status}
    last |= {(item["index"], item.get("attempts", 0)): item for item in status.get("items", ())}
    known = {**seen, **last}
    most: dict[int, int] = {}
    for item, number in known:
        most[item] = max(number, most.get(item, 0))
    return [
        Attempt(name, item, number, known.get((item, number)))
        for item in sorted(most)
        for number in range(1, most[item] + 1)
    ]


def metric_row(metric: Metric) -> Row:
    """The row of a metric."""
    return {
        "execution": _key(metric.execution),
        "step": _key(metric.step),
        "item": metric.item,
        "name": _key(metric.name),
        "number": metric.number,
        "at": milliseconds(metric.at),
        "value": None if metric.value != metric.value else metric.value,
    }


def metric_of(row: Mapping[str, Any]) -> Metric:
    """A metric from its row."""
    value = float("nan") if row["value"] is None else row["value"]
    return Metric(
        row["execution"], row["step"], row["name"], value, seconds(row["at"]), number=row["number"], item=row["item"]
    )
