"""Executions as objects of an API server: the controller's `Executions`.

What is known of them comes from watches and lists (`observe`); what is written is their status and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from penstock.api.base import MAX_MESSAGE
from penstock.api.execution import ExecutionOutput, ExecutionPhase, ExecutionSpec, StepPhase
from penstock.api.pipeline import PipelineSpec
from penstock.controller.contract import declared_outputs
from penstock.controller.ports import Clock, Conflict, Loaded, Transient
from penstock.engine.reasons import NOT_TAKEN, Reason
from penstock.engine.state import ExecutionState
from penstock.engine.status import conditions, dump, to_timestamp
from penstock.engine.types import AttemptId, Identity, Plan, Request, Value
from penstock.kube import oversize
from penstock.kube.client import Client
from penstock.kube.errors import ApiError, NotFound, TooLarge, port_error
from penstock.kube.inputs import NoSuchObject, ObjectInputs
from penstock.kube.resources import EXECUTIONS
from penstock.kube.revisions import NotReady, Revisions
from penstock.step.values import Declared

_FINISHED = frozenset(phase.value for phase in ExecutionPhase if phase.finished)


@dataclass(slots=True)
class Known:
    """An execution that is not finished, as far as it is known.

    Attributes:
        namespace: its namespace.
        name: its name.
        generation: generation of `spec`.
        spec: its spec as it is stored.
        version: resourceVersion of the last status that was read or written here.
        status: its stored status, until it was loaded for the first time; None: read it anew.
        written: the top-level fields of the stored status.
        created: when it was created, as the API server wrote it: to the second.
        begun: whether its first attempts were asked for.
        revision: the revision that it is pinned to.
        inputs: the values that it was given.
        outputs: where its outputs go.
        declared: the outputs of each step that has any.
        awaited: attempts that the server had not taken when the status was written that was loaded last.
        told: what it was last said to wait for.
    """

    namespace: str
    name: str
    generation: int
    spec: Mapping[str, Any]
    version: str
    status: Mapping[str, Any] | None
    written: frozenset[str]
    created: str
    begun: bool
    revision: str = ""
    inputs: Mapping[str, Value] = field(default_factory=dict)
    outputs: Sequence[ExecutionOutput] = ()
    declared: Mapping[str, Sequence[Declared]] = field(default_factory=dict)
    awaited: frozenset[AttemptId] = frozenset()
    told: str = ""


def _standing(phase: ExecutionPhase, reason: str, message: str | None, since: str) -> dict[str, Any]:
    """The head of a status of an execution that runs nothing."""
    found: dict[str, Any] = {"phase": str(phase), "reason": reason}
    if message:
        found["message"] = message
    return found | {"conditions": conditions(phase, reason, message or "", since)}


class KubeExecutions:
    """Implements the controller's `Executions` on an API server.

    Args:
        client: the REST client.
        revisions: revisions of pipelines.
        clock: the time.
        on_finished: called with the object's metadata and status after the final status was written.
        on_cut: called with the uid of an execution that was ended before its attempts, for want of room.
        objects: looks up inputs that are objects; by default there are none.
        wants: whether somebody wants to see an execution, by its uid, when it is in this phase.
        on_wanted: called with the whole object then.
    """

    def __init__(
        self,
        client: Client,
        revisions: Revisions,
        clock: Clock,
        on_finished: Callable[[str, Known, Mapping[str, Any]], None] | None = None,
        on_cut: Callable[[str], None] | None = None,
        objects: ObjectInputs | None = None,
        wants: Callable[[str, str], bool] | None = None,
        on_wanted: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._client = client
        self._revisions = revisions
        self._clock = clock
        self._on_finished = on_finished
        self._on_cut = on_cut
        self._objects = objects or ObjectInputs(None)
        self._wants = wants
        self._on_wanted = on_wanted
        self._known: dict[str, Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def live(self) -> list[str]:
        """Uids of all executions that are not finished."""
        return list(self._known)

    def forget(self, key: str) -> None:
        """An execution is not there any more."""
        self._known.pop(key, None)

    def revisions_in_use(self) -> set[tuple[str, str]]:
        """Namespaces and names of the revisions that unfinished executions run."""
        return {(known.namespace, known.revision) for known in self._known.values() if known.revision}

    def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> bool:
        """Take note of an execution that was listed or watched; whether its controller should look at it."""
        meta = body["metadata"]
        uid = meta["uid"]
        status = body.get("status") or {}
        if deleted:
            return self._known.pop(uid, None) is not None
        if status.get("phase") in _FINISHED:
            return False
        known = self._known.get(uid)
        if known is None:
            self._known[uid] = Known(
                namespace=meta["namespace"],
                name=meta["name"],
                generation=meta.get("generation", 1),
                spec=body["spec"],
                version=meta["resourceVersion"],
                status=status,
                written=frozenset(status),
                created=meta["creationTimestamp"],
                begun="startedAt" in status,
                revision=status.get("revision", ""),
            )
            return True
        if meta.get("generation", 1) <= known.generation:
            return False
        known.generation = meta["generation"]
        known.spec = body["spec"]
        return True

    def known(self, key: str) -> Known | None:
        """What is known of an execution that is not finished."""
        return self._known.get(key)

    async def acknowledge(self, body: Mapping[str, Any]) -> None:
        """Say of a finished execution that its spec, which was changed since, was read: nothing comes of that.

        Raises:
            Conflict, Transient: try again.
        """
        meta, status = body["metadata"], body["status"]
        observed = {"observedGeneration": meta["generation"]}
        change = observed | {"conditions": [each | observed for each in status.get("conditions", ())]}
        try:
            await self._client.patch_status(
                EXECUTIONS, meta["name"], meta["namespace"], change, resource_version=meta["resourceVersion"]
            )
        except NotFound:
            return
        except ApiError as error:
            raise port_error(error) from error

    # What attempts ask

    def identity(self, key: str) -> Identity | None:
        """Who an execution is; None if it is not known (any more)."""
        known = self._known.get(key)
        return None if known is None else Identity(known.name, key, known.namespace)

    def pipeline_name(self, key: str) -> str:
        """Name of its pipeline; empty where it has a pipeline of its own."""
        known = self._known.get(key)
        return "" if known is None else str(known.spec.get("pipeline", {}).get("name", ""))

    def declared(self, key: str, step: str) -> Sequence[Declared]:
        """The outputs that a step of it declares."""
        known = self._known.get(key)
        return () if known is None else known.declared.get(step, ())

    def awaits(self, key: str, attempt: AttemptId) -> bool:
        """Whether its stored status says that the server had not taken an attempt yet."""
        known = self._known.get(key)
        return known is not None and attempt in known.awaited

    # The controller's `Executions`

    async def load(self, key: str) -> Loaded | None:
        """See `controller.ports.Executions`."""
        known = self._known.get(key)
        if known is None:
            return None
        if known.status is None and not await self._read(key, known):
            return None
        status, known.status = known.status or {}, None
        known.awaited = _awaited(status)
        try:
            spec = ExecutionSpec.model_validate(known.spec)
        except ValidationError as error:  # an object from before its definition was tightened
            await self.refuse(key, str(Reason.INVALID_INPUTS), f"spec: {error.errors()[0]['msg']}")
            return None
        pipeline = await self._pipeline(key, known, spec)
        known.outputs = tuple(spec.outputs)
        steps = (*pipeline.steps, *pipeline.finally_)
        known.declared = {step.name: outputs for step in steps if (outputs := declared_outputs(step))}
        identity = Identity(known.name, key, known.namespace)
        try:
            files = await self._objects.find(identity, spec.inputs, begun="startedAt" in status)
        except NoSuchObject as error:
            await self.refuse(key, str(Reason.INVALID_INPUTS), str(error))
            return None
        except Transient:
            known.status = status
            raise
        known.inputs = {given.name: given.value for given in spec.inputs if given.object is None} | files
        return Loaded(
            identity=identity,
            pipeline=pipeline,
            revision=f"{known.namespace}/{known.revision}" if known.revision else "",
            request=self._request(known),
            status=dict(status),
        )

    async def _read(self, key: str, known: Known) -> bool:
        """Read an execution anew; whether it is still there."""
        try:
            body = await self._client.get(EXECUTIONS, known.name, known.namespace)
        except NotFound:
            self._known.pop(key, None)
            return False
        except ApiError as error:
            raise port_error(error) from error
        if body["metadata"]["uid"] != key:
            self._known.pop(key, None)
            return False
        known.spec, known.generation = body["spec"], body["metadata"].get("generation", 1)
        known.version = body["metadata"]["resourceVersion"]
        known.status = body.get("status") or {}
        known.written = frozenset(known.status)
        known.revision = known.status.get("revision", known.revision)
        return True

    async def _pipeline(self, key: str, known: Known, spec: ExecutionSpec) -> PipelineSpec:
        """The pipeline that is run; pins its revision."""
        if spec.pipeline_spec is not None:
            return spec.pipeline_spec
        if spec.pipeline is None:
            raise Transient(f"execution {known.name} names no pipeline", 300)
        try:
            name, pipeline = await self._revisions.resolve(
                known.namespace, spec.pipeline.name, spec.pipeline.revision, known.revision
            )
        except NotReady as error:
            await self._wait(key, known, str(error))
            raise Transient(str(error), 60) from error
        known.revision = name
        return pipeline

    async def _wait(self, key: str, known: Known, message: str) -> None:
        """Say, once, what an execution that cannot start yet waits for."""
        self._revisions.wake_on_change(known.namespace, key)
        if known.told == message:
            return
        known.told = message
        status = _standing(ExecutionPhase.PENDING, str(Reason.PENDING), message[:MAX_MESSAGE], known.created)
        await self._write(key, known, status)

    def _request(self, known: Known) -> Request:
        return Request(
            inputs=known.inputs,
            cancel=bool(known.spec.get("cancel", False)),
            suspend=bool(known.spec.get("suspend", False)),
            timeout_seconds=known.spec.get("timeoutSeconds"),
            outputs=known.outputs,
        )

    async def request(self, key: str) -> Request | None:
        """See `controller.ports.Executions`."""
        known = self._known.get(key)
        return None if known is None else self._request(known)

    async def save(self, key: str, plan: Plan, state: ExecutionState) -> None:
        """See `controller.ports.Executions`. The whole status is one write, whatever part of it changed."""
        known = self._known.get(key)
        if known is None:
            return
        status = dump(state)
        if "conditions" not in status:  # held up before its start
            reason = state.head.reason or str(state.head.phase)
            status |= _standing(state.head.phase, reason, state.head.message, known.created)
        if known.revision:
            status["revision"] = known.revision
        try:
            await self._write(key, known, status)
        except TooLarge:
            await self._cut(key, known, status)
            if plan.finished:
                return
            if self._on_cut is not None:
                self._on_cut(key)
            raise Conflict(f"execution {known.name} was ended: its status is too large") from None
        if plan.finished:
            self._finish(key, known, status)

    async def _cut(self, key: str, known: Known, status: Mapping[str, Any]) -> None:
        """End an execution whose status no server can store, with as much of it as fits."""
        at = to_timestamp(self._clock.now())
        for room in (oversize.OBJECT_BYTES - oversize.size(known.spec), 0):
            less = oversize.cut(status, at, room)
            shown = conditions(ExecutionPhase(less["phase"]), less["reason"], less["message"], less["finishedAt"])
            less["conditions"] = shown
            with contextlib.suppress(TooLarge):
                await self._write(key, known, less)
                self._finish(key, known, less)
                return
        raise Transient(f"execution {known.name}: there is no room for any status beside its spec", 300)

    async def refuse(self, key: str, reason: str, message: str) -> None:
        """See `controller.ports.Executions`."""
        known = self._known.get(key)
        if known is None:
            return
        at = to_timestamp(self._clock.now())
        status = _standing(ExecutionPhase.FAILED, reason, message[:MAX_MESSAGE], at) | {"finishedAt": at}
        await self._write(key, known, status)
        self._finish(key, known, status)

    def _finish(self, key: str, known: Known, status: Mapping[str, Any]) -> None:
        self._known.pop(key, None)
        if self._on_finished is not None:
            self._on_finished(key, known, status)

    async def _write(self, key: str, known: Known, status: dict[str, Any]) -> None:
        status["observedGeneration"] = known.generation
        for condition in status.get("conditions", ()):
            condition["observedGeneration"] = known.generation
        gone = dict.fromkeys(known.written - status.keys())
        wanted = self._wants is not None and self._wants(key, status["phase"])
        try:
            body = await self._client.patch_status(
                EXECUTIONS,
                known.name,
                known.namespace,
                status | gone,
                resource_version=known.version,
                metadata_only=not wanted,
            )
        except NotFound:
            self._known.pop(key, None)
            return
        except TooLarge:
            raise
        except ApiError as error:
            known.status = None
            raise port_error(error) from error
        known.version = body["metadata"]["resourceVersion"]
        known.written = frozenset(status)
        if wanted and self._on_wanted is not None:
            self._on_wanted(body)


def _awaited(status: Mapping[str, Any]) -> frozenset[AttemptId]:
    """The attempts of which a status says that the server has not taken them."""
    found = [
        AttemptId(step["name"], entry.get("index", -1), entry["attempts"])
        for step in status.get("steps", ())
        for entry in (step, *step.get("items", ()))
        if entry["phase"] == StepPhase.PENDING and entry.get("reason") in NOT_TAKEN and "attempts" in entry
    ]
    return frozenset(found)
