"""Executions as server-sent events: phase and progress each time that they change, until it is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.responses import Response, StreamingResponse

from penstock.controller.serving import finished
from penstock.gateway.access import Caller, Cluster
from penstock.gateway.answers import PRIVATE
from penstock.gateway.problems import problem_of
from penstock.kube import follow
from penstock.kube.errors import ApiError
from penstock.kube.resources import EXECUTIONS
from penstock.step.values import JsonObject

T = TypeVar("T")

_LOOK_SECONDS = 1.0
"""How often a stream looks whether this gateway is about to end."""
_TOLD = ("progress", "reason", "message", "startedAt", "finishedAt")


def streamed(content: AsyncIterator[str]) -> Response:
    """An answer that goes on."""
    # Proxies that gather answers would keep events back.
    return StreamingResponse(
        content, 200, PRIVATE | {"X-Accel-Buffering": "no"}, media_type="text/event-stream; charset=utf-8"
    )


async def over(body: JsonObject) -> AsyncIterator[str]:
    """The events of an execution that only the history has."""
    yield _event("change", _change(body), "")
    yield _event("deleted" if "deletedAt" in body else "finished", _change(body), "")


async def told(
    cluster: Cluster, who: Caller, namespace: str, name: str, heartbeat: float, closing: Callable[[], bool]
) -> AsyncGenerator[str, None]:
    """The events of an execution that is there."""
    before: JsonObject = {}
    try:
        async with (
            cluster.connected(who) as (client, transport),
            aclosing(follow.versions(client, transport, EXECUTIONS, name, namespace)) as bodies,
            aclosing(_or_silence(bodies, heartbeat, closing)) as seen,
        ):
            async for body in seen:
                if body is None:
                    yield ": still here\n\n"
                    continue
                now, version = _change(body), body["metadata"].get("resourceVersion", "")
                if now != before:
                    yield _event("change", now, version)
                before = now
                if finished(body):
                    yield _event("finished", now, version)
                    return
        if not closing():
            yield _event("deleted", before, "")
    except ApiError as error:
        problem = problem_of(error)
        yield _event("error", {"status": problem.status, "reason": problem.reason, "detail": str(problem)}, "")


def _change(body: JsonObject) -> JsonObject:
    status = body.get("status") or {}
    found = {
        "name": body["metadata"]["name"],
        "uid": body["metadata"]["uid"],
        "phase": status.get("phase") or "Pending",
    }
    return found | {key: status[key] for key in _TOLD if status.get(key)}


def _event(kind: str, data: JsonObject, identity: str) -> str:
    head = f"id: {identity}\n" if identity else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"


async def _or_silence(
    source: AsyncGenerator[T, None], seconds: float, closing: Callable[[], bool]
) -> AsyncGenerator[T | None, None]:
    """What comes, and None whenever nothing has come for so long. Ends early when all is to end."""
    loop = asyncio.get_running_loop()
    silent = loop.time() + seconds
    coming: asyncio.Task[T] | None = None
    try:
        while not closing():
            coming = coming or asyncio.ensure_future(_next(source))
            await asyncio.wait([coming], timeout=max(0.0, min(_LOOK_SECONDS, silent - loop.time())))
            if coming.done():
                found, coming = coming, None
                try:
                    yield found.result()
                except StopAsyncIteration:
                    return
                silent = loop.time() + seconds
            elif loop.time() >= silent:
                yield None
                silent = loop.time() + seconds
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def _next(source: AsyncGenerator[T, None]) -> Awaitable[T]:
    return anext(source)
