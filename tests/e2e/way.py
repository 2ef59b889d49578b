"""A way to the API server that can be broken: for one operator only, while everybody else goes on."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

CUT = 0
"""In the place of a status: the connection is cut."""
_KEPT = ("Content-Type", "Retry-After")


class Way:
    """Passes requests on, with the credentials that they have, or refuses them.

    Attributes:
        refuses: the status that a request is refused with, given its method and path; None passes it on.
        refused: how many requests were refused.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.refuses: Callable[[str, str], int | None] = lambda _method, _path: None
        self.refused = 0
        found = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        current = next(each["context"] for each in found["contexts"] if each["name"] == found["current-context"])
        cluster = next(each["cluster"] for each in found["clusters"] if each["name"] == current["cluster"])
        self.user = next(each["user"] for each in found["users"] if each["name"] == current["user"])
        self._server = cluster["server"].rstrip("/")
        self._ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._url = ""
        self._loop = asyncio.new_event_loop()
        self._active: set[asyncio.Task[Any]] = set()

    def kubeconfig(self, path: Path, token: str | None = None) -> Path:
        """Write a kubeconfig that goes this way; with the cluster's own user, unless there is a token."""
        content = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": self._url}}],
            "users": [{"name": "c", "user": self.user if token is None else {"token": token}}],
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def cut(self) -> None:
        """Cut all connections."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for task in self._active:
            task.cancel()

    @contextmanager
    def open(self) -> Iterator[Way]:
        """Serve, on the loopback interface."""
        ready = threading.Event()
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),))
        thread.start()
        ready.wait(30)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(30)
            self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=10_000_000)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cadata=self._ca))
        timeout = aiohttp.ClientTimeout()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            ready.set()
            await self._stop.wait()
            self._cut()
            await runner.cleanup()
        # aiohttp does not say when its connections with TLS have ended: this is what its own documentation does.
        await asyncio.sleep(0.25)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        status = self.refuses(request.method, request.path)
        if status is not None:
            self.refused += 1
            return _refusal(request, status)
        task = asyncio.current_task()
        assert task is not None
        self._active.add(task)
        try:
            return await self._pass_on(request)
        except (asyncio.CancelledError, aiohttp.ClientError, OSError):
            return _refusal(request, CUT)
        finally:
            self._active.discard(task)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        dropped = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        async with self._session.request(
            request.method,
            URL(self._server + request.raw_path, encoded=True),
            headers=headers,
            data=await request.read() or None,
            allow_redirects=False,
        ) as answer:
            kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response


def _refusal(request: web.Request, status: int) -> web.StreamResponse:
    if status == CUT:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    body = {"kind": "Status", "status": "Failure", "code": status, "message": "the way is closed"}
    return web.json_response(body, status=status)
