"""The files of one machine as an object store: for the gateway, the data store's API and signed URLs.

Keys are those of `storage.paths`, in one namespace:

    <namespace>/data/<path>               datastore/<path>
    <namespace>/executions/<uid>/…        objects/<uid>/…, which cannot be written
    <namespace>/records/<digest>.json     store/records/<digest>.json

A folder that cannot be written is one object. What is known of it comes from the names, sizes and times in it; who
reads it gets a compressed tar, which is made at the first time (`archives`). Links are no objects.

What things cost: a listing and `head` look at the status of each file once, and of every file in folders that are
objects; a listing sorts the names of one folder at a time. No content is read, but where somebody asks for a digest
that nobody knows yet (`digest`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from penstock.local.archives import DAY, Archives
from penstock.local.home import Home
from penstock.local.objects import NEW, copy_tree, freeze, install, is_object, remove, take_out
from penstock.local.store import NAMESPACE
from penstock.step.archive import ArchiveError, unpack
from penstock.step.digest import Digest, digest
from penstock.step.folders import UnsafePath
from penstock.storage.errors import BadObjectPath, NotFound, StoreFull, StoreRefused, StoreUnavailable
from penstock.storage.folder import FolderStore, Writer, file_stat
from penstock.storage.objects import Method, SignedRequest, Stat
from penstock.storage.paths import CACHE, DATA, EXECUTIONS, MAX_PATH, META, RECORDS, check_key, check_part
from penstock.storage.signing import BadKeys, SigningKeys

WRITES = f"{NEW}writes"
"""The folder of the data store in which files are made."""
_KEY = "signing-key"
_TRIES = 3
_AT_ONCE = 2
"""Folders and large files that are read as a whole at a time."""

T = TypeVar("T")


class HomeStore(FolderStore):
    """Implements `storage.objects.Store` over a home.

    Args:
        home: the home.
        namespace: the one namespace that there is.
        gateway_url: where these files are served; `/`: by whoever answers with the URL.
        archives: archives of folders; None: those of the home.
    """

    def __init__(
        self,
        home: Home,
        *,
        namespace: str = NAMESPACE,
        gateway_url: str = "/",
        archives: Archives | None = None,
    ) -> None:
        super().__init__(home.datastore, gateway_url=gateway_url)
        self.namespace = namespace
        self._own = home.root / "store"
        self._archives = archives or Archives(self._own / "archives")
        self._tops = {DATA: home.datastore, EXECUTIONS: home.objects, RECORDS: self._own / RECORDS}
        self._real = {kind: top.resolve() for kind, top in self._tops.items()}
        self._pool = ThreadPoolExecutor(_AT_ONCE, "penstock-files")
        self._packing = threading.Lock()
        self._naming = threading.Lock()

    @property
    def keys(self) -> SigningKeys:
        """What URLs are signed with: a secret of the home, made when it is first needed.

        Raises:
            StoreRefused: the secret cannot be read, or is none.
        """
        if self._keys is None:
            with self._in_words(""):
                self._keys = _signing_keys(self._own / _KEY)
        return self._keys

    async def sign(
        self, method: Method, keys: Sequence[str], seconds: int, *, max_bytes: int | None = None
    ) -> list[SignedRequest]:
        """See `Store`."""
        for key in keys:
            if method == "PUT":
                self._target(key)
            else:
                self._place_of(key)
        await asyncio.to_thread(lambda: self.keys)
        return await super().sign(method, keys, seconds, max_bytes=max_bytes)

    async def opened(self, key: str) -> tuple[BinaryIO, Stat]:
        """See `Store`; of a folder its archive, which then has the size that is told."""
        try:
            return await super().opened(key)
        except NotFound:
            if not await asyncio.to_thread(self._is_folder, key):
                raise
        for _ in range(_TRIES):
            found = await asyncio.to_thread(self._archive, key)
            if found is not None:
                return found
            await self._read_whole(lambda: self._pack(key))
        raise StoreUnavailable(f"{key!r} is changed all the time; try again later")

    def stat(self, key: str) -> Stat:
        """See `FolderStore`. The size of a folder is that of the files in it."""
        with self._in_words(key):
            place = self._place(key)
            return _stat_of(key, place, place.lstat())

    async def digest(self, stat: Stat) -> Digest | None:
        """See `Store`."""
        return await self._read_whole(lambda: self._digest(stat))

    async def unpacked(self, stat: Stat, sha256: str, size: int) -> Stat:
        """See `Store`."""
        return await self._read_whole(lambda: self._unpack(stat, sha256, size))

    def probe(self) -> None:
        """See `FolderStore`."""
        with Writer(self, f"{self.namespace}/{DATA}/probe") as writer:
            writer.write(b"probe")

    def clean(self, now: float, *, dry_run: bool = False) -> int:
        """Remove what nobody needs: archives that were not used for a day, records of objects that are gone.

        Args:
            now: seconds since the epoch.
            dry_run: only say how much.

        Returns:
            How many bytes.

        Raises:
            StoreError: something cannot be read or removed.
        """
        if not dry_run:
            self.sweep()
        with self._in_words(""):
            size = self._archives.clean(now, dry_run=dry_run)
            records = self._tops[RECORDS]
            for path in records.iterdir() if records.is_dir() else ():
                status = path.lstat()
                if now - status.st_mtime > DAY and not self._is_of_use(path):
                    size += status.st_size
                    if not dry_run:
                        path.unlink(missing_ok=True)
        return size

    async def close(self) -> None:
        """See `Store`."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    async def _read_whole(self, work: Callable[[], T]) -> T:
        """Work that takes as long as the content is large; the threads that serve small files are not for this."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    # Where things are

    def _split(self, key: str) -> tuple[str, str]:
        """The kind of a key and what follows it."""
        namespace, _, rest = key.partition("/")
        if namespace != self.namespace:
            raise BadObjectPath(
                f'there is no namespace "{namespace}" on one machine: its files are in namespace "{self.namespace}"'
            )
        kind, _, rest = rest.partition("/")
        return kind, rest

    def _place_of(self, key: str) -> Path:
        """Where the object with a key is or would be; nothing is looked at.

        Raises:
            BadObjectPath: the key is none, or of another namespace.
            NotFound: it is of a kind that is not kept here: the cache, and records of earlier versions.
        """
        kind, rest = self._split(check_key(key))
        if kind in (CACHE, META):
            raise NotFound(f"there is no object {key!r} in the store")
        if kind not in self._tops or not rest or any(part.startswith(NEW) for part in rest.split("/")):
            raise BadObjectPath(f"{key!r} is not a key of an object")
        return self._tops[kind] / rest

    def _place(self, key: str) -> Path:
        """The same, if nothing above it is an object or leads elsewhere."""
        place = self._place_of(key)
        kind, _ = self._split(key)
        if not place.parent.resolve().is_relative_to(self._real[kind]):
            raise BadObjectPath(f"{key!r} leads out of the store; copy the data into it")
        if _inside_object(place, self._tops[kind]):
            raise NotFound(f"there is no object {key!r} in the store")
        return place

    def _target(self, key: str) -> tuple[Path, Path]:
        """See `FolderStore`."""
        kind, _ = self._split(check_key(key))
        if kind not in (DATA, RECORDS):
            raise StoreRefused(f"{key!r} cannot be written: on one machine steps alone give files to their execution")
        try:
            place = self._place(key)
        except NotFound:
            raise StoreRefused(
                f"{key!r} cannot be stored in a folder: a part of its path is an object already"
            ) from None
        return place, self._unfinished()[kind == RECORDS]

    def _unfinished(self) -> Sequence[Path]:
        """See `FolderStore`: beside where files go, so that they can be given their name."""
        return self.root / WRITES, self._own / "new"

    def _replace(self, path: Path, target: Path) -> None:
        """See `FolderStore`. Steps that get an object cannot write it."""
        if not target.is_relative_to(self.root):
            path.replace(target)
            return
        freeze(path)
        with self._naming:
            install(path, target)

    # Listing

    def _folders(self, prefix: str) -> list[str]:
        top = f"{prefix}/" if prefix else ""
        return [name[len(top) : -1] for name, _ in reversed(self._entries(top)) if name.endswith("/")]

    def _walk(self, prefix: str, after: str) -> Iterator[Stat]:
        pending = self._entries(f"{prefix}/" if prefix else "")
        while pending:
            name, entry = pending.pop()
            if name.endswith("/"):
                # Nothing in a folder comes after `after` if all that begins with its name comes before.
                if not after or name >= after or after.startswith(name):
                    pending.extend(self._entries(name))
            elif name > after and entry is not None:
                with suppress(NotFound), self._in_words(name):  # it went meanwhile, or is something else
                    yield _stat_of(name, Path(entry.path), entry.stat(follow_symlinks=False))

    def _entries(self, folder: str) -> list[_Named]:
        """What is in a folder, by key, the last one first; keys of folders that hold objects end with a slash."""
        try:
            if not folder:
                return [_Named(f"{self.namespace}/", None)]
            kind, rest = self._split(folder[:-1])
            if not kind:
                kinds = [kind for kind, top in self._tops.items() if top.is_dir() and any(top.iterdir())]
                return [_Named(f"{folder}{kind}/", None) for kind in sorted(kinds, reverse=True)]
            if rest:
                place = self._place(folder[:-1])
                if is_object(place):
                    return []
            elif kind in self._tops:
                place = self._tops[kind]
            else:
                return []
            with self._in_words(folder), os.scandir(place) as entries:
                found = [named for entry in entries if (named := _named(folder, entry)) is not None]
        except (NotFound, FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda named: named.key.encode(), reverse=True)

    # Changes

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            with suppress(NotFound), self._in_words(key):
                place = self._place(key)
                if self._split(key)[0] == EXECUTIONS:
                    raise StoreRefused(f"{key!r} cannot be removed: it goes with its execution (penstock gc)")
                if not place.is_relative_to(self.root):
                    place.unlink()
                    continue
                with self._naming:
                    if place.is_symlink() or not place.is_dir() or is_object(place):
                        take_out(place, self.root)
                self._archives.forget(key)

    def _copy(self, source: str, target: str) -> Stat:
        if not self._is_folder(source):
            return super()._copy(source, target)
        place, _ = self._target(target)
        with self._in_words(target), self._scratch() as scratch:
            copy_tree(self._place(source), scratch / "copy")
            self._install(scratch / "copy", place)
        return self.stat(target)

    def _unpack(self, stat: Stat, sha256: str, size: int) -> Stat:
        key = stat.key
        place, _ = self._target(key)
        if self._is_folder(key):
            known = self._digest(stat)
            if known is None or (known.sha256, known.size) != (sha256, size):
                raise StoreRefused(f"{key!r} is another folder than was named; put it again")
            return stat
        if size > self.free():
            raise StoreFull(f"{self.root}: a folder of {size:,} bytes does not fit into what is left; free some space")
        file, found = self.open(key)
        with file, self._in_words(key), self._scratch() as scratch:
            if found != stat:
                raise StoreRefused(_OTHER.format(key))
            try:
                held = unpack(file.read, scratch / "folder", max_bytes=size)
            except ArchiveError as error:
                raise StoreRefused(f"what was uploaded as {key!r} {error}; put it again") from None
            if (held.sha256, held.size) != (sha256, size):
                raise StoreRefused(f"what was uploaded as {key!r} is another folder than was named; put it again")
            self._install(scratch / "folder", place, stat)
        return self.stat(key)

    def _install(self, folder: Path, place: Path, instead: Stat | None = None) -> None:
        """Make a finished folder an object; if it is to take the place of something, then only of that."""
        freeze(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._naming:
            if instead is not None and self.stat(instead.key) != instead:
                raise StoreRefused(_OTHER.format(instead.key))
            install(folder, place)

    # Whole contents

    def _is_folder(self, key: str) -> bool:
        with self._in_words(key):
            return stat.S_ISDIR(self._place(key).lstat().st_mode) and is_object(self._place(key))

    def _digest(self, stat: Stat) -> Digest | None:
        with self._in_words(stat.key):
            try:
                found = digest(self._place(stat.key))
            except UnsafePath as error:
                raise StoreRefused(str(error)) from None
        return found if self.stat(stat.key) == stat else None

    def _archive(self, key: str) -> tuple[BinaryIO, Stat] | None:
        found = self.stat(key)
        file = self._archives.find(key, found.etag)
        if file is None:
            return None
        size = os.fstat(file.fileno()).st_size
        return file, Stat(key, size, found.modified, found.etag)

    def _pack(self, key: str) -> None:
        with self._packing, self._in_words(key):  # who waits finds it made
            found = self.stat(key)
            made = self._archives.find(key, found.etag)
            if made is not None:
                made.close()
                return
            try:
                self._archives.make(key, found.etag, self._place(key), lambda: self.stat(key) == found)
            except UnsafePath as error:
                raise StoreRefused(str(error)) from None
            except ArchiveError as error:
                raise StoreUnavailable(f"{key!r} {error}") from None

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.root, prefix=NEW))
        try:
            yield folder
        finally:
            remove(folder)

    def _is_of_use(self, record: Path) -> bool:
        """Whether a record is about an object that is there."""
        try:
            path = json.loads(record.read_bytes())["path"]
            return self._place(f"{self.namespace}/{DATA}/{path}").exists()
        except (NotFound, BadObjectPath, ValueError, LookupError, TypeError):
            return False


_OTHER = "{!r} is not what was uploaded: somebody else has written it meanwhile; put it again"


class _Named(NamedTuple):
    """Something in a listing.

    Attributes:
        key: its key; that of a folder which holds objects ends with a slash.
        entry: what is on disk; None for what is no folder there.
    """

    key: str
    entry: os.DirEntry[str] | None


def _named(folder: str, entry: os.DirEntry[str]) -> _Named | None:
    """A thing on disk as it is listed; None: no object can have its name."""
    key = folder + entry.name
    if entry.name.startswith(NEW):
        return None
    try:
        check_part(entry.name)
    except BadObjectPath:
        return None
    if len(key.split("/", 2)[2].encode()) > MAX_PATH:
        return None
    holds = entry.is_dir(follow_symlinks=False) and not is_object(Path(entry.path))
    return _Named(f"{key}/" if holds else key, entry)


def _inside_object(place: Path, top: Path) -> bool:
    for above in place.parents:
        if above == top:
            break
        with suppress(FileNotFoundError, NotADirectoryError):
            if above.is_dir() and is_object(above):
                return True
    return False


def _stat_of(key: str, place: Path, found: os.stat_result) -> Stat:
    """What is known of a file, or of a folder that cannot be written.

    Raises:
        NotFound: it is neither.
    """
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_IWUSR:
        return file_stat(key, found)
    seen = hashlib.blake2b(f"{found.st_ino} {found.st_mtime_ns}".encode(), digest_size=16)
    size = 0
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(place / below) as entries:
            inside = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        for entry in inside:
            status = entry.stat(follow_symlinks=False)
            path = f"{below}{entry.name}"
            seen.update(os.fsencode(path))
            seen.update(f"\0{status.st_mode} {status.st_size} {status.st_mtime_ns} {status.st_ino}\0".encode())
            if stat.S_ISDIR(status.st_mode):
                pending.append(f"{path}/")
            elif stat.S_ISREG(status.st_mode):
                size += status.st_size
    return Stat(key, size, found.st_mtime, seen.hexdigest())


def _signing_keys(path: Path) -> SigningKeys:
    """The secret of a home; whoever makes it first, all have the same."""
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent, prefix=NEW)  # nobody else can read it
        try:
            with os.fdopen(number, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(number)
            with suppress(FileExistsError):
                path.hardlink_to(name)
        finally:
            Path(name).unlink()
        text = path.read_text("ascii")
    try:
        return SigningKeys.parse(f"home:{text.strip()}")
    except BadKeys as error:
        raise StoreRefused(f"{path}: {error}; remove the file, and a new one is made") from None
