"""Where events come from: kopf, told to write nothing and to keep nothing. The only module that knows kopf's handlers.

The rest of the adapter sees `comparing.Sink`; another source of events (a raw watch) would call the same methods.
Events are hints: whatever they miss is found by listing and comparing (`operator`).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from penstock.kube.comparing import Sink
from penstock.kube.credentials import Sessions
from penstock.kube.echoes import without_echoes
from penstock.kube.listed import Listed
from penstock.kube.names import EXECUTION_UID
from penstock.kube.refusals import Backoffs, Refusals
from penstock.kube.resources import DEPLOYMENTS, EXECUTIONS, JOBS, PIPELINES, PODS, Resource

CHUNK = 500
"""Objects of one page of a list, which are in memory at once."""
IDLE_SECONDS = 0.1
"""How long kopf keeps a worker, and with it its last object, after its last event."""


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no copy of objects: no handler asks for differences, and making one costs more than the event itself."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Nothing."""


class _NoProgress(kopf.ProgressStorage):
    """Keeps no progress of handlers: ours run once for each event and have no progress."""

    def fetch(self, *, key: Any, body: Any) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        """Nothing."""

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        """Nothing."""

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        """Nothing."""

    def clear(self, *, essence: Any) -> Any:
        return copy.copy(essence)


class _NoMemories(ResourceMemories):
    """Remembers nothing of objects, where kopf keeps about 1 kB of each: it is for handlers of kinds we do not have."""

    async def recall(self, *args: Any, **named: Any) -> ResourceMemory:
        return await super().recall(*args, **(named | {"ephemeral": True}))


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = Backoffs()
    settings.watching.chunk_size = CHUNK
    settings.queueing.idle_timeout = IDLE_SECONDS
    for resource in (JOBS, PODS):
        settings.watching.label_selectors[_selector(resource)] = EXECUTION_UID
    return settings


def _selector(resource: Resource) -> tuple[str, str, str]:
    return (resource.group, resource.version, resource.plural)


def _registry(sink: Sink, login: Callable[..., Awaitable[Any]]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(login)
    handlers = {
        EXECUTIONS: sink.execution,
        PIPELINES: sink.pipeline,
        DEPLOYMENTS: sink.deployment,
        PODS: sink.pod,
        JOBS: sink.job,
    }
    for resource, take in handlers.items():
        kopf.on.event(*_selector(resource), id=f"penstock-{resource.plural}", registry=registry)(_handler(take))
    return registry


def _handler(take: Callable[..., None]) -> Callable[..., Awaitable[None]]:
    async def handle(event: Any, **_: Any) -> None:
        take(event["object"], deleted=event["type"] == "DELETED")

    return handle


async def watch(
    sink: Sink,
    listed: Listed,
    sessions: Sessions,
    namespaces: Sequence[str],
    *,
    stop: asyncio.Event,
    on_started: Callable[[], None] | None = None,
) -> None:
    """Watch until stopped.

    kopf cancels every task that was started in this loop after its own: start what must outlive it before.

    Args:
        sink: takes the objects of events.
        listed: takes those of kopf's lists.
        sessions: what it watches with.
        namespaces: where; everywhere if there are none.
        stop: ends it.
        on_started: called when kopf has started; what it takes for itself (signals) can be taken back then.
    """
    refusals = Refusals((EXECUTIONS, PIPELINES, DEPLOYMENTS, JOBS, PODS))
    sessions.view = lambda request, response: without_echoes(
        request, listed.view(request, refusals.view(request, response))
    )
    started = asyncio.Event()
    after = asyncio.create_task(_once(started, on_started))
    try:
        await _watch(sink, sessions, namespaces, stop, started)
    finally:
        after.cancel()


async def _once(started: asyncio.Event, then: Callable[[], None] | None) -> None:
    await started.wait()
    if then is not None:
        then()


async def _watch(
    sink: Sink, sessions: Sessions, namespaces: Sequence[str], stop: asyncio.Event, started: asyncio.Event
) -> None:
    await kopf.operator(
        registry=_registry(sink, sessions.login),
        settings=_settings(),
        memories=_NoMemories(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
        ready_flag=started,
    )
