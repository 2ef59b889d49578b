"""Following objects of a cluster as they change, for commands. Only reads; `kube.follow` does the work."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from penstock.cli.cluster import Cluster
from penstock.kube import follow
from penstock.kube.errors import Gone
from penstock.kube.follow import HEALS, PATIENCE_SECONDS, PAUSE_SECONDS, WATCH_SECONDS
from penstock.kube.resources import Resource

__all__ = ["HEALS", "PATIENCE_SECONDS", "PAUSE_SECONDS", "WATCH_SECONDS", "changes", "versions"]


def versions(
    cluster: Cluster,
    resource: Resource,
    name: str,
    namespace: str,
    *,
    on_trouble: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[dict[str, Any], None]:
    """An object as it is now, and again each time it has changed, until it is deleted. See `follow.versions`."""
    return follow.versions(cluster.client, cluster.transport, resource, name, namespace, on_trouble=on_trouble)


async def changes(
    cluster: Cluster, resource: Resource, namespace: str | None, params: dict[str, str]
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """What one watch tells: `ADDED`, `MODIFIED` or `DELETED`, and the object. Ends when it should be listed again."""
    async with aclosing(follow.changes(cluster.transport, resource, namespace, params)) as events:
        try:
            async for event in events:
                yield event
        except Gone:
            return
