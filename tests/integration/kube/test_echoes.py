"""What kopf is given to read of a watch: news, whole, and nothing else changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from penstock.kube.echoes import without_echoes

from .support import Bench, Handler

WATCH = "/apis/penstock.dev/v1alpha1/namespaces/here/executions"


def event(kind: str, name: str, **status: Any) -> bytes:
    body = {"kind": "Execution", "metadata": {"name": name, "generation": 1}, "status": status}
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


NEWS, MORE = event("ADDED", "news", text="ü" * 200_000), event("DELETED", "more")
ECHO = event("MODIFIED", "echo", observedGeneration=1)


def streams(*pieces: bytes) -> Handler:
    """Answers piece by piece."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return handler


async def read(fake: Bench, path: str, **query: str) -> bytes:
    """What somebody reads who reads as kopf does."""
    fake.sessions.view = without_echoes
    connection = await fake.sessions.current()
    async with await connection.session.get(connection.server + path, params=query) as response:
        return b"".join([data async for data in response.content.iter_chunked(1 << 20)])


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([ECHO, NEWS, ECHO, MORE], id="one at a time"),
        pytest.param([ECHO + NEWS + MORE + ECHO], id="all at once"),
        pytest.param(
            [ECHO[:9], ECHO[9:] + NEWS[:20], NEWS[20:-1], NEWS[-1:] + MORE + ECHO], id="in the midst of lines"
        ),
    ],
)
async def test_a_watch_of_executions_has_no_echoes(fake: Bench, pieces: list[bytes]) -> None:
    fake.server.default = streams(*pieces)
    assert await read(fake, WATCH, watch="true") == NEWS + MORE


async def test_a_watch_that_breaks_off_within_a_line_loses_nothing(fake: Bench) -> None:
    fake.server.default = streams(ECHO, MORE, NEWS[:50])
    assert await read(fake, WATCH, watch="true") == MORE + NEWS[:50]


@pytest.mark.parametrize(
    ("path", "query"), [(WATCH, {}), (WATCH, {"watch": "false"}), ("/api/v1/nodes", {"watch": "true"})]
)
async def test_everything_else_is_left_alone(fake: Bench, path: str, query: dict[str, str]) -> None:
    fake.server.default = streams(ECHO, NEWS)
    assert await read(fake, path, **query) == ECHO + NEWS
