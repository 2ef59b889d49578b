"""Lists that kopf asks for: their objects are taken on the way, and kopf reads them as empty.

kopf lists every kind before it watches it, at its start and whenever a watch cannot be taken up. For each object it
would start a worker and go through all of its handling, for 10,000 executions 30,000 times, and all that is wanted is
that somebody takes note of them. So these lists are the operator's own first look at the world too: there is no second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import aiohttp
import orjson

from penstock.kube.resources import EXECUTIONS, JOBS, PODS, Resource
from penstock.step.values import JsonObject

Take: TypeAlias = Mapping[Resource, Callable[[JsonObject], None]]
"""For each kind, what takes note of one object."""

_AFTER: Final = {JOBS: EXECUTIONS, PODS: JOBS}
"""Kinds whose objects mean nothing to whoever does not know those of another kind yet."""


class Listed:
    """What has been listed.

    Args:
        take: takes the objects; may be replaced.
        places: in how many namespaces kopf lists each kind; 1 if it is the whole cluster.
        on_again: called when a list has come to its end that had been complete before: events may have been missed.

    Attributes:
        complete: set once every kind was listed everywhere.
    """

    def __init__(self, take: Take, places: int, on_again: Callable[[], None]) -> None:
        self.take = take
        self.complete = asyncio.Event()
        self._places = places
        self._on_again = on_again
        self._ended: dict[Resource, set[str]] = {resource: set() for resource in take}
        self._all = {resource: asyncio.Event() for resource in take}

    def view(self, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """The same response; if it is a list of these kinds, it is read without its items from now on."""
        path = request.url.path
        resource = next((each for each in self.take if path.endswith(f"/{each.plural}")), None)
        if resource is not None and response.status == 200 and request.url.query.get("watch") != "true":
            response.content = _Emptied(response.content, self, resource, path)  # type: ignore[assignment]
        return response

    async def empty(self, data: bytes, resource: Resource, path: str) -> bytes:
        """Hand over the objects of one page of a list; gives the page without them."""
        page = orjson.loads(data)  # a page has megabytes, and a restart reads a hundred of them
        if (before := _AFTER.get(resource)) is not None:
            await self._all[before].wait()
        take = self.take[resource]
        for body in page["items"]:
            take({"apiVersion": resource.api_version, "kind": resource.kind, **body})
        if not page["metadata"].get("continue"):
            self._end(resource, path)
        return orjson.dumps({**page, "items": []})

    def _end(self, resource: Resource, path: str) -> None:
        """The last page of a list was handed over."""
        if path in self._ended[resource]:
            self._on_again()
            return
        self._ended[resource].add(path)
        if len(self._ended[resource]) == self._places:
            self._all[resource].set()
        if all(event.is_set() for event in self._all.values()):
            self.complete.set()


class _Emptied:
    """The content of a list's answer without its items; otherwise what it was."""

    def __init__(self, content: aiohttp.StreamReader, listed: Listed, resource: Resource, path: str) -> None:
        self._content = content
        self._listed = listed
        self._resource = resource
        self._path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self, n: int = -1) -> bytes:
        """The whole page."""
        return await self._listed.empty(await self._content.read(n), self._resource, self._path)
