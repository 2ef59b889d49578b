"""Following objects of an API server as they change, with a raw watch. Only reads.

The operator's events come from kopf (`watching`); the command line and the gateway need less than that and pay less.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from penstock.kube.client import Client
from penstock.kube.errors import ApiError, Gone, NotFound, ServerError, TooManyRequests, Unreachable
from penstock.kube.resources import Resource
from penstock.kube.transport import Call, Transport
from penstock.step.values import JsonObject

_LOG = logging.getLogger(__name__)

WATCH_SECONDS = 300
"""How long one watch lasts before the next is begun."""
PATIENCE_SECONDS = 120.0
"""How long a cluster that answered before may be away; the restart of an API server takes half a minute."""
PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 15.0

HEALS = (Unreachable, ServerError, TooManyRequests, Gone)
"""Errors of a cluster that is away or has too much to do."""


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects that are there: what was known before and is not among them is gone."""

    items: Sequence[JsonObject]


@dataclass(frozen=True, slots=True)
class Changed:
    """One object is new, has changed or is gone."""

    body: JsonObject
    deleted: bool


async def versions(
    client: Client,
    transport: Transport,
    resource: Resource,
    name: str,
    namespace: str,
    *,
    on_trouble: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[dict[str, Any], None]:
    """An object as it is now, and again each time it has changed, until it is deleted.

    A cluster that is away for a while is waited for. Close it (`contextlib.aclosing`) if you do not read to the end.

    Args:
        client: reads it.
        transport: watches it.
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
            body = await client.get(resource, name, namespace)
            answered, away = loop.time(), False
            yield body
            async with aclosing(_watch(transport, resource, body)) as later:
                async for changed in later:
                    answered = loop.time()
                    if changed is None:
                        return
                    yield changed
        except Gone:
            continue  # it is read again
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
    transport: Transport, resource: Resource, body: dict[str, Any]
) -> AsyncGenerator[dict[str, Any] | None, None]:
    """Later versions of an object; None when it is deleted. Ends when the object should be read again."""
    meta = body["metadata"]
    params = {"fieldSelector": f"metadata.name={meta['name']}", "resourceVersion": meta["resourceVersion"]}
    async with aclosing(changes(transport, resource, meta["namespace"], params)) as events:
        async for kind, found in events:
            if kind == "DELETED" or found["metadata"]["uid"] != meta["uid"]:
                yield None
                return
            yield found


async def everything(
    client: Client,
    transport: Transport,
    resource: Resource,
    *,
    namespace: str | None = None,
    labels: str = "",
) -> AsyncGenerator[Listed | Changed, None]:
    """All objects of a kind, and then each change, for ever. Whatever goes wrong is logged and tried again.

    A watch that ends goes on where it was; when the server no longer knows that place, all are listed again.

    Args:
        client: lists them.
        transport: watches them.
        resource: their kind.
        namespace: where; None for everywhere.
        labels: label selector.
    """
    selector = {"labelSelector": labels} if labels else {}
    loop = asyncio.get_running_loop()
    version = ""
    failures = 0
    while True:
        began = loop.time()
        try:
            if not version:
                listing = await client.list(resource, namespace=namespace, labels=labels, keep=lambda body: body)
                yield Listed(listing.items)
                version = listing.resource_version
            params = selector | {"resourceVersion": version, "allowWatchBookmarks": "true"}
            async with aclosing(changes(transport, resource, namespace, params)) as events:
                async for kind, body in events:
                    failures = 0
                    version = body["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        yield Changed(body, kind == "DELETED")
            # A server that ends watches at once is not to be asked without a pause.
            await asyncio.sleep(max(0.0, PAUSE_SECONDS - (loop.time() - began)))
        except Gone:
            version = ""
            await asyncio.sleep(max(0.0, PAUSE_SECONDS - (loop.time() - began)))
        except ApiError as error:
            if failures == 0:
                _LOG.warning("watching %s: %s; it is tried again", resource.plural, _first_line(error))
            failures += 1
            await asyncio.sleep(min(_LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(failures - 1, 5)))


async def changes(
    transport: Transport, resource: Resource, namespace: str | None, params: dict[str, str]
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """What one watch tells: `ADDED`, `MODIFIED` or `DELETED`, and the object. Ends when its time is over.

    Args:
        transport: makes the request.
        resource: their kind.
        namespace: where to look; None for everywhere.
        params: selectors, and the resource version that is known.

    Raises:
        Gone: the server cannot go on from that resource version.
    """
    params = params | {"watch": "true", "timeoutSeconds": str(WATCH_SECONDS)}
    call = Call("watch", "GET", resource.path(namespace=namespace), resource.plural, params=params, endless=True)
    async with aclosing(transport.stream(call)) as chunks:
        async for line in whole_lines(chunks):
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise Gone(f"{call}: {event['object'].get('message', '')}", status=410)
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
