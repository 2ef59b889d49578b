"""Fetches inputs: several at a time, large files in several ranges, resumed after a cut, checked, then put in place.

The check costs about as much time as the transfer, so it goes along with it: what comes in one piece is hashed as it
comes, ranges are hashed in order while later ones are on their way.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from penstock.step.plan import ETAG, Input, Plan, Request
from penstock.step.transfer import Problem
from penstock.step.values import quote
from penstock.step.wire import Client, CutError, Patience, Reply, Settings, TransferError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash
    from pathlib import Path

_RANGE = 16 * 1024 * 1024
"""Files larger than this come in ranges of this size side by side. What is left to hash after the last byte came are
the last few ranges: they are small."""
_MOST_RANGES = 10_000
_BUFFER = 256 * 1024
"""Smaller ones cost calls, larger ones leave the processor's cache before they are hashed."""
_RESTARTS = 3
"""How often an object is begun anew, because it changed under way or came damaged."""
_FILE_OVERHEAD = 64 * 1024 * 1024
"""Bytes to leave on the disk, for what file systems need themselves."""


class _ChangedError(Exception):
    """The object is no longer the one of which there is a part."""


class _NoRangesError(Exception):
    """The store only gives whole objects."""


class _DamagedError(Exception):
    """What came is not what was recorded; the message says in what."""


class _Range:
    """Bytes of an object that are fetched in one go; `position` moves from `start` to `end`."""

    def __init__(self, start: int, end: int) -> None:
        self.start = self.position = start
        self.end = end


class _Identity:
    """That all answers are about the same object."""

    def __init__(self, item: Input) -> None:
        self._wanted = item.sha256.removeprefix(ETAG) if item.sha256.startswith(ETAG) else None
        self._lock = threading.Lock()
        self.etag = ""

    def check(self, reply: Reply) -> None:
        etag = reply.header("ETag")
        if self._wanted is not None and _bare(etag) != _bare(self._wanted):
            raise TransferError("was replaced in the store since this execution chose it", transient=False)
        with self._lock:
            if not self.etag:
                self.etag = etag
            elif etag != self.etag:
                raise _ChangedError

    def headers(self, first: int, last: int | None) -> dict[str, str]:
        """What asks for a range of the same object."""
        found = {"Range": f"bytes={first}-{'' if last is None else last}"}
        if self.etag and not self.etag.startswith("W/"):
            found["If-Range"] = self.etag
        return found


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


class Downloads:
    """One fetch of all inputs of a plan.

    Args:
        plan: what to fetch.
        folder: where to.
        settings: bounds.
    """

    def __init__(self, plan: Plan, folder: Path, settings: Settings) -> None:
        self._plan = plan
        self._folder = folder
        self._settings = settings
        self._client = Client(plan, settings)
        self._buffers = threading.local()

    def run(self) -> list[Problem]:
        """Fetch; returns what is wrong."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if (full := self._check_space()) is not None:
                return [full]
        except OSError as error:
            return [Problem(f"the inputs cannot be written to {self._folder}: {error.strerror}", transient=False)]
        count = self._settings.connections
        try:
            # Whoever waits for ranges does so in the first pool, so the second never waits for itself.
            with (
                ThreadPoolExecutor(count, "penstock-fetch") as pool,
                ThreadPoolExecutor(count, "penstock-part") as parts,
            ):
                found = list(pool.map(lambda item: self._one(item, parts), list(self._plan.inputs.values())))
        finally:
            self._client.close()
        return [problem for problem in found if problem is not None]

    def _check_space(self) -> Problem | None:
        wanted = sum(item.size for item in self._plan.inputs.values())
        status = os.statvfs(self._folder)
        free = status.f_bavail * status.f_frsize
        if wanted == 0 or wanted + min(_FILE_OVERHEAD, wanted // 16) <= free:
            return None
        return Problem(
            f"the inputs hold {wanted:,} bytes, and {self._folder} has room for {free:,}: "
            "give the step more ephemeral storage, or fewer and smaller inputs",
            transient=False,
        )

    def _one(self, item: Input, pool: ThreadPoolExecutor) -> Problem | None:
        target = self._folder / item.name
        temporary = target.with_name(f".{target.name}.part")
        try:
            with _local():
                target.parent.mkdir(exist_ok=True)
            self._restarted(item, temporary, pool)
            with _local():
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                temporary.replace(target)
        except TransferError as error:
            _remove(temporary)
            return Problem(f"input {quote(item.name)}: {error}", error.transient)
        return None

    def _restarted(self, item: Input, temporary: Path, pool: ThreadPoolExecutor) -> None:
        patience = Patience(self._settings)
        ranges = True
        for left in reversed(range(_RESTARTS)):
            _remove(temporary)
            try:
                if item.folder:
                    self._fetch_folder(item, temporary, patience)
                else:
                    self._fetch_file(item, temporary, patience, pool if ranges else None)
            except _NoRangesError:
                ranges = False
            except _ChangedError:
                if not left:
                    raise TransferError("keeps changing in the store while it is fetched", transient=False) from None
            except _DamagedError as error:
                # Once more, as it may have been damaged on its way; then it is damaged in the store.
                if left < _RESTARTS - 1:
                    raise TransferError(str(error), transient=False) from None
            else:
                return
        raise TransferError("could not be fetched whole", transient=True)

    # --- files --------------------------------------------------------------------------------------

    def _fetch_file(self, item: Input, path: Path, patience: Patience, pool: ThreadPoolExecutor | None) -> None:
        identity = _Identity(item)
        with _local():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if pool is None or item.size <= _RANGE:
                sha256 = hashlib.sha256()
                self._fetch_range(_Fetch(item, descriptor, identity, sha256), _Range(0, item.size), patience)
                self._check(item, sha256.hexdigest())
            else:
                self._fetch_ranges(_Fetch(item, descriptor, identity, None), patience, pool)
        finally:
            os.close(descriptor)

    def _fetch_ranges(self, fetch: _Fetch, patience: Patience, pool: ThreadPoolExecutor) -> None:
        size = fetch.item.size
        step = max(_RANGE, -(-size // _MOST_RANGES))
        ranges = (_Range(start, min(start + step, size)) for start in range(0, size, step))
        # As many again as are on their way: none waits for the hash, and what is hashed is still in memory.
        ahead = 2 * self._settings.connections
        running: collections.deque[tuple[_Range, Future[None]]] = collections.deque()
        sha256 = hashlib.sha256()

        def begin(count: int) -> None:
            for part in itertools.islice(ranges, count):
                running.append((part, pool.submit(self._fetch_range, fetch, part, patience)))

        begin(ahead)
        try:
            while running:
                part, future = running[0]
                future.result()
                running.popleft()
                begin(1)
                self._hash(fetch.descriptor, part, sha256)
        except BaseException:
            _cancel([future for _, future in running], patience)
            raise
        self._check(fetch.item, sha256.hexdigest())

    def _fetch_range(self, fetch: _Fetch, part: _Range, patience: Patience) -> None:
        def find() -> Request:
            request = self._plan.inputs[fetch.item.name].request
            if fetch.sha256 is not None and part.position == 0:
                return request
            return request._replace(headers={**request.headers, **fetch.identity.headers(part.position, part.end - 1)})

        buffer = self._buffer()
        first = True
        while first or part.position < part.end:
            first = False
            reply = self._client.open("GET", find, patience, ok=(200, 206, 416), gone=_GONE)
            try:
                self._begin(reply, fetch, part)
                while count := reply.readinto(buffer):
                    if part.position + count > part.end:
                        raise _DamagedError(f"holds more than the {fetch.item.size:,} bytes that were recorded")
                    if fetch.sha256 is not None:
                        fetch.sha256.update(buffer[:count])
                    with _local():
                        _write(fetch.descriptor, buffer[:count], part.position)
                    part.position += count
                    patience.progress()
                    if patience.stop.is_set():
                        raise TransferError("another part failed", transient=True)
                if part.position < part.end:
                    raise _DamagedError(f"holds fewer than the {fetch.item.size:,} bytes that were recorded")
            except CutError as error:
                patience.pause(f"the transfer broke off: {error}")
            finally:
                reply.close()

    @staticmethod
    def _begin(reply: Reply, fetch: _Fetch, part: _Range) -> None:
        """Check that an answer is what was asked for."""
        if reply.status == 416:
            raise _DamagedError(f"holds fewer than the {fetch.item.size:,} bytes that were recorded")
        fetch.identity.check(reply)
        if reply.status == 200:
            total = reply.length
            if fetch.sha256 is None or part.position:
                raise _NoRangesError
        else:
            start, total = _content_range(reply.header("Content-Range"))
            if start != part.position:
                raise _NoRangesError
        if total is not None and total != fetch.item.size:
            raise _DamagedError(f"holds {total:,} bytes in the store, {fetch.item.size:,} were recorded")

    def _hash(self, descriptor: int, part: _Range, sha256: Hash) -> None:
        buffer = self._buffer()
        position = part.start
        while position < part.end:
            with _local():
                count = os.preadv(descriptor, [buffer[: min(_BUFFER, part.end - position)]], position)
            if count == 0:
                raise _DamagedError("was shortened on the disk while it was fetched")
            sha256.update(buffer[:count])
            position += count

    @staticmethod
    def _check(item: Input, sha256: str) -> None:
        if not item.sha256.startswith(ETAG) and sha256 != item.sha256:
            raise _DamagedError(
                f"is not what was recorded: its SHA-256 is {sha256[:12]}…, wanted {item.sha256[:12]}…: "
                "it was replaced or damaged in the store"
            )

    def _buffer(self) -> memoryview:
        """This thread's own."""
        found: memoryview | None = getattr(self._buffers, "view", None)
        if found is None:
            found = self._buffers.view = memoryview(bytearray(_BUFFER))
        return found

    # --- folders ------------------------------------------------------------------------------------

    def _fetch_folder(self, item: Input, path: Path, patience: Patience) -> None:
        from penstock.step.archive import ArchiveError, unpack  # noqa: PLC0415 - a fifth of the start, for folders only

        stream = _Stream(self._client, item, patience)
        try:
            with _local():
                found = unpack(stream.read, path, max_bytes=item.size)
        except ArchiveError as error:
            raise _DamagedError(f"cannot be unpacked: it {error}") from None
        finally:
            stream.close()
        self._check(item, found.sha256)


class _Fetch(NamedTuple):
    """A file on its way.

    Attributes:
        item: what it is.
        descriptor: where it goes.
        identity: of the object.
        sha256: takes the bytes as they come, where there is one range for all; None: there are several.
    """

    item: Input
    descriptor: int
    identity: _Identity
    sha256: Hash | None


class _Stream:
    """An object's bytes in order, whatever happens to connections."""

    def __init__(self, client: Client, item: Input, patience: Patience) -> None:
        self._client = client
        self._item = item
        self._patience = patience
        self._identity = _Identity(item)
        self._position = 0
        self._total: int | None = None
        self._reply: Reply | None = None

    def read(self, limit: int) -> bytes:
        """Up to so many bytes; none at the end."""
        buffer = memoryview(bytearray(limit))
        while self._total is None or self._position < self._total:
            try:
                reply = self._reply or self._open()
                count = reply.readinto(buffer)
            except CutError as error:
                self.close()
                self._patience.pause(f"the transfer broke off: {error}")
                continue
            if count == 0:
                break
            self._position += count
            self._patience.progress()
            return bytes(buffer[:count])
        return b""

    def _open(self) -> Reply:
        def find() -> Request:
            request = self._client.plan.inputs[self._item.name].request
            if not self._position:
                return request
            return request._replace(headers={**request.headers, **self._identity.headers(self._position, None)})

        reply = self._reply = self._client.open("GET", find, self._patience, ok=(200, 206, 416), gone=_GONE)
        if reply.status == 416:
            raise _ChangedError
        self._identity.check(reply)
        start = 0
        if reply.status == 206:
            start, self._total = _content_range(reply.header("Content-Range"))
            if start > self._position:
                raise _ChangedError
        else:
            self._total = reply.length
        # A store without ranges begins anew.
        skip = memoryview(bytearray(_BUFFER))
        while start < self._position:
            count = reply.readinto(skip[: self._position - start])
            if count == 0:
                raise _ChangedError
            start += count
        return reply

    def close(self) -> None:
        """Drop the connection."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None


_GONE = TransferError("is no longer in the store: run again what made it, or give it anew", transient=False)


def _content_range(text: str) -> tuple[int, int | None]:
    """Start and total of `bytes 5-9/10`."""
    span, _, total = text.removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    if not start.isdecimal():
        raise _NoRangesError
    return int(start), int(total) if total.isdecimal() else None


def _write(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, position)
        data, position = data[count:], position + count


def _cancel(running: list[Future[None]], patience: Patience) -> None:
    patience.stop.set()
    for future in running:
        future.cancel()
    for future in running:
        if not future.cancelled():
            future.exception()
    # The file may be begun anew.
    patience.stop.clear()


@contextlib.contextmanager
def _local() -> Iterator[None]:
    """Errors of the disk in here are not those of a connection."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "there is no room left on the disk for it: give the step more ephemeral storage"
        else:
            why = f"cannot be written: {error.strerror}"
        raise TransferError(why, transient=False) from None


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
