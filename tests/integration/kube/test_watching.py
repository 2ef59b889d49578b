"""kopf at work on a server that misbehaves: whatever it answers, events come again, and the operator goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from penstock.kube import refusals
from penstock.kube.listed import Listed
from penstock.kube.refusals import Refusals
from penstock.kube.resources import DEPLOYMENTS, EXECUTIONS, JOBS, NAMESPACES, PIPELINES, PODS
from penstock.kube.watching import watch

from .support import Bench, Handler, break_off, refuse, reset
from .test_attempts import until

KINDS = (EXECUTIONS, PIPELINES, DEPLOYMENTS, JOBS, PODS)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before the next try."""
    monkeypatch.setattr(refusals, "WAITS", (0.01,))
    monkeypatch.setattr(refusals, "REPEATS", (0.01,))


class Api:
    """A server with four kinds, whose watches end when they are told to.

    Attributes:
        faults: what it does with the next requests about executions, in the place of an answer, by `list` or `watch`.
        objects: names of the executions that there are.
        watching: how many watches of executions were answered.
        lists: how many lists of executions were answered.
    """

    def __init__(self) -> None:
        self.faults: dict[str, list[Handler]] = {"list": [], "watch": []}
        self.objects: list[str] = []
        self.watching = 0
        self.lists = 0
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    def tell(self, line: bytes) -> None:
        """Write to the watch of executions."""
        self._lines.put_nowait(line)

    def create(self, name: str) -> None:
        """Make an execution, of which the watch tells."""
        self.objects.append(name)
        self.tell(json.dumps({"type": "ADDED", "object": body(name)}, separators=(",", ":")).encode() + b"\n")

    def end_watch(self) -> None:
        """End the watch of executions as servers do now and then."""
        self._lines.put_nowait(None)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Handle one request."""
        if (found := _discovery(request.path)) is not None:
            return web.json_response(found)
        watches = request.query.get("watch") == "true"
        if not request.path.endswith("/executions"):
            return await self._idle(request) if watches else _page([])
        if faults := self.faults["watch" if watches else "list"]:
            return await faults.pop(0)(request)
        if watches:
            return await self._stream(request)
        self.lists += 1
        return _page([body(name) for name in self.objects])

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = await _begun(request)
        self._lines = asyncio.Queue()
        self.watching += 1
        while (line := await self._lines.get()) is not None:
            await response.write(line)
        return response

    async def _idle(self, request: web.Request) -> web.StreamResponse:
        response = await _begun(request)
        await asyncio.Event().wait()
        return response


async def _begun(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    return response


def _page(items: list[Any]) -> web.Response:
    return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": items})


def _discovery(path: str) -> Any:
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        groups = [(EXECUTIONS.group, EXECUTIONS.version), (JOBS.group, JOBS.version)]
        return {
            "groups": [
                {"name": group, "versions": [{"version": version}], "preferredVersion": {"version": version}}
                for group, version in groups
            ]
        }
    served = [each for each in (*KINDS, NAMESPACES) if each.path().rpartition("/")[0] == path]
    verbs = {"singularName": "", "verbs": ["list", "watch"]}
    resources = [{"name": each.plural, "kind": each.kind, "namespaced": each.namespaced} | verbs for each in served]
    return {"resources": resources} if served else None


def body(name: str) -> Any:
    """An execution."""
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": "6"}
    return {"kind": EXECUTIONS.kind, "apiVersion": EXECUTIONS.api_version, "metadata": metadata}


class Seen:
    """A sink: the names of all executions that were seen."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def execution(self, found: Any, *, deleted: bool = False) -> None:
        """Seen by a watch or in a list."""
        self.names.append(found["metadata"]["name"])

    def pipeline(self, found: Any, *, deleted: bool = False) -> None:
        """Nothing."""

    deployment = job = pod = pipeline


@asynccontextmanager
async def watched(fake: Bench, api: Api) -> AsyncIterator[tuple[Seen, asyncio.Task[None]]]:
    """kopf at work."""
    fake.server.default = api
    seen = Seen()
    listed = Listed(
        {EXECUTIONS: seen.execution, **dict.fromkeys((PIPELINES, DEPLOYMENTS, JOBS, PODS), seen.pipeline)},
        1,
        lambda: None,
    )
    work = asyncio.create_task(watch(seen, listed, fake.sessions, [], stop=asyncio.Event()))
    try:
        yield seen, work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def says(text: bytes, content_type: str = "application/json", cut: bool = False) -> Handler:
    """Answers with success and this text, and cuts the connection after it or ends in good order."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        await response.write(text)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return handler


def error_event(code: int) -> bytes:
    """An error in the middle of a watch."""
    status = {"kind": "Status", "code": code, "status": "Failure", "reason": "x", "message": "went wrong"}
    return json.dumps({"type": "ERROR", "object": status}, separators=(",", ":")).encode() + b"\n"


HTML = says(b"<html>Sign in first</html>", "text/html")
FAULTS = {
    "forbidden": refuse(403, "Forbidden"),
    "no definition": refuse(404, "NotFound"),
    "no definition, said by the server's root": says(b"404 page not found\n", "text/plain"),
    "not acceptable": refuse(406, "NotAcceptable"),
    "too many": refuse(429, "TooManyRequests", Retry_After="1"),
    "server error": refuse(500, "InternalError"),
    "away": refuse(503, "ServiceUnavailable"),
    "reset": reset,
    "broken off": break_off,
    "a proxy": HTML,
    "not JSON": says(b"what?\n"),
}


@pytest.mark.parametrize("what", ["list", "watch"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_watch_outlives_what_the_server_answers(fake: Bench, fault: str, what: str) -> None:
    api = Api()
    api.objects = ["there"]
    async with watched(fake, api) as (seen, work):
        await until(lambda: api.watching == 1)
        api.create("before")
        await until(lambda: "before" in seen.names)
        api.faults[what] = [FAULTS[fault]] * 2
        if what == "list":
            api.tell(error_event(410))
        api.end_watch()
        await until(lambda: not api.faults[what])
        await until(lambda: api.watching == 2)
        api.create("after")
        await until(lambda: "after" in seen.names)
        assert not work.done()


@pytest.mark.parametrize(
    "line",
    [
        error_event(410),
        error_event(500),
        error_event(403),
        b'{"type":"ERROR","object":null}\n',
        b"garbage\n",
        b'{"type":"ADDED","object":{"kind":"Exec',
    ],
)
async def test_a_watch_outlives_what_it_is_told_in_the_middle(fake: Bench, line: bytes) -> None:
    api = Api()
    async with watched(fake, api) as (seen, work):
        await until(lambda: api.watching == 1)
        api.create("before")
        api.tell(line)
        api.end_watch()
        await until(lambda: api.watching == 2)
        api.create("after")
        await until(lambda: "after" in seen.names)
        assert "before" in seen.names
        assert not work.done()


async def test_what_was_made_while_nothing_could_be_watched_is_seen_afterwards(
    fake: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()
    async with watched(fake, api) as (seen, _):
        await until(lambda: api.watching == 1)
        api.faults = {"watch": [refuse(403, "Forbidden")], "list": [refuse(403, "Forbidden")] * 2}
        api.objects.append("meanwhile")
        api.end_watch()
        await until(lambda: "meanwhile" in seen.names)
    told = [each for each in caplog.records if each.name == "penstock.kube.refusals"]
    assert [each.levelno for each in told] == [logging.ERROR, logging.WARNING]  # once, and not each time
    assert told[0].getMessage() == (
        "executions.penstock.dev cannot be watched, so that nothing new is seen of them: the server answers: 403 "
        "Forbidden: no; give the operator's service account get, list and watch on executions.penstock.dev, as its "
        "chart does"
    )
    assert "executions.penstock.dev can be watched again" in told[1].getMessage()


async def test_a_list_whose_next_page_has_expired_is_begun_anew_at_once(
    fake: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()
    api.objects = ["a"]
    first = {"kind": "List", "metadata": {"resourceVersion": "5", "continue": "more"}, "items": [body("a")]}
    api.faults["list"] = [says(json.dumps(first).encode()), refuse(410, "Expired")]
    async with watched(fake, api) as (seen, _):
        await until(lambda: api.watching == 1)
        assert seen.names == ["a", "a"]
    assert not [each for each in caplog.records if each.name == "penstock.kube.refusals"]


async def test_a_watch_outlives_credentials_that_are_not_accepted_for_a_while(fake: Bench) -> None:
    api = Api()
    async with watched(fake, api) as (seen, work):
        await until(lambda: api.watching == 1)
        api.faults["watch"] = [refuse(401, "Unauthorized")] * 5
        api.end_watch()
        await until(lambda: api.watching == 2)
        api.create("after")
        await until(lambda: "after" in seen.names)
        assert not work.done()


async def asks(fake: Bench, found: Refusals, handler: Handler, times: int) -> None:
    """Ask for the list of executions again and again, as kopf does."""
    fake.server.default, fake.sessions.view = handler, found.view
    connection = await fake.sessions.current()
    for _ in range(times):
        with contextlib.suppress(aiohttp.ClientPayloadError):
            async with await connection.session.get(connection.server + EXECUTIONS.path()) as response:
                await response.json()


async def test_the_server_is_not_asked_without_a_pause(fake: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "WAITS", (1.0, 2.0, 5.0))
    found = Refusals(KINDS, fake.waits)
    await asks(fake, found, refuse(403, "Forbidden"), 4)
    assert fake.waits.seconds == [1.0, 2.0, 5.0, 5.0]
    fake.waits.seconds.clear()
    await asks(fake, found, Api(), 1)
    await asks(fake, found, refuse(404, "NotFound"), 1)
    assert fake.waits.seconds == [1.0]  # it counts from the beginning again
    fake.waits.seconds.clear()
    await asks(fake, found, refuse(401, "Unauthorized"), 4)
    assert fake.waits.seconds == [1.0, 2.0, 5.0]  # at once with what was read again
