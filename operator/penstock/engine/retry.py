"""Whether and when a failed attempt is tried again."""

from __future__ import annotations

from penstock.api.base import MAX_SECONDS
from penstock.api.pipeline import Retry
from penstock.engine.reasons import Reason
from penstock.engine.state import TaskState
from penstock.engine.types import Limits

_MAX_DISRUPTION_DELAY = 300


def delay(retry: Retry, retries: int) -> int:
    """Seconds to wait before retry number `retries` (from 1): `delaySeconds * factor^(retries-1)`, bounded."""
    longest = retry.max_delay_seconds
    wait = retry.delay_seconds
    for _ in range(retries - 1):
        if retry.factor == 1 or wait >= (MAX_SECONDS if longest is None else longest):
            break
        wait *= retry.factor
    return min(wait, MAX_SECONDS if longest is None else longest)


def next_attempt(retry: Retry | None, task: TaskState, reason: str, now: float) -> float | None:
    """When to try again after a failure that counts against the limit; None: no more.

    Args:
        retry: the step's policy.
        task: its record, the failure already counted in `failures`.
        reason: why the attempt failed.
        now: the time, seconds since the epoch.
    """
    if retry is None or task.failures > retry.limit:
        return None
    if retry.reasons is not None and reason not in retry.reasons:
        return None
    at = round(now + delay(retry, task.failures), 3)  # the number that a stored status gives back
    began = task.queued_at if task.queued_at is not None else now
    if retry.max_total_seconds is not None and at - began > retry.max_total_seconds:
        return None
    return at


def after_disruption(limits: Limits, task: TaskState, now: float) -> float | None:
    """When to try again after a disruption (already counted in `disruptions`); None: no more."""
    if task.disruptions > limits.disruptions:
        return None
    wait: int = limits.disruption_delay_seconds * 2 ** (task.disruptions - 1)
    return round(now + min(wait, _MAX_DISRUPTION_DELAY), 3)


RETRIED = frozenset({Reason.STEP_FAILED, Reason.STEP_ERROR, Reason.TIMED_OUT, Reason.INVALID_OUTPUTS})
"""Reasons that a retry policy applies to."""
