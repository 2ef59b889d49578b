"""Sweeps the object store: objects of executions that are gone, in each namespace, one namespace at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from penstock.controller.ports import Clock
from penstock.controller.queue import DirtyQueue
from penstock.engine.status import load_value
from penstock.kube.client import Client
from penstock.kube.errors import ApiError
from penstock.kube.resources import EXECUTIONS
from penstock.step.values import JsonObject
from penstock.storage.cache import files_of
from penstock.storage.errors import BadObjectPath, StoreError
from penstock.storage.objects import Store
from penstock.storage.paths import check_namespace
from penstock.storage.retention import Living, Retention

log = logging.getLogger(__name__)

DELAY_SECONDS = 10.0
"""After an execution went, until its objects do: others that go at the same time are swept together."""
RETRY_SECONDS = 60.0


class Sweeper:
    """Sweeps from time to time, and soon after executions have gone.

    Args:
        client: reads executions.
        store: the object store.
        clock: the time.
        namespaces: those that are looked after; empty: all that the store has anything of.
        every: seconds between two sweeps of everything.
        cache_seconds: how long what a step's cache remembers may be unused.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        clock: Clock,
        *,
        namespaces: Sequence[str],
        every: float,
        cache_seconds: float,
    ) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._namespaces = namespaces
        self._every = every
        self._retention = Retention(store, self._living, cache_seconds=cache_seconds)
        self._due = DirtyQueue(clock.now)

    def gone(self, namespace: str) -> None:
        """An execution of this namespace is not there any more."""
        self._due.add_at(namespace, self._clock.now() + DELAY_SECONDS)

    async def run(self) -> None:
        """Sweep. Never ends."""
        periodic = asyncio.create_task(self._periodic())
        try:
            await self._due.work(self._sweep)
        finally:
            periodic.cancel()
            self._due.close()

    async def _periodic(self) -> None:
        while True:
            try:
                for namespace in self._namespaces or await self._store.folders(""):
                    self._due.add(namespace)
            except StoreError as error:
                log.warning("the object store cannot be listed, it is swept later: %s", error)
            await asyncio.sleep(self._every)

    async def _sweep(self, namespace: str) -> None:
        try:
            check_namespace(namespace)
        except BadObjectPath:  # not one of ours
            return
        try:
            swept = await self._retention.sweep(namespace, now=self._clock.now())
        except (StoreError, ApiError) as error:
            log.warning("objects were not swept, it is tried again: %s", error, extra={"namespace": namespace})
            self._due.add_at(namespace, self._clock.now() + RETRY_SECONDS)
            return
        if swept.objects or swept.cache_entries or swept.uploads:
            told = {"executions": len(swept.executions), "objects": swept.objects, "bytes": swept.bytes}
            log.info("objects swept", extra={"namespace": namespace, **told})

    async def _living(self, namespace: str, uids: Sequence[str]) -> Living:
        return await living(self._client, namespace, uids)


async def living(client: Client, namespace: str, uids: Sequence[str]) -> Living:
    """Which executions of a namespace there are, and the files of others that they hold.

    Args:
        client: reads executions.
        namespace: which.
        uids: those that are asked for; nobody is asked where there are none.

    Raises:
        ApiError: nobody can say.
    """
    if not uids:
        return Living(frozenset())
    found: set[str] = set()
    keys: set[str] = set()

    def take(body: JsonObject) -> None:
        uid = body["metadata"]["uid"]
        found.add(uid)
        own = f"executions/{uid}/"
        keys.update(key for key in _keys(body.get("status") or {}) if not key.startswith(own))

    await client.list(EXECUTIONS, namespace=namespace, keep=take)
    return Living(frozenset(found), frozenset(keys))


def _keys(status: Mapping[str, Any]) -> Iterator[str]:
    """Keys of all files in a status."""
    for step in (status, *status.get("steps", ())):
        for holder in (step, *step.get("items", ())):
            values = [load_value(each) for each in holder.get("outputs", ()) if "value" not in each]
            yield from (file.key for file in files_of(values))
