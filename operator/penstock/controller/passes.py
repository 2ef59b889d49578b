"""Passes over dirty keys by several workers, and what is done when one fails: again at once, later, or never.

What a pass does is its owner's. A pass that fails may be repeated: the owner forgets what it knew in `on_failed`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from penstock.controller.ports import Clock, Conflict, Halt, Transient
from penstock.controller.queue import DirtyQueue

log = logging.getLogger(__name__)

BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds to wait after the first, second, … failed pass in a row."""


class Passes:
    """Makes passes.

    Args:
        queue: the keys to look at; closed at the end.
        clock: the time.
        handle: one pass over a key.
        what: what a key stands for, for the log.
        on_failed: called when a pass failed and will be repeated, with the key and what to tell people; None where
            somebody else wrote the object meanwhile, which is nothing to tell.
    """

    def __init__(
        self,
        queue: DirtyQueue,
        clock: Clock,
        handle: Callable[[str], Awaitable[None]],
        *,
        what: str,
        on_failed: Callable[[str, str | None], None],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._handle = handle
        self._what = what
        self._on_failed = on_failed
        self._failures: dict[str, int] = {}

    async def run(self, workers: int, *beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Make passes until cancelled.

        Args:
            workers: how many keys are looked at at once.
            beside: what else runs as long.

        Raises:
            Halt: nothing can go on until a person has done something.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for work in beside:
                    group.create_task(work())
                for _ in range(workers):
                    group.create_task(self._queue.work(self.guarded))
        except* Halt as halts:
            raise halts.exceptions[0] from None
        finally:
            self._queue.close()

    async def guarded(self, key: str) -> None:
        """One pass, with what to do if it fails.

        Raises:
            Halt: nothing can go on until a person has done something.
        """
        try:
            await self._handle(key)
        except Halt:
            raise
        except Conflict:
            self._on_failed(key, None)
            self._queue.add(key)
        except Transient as error:
            self._again_later(key, str(error), error.delay)
        except Exception as error:
            # A bug, or an adapter that did not wrap an error. What the key stands for must not be lost for it.
            if self._failures.get(key, 0) == 0:
                log.exception("pass over %s %s failed; it will be tried again", self._what, key)
            self._again_later(key, f"{type(error).__name__}: {error}", None)
        else:
            self.forget(key)

    def _again_later(self, key: str, message: str, delay: float | None) -> None:
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        self._on_failed(key, message)
        wait = BACKOFF[min(count, len(BACKOFF) - 1)] if delay is None else delay
        self._queue.add_at(key, self._clock.now() + wait)

    def forget(self, key: str) -> None:
        """How often passes over a key have failed does not count any more."""
        self._failures.pop(key, None)
