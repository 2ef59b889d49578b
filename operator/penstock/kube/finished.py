"""Finished executions: deleted when their time to live is over, and acknowledged when their spec is changed late.

What finishes an execution is the controller's; the objects of one that is deleted go by their owner references.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from penstock.controller.ports import Clock, Conflict, Transient
from penstock.controller.queue import DirtyQueue
from penstock.engine.status import from_timestamp
from penstock.kube.client import Client
from penstock.kube.errors import ApiError
from penstock.kube.executions import KubeExecutions
from penstock.kube.resources import EXECUTIONS
from penstock.step.values import JsonObject

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
KEEP_SECONDS = 2.0
"""How often it is looked whether an execution was recorded that is to go."""


class Finished:
    """Looks after finished executions.

    Args:
        client: the REST client.
        executions: acknowledges them.
        clock: the time.
        kept: whether an execution, by its uid, may be removed; one that may not yet is looked at again.
    """

    def __init__(
        self, client: Client, executions: KubeExecutions, clock: Clock, kept: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._client = client
        self._kept = kept
        self._executions = executions
        self._clock = clock
        self._expired = DirtyQueue(clock.now)
        self._expiring: dict[str, tuple[str, str]] = {}
        self._changed = DirtyQueue(clock.now)
        self._bodies: dict[str, JsonObject] = {}

    def observe(self, body: JsonObject) -> None:
        """A finished execution was seen."""
        self.expire(body)
        meta, status = body["metadata"], body["status"]
        if meta.get("generation", 1) > status.get("observedGeneration", 0):
            # It must not look like one that is not read yet.
            self._bodies[meta["uid"]] = body
            self._changed.add(meta["uid"])

    def expire(self, body: Mapping[str, Any]) -> None:
        """Delete a finished execution when its time to live is over, if it has one.

        Args:
            body: `metadata.uid`, `.namespace` and `.name`, `spec` and `status` of it.
        """
        seconds = body["spec"].get("ttlSecondsAfterFinished")
        finished = (body.get("status") or {}).get("finishedAt")
        if seconds is None or finished is None:
            return
        meta = body["metadata"]
        self._expiring[meta["uid"]] = (meta["namespace"], meta["name"])
        self._expired.add_at(meta["uid"], from_timestamp(finished) + seconds)

    async def delete_expired(self) -> None:
        """Delete those whose time is over. Never ends."""
        await self._expired.work(self._delete)

    async def _delete(self, key: str) -> None:
        if not self._kept(key):
            self._expired.add_at(key, self._clock.now() + KEEP_SECONDS)
            return
        namespace, name = self._expiring.pop(key)
        try:
            await self._client.delete(EXECUTIONS, name, namespace, uid=key)
        except ApiError as error:
            about = {"execution": name, "namespace": namespace}
            log.warning("it could not be deleted at the end of its time: %s", error, extra=about)
            self._expiring[key] = (namespace, name)
            self._expired.add_at(key, self._clock.now() + RETRY_SECONDS)

    async def acknowledge_changed(self) -> None:
        """Acknowledge those whose spec was changed after their end. Never ends."""
        await self._changed.work(self._acknowledge)

    async def _acknowledge(self, key: str) -> None:
        body = self._bodies.pop(key)
        try:
            await self._executions.acknowledge(body)
        except Conflict:
            log.debug("a finished execution was changed once more; its next event says how")
        except (ApiError, Transient) as error:
            about = {"execution": body["metadata"]["name"], "namespace": body["metadata"]["namespace"]}
            log.warning("that its spec was changed could not be acknowledged: %s", error, extra=about)
            self._bodies.setdefault(key, body)
            self._changed.add_at(key, self._clock.now() + RETRY_SECONDS)

    def close(self) -> None:
        """Cancel all timers."""
        self._expired.close()
        self._changed.close()
