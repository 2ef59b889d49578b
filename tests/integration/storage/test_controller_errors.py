from __future__ import annotations

from pathlib import Path

import pytest

from penstock.controller.ports import CacheStore, Halt, Transient
from penstock.controller.stores import StoredCache, in_ports_words
from penstock.engine.types import CacheEntry
from penstock.storage.errors import NotFound, StoreFull, StoreRefused, StoreUnavailable
from penstock.storage.folder import FolderStore


async def test_the_cache_on_a_store_is_what_the_controller_asks_for(tmp_path: Path) -> None:
    cache: CacheStore = StoredCache(FolderStore(tmp_path))
    entry = CacheEntry("f1", {"score": 0.5}, 1.0, "iris-1")
    assert await cache.lookup("ns", "f1") is None
    await cache.remember("ns", entry)
    assert await cache.lookup("ns", "f1") == entry
    assert await cache.lookup("other", "f1") is None


async def test_a_store_that_refuses_is_asked_again_later(tmp_path: Path) -> None:
    (tmp_path / "ns").write_text("a file where a folder should be")
    cache = StoredCache(FolderStore(tmp_path))
    with pytest.raises(Transient, match="cannot be stored in a folder") as caught:
        await cache.remember("ns", CacheEntry("f1", {}, 1.0, "iris-1"))
    assert caught.value.delay == 60


def test_what_heals_by_itself_is_tried_again_and_a_full_store_stops() -> None:
    with pytest.raises(Transient, match="away"), in_ports_words():
        raise StoreUnavailable("away")
    with pytest.raises(Transient, match="no rights"), in_ports_words():
        raise StoreRefused("no rights")
    with pytest.raises(Halt, match="full"), in_ports_words():
        raise StoreFull("full")
    with pytest.raises(NotFound), in_ports_words():
        raise NotFound("gone")
