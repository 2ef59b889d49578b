"""A store in a folder of this machine or of a volume: an object is a file; also what the gateway reads and writes.

Written objects appear whole or not at all: they are made in `.penstock/new/`, synced to disk, then renamed. Several
processes may use one folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from penstock.storage.errors import BadObjectPath, NotFound, StoreFull, StoreRefused, StoreUnavailable
from penstock.storage.objects import CHUNK, Content, Download, Method, SignedRequest, Stat, Store
from penstock.storage.paths import check_key
from penstock.storage.settings import PREFIX, Kind
from penstock.storage.signing import Grant, SigningKeys

_OURS = ".penstock"
_NEW = "new"
_TRIES = 20
_BATCH = 500


class FolderStore(Store):
    """Objects as files.

    Args:
        root: the folder; made when something is first written.
        keys: sign URLs; None: this process signs none.
        gateway_url: where `penstock gateway` serves this folder.
    """

    kind = Kind.FOLDER
    max_signed_seconds = 30 * 86_400

    def __init__(self, root: Path, *, keys: SigningKeys | None = None, gateway_url: str = "") -> None:
        self.root = root
        self._keys = keys
        self._gateway = gateway_url

    async def get(self, key: str, start: int = 0) -> Download:
        """See `Store`."""
        file, found = await self.opened(key)
        return Download(found, _read(file, start))

    async def put(self, key: str, content: Content) -> Stat:
        """See `Store`."""
        writer = await asyncio.to_thread(Writer, self, key)
        try:
            if isinstance(content, bytes):
                await asyncio.to_thread(writer.write, content)
            else:
                async for chunk in content:
                    await asyncio.to_thread(writer.write, chunk)
            return await asyncio.to_thread(writer.commit)
        finally:
            writer.close()

    async def head(self, key: str) -> Stat:
        """See `Store`."""
        return await asyncio.to_thread(self.stat, key)

    async def objects(self, prefix: str, after: str = "") -> AsyncIterator[Stat]:
        """See `Store`."""
        walk = self._walk(prefix, after)
        while batch := await asyncio.to_thread(_take, walk, _BATCH):
            for found in batch:
                yield found

    async def folders(self, prefix: str) -> list[str]:
        """See `Store`."""
        return await asyncio.to_thread(self._folders, prefix)

    async def delete(self, keys: Iterable[str]) -> None:
        """See `Store`."""
        await asyncio.to_thread(self._delete, list(keys))

    async def copy(self, source: str, target: str) -> Stat:
        """See `Store`."""
        return await asyncio.to_thread(self._copy, source, target)

    async def sign(
        self, method: Method, keys: Sequence[str], seconds: int, *, max_bytes: int | None = None
    ) -> list[SignedRequest]:
        """See `Store`."""
        if self._keys is None or not self._gateway:
            raise StoreRefused(
                f"files of a folder store are served by penstock gateway: set {PREFIX}GATEWAY_URL and "
                f"{PREFIX}SIGNING_KEYS"
            )
        end = int(time.time()) + min(seconds, self.max_signed_seconds)
        grants = [Grant(method, key, end, max_bytes if method == "PUT" else None) for key in keys]
        return [SignedRequest(self._keys.sign(self._gateway, grant)) for grant in grants]

    async def close(self) -> None:
        """See `Store`."""

    async def opened(self, key: str) -> tuple[BinaryIO, Stat]:
        """See `open`, which blocks."""
        return await asyncio.to_thread(self.open, key)

    def open(self, key: str) -> tuple[BinaryIO, Stat]:
        """An object to be read, and what it is; whatever is put later, this one is read to its end.

        Raises:
            NotFound: it is not there.
        """
        with self._in_words(key):
            # A file system may hold other things than we put there: a link would lead elsewhere, a pipe would block.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            fd = os.open(self._place(key), flags)
            try:
                found = file_stat(key, os.fstat(fd))  # first: `fdopen` does not close what it refuses
                return os.fdopen(fd, "rb", buffering=0), found
            except BaseException:
                os.close(fd)
                raise

    def stat(self, key: str) -> Stat:
        """What is known of an object.

        Raises:
            NotFound: it is not there.
        """
        with self._in_words(key):
            return file_stat(key, self._place(key).lstat())

    def sweep(self) -> int:
        """Remove what writers have left that are not any more (ended by force, or the machine was); says how much."""
        count = 0
        with self._in_words(""):
            for path in [path for folder in self._unfinished() if folder.is_dir() for path in folder.iterdir()]:
                with contextlib.suppress(OSError), path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer holds it as long as it lives
                    path.unlink()
                    count += 1
        return count

    def probe(self) -> None:
        """Try whether something can be written; nobody sees it.

        Raises:
            StoreError: it cannot.
        """
        with Writer(self, "probe") as writer:
            writer.write(b"probe")

    def free(self) -> int:
        """Bytes that can still be written."""
        with self._in_words(""):
            self.root.mkdir(parents=True, exist_ok=True)
            found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def _place(self, key: str) -> Path:
        first = check_key(key).split("/", 1)[0]
        place = self.root / key
        if first == _OURS or not place.parent.resolve().is_relative_to(self.root.resolve()):
            raise BadObjectPath(f"{key!r} is not a key of an object")
        return place

    # What a store whose objects are in several places does differently

    def _target(self, key: str) -> tuple[Path, Path]:
        """Where an object is to be, and the folder on the same disk in which it is made."""
        return self._place(key), self.root / _OURS / _NEW

    def _unfinished(self) -> Sequence[Path]:
        """The folders in which objects are made."""
        return (self.root / _OURS / _NEW,)

    def _replace(self, path: Path, target: Path) -> None:
        """Give a finished file its name."""
        path.replace(target)

    def _folders(self, prefix: str) -> list[str]:
        try:
            with self._in_words(prefix), os.scandir(self._place(prefix) if prefix else self.root) as entries:
                return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and e.name != _OURS)
        except NotFound:
            return []

    def _walk(self, prefix: str, after: str) -> Iterator[Stat]:
        """Objects in the order of their keys; memory follows the largest folder."""
        top = f"{prefix}/" if prefix else ""
        pending = self._names(top)
        while pending:
            name = pending.pop()
            if name.endswith("/"):
                # Nothing in a folder comes after `after` if all that begins with its name comes before.
                if not after or name >= after or after.startswith(name):
                    pending.extend(self._names(name))
            elif name > after:
                with contextlib.suppress(NotFound):  # it went meanwhile
                    yield self.stat(name)

    def _names(self, folder: str) -> list[str]:
        """Keys in a folder, the last one first; those of folders end with a slash, as they do in the order of keys."""
        try:
            with self._in_words(folder), os.scandir(self._place(folder[:-1]) if folder else self.root) as entries:
                found = [
                    folder + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                    for entry in entries
                    if (folder or entry.name != _OURS) and not entry.is_symlink()
                ]
        except NotFound:
            return []
        return sorted(found, key=os.fsencode, reverse=True)

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            place = self._place(key)
            with contextlib.suppress(NotFound), self._in_words(key):
                place.unlink()
                # Folders that became empty; a writer that needs one makes it again.
                for folder in place.parents:
                    if folder == self.root:
                        break
                    try:
                        folder.rmdir()
                    except OSError:
                        break

    def _copy(self, source: str, target: str) -> Stat:
        file, found = self.open(source)
        with file, Writer(self, target) as writer, self._in_words(target):
            writer.copy(file, found.size)
            return writer.commit()

    @contextmanager
    def _in_words(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"there is no object {key!r} in the store") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotFound(f"there is no object {key!r} in the store") from None
            raise self.error(key, error) from error

    def error(self, key: str, error: OSError) -> StoreFull | StoreRefused | StoreUnavailable | NotFound:
        """What an error of the file system means."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(f"{self.root}: there is no space left; free some, or make the volume larger")
        if error.errno == errno.EFBIG:
            return StoreFull(f"{self.root}: files cannot be that large there")
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
            return StoreRefused(
                f"{key!r} cannot be stored in a folder: a part of its path is an object already, or it is a folder"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            where = error.filename or self.root
            return StoreRefused(f"{where}: {error.strerror}; check who owns the folder and its rights")
        return StoreUnavailable(f"{error.filename or self.root}: {error.strerror or error}")


class Writer:
    """An object that is being written; seen by nobody until `commit`. Blocks: use it in a thread.

    Args:
        store: where.
        key: which object.

    Raises:
        StoreFull: there is no space left.
        BadObjectPath: the key is none.
    """

    def __init__(self, store: FolderStore, key: str) -> None:
        self._store = store
        self._key = key
        self._target, folder = store._target(key)
        self._path: Path | None = folder / secrets.token_hex(16)
        with store._in_words(key):
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = self._open(self._path)
            while not os.fstat(self._fd).st_nlink:  # a sweep has come between the making and the lock
                os.close(self._fd)
                self._fd = self._open(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _open(path: Path) -> int:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def write(self, chunk: bytes | memoryview) -> None:
        """Append.

        Raises:
            StoreFull: there is no space left.
        """
        rest = memoryview(chunk)
        with self._store._in_words(self._key):
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def copy(self, file: BinaryIO, size: int) -> None:
        """Append what is in a file, in the kernel."""
        at = 0
        while at < size:
            done = os.sendfile(self._fd, file.fileno(), at, min(size - at, 1 << 30))
            if done == 0:
                break
            at += done

    def commit(self) -> Stat:
        """Make it the object: on disk, whole, in place of what was there.

        Raises:
            StoreFull: there is no space left.
            StoreRefused: the folder does not allow this name.
        """
        if self._path is None:
            raise ValueError("committed already")
        with self._store._in_words(self._key):
            os.fsync(self._fd)
            self._rename(self._path)
            self._path = None
            found = file_stat(self._key, os.fstat(self._fd))
            folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self.close()
        return found

    def _rename(self, path: Path) -> None:
        for attempt in range(_TRIES):
            try:
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._store._replace(path, self._target)
                return
            # A folder that became empty may be removed at any moment: not there, or there for `mkdir` and then not.
            except (FileNotFoundError, FileExistsError) as error:
                if attempt == _TRIES - 1:
                    raise self._store.error(self._key, error) from None
            except (IsADirectoryError, NotADirectoryError) as error:
                raise self._store.error(self._key, error) from None

    def close(self) -> None:
        """Give it up, if it was not committed; doing it twice is the same as doing it once."""
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


async def _read(file: BinaryIO, start: int) -> AsyncIterator[bytes]:
    with file:
        if start:
            file.seek(start)
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk


def _take(walk: Iterator[Stat], count: int) -> list[Stat]:
    return [found for _, found in zip(range(count), walk, strict=False)]


def file_stat(key: str, found: os.stat_result) -> Stat:
    """What a file is as an object.

    Raises:
        NotFound: it is none.
    """
    if not stat.S_ISREG(found.st_mode):
        raise NotFound(f"there is no object {key!r} in the store")
    # A new content is a new file: its number and time say so.
    etag = f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"
    return Stat(key, found.st_size, found.st_mtime, etag)
