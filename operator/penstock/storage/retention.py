"""What goes from a store: objects of executions that are gone, cache entries that nobody uses, forgotten uploads.

A sweep has no memory that it needs: it can end anywhere, and the next one goes on. It never touches objects under
`data/`; only uploads to there that were begun long ago and never completed are forgotten.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from penstock.storage.cache import files_of, load_entry
from penstock.storage.errors import BadObjectPath, NotFound
from penstock.storage.objects import Stat, Store
from penstock.storage.paths import CACHE, DATA, check_namespace, executions_prefix, file_key

UPLOAD_SECONDS = 8 * 86_400
"""Age at which an upload that was not completed is forgotten: no signed URL lives as long."""
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Living:
    """What is still there of what was asked for.

    Attributes:
        uids: those of the executions that exist.
        keys: keys of files (`File.key`) that existing executions hold, as far as other executions gave them: a step
            that was `Cached` has such outputs.
    """

    uids: frozenset[str]
    keys: frozenset[str] = frozenset()


Ask = Callable[[str, Sequence[str]], Awaitable[Living]]
"""Given a namespace and uids: which of these executions exist. Reads what is true now, and raises if it cannot."""


@dataclass(slots=True)
class Swept:
    """What a sweep removed, or would remove.

    Attributes:
        executions: uids of executions of which something went.
        objects: objects that went, cache entries not counted.
        bytes: how large they were.
        cache_entries: cache entries that went.
        uploads: uploads that were not completed and were forgotten.
        keys: the first 1000 keys that went.
    """

    executions: list[str] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0
    cache_entries: int = 0
    uploads: int = 0
    keys: list[str] = field(default_factory=list)


class Retention:
    """Sweeps a store.

    Args:
        store: the store.
        ask: says which executions exist.
        cache_seconds: how long a cache entry may be unused.
    """

    def __init__(self, store: Store, ask: Ask, *, cache_seconds: float) -> None:
        self._store = store
        self._ask = ask
        self._cache_seconds = cache_seconds
        # What entries refer to, by key, with the etag that it was read of: nothing is read twice.
        self._known: dict[str, tuple[str, frozenset[str]]] = {}

    async def sweep(self, namespace: str, *, now: float, dry_run: bool = False) -> Swept:
        """Remove what is of no use any more in a namespace.

        Args:
            namespace: which.
            now: seconds since the epoch.
            dry_run: only say what would go.

        Raises:
            StoreUnavailable: the store does not answer; the next sweep goes on.
            StoreRefused: the store refuses.
        """
        check_namespace(namespace)
        swept = Swept()
        # The order is what makes this safe. First what is stored: an execution that begins later is not in the list.
        # Then who exists. Then the cache: an entry that a finished execution has left is there by now.
        stored = await self._store.folders(executions_prefix(namespace))
        living = await self._ask(namespace, stored)
        kept = set(living.keys) | await self._sweep_cache(namespace, swept, now, dry_run=dry_run)
        keys = _keys(namespace, kept)
        for uid in stored:
            if uid not in living.uids:
                await self._sweep_execution(f"{executions_prefix(namespace)}/{uid}", keys, swept, dry_run=dry_run)
        await self._sweep_uploads(namespace, frozenset(stored) - living.uids, swept, now, dry_run=dry_run)
        return swept

    async def _sweep_cache(self, namespace: str, swept: Swept, now: float, *, dry_run: bool) -> set[str]:
        """Remove entries that were not used for long; returns the keys of files that entries refer to.

        Also what the removed ones refer to stays for this time: someone may have found such an entry just before.
        """
        kept: set[str] = set()
        known: dict[str, tuple[str, frozenset[str]]] = {}
        async for stat in self._store.objects(f"{namespace}/{CACHE}"):
            try:
                known[stat.key] = await self._entry(stat)
            except NotFound:
                continue
            kept |= known[stat.key][1]
            if now - stat.modified > self._cache_seconds:
                swept.cache_entries += 1
                _note(swept, stat.key)
                if not dry_run:
                    await self._store.delete([stat.key])
        self._known = {key: entry for key, entry in self._known.items() if not key.startswith(f"{namespace}/")} | known
        return kept

    async def _entry(self, stat: Stat) -> tuple[str, frozenset[str]]:
        found = self._known.get(stat.key)
        if found is None or found[0] != stat.etag:
            entry = load_entry(await self._store.read(stat.key))
            files = files_of(entry.outputs.values()) if entry is not None else ()
            found = stat.etag, frozenset(file.key for file in files)
        return found

    async def _sweep_execution(self, prefix: str, kept: frozenset[str], swept: Swept, *, dry_run: bool) -> None:
        before = swept.objects
        async with aclosing(_batches(self._store.objects(prefix))) as batches:
            async for batch in batches:
                gone = [stat for stat in batch if stat.key not in kept]
                if not dry_run:
                    await self._store.delete([stat.key for stat in gone])
                swept.objects += len(gone)
                swept.bytes += sum(stat.size for stat in gone)
                _note(swept, *(stat.key for stat in gone))
        if swept.objects > before:
            swept.executions.append(prefix.rsplit("/", 1)[-1])

    async def _sweep_uploads(
        self, namespace: str, gone: frozenset[str], swept: Swept, now: float, *, dry_run: bool
    ) -> None:
        if self._store.s3 is None:
            return
        prefix = self._store.at(executions_prefix(namespace)) + "/"
        old = [
            upload
            async for upload in self._store.s3.uploads(prefix)
            if now - upload.started > UPLOAD_SECONDS or upload.key.removeprefix(prefix).split("/", 1)[0] in gone
        ]
        data = self._store.at(f"{namespace}/{DATA}") + "/"
        old += [upload async for upload in self._store.s3.uploads(data) if now - upload.started > UPLOAD_SECONDS]
        for upload in old:
            if not dry_run:
                await self._store.s3.abort(upload.key, upload.id)
            swept.uploads += 1


def _keys(namespace: str, files: Iterable[str]) -> frozenset[str]:
    found = set()
    for key in files:
        try:
            found.add(file_key(namespace, key))
        except BadObjectPath:  # nothing of ours has such a key
            continue
    return frozenset(found)


def _note(swept: Swept, *keys: str) -> None:
    swept.keys.extend(keys[: max(0, _BATCH - len(swept.keys))])


async def _batches(objects: AsyncIterator[Stat]) -> AsyncGenerator[list[Stat], None]:
    batch: list[Stat] = []
    async for stat in objects:
        batch.append(stat)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
