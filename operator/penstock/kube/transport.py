"""Requests to an API server, and when they are made again. Knows HTTP and nothing of objects: that is `client`'s.

Made again are requests that the server never got, those it refused for being too many, those it failed at or that were
cut off if doing them twice does no harm, and once those whose credentials it did not accept.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

import aiohttp
from yarl import URL

from penstock import __version__
from penstock.kube.errors import ApiError, ServerError, TooManyRequests, Unauthorized, Unreachable, from_answer

T = TypeVar("T")


_LARGE_BODY = 1_000_000
"""Bytes of a body that would hold up everything else if it were sent at once."""


AGENT = f"penstock/{__version__}"
"""How requests introduce themselves."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A way to an API server.

    Attributes:
        session: open session that adds the credentials.
        server: base URL without a slash at its end.
        namespace: the namespace of who does not name one; None where the credentials do not say.
    """

    session: aiohttp.ClientSession
    server: str
    namespace: str | None = None


_Use: TypeAlias = Callable[[Connection, aiohttp.ClientResponse], Awaitable[T]]


class Provider(Protocol):
    """Where connections come from. A session may be closed by others at any time (kopf does so after a 401)."""

    async def current(self) -> Connection:
        """A connection whose session is open at this moment."""

    async def renew(self, rejected: Connection) -> None:
        """The server did not accept the credentials of this connection: read them again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How patient a client is.

    Attributes:
        tries: how often a request is made at most, not counting the repetition after a 401.
        base_seconds: about the wait before the second try; it doubles from one to the next.
        max_wait_seconds: the longest wait between tries. A server that asks for more gets its error passed on at once.
        connect_seconds: time limit for a connection.
        request_seconds: time limit for a request with its answer.
        stream_look_seconds: how often a stream that is silent looks whether its session is still open.
        max_writes: how many writes may be under way at once.
    """

    tries: int = 5
    base_seconds: float = 0.2
    max_wait_seconds: float = 5.0
    connect_seconds: float = 5.0
    request_seconds: float = 30.0
    stream_look_seconds: float = 5.0
    max_writes: int = 32


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        verb: Kubernetes' word for it, for metrics: `get`, `list`, `create`, `apply`, `patch`, `update`, `delete`.
        method: HTTP method.
        path: from the server's root, quoted.
        resource: plural name, with the subresource after a slash.
        params: query parameters.
        body: a JSON object, if there is one.
        content_type: of the body.
        accept: what answers are wanted.
        idempotent: whether doing it twice does no harm.
        endless: whether the answer is a stream that may take any time.
    """

    verb: str
    method: str
    path: str
    resource: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: object | None = None
    content_type: str = "application/json"
    accept: str = "application/json"
    idempotent: bool = True
    endless: bool = False

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


OnRequest = Callable[[str, str, int, float], None]
"""Called after every request with its verb, its resource, the HTTP status (0: no answer) and the seconds it took."""


class Transport:
    """Makes requests.

    Args:
        provider: where connections come from.
        settings: how patient to be.
        on_request: for metrics.
        fence: called before every write, each repetition too; raises to hold it back (see `leader`).
        chance: gives numbers from 0 to 1, so that many clients do not come back at the same moment.
        sleep: waits.
        monotonic: seconds from any fixed moment.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        settings: Settings | None = None,
        on_request: OnRequest | None = None,
        fence: Callable[[], None] | None = None,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._settings = settings or Settings()
        self._on_request = on_request
        self._fence = fence
        self._chance = chance
        self._sleep = sleep
        self._monotonic = monotonic
        self._writes = asyncio.Semaphore(self._settings.max_writes)

    async def send(self, call: Call) -> bytes:
        """Make a request; gives the whole body of the answer.

        Raises:
            ApiError: it did not succeed.
        """
        return await self._persist(call, _read)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Make a request and give its answer bit by bit as it comes; not made again once it has begun to come.

        Raises:
            ApiError: it did not succeed.
            Unreachable: the connection was lost on the way.
        """
        connection, response = await self._persist(call, _leave)
        try:
            while True:
                try:
                    async with asyncio.timeout(self._settings.stream_look_seconds):
                        chunk = await response.content.readany()
                except TimeoutError:
                    # Closing a session does not end what is being read from it: the reader would wait for ever.
                    if connection.session.closed:
                        raise Unreachable(f"{call}: the session was closed") from None
                    continue
                if not chunk:
                    return
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{call}: broke off: {error}") from error
        except RuntimeError as error:
            if not connection.session.closed:
                raise
            raise Unreachable(f"{call}: the session was closed") from error
        finally:
            response.close()

    async def _persist(self, call: Call, use: _Use[T]) -> T:
        failures = 0
        renewed = False
        while True:
            connection = await self._provider.current()
            try:
                return await self._once(connection, call, use)
            except Unauthorized:
                if renewed:
                    raise
                renewed = True
                await self._provider.renew(connection)
            except (TooManyRequests, ServerError, Unreachable) as error:
                failures += 1
                wait = self._wait(call, error, failures)
                if wait is None:
                    raise
                await self._sleep(wait)

    def _wait(self, call: Call, error: ApiError, failures: int) -> float | None:
        """Seconds until the next try; None if there is to be none."""
        refused = isinstance(error, TooManyRequests) or (isinstance(error, Unreachable) and not error.sent)
        if failures >= self._settings.tries or not (refused or call.idempotent):
            return None
        asked = error.retry_after or 0.0
        longest = self._settings.max_wait_seconds
        if asked > longest:
            return None
        backoff = min(longest, self._settings.base_seconds * 2.0 ** (failures - 1))
        return max(asked, backoff * (0.5 + 0.5 * self._chance()))

    async def _once(self, connection: Connection, call: Call, use: _Use[T]) -> T:
        slot: AbstractAsyncContextManager[None] = self._writes if call.writes else nullcontext()
        async with slot:
            if call.writes and self._fence is not None:
                self._fence()
            code = 0
            started = self._monotonic()
            try:
                response = await self._request(connection, call)
                code = response.status
                try:
                    await _check(call, response)
                    return await use(connection, response)
                except BaseException:
                    response.close()
                    raise
            except (aiohttp.ClientError, OSError) as error:  # time limits are OSErrors
                raise _unreachable(call, connection, error) from error
            except RuntimeError as error:
                # aiohttp has no exception of its own for a session that somebody closed meanwhile.
                if not connection.session.closed:
                    raise
                raise Unreachable(f"{call}: the session was closed", sent=code != 0) from error
            finally:
                if self._on_request is not None:
                    self._on_request(call.verb, call.resource, code, self._monotonic() - started)

    async def _request(self, connection: Connection, call: Call) -> aiohttp.ClientResponse:
        headers = {"Accept": call.accept, "User-Agent": AGENT}
        data: bytes | None = None
        if call.body is not None:
            headers["Content-Type"] = call.content_type
            data = json.dumps(call.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        limit = None if call.endless else self._settings.request_seconds
        return await connection.session.request(
            call.method,
            URL(connection.server + call.path, encoded=True),
            params=call.params,
            # aiohttp sends a large body piece by piece only if it is a file.
            data=data if data is None or len(data) < _LARGE_BODY else io.BytesIO(data),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=limit, connect=self._settings.connect_seconds),
            allow_redirects=False,
        )


async def _check(call: Call, response: aiohttp.ClientResponse) -> None:
    if response.status >= 300:
        raise from_answer(
            what=str(call),
            status=response.status,
            body=await response.read(),
            retry_after=response.headers.get("Retry-After"),
        )


async def _read(_: Connection, response: aiohttp.ClientResponse) -> bytes:
    return await response.read()


async def _leave(connection: Connection, response: aiohttp.ClientResponse) -> tuple[Connection, aiohttp.ClientResponse]:
    return connection, response


def _unreachable(call: Call, connection: Connection, error: Exception) -> Unreachable:
    sent = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    what = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return Unreachable(f"{call}: {connection.server}: {what}", sent=sent)
