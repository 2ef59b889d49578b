"""Finds Jobs whose attempt is recorded as over but that do not say so: the operator died between the two writes.

What an execution's status says is the record; nothing here decides about executions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.api.execution import ExecutionPhase, StepPhase
from penstock.engine.reasons import Reason
from penstock.engine.status import from_timestamp
from penstock.engine.types import AttemptId
from penstock.kube import manifests, names, podstate
from penstock.kube.conclusions import Conclusion, pod_end
from penstock.step.values import JsonObject

Object = Mapping[str, Any]

_FINISHED_EXECUTION = frozenset(str(phase) for phase in ExecutionPhase if phase.finished)
_FINISHED_STEP = frozenset(str(phase) for phase in StepPhase if phase.finished)


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended, as far as a status tells.

    Attributes:
        succeeded: whether it did.
        reason: one word.
        message: a sentence for people.
        finished_at: when, seconds since the epoch; None if the status does not say.
    """

    succeeded: bool
    reason: str
    message: str
    finished_at: float | None


def unfinished(job: Object) -> bool:
    """Whether a Job is one that we manage and does not say that it is over."""
    return job["spec"].get("managedBy") == names.MANAGER and not podstate.is_over(job)


def end_of(status: Object, attempt: AttemptId) -> End | None:
    """How the status of an execution says that an attempt ended; None if it does not say that it did."""
    entry = _entry(status, attempt) or {}
    recorded, phase = entry.get("attempts", 0), entry.get("phase")
    if attempt.attempt == recorded and phase in _FINISHED_STEP | {str(StepPhase.RETRYING)}:
        at = entry.get("finishedAt")
        finished_at = None if at is None else from_timestamp(at)
        if phase == StepPhase.SUCCEEDED:
            return End(True, "Completed", "", finished_at)
        return End(False, entry.get("reason") or str(Reason.STEP_FAILED), entry.get("message") or "", finished_at)
    if attempt.attempt < recorded:
        return End(False, str(Reason.STEP_FAILED), "another attempt followed", None)
    if status.get("phase") in _FINISHED_EXECUTION:
        return End(False, str(Reason.CANCELLED), "its execution is over", None)
    return None


def _entry(status: Object, attempt: AttemptId) -> Object | None:
    """What a status has of a step, or of one item of its fan-out."""
    step: Object | None = next((each for each in status.get("steps", ()) if each["name"] == attempt.step), None)
    if step is None or attempt.index < 0:
        return step
    item: Object | None = next((each for each in step.get("items", ()) if each["index"] == attempt.index), None)
    if item is None and step["phase"] in _FINISHED_STEP:
        # Of a fan-out that is over only the items that did not succeed are kept.
        return {"phase": str(StepPhase.SUCCEEDED), "attempts": attempt.attempt}
    return item


def conclusion(job: JsonObject, pod: JsonObject | None, end: End, now: float) -> Conclusion:
    """What is to be written about a Job that was left over, and its Pod."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    created = podstate.moment(job["metadata"].get("creationTimestamp")) or now
    status = manifests.job_status(
        succeeded=end.succeeded,
        started_at=created,
        finished_at=max(created, end.finished_at or now),
        reason=end.reason,
        message=end.message[:1_024],
    )
    return Conclusion(namespace=namespace, job=name, status=status, pod=name, pod_end=pod_end(pod))
