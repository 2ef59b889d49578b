"""Answers to lists and watches for which kopf would end the operator: it is shown something that it can go on after.

kopf repeats what the server failed at (5xx), what was too much for it (429), and lost connections. Everything else that
is no answer ends it: a kind that may not be watched any more (403), whose definition is being replaced (404), a list
that expired on the way (410), an error in the middle of a watch, and what a proxy says in the place of the server. Here
each of these has the kind listed anew after a while, until that succeeds; whoever takes lists (`listed`) then compares.
Credentials that are not accepted (401) it would read and try again without a pause; here it gets one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import aiohttp

from penstock.kube.errors import from_answer
from penstock.kube.resources import Resource

log = logging.getLogger(__name__)

WAITS: Final = (1.0, 2.0, 5.0, 10.0)
"""Seconds to wait after the first, second, … refusal in a row."""
REPEATS: Final = (1.0, 1.0, 2.0, 3.0, 5.0)
"""Seconds after which kopf repeats what failed for the first, second, … time in a row."""
_TOO_MANY: Final = 429
"""What kopf goes on after by itself, besides 5xx: it waits as long as it is told to."""
_EVENT: Final = b'{"type":"'
_ERROR: Final = b'{"type":"ERROR"'
_EXPIRED: Final = b'{"type":"ERROR","object":{"kind":"Status","status":"Failure","code":410,"reason":"Expired"}}\n'
"""What has kopf end a watch and list anew."""


class Backoffs:
    """Seconds after which kopf repeats a request, for ever: after the last of a few it would end the operator."""

    def __iter__(self) -> Iterator[float]:
        """The waits, from the first on."""
        return itertools.chain(REPEATS, itertools.repeat(REPEATS[-1]))


@dataclass(frozen=True, slots=True)
class _Place:
    """What is listed or watched."""

    resource: Resource
    path: str

    def __str__(self) -> str:
        _, _, rest = self.path.partition("/namespaces/")
        return f"{self.kind} in namespace {unquote(rest.split('/')[0])}" if rest else self.kind

    @property
    def kind(self) -> str:
        """As it stands in rules of access."""
        return f"{self.resource.plural}.{self.resource.group}" if self.resource.group else self.resource.plural


class Refusals:
    """Which kinds are refused at the moment, and how often that was in a row.

    Args:
        kinds: the kinds that kopf lists and watches.
        sleep: waits.
    """

    def __init__(self, kinds: Sequence[Resource], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._kinds = kinds
        self._sleep = sleep
        self._refused: dict[_Place, int] = {}
        self._rejected = 0

    def view(self, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """The same response; if it is to a list or watch of these kinds, it has kopf go on whatever it says."""
        if response.status == 401:
            response.content = _Rejected(response.content, self)  # type: ignore[assignment]
            return response
        self._rejected = 0
        path = request.url.path
        resource = next((each for each in self._kinds if path.endswith(f"/{each.plural}")), None)
        if resource is None or response.status == _TOO_MANY or response.status >= 500:
            return response
        wrap = _Watch if request.url.query.get("watch") == "true" else _List
        told = response.content_type == "application/json"
        content: Any = wrap(response.content, self, _Place(resource, path), response.status, told=told)
        response.content, response.status = content, 200
        return response

    async def refuse(self, place: _Place, status: int, body: bytes) -> None:
        """A list or watch was refused: say so if it is news, and wait."""
        count = self._refused.get(place, 0)
        self._refused[place] = count + 1
        if count == 0:
            what = from_answer(what="the server answers", status=status, body=body).message
            log.error(
                "%s cannot be watched, so that nothing new is seen of them: %s; %s", place, what, _remedy(place, status)
            )
        await self._wait(count)

    async def reject(self) -> None:
        """The credentials were not accepted: wait, but not before they were read again for the first time."""
        self._rejected += 1
        if self._rejected > 1:
            await self._wait(self._rejected - 2)

    async def _wait(self, count: int) -> None:
        await self._sleep(WAITS[min(count, len(WAITS) - 1)])

    def granted(self, place: _Place) -> None:
        """A list was answered."""
        if self._refused.pop(place, 0):
            log.warning("%s can be watched again, and what was missed is made up for", place)


def _remedy(place: _Place, status: int) -> str:
    if status == 403:
        return f"give the operator's service account get, list and watch on {place.kind}, as its chart does"
    if status == 404:
        return f"apply the definition of {place.kind}, as its chart or the files in crds/ do"
    return "it is tried again until that succeeds"


class _Rejected:
    """The content of an answer to credentials that are not accepted; to be had after a while."""

    def __init__(self, content: aiohttp.StreamReader, refusals: Refusals) -> None:
        self._content = content
        self._refusals = refusals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self, n: int = -1) -> bytes:
        """The whole answer."""
        data = await self._content.read(n)
        await self._refusals.reject()
        return data


class _Content:
    """The content of an answer; otherwise what it was."""

    def __init__(
        self, content: aiohttp.StreamReader, refusals: Refusals, place: _Place, status: int, *, told: bool
    ) -> None:
        self._content = content
        self._refusals = refusals
        self._place = place
        self._status = status
        self._good = status == 200 and told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


class _List(_Content):
    """The content of an answer to a list; one that is none is a broken connection to kopf, which lists anew."""

    async def read(self, n: int = -1) -> bytes:
        """The whole page."""
        with _closed_is_broken():
            data = await self._content.read(n)
        if self._status == 410:  # it took so long that its next page is gone
            raise aiohttp.ClientPayloadError("the list has expired")
        if not self._good or not _is_object(data):
            await self._refusals.refuse(self._place, self._status, data)
            raise aiohttp.ClientPayloadError("the list was refused")
        self._refusals.granted(self._place)
        return data


class _Watch(_Content):
    """The content of an answer to a watch, in whole lines; all that is no event is an expired watch to kopf."""

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """What the answer brings."""
        if not self._good:
            with _closed_is_broken():
                data = await self._content.read()
            if self._status != 410:
                await self._refusals.refuse(self._place, self._status, data)
            yield _EXPIRED
            return
        rest = b""
        async for chunk in self._chunks(size):
            end = chunk.rfind(b"\n") + 1
            whole, rest = (rest + chunk[:end], chunk[end:]) if end else (b"", rest + chunk)
            if _are_events(whole):
                if whole:
                    yield whole
                continue
            for line in whole.splitlines():
                if (error := _error_in(line)) is None:
                    yield line + b"\n"
                    continue
                if error[0] != 410:
                    await self._refusals.refuse(self._place, *error)
                yield _EXPIRED
                return
        # What is cut off in the middle of a line comes again with the next watch.
        if _is_object(rest) and _error_in(rest) is None:
            yield rest + b"\n"

    async def _chunks(self, size: int) -> AsyncIterator[bytes]:
        with _closed_is_broken():
            async for chunk in self._content.iter_chunked(size):
                yield chunk


@contextlib.contextmanager
def _closed_is_broken() -> Iterator[None]:
    """What kopf closes because another request was answered 401 is a broken connection; aiohttp calls it otherwise."""
    try:
        yield
    except RuntimeError as error:
        raise aiohttp.ClientPayloadError(str(error)) from error


def _are_events(lines: bytes) -> bool:
    """Whether it is quickly seen that lines are events and none is an error."""
    if not lines:
        return True
    others = lines.count(b"\n") - lines.count(b"\n" + _EVENT)
    return lines.startswith(_EVENT) and others == 1 and _ERROR not in lines


def _error_in(line: bytes) -> tuple[int, bytes] | None:
    """The status and the text of what is no event; None of an event or of an empty line."""
    if not line:
        return None
    try:
        event = json.loads(line)
        told = event["object"]
        if event["type"] != "ERROR":
            return None
        return int(told.get("code") or 500), json.dumps(told).encode()
    except (ValueError, LookupError, TypeError, AttributeError):
        return 500, line


def _is_object(data: bytes) -> bool:
    """Whether it looks like an object of JSON: not what a proxy says, and not cut off."""
    return data[:1] == b"{" and data.rstrip()[-1:] == b"}"
