"""How many calls each endpoint takes: a bucket of tokens for each, in memory, of this process alone."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

_KEPT = 10_000


class Rates:
    """Buckets by key.

    Args:
        rate: tokens that come in a second; 0: there is no limit.
        burst: tokens that a bucket holds.
        clock: seconds from any fixed moment.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Take a token; gives 0, or the seconds until there is one."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        left, since = self._buckets.pop(key, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._buckets[key] = (left if wait else left - 1, now)
        while len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)
        return wait
