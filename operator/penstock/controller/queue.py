"""The dirty-key queue: many events about a key make one pass, and one key is never worked on twice at a time.

What is in it may be thought of as "look at this again"; what to do is found out by looking.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import NamedTuple


class Turn(IntEnum):
    """In which of the lines a key stands; those of a later one wait until the earlier ones are empty."""

    FIRST = 0  # what ends: it should not stand behind what begins
    NEXT = 1
    LAST = 2  # what only has to be looked at some time, as all that was there before a restart


class _Dirty(NamedTuple):
    turn: Turn
    since: float


class DirtyQueue:
    """Keys to look at.

    Args:
        now: the time, seconds since the epoch.
        on_taken: called when a key is handed out, with the key and the seconds for which it was the turn of others.
    """

    def __init__(self, now: Callable[[], float], on_taken: Callable[[str, float], None] | None = None) -> None:
        self._now = now
        self._on_taken = on_taken
        self._lines: dict[Turn, deque[str]] = {turn: deque() for turn in Turn}
        self._dirty: dict[str, _Dirty] = {}
        self._busy: set[str] = set()
        self._timers: dict[tuple[str, Turn], tuple[float, asyncio.TimerHandle]] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._dirty)

    def add(self, key: str, turn: Turn = Turn.NEXT) -> None:
        """Look at a key when it is its turn; if it is being looked at, once more after that.

        Args:
            key: the key.
            turn: its line; a key that stands in a later one already comes to this one.
        """
        known = self._dirty.get(key)
        if known is not None and known.turn <= turn:
            return
        self._dirty[key] = _Dirty(turn, self._now() if known is None else known.since)
        if key not in self._busy:
            # A key may now stand in two lines: the second time it is found to be clean.
            self._lines[turn].append(key)
            self._wake.set()

    def add_at(self, key: str, at: float, turn: Turn = Turn.NEXT) -> None:
        """Look at a key at a time (seconds since the epoch), unless an earlier time is already set for this line."""
        known = self._timers.get((key, turn))
        if known is not None:
            if known[0] <= at:
                return
            known[1].cancel()
        delay = max(0.0, at - self._now())
        handle = asyncio.get_running_loop().call_later(delay, self._due, key, turn)
        self._timers[key, turn] = (at, handle)

    def _due(self, key: str, turn: Turn) -> None:
        self._timers.pop((key, turn), None)
        self.add(key, turn)

    async def get(self) -> str:
        """The next key; call `done` with it afterwards."""
        while True:
            line = next((line for line in self._lines.values() if line), None)
            if line is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            key = line.popleft()
            if key not in self._dirty or key in self._busy:
                continue
            since = self._dirty.pop(key).since
            self._busy.add(key)
            if self._on_taken is not None:
                self._on_taken(key, max(0.0, self._now() - since))
            return key

    def done(self, key: str) -> None:
        """A key has been looked at."""
        self._busy.discard(key)
        known = self._dirty.get(key)
        if known is not None:
            self._lines[known.turn].append(key)
            self._wake.set()

    async def work(self, handle: Callable[[str], Awaitable[None]]) -> None:
        """Look at keys one after the other, each when it is its turn. Never ends; what `handle` raises ends it."""
        while True:
            key = await self.get()
            try:
                await handle(key)
            finally:
                self.done(key)

    def forget(self, key: str) -> None:
        """Nothing more is to be done about a key at a later time."""
        for turn in Turn:
            known = self._timers.pop((key, turn), None)
            if known is not None:
                known[1].cancel()

    def expedite(self) -> None:
        """Look at everything now that is to be looked at later: what was thought of the time does not hold any more."""
        timers, self._timers = self._timers, {}
        for (key, turn), (_, handle) in timers.items():
            handle.cancel()
            self.add(key, turn)

    def close(self) -> None:
        """Cancel all timers."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
