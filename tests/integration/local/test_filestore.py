"""The files of one machine as an object store: what `Objects` puts is seen through it, and the other way round."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.types import AttemptId, File
from penstock.local.archives import Archives
from penstock.local.database import Database
from penstock.local.filestore import HomeStore
from penstock.local.gc import Collector, Rules
from penstock.local.home import Home
from penstock.local.objects import Objects
from penstock.step.archive import Packing, unpack
from penstock.step.digest import digest
from penstock.storage.datastore import DataStore
from penstock.storage.errors import BadObjectPath, NotFound, StoreFull, StoreRefused
from penstock.storage.folder import Writer
from penstock.storage.paths import file_key, output_key
from store_contract import DataStoreContract, StoreContract, keys_of

DAY = 86_400.0
NAMES = st.lists(
    st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\"), min_size=1, max_size=20).filter(
        lambda name: name not in {".", ".."} and not name.startswith(".new-")
    ),
    min_size=1,
    max_size=3,
)


class Place:
    """A home, and both ways to its files."""

    def __init__(self, root: Path, namespace: str = "default") -> None:
        self.home = Home(root)
        self.objects = Objects(self.home)
        self.store = HomeStore(self.home, namespace=namespace)
        self.data = DataStore(self.store, namespace)

    def given(self, name: str, content: bytes) -> Path:
        path = self.home.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def folder(self, **files: str) -> Path:
        """A folder with files, a link, a program and an empty folder in it."""
        top = self.home.root / "given"
        (top / "empty é").mkdir(parents=True, exist_ok=True)
        for name, content in {"a b": "one", **files}.items():
            (top / name).write_text(content)
        (top / "run").write_text("#!/bin/sh\n")
        (top / "run").chmod(0o755)
        if not (top / "link").is_symlink():
            (top / "link").symlink_to("a b")
        return top

    def output(self, content: bytes = b"1,2\n") -> File:
        key = output_key("0b1c", AttemptId("make", 0, 1), "table")
        return self.objects.put(self.given("made", content), key)

    def archives(self) -> list[str]:
        folder = self.home.root / "store" / "archives"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def leftovers(self) -> list[Path]:
        """What is unfinished."""
        found = [path for path in self.home.root.rglob(".new-*") if path.name != ".new-writes"]
        return [*found, *(self.home.datastore / ".new-writes").glob("*"), *(self.home.root / "store/new").glob("*")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path / "home")
    yield found
    assert found.leftovers() == []
    asyncio.run(found.store.close())


@pytest.fixture
def store(tmp_path: Path) -> HomeStore:
    return HomeStore(Home(tmp_path / "home"), namespace="ns")


class TestObjects(StoreContract):
    # These write what cannot be written here; what is said of it is below.
    test_a_listing_is_ordered_and_goes_on_after_any_key = None  # type: ignore[assignment]
    test_folders_are_the_next_parts_of_keys = None  # type: ignore[assignment]


class TestDataStore(DataStoreContract):
    test_a_record_counts_only_for_the_content_that_it_is_about = None  # type: ignore[assignment]
    test_a_record_of_an_earlier_version_counts_and_goes_with_its_object = None  # type: ignore[assignment]
    test_pages_hold_everything_once = None  # type: ignore[assignment]
    test_an_output_is_published_with_its_digest = None  # type: ignore[assignment]


# Both ways


@settings(max_examples=60, deadline=None)
@given(NAMES, st.binary(max_size=100))
def test_what_one_puts_the_other_has(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], content: bytes
) -> None:
    async def work() -> None:
        place = Place(tmp_path_factory.mktemp("home"))
        path = "/".join(names)
        sha256 = hashlib.sha256(content).hexdigest()
        put = place.objects.put_data(place.given("x", content), path)
        assert await place.data.file(path) == put == File(f"data/{path}", sha256, len(content))
        assert await (await place.data.get(path)).whole() == content
        assert [each.path for each in (await place.data.list()).objects] == [path]

        await place.data.delete(path)
        assert list(place.objects.list_data()) == []
        await place.data.put(path, content)
        assert [each.path for each in place.objects.list_data()] == [path]
        assert place.objects.data(path) == put
        assert place.objects.path(put).stat().st_mode & 0o222 == 0, "steps get it, and must not write it"
        place.objects.delete_data(path)
        with pytest.raises(NotFound, match="in the data store"):
            await place.data.info(path)
        await place.store.close()

    asyncio.run(work())


async def test_files_given_to_a_run_and_outputs_of_steps_are_there_by_their_keys(place: Place) -> None:
    path = place.objects.add_input(place.given("iris é.csv", b"1,2\n"))
    assert (await place.data.info(path)).sha256 == hashlib.sha256(b"1,2\n").hexdigest()
    made = place.output(b"3,4\n")
    assert made.key == "executions/0b1c/make/0/1/table"
    assert await place.store.read(file_key("default", made.key)) == b"3,4\n"
    assert (place.home.objects / "0b1c" / "make" / "0" / "1" / "table").read_bytes() == b"3,4\n"
    assert await place.store.folders("default/executions") == ["0b1c"]
    assert (await keys_of(place.store))[:2] == [f"default/data/{path}", f"default/{made.key}"]


async def test_keys_of_earlier_versions_are_read(place: Place) -> None:
    made = place.output(b"3,4\n")
    old = File(made.key.removeprefix("executions/"), made.sha256, made.size)
    assert place.objects.path(old) == place.objects.path(made)
    assert (place.objects.exists(old), place.objects.verify(old)) == (True, True)


async def test_a_listing_is_in_the_order_of_keys_and_in_pages(place: Place) -> None:
    paths = sorted(["a", "a-b", "a.b/c", "b/a/c", "b/a/d", "b0", "é", "z/1", "tree", "tree-", "tree.x/y"])
    for path in paths:
        place.objects.put_data(place.folder() if path == "tree" else place.given("x", b"1"), path)
    (place.home.datastore / "by hand").mkdir()
    (place.home.datastore / "by hand" / "bad\\name").touch()
    os.close(os.open(os.fsencode(place.home.datastore / "by hand") + b"/\xff", os.O_CREAT | os.O_WRONLY))
    for position in range(len(paths)):
        found = await place.data.list(limit=3, after=paths[position - 1] if position else None)
        assert [each.path for each in found.objects] == paths[position : position + 3]
    assert [each.path for each in (await place.data.list("b")).objects] == ["b/a/c", "b/a/d"]
    assert (await place.data.list("tree")).objects == ()
    assert (await place.data.list("nothing")).objects == ()


async def test_a_listing_and_a_status_read_no_content(place: Place) -> None:
    huge = 1 << 42
    tree = place.home.datastore / "tree"
    tree.mkdir()
    for path in (place.home.datastore / "file", tree / "file"):
        with path.open("wb") as file:
            file.truncate(huge)  # no disk is as large: to read it would take hours
    tree.chmod(0o555)
    assert [(each.path, each.size) for each in (await place.data.list()).objects] == [("file", huge), ("tree", huge)]
    assert (await place.store.head("default/data/tree")).size == huge


# Digests


async def test_a_digest_is_found_once_and_anew_when_the_file_changes(place: Place) -> None:
    place.objects.put_data(place.given("x", b"before"), "x")
    first = await place.data.info("x")
    assert first.sha256 == hashlib.sha256(b"before").hexdigest()
    stored = place.home.datastore / "x"
    stored.chmod(0o644)
    times = (stored.stat().st_atime_ns, stored.stat().st_mtime_ns)
    with stored.open("r+b") as file:
        file.write(b"AFTER!")
    os.utime(stored, ns=times)
    assert await place.data.info("x") == first, "same size, same time: it is not read again"
    os.utime(stored, ns=(times[0], times[1] + 1))
    assert (await place.data.info("x")).sha256 == hashlib.sha256(b"AFTER!").hexdigest()
    stored.write_bytes(b"longer than before")
    assert (await place.data.file("x")).sha256 == hashlib.sha256(b"longer than before").hexdigest()


# Folders


async def test_a_folder_is_fetched_as_the_archive_that_the_cluster_has(place: Place) -> None:
    source = place.folder()
    put = place.objects.put_data(source, "models/tree é")
    info = await place.data.info("models/tree é")
    assert (info.sha256, info.size, info.folder) == (digest(source).sha256, put.size, True)
    download = await place.data.get("models/tree é")
    archive = await download.whole()
    assert archive == b"".join(Packing(source))
    assert download.stat.size == len(archive)
    assert unpack(BytesIO(archive).read, place.home.root / "fetched", max_bytes=1 << 20).sha256 == put.sha256
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        assert "a b" in tar.getnames()

    resumed = await place.store.get("default/data/models/tree é", 10)
    assert await resumed.whole() == archive[10:]
    assert resumed.stat == download.stat


async def test_an_archive_is_made_once_and_anew_when_the_folder_changes(place: Place) -> None:
    place.objects.put_data(place.folder(), "tree")
    found = await asyncio.gather(*(place.store.opened("default/data/tree") for _ in range(5)))
    assert len({os.fstat(file.fileno()).st_ino for file, _ in found}) == 1
    for file, _ in found:
        file.close()
    (first,) = place.archives()
    made = (place.home.root / "store" / "archives" / first).stat().st_ino
    await (await place.data.get("tree")).whole()
    assert [(place.home.root / "store" / "archives" / name).stat().st_ino for name in place.archives()] == [made]

    put = place.objects.put_data(place.folder(more="two"), "tree")
    archive = await (await place.data.get("tree")).whole()
    assert unpack(BytesIO(archive).read, place.home.root / "fetched", max_bytes=1 << 20).sha256 == put.sha256
    assert len(place.archives()) == 1
    assert place.archives() != [first]
    await place.data.delete("tree")
    assert (place.archives(), list(place.objects.list_data())) == ([], [])


async def test_a_change_deep_in_a_folder_counts(place: Place) -> None:
    place.objects.put_data(place.folder(), "tree")
    before = await place.data.info("tree")
    inside = place.home.datastore / "tree" / "a b"
    inside.chmod(0o644)
    inside.write_text("two")
    after = await place.data.info("tree")
    assert after.sha256 == digest(place.home.datastore / "tree").sha256 != before.sha256


async def test_archives_do_not_fill_the_disk(place: Place) -> None:
    archive = b"".join(Packing(place.folder(noise=os.urandom(50_000).hex())))
    kept = place.home.root / "kept"
    room = 10 * len(archive)
    archives = Archives(kept, max_bytes=2 * len(archive), free=lambda: room)
    store = HomeStore(place.home, archives=archives)
    for number in range(4):
        place.objects.put_data(place.folder(), f"{number}")
        assert await store.read(f"default/data/{number}") == archive
    assert len(list(kept.iterdir())) == 2
    reading = await store.get("default/data/3")
    room = 0
    place.objects.put_data(place.folder(), "more")
    with pytest.raises(StoreFull, match="no room to make it; free some space"):
        await store.get("default/data/more")
    assert list(kept.iterdir()) == []
    assert await reading.whole() == archive, "what is being read is read to its end"
    await store.close()


async def test_what_nobody_needs_goes_after_a_day(place: Place) -> None:
    place.objects.put_data(place.folder(), "tree")
    place.objects.put_data(place.given("x", b"1"), "gone")
    for path in ("tree", "gone"):
        await place.data.info(path)
    await place.store.read("default/data/tree")
    place.objects.delete_data("gone")
    records = place.home.root / "store" / "records"
    now = max(path.stat().st_mtime for path in records.iterdir())
    assert place.store.clean(now) == 0
    would = place.store.clean(now + 2 * DAY, dry_run=True)
    assert (len(place.archives()), len(list(records.iterdir()))) == (1, 2)
    assert place.store.clean(now + 2 * DAY) == would > 0
    assert (place.archives(), len(list(records.iterdir()))) == ([], 1)
    assert (await place.data.info("tree")).folder


async def test_a_collection_removes_what_killed_copies_have_left_wherever_it_is(place: Place) -> None:
    place.objects.put_data(place.folder(), "deep/er/tree")
    await place.store.read("default/data/deep/er/tree")
    for path in (".new-a", "deep/er/.new-b", "uploads/.new-c"):
        shutil.copytree(place.home.datastore / "deep/er/tree", place.home.datastore / path, symlinks=True)
    (place.home.datastore / "deep/.new-d").write_text("a file")
    database = Database(place.home)
    collector = Collector(place.home, database)
    rules, now = Rules(keep=0, days=0.0, cache_days=0.0), time.time()
    assert collector.collect(rules, now=now).other_bytes == 0
    would = collector.collect(rules, now=now + 2 * DAY, dry_run=True).other_bytes
    assert collector.collect(rules, now=now + 2 * DAY).other_bytes == would > 0
    database.close()
    assert (place.leftovers(), place.archives()) == ([], [])
    assert [each.path for each in place.objects.list_data()] == ["deep/er/tree"]


async def test_an_uploaded_archive_becomes_a_folder_when_it_is_recorded(place: Place) -> None:
    source = place.folder()
    archive, named = b"".join(Packing(source)), digest(source)
    stat = await place.store.put("default/data/models/tree", archive)
    done = await place.data.record("models/tree", sha256=named.sha256, size=named.size, folder=True, etag=stat.etag)
    assert (done.sha256, done.folder) == (named.sha256, True)
    assert await place.data.info("models/tree") == done
    assert place.objects.data("models/tree") == File("data/models/tree", named.sha256, named.size, folder=True)
    assert (place.home.datastore / "models/tree/a b").stat().st_mode & 0o222 == 0
    assert (place.home.datastore / "models/tree").stat().st_mode & 0o222 == 0
    assert await (await place.data.get("models/tree")).whole() == archive
    # The answer was lost, and the client asks again.
    assert done == await place.data.record(
        "models/tree", sha256=named.sha256, size=named.size, folder=True, etag=stat.etag
    )
    with pytest.raises(StoreRefused, match="somebody else"):
        await place.data.record("models/tree", sha256="ab" * 32, size=named.size, folder=True, etag=stat.etag)

    await place.data.put("models/tree", b"now a file")
    assert place.objects.path(place.objects.data("models/tree")).read_bytes() == b"now a file"
    await place.data.delete("models/tree")
    assert not (place.home.datastore / "models").exists()


@pytest.mark.parametrize(
    ("content", "sha256", "size", "said"),
    [
        (None, "ab" * 32, None, "is another folder than was named"),
        (None, None, 3, "more than the 3 bytes"),
        (b"no archive", None, None, "put it again"),
    ],
)
async def test_an_archive_that_is_not_what_was_named_stays_out(
    place: Place, content: bytes | None, sha256: str | None, size: int | None, said: str
) -> None:
    source = place.folder()
    named = digest(source)
    put = await place.store.put("default/data/tree", content or b"".join(Packing(source)))
    with pytest.raises(StoreRefused, match=said):
        await place.data.record(
            "tree", sha256=sha256 or named.sha256, size=named.size if size is None else size, folder=True, etag=put.etag
        )
    assert (place.home.datastore / "tree").is_file()


async def test_an_output_is_published_file_or_folder(place: Place) -> None:
    table = place.output()
    done = await place.data.publish(table, "tables/{execution_id}", execution_id="iris-1", now=0.0)
    assert (done.path, place.objects.data("tables/iris-1").sha256) == ("tables/iris-1", table.sha256)
    model = place.objects.put(place.folder(), output_key("0b1c", AttemptId("fit", -1, 1), "model"))
    await place.data.publish(model, "models/{execution_id}", execution_id="iris-1", now=0.0)
    found = place.objects.data("models/iris-1")
    assert (found.sha256, found.folder) == (model.sha256, True)
    assert await place.data.file("models/iris-1") == found
    assert place.objects.verify(model)


# What is refused


async def test_what_steps_gave_cannot_be_written_or_removed(place: Place) -> None:
    made = place.output()
    key = file_key("default", made.key)
    await place.data.put("x", b"1")
    for asked in (
        place.store.put(key, b"changed"),
        place.store.put("default/executions/other/s/1/x", b"new"),
        place.store.sign("PUT", [key], 60),
        place.store.copy("default/data/x", key),
        place.store.delete([key]),
    ):
        with pytest.raises(StoreRefused, match=r"cannot be (written|removed)"):
            await asked
    assert place.objects.verify(made)
    assert not (place.home.objects / "other").exists()


async def test_there_is_one_namespace(place: Place) -> None:
    data = DataStore(place.store, "team-a")
    for asked in (data.put("x", b""), data.info("x"), data.list(), data.delete("x"), data.upload_link("x", 60)):
        with pytest.raises(BadObjectPath, match=r'no namespace "team-a" on one machine.* in namespace "default"'):
            await asked


async def test_links_lead_nowhere(place: Place) -> None:
    (place.home.root / "secret").write_text("x")
    place.home.database.touch()
    top = place.home.datastore
    (top / "file").symlink_to(place.home.root / "secret")
    (top / "out").symlink_to(place.home.root)
    assert (await place.data.list()).objects == ()
    with pytest.raises(NotFound):
        await place.data.get("file")
    for asked in (place.data.get("out/secret"), place.data.put("out/secret", b"1"), place.data.list("out/runs")):
        with pytest.raises(BadObjectPath, match="leads out"):
            await asked
    await place.data.put("file", b"ours")
    assert (place.home.root / "secret").read_text() == "x"
    assert (top / "file").read_bytes() == b"ours"


async def test_nothing_is_put_into_an_object_or_in_place_of_many(place: Place) -> None:
    place.objects.put_data(place.folder(), "tree")
    await place.data.put("many/x", b"1")
    for path in ("tree/new", "tree/a b", "tree/empty é/x", "many", "many/x/y"):
        with pytest.raises(StoreRefused, match="cannot be stored"):
            await place.data.put(path, b"1")
    for path in ("tree/a b", "many", "tree/empty é"):
        with pytest.raises(NotFound):
            await place.data.info(path)
    with pytest.raises(BadObjectPath):
        await place.data.put("x/.new-0", b"1")
    assert [each.path for each in place.objects.list_data()] == ["many/x", "tree"]
    assert place.objects.data("tree").sha256 == digest(place.folder()).sha256


def test_whoever_looks_at_any_moment_sees_an_object_whole_or_not_at_all(place: Place) -> None:
    archive, named = b"".join(Packing(place.folder(more="1"))), digest(place.folder(more="1"))
    seen: set[tuple[str, ...]] = set()

    async def changes() -> None:
        with watching(lambda: seen.add(tuple(each.key for each in place.store._walk("default/data", "")))):
            place.objects.put_data(place.folder(more="0"), "tree")
            place.objects.put_data(place.folder(more="1"), "tree")
            stat = await place.store.put("default/data/tree", archive)
            await place.data.record("tree", sha256=named.sha256, size=named.size, folder=True, etag=stat.etag)
            await place.store.copy("default/data/tree", "default/data/tree")
            await place.data.delete("tree")

    asyncio.run(changes())
    assert seen == {(), ("default/data/tree",)}


@contextmanager
def watching(look: Callable[[], object]) -> Iterator[None]:
    """Looks before each change of a name or of rights, in whatever thread."""
    on, inside = [True], threading.local()

    def hook(event: str, _: object) -> None:
        if on and event in {"os.rename", "os.chmod", "os.remove", "os.rmdir"} and not getattr(inside, "busy", False):
            inside.busy = True
            try:
                look()
            finally:
                inside.busy = False

    sys.addaudithook(hook)  # which stays as long as the process
    try:
        yield
    finally:
        on.clear()


# Signing


async def test_the_secret_of_a_home_is_made_once_and_for_its_owner_alone(place: Place) -> None:
    first = await place.data.upload_link("x", 60)
    assert first.url.startswith("/files/default/data/x?method=PUT")
    path = place.home.root / "store" / "signing-key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert HomeStore(place.home).keys == place.store.keys
    path.write_text("short")
    with pytest.raises(StoreRefused, match="remove the file"):
        _ = HomeStore(place.home).keys


async def test_what_a_dead_writer_left_goes(place: Place) -> None:
    with Writer(place.store, "default/data/x") as writer:
        (unfinished,) = (place.home.datastore / ".new-writes").iterdir()
        assert place.store.sweep() == 0
        unfinished.with_name("dead").touch()
        assert place.store.sweep() == 1
        assert unfinished.exists()
        writer.write(b"1")
        writer.commit()
    assert await place.store.read("default/data/x") == b"1"
    place.store.probe()
    assert await keys_of(place.store) == ["default/data/x"]
