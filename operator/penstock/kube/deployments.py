"""Deployments as objects of an API server: the controller's `Deployments`.

What is known of them and of their executions comes from watches and lists; of executions no more is kept than it takes
to decide what becomes of them. Written are the status of deployments, executions, and the Secrets of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from penstock.api.execution import ExecutionPhase
from penstock.api.labels import DEPLOYMENT, QUEUED, TRIGGER
from penstock.api.pipeline import PipelineSpec
from penstock.controller.ports import Brief, NewExecution, PipelineState, Refused, StoredDeployment, Transient
from penstock.engine.mapping import ConfigKey
from penstock.engine.status import from_timestamp, to_timestamp
from penstock.kube.client import Client
from penstock.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound, TooLarge, port_error
from penstock.kube.resources import CONFIG_MAPS, DEPLOYMENTS, EXECUTIONS
from penstock.kube.revisions import NotReady, Reading
from penstock.kube.tokens import read_token, write_token
from penstock.step.values import JsonObject

SCHEDULED_AT: Final = "penstock.dev/scheduled-at"
"""Annotation of an execution: the time of the schedule that it is for."""
CANCELLED_BECAUSE: Final = "penstock.dev/cancelled-because"
"""Annotation of an execution that was cancelled to make room for another: why."""


class Resolver(Protocol):
    """Finds revisions of pipelines."""

    async def resolve(self, namespace: str, name: str, number: int | None, pinned: str) -> tuple[str, PipelineSpec]:
        """See `revisions.Revisions.resolve`."""


def on_gateway(public_url: str) -> Callable[[str, str], str]:
    """Where the endpoints of all namespaces are on a gateway with this address; empty: nobody knows it."""
    base = public_url.rstrip("/")
    return lambda namespace, path: f"{base}/environments/{namespace}/endpoints/{path}" if base else ""


@dataclass(slots=True)
class _Known:
    """A deployment as it was last seen.

    Attributes:
        namespace: where it is.
        name: its name.
        created: when it was made, as the API server wrote it.
        generation: generation of its spec.
        spec: as it is stored.
        annotations: those that are ours.
        status: as it was last written here, or was when it was first seen.
        edited_at: when its spec came to be as it is.
    """

    namespace: str
    name: str
    created: str
    generation: int
    spec: JsonObject
    annotations: Mapping[str, str]
    status: JsonObject
    edited_at: float | None


@dataclass(slots=True)
class _Execution:
    """An execution of a deployment: its brief, and what it takes to change it."""

    uid: str
    generation: int
    brief: Brief


class KubeDeployments:
    """Implements the controller's `Deployments` on an API server.

    Args:
        client: the REST client.
        revisions: revisions of pipelines.
        mark: called with the uid of a deployment that should be looked at, and whether that is urgent.
        endpoint_url: gives the address of the endpoint of a namespace that has a path; empty where nobody knows it.
        kept: whether an execution, by its uid, may be removed; with one that may not yet its deployment is looked at
            again.
    """

    def __init__(
        self,
        client: Client,
        revisions: Resolver,
        mark: Callable[[str, bool], None],
        endpoint_url: Callable[[str, str], str],
        kept: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._kept = kept
        self._client = client
        self._revisions = revisions
        self._mark = mark
        self._endpoint_url = endpoint_url
        self._known: dict[str, _Known] = {}
        self._owned: dict[str, dict[str, _Execution]] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        self._paths: dict[tuple[str, str], set[str]] = {}
        self._pipelines: dict[tuple[str, str], set[str]] = {}

    def __len__(self) -> int:
        return len(self._known)

    # What is seen

    def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take note of a deployment that was listed or watched."""
        meta = body["metadata"]
        uid = meta["uid"]
        known = self._known.get(uid)
        if deleted:
            self._forget(uid)
            return
        ours = {key: text for key, text in (meta.get("annotations") or {}).items() if key.startswith("penstock.dev/")}
        generation = meta.get("generation", 1)
        if known is None:
            # Conditions of before are worth keeping; the rest of a status that nobody has written is not there.
            status = dict(body.get("status") or {})
            self._known[uid] = _Known(
                namespace=meta["namespace"],
                name=meta["name"],
                created=meta["creationTimestamp"],
                generation=generation,
                spec=body["spec"],
                annotations=ours,
                status=status,
                edited_at=_edited_at(meta),
            )
        elif (generation, ours) == (known.generation, known.annotations) or generation < known.generation:
            return
        else:
            self._file(known, uid, there=False)
            known.generation, known.spec, known.annotations = generation, body["spec"], ours
            known.edited_at = _edited_at(meta)
        self._file(self._known[uid], uid, there=True)
        self._mark(uid, True)

    def _file(self, known: _Known, uid: str, *, there: bool) -> None:
        """Keep a deployment under its pipeline and its path; those of the same path have to look at each other."""
        places = [(self._pipelines, known.spec["pipeline"]["name"])]
        if "endpoint" in known.spec:
            path = known.spec["endpoint"]["path"]
            places.append((self._paths, path))
            for other in self._paths.get((known.namespace, path), set()) - {uid}:
                self._mark(other, True)
        for index, name in places:
            uids = index.setdefault((known.namespace, name), set())
            if there:
                uids.add(uid)
            else:
                uids.discard(uid)
            if not uids:
                del index[known.namespace, name]

    def execution(self, body: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take note of an execution that was listed or watched, if it is of a deployment."""
        meta = body["metadata"]
        owner = _owner(meta)
        if owner is None:
            return
        before = self._executions(owner).get(meta["name"])
        if deleted:
            if before is not None and before.uid == meta["uid"]:
                self._drop(owner, meta["name"])
                self._changed(owner, None)
            return
        if before is not None and before.uid == meta["uid"] and _outdated(meta, before):
            return
        now = _brief(body)
        executions = self._owned.setdefault(owner, {})
        executions[meta["name"]] = _Execution(meta["uid"], meta.get("generation", 1), now)
        self._owners[meta["uid"]] = (owner, meta["name"])
        if before is None or before.brief != now:
            self._changed(owner, now)

    def _executions(self, owner: str) -> Mapping[str, _Execution]:
        """The executions of a deployment, by name."""
        return self._owned.get(owner, {})

    def _drop(self, owner: str, name: str) -> None:
        """An execution is not there any more."""
        executions = self._owned.get(owner, {})
        found = executions.pop(name, None)
        if found is not None:
            self._owners.pop(found.uid, None)
        if not executions:
            self._owned.pop(owner, None)

    def finished(self, uid: str, status: Mapping[str, Any]) -> None:
        """The final status of an execution was written here: the watch does not tell of that."""
        owner, name = self._owners.get(uid, ("", ""))
        known = self._executions(owner).get(name)
        if known is not None and known.uid == uid:
            known.brief = _with_end(known.brief, status)
            self._changed(owner, known.brief)

    def _changed(self, owner: str, now: Brief | None) -> None:
        """Have the deployment of an execution looked at: at once only if something may be decided by what it is now."""
        known = self._known.get(owner)
        if known is None:
            return
        policy = (known.spec.get("concurrency") or {}).get("policy", "Allow")
        ends = now is None or now.finished_at is not None
        urgent = (now is not None and now.queued) or (ends and policy != "Allow")
        self._mark(owner, urgent)

    def pipeline_changed(self, namespace: str, name: str) -> None:
        """A pipeline was read, or is gone."""
        for uid in self._pipelines.get((namespace, name), ()):
            self._mark(uid, True)

    def known(self) -> tuple[set[str], set[str]]:
        """Uids of all deployments and of all their executions that are known."""
        return set(self._known), set(self._owners)

    def gone(self, deployments: Iterable[str], executions: Iterable[str]) -> None:
        """After a listing: these are not there any more."""
        for uid in executions:
            if uid in self._owners:
                owner, name = self._owners[uid]
                self._drop(owner, name)
                self._changed(owner, None)
        for uid in deployments:
            self._forget(uid)

    def name(self, key: str) -> tuple[str, str]:
        """Namespace and name of a deployment; empty where it is not known (any more)."""
        known = self._known.get(key)
        return ("", "") if known is None else (known.namespace, known.name)

    def _forget(self, uid: str) -> None:
        known = self._known.pop(uid, None)
        for each in self._owned.pop(uid, {}).values():
            self._owners.pop(each.uid, None)
        if known is not None:
            self._file(known, uid, there=False)
            self._mark(uid, True)

    # The controller's `Deployments`

    async def load(self, key: str) -> StoredDeployment | None:
        """See `controller.ports.Deployments`."""
        known = self._known.get(key)
        if known is None:
            return None
        path = (known.spec.get("endpoint") or {}).get("path", "")
        return StoredDeployment(
            namespace=known.namespace,
            name=known.name,
            generation=known.generation,
            spec=known.spec,
            annotations=known.annotations,
            status=dict(known.status),
            edited_at=known.edited_at,
            pipeline=await self._pipeline(known),
            executions=[each.brief for each in self._executions(key).values()],
            url=self._endpoint_url(known.namespace, path) if path else "",
            rival=self._rival(key, known, path),
        )

    def _rival(self, key: str, known: _Known, path: str) -> str:
        others = [self._known[uid] for uid in self._paths.get((known.namespace, path), ()) if uid != key]
        older = [each for each in others if (each.created, each.name) < (known.created, known.name)]
        return min(older, key=lambda each: (each.created, each.name)).name if older else ""

    async def _pipeline(self, known: _Known) -> PipelineState:
        wanted = known.spec["pipeline"]
        try:
            revision, spec = await self._revisions.resolve(
                known.namespace, wanted["name"], wanted.get("revision"), pinned=""
            )
        except Reading:
            return PipelineState(reading=True)
        except NotReady as error:
            return PipelineState(problem=str(error), broken=error.broken)
        return PipelineState(spec, int(revision.rpartition("-")[2]))

    async def config(self, key: str, keys: Sequence[ConfigKey]) -> Mapping[ConfigKey, str]:
        """See `controller.ports.Deployments`."""
        known = self._known.get(key)
        found: dict[ConfigKey, str] = {}
        if known is None:
            return found
        for name in dict.fromkeys(name for name, _ in keys):
            try:
                data = (await self._client.get(CONFIG_MAPS, name, known.namespace)).get("data") or {}
            except NotFound:
                continue
            except ApiError as error:
                raise port_error(error) from error
            found |= {(name, each): data[each] for other, each in keys if other == name and each in data}
        return found

    async def create(self, key: str, new: NewExecution) -> bool:
        """See `controller.ports.Deployments`."""
        known = self._known.get(key)
        if known is None:
            return False
        try:
            body = await self._client.create(EXECUTIONS, execution_body(known.namespace, known.name, key, new))
        except AlreadyExists:
            body = await self._there(known, new.name)
            if _owner(body["metadata"]) != key:
                return False
        except (Forbidden, Invalid, TooLarge) as error:
            raise Refused(f'execution "{new.name}": {error.message}') from error
        except ApiError as error:
            raise port_error(error) from error
        self.execution(body)
        return True

    async def _there(self, known: _Known, name: str) -> JsonObject:
        """The execution with this name, most likely made before a restart."""
        try:
            return await self._client.get(EXECUTIONS, name, known.namespace)
        except NotFound:
            raise Transient(f'execution "{name}" is being deleted', 1) from None
        except ApiError as error:
            raise port_error(error) from error

    async def release(self, key: str, name: str) -> None:
        """See `controller.ports.Deployments`."""
        change = {"metadata": {"annotations": {QUEUED: None}}, "spec": {"suspend": False}}
        await self._change(key, name, change)

    async def cancel(self, key: str, name: str, why: str) -> None:
        """See `controller.ports.Deployments`."""
        change = {"metadata": {"annotations": {CANCELLED_BECAUSE: why, QUEUED: None}}, "spec": {"cancel": True}}
        await self._change(key, name, change)

    async def _change(self, key: str, name: str, change: JsonObject) -> None:
        known, owned = self._known.get(key), self._executions(key)
        if known is None or name not in owned:
            return
        uid = owned[name].uid
        change = {**change, "metadata": {**change["metadata"], "uid": uid}}
        try:
            body = await self._client.patch(EXECUTIONS, name, known.namespace, change)
        except NotFound:
            self._drop(key, name)
            return
        except ApiError as error:
            raise port_error(error) from error
        self.execution(body)

    async def delete(self, key: str, name: str) -> None:
        """See `controller.ports.Deployments`."""
        known, owned = self._known.get(key), self._executions(key)
        if known is None or name not in owned:
            return
        uid = owned[name].uid
        if not self._kept(uid):
            self._mark(key, False)
            return
        try:
            await self._client.delete(EXECUTIONS, name, known.namespace, uid=uid)
        except ApiError as error:
            raise port_error(error) from error
        self._drop(key, name)

    async def save(self, key: str, status: JsonObject) -> None:
        """See `controller.ports.Deployments`."""
        known = self._known.get(key)
        if known is None:
            return
        try:
            body = await self._client.patch_status(DEPLOYMENTS, known.name, known.namespace, status)
        except NotFound:
            return
        except ApiError as error:
            raise port_error(error) from error
        known.status = body.get("status") or {}

    async def store_token(self, key: str, secret: str, token: str) -> None:
        """See `controller.ports.Deployments`."""
        known = self._known.get(key)
        if known is not None:
            await write_token(self._client, known.namespace, secret, token, owner=_reference(known.name, key))

    async def brought_token(self, key: str, secret: str) -> str:
        """See `controller.ports.Deployments`."""
        known = self._known.get(key)
        if known is None:
            raise Transient("the deployment is gone")
        return await read_token(self._client, known.namespace, secret)


def execution_body(namespace: str, deployment: str, uid: str, new: NewExecution) -> JsonObject:
    """The manifest of an execution that a deployment starts on a schedule.

    Args:
        namespace: where it is.
        deployment: name of the deployment.
        uid: its uid.
        new: the execution.
    """
    annotations = {SCHEDULED_AT: to_timestamp(new.scheduled_at).replace(".000Z", "Z")} if new.scheduled_at else {}
    if new.queued:
        annotations[QUEUED] = "true"
    pipeline = {"name": new.pipeline} | ({} if new.revision is None else {"revision": new.revision})
    wanted: JsonObject = {"pipeline": pipeline}
    for name, items in (("inputs", new.bound.inputs), ("outputs", new.bound.outputs)):
        if items:
            wanted[name] = [each.manifest() for each in items]
    if new.queued:
        wanted["suspend"] = True
    return {
        "apiVersion": EXECUTIONS.api_version,
        "kind": EXECUTIONS.kind,
        "metadata": {
            "name": new.name,
            "namespace": namespace,
            "labels": {
                DEPLOYMENT: deployment,
                TRIGGER: "manual" if new.scheduled_at is None else "schedule",
            },
            "annotations": annotations,
            "ownerReferences": [_reference(deployment, uid)],
        },
        "spec": wanted,
    }


def _reference(name: str, uid: str) -> JsonObject:
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _owner(meta: Mapping[str, Any]) -> str | None:
    """Uid of the deployment that an execution is of."""
    for each in meta.get("ownerReferences") or ():
        if (
            each.get("controller")
            and each["kind"] == DEPLOYMENTS.kind
            and each["apiVersion"] == DEPLOYMENTS.api_version
        ):
            return str(each["uid"])
    return None


def _outdated(meta: Mapping[str, Any], known: _Execution) -> bool:
    """Whether we know more: our own writes come before the events of them, and of ends there are none."""
    return known.brief.finished_at is not None or meta.get("generation", 1) < known.generation


def _brief(body: Mapping[str, Any]) -> Brief:
    meta, spec = body["metadata"], body["spec"]
    brief = Brief(
        name=meta["name"],
        created_at=from_timestamp(meta["creationTimestamp"]),
        trigger=(meta.get("labels") or {}).get(TRIGGER, ""),
        queued=bool(spec.get("suspend")) and QUEUED in (meta.get("annotations") or {}),
        stopping=bool(spec.get("cancel")),
    )
    return _with_end(brief, body.get("status") or {})


def _with_end(brief: Brief, status: Mapping[str, Any]) -> Brief:
    phase = status.get("phase")
    if phase is None or not ExecutionPhase(phase).finished:
        return brief
    ended = status.get("finishedAt")
    return replace(
        brief,
        finished_at=from_timestamp(ended) if ended else brief.created_at,
        succeeded=phase == ExecutionPhase.SUCCEEDED,
    )


def _edited_at(meta: Mapping[str, Any]) -> float | None:
    """When the spec came to be as it is, or a little later: the server keeps who has written which fields, and when."""
    if meta.get("generation", 1) == 1:
        return from_timestamp(meta["creationTimestamp"])
    times = [
        from_timestamp(each["time"])
        for each in meta.get("managedFields") or ()
        if "time" in each and not each.get("subresource") and "f:spec" in (each.get("fieldsV1") or {})
    ]
    return max(times, default=None)
