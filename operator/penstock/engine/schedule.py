"""Which times of a schedule start an execution now, which are dropped, and when to look again.

A `Mark` is the whole memory: up to where the schedule has been seen to. It only moves forward, so that no time starts
twice, whatever the clock does; the names of executions follow from their times, so that it does no harm either when a
mark is lost after the executions were made. It changes only with a decision: nothing is written for looking.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Final

from penstock.api.deployment import MAX_CATCH_UP, ON_TIME_SECONDS, CatchUp, Schedule
from penstock.engine.cron import moments

_LONGEST_NAME: Final = 63
_HASH: Final = 8
_KEY: Final = 16


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a schedule has been seen to.

    Attributes:
        key: digest of the schedule; another one means that it was edited, suspended or resumed.
        through: every time up to this moment was started or dropped, seconds since the epoch.
    """

    key: str
    through: float


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule wants at a moment.

    Attributes:
        fires: the times to start an execution for, the oldest first.
        missed: how many times are dropped, 100 for any greater number.
        missed_last: the newest time that is dropped.
        mark: what to keep once the executions are made.
        next_at: the next time, when to look again; None while suspended.
        clock_behind: seconds by which the clock is behind the mark: nothing starts until it has caught up, or the
            schedule is edited, or suspended and resumed. 0 unless the clock was set back.
    """

    fires: tuple[int, ...]
    missed: int
    missed_last: int | None
    mark: Mark
    next_at: int | None
    clock_behind: float


def due(schedule: Schedule, *, suspended: bool, mark: Mark | None, now: float, edited_at: float | None = None) -> Due:
    """Decides what a schedule starts now.

    A time that is late by at most 120 seconds is on time and starts, unless `startingDeadlineSeconds` is shorter. Of
    those that are later, `catchUp` says which start. At most the newest 100 start.

    Args:
        schedule: a schedule that `api.rules` found nothing wrong with.
        suspended: whether the deployment is suspended. Times while it is are passed over, and not missed.
        mark: the mark of the last decision; None for the first one.
        now: the time, seconds since the epoch.
        edited_at: when the schedule came to be as it is (made, edited, resumed), if that is known: from then on times
            count as missed where the mark is of another schedule. None: they count from now on.
    """
    key = _key(schedule, suspended=suspended)
    if mark is None or mark.key != key:
        mark = Mark(key, _begin(mark, now, edited_at))
    if suspended:
        return Due((), 0, None, mark, None, 0)
    calendar = moments(schedule)
    first = calendar.after(mark.through)
    if first > now:
        return Due((), 0, None, mark, first, max(0, mark.through - now))
    on_time = ON_TIME_SECONDS // 60 + 1
    most = MAX_CATCH_UP if schedule.catch_up is CatchUp.ALL else on_time
    passed = calendar.newest(mark.through, now, most + MAX_CATCH_UP)
    fires = _fires(schedule, passed, now)
    dropped = sorted(set(passed) - set(fires))
    return Due(
        fires=tuple(fires),
        missed=min(len(dropped), MAX_CATCH_UP),
        missed_last=dropped[-1] if dropped else None,
        mark=Mark(key, passed[-1]),
        next_at=calendar.after(now),
        clock_behind=0,
    )


def _begin(mark: Mark | None, now: float, edited_at: float | None) -> float:
    """From when on the times of a schedule that is new count."""
    if edited_at is None:
        return now
    # What the schedule before the edit was seen to is not seen to again.
    return min(now, edited_at if mark is None else max(edited_at, mark.through))


def _fires(schedule: Schedule, passed: list[int], now: float) -> list[int]:
    deadline = schedule.starting_deadline_seconds
    newest_first = passed[::-1]
    if deadline is not None:
        newest_first = list(takewhile(lambda at: now - at <= deadline, newest_first))
    on_time = list(takewhile(lambda at: now - at <= ON_TIME_SECONDS, newest_first))
    started = {
        CatchUp.NONE: on_time,
        CatchUp.LAST: on_time or newest_first[:1],
        CatchUp.ALL: newest_first[:MAX_CATCH_UP],
    }[schedule.catch_up]
    return started[::-1]


def _key(schedule: Schedule, *, suspended: bool) -> str:
    # Without defaults: a field that a later version brings is no edit.
    said = schedule.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps([said, suspended], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY]


def fire_name(deployment: str, at: int) -> str:
    """Name of the execution that a deployment starts for a time: `nightly-20260329-0100`, the time in UTC.

    The same for the same time, another for any other time or deployment. At most 63 characters: a name of more than 49
    is cut, and a digest of the whole of it put in between.
    """
    moment = datetime.fromtimestamp(at, UTC)
    tail = moment.strftime("-%Y%m%d-%H%M%S" if moment.second else "-%Y%m%d-%H%M")
    if len(deployment) + len(tail) <= _LONGEST_NAME:
        return deployment + tail
    digest = hashlib.sha256(deployment.encode()).hexdigest()[:_HASH]
    room = _LONGEST_NAME - len(tail) - _HASH - 1
    return f"{deployment[:room].rstrip('-.')}-{digest}{tail}"
