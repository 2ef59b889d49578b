"""What only S3 can do and obstore does not offer: signed uploads in parts, copies of any size, forgotten uploads.

Requests go out by URLs that we sign ourselves; see `sigv4`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import aiohttp
from yarl import URL

from penstock.storage.errors import NotFound, StoreError, StoreRefused, StoreUnavailable
from penstock.storage.sigv4 import Credentials, Signer

MIB = 1 << 20
GIB = 1 << 30
MAX_SINGLE = 5 * GIB
"""Bytes of one PUT, of one part and of one copy."""
MAX_OBJECT = 5 << 40
"""Bytes of an object."""
MIN_PART = 5 * MIB

_STEPS = ((16, 16 * MIB), (16, 64 * MIB), (16, 256 * MIB), (16, GIB))
"""Parts grow, so that small files go up in parallel and large ones need few URLs; the rest are parts of 5 GiB."""
_COPY_PART = GIB
_COPIES_AT_ONCE = 8
_OWN_SECONDS = 900
_TRIES = 4
_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=5)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that was begun and neither completed nor aborted.

    Attributes:
        key: of the object, with the store's prefix.
        id: S3's name of it.
        started: when, in seconds since the epoch.
    """

    key: str
    id: str
    started: float


def part_sizes(max_bytes: int) -> list[tuple[int, int]]:
    """So many parts of so many bytes, in this order, that hold an object of `max_bytes`."""
    found: list[tuple[int, int]] = []
    left = min(max_bytes, MAX_OBJECT)
    for count, size in (*_STEPS, (MAX_OBJECT // MAX_SINGLE, MAX_SINGLE)):
        if left <= 0:
            break
        needed = min(count, -(-left // size))
        found.append((needed, size))
        left -= needed * size
    return found


class S3:
    """The parts of S3's interface that obstore lacks. Keys here have the store's prefix.

    Args:
        base: URL of the bucket, without the last slash.
        bucket: its name.
        region: its region.
        credentials: gives the credentials that are good now.
        ca: PEM file of the authority that signed the endpoint's certificate.
    """

    def __init__(
        self,
        *,
        base: str,
        bucket: str,
        region: str,
        credentials: Callable[[], Awaitable[Credentials]],
        ca: Path | None = None,
    ) -> None:
        self._base = base
        self._bucket = bucket
        self._region = region
        self._credentials = credentials
        self._ca = ca
        self._http: aiohttp.ClientSession | None = None

    async def signer(self, seconds: int) -> Signer:
        """Signs URLs that are valid from now on."""
        return Signer(self._base, self._region, await self._credentials(), int(time.time()), seconds)

    async def create(self, key: str) -> str:
        """Begin an upload in parts; returns its id."""
        answer = await self._call("POST", key, {"uploads": ""})
        return _text(answer, "UploadId")

    async def abort(self, key: str, upload: str) -> None:
        """Forget an upload and its parts; one that was completed or is not there stays as it is."""
        try:
            await self._call("DELETE", key, {"uploadId": upload})
        except NotFound:
            return

    async def uploads(self, prefix: str) -> AsyncIterator[Upload]:
        """All uploads under way whose keys begin with this."""
        query = {"uploads": "", "prefix": prefix, "max-uploads": "1000"}
        while True:
            answer = await self._call("GET", "", query)
            for found in _children(answer, "Upload"):
                started = datetime.fromisoformat(_text(found, "Initiated").replace("Z", "+00:00")).timestamp()
                yield Upload(_text(found, "Key"), _text(found, "UploadId"), started)
            if _text(answer, "IsTruncated") != "true":
                return
            query |= {
                "key-marker": _text(answer, "NextKeyMarker"),
                "upload-id-marker": _text(answer, "NextUploadIdMarker"),
            }

    async def copy(self, source: str, target: str, size: int) -> None:
        """Copy an object in the bucket: in one request up to 5 GiB, in parts beyond.

        Raises:
            NotFound: the source is not there.
        """
        if size > MAX_SINGLE:
            await self.copy_in_parts(source, target, size, _COPY_PART)
        else:
            await self._call("PUT", target, headers=self._from(source))

    async def copy_in_parts(self, source: str, target: str, size: int, part: int) -> None:
        """Copy an object in pieces of `part` bytes; nothing is left if it fails."""
        upload = await self.create(target)
        try:
            gate = asyncio.Semaphore(_COPIES_AT_ONCE)

            async def piece(number: int, start: int) -> str:
                ends = f"bytes={start}-{min(start + part, size) - 1}"
                headers = self._from(source) | {"x-amz-copy-source-range": ends}
                async with gate:
                    answer = await self._call(
                        "PUT", target, {"partNumber": str(number), "uploadId": upload}, headers=headers
                    )
                return _text(answer, "ETag")

            starts = range(0, size, part)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(piece(number, start)) for number, start in enumerate(starts, 1)]
            await self.complete(target, upload, [task.result() for task in tasks])
        except BaseException as error:
            await asyncio.shield(self.abort(target, upload))
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def complete(self, key: str, upload: str, etags: Sequence[str]) -> None:
        """Make the object of its parts, in this order."""
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        await self._call("POST", key, {"uploadId": upload}, body=body)

    async def close(self) -> None:
        """Give connections back."""
        if self._http is not None:
            await self._http.close()

    def _from(self, source: str) -> dict[str, str]:
        return {"x-amz-copy-source": quote(f"/{self._bucket}/{source}")}

    async def _call(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> ElementTree.Element:
        for attempt in range(_TRIES):
            try:
                return await self._once(method, key, query or {}, headers or {}, body)
            except StoreUnavailable:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(0.2 * 4**attempt)
        raise AssertionError

    async def _once(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> ElementTree.Element:
        signer = await self.signer(_OWN_SECONDS)
        # The URL goes out as it was signed: nothing may be quoted once more.
        url = URL(signer.url(method, key, query, headers), encoded=True)
        async with self._answer(method, url, headers, body) as (status, text):
            answer = _parse(text)
            code = answer.findtext("{*}Code") or "" if _name(answer) == "Error" else ""
            if status < 300 and not code:  # a copy and a completion may fail after the headers said 200
                return answer
        raise _error(status, code, answer.findtext("{*}Message") or "", key)

    @asynccontextmanager
    async def _answer(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[tuple[int, bytes]]:
        if self._http is None:
            tls: ssl.SSLContext | bool = ssl.create_default_context(cafile=self._ca) if self._ca else True
            self._http = aiohttp.ClientSession(
                timeout=_TIMEOUT, trust_env=True, connector=aiohttp.TCPConnector(ssl=tls, keepalive_timeout=10)
            )
        try:
            async with self._http.request(method, url, headers=headers, data=body, allow_redirects=False) as response:
                yield response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreUnavailable(f"S3 does not answer: {type(error).__name__}") from None  # its text has the URL


_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_LATER = frozenset({"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "OperationAborted"})


def _error(status: int, code: str, message: str, key: str) -> StoreError:
    text = f"S3 answers {status} {code} {message}".strip()
    if status in _AGAIN or code in _LATER:
        return StoreUnavailable(text)
    if code in ("NoSuchKey", "NoSuchUpload"):
        return NotFound(f"there is no object {key!r} in the store")
    return StoreRefused(text)


def _parse(text: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text) if text.strip() else ElementTree.Element("Nothing")  # noqa: S314 - our store
    except ElementTree.ParseError:
        return ElementTree.Element("Nothing")


def _name(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [child for child in element if _name(child) == name]


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
