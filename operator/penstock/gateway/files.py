"""Serves the objects of a folder store to whoever has a signed URL: `GET`, `HEAD` and `PUT` of `/files/<key>`.

No request gets further than its signature. Uploads appear whole or not at all, and the one that completes last stays.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from penstock.storage.errors import BadObjectPath, NotFound, StoreError, StoreFull, StoreRefused
from penstock.storage.folder import FolderStore, Writer
from penstock.storage.objects import CHUNK, Stat
from penstock.storage.signing import ROUTE, BadSignature, Grant, SigningKeys

_LOG = logging.getLogger("penstock.gateway")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_DRAIN = 64 << 20
_DRAIN_SECONDS = 10
SHA256_HEADER = "x-penstock-sha256"


class _Refused(Exception):  # noqa: N818 - an answer
    """An answer that is no success: status, a word for programs, a sentence for people."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


class Files:
    """The routes.

    Args:
        store: what is served.
        keys: what URLs are signed with.
        clock: gives the time, in seconds since the epoch.
    """

    def __init__(self, store: FolderStore, keys: SigningKeys, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock

    def routes(self) -> list[Route]:
        """For a Starlette or FastAPI application."""
        return [
            Route(f"{ROUTE}{{key:path}}", self._files, methods=["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"]),
        ]

    async def _files(self, request: Request) -> Response:
        started = time.monotonic()
        response = await self._answer(request)
        # Never the query: with it, whoever reads the log has the right to read or write the object.
        _LOG.debug(
            "%s %s: %d, %.3f s",
            request.method,
            request.path_params["key"],
            response.status_code,
            time.monotonic() - started,
        )
        return response

    async def _answer(self, request: Request) -> Response:
        try:
            grant = self._verify(request)
            return await (self._put if request.method == "PUT" else self._get)(request, grant)
        except _Refused as refused:
            answer = refused
        except NotFound as error:
            answer = _Refused(404, "NotFound", str(error))
        except StoreFull as error:
            _LOG.error("%s", error)
            answer = _Refused(507, "StoreFull", str(error))
        except (StoreRefused, BadObjectPath) as error:
            answer = _Refused(409, "Refused", str(error))
        except StoreError as error:
            _LOG.error("%s", error)
            answer = _Refused(503, "Unavailable", str(error), {"retry-after": "5"})
        except ClientDisconnect:
            answer = _Refused(400, "Incomplete", "the connection ended before the upload did; nothing was stored")
        else:
            raise AssertionError
        content = {"reason": answer.reason, "message": str(answer)}
        return _Told(content, answer.status, answer.headers)

    def _verify(self, request: Request) -> Grant:
        pairs = request.query_params.multi_items()
        query = dict(pairs)
        if len(query) != len(pairs):
            raise _Refused(403, "Forbidden", "this is not a signed URL")
        try:
            return self._keys.verify(request.method, request.path_params["key"], query, self._clock())
        except BadSignature as error:
            raise _Refused(403, "Forbidden", f"{error}; signed URLs are for one object and one method") from None

    async def _get(self, request: Request, grant: Grant) -> Response:
        file, stat = await self._store.opened(grant.key)
        try:
            return await self._send(request, file, stat)
        except BaseException:
            file.close()
            raise

    async def _send(self, request: Request, file: BinaryIO, stat: Stat) -> Response:
        etag = f'"{stat.etag}"'
        headers = {
            "etag": etag,
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
            # What people store is data, whatever a browser would make of it.
            "content-disposition": "attachment",
            "x-content-type-options": "nosniff",
        }
        asked = request.headers
        if "if-match" in asked and not _matches(asked["if-match"], etag):
            raise _Refused(412, "Changed", "the object is not the one that was asked for any more", {"etag": etag})
        if "if-none-match" in asked and _matches(asked["if-none-match"], etag):
            file.close()
            return Response(status_code=304, headers=headers)
        part = None if asked.get("if-range", etag) != etag else _range(asked.get("range", ""), stat.size)
        start, end = part if part is not None else (0, stat.size)
        if part is not None:
            headers["content-range"] = f"bytes {start}-{end - 1}/{stat.size}"
        headers["content-length"] = str(end - start)
        status = 200 if part is None else 206
        if request.method == "HEAD" or end - start <= CHUNK:
            content = b"" if request.method == "HEAD" else await asyncio.to_thread(_read, file, start, end)
            file.close()
            return Response(content, status, headers)
        return StreamingResponse(_chunks(file, start, end), status, headers)

    async def _put(self, request: Request, grant: Grant) -> Response:
        length = _length(request)
        if grant.max_bytes is not None and length is not None and length > grant.max_bytes:
            raise _too_large(grant.max_bytes)
        if length is not None and length > CHUNK and length > await asyncio.to_thread(self._store.free):
            raise StoreFull(f"an upload of {length} bytes does not fit into what is left of the store's volume")
        checks = _Checks(request.headers)
        upload = _Upload(self._store, grant.key, checks)
        try:
            received = 0
            chunks: list[bytes] = []
            waiting = 0
            async for chunk in request.stream():
                received += len(chunk)
                if grant.max_bytes is not None and received > grant.max_bytes:
                    raise _too_large(grant.max_bytes)
                chunks.append(chunk)
                waiting += len(chunk)
                if waiting >= CHUNK:
                    await upload.write(chunks)
                    chunks, waiting = [], 0
            stat = await upload.finish(chunks)
        finally:
            await upload.close()
        return JSONResponse({"size": stat.size}, 201, {"etag": f'"{stat.etag}"'})


class _Checks:
    """The digests that an upload names, and what they turn out to be."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._digests: list[tuple[str, Any, bytes]] = []
        if md5 := headers.get("content-md5"):
            with suppress(binascii.Error, ValueError):
                found = base64.b64decode(md5, validate=True)
                self._digests.append(("Content-MD5", hashlib.md5(usedforsecurity=False), found))
            if not self._digests or len(self._digests[0][2]) != 16:
                raise _Refused(400, "BadDigest", "Content-MD5 is not the base64 of an MD5 digest")
        if sha256 := headers.get(SHA256_HEADER):
            if not re.fullmatch("[0-9a-f]{64}", sha256):
                raise _Refused(400, "BadDigest", "X-Penstock-SHA256 is not a hexadecimal SHA-256 digest")
            self._digests.append(("X-Penstock-SHA256", hashlib.sha256(), bytes.fromhex(sha256)))

    def update(self, chunk: bytes) -> None:
        for _, digest, _ in self._digests:
            digest.update(chunk)

    def hold(self) -> None:
        for name, digest, wanted in self._digests:
            if digest.digest() != wanted:
                raise _Refused(400, "BadDigest", f"what arrived is not what {name} says; send it again")


class _Upload:
    """Writes while more is received: one write at a time, in a thread."""

    def __init__(self, store: FolderStore, key: str, checks: _Checks) -> None:
        self._store = store
        self._key = key
        self._checks = checks
        self._writer: Writer | None = None
        self._busy: Awaitable[None] | None = None

    async def write(self, chunks: list[bytes]) -> None:
        await self._wait()
        self._busy = asyncio.get_running_loop().run_in_executor(None, self._write, chunks)

    async def finish(self, chunks: list[bytes]) -> Stat:
        await self._wait()
        return await asyncio.get_running_loop().run_in_executor(None, self._finish, chunks)

    async def close(self) -> None:
        with suppress(StoreError):
            await self._wait()
        if self._writer is not None:
            self._writer.close()

    async def _wait(self) -> None:
        busy, self._busy = self._busy, None
        if busy is not None:
            await busy

    def _write(self, chunks: list[bytes]) -> None:
        if self._writer is None:
            self._writer = Writer(self._store, self._key)
        for chunk in chunks:
            self._writer.write(chunk)
            self._checks.update(chunk)

    def _finish(self, chunks: list[bytes]) -> Stat:
        self._write(chunks)
        self._checks.hold()
        assert self._writer is not None  # noqa: S101 - for mypy
        return self._writer.commit()


def _length(request: Request) -> int | None:
    text = request.headers.get("content-length")
    return int(text) if text is not None and text.isdigit() else None


def _too_large(most: int) -> _Refused:
    return _Refused(413, "TooLarge", f"the object is larger than {most} bytes, the bound of this output")


def _matches(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in header.split(",")]


def _range(header: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None: the whole object."""
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None  # as HTTP says: what is not understood does not count
    if found[1] == "":
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= size or start >= end:
        raise _Refused(
            416,
            "BadRange",
            f"the object has {size} bytes, not as many as were asked for",
            {"content-range": f"bytes */{size}"},
        )
    return start, end


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    parts = []
    while start < end and (chunk := os.pread(file.fileno(), min(CHUNK, end - start), start)):
        parts.append(chunk)
        start += len(chunk)
    return b"".join(parts)


async def _chunks(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    """Reads ahead while the chunk before is being sent."""
    loop = asyncio.get_running_loop()

    def ahead() -> asyncio.Future[bytes]:
        return loop.run_in_executor(None, _read, file, start, min(start + CHUNK, end))

    try:
        pending = ahead()
        while start < end:
            chunk = await pending
            if not chunk:
                return
            start += len(chunk)
            pending = ahead()
            yield chunk
    finally:
        with suppress(OSError):
            await pending  # a thread may still read
        file.close()


class _Told(JSONResponse):
    """Says no at once, then takes in what is still sent: who is not done with sending may not read before."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        # Who waits to be told to go on sends nothing, and is not to be asked.
        if scope["method"] == "PUT" and "expect" not in headers:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await _drain(receive)
        await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    left = _DRAIN
    while left > 0:
        message = await receive()
        if not message.get("more_body"):
            return
        left -= len(message["body"])
