"""Endpoints without HTTP: who may call what, an execution for each call, and its results.

Between the routes of every dialect and `controller.serving.Backend`. Refusals are `Problem`s: each has a status of its
own, a word for programs and a sentence for people.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from penstock.api.base import API_VERSION, ValueType
from penstock.api.labels import DEPLOYMENT, QUEUED, TRIGGER
from penstock.api.pipeline import PipelineSpec
from penstock.controller.serving import (
    Backend,
    Digest,
    Look,
    Refused,
    Served,
    Taken,
    Unavailable,
    matches,
)
from penstock.engine.mapping import endpoint_inputs
from penstock.engine.status import load_value
from penstock.engine.types import File, Limits, Value
from penstock.gateway.binding import bind_call
from penstock.gateway.calls import Call
from penstock.gateway.metrics import Metrics
from penstock.gateway.problems import Problem
from penstock.gateway.rates import Rates
from penstock.step.values import JsonObject
from penstock.storage.datastore import DataStore
from penstock.storage.errors import NotFound, StoreError
from penstock.storage.objects import Download, Store
from penstock.storage.paths import file_key

KEY_ANNOTATION = "penstock.dev/idempotency-key"
"""Digest of the idempotency key, or of a random one, from which an execution's name was made."""
CALL_ANNOTATION = "penstock.dev/call"
"""Digest of what was sent."""
MAX_KEY = 255
"""Characters of an idempotency key."""
_NAME_TRIES = 5
_NOBODY = (Digest("0" * 64),)
_AGAIN = {"Retry-After": "1"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway serves endpoints.

    Attributes:
        poll_seconds: how long a caller is kept waiting before they are asked to come again.
        max_wait_seconds: how long one request may ask to wait.
        max_call_bytes: how large a call may be, its files included.
        rate: calls that each endpoint takes in a second; 0: any number.
        burst: calls that it takes at once.
        limits: bounds of values.
        public_url: address of the gateway as callers know it; empty: the one by which they ask.
    """

    poll_seconds: float = 25.0
    max_wait_seconds: float = 300.0
    max_call_bytes: int = 5 << 30
    rate: float = 200.0
    burst: int = 1_000
    limits: Limits = field(default_factory=Limits)
    public_url: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How an execution has ended that succeeded.

    Attributes:
        execution: its name.
        outputs: what its caller gets, by the names of the endpoint.
    """

    execution: str
    outputs: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Started:
    """An execution that a call has started.

    Attributes:
        name: its name.
        replayed: whether an earlier call with the same idempotency key has started it.
    """

    name: str
    replayed: bool = False


class Service:
    """The endpoints of all namespaces that a gateway serves.

    Args:
        backend: deployments and executions.
        store: where files are; None: nowhere.
        settings: limits and patience.
        metrics: what is counted.
        clock: the time, in seconds since the epoch.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store | None,
        *,
        settings: Settings | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.backend = backend
        self.store = store
        self.settings = settings or Settings()
        self.metrics = metrics or Metrics()
        self._clock = clock
        self._rates = Rates(self.settings.rate, self.settings.burst)
        self.draining = False
        self._closed = False

    # The end of the process

    def drain(self) -> None:
        """Say that no more is to be sent here; what comes all the same is served."""
        self.draining = True

    def close(self) -> None:
        """Let all go who wait: they are asked to come again, to whoever serves then."""
        self.draining = self._closed = True
        self.backend.release()

    @property
    def closed(self) -> bool:
        """Whether nobody is to wait any longer."""
        return self._closed

    def trouble(self) -> str:
        """Why no requests should be sent here; empty: they may."""
        return "it is about to end" if self.draining else self.backend.trouble()

    # Calls

    def enter(self, namespace: str, path: str, token: str | None) -> Served:
        """The deployment behind an endpoint, for somebody with a token.

        Raises:
            Problem: there is no token (401); it is wrong, or there is no such endpoint (403, the same answer).
        """
        if not token:
            raise Problem(
                401,
                "MissingToken",
                "send the endpoint's token as `Authorization: EndpointToken …`",
                {"WWW-Authenticate": 'EndpointToken realm="penstock"'},
            )
        if trouble := self.backend.trouble():
            raise Problem(503, "NotReady", f"the gateway has just begun: {trouble}", _AGAIN)
        found = self.backend.endpoint(namespace, path)
        # Where there is no endpoint as much is compared: an answer's time tells nothing either.
        opens = matches(token, _NOBODY if found is None else found.tokens, self._clock())
        if found is None or not opens:
            raise Problem(403, "WrongToken", "there is no endpoint here that this token opens")
        return found

    async def interface(self, served: Served) -> tuple[PipelineSpec, dict[str, ValueType]]:
        """The pipeline that a call of an endpoint runs, and the types of the inputs that a caller may give.

        Raises:
            Problem: no call can be taken now.
        """
        if self._closed:
            raise Problem(503, "Draining", "this gateway is about to end; try again", _AGAIN)
        if served.spec.suspend:
            raise Problem(423, "Suspended", f'the deployment "{served.name}" is suspended: it takes no calls')
        if served.problem:
            raise Problem(409, "NotReady", f'the deployment "{served.name}" cannot run: {served.problem}')
        pipeline = await self.backend.pipeline(served.namespace, served.spec.pipeline)
        if pipeline is None:
            raise Problem(409, "NotReady", f'the deployment "{served.name}" cannot run: its pipeline is not there')
        wait = self._rates.take((served.namespace, served.name))
        if wait > 0:
            raise Problem(
                429,
                "TooManyRequests",
                f'the deployment "{served.name}" gets more calls than the {self.settings.rate:g} in a second that it '
                "takes",
                {"Retry-After": str(max(1, round(wait)))},
            )
        return pipeline, {each.name: each.type for each in endpoint_inputs(pipeline, served.spec)}

    def data(self, namespace: str) -> DataStore | None:
        """The data store of a namespace, if there is one."""
        return None if self.store is None else DataStore(self.store, namespace)

    @asynccontextmanager
    async def receiving(self, namespace: str) -> AsyncIterator[Call]:
        """A call that is being read and answered; if that goes wrong, what it has uploaded goes again."""
        call = Call()
        try:
            yield call
        except Exception:
            await self.discard(namespace, call)
            raise

    async def discard(self, namespace: str, call: Call) -> None:
        """Remove what a call has uploaded: nothing has come of it."""
        data = self.data(namespace)
        if data is None:
            return
        for path in call.files.values():
            try:
                await data.delete(path)
            except NotFound:
                continue  # it came by halves
            except StoreError:
                self.metrics.leftovers.inc()

    async def trigger(self, served: Served, pipeline: PipelineSpec, call: Call, key: str | None) -> Started:
        """Start an execution for a call.

        Args:
            served: the deployment.
            pipeline: its pipeline.
            call: what was sent.
            key: the caller's idempotency key: one execution for each.

        Raises:
            Problem: it cannot be started.
        """
        if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
            raise Problem(400, "BadRequest", f"Idempotency-Key: 1 to {MAX_KEY} characters that can be printed")
        bound = await bind_call(self.backend, served, pipeline, call, self.settings.limits)
        secret = key if key is not None else secrets.token_hex(16)
        for salt in range(_NAME_TRIES):
            digest = hashlib.sha256(f"{served.uid}\0{salt}\0{secret}".encode("utf-8", "surrogatepass")).digest()
            body = _execution(served, bound, digest, call.digest)
            try:
                await self.backend.create(body)
            except Refused as error:
                raise Problem(409, "Refused", f"the execution was not taken: {error}") from None
            except Unavailable:
                call.files.clear()  # there may be an execution that needs them: the answer was lost
                raise
            except Taken:
                started = await self._there_already(body)
                if started is None:
                    continue  # another call's
                return started
            self.metrics.started.inc()
            return Started(body["metadata"]["name"])
        raise Problem(503, "NoName", "no free name was found for the execution; try again", _AGAIN)

    async def _there_already(self, body: JsonObject) -> Started | None:
        """What an execution with the wanted name amounts to; None: it is another call's."""
        meta = body["metadata"]
        there = await self.backend.execution(meta["namespace"], meta["name"])
        notes = {} if there is None else there["metadata"].get("annotations") or {}
        if notes.get(KEY_ANNOTATION) != meta["annotations"][KEY_ANNOTATION]:
            return None
        if notes.get(CALL_ANNOTATION) != meta["annotations"][CALL_ANNOTATION]:
            raise Problem(
                422,
                "IdempotencyKeyReused",
                "this Idempotency-Key was used for a call with other inputs; use another one",
                data={"execution_id": meta["name"]},
            )
        return Started(meta["name"], replayed=True)

    # Results

    async def look(self, served: Served, name: str, seconds: float) -> Look:
        """An execution of an endpoint, waiting for its end for so long.

        Raises:
            Problem: there is none.
        """
        with self.metrics.waiting.track_inprogress():
            found = await self.backend.wait(served.namespace, name, served.name, seconds)
        if not found.there:
            raise Problem(
                404, "UnknownExecution", f'this endpoint has no execution "{name}"; it may have been removed meanwhile'
            )
        return found

    def result(self, body: JsonObject) -> Result:
        """The results of an execution that is over.

        Raises:
            Problem: it did not succeed (500), or was cancelled (409).
        """
        name, status = body["metadata"]["name"], body["status"]
        phase = status["phase"]
        if phase != "Succeeded":
            raise Problem(
                409 if phase == "Cancelled" else 500,
                f"Execution{phase}",
                status.get("message") or f"the execution has ended as {phase}",
                data={"execution_id": name, "phase": phase, "reason": status.get("reason") or phase},
            )
        found = {entry["name"]: load_value(entry) for entry in status.get("outputs") or ()}
        return Result(name, {outer: found[name] for name, outer in outer_names(body, found).items()})

    async def open(self, namespace: str, file: File) -> Download:
        """Begin to read a file.

        Raises:
            Problem: it is not there any more.
        """
        if self.store is None:
            raise Problem(409, "NoStore", "this installation has no object store")
        return await self.store.get(file_key(namespace, file.key))


def outer_names(body: JsonObject, outputs: Mapping[str, Value]) -> dict[str, str]:
    """The outputs that a caller gets, and under which names."""
    bound = {each["name"]: each for each in body["spec"].get("outputs") or ()}
    return {name: bound[name]["endpoint"] if name in bound else name for name in outputs if _handed_on(bound.get(name))}


def _handed_on(bound: Mapping[str, Any] | None) -> bool:
    return bound is None or "endpoint" in bound


def _execution(served: Served, bound: JsonObject, digest: bytes, call: str) -> JsonObject:
    """The execution of a call: all that the deployment says now is copied into it."""
    name = f"{served.name[:52].rstrip('-.')}-{base64.b32encode(digest).decode().lower()[:10]}"
    notes = {KEY_ANNOTATION: digest.hex(), CALL_ANNOTATION: call}
    spec: JsonObject = {"pipeline": served.spec.pipeline.manifest(), **bound}
    if served.spec.concurrency.policy != "Allow":
        notes[QUEUED] = "true"
        spec["suspend"] = True
    return {
        "apiVersion": API_VERSION,
        "kind": "Execution",
        "metadata": {
            "name": name,
            "namespace": served.namespace,
            "labels": {DEPLOYMENT: served.name, TRIGGER: "endpoint"},
            "annotations": notes,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "Deployment",
                    "name": served.name,
                    "uid": served.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": spec,
    }
