"""Writes the recorded ends of attempts into their Jobs and Pods, again and again until the server has taken them.

The record is an execution's status, which is written before. If this process ends before the server has taken the rest,
the first listing of the next one finds those Jobs (`leftovers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from penstock.controller.ports import Clock
from penstock.controller.queue import DirtyQueue
from penstock.kube import manifests, podstate
from penstock.kube.client import Client
from penstock.kube.errors import ApiError, Conflict, Invalid, NotFound, TooLarge
from penstock.kube.resources import JOBS, PODS
from penstock.step.values import JsonObject

log = logging.getLogger(__name__)

MOST_WAITING: Final = 10_000
"""How many ends are kept that the server has not taken, about 2 kB each; what is more is left to list-and-compare."""
_WORKERS: Final = 4
_BACKOFF: Final = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds to wait after the first, second, … failure in a row; each has taken the client's own tries."""


class PodEnd(Enum):
    """How a Pod is ended."""

    NONE = "it ends by itself, or has"
    BY_KUBELET = "its containers are ended, its log stays"
    DELETED = "no kubelet could end it"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What is to be written about the end of an attempt.

    Attributes:
        namespace: where.
        job: name of its Job.
        status: the status of the Job; None for a Job that is not ours to end.
        pod: name of its Pod.
        pod_end: how that is ended.
    """

    namespace: str
    job: str
    status: JsonObject | None
    pod: str
    pod_end: PodEnd

    @property
    def place(self) -> str:
        """Namespace and name of the Job."""
        return f"{self.namespace}/{self.job}"


def pod_end(pod: JsonObject | None) -> PodEnd:
    """How what still runs of a Pod is ended."""
    if pod is None or not podstate.needs_ending(pod):
        return PodEnd.NONE
    return PodEnd.BY_KUBELET if podstate.has_node(pod) else PodEnd.DELETED


class Conclusions:
    """Ends of attempts on their way to the server.

    Args:
        client: the REST client.
        clock: the time.
    """

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._waiting: dict[str, Conclusion] = {}
        self._failures: dict[str, int] = {}
        self._queue = DirtyQueue(clock.now)

    def __len__(self) -> int:
        return len(self._waiting)

    async def write(self, conclusion: Conclusion) -> None:
        """Write an end now; if the server does not take it now, it is tried again in the background. Never raises."""
        try:
            await self._write(conclusion)
        except ApiError as error:
            self._later(conclusion, error)

    async def run(self) -> None:
        """Write what could not be written at once. Never ends."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_WORKERS):
                    group.create_task(self._queue.work(self._again))
        finally:
            self._queue.close()

    async def _again(self, place: str) -> None:
        conclusion = self._waiting.get(place)
        if conclusion is None:
            return
        try:
            await self._write(conclusion)
        except ApiError as error:
            self._later(conclusion, error)
        else:
            del self._waiting[place]
            if self._failures.pop(place, 0):
                log.info("the end of Job %s is written now", place)

    def _later(self, conclusion: Conclusion, error: ApiError) -> None:
        place = conclusion.place
        if place not in self._waiting and len(self._waiting) >= MOST_WAITING:
            log.warning("the end of Job %s was not written, the next list-and-compare does it: %s", place, error)
            return
        count = self._failures.get(place, 0)
        if count == 0:
            log.info("the end of Job %s was not written, it is tried again: %s", place, error)
        self._waiting[place] = conclusion
        self._failures[place] = count + 1
        wait = max(_BACKOFF[min(count, len(_BACKOFF) - 1)], error.retry_after or 0.0)
        self._queue.add_at(place, self._clock.now() + wait)

    async def _write(self, conclusion: Conclusion) -> None:
        """Write an end.

        Raises:
            ApiError: it was not written, and may be if it is tried again.
        """
        name, namespace = conclusion.pod, conclusion.namespace
        if conclusion.pod_end is PodEnd.BY_KUBELET:
            await self._unless_final(lambda: self._client.patch(PODS, name, namespace, manifests.end_now()), conclusion)
        elif conclusion.pod_end is PodEnd.DELETED:
            await self._unless_final(lambda: self._client.delete(PODS, name, namespace), conclusion)
        if (status := conclusion.status) is not None:
            await self._unless_final(
                lambda: self._client.patch_status(JOBS, conclusion.job, namespace, status, metadata_only=True),
                conclusion,
            )

    async def _unless_final(self, request: Callable[[], Awaitable[object]], conclusion: Conclusion) -> None:
        """Make a request; an object that somebody has removed, or ended, needs no end from us."""
        with contextlib.suppress(NotFound):
            try:
                await request()
            except (Conflict, Invalid, TooLarge) as error:
                log.info("the end of Job %s was not written: %s", conclusion.place, error)
