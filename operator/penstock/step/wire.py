"""HTTP for transfers: one client for all threads that keeps connections, waits for stores and renews URLs.

No message ever holds the query of a URL: it is a signature, and whoever has it may use it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from penstock.step.plan import Plan, Request

if TYPE_CHECKING:
    import ssl

_CONNECT_SECONDS = 15.0
_SILENCE_SECONDS = 60.0
"""How long the other side may say nothing in the middle of a request."""
_ERROR_BYTES = 64 * 1024
_REDIRECTS = 3
_NO_URL = "its URL in the plan is not one of HTTP"
_LONGEST_PAUSE = 15.0
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9_.]{1,64})\s*</Code>")
_RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507, 509})
_RETRY_CODES = frozenset({"RequestTimeout", "BadDigest", "IncompleteBody", "InternalError", "SlowDown"})
_REFUSED_CODES = frozenset({"ExpiredToken", "TokenRefreshRequired", "InvalidToken"})


class Settings(NamedTuple):
    """How transfers behave.

    Attributes:
        patience: seconds that one file may go without progress while it is tried again.
        deadline: when all must be over, in seconds since the epoch; None: no such time.
        refusals: seconds for which a refusal (403) of URLs that should still be good is tried again.
        connections: files at a time, and parts of large files at a time.
        first_pause: seconds before the first repetition, about; later ones take longer.
    """

    patience: float = 600.0
    deadline: float | None = None
    refusals: float = 60.0
    connections: int = 4
    first_pause: float = 0.25


PATIENCE = "PENSTOCK_TRANSFER_PATIENCE"
DEADLINE = "PENSTOCK_TRANSFER_DEADLINE"
CONNECTIONS = "PENSTOCK_TRANSFER_CONNECTIONS"


def settings_from(env: Mapping[str, str]) -> Settings:
    """Read the variables `PENSTOCK_TRANSFER_…`, all optional.

    Raises:
        ValueError: one is not a number, or not one that can be used.
    """
    found = Settings()
    with _named(PATIENCE):
        found = found._replace(patience=float(env.get(PATIENCE) or found.patience))
    with _named(DEADLINE):
        found = found._replace(deadline=float(env[DEADLINE]) if env.get(DEADLINE) else None)
    with _named(CONNECTIONS):
        found = found._replace(connections=int(env.get(CONNECTIONS) or found.connections))
        if not 1 <= found.connections <= 64:
            raise ValueError
    return found


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise ValueError(f"{name} is not a number that can be used") from None


class TransferError(Exception):
    """A transfer failed; the message is a clause for people that does not name the file.

    Attributes:
        transient: whether the same might work later: the platform's trouble, not the user's.
    """

    def __init__(self, why: str, *, transient: bool) -> None:
        super().__init__(why)
        self.transient = transient


class CutError(Exception):
    """A connection broke; the message says how."""


class Body(Protocol):
    """What a request carries; may be sent more than once."""

    @property
    def length(self) -> int:
        """Bytes."""

    def send(self, connection: socket.socket) -> None:
        """Write all of it.

        Raises:
            TransferError: what it is made of cannot be read.
            OSError: the connection broke.
        """


class _Trouble(NamedTuple):
    why: str
    refused: bool = False
    wait: float = 0.0


class Patience:
    """How long one file is tried: seconds from the first trouble after the last progress, and a deadline for all.

    Args:
        settings: the bounds.
        stop: ends all pauses, and with them the transfer.
    """

    def __init__(self, settings: Settings, stop: threading.Event | None = None) -> None:
        self._settings = settings
        self._since: float | None = None
        self._pause = settings.first_pause
        self.stop = stop or threading.Event()

    def progress(self) -> None:
        """Something got through: count no more."""
        self._since = None
        self._pause = self._settings.first_pause

    def left(self) -> float:
        """Seconds until it ends; at least 0."""
        left = self._settings.patience
        if (since := self._since) is not None:
            left += since - time.monotonic()
        if self._settings.deadline is not None:
            left = min(left, self._settings.deadline - time.time())
        return max(left, 0.0)

    def pause(self, why: str, wait: float = 0.0) -> None:
        """Wait before the next try.

        Args:
            why: what went wrong.
            wait: seconds that the store asked for.

        Raises:
            TransferError: there is no time left, or another part of the same file has failed.
        """
        import random  # noqa: PLC0415 - only trouble needs it

        if (since := self._since) is None:
            since = self._since = time.monotonic()
        left = self.left()
        if left <= 0:
            waited = time.monotonic() - since
            late = waited < self._settings.patience
            ended = "the time for it is over" if late else f"tried again for {waited:,.0f} s"
            raise TransferError(f"{why} ({ended})", transient=True)
        seconds = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        if self.stop.wait(min(max(seconds, wait), left)):
            raise TransferError(why, transient=True)


class Reply:
    """An answer of a store. Close it; a connection whose answer was read to its end is used again."""

    def __init__(self, client: Client, connection: _Connection, response: http.client.HTTPResponse) -> None:
        self._client = client
        self._connection = connection
        self._response = response
        self.status = response.status

    def header(self, name: str) -> str:
        """A header's value; empty where there is none."""
        return self._response.getheader(name) or ""

    @property
    def length(self) -> int | None:
        """Bytes of its content that are still to come, if the store said."""
        return self._response.length

    def readinto(self, buffer: memoryview) -> int:
        """Read into the buffer; returns how many bytes, 0 at the end.

        Raises:
            CutError: the connection broke.
        """
        expected = self._response.length
        try:
            count = self._response.readinto(buffer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CutError(_reason(error)) from None
        if count == 0 and expected:
            raise CutError("the connection was cut")
        return count

    def read(self, limit: int) -> bytes:
        """All of a short answer.

        Raises:
            CutError: the connection broke.
        """
        buffer = memoryview(bytearray(limit))
        position = 0
        while position < limit and (count := self.readinto(buffer[position:])):
            position += count
        return bytes(buffer[:position])

    def close(self) -> None:
        """Give the connection back, or drop it."""
        if self._response.isclosed() and not self._response.will_close:
            self._client.keep(self._connection)
        else:
            self._response.close()
            self._connection.http.close()


class _Connection(NamedTuple):
    http: http.client.HTTPConnection
    origin: tuple[str, str]
    used: bool


class Client:
    """Sends requests until they succeed, or there is no more patience.

    Args:
        plan: read again when the store refuses a URL.
        settings: how long.
    """

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.plan = plan
        self.settings = settings
        self._idle: dict[tuple[str, str], list[_Connection]] = {}
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def open(
        self,
        method: str,
        find: Callable[[], Request],
        patience: Patience,
        *,
        ok: Collection[int],
        gone: TransferError,
        body: Body | None = None,
        silence: float = _SILENCE_SECONDS,
    ) -> Reply:
        """Send a request, again and again if need be.

        Args:
            method: GET, PUT, …
            find: the request, from the plan as it is now: it is asked before each try.
            patience: how long to try.
            ok: statuses of answers to return; others are trouble.
            gone: what to raise at 404.
            body: what to send.
            silence: seconds that the store may take before it answers.

        Raises:
            TransferError: the store will not, or cannot be reached.
        """
        refused_since: float | None = None
        while True:
            request = find()
            trouble = self._try(method, request, body, ok, gone, min(silence, max(patience.left(), 1.0)))
            if isinstance(trouble, Reply):
                return trouble
            if trouble.refused:
                self.plan.refresh()
                if find().url != request.url:
                    continue
                now = time.monotonic()
                refused_since = refused_since or now
                if time.time() >= self.plan.expires:
                    trouble = trouble._replace(why=f"{trouble.why}: its URL has expired and was not renewed")
                elif now - refused_since >= self.settings.refusals:
                    raise TransferError(trouble.why, transient=True)
            patience.pause(trouble.why, trouble.wait)

    def _try(
        self,
        method: str,
        request: Request,
        body: Body | None,
        ok: Collection[int],
        gone: TransferError,
        silence: float,
    ) -> Reply | _Trouble:
        for _ in range(_REDIRECTS + 1):
            try:
                reply = self._exchange(method, request, body, silence)
                if reply.status in ok:
                    return reply
                if reply.status in (301, 302, 307, 308) and reply.header("Location"):
                    request = request._replace(url=urllib.parse.urljoin(request.url, reply.header("Location")))
                    reply.close()
                    continue
                return _judge(reply, _host(request.url), gone)
            except CutError as error:
                return _Trouble(f"the store {_host(request.url)} broke off: {error}")
            except (OSError, http.client.HTTPException) as error:
                _check_certificate(error, request.url)
                return _Trouble(f"the store {_host(request.url)} cannot be reached: {_reason(error)}")
        raise TransferError(f"the store {_host(request.url)} redirects in circles", transient=False)

    def _exchange(self, method: str, request: Request, body: Body | None, silence: float) -> Reply:
        while True:
            connection = self._connect(request.url, silence)
            try:
                return Reply(self, connection, _send(connection.http, method, request, body))
            except (OSError, http.client.HTTPException):
                connection.http.close()
                if not connection.used:
                    raise
                # The store may close a connection that it kept for long: that says nothing about a new one.
            except BaseException:
                connection.http.close()
                raise

    def _connect(self, url: str, silence: float) -> _Connection:
        parts = urllib.parse.urlsplit(url)
        origin = (parts.scheme, parts.netloc)
        with self._lock:
            idle = self._idle.get(origin)
            kept = idle.pop() if idle else None
        if kept is not None:
            kept.http.sock.settimeout(silence)
            return kept._replace(used=True)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in ("http", "https"):
            raise TransferError(_NO_URL, transient=False)
        connection = (
            http.client.HTTPSConnection(host, port, timeout=_CONNECT_SECONDS, context=self._context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=_CONNECT_SECONDS)
        )
        connection.connect()
        connection.sock.settimeout(silence)
        return _Connection(connection, origin, used=False)

    def keep(self, connection: _Connection) -> None:
        """Take back a connection that can be used again."""
        if connection.http.sock is not None:
            with self._lock:
                self._idle.setdefault(connection.origin, []).append(connection)

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.http.close()
            self._idle.clear()

    def _context(self) -> ssl.SSLContext:
        import ssl  # noqa: PLC0415 - stores within a cluster are often plain HTTP

        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls


def _send(
    connection: http.client.HTTPConnection, method: str, request: Request, body: Body | None
) -> http.client.HTTPResponse:
    parts = urllib.parse.urlsplit(request.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.putrequest(method, target, skip_accept_encoding=True)
    # Nothing may unpack or pack what travels.
    connection.putheader("Accept-Encoding", "identity")
    for name, value in request.headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(body.length))
    connection.endheaders()
    if body is not None:
        try:
            body.send(connection.sock)
        except (BrokenPipeError, ConnectionResetError):
            # A store that refuses says so and hangs up, without reading what is still on its way.
            with contextlib.suppress(OSError, http.client.HTTPException):
                response = connection.getresponse()
                if response.status >= 300:
                    return response
            raise
    return connection.getresponse()


def _judge(reply: Reply, host: str, gone: TransferError) -> _Trouble:
    """What an answer means that is not the one wanted."""
    try:
        data = reply.read(_ERROR_BYTES)
    except CutError:
        data = b""
    reply.close()
    code = error_code(data)
    why = f"the store {host} answered {reply.status}{' ' + code if code else ''}"
    if reply.status in {404, 410}:
        raise TransferError(f"{gone} ({why})", transient=gone.transient)
    if reply.status in (401, 403) or code in _REFUSED_CODES:
        return _Trouble(why, refused=True)
    if reply.status in _RETRY_STATUS or code in _RETRY_CODES:
        return _Trouble(why, wait=_retry_after(reply.header("Retry-After")))
    raise TransferError(why, transient=False)


def error_code(data: bytes) -> str:
    """The code in an error of S3's kind, such as `SlowDown`; empty where there is none."""
    found = _CODE.search(data)
    return found[1].decode() if found else ""


def is_passing(code: str) -> bool:
    """Whether an error with this code may be gone at the next try."""
    return code in _RETRY_CODES


def _retry_after(text: str) -> float:
    if text.isascii() and text.isdecimal():
        return float(text)
    if not text:
        return 0.0
    import email.utils  # noqa: PLC0415 - few stores send a date

    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def _reason(error: BaseException) -> str:
    """Why a connection failed, without anything of the URL."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead | ConnectionResetError):
        return "the connection was cut"
    if isinstance(error, OSError):
        return (error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)).lower()
    return f"it does not speak HTTP ({type(error).__name__})"


def _check_certificate(error: BaseException, url: str) -> None:
    """Raise TransferError at an error that waiting does not mend."""
    verify = getattr(error, "verify_message", None)
    if verify is not None:
        raise TransferError(
            f"the certificate of the store {_host(url)} is not trusted: {verify}", transient=False
        ) from None
    if isinstance(error, http.client.InvalidURL):
        raise TransferError(_NO_URL, transient=False) from None
