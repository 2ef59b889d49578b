"""Which executions of a deployment run, wait, stop or never start, and which finished ones are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.api.deployment import Concurrency, ConcurrencyPolicy, History

MAX_WAITING: Final = 100
"""Executions of one deployment that wait at most; what is due then is dropped."""


@dataclass(frozen=True, slots=True)
class Active:
    """An execution that was started and is not over.

    Attributes:
        name: its name.
        stopping: whether it was told to stop already.
    """

    name: str
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """An execution that is not made.

    Attributes:
        name: the name it would have had.
        why: a sentence for people.
    """

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What to do; every name is the name of an execution, the oldest first.

    Attributes:
        start: those to start now: of the waiting ones and of the due ones.
        cancel: those to stop: of the active ones and of the waiting ones.
        wait: all that wait from now on, in the order in which they will start.
        drop: those that are due and will not be made.
    """

    start: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    wait: tuple[str, ...] = ()
    drop: tuple[Dropped, ...] = ()


def admit(
    concurrency: Concurrency,
    *,
    active: Sequence[Active],
    due: Sequence[str],
    waiting: Sequence[str] = (),
    suspended: bool = False,
) -> Admission:
    """Decides what becomes of executions that are due, and of those that wait.

    `Allow` starts all. `Forbid` starts as many as there is room for, the newest, and drops the others. `Replace` keeps
    the newest and stops the oldest; one that was told to stop takes no room any more, so that for the time of its
    stopping two may run. `Queue` lets them wait their turn, 100 at most. Asked again with the same executions, due ones
    that are active or wait already are left as they are.

    Args:
        concurrency: the deployment's policy and limit.
        active: executions that run, in the order in which they were started.
        due: names of those that are due and were not made before, the oldest first.
        waiting: names of those that were let wait, the oldest first; they come before those that are due.
        suspended: whether the deployment is suspended: then nothing starts, and what waits goes on waiting.
    """
    known = {each.name for each in active} | set(waiting)
    due = [name for name in due if name not in known]
    if suspended:
        return Admission(wait=tuple(waiting), drop=_dropped(due, "the deployment is suspended"))
    policy, limit = concurrency.policy, concurrency.limit or 1
    if policy is ConcurrencyPolicy.ALLOW:
        return Admission(start=(*waiting, *due))
    if policy is ConcurrencyPolicy.REPLACE:
        return _replace(active, waiting, due, limit)
    room = max(0, limit - len(active))
    first, left = tuple(waiting[:room]), tuple(waiting[room:])
    room -= len(first)
    if policy is ConcurrencyPolicy.FORBID:
        turned_away = due[: max(0, len(due) - room)]
        why = f"{_others(len(active) + len(first))} and the limit is {limit} (concurrency Forbid)"
        return Admission((*first, *due[len(turned_away) :]), (), left, _dropped(turned_away, why))
    queue = (*left, *due[room:])
    why = f"{MAX_WAITING} executions wait already (concurrency Queue)"
    kept = max(MAX_WAITING, len(left))  # what was let wait goes on waiting
    return Admission((*first, *due[:room]), (), queue[:kept], _dropped(queue[kept:], why))


def _replace(active: Sequence[Active], waiting: Sequence[str], due: Sequence[str], limit: int) -> Admission:
    running = [each.name for each in active if not each.stopping]
    if not due and not waiting:
        return Admission()  # a limit that was lowered stops nothing by itself
    replaced = (*running, *waiting, *due)[:-limit]
    why = f"a newer one is due and the limit is {limit} (concurrency Replace)"
    gone = set(replaced)
    return Admission(
        start=tuple(name for name in (*waiting, *due) if name not in gone),
        cancel=tuple(name for name in (*running, *waiting) if name in gone),
        drop=_dropped([name for name in due if name in gone], why),
    )


def _dropped(names: Iterable[str], why: str) -> tuple[Dropped, ...]:
    return tuple(Dropped(name, why) for name in names)


def _others(count: int) -> str:
    return "1 execution runs" if count == 1 else f"{count} executions run"


@dataclass(frozen=True, slots=True)
class Finished:
    """An execution that is over.

    Attributes:
        name: its name.
        succeeded: whether it succeeded.
        finished_at: when it was over, seconds since the epoch.
    """

    name: str
    succeeded: bool
    finished_at: float


def surplus(finished: Iterable[Finished], history: History) -> tuple[str, ...]:
    """Names of the finished executions of a deployment that its history limits do not keep, the oldest first.

    Of the succeeded ones and of the others as many are kept as `history` says, those that were over last.
    """
    newest_first = sorted(finished, key=lambda each: (each.finished_at, each.name), reverse=True)
    succeeded = [each for each in newest_first if each.succeeded][history.succeeded :]
    others = [each for each in newest_first if not each.succeeded][history.failed :]
    gone = sorted((*succeeded, *others), key=lambda each: (each.finished_at, each.name))
    return tuple(each.name for each in gone)
