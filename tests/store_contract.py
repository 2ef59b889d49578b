"""What every store does, as tests: a subclass gives the fixture `store`. A folder and a real S3 server run it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest

from penstock.engine.types import CacheEntry, File, Value
from penstock.storage.cache import ObjectCache
from penstock.storage.datastore import DataStore
from penstock.storage.errors import BadObjectPath, NotFound
from penstock.storage.objects import Store
from penstock.storage.retention import Ask, Living, Retention

LARGE = 20_000_000
ODD = [
    "a b",
    "é/日本.csv",
    "100%",
    "a+b?c#d&e=f",
    "it's (1)!*~",
    "%2e%2e",
    "a%20b",
    '"<x>"',
    "ends with.",
    "a:b;c,d@e$",
]
DAY = 86_400


async def blocks(size: int) -> AsyncIterator[bytes]:
    """So many bytes, that are not all alike, in pieces of odd sizes."""
    number = 0
    while size:
        block = (hashlib.sha256(str(number).encode()).digest() * 3_000)[: min(size, 77_777)]
        yield block
        size -= len(block)
        number += 1


async def content(size: int) -> bytes:
    """The same as a whole."""
    return b"".join([block async for block in blocks(size)])


async def keys_of(store: Store, prefix: str = "", after: str = "") -> list[str]:
    """The keys of a listing."""
    return [stat.key async for stat in store.objects(prefix, after)]


class StoreContract:
    """Objects."""

    async def test_what_was_put_is_read_again(self, store: Store) -> None:
        stat = await store.put("ns/data/a", b"hello")
        assert (stat.key, stat.size) == ("ns/data/a", 5)
        assert await store.read("ns/data/a") == b"hello"
        assert await store.head("ns/data/a") == stat

    async def test_an_empty_object_is_an_object(self, store: Store) -> None:
        await store.put("ns/data/empty", b"")
        assert (await store.head("ns/data/empty")).size == 0
        assert await store.read("ns/data/empty") == b""

    async def test_a_large_object_is_streamed_both_ways(self, store: Store) -> None:
        stat = await store.put("ns/data/large", blocks(LARGE))
        assert stat.size == LARGE
        assert hashlib.sha256(await store.read("ns/data/large")).digest() == (
            hashlib.sha256(await content(LARGE)).digest()
        )

    async def test_reading_goes_on_where_it_ended(self, store: Store) -> None:
        await store.put("ns/data/a", b"0123456789")
        download = await store.get("ns/data/a", 4)
        assert (await download.whole(), download.stat.size) == (b"456789", 10)

    async def test_a_stream_that_breaks_leaves_what_was_there(self, store: Store) -> None:
        async def broken() -> AsyncIterator[bytes]:
            async for block in blocks(LARGE):
                yield block
            raise ConnectionResetError("the sender went")

        await store.put("ns/data/a", b"before")
        with pytest.raises(Exception, match="the sender went"):
            await store.put("ns/data/a", broken())
        assert await store.read("ns/data/a") == b"before"
        assert await keys_of(store) == ["ns/data/a"]

    async def test_what_is_not_there_is_told(self, store: Store) -> None:
        for asked in (store.head("ns/data/no"), store.read("ns/data/no"), store.copy("ns/data/no", "ns/data/a")):
            with pytest.raises(NotFound, match="there is no object 'ns/data/no' in the store"):
                await asked

    async def test_a_folder_is_no_object(self, store: Store) -> None:
        await store.put("ns/data/folder/a", b"1")
        with pytest.raises(NotFound):
            await store.head("ns/data/folder")

    async def test_a_new_content_has_a_new_etag(self, store: Store) -> None:
        first = await store.put("ns/data/a", b"one")
        second = await store.put("ns/data/a", b"two")
        assert first.etag != second.etag

    @pytest.mark.parametrize("name", ODD)
    async def test_odd_names_are_names(self, store: Store, name: str) -> None:
        await store.put(f"ns/data/{name}", name.encode())
        assert await keys_of(store, "ns/data") == [f"ns/data/{name}"]
        await store.copy(f"ns/data/{name}", "ns/data/copy")
        assert await store.read("ns/data/copy") == name.encode()
        await store.delete([f"ns/data/{name}"])
        assert await keys_of(store, "ns/data") == ["ns/data/copy"]

    async def test_a_listing_is_ordered_and_goes_on_after_any_key(self, store: Store) -> None:
        keys = sorted(f"ns/data/{name}" for name in ("a", "a-b", "a/b", "a.b/c", "b/a/c", "b/a/d", "b0", "é", "z/1"))
        keys.remove("ns/data/a")  # a folder store cannot hold both a and a/b
        for key in keys:
            await store.put(key, b"1")
        await store.put("ns/database", b"no part of ns/data")
        assert await keys_of(store, "ns/data") == keys
        for position, key in enumerate(keys):
            assert await keys_of(store, "ns/data", key) == keys[position + 1 :]
        assert await keys_of(store, "ns/data/b") == ["ns/data/b/a/c", "ns/data/b/a/d"]
        assert await keys_of(store, "ns/nothing") == []

    async def test_folders_are_the_next_parts_of_keys(self, store: Store) -> None:
        for key in ("ns/executions/u1/a/1/x", "ns/executions/u1/b/1/x", "ns/executions/u2/a/1/x", "ns/executions/file"):
            await store.put(key, b"1")
        assert await store.folders("ns/executions") == ["u1", "u2"]
        assert await store.folders("") == ["ns"]
        assert await store.folders("ns/nothing") == []

    async def test_deleting_is_done_for_many_and_twice(self, store: Store) -> None:
        keys = [f"ns/data/{number}" for number in range(1100)]
        for start in range(0, 1100, 50):
            await asyncio.gather(*(store.put(key, b"1") for key in keys[start : start + 50]))
        assert len(await keys_of(store, "ns/data")) == 1100
        await store.delete(keys)
        await store.delete(keys[:2])
        assert await keys_of(store) == []

    async def test_a_copy_is_another_object(self, store: Store) -> None:
        await store.put("ns/data/a", b"one")
        stat = await store.copy("ns/data/a", "ns/data/b")
        assert (stat.key, stat.size) == ("ns/data/b", 3)
        await store.put("ns/data/a", b"two")
        assert await store.read("ns/data/b") == b"one"

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a\0b", "a\\b"])
    async def test_a_key_leads_nowhere_else(self, store: Store, key: str) -> None:
        for asked in (store.head(key), store.read(key), store.put(key, b""), store.delete([key])):
            with pytest.raises(BadObjectPath):
                await asked


class DataStoreContract:
    """People's own objects."""

    async def test_an_object_has_a_digest_a_size_and_a_time(self, store: Store) -> None:
        data = DataStore(store, "ns")
        await data.put("raw/a.csv", b"1,2\n")
        found = await data.info("./raw//a.csv")
        assert (found.path, found.size, found.folder) == ("raw/a.csv", 4, False)
        assert found.sha256 == hashlib.sha256(b"1,2\n").hexdigest()
        assert found.modified > 1_700_000_000
        assert await (await data.get("raw/a.csv")).whole() == b"1,2\n"
        assert await data.file("raw/a.csv") == File("data/raw/a.csv", found.sha256, 4)

    async def test_a_record_counts_only_for_the_content_that_it_is_about(self, store: Store) -> None:
        data = DataStore(store, "ns")
        await data.put("a", b"ours")
        stat = await store.put("ns/data/a", b"else")  # someone with rights on the bucket
        found = await data.info("a")
        assert found.sha256 is None
        assert (await data.file("a")).sha256 == f"etag-{stat.etag}"

    async def test_no_record_takes_the_place_of_another(self, store: Store) -> None:
        data = DataStore(store, "ns")
        paths = ["a", "a.json/b", "a.json/b.json/c", "b/a.json.json"]
        for number, path in enumerate([*paths, *reversed(paths)]):
            await data.put(path, f"{number}".encode())
        for path in paths:
            content = await (await data.get(path)).whole()
            assert (await data.info(path)).sha256 == hashlib.sha256(content).hexdigest()
        for path in paths:
            await data.delete(path)
        assert await keys_of(store) == []

    async def test_a_record_of_an_earlier_version_counts_and_goes_with_its_object(self, store: Store) -> None:
        data = DataStore(store, "ns")
        stat = await store.put("ns/data/raw/tree", b"packed")
        record = {"sha256": "ab" * 32, "size": 100, "folder": True, "etag": stat.etag, "modified": 1.0, "stored": 6}
        await store.put("ns/meta/raw/tree.json", json.dumps(record).encode())
        assert await data.file("raw/tree") == File("data/raw/tree", "ab" * 32, 100, folder=True)
        await data.put("raw/tree", b"now a file")
        assert await data.file("raw/tree") == File(
            "data/raw/tree", hashlib.sha256(b"now a file").hexdigest(), len(b"now a file")
        )
        await data.delete("raw/tree")
        assert await keys_of(store) == []

    async def test_pages_hold_everything_once(self, store: Store) -> None:
        data = DataStore(store, "ns")
        for number in range(7):
            await data.put(f"raw/{number}", b"1")
        await data.put("other", b"1")
        await DataStore(store, "elsewhere").put("raw/8", b"1")
        seen: list[str] = []
        after = None
        while True:
            page = await data.list("raw", limit=3, after=after)
            assert len(page.objects) <= 3
            seen += [each.path for each in page.objects]
            after = page.after
            if after is None:
                break
        assert seen == [f"raw/{number}" for number in range(7)]
        assert [each.path for each in (await data.list()).objects] == ["other", *seen]

    async def test_what_is_deleted_is_gone_with_its_record(self, store: Store) -> None:
        data = DataStore(store, "ns")
        await data.put("a", b"1")
        await data.delete("a")
        assert await keys_of(store) == []
        for asked in (data.delete("a"), data.info("a"), data.get("a"), data.download_link("a", 60)):
            with pytest.raises(NotFound, match="there is no object 'a' in the data store"):
                await asked

    async def test_an_output_is_published_with_its_digest(self, store: Store) -> None:
        data = DataStore(store, "ns")
        await store.put("ns/executions/u/s/1/model", b"packed")
        file = File("executions/u/s/1/model", "ab" * 32, 100, folder=True)
        done = await data.publish(file, "models/{execution_id}/{date}", execution_id="iris-1", now=1_798_720_496.0)
        assert (done.path, done.sha256, done.size, done.folder) == ("models/iris-1/20261231", "ab" * 32, 100, True)
        assert await data.info("models/iris-1/20261231") == done
        assert await data.file(done.path) == File("data/models/iris-1/20261231", "ab" * 32, 100, folder=True)
        assert await store.read("ns/executions/u/s/1/model") == b"packed"

    async def test_an_output_that_is_gone_is_not_published(self, store: Store) -> None:
        with pytest.raises(NotFound):
            await DataStore(store, "ns").publish(
                File("executions/u/s/1/model", "ab" * 32, 1), "m", execution_id="a", now=0.0
            )

    async def test_a_path_leads_nowhere_else(self, store: Store) -> None:
        data = DataStore(store, "ns")
        for asked in (data.put("../executions/a", b""), data.get("/a"), data.delete(".."), data.list("../meta")):
            with pytest.raises(BadObjectPath):
                await asked


def entry(fingerprint: str, key: str) -> CacheEntry:
    """A cache entry with one file."""
    file = File(key, "ab" * 32, 1)
    outputs: dict[str, Value] = {"model": file, "score": 0.5, "parts": [None, file]}
    return CacheEntry(fingerprint, outputs, 1.5, "iris-1")


class RetentionContract:
    """What goes and what stays."""

    async def test_a_cache_entry_is_found_as_long_as_its_files_are_there(self, store: Store) -> None:
        cache = ObjectCache(store, "ns")
        await store.put("ns/executions/u/s/1/model", b"1")
        kept = entry("f1", "executions/u/s/1/model")
        await cache.remember(kept)
        assert await cache.lookup("f1") == kept
        assert await cache.lookup("f2") is None
        await store.delete(["ns/executions/u/s/1/model"])
        assert await cache.lookup("f1") is None

    async def test_objects_go_with_their_execution_and_nothing_else_does(self, store: Store) -> None:
        for key in ("executions/gone/s/1/x", "executions/gone/s/2/y", "executions/lives/s/1/x", "data/gone/x"):
            await store.put(f"ns/{key}", b"12345")
        await store.put("elsewhere/executions/gone/s/1/x", b"1")
        retention = Retention(store, answer({"lives"}), cache_seconds=DAY)
        now = await newest(store)
        before = await keys_of(store)
        would = await retention.sweep("ns", now=now, dry_run=True)
        assert await keys_of(store) == before
        did = await retention.sweep("ns", now=now)
        assert would == did
        assert (did.executions, did.objects, did.bytes) == (["gone"], 2, 10)
        assert await keys_of(store) == [
            "elsewhere/executions/gone/s/1/x",
            "ns/data/gone/x",
            "ns/executions/lives/s/1/x",
        ]
        assert (await retention.sweep("ns", now=now)).objects == 0

    async def test_cached_outputs_stay_while_their_entry_is_used_and_one_sweep_longer(self, store: Store) -> None:
        await store.put("ns/executions/gone/s/1/model", b"1")
        await store.put("ns/executions/gone/s/1/other", b"1")
        await ObjectCache(store, "ns").remember(entry("f1", "executions/gone/s/1/model"))
        retention = Retention(store, answer(()), cache_seconds=DAY)
        now = await newest(store)
        await retention.sweep("ns", now=now + DAY / 2)
        assert await keys_of(store) == ["ns/cache/f1.json", "ns/executions/gone/s/1/model"]
        expired = await retention.sweep("ns", now=now + DAY + 1)
        assert (expired.cache_entries, expired.objects) == (1, 0)
        await Retention(store, answer(()), cache_seconds=DAY).sweep("ns", now=now + DAY + 2)  # after a restart
        assert await keys_of(store) == []

    async def test_an_entry_that_is_used_does_not_expire(self, store: Store) -> None:
        await store.put("ns/executions/gone/s/1/model", b"1")
        cache = ObjectCache(store, "ns")
        await cache.remember(entry("f1", "executions/gone/s/1/model"))
        written = (await store.head("ns/cache/f1.json")).modified
        await ObjectCache(store, "ns", clock=lambda: written + DAY / 2).lookup("f1")
        assert (await store.head("ns/cache/f1.json")).modified == written
        while (await store.head("ns/cache/f1.json")).modified == written:  # S3 counts whole seconds
            assert await ObjectCache(store, "ns", clock=lambda: written + DAY + 1).lookup("f1") is not None

    async def test_outputs_stay_that_living_executions_took_from_the_cache(self, store: Store) -> None:
        await store.put("ns/executions/gone/s/1/model", b"1")
        await store.put("ns/executions/gone/s/1/other", b"1")
        ask = answer({"lives"}, {"executions/gone/s/1/model"})
        await Retention(store, ask, cache_seconds=DAY).sweep("ns", now=0.0)
        assert await keys_of(store) == ["ns/executions/gone/s/1/model"]

    async def test_nothing_goes_while_nobody_can_say_who_lives(self, store: Store) -> None:
        async def ask(namespace: str, uids: Sequence[str]) -> Living:
            raise ConnectionError("the API server does not answer")

        await store.put("ns/executions/gone/s/1/model", b"1")
        with pytest.raises(ConnectionError):
            await Retention(store, ask, cache_seconds=DAY).sweep("ns", now=0.0)
        assert await keys_of(store) == ["ns/executions/gone/s/1/model"]


def answer(uids: Iterable[str], keys: Iterable[str] = ()) -> Ask:
    """Says who lives."""
    living = Living(frozenset(uids), frozenset(keys))

    async def ask(namespace: str, asked: Sequence[str]) -> Living:
        return living

    return ask


async def newest(store: Store) -> float:
    """When the newest object was written."""
    return max([stat.modified async for stat in store.objects("")])
