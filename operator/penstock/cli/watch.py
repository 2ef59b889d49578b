"""`penstock get --watch`: what changes about objects of a kind, line by line. Only reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from penstock.cli.cluster import Cluster, cleaned
from penstock.cli.cluster_follow import HEALS, PATIENCE_SECONDS, PAUSE_SECONDS, WATCH_SECONDS, changes
from penstock.kube.resources import Resource

Show = Callable[[list[dict[str, Any]]], None]


async def watch(
    cluster: Cluster,
    resource: Resource,
    *,
    namespace: str | None,
    labels: str,
    fields: str,
    show: Show,
    on_trouble: Callable[[str], None],
) -> None:
    """Show all objects, and then each that is new or has changed, until somebody ends the command.

    A cluster that is away for a while is waited for; what changed meanwhile is shown once.

    Args:
        cluster: where they are.
        resource: their kind.
        namespace: where to look; None for everywhere.
        labels: label selector.
        fields: field selector.
        show: shows objects; it is called first with all that are there.
        on_trouble: told once each time the cluster went away.

    Raises:
        ApiError: they cannot be read.
    """
    loop = asyncio.get_running_loop()
    seen: dict[str, str] = {}
    answered: float | None = None
    away = False
    while True:
        try:
            listing = await cluster.client.list(
                resource, namespace=namespace, labels=labels, fields=fields, keep=lambda body: cleaned(body, resource)
            )
            fresh = [body for body in listing.items if _is_news(seen, body)]
            if fresh or answered is None:
                show(fresh)
            answered, away = loop.time(), False
            given = {"labelSelector": labels, "fieldSelector": fields, "resourceVersion": listing.resource_version}
            params = {key: value for key, value in given.items() if value}
            async with aclosing(changes(cluster, resource, namespace, params)) as events:
                async for _, found in events:
                    answered = loop.time()
                    body = cleaned(found, resource)
                    if _is_news(seen, body):
                        show([body])
        except HEALS as error:
            if answered is None or loop.time() - answered > PATIENCE_SECONDS + WATCH_SECONDS:
                raise
            if not away:
                away = True
                on_trouble(error.message.partition("\n")[0])
            await asyncio.sleep(PAUSE_SECONDS)


def _is_news(seen: dict[str, str], body: dict[str, Any]) -> bool:
    meta = body["metadata"]
    if seen.get(meta["uid"]) == meta["resourceVersion"]:
        return False
    seen[meta["uid"]] = meta["resourceVersion"]
    return True
