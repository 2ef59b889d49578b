"""Deployments and executions of a cluster as the gateway serves them: one watch on each, and nobody polls.

The gateway's own service account reads and creates here (chart: `gateway.yaml`). It may not read Secrets: the digests
of tokens are in the status of Deployments.
"""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any

from pydantic import ValidationError

from penstock.api.base import PipelineRef
from penstock.api.labels import DEPLOYMENT, TRIGGER
from penstock.api.pipeline import PipelineSpec
from penstock.controller.serving import (
    Look,
    Refused,
    Served,
    Taken,
    Unavailable,
    finished,
    served,
)
from penstock.kube.client import Client
from penstock.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound, TooLarge
from penstock.kube.follow import PAUSE_SECONDS, Listed, everything, versions
from penstock.kube.resources import CONFIG_MAPS, CONTROLLER_REVISIONS, DEPLOYMENTS, EXECUTIONS, PIPELINES, Resource
from penstock.kube.revisions import object_name
from penstock.kube.transport import Transport
from penstock.step.values import JsonObject

_LOG = logging.getLogger("penstock.gateway")

_Key = tuple[str, str]

REMEMBERED_BYTES = 32 << 20
"""How much is kept of executions that are over: history limits may remove them before who waits has come again."""


class KubeBackend:
    """Implements `controller.serving.Backend`; `run` must run beside it.

    Args:
        transport: makes requests, with the gateway's own credentials.
        namespaces: those that are served; empty: all.
    """

    def __init__(self, transport: Transport, namespaces: Sequence[str] = ()) -> None:
        self._transport = transport
        self._client = Client(transport)
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._deployments = _Deployments()
        self._executions = _Executions()
        self._pipelines = _Pipelines()
        self._known: Mapping[Resource, _Known] = {
            DEPLOYMENTS: self._deployments,
            PIPELINES: self._pipelines,
            EXECUTIONS: self._executions,
        }
        self._behind = {(kind, place) for kind in self._known for place in self._namespaces}
        self._specs: dict[tuple[str, str, int], PipelineSpec] = {}

    async def run(self) -> None:
        """Follow what happens, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for place in self._namespaces:
                for resource, known in self._known.items():
                    # Executions that were applied by hand have no such label, and hardly anybody waits for them here.
                    labels = TRIGGER if resource is EXECUTIONS else ""
                    group.create_task(self._follow(resource, place, labels, known))

    async def _follow(self, resource: Resource, place: str | None, labels: str, known: _Known) -> None:
        while True:
            try:
                await self._follow_once(resource, place, labels, known)
            except Exception:  # a bug: callers must not wait for ever because of it
                _LOG.exception("what happens to %s is not followed; it is begun anew", resource.plural)
                self._behind.add((resource, place))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _follow_once(self, resource: Resource, place: str | None, labels: str, known: _Known) -> None:
        events = everything(self._client, self._transport, resource, namespace=place, labels=labels)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Listed):
                    known.listed(event.items, place)
                    self._behind.discard((resource, place))
                else:
                    known.changed(event.body, event.deleted)

    # What `Backend` asks for

    def trouble(self) -> str:
        """See `Backend`."""
        kinds = sorted({kind.plural for kind, _ in self._behind})
        return f"{' and '.join(kinds)} have not been listed yet" if kinds else ""

    def endpoint(self, namespace: str, path: str) -> Served | None:
        """See `Backend`."""
        return self._deployments.by_path(namespace, path)

    def deployment(self, namespace: str, name: str) -> Served | None:
        """See `Backend`."""
        return self._deployments.found.get((namespace, name))

    async def pipeline(self, namespace: str, reference: PipelineRef) -> PipelineSpec | None:
        """See `Backend`."""
        if reference.revision is None:
            return self._pipelines.spec(namespace, reference.name)
        try:
            key = (namespace, reference.name, reference.revision)
            if key not in self._specs:  # revisions never change
                name = object_name(f"{reference.name}-{reference.revision}")
                body = await self._client.get(CONTROLLER_REVISIONS, name, namespace)
                self._specs[key] = PipelineSpec.model_validate(body["data"])
            return self._specs[key]
        except (NotFound, ValidationError):
            return None
        except ApiError as error:
            raise _unavailable(error) from error

    async def config(self, namespace: str, keys: Iterable[_Key]) -> Mapping[_Key, str]:
        """See `Backend`."""
        wanted = list(keys)
        found: dict[_Key, str] = {}
        for name in dict.fromkeys(name for name, _ in wanted):
            try:
                data = (await self._client.get(CONFIG_MAPS, name, namespace)).get("data") or {}
            except NotFound:
                continue
            except ApiError as error:
                raise _unavailable(error) from error
            found |= {(name, key): data[key] for other, key in wanted if other == name and key in data}
        return found

    async def create(self, body: JsonObject) -> JsonObject:
        """See `Backend`."""
        with self._executions.beginning(body):
            try:
                return await self._client.create(EXECUTIONS, body)
            except AlreadyExists as error:
                raise Taken(error.message) from error
            except (Forbidden, Invalid, TooLarge) as error:
                raise Refused(error.message) from error
            except ApiError as error:
                raise _unavailable(error) from error

    async def execution(self, namespace: str, name: str) -> JsonObject | None:
        """See `Backend`."""
        try:
            return await self._client.get(EXECUTIONS, name, namespace)
        except NotFound:
            return None
        except ApiError as error:
            raise _unavailable(error) from error

    async def wait(self, namespace: str, name: str, deployment: str | None, seconds: float) -> Look:
        """See `Backend`."""
        async with self._executions.waiting((namespace, name)) as ended:
            owner = self._executions.under_way.get((namespace, name))
            watched = owner is not None
            if owner is None:
                # Over, or so new that the watch has not told of it: read once, while what comes is caught already.
                remembered = self._executions.over.get((namespace, name))
                body = remembered[0] if remembered else await self.execution(namespace, name)
                if body is None:
                    return Look(False)
                owner, watched = _owner(body), TRIGGER in (body["metadata"].get("labels") or {})
                if deployment in {None, owner} and (finished(body) or seconds <= 0):
                    return Look(True, body)
            if deployment not in {None, owner}:
                return Look(False)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, seconds)):
                    return await (ended if watched else self._follow_one(namespace, name))
        return Look(True)

    async def _follow_one(self, namespace: str, name: str) -> Look:
        """Wait for an execution that the watch does not tell of: somebody has applied it."""
        try:
            following = versions(self._client, self._transport, EXECUTIONS, name, namespace)
            async with aclosing(following) as seen:
                async for body in seen:
                    if finished(body):
                        return Look(True, body)
        except ApiError as error:
            raise _unavailable(error) from error
        return Look(False)

    def release(self) -> None:
        """See `Backend`."""
        self._executions.release()


class _Known(ABC):
    """What is kept of the objects of a kind."""

    def listed(self, items: Sequence[JsonObject], place: str | None) -> None:
        """These are all objects of a namespace, or of all."""
        there = {_key(body) for body in items}
        for key in [key for key in self.keys() if key not in there and place in {None, key[0]}]:
            self.drop(key)
        for body in items:
            self.changed(body)

    @abstractmethod
    def changed(self, body: JsonObject, deleted: bool = False) -> None:
        """An object is new, has changed or is gone."""

    @abstractmethod
    def keys(self) -> Iterable[_Key]:
        """Those of which something is kept."""

    @abstractmethod
    def drop(self, key: _Key) -> None:
        """An object is gone."""


class _Pipelines(_Known):
    """Pipelines as they are stored; each is read when it is asked for."""

    def __init__(self) -> None:
        self._bodies: dict[_Key, JsonObject] = {}
        self._specs: dict[_Key, tuple[JsonObject, PipelineSpec | None]] = {}

    def spec(self, namespace: str, name: str) -> PipelineSpec | None:
        body = self._bodies.get((namespace, name))
        if body is None:
            return None
        read = self._specs.get((namespace, name))
        if read is None or read[0] is not body:
            try:
                read = (body, PipelineSpec.model_validate(body["spec"]))
            except ValidationError:
                read = (body, None)
            self._specs[namespace, name] = read
        return read[1]

    def keys(self) -> Iterable[_Key]:
        return self._bodies

    def changed(self, body: JsonObject, deleted: bool = False) -> None:
        if deleted:
            self.drop(_key(body))
        elif (self._bodies.get(_key(body)) or {}).get("spec") != body["spec"]:
            self._bodies[_key(body)] = {"spec": body["spec"]}

    def drop(self, key: _Key) -> None:
        self._bodies.pop(key, None)
        self._specs.pop(key, None)


class _Deployments(_Known):
    """Deployments with endpoints, by name and by path."""

    def __init__(self) -> None:
        self.found: dict[_Key, Served] = {}
        self._ages: dict[_Key, tuple[str, str]] = {}
        self._paths: dict[_Key, set[str]] = {}

    def by_path(self, namespace: str, path: str) -> Served | None:
        names = self._paths.get((namespace, path))
        if not names:
            return None
        return self.found[namespace, min(names, key=lambda name: self._ages[namespace, name])]

    def keys(self) -> Iterable[_Key]:
        return self.found

    def changed(self, body: JsonObject, deleted: bool = False) -> None:
        key = _key(body)
        self.drop(key)
        if deleted or not (body.get("spec") or {}).get("endpoint"):
            return
        try:
            new = served(body)
        except (ValidationError, ValueError, KeyError) as error:
            _LOG.warning("deployment %s in namespace %s cannot be read: %s", key[1], key[0], error)
            return
        assert new.spec.endpoint is not None  # noqa: S101 - for mypy
        self.found[key] = new
        self._ages[key] = (body["metadata"].get("creationTimestamp") or "", new.name)
        self._paths.setdefault((new.namespace, new.spec.endpoint.path), set()).add(new.name)

    def drop(self, key: _Key) -> None:
        old = self.found.pop(key, None)
        if old is not None and old.spec.endpoint is not None:
            self._paths[key[0], old.spec.endpoint.path].discard(key[1])


class _Waiting:
    """Somebody who waits for an execution: a future that is there for as long as they do."""

    def __init__(self, all_of_them: dict[_Key, set[asyncio.Future[Look]]], key: _Key, released: bool) -> None:
        self._all, self._key = all_of_them, key
        self._future: asyncio.Future[Look] = asyncio.get_running_loop().create_future()
        if released:
            self._future.set_result(Look(True))

    async def __aenter__(self) -> asyncio.Future[Look]:
        self._all.setdefault(self._key, set()).add(self._future)
        return self._future

    async def __aexit__(self, *_: object) -> None:
        others = self._all[self._key]
        others.discard(self._future)
        if not others:
            del self._all[self._key]


class _Executions(_Known):
    """Executions that are under way, who waits for them, and how those have ended that were over last."""

    def __init__(self) -> None:
        self.under_way: dict[_Key, str] = {}
        self.over: OrderedDict[_Key, tuple[JsonObject, int]] = OrderedDict()
        self._over_bytes = 0
        self._waiting: dict[_Key, set[asyncio.Future[Look]]] = {}
        self._released = False

    def waiting(self, key: _Key) -> _Waiting:
        return _Waiting(self._waiting, key, self._released)

    def keys(self) -> Iterable[_Key]:
        return self.under_way

    def changed(self, body: JsonObject, deleted: bool = False) -> None:
        key = _key(body)
        if deleted:
            self.drop(key)
        elif finished(body):
            if key in self.under_way:
                self._remember(key, body)
            self._over(key, Look(True, body))
        else:
            self.under_way[key] = _owner(body)
            self._forget(key)

    def _remember(self, key: _Key, body: JsonObject) -> None:
        """Keep what answers are made of, as long as there is room for it."""
        spec, status = body["spec"], body["status"]
        meta = {each: body["metadata"][each] for each in _ANSWERED if each in body["metadata"]}
        short = {
            "metadata": meta,
            "spec": {each: spec[each] for each in ("pipeline", "outputs") if each in spec},
            "status": {name: value for name, value in status.items() if name != "steps"},
        }
        size = len(json.dumps(short))
        self._forget(key)
        self.over[key] = (short, size)
        self._over_bytes += size
        while self._over_bytes > REMEMBERED_BYTES:
            self._forget(next(iter(self.over)))

    def _forget(self, key: _Key) -> None:
        self._over_bytes -= self.over.pop(key, ({}, 0))[1]

    @contextmanager
    def beginning(self, body: JsonObject) -> Iterator[None]:
        """An execution is being created. It is known before its first event comes, which may be that of its end."""
        key = _key(body)
        new = key not in self.under_way
        self.under_way.setdefault(key, _owner(body))
        try:
            yield
        except BaseException:
            if new:
                self.under_way.pop(key, None)
            raise

    def release(self) -> None:
        self._released = True
        for key in list(self._waiting):
            self._tell(key, Look(True))

    def drop(self, key: _Key) -> None:
        self._over(key, Look(False))

    def _over(self, key: _Key, look: Look) -> None:
        self.under_way.pop(key, None)
        self._tell(key, look)

    def _tell(self, key: _Key, look: Look) -> None:
        for future in self._waiting.get(key, ()):
            if not future.done():
                future.set_result(look)


_ANSWERED = ("name", "namespace", "uid", "labels", "annotations", "creationTimestamp")


def _key(body: JsonObject) -> _Key:
    meta: Mapping[str, Any] = body["metadata"]
    return meta["namespace"], meta["name"]


def _owner(body: JsonObject) -> str:
    labels: Mapping[str, str] = body["metadata"].get("labels") or {}
    return labels.get(DEPLOYMENT, "")


def _unavailable(error: ApiError) -> Unavailable:
    _LOG.warning("%s", error.message)
    return Unavailable("the Kubernetes API server does not answer as it should; the gateway's log says more")
