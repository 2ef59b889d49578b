"""A replica of the operator: it competes for the Lease and, while it has it, leads.

Losing the Lease ends the process: what it knew of the world may be out of date, and beginning anew is what a restart
does anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from penstock.controller.contract import SystemClock
from penstock.kube.client import Client
from penstock.kube.credentials import Sessions
from penstock.kube.leader import Leader, LeaderSettings, election_client
from penstock.kube.metrics import Metrics, serve
from penstock.kube.objectstore import ObjectStore
from penstock.kube.operator import Operator, identity_of
from penstock.kube.settings import OperatorSettings
from penstock.kube.transport import Settings, Transport

if TYPE_CHECKING:
    from penstock.kube.recording import Recording

log = logging.getLogger(__name__)


class LeaseLost(Exception):  # noqa: N818 - an event
    """Another replica leads, or nobody does."""


async def run(
    settings: OperatorSettings,
    sessions: Sessions,
    stop: asyncio.Event,
    objects: ObjectStore | None = None,
    *,
    take_signals: Callable[[], None] | None = None,
) -> None:
    """Compete for the Lease, work while it is held, until `stop` is set.

    Args:
        settings: the settings.
        sessions: connections to the API server; closed at the end.
        stop: ends it.
        objects: the object store; None where there is none.
        take_signals: has signals set `stop`. Called where kopf has taken them for itself: it would wait 5 s for all
            tasks before it ends, and meanwhile nobody could take the Lease.

    Raises:
        LeaseLost: the Lease went to another replica; start the process anew.
        BadSettings: no history can be kept where it should be.
    """
    metrics = Metrics()
    leading = LeaderSettings(
        namespace=settings.lease_namespace,
        name=settings.lease_name,
        identity=identity_of(settings),
    )
    leader = Leader(election_client(sessions, leading, on_request=metrics.on_request), leading)
    election = asyncio.create_task(leader.run())
    operator: Operator | None = None
    recording: Recording | None = None
    recorded: list[asyncio.Task[None]] = []
    http = None
    if settings.http_port:
        # A replica that does not lead is ready too: it is there to take over.
        http = await serve(
            settings.http_port,
            metrics,
            healthy=lambda: not election.done(),
            ready=lambda: not leader.holds() or (operator is not None and operator.synced),
        )
    try:
        if settings.history_url:
            await _check_history(settings.history_url)
        if not await _first(leader.elected(), stop.wait()):
            return
        metrics.leading.set(1)
        log.info("leading", extra={"identity": leading.identity})
        patience = Settings(max_writes=settings.max_parallel_requests)
        client = Client(Transport(sessions, settings=patience, on_request=metrics.on_request, fence=leader.fence))
        once = Settings(tries=1, max_writes=1)
        quick = Client(Transport(sessions, settings=once, on_request=metrics.on_request, fence=leader.fence))
        recording, recorded = _recorded(settings.history_url, client)
        operator = Operator(client, settings, metrics, quick, objects, recording)
        ended = asyncio.Event()
        work = asyncio.create_task(operator.run(sessions, ended, take_signals))
        deposed = asyncio.create_task(leader.deposed())
        halt = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, deposed, halt, *recorded}, return_when=asyncio.FIRST_COMPLETED)
            for each in (work, *recorded):
                if each.done():
                    each.result()
            if deposed.done():
                raise LeaseLost("the Lease went to another replica")
        finally:
            ended.set()
            for task in (work, deposed, halt):
                task.cancel()
            await asyncio.gather(work, deposed, halt, return_exceptions=True)
    finally:
        election.cancel()
        await asyncio.gather(election, return_exceptions=True)
        if recording is not None:
            await recording.close(*recorded)  # after the Lease was given away: nobody waits for this
        if http is not None:
            await http.cleanup()
        await sessions.close()


async def _check_history(url: str) -> None:
    from penstock.kube.recording import check  # noqa: PLC0415 - only what is used

    await check(url)


def _recorded(url: str, client: Client) -> tuple[Recording | None, list[asyncio.Task[None]]]:
    """What records executions, and the task that does; nothing where there is no history."""
    if not url:
        return None, []
    from penstock.kube.recording import Recording  # noqa: PLC0415 - only what is used

    recording = Recording(url, client, SystemClock())
    return recording, [asyncio.create_task(recording.run())]


async def _first(wanted: Any, other: Any) -> bool:
    """Wait for either of two; whether it was the first."""
    tasks = [asyncio.ensure_future(wanted), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0] in done
    finally:
        for task in tasks:
            task.cancel()
