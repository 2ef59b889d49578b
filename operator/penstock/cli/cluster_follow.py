"""Following one object of a cluster as it changes. Only reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from penstock.cli.cluster import Cluster
from penstock.kube.errors import ApiError, Gone, NotFound, ServerError, TooManyRequests, Unreachable
from penstock.kube.resources import Resource
from penstock.kube.transport import Call

WATCH_SECONDS = 300
"""How long one watch lasts before the object is read again."""
PATIENCE_SECONDS = 120.0
"""How long a cluster that answered before may be away; the restart of an API server takes half a minute."""
PAUSE_SECONDS = 1.0

HEALS = (Unreachable, ServerError, TooManyRequests, Gone)
"""Errors of a cluster that is away or has too much to do."""


async def versions(
    cluster: Cluster,
    resource: Resource,
    name: str,
    namespace: str,
    *,
    on_trouble: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[dict[str, Any], None]:
    """An object as it is now, and again each time it has changed, until it is deleted.

    A cluster that is away for a while is waited for. Close it (`contextlib.aclosing`) if you do not read to the end.

    Args:
        cluster: where it is.
        resource: its kind.
        name: its name.
        namespace: its namespace.
        on_trouble: told once each time the cluster went away.

    Raises:
        ApiError: it cannot be read.
    """
    loop = asyncio.get_running_loop()
    answered: float | None = None
    away = False
    while True:
        try:
            body = await cluster.client.get(resource, name, namespace)
            answered, away = loop.time(), False
            yield body
            async with aclosing(_watch(cluster, resource, body)) as changes:
                async for changed in changes:
                    answered = loop.time()
                    if changed is None:
                        return
                    yield changed
        except NotFound:
            if answered is None:
                raise
            return
        except HEALS as error:
            if answered is None or loop.time() - answered > PATIENCE_SECONDS:
                raise
            if not away:
                away = True
                on_trouble(_first_line(error))
            await asyncio.sleep(PAUSE_SECONDS)


async def _watch(
    cluster: Cluster, resource: Resource, body: dict[str, Any]
) -> AsyncGenerator[dict[str, Any] | None, None]:
    """Later versions of an object; None when it is deleted. Ends when the object should be read again."""
    meta = body["metadata"]
    params = {"fieldSelector": f"metadata.name={meta['name']}", "resourceVersion": meta["resourceVersion"]}
    async with aclosing(changes(cluster, resource, meta["namespace"], params)) as events:
        async for kind, found in events:
            if kind == "DELETED" or found["metadata"]["uid"] != meta["uid"]:
                yield None
                return
            yield found


async def changes(
    cluster: Cluster, resource: Resource, namespace: str | None, params: dict[str, str]
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """What one watch tells: `ADDED`, `MODIFIED` or `DELETED`, and the object. Ends when it should be listed again.

    Args:
        cluster: where they are.
        resource: their kind.
        namespace: where to look; None for everywhere.
        params: selectors, and the resource version that is known.
    """
    params = params | {"watch": "true", "timeoutSeconds": str(WATCH_SECONDS)}
    call = Call("watch", "GET", resource.path(namespace=namespace), resource.plural, params=params, endless=True)
    async with aclosing(cluster.transport.stream(call)) as chunks:
        async for line in whole_lines(chunks):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            yield event["type"], event["object"]


async def whole_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines however long they are: the client's own reader cuts those of logs, and these are objects."""
    rest = bytearray()
    async for data in chunks:
        rest += data
        if b"\n" in data:
            *whole, last = rest.split(b"\n")
            for line in whole:
                yield bytes(line)
            rest = bytearray(last)


def _first_line(error: ApiError) -> str:
    return error.message.partition("\n")[0]
