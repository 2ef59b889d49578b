"""Gives outputs to the store: in one request, or large ones in parts side by side, each tried again by itself.

Memory does not grow with what is given. Files are read where they are, piece by piece, each more than once in a short
time: for the checksum that a request has to begin with, for sending, and for the SHA-256 of the whole. The stream of a
folder is only known while it is made, so its parts wait in unnamed temporary files; see `_SPOOL` for how much of it.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from html import escape
from typing import IO, TYPE_CHECKING, NamedTuple

from penstock.step.archive import Packing, most_bytes
from penstock.step.bodies import CHANGED, Again, Piece, Text, pack, readable
from penstock.step.digest import Digest
from penstock.step.folders import UnsafePath, special
from penstock.step.plan import Multipart, Output, Plan, Request
from penstock.step.transfer import Problem
from penstock.step.values import JsonObject, quote
from penstock.step.wire import Body, Client, CutError, Patience, Settings, TransferError, error_code, is_passing

if TYPE_CHECKING:
    from hashlib import _Hash as Hash
    from pathlib import Path

SINGLE_BYTES = 64 * 1024 * 1024
"""Files up to this size are given in one request."""
_SPOOL = 256 * 1024 * 1024
"""Bytes of a folder's stream that may lie on the disk, or two parts if these are more. Parts of it are no larger than
they have to be for the folder: with the URLs of a plan for 1 TiB two of them are 1 % of what they are parts of. Where
a store has no parts and the stream is longer, it is made twice instead, once for its checksum and once to send it: a
full disk would end the pod."""
_LEAST_PART = 16 * 1024 * 1024
"""What a part of a folder's stream has at least, if the plan lets it: smaller ones cost requests."""
_COMPLETE_SECONDS = 300.0
"""Stores put parts together before they answer."""
_ABORT_PATIENCE = 10.0
_ANSWER_BYTES = 1024 * 1024
_COMPLETED = re.compile(rb"<(?:[A-Za-z0-9]+:)?CompleteMultipartUploadResult[\s>]")

_OK = (200, 201, 204)
_GONE = TransferError("has no place in the store", transient=True)


class _Part(NamedTuple):
    """A part of a multipart upload.

    Attributes:
        piece: what it holds.
        spool: the file to close once it is there.
    """

    piece: Piece
    spool: IO[bytes] | None = None


class Uploads:
    """One upload of outputs.

    Args:
        plan: where to.
        settings: bounds.
    """

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._settings = settings
        self._client = Client(plan, settings)

    def run(self, files: Mapping[str, Path]) -> tuple[dict[str, JsonObject], list[Problem]]:
        """Upload; returns what is there by name, and what is wrong."""
        count = self._settings.connections
        try:
            # The first pool only waits for the second, so none waits for itself.
            with (
                ThreadPoolExecutor(count, "penstock-give") as pool,
                ThreadPoolExecutor(count, "penstock-part") as self._parts,
            ):
                found = list(pool.map(lambda item: self._one(*item), files.items()))
        finally:
            self._client.close()
        done = {name: item for name, item in zip(files, found, strict=True) if not isinstance(item, Problem)}
        return done, [item for item in found if isinstance(item, Problem)]

    def _one(self, name: str, path: Path) -> JsonObject | Problem:
        upload = _Upload(self._client, self._settings, name, self._parts)
        try:
            found = upload.give(path)
        except TransferError as error:
            upload.abort()
            return Problem(f"output {quote(name)}: {error}", error.transient)
        except UnsafePath as error:
            upload.abort()
            return Problem(f"output {quote(name)}: {error}", transient=False)
        if not upload.in_parts:
            upload.abort()
        key = self._plan.outputs[name].key
        return {"key": key, "sha256": found.sha256, "size": found.size, "folder": found.folder}


class _Upload:
    """One output on its way."""

    def __init__(self, client: Client, settings: Settings, name: str, parts: ThreadPoolExecutor) -> None:
        self._client = client
        self._settings = settings
        self._name = name
        self._parts = parts
        self._patience = Patience(settings)
        self.in_parts = False

    @property
    def _output(self) -> Output:
        return self._client.plan.outputs[self._name]

    @property
    def _multipart(self) -> Multipart:
        many = self._output.multipart
        if many is None:
            raise TransferError("can no longer be given in parts: the plan has changed", transient=True)
        return many

    def give(self, path: Path) -> Digest:
        """Upload a file or folder.

        Raises:
            TransferError: it is not there whole.
            UnsafePath: it holds something that cannot be kept.
        """
        with readable():
            mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return self._folder(path)
        if not stat.S_ISREG(mode):
            raise UnsafePath(path, f"is {special(mode)}: only files and folders can be kept")
        with readable():
            file = path.open("rb", buffering=0)
        with file:
            return self._file(file.fileno())

    def abort(self) -> None:
        """Drop a multipart upload that failed or was not needed; where that fails, the store's rules do it later."""
        if self._output.multipart is None:
            return
        patience = Patience(self._settings._replace(patience=min(_ABORT_PATIENCE, self._settings.patience)))
        with contextlib.suppress(TransferError):
            reply = self._client.open(
                "DELETE",
                lambda: Request(self._multipart.abort, {}),
                patience,
                ok=_OK,
                gone=_GONE,
                silence=_ABORT_PATIENCE,
            )
            reply.close()

    # --- files --------------------------------------------------------------------------------------

    def _file(self, descriptor: int) -> Digest:
        before = os.fstat(descriptor)
        size, limit = before.st_size, self._output.max_bytes
        if limit is not None and size > limit:
            raise TransferError(f"holds {size:,} bytes, more than the {limit:,} that it may have", transient=False)
        if size > SINGLE_BYTES and self._output.multipart is not None:
            hashed = hashlib.sha256()
            parts = _cut(descriptor, size, self._multipart, self._patience.stop, hashed)
            self._give_parts(parts, self._settings.connections)
            sha256 = hashed.hexdigest()
        else:
            whole = Piece(descriptor, 0, size, self._patience.stop)
            md5, sha256 = whole.md5_and_sha256()
            self._put(whole, md5)
        after = os.fstat(descriptor)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise TransferError(CHANGED, transient=False)
        return Digest(sha256, size, folder=False, count=1)

    def _put(self, body: Body, md5: str) -> None:
        def find() -> Request:
            request = self._output.put
            return request._replace(headers={**request.headers, "Content-MD5": md5})

        self._client.open("PUT", find, self._patience, ok=_OK, gone=_GONE, body=body).close()

    # --- parts --------------------------------------------------------------------------------------

    def _give_parts(self, parts: Iterable[_Part], at_once: int) -> None:
        """Upload parts as they come, a few at a time, and make one object of them."""
        self.in_parts = True
        running: collections.deque[Future[str]] = collections.deque()
        begun: collections.deque[_Part] = collections.deque(maxlen=self._settings.connections + 2)
        tags: list[str] = []
        try:
            for index, part in enumerate(parts):
                begun.append(part)
                running.append(self._parts.submit(self._part, index, part))
                # One more than are sent at a time, so that none has to wait for its making.
                if len(running) > at_once:
                    tags.append(running.popleft().result())
            tags += [future.result() for future in running]
        except BaseException:
            self._patience.stop.set()
            _settle(running)
            for part in begun:  # those that were never sent would be closed some time
                if part.spool is not None:
                    part.spool.close()
            raise
        self._complete(tags)

    def _part(self, index: int, part: _Part) -> str:
        """Upload one part; returns its ETag."""
        with part.spool or contextlib.nullcontext():
            md5 = part.piece.md5()

            def find() -> Request:
                many = self._multipart
                return Request(f"{many.url}&{many.parts[index]}", {"Content-MD5": md5})

            reply = self._client.open("PUT", find, self._patience, ok=_OK, gone=_GONE, body=part.piece)
            reply.close()
        self._patience.progress()
        if not reply.header("ETag"):
            raise TransferError("the store gave no ETag for a part of it", transient=False)
        return reply.header("ETag")

    def _complete(self, tags: list[str]) -> None:
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
            for number, tag in enumerate(tags, start=1)
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = Text(f'<CompleteMultipartUpload xmlns="{space}">{listed}</CompleteMultipartUpload>')
        while True:
            reply = self._client.open(
                "POST",
                lambda: Request(self._multipart.complete, {"Content-Type": "application/xml"}),
                self._patience,
                ok=_OK,
                gone=_GONE,
                body=body,
                silence=_COMPLETE_SECONDS,
            )
            try:
                answer = reply.read(_ANSWER_BYTES)
            except CutError as error:
                self._patience.pause(f"the store broke off while it put the parts together: {error}")
                continue
            finally:
                reply.close()
            # S3 begins to answer before it knows whether it can: the status is always 200.
            if _COMPLETED.search(answer):
                return
            code = error_code(answer)
            why = f"the store could not put its parts together: {code or 'it said nothing'}"
            if code and not is_passing(code):
                raise TransferError(why, transient=False)
            self._patience.pause(why)

    # --- folders ------------------------------------------------------------------------------------

    def _folder(self, path: Path) -> Digest:
        output = self._output
        packing = Packing(path, max_bytes=output.max_bytes, max_files=output.max_files)
        stream = pack(packing)
        first_size = _SPOOL if output.multipart is None else self._size_of(0, _SPOOL)
        with contextlib.closing(stream):
            first, rest = self._spool(stream, first_size)
            if rest is None:
                with first.spool or contextlib.nullcontext():
                    self._put(first.piece, first.piece.md5())
            elif output.multipart is not None:
                with readable():
                    bound = max(output.multipart.even_size(most_bytes(path)), _LEAST_PART)
                at_once = max(1, min(self._settings.connections, _SPOOL // bound - 1))
                self._give_parts(self._spooled(first, rest, stream, bound), at_once)
            else:
                self._put_again(first, rest, stream, packing)
        return packing.digest

    def _size_of(self, index: int, bound: int) -> int:
        size = self._multipart.size_of(index)
        if size is None:
            raise TransferError("is larger than the store takes", transient=False)
        return min(size, bound)

    def _spooled(self, part: _Part, rest: bytes | None, stream: Iterator[bytes], bound: int) -> Iterator[_Part]:
        index = 0
        while True:
            yield part
            if rest is None:
                return
            index += 1
            part, rest = self._spool(stream, self._size_of(index, bound), rest)

    def _spool(self, stream: Iterator[bytes], size: int, begin: bytes = b"") -> tuple[_Part, bytes | None]:
        """Write so many bytes of a stream to a temporary file; returns it, and what is over. None: the stream ended."""
        with _spooling():
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by whoever sends it
        try:
            left = size
            data = begin
            while len(data) <= left:
                with _spooling():
                    _write(file, data)
                left -= len(data)
                try:
                    data = next(stream)
                except StopIteration:
                    return self._spooled_part(file, size - left), None
            with _spooling():
                _write(file, data[:left])
            return self._spooled_part(file, size), data[left:]
        except BaseException:
            file.close()
            raise

    def _spooled_part(self, file: IO[bytes], size: int) -> _Part:
        return _Part(Piece(file.fileno(), 0, size, self._patience.stop), file)

    def _put_again(self, first: _Part, rest: bytes, stream: Iterator[bytes], packing: Packing) -> None:
        md5 = hashlib.md5(usedforsecurity=False)
        with first.spool or contextlib.nullcontext():
            for chunk in first.piece.chunks():
                md5.update(chunk)
        length = first.piece.length + len(rest)
        md5.update(rest)
        for data in stream:
            md5.update(data)
            length += len(data)
        self._put(Again(packing, length), base64.b64encode(md5.digest()).decode())


def _cut(descriptor: int, size: int, many: Multipart, stop: threading.Event, sha256: Hash) -> Iterator[_Part]:
    """The parts of a file; each is hashed while it is on its way, so that no large file is read twice from a disk."""
    capacity = sum(count * part for count, part in many.sizes)
    if size > capacity:
        raise TransferError(f"holds {size:,} bytes, more than the {capacity:,} that the store takes", transient=False)
    offset = index = 0
    while offset < size:
        length = min(many.size_of(index) or 0, size - offset)
        piece = Piece(descriptor, offset, length, stop)
        yield _Part(piece)
        for chunk in piece.chunks():
            sha256.update(chunk)
        offset += length
        index += 1


def _write(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@contextlib.contextmanager
def _spooling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "there is no room left" if full else f"nothing can be written there: {error.strerror}"
        place = "the folder for temporary files ($TMPDIR)"
        raise TransferError(f"cannot be packed in {place}: {why}", transient=False) from None


def _settle(running: Iterable[Future[str]]) -> None:
    """Wait until nobody reads a file that is about to be closed."""
    for future in running:
        if not future.cancel():
            future.exception()
