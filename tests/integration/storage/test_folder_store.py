from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock.storage.errors import BadObjectPath, NotFound, StoreRefused
from penstock.storage.folder import FolderStore, Writer
from penstock.storage.objects import check, open_store
from penstock.storage.settings import BadSettings, from_environment
from store_contract import DataStoreContract, RetentionContract, StoreContract, blocks, content, keys_of


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


class TestObjects(StoreContract):
    pass


class TestDataStore(DataStoreContract):
    pass


class TestRetention(RetentionContract):
    pass


async def test_of_many_writers_of_one_key_the_last_one_wins_whole(store: FolderStore) -> None:
    async def one(letter: bytes) -> None:
        async def letters() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield letter * 10_000

        await store.put("ns/data/a", letters())

    async def look() -> None:
        for _ in range(50):
            try:
                found = await store.read("ns/data/a")
            except NotFound:
                continue
            assert len(found) == 500_000
            assert len(set(found)) == 1

    await asyncio.gather(*(one(letter) for letter in (b"a", b"b", b"c", b"d")), look())
    assert len(set(await store.read("ns/data/a"))) == 1
    assert files_in(store.root / ".penstock") == []


async def test_writers_and_deleters_of_one_folder_do_not_get_in_each_others_way(store: FolderStore) -> None:
    async def work(number: int) -> None:
        for _ in range(30):
            await store.put(f"ns/data/deep/er/{number}", b"1")
            await store.delete([f"ns/data/deep/er/{number}"])

    await asyncio.gather(*(work(number) for number in range(4)))
    assert await keys_of(store) == []


async def test_an_object_that_is_being_read_is_read_to_its_end(store: FolderStore) -> None:
    await store.put("ns/data/a", blocks(5_000_000))
    download = await store.get("ns/data/a")
    await store.put("ns/data/a", b"new")
    await store.delete(["ns/data/a"])
    assert await download.whole() == await content(5_000_000)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_what_is_refused_leaves_no_open_files(store: FolderStore) -> None:
    await store.put("ns/data/folder/a", b"1")
    before = open_files()
    for _ in range(10):
        with pytest.raises(NotFound):
            await store.get("ns/data/folder")
        with pytest.raises(BadObjectPath):
            await store.copy("ns/data/folder/a", "../elsewhere")
    assert open_files() <= before + 2, "another thread of the pool may have begun"


async def test_folders_go_when_they_are_empty(store: FolderStore) -> None:
    await store.put("ns/data/a/b/c", b"1")
    await store.delete(["ns/data/a/b/c"])
    assert not (store.root / "ns").exists()


async def test_what_a_dead_writer_left_is_swept_and_what_a_living_one_writes_is_not(store: FolderStore) -> None:
    new = store.root / ".penstock" / "new"
    new.mkdir(parents=True)
    (new / "left").write_bytes(b"half")
    with Writer(store, "ns/data/a") as writer:
        writer.write(b"1")
        assert FolderStore(store.root).sweep() == 1
        writer.commit()
    assert await store.read("ns/data/a") == b"1"
    assert files_in(new) == []


async def test_our_own_folder_has_no_objects(store: FolderStore) -> None:
    await store.put("ns/data/a", b"1")
    with pytest.raises(BadObjectPath):
        await store.put(".penstock/new/a", b"1")
    assert await store.folders("") == ["ns"]
    assert await keys_of(store) == ["ns/data/a"]


async def test_links_in_the_folder_lead_nowhere(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    await store.put("ns/data/a", b"1")
    (store.root / "ns" / "data" / "link").symlink_to(tmp_path / "outside")
    for asked in (store.read("ns/data/link/secret"), store.put("ns/data/link/b", b"1")):
        with pytest.raises(BadObjectPath):
            await asked
    (store.root / "ns" / "data" / "file").symlink_to(tmp_path / "outside" / "secret")
    with pytest.raises(NotFound):
        await store.read("ns/data/file")
    assert await keys_of(store, "ns/data") == ["ns/data/a"]


async def test_a_path_below_an_object_is_refused_with_the_reason(store: FolderStore) -> None:
    await store.put("ns/data/a", b"1")
    with pytest.raises(StoreRefused, match="a part of its path is an object already"):
        await store.put("ns/data/a/b", b"1")
    await store.put("ns/data/c/d", b"1")
    with pytest.raises(StoreRefused, match="or it is a folder"):
        await store.put("ns/data/c", b"1")
    assert await keys_of(store, "ns/data") == ["ns/data/a", "ns/data/c/d"]


async def test_what_is_no_file_is_no_object(store: FolderStore) -> None:
    (store.root / "ns").mkdir(parents=True)
    os.mkfifo(store.root / "ns" / "pipe")
    with pytest.raises(NotFound):
        await store.read("ns/pipe")


async def test_a_store_that_works_passes_its_check(tmp_path: Path) -> None:
    settings = from_environment({"PENSTOCK_STORE_URL": f"file://{tmp_path}/a%20b"})
    store = open_store(settings)
    await check(store, settings)
    assert await keys_of(store) == []


async def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path, without_root: None) -> None:
    settings = from_environment({"PENSTOCK_STORE_URL": "file:///proc/penstock"})
    with pytest.raises(BadSettings, match="PENSTOCK_STORE_URL=file:///proc/penstock: objects cannot be written"):
        await check(open_store(settings), settings)


async def test_without_a_gateway_nothing_is_signed_and_it_is_told_why(store: FolderStore) -> None:
    with pytest.raises(StoreRefused, match="set PENSTOCK_GATEWAY_URL and PENSTOCK_SIGNING_KEYS"):
        await store.sign("GET", ["ns/data/a"], 60)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
