"""A small HTTP server that misbehaves as an API server can, and what tests need around it. No fixtures and no tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from penstock.kube.client import Client
from penstock.kube.credentials import Access, Sessions
from penstock.kube.transport import Settings, Transport

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(body: Any, status: int = 200, **headers: str) -> Handler:
    """Answers with JSON."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(
            body, status=status, headers={name.replace("_", "-"): v for name, v in headers.items()}
        )

    return handler


def refuse(code: int, reason: str, **headers: str) -> Handler:
    """Answers with a `Status` object."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "no"}
    return answer(body, code, **headers)


async def reset(request: web.Request) -> web.StreamResponse:
    """Cuts the connection in place of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def break_off(request: web.Request) -> web.StreamResponse:
    """Begins an answer and cuts the connection in the middle of it."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"kind": ')
    assert request.transport is not None
    request.transport.close()
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answers; ends with the server."""
    await request.app[GONE].wait()
    return web.Response(status=500)


GONE = web.AppKey("gone", asyncio.Event)


@dataclass
class Seen:
    """A request as the server got it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeServer:
    """Answers requests by a script, one entry a request, or by `default` when it has come to its end."""

    script: list[Handler] = field(default_factory=list)
    default: Handler = field(default_factory=lambda: answer({"kind": "Thing", "metadata": {"name": "x"}}))
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The one handler of everything."""
        text = await request.text()
        body = json.loads(text) if text else None
        self.seen.append(
            Seen(request.method, request.raw_path.split("?")[0], dict(request.query), dict(request.headers), body)
        )
        return await (self.script.pop(0) if self.script else self.default)(request)


@asynccontextmanager
async def serving(server: FakeServer, port: int = 0) -> AsyncIterator[FakeServer]:
    """Serves it on the loopback interface."""
    app = web.Application()
    app[GONE] = asyncio.Event()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        app[GONE].set()
        await runner.cleanup()


@dataclass
class Waits:
    """Takes the place of sleeping: notes how long it would have been, and does not wait."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        """Do not sleep."""
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@dataclass
class Bench:
    """A client, its server, and all that was measured."""

    server: FakeServer
    sessions: Sessions
    token: Path
    waits: Waits = field(default_factory=Waits)
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def client(
        self, settings: Settings | None = None, *, fence: Callable[[], None] | None = None, chance: float = 1.0
    ) -> Client:
        """A client of the server; `chance` 1.0 makes the longest waits."""
        return Client(
            Transport(
                self.sessions,
                settings=settings,
                sleep=self.waits,
                chance=lambda: chance,
                fence=fence,
                on_request=lambda verb, resource, code, _: self.requests.append((verb, resource, code)),
            )
        )


@dataclass(frozen=True)
class Fixed:
    """A source of credentials for the fake server."""

    server: FakeServer
    token: Path

    def load(self) -> Access:
        """Its address and the token in the file."""
        return Access(server=self.server.url, namespace="here", token_file=self.token)


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """A server and sessions to it."""
    token = folder / "token"
    token.write_text("first\n")
    async with serving(FakeServer()) as server:
        sessions = Sessions(Fixed(server, token))
        try:
            yield Bench(server, sessions, token)
        finally:
            await sessions.close()
