"""What an attempt is judged by, and what a judgement is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.api.base import MAX_MESSAGE
from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptId, AttemptPhase, Observation
from penstock.kube import podstate
from penstock.kube.podstate import Object
from penstock.step.report import InLog
from penstock.step.values import Declared


@dataclass(frozen=True, slots=True)
class NeedsLog:
    """A log has to be read before the attempt can be judged; then ask again with its text.

    Attributes:
        container: whose.
        result: what the collector says it wrote there; None where the last lines of the step are wanted.
        tail_lines: how many lines from its end; None: all.
    """

    container: str
    result: InLog | None = None
    tail_lines: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen.

    Attributes:
        observation: of the attempt, as far as it is known.
        needs: what has to be read first.
        again_at: when to look again even if nothing happens, seconds since the epoch; None: only if something does.
        end_pod: whether the pod has to be ended (`manifests.end_now`) because something runs on beside a step that is
            over. A collector then says what it found.
        nameless_user: whether what is wrong is that the image names root, or a user without a number, and nobody else
            names one: another pod that does so would run.
    """

    observation: Observation
    needs: NeedsLog | None = None
    again_at: float | None = None
    end_pod: bool = False
    nameless_user: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an attempt is judged by.

    Attributes:
        id: which attempt.
        pod: its Pod; the last that was seen of it where it is gone.
        job: its Job.
        declared: the step's outputs.
        now: seconds since the epoch.
        execution: uid of the execution that it is part of.
        gone: whether the pod was there and is not any more.
        log: what was read because of an earlier `NeedsLog`; empty if it could not be read.
    """

    id: AttemptId
    pod: Object | None
    job: Object | None
    declared: Sequence[Declared]
    now: float
    execution: str = ""
    gone: bool = False
    log: str | None = None


def over(look: Look, done: Object | None, reason: Reason | None, message: str | None) -> Observation:
    """An observation of the end; `done` is the terminated state of the step's container."""
    if message is not None and len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    done = done or {}
    return Observation(
        look.id,
        AttemptPhase.ENDED,
        started_at=podstate.started(done),
        finished_at=podstate.moment(done.get("finishedAt")) or look.now,
        exit_code=done.get("exitCode"),
        reason=reason,
        message=message,
    )


def pending(look: Look, reason: Reason | None, message: str | None) -> Observation:
    """An observation of an attempt that does not run yet."""
    return Observation(look.id, AttemptPhase.PENDING, reason=reason, message=message)
