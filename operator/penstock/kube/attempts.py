"""Attempts as Jobs and Pods of an API server: the controller's `Attempts`.

Starts, stops and ends what `manifests` describes, and turns what is seen of Pods and Jobs into news as `outcomes`
judges it. Nothing here decides about executions. Three writes an attempt: its Job, its Pod, the Job's end; a ConfigMap
more where inputs do not fit the Pod's annotations, and a Secret where there are files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence, Set
from dataclasses import replace
from typing import Any

from penstock.controller.contract import CannotStart
from penstock.controller.ports import Clock, Transient
from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptId, AttemptPhase, Identity, Observation, StartAttempt, StopAttempt
from penstock.kube import manifests, names, outcomes, podstate, trimming
from penstock.kube.client import Client
from penstock.kube.conclusions import Conclusions
from penstock.kube.ending import Ending, conclusion
from penstock.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound, TooLarge, port_error
from penstock.kube.files import Transfers
from penstock.kube.looks import Look, NeedsLog
from penstock.kube.resources import CONFIG_MAPS, JOBS, PODS
from penstock.kube.runs import Found, Owner, Run
from penstock.kube.transports import PodSettings
from penstock.step.values import JsonObject

log = logging.getLogger(__name__)

REFUSED_SECONDS = 5.0
"""How long to wait before asking again for what a quota or an admission controller refused."""
_OVER = frozenset({AttemptPhase.ENDED, AttemptPhase.LOST})


class KubeAttempts:
    """Implements the controller's `Attempts` on an API server.

    Args:
        client: the REST client.
        settings: what the operator's settings say about pods.
        owner: tells of executions.
        clock: the time.
        notify: called with an execution's uid when there is news of its attempts, and whether one has ended.
        transfers: plans of transfers; None where there is no object store.

    Attributes:
        conclusions: ends on their way to the server; its `run` has to be run.
    """

    def __init__(
        self,
        client: Client,
        settings: PodSettings,
        owner: Owner,
        clock: Clock,
        notify: Callable[[str, bool], None],
        transfers: Transfers | None = None,
    ) -> None:
        self._client = client
        self._transfers = transfers
        self._settings = settings
        self._owner = owner
        self._clock = clock
        self._notify = notify
        self.conclusions = Conclusions(client, clock)
        self._ending = Ending(client, managed=settings.managed)
        self._runs: dict[str, dict[AttemptId, Run]] = {}
        self._news: dict[str, dict[AttemptId, Observation]] = {}
        self._found: dict[str, dict[AttemptId, Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Images that name root or a user without a number, as kubelets have said.
        self._nameless: set[str] = set()

    def __len__(self) -> int:
        return sum(len(runs) for runs in self._runs.values())

    def has(self, key: str, attempt: AttemptId) -> bool:
        """Whether an attempt is being looked after."""
        return attempt in self._runs.get(key, {})

    # The controller's `Attempts`

    async def start(self, key: str, start: StartAttempt) -> None:
        """See `controller.ports.Attempts`."""
        identity = self._owner.identity(key)
        run = self._runs.get(key, {}).get(start.id)
        if identity is None or (run is not None and run.start is not None):
            return
        if run is None:
            run = Run(key, start.id, identity, self._owner.declared(key, start.id.step), self._clock.now())
            self._runs.setdefault(key, {})[start.id] = run
        run.start = start
        if run.pod is not None or run.gone:
            return
        try:
            await self._create(run)
        except BaseException:
            self._drop(run)
            raise

    async def stop(self, key: str, stop: StopAttempt) -> None:
        """See `controller.ports.Attempts`. The Pod is ended and not deleted, so that its log stays; see `end_now`."""
        run = self._runs.get(key, {}).get(stop.id)
        if run is None:
            return
        try:
            if run.pod is None or not podstate.has_node(run.pod):
                await self._ending.without_node(run)
                self._tell(run, Observation(run.id, AttemptPhase.ENDED, reason=stop.reason, message="never began"))
            else:
                await self._ending.by_kubelet(run)
        except NotFound:
            run.gone = True
            self._judge(run)
        except ApiError as error:
            raise port_error(error) from error

    async def recover(self, key: str, expected: Sequence[AttemptId]) -> Sequence[Observation]:
        """See `controller.ports.Attempts`."""
        identity = self._owner.identity(key)
        if identity is None or not expected:
            return []
        found = self._found.pop(key, {})
        if any(each not in found and each not in self._runs.get(key, {}) for each in expected):
            found |= await self._list(key, identity)
        seen: list[Observation] = []
        for attempt in expected:
            self._news.get(key, {}).pop(attempt, None)
            run = self._runs.get(key, {}).get(attempt)
            if run is None:
                there = found.get(attempt, Found())
                run = Run(key, attempt, identity, self._owner.declared(key, attempt.step), self._clock.now())
                run.pod, run.job = there.pod, there.job
                awaited = self._owner.awaits(key, attempt)
                run.gone = there.pod is None and there.job is not None and self._settings.managed and not awaited
                self._runs.setdefault(key, {})[attempt] = run
                if awaited and there.pod is None:
                    continue  # nothing of it may be there, and it is asked for again
                uid = "" if there.pod is None else podstate.transfers_of(there.pod)
                if self._transfers is not None and uid:
                    pipeline = self._owner.pipeline_name(key)
                    self._transfers.take_up(identity, attempt, pipeline=pipeline, job_uid=uid)
            if run.pod is not None or run.gone or run.start is None:
                run.seen = None
                self._judge(run)
                self._news.get(key, {}).pop(attempt, None)
            if run.seen is not None:
                seen.append(run.seen)
        return seen

    def news(self, key: str) -> Sequence[Observation]:
        """See `controller.ports.Attempts`."""
        return tuple(self._news.pop(key, {}).values())

    async def recorded(self, key: str, ended: Sequence[AttemptId]) -> None:
        """See `controller.ports.Attempts`: now the Job may say that it is over."""
        runs = [run for attempt in ended if (run := self._runs.get(key, {}).get(attempt)) is not None]
        await asyncio.gather(*(self._conclude(run) for run in runs))

    async def forget(self, key: str) -> None:
        """See `controller.ports.Attempts`."""
        for run in list(self._runs.get(key, {}).values()):
            self._drop(run)
        self._runs.pop(key, None)
        self._news.pop(key, None)
        self._found.pop(key, None)

    def abandon(self, key: str) -> None:
        """An execution is over before its attempts are: end them."""
        for run in list(self._runs.get(key, {}).values()):
            if run.seen is None or run.seen.phase not in _OVER:
                message = "its execution is over"
                run.seen = Observation(run.id, AttemptPhase.ENDED, reason=str(Reason.CANCELLED), message=message)
            self._spawn(self._conclude(run))

    async def close(self) -> None:
        """Stop everything that waits."""
        for runs in list(self._runs.values()):
            for run in list(runs.values()):
                self._drop(run)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What is seen

    def pod(self, body: JsonObject, *, deleted: bool = False) -> None:
        """Take note of a Pod that was listed or watched."""
        run, found = self._of(body)
        if run is not None and body["metadata"]["uid"] == run.replaced:
            return
        if run is not None:
            run.pod, run.gone = trimming.pod(body), deleted
            self._judge(run)
        elif found is not None and not deleted:
            found.pod = trimming.pod(body)
            if "terminated" in podstate.state(body, names.STEP_CONTAINER) and not podstate.is_over(found.job):
                self._notify(body["metadata"]["labels"][names.EXECUTION_UID], True)

    def job(self, body: JsonObject, *, deleted: bool = False) -> None:
        """Take note of a Job that was listed or watched."""
        run, found = self._of(body)
        if run is None:
            if found is not None and not deleted:
                found.job = trimming.job(body)
            return
        admitted = run.job is not None and run.job["spec"].get("suspend") and not body["spec"].get("suspend")
        run.job = None if deleted else trimming.job(body)
        if admitted and self._settings.managed and run.pod is None and run.start is not None:
            self._spawn(self._create_again(run))
        self._judge(run)

    def known(self) -> frozenset[str]:
        """Uids of the Pods and Jobs of all attempts that are looked after: to be asked for before they are listed."""
        runs = [run for runs in self._runs.values() for run in runs.values() if not run.gone]
        return frozenset(body["metadata"]["uid"] for run in runs for body in (run.pod, run.job) if body is not None)

    def missed(self, gone: Set[str]) -> None:
        """Pods and Jobs that were known are not there any more, and no watch has said so."""
        for run in [run for runs in self._runs.values() for run in runs.values() if not run.gone]:
            pod, job = (body is not None and body["metadata"]["uid"] in gone for body in (run.pod, run.job))
            run.gone = pod
            run.job = None if job else run.job
            if pod or job:
                self._judge(run)

    def _of(self, body: JsonObject) -> tuple[Run | None, Found | None]:
        labels = body["metadata"].get("labels", {})
        attempt, key = names.attempt_of(labels), labels.get(names.EXECUTION_UID, "")
        if attempt is None or self._owner.identity(key) is None:
            return None, None
        run = self._runs.get(key, {}).get(attempt)
        if run is not None or key in self._runs:
            return run, None
        return None, self._found.setdefault(key, {}).setdefault(attempt, Found())

    async def _list(self, key: str, identity: Identity) -> dict[AttemptId, Found]:
        """All attempts of one execution that the server has objects of."""
        found: dict[AttemptId, Found] = {}
        labels = f"{names.EXECUTION_UID}={key}"
        try:
            pods = await self._client.list(PODS, namespace=identity.namespace, labels=labels, keep=lambda body: body)
            jobs = await self._client.list(JOBS, namespace=identity.namespace, labels=labels, keep=lambda body: body)
        except ApiError as error:
            raise port_error(error) from error
        for body in pods.items:
            if (attempt := names.attempt_of(body["metadata"].get("labels", {}))) is not None:
                found.setdefault(attempt, Found()).pod = trimming.pod(body)
        for body in jobs.items:
            if (attempt := names.attempt_of(body["metadata"].get("labels", {}))) is not None:
                found.setdefault(attempt, Found()).job = trimming.job(body)
        return found

    # Starting

    async def _create(self, run: Run) -> None:
        """Create what an attempt consists of; what is there already is ours, because names are deterministic."""
        if run.start is None:
            return
        try:
            attempt = manifests.prepare(run.start, run.identity, self._owner.pipeline_name(run.key), self._settings)
        except CannotStart as error:
            self._tell_cannot(run, error)
            return
        if self._settings.run_as_user is None and attempt.image in self._nameless:
            attempt = replace(attempt, settings=replace(self._settings, run_as_user=manifests.NAMELESS_USER))
        try:
            made, again = await self._job(run, manifests.job(attempt))
            run.job = trimming.job(made)
            uid = run.job["metadata"]["uid"]
            suspended = self._settings.managed and run.job["spec"].get("suspend")
            values = None if suspended else manifests.config_map(attempt, job_uid=uid)
            if values is not None:
                await self._make(CONFIG_MAPS, values)
            if self._transfers is not None and attempt.transport.files and not suspended:
                await self._transfers.begin(attempt, job_uid=uid, again=again)
            if self._settings.managed and not suspended:
                pod = await self._make(PODS, manifests.pod(attempt, job_uid=uid))
                if pod is not None and run.pod is None:  # it may go before any watch has shown it
                    run.pod = trimming.pod(pod)
        except CannotStart as error:
            self._tell_cannot(run, error)
        except (Forbidden, Invalid, TooLarge) as error:
            self._refused(run, error)
        except ApiError as error:
            raise port_error(error) from error

    def _tell_cannot(self, run: Run, error: CannotStart) -> None:
        code, reason = error.exit_code, str(error.reason)
        self._tell(run, Observation(run.id, AttemptPhase.ENDED, exit_code=code, reason=reason, message=str(error)))

    async def _job(self, run: Run, body: JsonObject) -> tuple[JsonObject, bool]:
        """Create the Job; returns it, and whether it was there already."""
        try:
            return await self._client.create(JOBS, body), False
        except AlreadyExists:
            there = await self._client.get(JOBS, run.name, run.identity.namespace)
            owners = there["metadata"].get("ownerReferences", ())
            if any(owner["uid"] == run.key for owner in owners):
                return there, True
            raise Invalid(f'there is a Job "{run.name}" that is not of this execution; delete it', status=409) from None

    async def _make(self, resource: Any, body: JsonObject) -> JsonObject | None:
        with contextlib.suppress(AlreadyExists):
            return await self._client.create(resource, body)
        return None

    def _refused(self, run: Run, error: ApiError) -> None:
        """The server does not take an object: for good, or until a quota has room again."""
        now = self._clock.now()
        timeout = None if run.start is None else run.start.timeout_seconds
        if isinstance(error, Invalid | TooLarge):
            self._tell(
                run, Observation(run.id, AttemptPhase.ENDED, reason=str(Reason.STEP_ERROR), message=error.message)
            )
        elif timeout is not None and now - run.asked_at >= timeout:
            message = f"took longer than timeoutSeconds: {timeout}; it was refused to the end: {error.message}"
            self._tell(run, Observation(run.id, AttemptPhase.ENDED, reason=str(Reason.TIMED_OUT), message=message))
        else:
            self._tell(
                run, Observation(run.id, AttemptPhase.PENDING, reason=str(Reason.REFUSED), message=error.message)
            )
            run.timer = asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._try_again, run)

    def _try_again(self, run: Run) -> None:
        run.timer = None
        self._spawn(self._create_again(run))

    async def _create_again(self, run: Run) -> None:
        try:
            await self._create(run)
        except Transient as error:
            self._refused(run, Forbidden(str(error), status=503))

    # Judging

    def _judge(self, run: Run) -> None:
        """See what an attempt's objects say now, and tell if it is something new."""
        refused = run.seen is not None and run.seen.reason == Reason.REFUSED
        if refused and run.pod is None and not run.gone and run.timer is not None:
            return  # the timer is that of the next try
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None
        look = Look(
            id=run.id,
            pod=run.pod,
            job=run.job,
            declared=run.declared,
            now=self._clock.now(),
            execution=run.key,
            gone=run.gone,
            log=run.log,
        )
        seen = outcomes.observe(look)
        if seen.needs is not None:
            if not run.busy:
                run.busy = True
                self._spawn(self._read_log(run, seen.needs, seen.again_at))
            return
        if seen.nameless_user and run.pod is not None and self._name_user(run, run.pod, seen.observation):
            return
        if seen.end_pod and not run.busy:
            run.busy = True
            self._spawn(self._end_what_runs_on(run))
        if seen.again_at is not None:
            delay = max(0.05, seen.again_at - self._clock.now())
            run.timer = asyncio.get_running_loop().call_later(delay, self._judge, run)
        if refused and seen.observation.phase is AttemptPhase.PENDING:
            return
        self._tell(run, seen.observation)

    def _tell(self, run: Run, seen: Observation) -> None:
        over = run.seen is not None and run.seen.phase in _OVER
        if over or run.seen == seen:
            return
        run.seen = seen
        self._news.setdefault(run.key, {})[run.id] = seen
        self._notify(run.key, seen.phase in _OVER)

    async def _read_log(self, run: Run, needs: NeedsLog, at: float | None) -> None:
        """Read what a judgement needs, now or at a moment; an unreadable log is an empty one."""
        try:
            if at is not None:
                await asyncio.sleep(at - self._clock.now())
            text = await self._client.log(
                run.pod_name, namespace=run.identity.namespace, container=needs.container, tail=needs.tail_lines
            )
            run.log = text.decode("utf-8", "replace")
        except ApiError as error:
            log.warning("log of %s/%s cannot be read: %s", run.identity.namespace, run.pod_name, error)
            run.log = ""
        finally:
            run.busy = False
        self._judge(run)

    def _name_user(self, run: Run, pod: JsonObject, seen: Observation) -> bool:
        """Try again with a user where the image names none that may run; False if that was tried."""
        images = [each.get("image", "") for each in pod["spec"]["containers"] if each["name"] == names.STEP_CONTAINER]
        if pod["spec"]["runAsUser"] is not None:
            return False
        self._nameless.update(images)
        if self._settings.managed and run.start is not None:
            run.replaced = pod["metadata"]["uid"]
            self._spawn(self._replace(run))
        else:  # the next attempt has one
            self._tell(run, replace(seen, reason=str(Reason.DISRUPTED)))
        return True

    async def _replace(self, run: Run) -> None:
        """Make the pod of an attempt anew, none of whose containers that matter has begun."""
        run.pod = None
        try:
            namespace = run.identity.namespace
            await self._client.delete(PODS, run.name, namespace, uid=run.replaced, grace_seconds=0)
            await self._create_again(run)
        except ApiError as error:
            message = f"its pod could not be made again with a user: {error.message}"
            self._tell(run, Observation(run.id, AttemptPhase.ENDED, reason=str(Reason.DISRUPTED), message=message))

    async def _end_what_runs_on(self, run: Run) -> None:
        """Have the pod of a step that is over ended."""
        try:
            await self._ending.by_kubelet(run)
            run.log = None
            if run.pod is not None:  # until the watch says so
                run.pod["metadata"]["annotations"][names.ENDED] = "true"
        except NotFound:
            run.gone = True
        except ApiError as error:
            log.warning("pod %s/%s was not ended: %s", run.identity.namespace, run.pod_name, error)
            await asyncio.sleep(REFUSED_SECONDS)
        finally:
            run.busy = False
        if self.has(run.key, run.id):
            self._judge(run)

    # Ending

    async def _conclude(self, run: Run) -> None:
        """The end of an attempt is recorded: its Job says so, and what would run on is ended."""
        if self._transfers is not None:
            self._transfers.end(run.identity, run.id)
        self._drop(run)
        if run.seen is not None and run.job is not None:
            await self.conclusions.write(conclusion(run, run.seen, self._clock.now()))

    def _drop(self, run: Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None
        self._runs.get(run.key, {}).pop(run.id, None)
        if self._transfers is not None:
            self._transfers.drop(run.identity, run.id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
