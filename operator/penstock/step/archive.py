"""A folder as a stream, and back: tar compressed with gzip, its digest computed in the same pass.

The stream is the same for the same content, wherever and whenever it is made: members in the order of `folders.walk`,
no owners and no times, of modes only whether a file is executable. It is POSIX tar (pax headers for what ustar cannot
say, names as raw bytes), so any tar reads it.

What is unpacked is held to that form: only files, folders and links that stay inside, each below a folder that came
before it, in order. So nothing can be written through a link, twice, or outside.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn

from penstock.step.digest import Digest, FolderDigest
from penstock.step.folders import Entry, UnsafePath, printable, walk
from penstock.step.values import quote

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILES = 10_000_000
"""Files, folders and links in one folder, where nothing else is said."""

_BLOCK = 256 * 1024
"""Bytes that are compressed at a time, each block by itself: several at once, and none that gains nothing."""
_WINDOW = 32 * 1024
"""How far back deflate refers."""
_LEVEL = 1
"""Higher levels save some percent and cost two to five times the time."""
_SAMPLE = 8 * 1024
_WORTH = 0.95
_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"
"""Of gzip: deflate, no name, no time, fastest, no system."""
_LAST = b"\x03\0"
"""An empty last block of deflate."""
_TAR_BLOCK = 512
_TAR_END = bytes(2 * _TAR_BLOCK)
_MAX_PAX = 256 * 1024
_MAX_PADDING = 1024 * 1024
_EXECUTABLE = 0o100


class ArchiveError(ValueError):
    """An archive cannot be unpacked, or a folder not packed; the message is a clause that does not name the archive."""


# --- packing ----------------------------------------------------------------------------------------


class Packing:
    """Iterate it for the stream of a folder, in pieces of some 100 KiB; each iteration packs again.

    Iterating raises:
        ArchiveError: more files or bytes than allowed, or something changed while it was read.
        UnsafePath: something in the folder cannot be kept.
        OSError: something cannot be read.

    Args:
        folder: what to pack.
        max_bytes: bytes that its files may have in all; None: not bounded.
        max_files: files and links that it may have; None: not bounded by the caller.
    """

    def __init__(self, folder: Path, *, max_bytes: int | None = None, max_files: int | None = None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._digest: Digest | None = None

    @property
    def digest(self) -> Digest:
        """Of what the last complete iteration packed."""
        if self._digest is None:
            raise RuntimeError("nothing was packed yet")
        return self._digest

    def __iter__(self) -> Iterator[bytes]:
        return _compress(self._tar())

    def _tar(self) -> Iterator[bytes]:
        found = FolderDigest()
        for number, entry in enumerate(walk(self._folder), start=1):
            if entry.kind == "file":
                yield from self._file(entry, found)
            else:
                yield _header(entry, 0)
                found.add(entry)
            if self._max_files is not None and found.count > self._max_files:
                raise ArchiveError(f"holds more than the {self._max_files:,} files that it may have")
            if number > MAX_FILES:
                raise ArchiveError(f"holds more than {MAX_FILES:,} files and folders: pack them into fewer")
        yield _TAR_END
        self._digest = found.result()

    def _file(self, entry: Entry, found: FolderDigest) -> Iterator[bytes]:
        path = self._folder / entry.path
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self._changed(entry)
            if self._max_bytes is not None and found.size + status.st_size > self._max_bytes:
                raise ArchiveError(f"holds more than the {self._max_bytes:,} bytes that it may have")
            entry = entry._replace(executable=bool(status.st_mode & stat.S_IXUSR))
            yield _header(entry, status.st_size)
            sha256 = hashlib.sha256()
            left = status.st_size
            while left:
                data = os.read(descriptor, min(left, _BLOCK))
                if not data:
                    self._changed(entry)
                sha256.update(data)
                yield data
                left -= len(data)
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                self._changed(entry)
        finally:
            os.close(descriptor)
        yield bytes(-status.st_size % _TAR_BLOCK)
        found.add(entry, sha256.hexdigest(), status.st_size)

    def _changed(self, entry: Entry) -> NoReturn:
        raise ArchiveError(
            f"changed while it was read ({quote(printable(entry.path))}): end what writes to it before the step ends"
        )


def most_bytes(folder: Path) -> int:
    """How long the stream of a folder can be at most, as it is now; nothing is read but names and sizes.

    Raises:
        UnsafePath: something in the folder cannot be kept.
        OSError: something cannot be listed.
    """
    total = len(_TAR_END)
    for entry in walk(folder):
        size = (folder / entry.path).lstat().st_size if entry.kind == "file" else 0
        total += len(_header(entry, size)) + size + -size % _TAR_BLOCK
    # Deflate adds 5 bytes to at least 16 KiB that it cannot make smaller, and as many where a block ends.
    return total + total // 2048 + _BLOCK


def _header(entry: Entry, size: int) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.size = size
    info.mode = 0o755 if entry.kind == "folder" or entry.executable else 0o644
    if entry.kind == "folder":
        info.type = tarfile.DIRTYPE
    elif entry.kind == "link":
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of one size."""
    block = bytearray()
    for piece in pieces:
        block += piece
        while len(block) >= _BLOCK:
            yield bytes(block[:_BLOCK])
            del block[:_BLOCK]
    if block:
        yield bytes(block)


def _compress(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """One gzip stream, its blocks compressed side by side; which thread does what leaves no trace in it."""
    threads = min(os.cpu_count() or 1, 4)
    check = total = 0
    before = b""
    running: collections.deque[Future[bytes]] = collections.deque()
    with ThreadPoolExecutor(threads, "penstock-pack") as pool:
        try:
            yield _HEAD
            for block in _blocks(pieces):
                running.append(pool.submit(_deflate, block, before))
                before = block[-_WINDOW:]
                check = zlib.crc32(block, check)
                total += len(block)
                if len(running) > threads + 1:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for left in running:
                left.cancel()
    yield _LAST + check.to_bytes(4, "little") + (total & 0xFFFFFFFF).to_bytes(4, "little")


def _deflate(block: bytes, before: bytes) -> bytes:
    """Whole blocks of deflate: not the last ones of a stream."""
    if _gains(block):
        packer = zlib.compressobj(_LEVEL, wbits=-15, zdict=before) if before else zlib.compressobj(_LEVEL, wbits=-15)
    else:
        packer = zlib.compressobj(0, wbits=-15)
    return packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH)


def _gains(block: bytes) -> bool:
    """Whether a sample gets smaller: images and archives do not, and cost the most time."""
    if len(block) < 4 * _SAMPLE:
        return True
    middle = len(block) // 2
    sample = block[_SAMPLE : 2 * _SAMPLE] + block[middle : middle + _SAMPLE]
    return len(zlib.compress(sample, _LEVEL)) < _WORTH * len(sample)


# --- unpacking --------------------------------------------------------------------------------------


def unpack(read: Callable[[int], bytes], folder: Path, *, max_bytes: int, max_files: int = MAX_FILES) -> Digest:
    """Unpack a stream into a new folder; memory does not grow with the stream.

    Args:
        read: gives up to so many bytes of the stream; none at its end.
        folder: is made; nobody else may write to it meanwhile. After an error it holds what came so far.
        max_bytes: bytes that its files may have in all.
        max_files: files, folders and links that it may have.

    Returns:
        The folder's digest.

    Raises:
        ArchiveError: not such a stream, or something in it is refused; the message names it.
        OSError: something cannot be written, or what `read` raises.
    """
    source = _Inflate(read)
    folder.mkdir()
    found = FolderDigest()
    last: tuple[bytes, ...] = ()
    folders: list[tuple[bytes, ...]] = [()]
    links = False
    for number, (entry, size) in enumerate(_members(source), start=1):
        parts = _parts(entry)
        if parts <= last:
            raise ArchiveError(f"member {_shown(entry)} is there twice, or its members are out of order")
        while folders[-1] != parts[: len(folders[-1])]:
            folders.pop()
        if folders[-1] != parts[:-1]:
            raise ArchiveError(f"member {_shown(entry)} is in a folder that the archive does not hold")
        last = parts
        if number > max_files:
            raise ArchiveError(f"holds more than {max_files:,} files and folders")
        if found.size + size > max_bytes:
            raise ArchiveError(f"holds more than the {max_bytes:,} bytes that it should have")
        path = folder / entry.path
        if entry.kind == "folder":
            path.mkdir()
            folders.append(parts)
            found.add(entry)
        elif entry.kind == "link":
            path.symlink_to(entry.target)
            links = True
            found.add(entry)
        else:
            found.add(entry, _write(source, path, size, executable=entry.executable), size)
    source.end()
    if links:
        _check_links(folder)
    return found.result()


def _shown(entry: Entry) -> str:
    return quote(printable(entry.path))


def _parts(entry: Entry) -> tuple[bytes, ...]:
    """The path as it is compared: the order of bytes, each folder before its content."""
    parts = os.fsencode(entry.path).split(b"/")
    if any(part in (b"", b".", b"..") for part in parts) or "\0" in entry.path:
        raise ArchiveError(f"member {_shown(entry)} is not a path within a folder")
    return tuple(parts)


def _check_links(folder: Path) -> None:
    """Only now everything is there that links may lead through; nothing was ever written through one."""
    try:
        for _ in walk(folder):
            pass
    except UnsafePath as error:
        name = os.path.relpath(error.path, folder)
        why = str(error).removeprefix(printable(str(error.path))).strip()
        raise ArchiveError(f"member {quote(printable(name))} {why}") from None


def _write(source: _Inflate, path: Path, size: int, *, executable: bool) -> str:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o777 if executable else 0o666)
    sha256 = hashlib.sha256()
    try:
        left = size
        while left:
            data = source.some(left)
            sha256.update(data)
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    source.exactly(-size % _TAR_BLOCK)
    return sha256.hexdigest()


def _members(source: _Inflate) -> Iterator[tuple[Entry, int]]:
    """The members of a tar stream and the bytes of files, which whoever iterates has to take out of it."""
    said: dict[bytes, bytes] = {}
    while True:
        block = source.exactly(_TAR_BLOCK)
        if not any(block):
            source.exactly(_TAR_BLOCK)
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            raise ArchiveError("is not an archive of a folder, or was damaged") from None
        if info.type == tarfile.XHDTYPE:
            if not 0 <= info.size <= _MAX_PAX:
                raise ArchiveError(f"has a header of {info.size:,} bytes")
            said = _pax(source.exactly(info.size))
            source.exactly(-info.size % _TAR_BLOCK)
            continue
        yield _entry(info, said)
        said = {}


def _entry(info: tarfile.TarInfo, said: dict[bytes, bytes]) -> tuple[Entry, int]:
    name = os.fsdecode(said[b"path"]) if b"path" in said else info.name
    size = info.size
    if b"size" in said:
        with contextlib.suppress(ValueError):
            size = int(said[b"size"])
    target = os.fsdecode(said[b"linkpath"]) if b"linkpath" in said else info.linkname
    if info.isdir():
        entry = Entry(name.removesuffix("/"), "folder")
    elif info.issym():
        entry = Entry(name, "link", target=target)
        if not target or "\0" in target:
            raise ArchiveError(f"member {_shown(entry)} is a link to nothing")
    elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not any(key.startswith(b"GNU.") for key in said):
        entry = Entry(name, "file", executable=bool(info.mode & _EXECUTABLE))
    else:
        raise ArchiveError(f"member {quote(printable(name))} is neither a file, a folder nor a symbolic link")
    if size < 0 or (size and entry.kind != "file"):
        raise ArchiveError(f"member {_shown(entry)} has a size that it cannot have")
    return entry, size


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records of a pax header: `<length> <key>=<value>` and a line end."""
    found = {}
    while data:
        length, space, _ = data[:10].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 2 < int(length) <= len(data):
            raise ArchiveError("has a header that cannot be read")
        key, equals, value = data[len(length) + 1 : int(length)].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ArchiveError("has a header that cannot be read")
        found[key] = value[:-1]
        data = data[int(length) :]
    return found


class _Inflate:
    """Takes a gzip stream apart; holds one block of it at a time."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._unpacker = zlib.decompressobj(wbits=31)
        self._block = b""
        self._position = 0

    def some(self, limit: int) -> bytes:
        """From 1 to `limit` bytes.

        Raises:
            ArchiveError: the stream has ended, or is none.
        """
        if self._position == len(self._block) and not self._fill():
            raise ArchiveError("is cut short")
        data = self._block[self._position : self._position + limit]
        self._position += len(data)
        return data

    def exactly(self, count: int) -> bytes:
        """So many bytes; for few."""
        if count == 0:
            return b""
        data = self.some(count)
        while len(data) < count:
            data += self.some(count - len(data))
        return data

    def end(self) -> None:
        """Take what fills a tar up, and check that nothing else follows.

        Raises:
            ArchiveError: something does, or the stream is damaged.
        """
        padding = 0
        while self._position < len(self._block) or self._fill():
            data = self.some(_BLOCK)
            padding += len(data)
            if padding > _MAX_PADDING or data.strip(b"\0"):
                raise ArchiveError("has something behind its end")
        if not self._unpacker.eof:
            raise ArchiveError("is cut short")
        if self._unpacker.unused_data or self._read(1):
            raise ArchiveError("has something behind its end")

    def _fill(self) -> bool:
        """Whether there is more."""
        self._position = 0
        self._block = b""
        while not self._unpacker.eof:
            data = self._unpacker.unconsumed_tail or self._read(_BLOCK)
            try:
                self._block = self._unpacker.decompress(data, _BLOCK)
            except zlib.error:
                raise ArchiveError("is not compressed with gzip, or was damaged") from None
            if self._block:
                return True
            if not data:
                return False
        return False
