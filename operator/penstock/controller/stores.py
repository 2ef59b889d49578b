"""How errors of the object store reach the controller: what heals by itself is tried again, a full store stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from penstock.controller.ports import Halt, Transient
from penstock.engine.types import CacheEntry
from penstock.storage.cache import ObjectCache
from penstock.storage.errors import StoreFull, StoreRefused, StoreUnavailable
from penstock.storage.objects import Store

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
        store: where entries are, those of each namespace for itself.
        words: turns the store's errors into those of `ports`.
    """

    def __init__(self, store: Store, words: Callable[[], AbstractContextManager[None]] = in_ports_words) -> None:
        self._store = store
        self._words = words

    async def lookup(self, namespace: str, fingerprint: str) -> CacheEntry | None:
        """See `ports.CacheStore`."""
        with self._words():
            return await ObjectCache(self._store, namespace).lookup(fingerprint)

    async def remember(self, namespace: str, entry: CacheEntry) -> None:
        """See `ports.CacheStore`."""
        with self._words():
            await ObjectCache(self._store, namespace).remember(entry)
