"""The operator: one replica that competes for the Lease and, while it has it, brings executions forward.

Wiring, first lists, and the periodic list-and-compare. Losing the Lease ends the process: what it knew of the world may
be out of date, and beginning anew is what a restart does anyway.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.controller.contract import SystemClock
from penstock.controller.loop import Controller, until_one_ends
from penstock.controller.ports import Conflict, Transient
from penstock.controller.queue import DirtyQueue
from penstock.engine.state import ExecutionState
from penstock.engine.status import from_timestamp
from penstock.engine.types import CacheEntry, Limits, TaskId
from penstock.kube import leftovers, names
from penstock.kube.attempts import KubeAttempts
from penstock.kube.client import Client
from penstock.kube.credentials import Sessions
from penstock.kube.errors import ApiError
from penstock.kube.executions import Known, KubeExecutions
from penstock.kube.leader import Leader, LeaderSettings, election_client
from penstock.kube.metrics import Metrics, serve
from penstock.kube.resources import CONTROLLER_REVISIONS, EXECUTIONS, JOBS, PIPELINES, PODS, Resource
from penstock.kube.revisions import PIPELINE_LABEL, Revisions
from penstock.kube.settings import Collector, Jobs, OperatorSettings
from penstock.kube.transport import Settings, Transport
from penstock.kube.transports import CollectorMode, PodSettings
from penstock.kube.watching import watch
from penstock.step.values import JsonObject

log = logging.getLogger(__name__)

STATUS_BYTES = 1_048_576
"""Bound of the values of steps in one execution's status: with everything else it must stay under etcd's 1.5 MiB."""
RETRY_SECONDS = 5.0
QUIET_SECONDS = 10.0
"""How long people may read `Pending` of a step that runs: a write that a short step never costs."""


class LeaseLost(Exception):  # noqa: N818 - an event
    """Another replica leads, or nobody does."""


class NoCache:
    """Remembers nothing: the cache of steps on Kubernetes comes with object storage."""

    async def lookup(self, fingerprint: str) -> CacheEntry | None:
        """Nothing."""
        del fingerprint
        return None

    async def remember(self, entry: CacheEntry) -> None:
        """Nothing."""
        del entry


class Operator:
    """One term of leadership: everything that is known, and the tasks that act on it.

    Args:
        client: the REST client, fenced by the Lease.
        settings: the operator's settings.
        metrics: what is measured.
    """

    def __init__(self, client: Client, settings: OperatorSettings, metrics: Metrics) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._clock = SystemClock()
        self._pipelines = DirtyQueue(self._clock.now)
        self._expired = DirtyQueue(self._clock.now)
        self._expiring: dict[str, tuple[str, str]] = {}
        self.revisions = Revisions(client, self._clock, self.mark, settings.revision_limit)
        self.executions = KubeExecutions(client, self.revisions, self._clock, self._on_finished)
        self.attempts = KubeAttempts(client, _pods(settings), self.executions, self._clock, self.mark)
        self.controller = Controller(
            executions=self.executions,
            attempts=self.attempts,
            cache=NoCache(),
            clock=self._clock,
            limits=Limits(
                input_bytes=settings.input_bytes, output_bytes=settings.output_bytes, status_bytes=STATUS_BYTES
            ),
            quiet_seconds=QUIET_SECONDS,
            workers=settings.workers,
            on_pass=self._on_pass,
            on_trouble=lambda key, message: log.warning("execution %s: %s", key, message),
        )
        self.synced = False
        # Asked when they are read, and not in every pass.
        metrics.live.set_function(lambda: len(self.executions))
        metrics.attempts.set_function(lambda: len(self.attempts))
        metrics.queue.set_function(lambda: len(self.controller.queue))

    def mark(self, key: str, first: bool = False) -> None:
        """Look at an execution; first of all if an attempt of it has ended."""
        self.controller.mark(key, first=first)

    # What is seen (`watching.Sink`)

    def execution(self, body: JsonObject, *, deleted: bool = False) -> None:
        """An Execution was seen."""
        uid = body["metadata"]["uid"]
        if self.executions.observe(body, deleted=deleted):
            self.mark(uid)
        elif not deleted:
            self._expire(body)

    def pipeline(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Pipeline was seen."""
        if self.revisions.observe(body, deleted=deleted):
            self._pipelines.add(f"{body['metadata']['namespace']}/{body['metadata']['name']}")

    def pod(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Pod of an attempt was seen."""
        self.attempts.pod(body, deleted=deleted)

    def job(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Job of an attempt was seen."""
        self.attempts.job(body, deleted=deleted)

    # Working

    async def run(self, login: Any, stop: asyncio.Event) -> None:
        """Work until stopped or cancelled."""
        await self.sync()
        tasks = [
            asyncio.create_task(work)
            for work in (self.controller.run(), self._read_pipelines(), self._delete_expired(), self._sync_again())
        ]
        # Last: kopf cancels what was started after it.
        tasks.append(asyncio.create_task(watch(self, login, self._settings.namespaces, stop=stop)))
        try:
            await until_one_ends(tasks)
        finally:
            await self.attempts.close()
            self._pipelines.close()
            self._expired.close()

    async def sync(self) -> None:
        """List everything and compare it with what is known. Events that never came are made up for here."""
        for body in await self._list(CONTROLLER_REVISIONS, labels=PIPELINE_LABEL):
            self.revisions.observe_revision(body)
        for body in await self._list(PIPELINES):
            self.pipeline(body)
        there: dict[str, JsonObject] = {}
        for body in await self._list(EXECUTIONS):
            there[body["metadata"]["uid"]] = body.get("status") or {}
            self.execution(body)
        for key in [key for key in self.executions.live() if key not in there]:
            self.executions.forget(key)
            self.mark(key)
        jobs = await self._list(JOBS, labels=names.EXECUTION_UID)
        for body in jobs:
            self.job(body)
        pods = await self._list(PODS, labels=names.EXECUTION_UID)
        for body in pods:
            self.pod(body)
        self.synced = True
        await self._end_leftovers(there, jobs, pods)
        await self.revisions.prune(self.executions.revisions_in_use())

    async def _end_leftovers(
        self, statuses: Mapping[str, JsonObject], jobs: Sequence[JsonObject], pods: Sequence[JsonObject]
    ) -> None:
        """End the Jobs of attempts that an earlier operator recorded as over without living to say so in the Job."""
        left: list[tuple[JsonObject, leftovers.End]] = []
        for job in filter(leftovers.unfinished, jobs):
            labels = job["metadata"]["labels"]
            key, attempt = labels[names.EXECUTION_UID], names.attempt_of(labels)
            if attempt is None or key not in statuses or self.attempts.has(key, attempt):
                continue
            if (end := leftovers.end_of(statuses[key], attempt)) is not None:
                left.append((job, end))
        names_left = {_place(job) for job, _ in left}
        found = {place: pod for pod in pods if (place := _place(pod)) in names_left}
        now = self._clock.now()
        ends = [leftovers.conclude(self._client, job, found.get(_place(job)), end, now) for job, end in left]
        await asyncio.gather(*ends)

    async def _list(self, resource: Resource, labels: str = "") -> Sequence[JsonObject]:
        places: Sequence[str | None] = self._settings.namespaces or (None,)
        found: list[JsonObject] = []
        for namespace in places:
            listing = await self._client.list(resource, namespace=namespace, labels=labels, keep=lambda body: body)
            found += listing.items
        return found

    async def _sync_again(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self.sync()
            except (ApiError, Conflict, Transient) as error:
                log.warning("list and compare failed, it is done again later: %s", error)

    async def _read_pipelines(self) -> None:
        while True:
            key = await self._pipelines.get()
            namespace, _, name = key.partition("/")
            try:
                await self.revisions.reconcile(namespace, name)
            except (Conflict, Transient) as error:
                log.warning("pipeline %s: %s", key, error)
                self._pipelines.add_at(key, self._clock.now() + RETRY_SECONDS)
            except ApiError as error:
                log.error("pipeline %s: %s", key, error)
            finally:
                self._pipelines.done(key)

    # Finished executions

    def _on_finished(self, key: str, known: Known, status: Mapping[str, Any]) -> None:
        self._metrics.executions.labels(str(status.get("phase"))).inc()
        self._expire(
            {
                "metadata": {"uid": key, "namespace": known.namespace, "name": known.name},
                "spec": known.spec,
                "status": status,
            }
        )

    def _expire(self, body: Mapping[str, Any]) -> None:
        """Delete a finished execution when its time to live is over."""
        seconds = body["spec"].get("ttlSecondsAfterFinished")
        finished = (body.get("status") or {}).get("finishedAt")
        if seconds is None or finished is None:
            return
        meta = body["metadata"]
        self._expiring[meta["uid"]] = (meta["namespace"], meta["name"])
        self._expired.add_at(meta["uid"], from_timestamp(finished) + seconds)

    async def _delete_expired(self) -> None:
        while True:
            key = await self._expired.get()
            namespace, name = self._expiring.pop(key)
            try:
                await self._client.delete(EXECUTIONS, name, namespace, uid=key)
            except ApiError as error:
                log.warning("execution %s/%s could not be deleted at its end: %s", namespace, name, error)
                self._expiring[key] = (namespace, name)
                self._expired.add_at(key, self._clock.now() + RETRY_SECONDS)
            finally:
                self._expired.done(key)

    def _on_pass(self, key: str, state: ExecutionState, changed: Sequence[TaskId]) -> None:
        self._metrics.passes.inc()
        for task in changed:
            record = state.task(task)
            if record.phase.finished:
                self._metrics.steps.labels(str(record.phase)).inc()
                log.info(
                    "step finished",
                    extra={
                        "execution": state.identity.name,
                        "namespace": state.identity.namespace,
                        "step": task.step,
                        "item": task.index,
                        "phase": str(record.phase),
                        "reason": record.reason,
                    },
                )


def _place(body: JsonObject) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _pods(settings: OperatorSettings) -> PodSettings:
    mode = CollectorMode.SHARED if settings.collector is Collector.SHARED_PID else CollectorMode.SIDECAR
    return PodSettings(
        managed=settings.jobs is Jobs.MANAGED,
        collector_image=settings.collector_image,
        collector_mode=mode,
        run_as_user=settings.run_as_user or None,
    )


async def run(settings: OperatorSettings, sessions: Sessions, stop: asyncio.Event) -> None:
    """Compete for the Lease, work while it is held, until `stop` is set.

    Raises:
        LeaseLost: the Lease went to another replica; start the process anew.
    """
    metrics = Metrics()
    leading = LeaderSettings(
        namespace=settings.lease_namespace,
        name=settings.lease_name,
        identity=settings.identity or socket.gethostname(),
    )
    leader = Leader(election_client(sessions, leading, on_request=metrics.on_request), leading)
    election = asyncio.create_task(leader.run())
    operator: Operator | None = None
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
        if not await _first(leader.elected(), stop.wait()):
            return
        metrics.leading.set(1)
        log.info("leading", extra={"identity": leading.identity})
        patience = Settings(max_writes=settings.max_parallel_requests)
        client = Client(Transport(sessions, settings=patience, on_request=metrics.on_request, fence=leader.fence))
        operator = Operator(client, settings, metrics)
        ended = asyncio.Event()
        work = asyncio.create_task(operator.run(sessions.login, ended))
        deposed = asyncio.create_task(leader.deposed())
        halt = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, deposed, halt}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
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
        if http is not None:
            await http.cleanup()
        await sessions.close()


async def _first(wanted: Any, other: Any) -> bool:
    """Wait for either of two; whether it was the first."""
    tasks = [asyncio.ensure_future(wanted), asyncio.ensure_future(other)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0] in done
    finally:
        for task in tasks:
            task.cancel()
