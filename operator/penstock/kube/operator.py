"""The operator while it leads: wiring, first lists, and the periodic list-and-compare."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.controller.contract import SystemClock
from penstock.controller.deployments import DeploymentController
from penstock.controller.loop import Controller, until_one_ends
from penstock.controller.ports import Conflict, Transient
from penstock.controller.publishing import StorePublisher
from penstock.controller.queue import DirtyQueue, Turn
from penstock.controller.stores import StoredCache
from penstock.engine.status import from_timestamp
from penstock.engine.types import Limits
from penstock.kube import events, logs, names
from penstock.kube.attempts import KubeAttempts
from penstock.kube.client import Client
from penstock.kube.comparing import Comparison
from penstock.kube.credentials import Sessions
from penstock.kube.deployments import KubeDeployments, on_gateway
from penstock.kube.errors import ApiError
from penstock.kube.executions import Known, KubeExecutions
from penstock.kube.files import Transfers
from penstock.kube.finished import RETRY_SECONDS, Finished
from penstock.kube.inputs import ObjectInputs
from penstock.kube.listed import Listed
from penstock.kube.metrics import Metrics
from penstock.kube.objectstore import NoCache, ObjectStore, in_cluster_words
from penstock.kube.resources import (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    EXECUTIONS,
    JOBS,
    PIPELINES,
    PODS,
    ObjectId,
    Resource,
)
from penstock.kube.revisions import Revisions
from penstock.kube.settings import Collector, Jobs, OperatorSettings
from penstock.kube.sweeping import Sweeper
from penstock.kube.telling import Teller
from penstock.kube.transports import CollectorMode, PodSettings
from penstock.kube.watching import watch
from penstock.step.values import JsonObject

if TYPE_CHECKING:
    from penstock.kube.recording import Recording

log = logging.getLogger(__name__)

STATUS_BYTES = 1_048_576
"""Bound of the values of steps in one execution's status: with everything else it must stay under etcd's 1.5 MiB."""
QUIET_SECONDS = 10.0
"""How long people may read `Pending` of a step that runs: a write that a short step never costs."""


class Operator:
    """One term of leadership: everything that is known, and the tasks that act on it.

    Args:
        client: the REST client, fenced by the Lease.
        settings: the operator's settings.
        metrics: what is measured.
        quick: a client for what is not worth a second try.
        objects: the object store; None where there is none.
        recording: executions on their way into the history; None where there is none.
    """

    def __init__(
        self,
        client: Client,
        settings: OperatorSettings,
        metrics: Metrics,
        quick: Client,
        objects: ObjectStore | None = None,
        recording: Recording | None = None,
    ) -> None:
        self._client = client
        self._recording = recording
        kept = _always if recording is None else recording.kept
        self._settings = settings
        self._metrics = metrics
        self._clock = SystemClock()
        self._pipelines = DirtyQueue(self._clock.now)
        self._recorder = events.Recorder(
            quick, self._clock, identity_of(settings), settings.events, lambda how: metrics.events.labels(how).inc()
        )

        def on_told(pipeline: ObjectId, broken: str) -> None:
            self._teller.pipeline(pipeline, broken)

        self.revisions = Revisions(client, self._clock, self.mark, settings.revision_limit, on_told)
        self.executions = KubeExecutions(
            client,
            self.revisions,
            self._clock,
            self._on_finished,
            on_cut=lambda key: self.attempts.abandon(key),  # noqa: PLW0108 - they are made next
            objects=ObjectInputs(objects.store) if objects is not None else None,
            wants=None if recording is None else recording.wants,
            on_wanted=None if recording is None else recording.see,
        )
        self.deployments = KubeDeployments(
            client,
            self.revisions,
            lambda key, urgent: self.scheduler.mark(key, urgent=urgent),
            on_gateway(settings.public_url),
            kept,
        )
        self._teller = Teller(self._recorder, metrics, self._clock, self.executions, self.deployments)
        self._finished = Finished(client, self.executions, self._clock, kept)
        self._transfers, self._sweeper = None, None
        if objects is not None:
            self._transfers = Transfers(client, objects.store, self._clock, objects.max_file_bytes, objects.authority)
            self._sweeper = Sweeper(
                client,
                objects.store,
                self._clock,
                namespaces=settings.namespaces,
                every=settings.sweep_seconds,
                cache_seconds=settings.cache_seconds,
            )
        pods = pod_settings(settings, objects)
        self.attempts = KubeAttempts(client, pods, self.executions, self._clock, self.mark, self._transfers)
        self.controller = Controller(
            executions=self.executions,
            attempts=self.attempts,
            cache=StoredCache(objects.store, in_cluster_words) if objects is not None else NoCache(),
            publisher=StorePublisher(objects.store, in_cluster_words) if objects is not None else None,
            clock=self._clock,
            limits=Limits(
                input_bytes=settings.input_bytes, output_bytes=settings.output_bytes, status_bytes=STATUS_BYTES
            ),
            quiet_seconds=QUIET_SECONDS,
            workers=settings.workers,
            on_pass=self._teller.passed,
            on_trouble=lambda _, message: log.warning("it is tried again: %s", message),
            on_ended=self._teller.ended,
            on_taken=self._on_taken,
            on_timed=metrics.passes.observe,
        )
        self.scheduler = DeploymentController(
            deployments=self.deployments,
            clock=self._clock,
            input_bytes=settings.input_bytes,
            on_told=self._teller.deployment,
            on_dropped=self._teller.left_out,
            on_fired=metrics.late.observe,
        )
        self._again = asyncio.Event()
        self.synced = False
        # Asked when they are read, and not in every pass.
        metrics.live.set_function(lambda: len(self.executions))
        metrics.deployments.set_function(lambda: len(self.deployments))
        metrics.attempts.set_function(lambda: len(self.attempts))
        metrics.queue.set_function(lambda: len(self.controller.queue))
        if recording is not None:
            metrics.history_waiting.set_function(lambda: recording.lag().waiting + recording.lag().missing)
            metrics.history_lag.set_function(lambda: recording.lag().seconds)
            metrics.history_refused.set_function(lambda: recording.lag().refused)

    def mark(self, key: str, first: bool = False) -> None:
        """Look at an execution; first of all if an attempt of it has ended."""
        self.controller.mark(key, Turn.FIRST if first else Turn.NEXT)

    # What is seen (`watching.Sink`)

    def execution(self, body: JsonObject, *, deleted: bool = False) -> None:
        """An Execution was seen."""
        uid = body["metadata"]["uid"]
        if self._recording is not None:
            # Before all others: none of them may remove what is not noted.
            if deleted:
                self._recording.gone(uid, body)
            else:
                self._recording.observe(body)
        self.deployments.execution(body, deleted=deleted)
        if deleted and self._sweeper is not None:
            self._sweeper.gone(body["metadata"]["namespace"])
        if self.executions.observe(body, deleted=deleted):
            # What ran before a restart runs on by itself: what is new, or ends, does not wait for it.
            self.controller.mark(uid, Turn.NEXT if self.synced or not _runs_on(body) else Turn.LAST)
        elif not deleted and self.executions.known(uid) is None:
            self._finished.observe(body)

    def pipeline(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Pipeline was seen."""
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        if self.revisions.observe(body, deleted=deleted):
            self._pipelines.add(f"{namespace}/{name}")
        elif deleted:
            self.deployments.pipeline_changed(namespace, name)

    def deployment(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Deployment was seen."""
        self.deployments.observe(body, deleted=deleted)

    def pod(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Pod of an attempt was seen."""
        logs.about_attempt(body["metadata"])
        self.attempts.pod(body, deleted=deleted)

    def job(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Job of an attempt was seen."""
        logs.about_attempt(body["metadata"])
        self.attempts.job(body, deleted=deleted)

    # Working

    async def run(
        self, sessions: Sessions, stop: asyncio.Event, take_signals: Callable[[], None] | None = None
    ) -> None:
        """Work until stopped or cancelled; `take_signals` is called again where others have taken them."""
        await self._wait_for_definitions()
        await self._read_revisions()
        first = Comparison(self, self.executions, self.attempts, self.deployments, self._recording)
        take = {
            EXECUTIONS: first.execution,
            PIPELINES: self.pipeline,
            DEPLOYMENTS: first.deployment,
            JOBS: first.job,
            PODS: first.pod,
        }
        listed = Listed(take, max(1, len(self._settings.namespaces)), self._again.set)
        works = (
            self.controller.run,
            self.attempts.conclusions.run,
            self._read_pipelines,
            self.scheduler.run,
            self._finished.delete_expired,
            self._finished.acknowledge_changed,
            self._sync_again,
            self._recorder.run,
            *((self._sweeper.run,) if self._sweeper is not None else ()),
        )
        begun = asyncio.Event()
        tasks = [asyncio.create_task(_after(begun, work)) for work in works]
        tasks.append(asyncio.create_task(self._begin(listed, first, begun)))
        # Last: kopf cancels what was started after it.
        places = self._settings.namespaces
        tasks.append(
            asyncio.create_task(watch(self, listed, sessions, places, stop=stop, on_started=take_signals)),
        )
        try:
            await until_one_ends(tasks)
        finally:
            await self.attempts.close()
            if self._transfers is not None:
                await self._transfers.close()
            self._pipelines.close()
            self._finished.close()

    async def _wait_for_definitions(self) -> None:
        """Wait until the server has our kinds: kopf looks for them when it starts, and never again."""
        told: list[str] = []
        while True:
            try:
                kinds = (EXECUTIONS, PIPELINES, DEPLOYMENTS)
                lacks = [each.plural for each in kinds if not await self._client.serves(each)]
            except (ApiError, Transient) as error:
                log.warning("what kinds there are cannot be read, it is tried again: %s", error)
            else:
                if not lacks:
                    return
                if lacks != told:
                    told = lacks
                    names_of = " and ".join(f"{each}.{EXECUTIONS.group}" for each in lacks)
                    log.error("there is no definition of %s, which is waited for: apply the files in crds/", names_of)
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_revisions(self) -> None:
        """Know the revisions of pipelines, before anything else asks for one."""
        while True:
            try:
                await self._list(CONTROLLER_REVISIONS, self.revisions.observe_revision, labels=names.PIPELINE)
            except (ApiError, Conflict, Transient) as error:
                log.warning("the revisions of pipelines cannot be listed, it is tried again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _begin(self, listed: Listed, first: Comparison, begun: asyncio.Event) -> None:
        """Once kopf has listed everything, have the work begin. Never ends."""
        await listed.complete.wait()
        listed.take = {
            EXECUTIONS: self.execution,
            PIPELINES: self.pipeline,
            DEPLOYMENTS: self.deployment,
            JOBS: self.job,
            PODS: self.pod,
        }
        logs.about(None)
        self.synced = True
        begun.set()
        if self._recording is not None:
            self._recording.listed(self._settings.namespaces)
        await self._conclude(first)
        await asyncio.get_running_loop().create_future()

    async def sync(self) -> None:
        """List everything and compare it with what is known. Events that never came are made up for here."""
        await self._list(CONTROLLER_REVISIONS, self.revisions.observe_revision, labels=names.PIPELINE)
        await self._list(PIPELINES, self.pipeline)
        found = Comparison(self, self.executions, self.attempts, self.deployments, self._recording)
        await self._list(DEPLOYMENTS, found.deployment)
        await self._list(EXECUTIONS, found.execution)
        await self._list(JOBS, found.job, labels=names.EXECUTION_UID)
        await self._list(PODS, found.pod, labels=names.EXECUTION_UID)
        logs.about(None)
        await self._conclude(found)

    async def _conclude(self, found: Comparison) -> None:
        """Do what a listing has shown to be missing."""
        for key in found.gone():
            self.mark(key)
        await found.end_leftovers(self._clock.now())
        await self.revisions.prune(self.executions.revisions_in_use())

    async def _list(self, resource: Resource, take: Callable[[JsonObject], None], labels: str = "") -> None:
        """Hand over all objects of a kind one by one: of 10,000 whole Pods nobody could keep a list."""
        places: Sequence[str | None] = self._settings.namespaces or (None,)
        for namespace in places:
            await self._client.list(resource, namespace=namespace, labels=labels, keep=take)

    async def _sync_again(self) -> None:
        while True:
            # At once where kopf had to list anew: of what was deleted meanwhile it is not told.
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`: it makes a task, and kopf cancels what was started after it.
                async with asyncio.timeout(self._settings.resync_seconds):
                    await self._again.wait()
            self._again.clear()
            try:
                await self.sync()
            except (ApiError, Conflict, Transient) as error:
                log.warning("list and compare failed, it is done again later: %s", error)

    async def _read_pipelines(self) -> None:
        await self._pipelines.work(self._read_pipeline)

    async def _read_pipeline(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        try:
            await self.revisions.reconcile(namespace, name)
        except (Conflict, Transient) as error:
            log.warning("pipeline %s: %s", key, error)
            self._pipelines.add_at(key, self._clock.now() + RETRY_SECONDS)
        except ApiError as error:
            log.error("pipeline %s: %s", key, error)
        else:
            self.deployments.pipeline_changed(namespace, name)

    # What is told

    def _on_finished(self, key: str, known: Known, status: Mapping[str, Any]) -> None:
        phase, reason = str(status["phase"]), str(status.get("reason", ""))
        self.deployments.finished(key, status)
        self._metrics.executions.labels(phase).inc()
        if (last_exit := _last_exit(status)) is not None:
            self._metrics.finish.observe(max(0.0, self._clock.now() - last_exit))
        about = {"execution": known.name, "namespace": known.namespace}
        log.info("execution finished", extra=about | {"phase": phase, "reason": reason})
        end = events.ended(phase, reason, str(status.get("message", "")), str(status.get("progress", "")))
        self._recorder.tell(ObjectId(EXECUTIONS, known.namespace, known.name, key), end)
        self._finished.expire(
            {
                "metadata": {"uid": key, "namespace": known.namespace, "name": known.name},
                "spec": known.spec,
                "status": status,
            }
        )

    def _on_taken(self, key: str, seconds: float) -> None:
        self._metrics.waited.observe(seconds)
        logs.about(self.executions.identity(key))


def _always(_: str) -> bool:
    return True


def _runs_on(execution: JsonObject) -> bool:
    """Whether an execution has begun, and nothing was asked of it since."""
    status = execution.get("status") or {}
    return "startedAt" in status and status.get("observedGeneration") == execution["metadata"].get("generation")


async def _after(begun: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    await begun.wait()
    await work()


def _last_exit(status: Mapping[str, Any]) -> float | None:
    """When the last container of an execution ended; None where that was not what it waited for."""
    # Only attempts have exit codes: steps that were omitted, and fan-outs, end when it is decided.
    ends = [(each.get("finishedAt", ""), "exitCode" in each) for each in status.get("steps", ())]
    at, exited = max(ends, default=("", False))
    return from_timestamp(at) if exited and at else None


def identity_of(settings: OperatorSettings) -> str:
    """The name of this replica."""
    return settings.identity or socket.gethostname()


def pod_settings(settings: OperatorSettings, objects: ObjectStore | None) -> PodSettings:
    """What the operator's settings say about the pods of steps.

    Args:
        settings: the settings.
        objects: the object store; None where there is none.
    """
    mode = CollectorMode.SHARED if settings.collector is Collector.SHARED_PID else CollectorMode.SIDECAR
    return PodSettings(
        managed=settings.jobs is Jobs.MANAGED,
        collector_image=settings.collector_image,
        collector_mode=mode,
        run_as_user=settings.run_as_user or None,
        files=objects is not None,
        store_authority="" if objects is None else objects.authority,
        files_size_limit=settings.files_size_limit,
        transfer_patience_seconds=settings.transfer_patience_seconds,
    )
