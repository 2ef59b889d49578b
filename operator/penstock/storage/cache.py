"""Cache entries in a store: earlier successes by fingerprint, one small object each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from penstock.engine.status import dump_values, load_values
from penstock.engine.types import CacheEntry, File, Value
from penstock.storage.errors import NotFound
from penstock.storage.objects import Store
from penstock.storage.paths import cache_key, check_namespace, file_key


class ObjectCache:
    """Implements `controller.ports.CacheStore` for one namespace; raises the store's errors.

    An entry's object is written again when it is used, so that its time says when it was last used.

    Args:
        store: where entries and files are.
        namespace: whose entries.
        clock: gives the time, in seconds since the epoch.
        touch_seconds: an entry that was written longer ago is written again when it is used; well below the time
            after which unused entries go (`retention`).
    """

    def __init__(
        self, store: Store, namespace: str, *, clock: Callable[[], float] = time.time, touch_seconds: float = 86_400
    ) -> None:
        self._store = store
        self._namespace = check_namespace(namespace)
        self._clock = clock
        self._touch = touch_seconds

    async def lookup(self, fingerprint: str) -> CacheEntry | None:
        """See `controller.ports.CacheStore`; an entry whose files are gone is of no use."""
        key = cache_key(self._namespace, fingerprint)
        try:
            found = await self._store.get(key)
            content = await found.whole()
        except NotFound:
            return None
        entry = load_entry(content)
        if entry is None or entry.fingerprint != fingerprint:
            return None
        if self._clock() - found.stat.modified > self._touch:
            # Before its files are looked for: an entry that is found in use keeps them.
            await self._store.put(key, content)
        for file in files_of(entry.outputs.values()):
            try:
                await self._store.head(file_key(self._namespace, file.key))
            except NotFound:
                return None
        return entry

    async def remember(self, entry: CacheEntry) -> None:
        """See `controller.ports.CacheStore`."""
        await self._store.put(cache_key(self._namespace, entry.fingerprint), dump_entry(entry))


def dump_entry(entry: CacheEntry) -> bytes:
    """An entry as it is stored."""
    content: dict[str, Any] = {
        "fingerprint": entry.fingerprint,
        "outputs": dump_values(entry.outputs),
        "created_at": entry.created_at,
        "execution": entry.execution,
    }
    return json.dumps(content, separators=(",", ":")).encode()


def load_entry(content: bytes) -> CacheEntry | None:
    """What `dump_entry` wrote; None: something else."""
    try:
        found: Mapping[str, Any] = json.loads(content)
        return CacheEntry(found["fingerprint"], load_values(found["outputs"]), found["created_at"], found["execution"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def files_of(values: Iterable[Value]) -> Iterable[File]:
    """All files among values."""
    for value in values:
        if isinstance(value, File):
            yield value
        elif isinstance(value, list):
            yield from (part for part in value if isinstance(part, File))
