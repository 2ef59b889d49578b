"""How errors of the object store reach the controller: what heals by itself is tried again, a full store stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.controller.ports import Halt, Transient
from penstock.engine.types import CacheEntry
from penstock.storage.cache import ObjectCache
from penstock.storage.errors import StoreFull, StoreRefused, StoreUnavailable

_REFUSED_SECONDS = 60.0


@contextmanager
def in_ports_words() -> Iterator[None]:
    """Turn errors of a store into those of `ports`.

    Raises:
        Transient: the store does not answer, or refuses: after a person has mended that, things go on by themselves.
        Halt: there is no space left.
    """
    try:
        yield
    except StoreUnavailable as error:
        raise Transient(str(error)) from error
    except StoreRefused as error:
        raise Transient(str(error), delay=_REFUSED_SECONDS) from error
    except StoreFull as error:
        raise Halt(str(error)) from error


class StoredCache:
    """`ports.CacheStore` on an object store.

    Args:
        cache: the entries.
    """

    def __init__(self, cache: ObjectCache) -> None:
        self._cache = cache

    async def lookup(self, fingerprint: str) -> CacheEntry | None:
        """See `ports.CacheStore`."""
        with in_ports_words():
            return await self._cache.lookup(fingerprint)

    async def remember(self, entry: CacheEntry) -> None:
        """See `ports.CacheStore`."""
        with in_ports_words():
            await self._cache.remember(entry)
