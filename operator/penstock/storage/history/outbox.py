"""Writes executions into a history in the background: in order, in batches, and through times when it is down.

What waits is the newest version of each execution, at the place of its oldest. What there is no room for is not kept;
`missing` names it, so that whoever has it notes it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from penstock.api.execution import FINISHED
from penstock.step.values import JsonObject
from penstock.storage.history.errors import BadHistory, HistoryUnavailable
from penstock.storage.history.history import History
from penstock.storage.history.records import NotAnExecution, Version

log = logging.getLogger(__name__)

BATCH: Final = 100
"""Executions that one transaction writes at most."""
_BATCH_SIZE: Final = 10_000
"""Steps, items and executions of one transaction, if it has more than one execution."""
MOST_WAITING: Final = 100_000
"""Steps, items and executions that may wait, in all: about half a kilobyte each."""
FIRST_WAIT: Final = 0.5
"""Seconds to wait after the first failure in a row; each further wait is twice as long."""
LONGEST_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the history is behind.

    Attributes:
        waiting: executions with something that is not recorded.
        seconds: for how long the oldest of it waits.
        missing: executions that must be noted again, because there was no room.
        refused: executions that cannot be recorded.
        trouble: why nothing can be recorded now; empty: it can.
    """

    waiting: int
    seconds: float
    missing: int
    refused: int
    trouble: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is to be written about an execution.

    Attributes:
        version: its newest version; None: only that it was removed.
        removed_at: when it was removed; None: it was not.
        since: since when it waits.
        size: its steps and items, and one.
    """

    version: Version | None
    removed_at: float | None
    since: float
    size: int


class Recorder:
    """Executions on their way to a history. Used in one event loop; `run` must run.

    Args:
        history: where they go.
        now: the time, in seconds since the epoch.
        batch: see `BATCH`.
        most: see `MOST_WAITING`.
        first_wait: see `FIRST_WAIT`.
        longest_wait: the longest wait between two tries, in seconds.
    """

    def __init__(
        self,
        history: History,
        now: Callable[[], float],
        *,
        batch: int = BATCH,
        most: int = MOST_WAITING,
        first_wait: float = FIRST_WAIT,
        longest_wait: float = LONGEST_WAIT,
    ) -> None:
        self._history = history
        self._now = now
        self._batch = batch
        self._most = most
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._waiting: dict[str, _Waiting] = {}
        self._writing: dict[str, _Waiting] = {}
        self._size = 0
        self._recorded: set[str] = set()
        self._missing: set[str] = set()
        self._refused: dict[str, str] = {}
        self._waiters: dict[str, asyncio.Future[str | None]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sequence = 0
        self._trouble = ""

    # What is noted

    def note(
        self,
        body: JsonObject,
        *,
        revision_manifest: JsonObject | None = None,
        step_inputs: Mapping[str, JsonObject] | None = None,
    ) -> None:
        """Take an execution as it is now, to be written soon. Never waits and never fails.

        Args:
            body: the object; it must not be changed any more.
            revision_manifest: see `Version`.
            step_inputs: see `Version`.
        """
        uid = str(body["metadata"]["uid"])
        version = Version(body, self._next_sequence(), revision_manifest, step_inputs or {})
        before = self._waiting.get(uid) or self._writing.get(uid)
        if before is not None and before.version is not None:
            version = _newer(before.version, version)
        self._put(uid, version, None if before is None else before.removed_at)

    def removed(self, uid: str, at: float) -> None:
        """Take note that an execution's object was removed, at this moment (seconds since the epoch)."""
        before = self._waiting.get(uid)
        self._put(uid, None if before is None else before.version, at)

    def _next_sequence(self) -> int:
        """Grows with time, so that it also grows from one process to the next."""
        self._sequence = max(self._sequence + 1, round(self._now() * 1_000_000))
        return self._sequence

    def _put(self, uid: str, version: Version | None, removed_at: float | None) -> None:
        before = self._waiting.get(uid)
        since = self._now() if before is None else before.since
        size = 1 if version is None else _size(version.body)
        self._size += size - (0 if before is None else before.size)
        self._waiting[uid] = _Waiting(version, removed_at, since, size)
        self._recorded.discard(uid)
        self._missing.discard(uid)
        self._refused.pop(uid, None)
        if self._size > self._most:
            self._make_room()
        self._idle.clear()
        self._wake.set()

    def _make_room(self) -> None:
        """Drop what is written again by itself first: the live, the oldest first; then the finished."""
        live = [uid for uid, each in self._waiting.items() if each.version is not None and not _over(each.version)]
        rest = [uid for uid, each in self._waiting.items() if each.version is not None and _over(each.version)]
        for uid in (*live, *rest):
            if self._size <= self._most * 9 // 10:
                break
            dropped = self._waiting[uid]
            self._size -= dropped.size
            if dropped.removed_at is None:
                del self._waiting[uid]
            else:
                self._waiting[uid] = replace(dropped, version=None, size=1)
                self._size += 1
            if not self._missing:
                log.warning("the history is behind: some executions have to be noted once more (%s)", self._trouble)
            self._missing.add(uid)

    # What is asked

    def recorded(self, uid: str) -> bool:
        """Whether the newest version that was noted is in the history, since this process began."""
        return uid in self._recorded

    async def wait_recorded(self, uid: str) -> None:
        """Wait until the newest version that was noted is in the history; also while it is missing.

        Raises:
            NotAnExecution: it cannot be recorded, as it is now.
            LookupError: nothing of it was noted, or its removal is recorded already.
        """
        while uid not in self._recorded:
            if uid in self._refused:
                raise NotAnExecution(self._refused[uid])
            if not (uid in self._waiting or uid in self._writing or uid in self._missing):
                raise LookupError(f"execution {uid} was not noted, or was removed")
            waiter = self._waiters.get(uid)
            if waiter is None:
                waiter = self._waiters[uid] = asyncio.get_running_loop().create_future()
            refused = await asyncio.shield(waiter)
            if refused is not None:
                raise NotAnExecution(refused)
            if uid not in self._waiting:
                return

    def forget(self, uid: str) -> None:
        """Nobody will ask any more whether this one is recorded. What waits is written all the same."""
        self._recorded.discard(uid)
        self._refused.pop(uid, None)

    def missing(self) -> frozenset[str]:
        """Uids of executions that have to be noted again, because there was no room for them."""
        return frozenset(self._missing)

    def lag(self) -> Lag:
        """How far the history is behind."""
        waits = [*self._writing.values(), *self._waiting.values()]
        oldest = min((each.since for each in waits), default=self._now())
        return Lag(
            waiting=len(self._writing.keys() | self._waiting.keys()),
            seconds=max(0.0, self._now() - oldest),
            missing=len(self._missing),
            refused=len(self._refused),
            trouble=self._trouble,
        )

    # What is written

    async def run(self) -> None:
        """Write what waits. Never ends; what was not written when it is cancelled waits on."""
        wait = self._first_wait
        while True:
            await self._wake.wait()
            if not self._waiting:
                self._wake.clear()
                self._idle.set()
                continue
            try:
                await self._write_some()
            except (HistoryUnavailable, BadHistory) as error:
                self._failed(error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, self._longest_wait)
            else:
                wait = self._first_wait
                if self._trouble:
                    log.info("the history takes executions again")
                    self._trouble = ""

    async def drain(self, seconds: float) -> bool:
        """Wait until all is written, but not for longer than this; whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return not self._waiting and not self._writing

    def _failed(self, error: HistoryUnavailable | BadHistory) -> None:
        level = logging.ERROR if isinstance(error, BadHistory) else logging.WARNING
        if str(error) != self._trouble:
            log.log(level, "executions wait to be recorded: %s", error)
        self._trouble = str(error)

    async def _write_some(self) -> None:
        self._writing, size = {}, 0
        while self._waiting and len(self._writing) < self._batch and size < _BATCH_SIZE:
            uid = next(iter(self._waiting))
            self._writing[uid] = self._waiting.pop(uid)
            size += self._writing[uid].size
        try:
            await self._write(list(self._writing))
        finally:
            self._take_back()

    async def _write(self, uids: Sequence[str]) -> None:
        """Write some; if one of them cannot be, the others are."""
        some = {uid: self._writing[uid] for uid in uids}
        try:
            await self._history.record_many(
                [each.version for each in some.values() if each.version is not None],
                {uid: each.removed_at for uid, each in some.items() if each.removed_at is not None},
            )
        except NotAnExecution as error:
            if len(uids) == 1:
                await self._refuse(uids[0], str(error))
                return
            half = len(uids) // 2
            await self._write(uids[:half])
            await self._write(uids[half:])
            return
        for uid in uids:
            self._done(uid)

    def _done(self, uid: str) -> None:
        done = self._writing.pop(uid)
        self._size -= done.size
        if uid in self._waiting or uid in self._missing:
            return
        if done.removed_at is None:
            self._recorded.add(uid)
        self._tell(uid, None)

    async def _refuse(self, uid: str, message: str) -> None:
        """Give one up as it is now. That its object was removed is still true of what is recorded of it."""
        refused = self._writing[uid]
        if refused.removed_at is not None:
            await self._history.deleted(uid, refused.removed_at)
        del self._writing[uid]
        self._size -= refused.size
        if uid in self._waiting:
            return
        log.error("execution %s cannot be recorded: %s", uid, message)
        self._refused[uid] = message
        self._tell(uid, message)

    def _tell(self, uid: str, refused: str | None) -> None:
        waiter = self._waiters.pop(uid, None)
        if waiter is not None:
            waiter.set_result(refused)

    def _take_back(self) -> None:
        """What was not written waits again, before the rest, unless something newer of it does already."""
        back = self._writing
        self._writing = {}
        for uid, each in back.items():
            newer = self._waiting.get(uid)
            if newer is None:
                continue
            self._size -= each.size
            back[uid] = replace(newer, since=each.since, version=newer.version or each.version)
            if newer.version is None:
                self._size += each.size - newer.size
                back[uid] = replace(back[uid], size=each.size)
        if back:
            self._waiting = back | {uid: each for uid, each in self._waiting.items() if uid not in back}


def _newer(before: Version, now: Version) -> Version:
    """Which of two versions counts, with what only the other knows."""
    if _over(before) and not _over(now):
        now, before = before, now
    return replace(now, manifest=now.manifest or before.manifest, inputs={**before.inputs, **now.inputs})


def _over(version: Version) -> bool:
    return (version.body.get("status") or {}).get("phase") in FINISHED


def _size(body: JsonObject) -> int:
    entries = (body.get("status") or {}).get("steps") or ()
    return 1 + sum(1 + len(each.get("items", ())) for each in entries)
