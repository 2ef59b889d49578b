"""Plans of transfers of attempts on a cluster: the Secret that a pod reads, renewed as long as the attempt lives.

A plan's requests are signed and expire. What is needed to sign them again (keys, the ids of uploads) is kept beside
what the attempt gives in the store, so that an operator that was started anew can go on: it may not read Secrets. For
the same reason they are put in their places whole, as tokens are (`tokens.py`): the answer to a patch would be the
whole Secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from penstock.controller.contract import CannotStart
from penstock.controller.ports import Clock, Transient
from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptId, Identity
from penstock.kube import manifests, names
from penstock.kube.client import Client
from penstock.kube.errors import AlreadyExists, ApiError, NotFound
from penstock.kube.objectstore import in_cluster_words
from penstock.kube.resources import SECRETS
from penstock.step.values import JsonObject
from penstock.storage import errors
from penstock.storage.objects import Store
from penstock.storage.paths import file_key, output_key
from penstock.storage.plans import MAX_FILE_BYTES, Output, Plan, close_plan, make_plan, renew_plan

log = logging.getLogger(__name__)

SECRET_BYTES = 1_048_576
"""The API server's bound of a Secret's values."""
LEAST_SECONDS = 3_600
MOST_SECONDS = 7 * 86_400
"""Bounds of how long requests are signed for; what runs longer gets new ones in time."""
UNBOUNDED_SECONDS = 86_400
"""For how long those of a step without a timeout are."""
SOONEST_SECONDS = 60.0
"""Between two renewals: kubelets take about as long to hand a changed Secret on."""
_CLOSING = 16
_RECORD = ".transfers"
"""Name of the record beside the outputs; no output can have it."""


@dataclass(slots=True)
class _Live:
    """The plan of an attempt that lives.

    Attributes:
        identity: the execution.
        id: which attempt.
        pipeline: name of the pipeline; empty for an execution with a pipeline of its own.
        job_uid: the uid of its Job, which owns the Secret.
        seconds: for how long its requests are signed.
        record: the plan without what is signed; None: it is in the store.
        timer: of the next renewal.
    """

    identity: Identity
    id: AttemptId
    pipeline: str
    job_uid: str
    seconds: int
    record: Plan | None = None
    timer: asyncio.TimerHandle | None = None


class Transfers:
    """The plans of all attempts that live.

    Args:
        client: writes Secrets.
        store: the object store.
        clock: the time.
        max_file_bytes: how large an output may be.
        authority: certificates, as PEM, of who signed that of the store; empty: those that all trust.
    """

    def __init__(
        self, client: Client, store: Store, clock: Clock, max_file_bytes: int = MAX_FILE_BYTES, authority: str = ""
    ) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._max_file_bytes = max_file_bytes
        self._authority = authority
        self._live: dict[tuple[str, AttemptId], _Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_CLOSING)

    async def begin(self, attempt: manifests.Attempt, *, job_uid: str, again: bool) -> None:
        """Make the plan of an attempt, and the Secret that holds it.

        Args:
            attempt: which.
            job_uid: the uid of its Job.
            again: whether its Job was there already, so that an earlier operator may have begun.

        Raises:
            CannotStart: the plan is too large.
            Transient: the store does not answer, refuses or is full.
            ApiError: the Secret was not written.
        """
        seconds = _lifetime(attempt.start.timeout_seconds)
        live = _Live(attempt.identity, attempt.start.id, attempt.pipeline, job_uid, seconds)
        record = await self._read(live) if again else None
        with in_cluster_words():
            if record is not None:
                plan = await renew_plan(self._store, live.identity.namespace, record, live.seconds)
            else:
                plan = await self._make(attempt, live.seconds)
                await self._store.put(_record_key(live.identity, live.id), _record(plan).to_json().encode())
        text = plan.to_json()
        _check_size(attempt, text)
        body = self._secret(live, text)
        try:
            await self._client.create(SECRETS, body)
        except AlreadyExists:
            await self._client.replace(SECRETS, body)
        live.record = _record(plan)
        self._keep(live, plan.expires)

    def take_up(self, identity: Identity, attempt: AttemptId, *, pipeline: str, job_uid: str) -> None:
        """After a start: an attempt that has a plan lives, and nobody knows for how long its requests are valid.

        Args:
            identity: the execution.
            attempt: which attempt of it.
            pipeline: name of the pipeline; empty for an execution with a pipeline of its own.
            job_uid: the uid of its Job.
        """
        if (identity.uid, attempt) not in self._live:
            live = _Live(identity, attempt, pipeline, job_uid, UNBOUNDED_SECONDS)
            self._live[identity.uid, attempt] = live
            self._spawn(self._renew(live))

    def end(self, identity: Identity, attempt: AttemptId) -> None:
        """The end of an attempt is recorded: what it did not complete is forgotten."""
        live = self._live.pop((identity.uid, attempt), None)
        if live is None:
            return
        if live.timer is not None:
            live.timer.cancel()
        self._spawn(self._close(live))

    def drop(self, identity: Identity, attempt: AttemptId) -> None:
        """Nothing more is to be done about an attempt."""
        live = self._live.pop((identity.uid, attempt), None)
        if live is not None and live.timer is not None:
            live.timer.cancel()

    async def close(self) -> None:
        """Stop; what runs goes on, and is taken up by the next operator."""
        for live in self._live.values():
            if live.timer is not None:
                live.timer.cancel()
        self._live.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _make(self, attempt: manifests.Attempt, seconds: int) -> Plan:
        outputs = [Output(each.name, each.max_bytes) for each in attempt.step.outputs if each.type.value == "file"]
        try:
            return await make_plan(
                self._store,
                namespace=attempt.identity.namespace,
                uid=attempt.identity.uid,
                attempt=attempt.start.id,
                inputs=attempt.files,
                outputs=outputs,
                seconds=seconds,
                max_file_bytes=self._max_file_bytes,
            )
        except errors.BadObjectPath as error:
            raise CannotStart(f"spec.steps[{attempt.step.name}]: {error}") from None

    def _secret(self, live: _Live, text: str) -> JsonObject:
        return manifests.secret(
            live.identity, live.id, live.pipeline, job_uid=live.job_uid, plan=text, authority=self._authority
        )

    async def _read(self, live: _Live) -> Plan | None:
        """The record of an attempt; None if there is none."""
        with in_cluster_words():
            try:
                return Plan.from_json((await self._store.read(_record_key(live.identity, live.id))).decode())
            except (errors.NotFound, ValueError):
                return None

    # Renewing

    def _keep(self, live: _Live, expires: float) -> None:
        self._live[live.identity.uid, live.id] = live
        left = expires - self._clock.now()
        self._again(live, max(SOONEST_SECONDS, left / 2))

    def _again(self, live: _Live, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        live.timer = loop.call_later(seconds, lambda: self._spawn(self._renew(live)))

    async def _renew(self, live: _Live) -> None:
        live.timer = None
        about = f"{live.identity.namespace}/{names.object_name(live.identity, live.id)}"
        try:
            async with self._gate:
                record = live.record or await self._read(live)
                if record is None:
                    log.warning("the transfers of %s cannot be renewed: their record is gone", about)
                    return
                live.record = record
                with in_cluster_words():
                    plan = await renew_plan(self._store, live.identity.namespace, record, live.seconds)
                await self._client.replace(SECRETS, self._secret(live, plan.to_json()))
        except NotFound:
            return
        except (ApiError, Transient) as error:
            log.warning("the transfers of %s are not renewed yet, it is tried again: %s", about, error)
            if self._live.get((live.identity.uid, live.id)) is live:
                self._again(live, SOONEST_SECONDS)
            return
        if self._live.get((live.identity.uid, live.id)) is live:
            self._keep(live, plan.expires)

    async def _close(self, live: _Live) -> None:
        """What is not done here is done by the next sweep."""
        try:
            async with self._gate:
                record = live.record or await self._read(live)
                if record is not None:
                    await close_plan(self._store, live.identity.namespace, record)
                await self._store.delete([_record_key(live.identity, live.id)])
        except (errors.StoreError, Transient) as error:
            log.info("the transfers of an attempt of %s were not closed: %s", live.identity.name, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _lifetime(timeout: int | None) -> int:
    """Seconds for which the requests of an attempt are signed: its own time, that before it began, and some more."""
    wanted = UNBOUNDED_SECONDS if timeout is None else 2 * timeout + LEAST_SECONDS
    return max(LEAST_SECONDS, min(wanted, MOST_SECONDS))


def _record_key(identity: Identity, attempt: AttemptId) -> str:
    return file_key(identity.namespace, output_key(identity.uid, attempt, _RECORD))


def _record(plan: Plan) -> Plan:
    """A plan without anything that is signed: `renew_plan` makes the plan of it again."""
    inputs = [{name: value for name, value in entry.items() if name != "url"} for entry in plan.document["inputs"]]
    outputs = [_record_of(entry) for entry in plan.document["outputs"]]
    return Plan({**plan.document, "inputs": inputs, "outputs": outputs})


def _record_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in entry.items() if name not in ("put", "multipart")}
    if "multipart" in entry:
        upload = parse_qs(urlsplit(entry["multipart"]["url"]).query)["uploadId"][0]
        found["multipart"] = {"url": "?" + urlencode({"uploadId": upload})}
    return found


def _check_size(attempt: manifests.Attempt, text: str) -> None:
    if (size := len(text.encode())) > SECRET_BYTES:
        count = sum(1 if not isinstance(each, list) else len(each) for each in attempt.files.values())
        raise CannotStart(
            f"spec.steps[{attempt.step.name}].inputs: signed requests for {count:,} files are {size:,} bytes, a Secret "
            f"holds {SECRET_BYTES:,}: hand fewer files on, or folders",
            reason=Reason.STEP_FAILED,
        )
