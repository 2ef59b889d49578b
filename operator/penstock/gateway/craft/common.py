"""What the routes for the `craft-ai-sdk` share: who asks, and objects as they may see them."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from penstock.gateway import access
from penstock.gateway.access import Caller, Cluster
from penstock.gateway.answers import PRIVATE
from penstock.gateway.craft import shapes, tokens
from penstock.kube.resources import Resource
from penstock.step.values import JsonObject


def who(request: Request) -> Caller:
    """Who makes a request, by the token that the SDK was given for theirs, or by theirs."""
    found = access.caller(request)
    return Caller(tokens.unwrap(found.token, time.time()), found.impersonate)


Who = Annotated[Caller, Depends(who)]


async def one(cluster: Cluster, asks: Caller, kind: Resource, place: str, name: str) -> JsonObject:
    """An object, as who asks may see it.

    Raises:
        ApiError: there is none, or they may not.
    """
    return await cluster.acting(asks, lambda client, _: client.get(kind, name, place))


async def listed(cluster: Cluster, asks: Caller, kind: Resource, place: str, labels: str = "") -> list[JsonObject]:
    """All objects of a kind, as who asks may see them.

    Raises:
        ApiError: they may not.
    """
    found = await cluster.acting(
        asks, lambda client, _: client.list(kind, namespace=place, labels=labels, keep=lambda body: body)
    )
    return list(found.items)


def newest_first(bodies: list[JsonObject]) -> list[JsonObject]:
    """By the time when they were created."""
    return sorted(bodies, key=lambda body: str(body["metadata"].get("creationTimestamp") or ""), reverse=True)


def latest_of(bodies: list[JsonObject]) -> Response:
    """The newest execution, or null."""
    found = newest_first(bodies)
    return JSONResponse(shapes.execution_brief(found[0]) if found else None, 200, PRIVATE)
