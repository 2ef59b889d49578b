"""An execution's status as the manifest has it, from its state and back.

What `load(dump(state))` gives goes on exactly as `state` would have: the status is the whole memory of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from penstock.api.execution import ExecutionPhase, StepPhase
from penstock.api.pipeline import OnFailure
from penstock.engine.compile import CompiledPipeline
from penstock.engine.state import STEP, ExecutionState, TaskState
from penstock.engine.types import File, Head, Identity, Limits, TaskId, Value
from penstock.engine.wiring import is_file, value_bytes

_TIMES = {
    "queued_at": "queuedAt",
    "attempt_at": "attemptAt",
    "started_at": "startedAt",
    "finished_at": "finishedAt",
    "retry_at": "retryAt",
}
_TEXTS = {"reason": "reason", "message": "message", "stopping": "stopping", "exit_code": "exitCode"}
_COUNTS = {"attempts": "attempts", "failures": "failures", "disruptions": "disruptions"}
_HEAD_TIMES = {
    "started_at": "startedAt",
    "finished_at": "finishedAt",
    "suspended_at": "suspendedAt",
    "finally_at": "finallyAt",
}
_HEAD_TEXTS = {"reason": "reason", "message": "message", "outcome": "outcome", "stopping": "stopping"}


def to_timestamp(at: float) -> str:
    """A moment as RFC 3339 text in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_timestamp(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 text, to the millisecond."""
    return round(datetime.fromisoformat(text).timestamp(), 3)


def duration(seconds: float) -> str:
    """A duration for people: `0.4s`, `12s`, `3m05s`, `2h04m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def dump_value(name: str, value: Value) -> dict[str, Any]:
    """One named value as `api.execution.NamedValue` has it."""
    if isinstance(value, File):
        return {"name": name, "file": _dump_file(value)}
    if isinstance(value, list) and is_file(value):
        return {"name": name, "files": [_dump_file(item) if isinstance(item, File) else None for item in value]}
    return {"name": name, "value": value}


def load_value(entry: Mapping[str, Any]) -> Value:
    """The value of an entry that `dump_value` wrote."""
    if "file" in entry:
        return _load_file(entry["file"])
    if "files" in entry:
        return [None if item is None else _load_file(item) for item in entry["files"]]
    value: Value = entry.get("value")
    return value


def _dump_file(file: File) -> dict[str, Any]:
    shown: dict[str, Any] = {"key": file.key, "sha256": file.sha256, "size": file.size}
    return shown | {"folder": True} if file.folder else shown


def _load_file(entry: Mapping[str, Any]) -> File:
    return File(entry["key"], entry["sha256"], entry["size"], entry.get("folder", False))


def dump_values(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    """Named values in order."""
    return [dump_value(name, value) for name, value in values.items()]


def load_values(entries: Iterable[Mapping[str, Any]]) -> dict[str, Value]:
    """The values that `dump_values` wrote, by name."""
    return {entry["name"]: load_value(entry) for entry in entries}


def _dump_task(record: TaskState) -> dict[str, Any]:
    found: dict[str, Any] = {"phase": str(record.phase)}
    for attribute, key in (_TEXTS | _COUNTS).items():
        value = getattr(record, attribute)
        if value is not None and not (value == 0 and attribute in _COUNTS):
            found[key] = value
    for attribute, key in _TIMES.items():
        at = getattr(record, attribute)
        if at is not None:
            found[key] = to_timestamp(at)
    if record.outputs:
        found["outputs"] = dump_values(record.outputs)
    return found


def _load_task(entry: Mapping[str, Any]) -> TaskState:
    fields: dict[str, Any] = {attribute: entry.get(key) for attribute, key in _TEXTS.items()}
    fields |= {attribute: entry.get(key, 0) for attribute, key in _COUNTS.items()}
    fields |= {attribute: from_timestamp(entry[key]) for attribute, key in _TIMES.items() if key in entry}
    return TaskState(
        phase=StepPhase(entry["phase"]),
        outputs=load_values(entry.get("outputs", ())),
        item_count=entry.get("itemCount"),
        items_finished=entry.get("itemsFinished", 0),
        **fields,
    )


def item_status(state: ExecutionState, task: TaskId) -> dict[str, Any]:
    """One item of a fan-out, as `api.execution.ItemStatus` has it."""
    return {"index": task.index} | _dump_task(state.task(task))


def step_status(state: ExecutionState, name: str, *, items: bool = True) -> dict[str, Any]:
    """One step, as `api.execution.StepStatus` has it.

    Args:
        state: the execution.
        name: the step.
        items: with the items of its fan-out: those that were started, or once it has finished those that did not
            succeed (the outputs of the others are in the step's own), which keeps a fan-out of 1,000 small.
    """
    record = state.step(name)
    found = {"name": name} | _dump_task(record)
    if record.item_count is None:
        return found
    found |= {"itemCount": record.item_count, "itemsFinished": record.items_finished}
    if items:
        tasks = (TaskId(name, index) for index in range(record.item_count))
        shown = [
            item_status(state, task)
            for task in tasks
            if task in state.tasks and not (record.phase.finished and state.tasks[task].phase.succeeded)
        ]
        if shown:
            found["items"] = shown
    return found


def conditions(phase: ExecutionPhase, reason: str, message: str, since: str) -> list[dict[str, Any]]:
    """The conditions of an execution, in the words by which kstatus knows how any object fares.

    `Ready` is unknown until it is over, and then says whether it succeeded. `Reconciling` and `Stalled` are there only
    while they are true: it is under way, or it is over and will never be ready.

    Args:
        phase: where it stands.
        reason: why, in one word.
        message: why, for people.
        since: when it began or, once it is over, when it was over, as in a manifest.
    """
    over = phase.finished
    good = phase is ExecutionPhase.SUCCEEDED
    shown = {"Complete": "True" if over else "False", "Ready": "True" if good else "False" if over else "Unknown"}
    if not good:
        shown["Stalled" if over else "Reconciling"] = "True"
    rest = {"reason": reason, "message": message, "lastTransitionTime": since}
    return [{"type": kind, "status": status} | rest for kind, status in shown.items()]


def head_status(state: ExecutionState) -> dict[str, Any]:
    """The status without its steps, as `api.execution.ExecutionStatus` has it."""
    head = state.head
    found: dict[str, Any] = {"phase": str(head.phase)}
    for attribute, key in _HEAD_TEXTS.items():
        if getattr(head, attribute) is not None:
            found[key] = getattr(head, attribute)
    found["progress"] = f"{head.done}/{head.total}"
    for attribute, key in _HEAD_TIMES.items():
        if getattr(head, attribute) is not None:
            found[key] = to_timestamp(getattr(head, attribute))
    if head.started_at is not None and head.finished_at is not None:
        found["duration"] = duration(max(0.0, head.finished_at - head.started_at))
    if head.suspended_seconds:
        found["suspendedMilliseconds"] = round(head.suspended_seconds * 1000)
    since = head.finished_at if head.finished_at is not None else head.started_at
    if since is not None:
        reason = head.reason or str(head.phase)
        found["conditions"] = conditions(head.phase, reason, head.message or "", to_timestamp(since))
    if head.outputs is not None:
        found["outputs"] = dump_values(head.outputs)
    return found


def dump(state: ExecutionState) -> dict[str, Any]:
    """The whole status."""
    return head_status(state) | {"steps": [step_status(state, name) for name in state.pipeline.steps]}


def load(
    pipeline: CompiledPipeline,
    identity: Identity,
    status: Mapping[str, Any],
    limits: Limits | None = None,
    code: str = "",
) -> ExecutionState:
    """The state that a stored status stands for; an empty status is a new execution."""
    state = ExecutionState(pipeline, identity, limits, code)
    if not status:
        return state
    for entry in status.get("steps", ()):
        name = entry["name"]
        if name not in pipeline.steps:
            continue
        for item in entry.get("items", ()):
            state.put(TaskId(name, item["index"]), **_fields(_load_task(item)))
        record = _load_task(entry)
        _restore_collected(state, name, record)
        state.put(TaskId(name), **_fields(record))
    state.head = _load_head(status, state)
    state.failed = _failed(state)
    state.value_bytes = sum(value_bytes(record.outputs) for task, record in state.tasks.items() if _counts(state, task))
    state.to_settle = []
    state.take_changes()
    return state


def _fields(record: TaskState) -> dict[str, Any]:
    return {name: getattr(record, name) for name in TaskState.__slots__}


def _restore_collected(state: ExecutionState, name: str, record: TaskState) -> None:
    """Items that are left out of a finished fan-out's status succeeded."""
    if record.item_count is None or not record.phase.finished:
        return
    for index in range(record.item_count):
        task = TaskId(name, index)
        if task not in state.tasks:
            outputs = {key: value[index] for key, value in record.outputs.items() if isinstance(value, list)}
            state.put(task, phase=StepPhase.SUCCEEDED, outputs=outputs)


def _load_head(status: Mapping[str, Any], state: ExecutionState) -> Head:
    fields: dict[str, Any] = {attribute: status.get(key) for attribute, key in _HEAD_TEXTS.items()}
    fields |= {attribute: from_timestamp(status[key]) for attribute, key in _HEAD_TIMES.items() if key in status}
    return Head(
        phase=ExecutionPhase(status.get("phase", ExecutionPhase.PENDING)),
        suspended_seconds=status.get("suspendedMilliseconds", 0) / 1000,
        outputs=load_values(status["outputs"]) if "outputs" in status else None,
        done=state.head.done,
        total=state.head.total,
        **fields,
    )


def _failed(state: ExecutionState) -> dict[str, float]:
    """Steps whose failure counts, and when they first failed."""
    found: dict[str, float] = {}
    for task, record in state.tasks.items():
        if record.phase.failed and state.compiled(task).spec.on_failure is OnFailure.FAIL:
            at = record.finished_at or 0.0
            found[task.step] = min(at, found.get(task.step, at))
    return found


def _counts(state: ExecutionState, task: TaskId) -> bool:
    """Whether a record's outputs count towards what the status holds: a fan-out's are those of its items."""
    return task.index != STEP or state.compiled(task).fan_out is None
