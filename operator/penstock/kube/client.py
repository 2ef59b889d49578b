"""A thin typed client of the Kubernetes API: what the operator, the gateway and the command line need, and no more.

What must not live here: HTTP and retries (`transport`), what objects mean, and watching (kopf's).

A create that is repeated after a lost answer may be told `AlreadyExists` of the object that it has made itself: names
are chosen so that this is success (see the architecture page). A write with a resource version may in the same way be
told `Conflict` of its own success: read again.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from penstock.kube.errors import ApiError, Gone, NotFound
from penstock.kube.resources import PODS, Resource
from penstock.kube.transport import Call, Transport
from penstock.step.values import JsonObject

T = TypeVar("T")

FIELD_MANAGER = "penstock"
"""Who owns the fields that we apply."""

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_RESTARTS = 3
"""How often a list is begun anew because its continuation expired (which takes minutes, while a list takes seconds)."""
_MAX_LINE = 1 << 20
"""Longest line of a log that is handed out in one piece, in bytes."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """All objects of a kind.

    Attributes:
        items: the objects, or what was kept of them.
        resource_version: of the whole list: a watch may start here.
    """

    items: Sequence[T]
    resource_version: str


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """The version of an API server.

    Attributes:
        major: for example 1.
        minor: for example 34.
        text: all of it, for example `v1.34.4`.
    """

    major: int
    minor: int
    text: str

    def at_least(self, major: int, minor: int) -> bool:
        """Whether it is this version or a newer one."""
        return (self.major, self.minor) >= (major, minor)


class Client:
    """Requests about objects. Objects are plain JSON: their makers know their shape.

    Every method raises a subclass of `ApiError` when the request did not succeed, and `ValueError` when it makes no
    sense (no namespace for an object that lives in one).

    Args:
        transport: makes the requests.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # Reading

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, metadata_only: bool = False
    ) -> JsonObject:
        """An object, or (`metadata_only`) no more of it than its metadata.

        Raises:
            NotFound: there is none.
        """
        call = Call(
            "get",
            "GET",
            resource.path(namespace=namespace, name=name),
            resource.plural,
            accept=_METADATA if metadata_only else "application/json",
        )
        return await self._json(call)

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        keep: Callable[[JsonObject], T],
        chunk: int = 500,
        metadata_only: bool = False,
    ) -> Listing[T]:
        """All objects of a kind, asked for in chunks.

        Args:
            resource: which kind.
            namespace: where; None for everywhere.
            labels: label selector.
            fields: field selector.
            keep: what to keep of each object: of 10,000 whole Pods nobody wants to hold more than a few fields. Items
                of a list carry neither `kind` nor `apiVersion` for Kubernetes' own kinds.
            chunk: how many objects to ask for at once.
            metadata_only: ask for no more than the metadata.

        Raises:
            Gone: the list expired again and again while it was read.
        """
        for restarts in range(_RESTARTS + 1):
            kept: list[T] = []
            try:
                version = ""
                async for page in self._pages(resource, namespace, labels, fields, chunk, metadata_only):
                    kept += [keep(each) for each in page.get("items") or ()]
                    version = page["metadata"].get("resourceVersion", "")
            except Gone:
                if restarts == _RESTARTS:
                    raise
                continue
            return Listing(kept, version)
        raise AssertionError("the last round returns or raises")

    async def _pages(
        self, resource: Resource, namespace: str | None, labels: str, fields: str, chunk: int, metadata_only: bool
    ) -> AsyncIterator[JsonObject]:
        params = {"limit": str(chunk)}
        if labels:
            params["labelSelector"] = labels
        if fields:
            params["fieldSelector"] = fields
        accept = _METADATA_LIST if metadata_only else "application/json"
        path = resource.path(namespace=namespace)
        while True:
            page = await self._json(Call("list", "GET", path, resource.plural, params=params, accept=accept))
            yield page
            further = page["metadata"].get("continue")
            if not further:
                return
            params = {**params, "continue": further}

    async def version(self) -> ServerVersion:
        """The version of the server."""
        found = await self._json(Call("get", "GET", "/version", "version"))
        major, minor = (re.match(r"\d+", str(found.get(each, ""))) for each in ("major", "minor"))  # "34+" at some
        if major is None or minor is None:
            raise ApiError(f"GET /version: no version of Kubernetes in {found!r}", status=200)
        return ServerVersion(int(major[0]), int(minor[0]), str(found.get("gitVersion", "")))

    async def serves(self, resource: Resource) -> bool:
        """Whether the server has a kind: its definition may not be there yet."""
        root = resource.path().rpartition("/")[0]
        try:
            found = await self._json(Call("get", "GET", root, "apis"))
        except NotFound:
            return False
        return any(each.get("name") == resource.plural for each in found.get("resources") or ())

    # Writing

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Create an object; gives it as it is stored.

        With a `generateName` in place of a name it is not tried again when the answer was lost: that might make two.

        Raises:
            AlreadyExists: there is one with this name.
        """
        metadata = body["metadata"]
        path = resource.path(namespace=_namespace(resource, body))
        return await self._json(
            Call(
                "create",
                "POST",
                path,
                resource.plural,
                params={"fieldManager": FIELD_MANAGER},
                body=body,
                idempotent=bool(metadata.get("name")),
            )
        )

    async def apply(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        subresource: str = "",
        manager: str = FIELD_MANAGER,
        force: bool = True,
    ) -> JsonObject:
        """Server-side apply: fields in `body` become as they are there and ours, fields no longer there go.

        Args:
            resource: its kind.
            body: the object; its kind and version are added.
            subresource: for example `status`.
            manager: who owns the fields then.
            force: whether fields are taken over that somebody else owns and that say something else.

        Raises:
            Conflict: without `force`, there are such fields; the causes in `details` name them.
        """
        path = _path_of(resource, body, subresource)
        params = {"fieldManager": manager, "force": "true" if force else "false"}
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self._json(
            Call("apply", "PATCH", path, _label(resource, subresource), params=params, body=body, content_type=_APPLY)
        )

    async def replace(self, resource: Resource, body: JsonObject, *, subresource: str = "") -> JsonObject:
        """Put an object in the place of the one with its name.

        Raises:
            Conflict: its `metadata.resourceVersion` is not that of the stored object.
        """
        path = _path_of(resource, body, subresource)
        params = {"fieldManager": FIELD_MANAGER}
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self._json(Call("update", "PUT", path, _label(resource, subresource), params=params, body=body))

    async def replace_status(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Put the status of an object in the place of the stored one; see `replace`."""
        return await self.replace(resource, body, subresource="status")

    async def patch(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        change: JsonObject | Sequence[JsonObject],
        *,
        subresource: str = "",
        metadata_only: bool = False,
    ) -> JsonObject:
        """Change an object by a merge patch (an object) or a JSON patch (a list of operations).

        A JSON patch is not tried again when the answer was lost, because doing it twice may do something else. With
        `metadata_only` no more than its metadata is given back.
        """
        merge = isinstance(change, Mapping)
        return await self._json(
            Call(
                "patch",
                "PATCH",
                resource.path(namespace=namespace, name=name, subresource=subresource),
                _label(resource, subresource),
                params={"fieldManager": FIELD_MANAGER},
                body=change,
                content_type=_MERGE if merge else _JSON_PATCH,
                accept=_METADATA if metadata_only else "application/json",
                idempotent=merge,
            )
        )

    async def patch_status(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        status: JsonObject,
        *,
        resource_version: str | None = None,
        metadata_only: bool = False,
    ) -> JsonObject:
        """Merge `status` into the status of an object; gives the object, or its metadata alone, as it is then.

        Args:
            resource: its kind.
            name: its name.
            namespace: where it is.
            status: the fields that change; None takes one away, lists are replaced as a whole.
            resource_version: do it only if the object is still this one.
            metadata_only: ask for no more than the metadata.

        Raises:
            Conflict: it is another one by now.
        """
        change: JsonObject = {"status": status}
        if resource_version is not None:
            change["metadata"] = {"resourceVersion": resource_version}
        return await self.patch(resource, name, namespace, change, subresource="status", metadata_only=metadata_only)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
        grace_seconds: int | None = None,
    ) -> bool:
        """Delete an object; gives whether there was one.

        Args:
            resource: its kind.
            name: its name.
            namespace: where it is.
            uid: delete only the one with this uid.
            propagation: what becomes of its children.
            grace_seconds: how long its containers have to end; None: what the Pod itself says.

        Raises:
            Conflict: the one that is there has another uid.
        """
        body: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        path = resource.path(namespace=namespace, name=name)
        try:
            await self._json(Call("delete", "DELETE", path, resource.plural, body=body))
        except NotFound:
            return False
        return True

    # Logs

    async def log(
        self,
        pod: str,
        *,
        namespace: str,
        container: str,
        tail: int | None = None,
        limit_bytes: int | None = None,
        previous: bool = False,
    ) -> bytes:
        """What a container has printed.

        Args:
            pod: name of the Pod.
            namespace: where it is.
            container: which one.
            tail: no more than so many lines, the last ones.
            limit_bytes: no more than so many bytes, the first ones.
            previous: of the container before its last restart.
        """
        params = _log_params(container, tail, limit_bytes, previous)
        return await self._transport.send(_log_call(pod, namespace, params))

    async def follow_log(
        self,
        pod: str,
        *,
        namespace: str,
        container: str,
        tail: int | None = None,
        timestamps: bool = False,
        since: str = "",
    ) -> AsyncGenerator[bytes, None]:
        """What a container prints, line by line without the line's end, until it ends.

        Lines over 1 MiB come in pieces. Close it (`contextlib.aclosing`) if you do not read to the end.

        Args:
            pod: name of the Pod.
            namespace: where it is.
            container: which one.
            tail: no more than so many of the lines that are there, the last ones.
            timestamps: begin each line with when it was printed; a line's further pieces have no timestamp.
            since: only lines that were printed in this second or later, as RFC 3339 has it.

        Raises:
            Unreachable: the connection was lost on the way; what came so far is all that was had.
        """
        params = {**_log_params(container, tail, None, False), "follow": "true"}
        if timestamps:
            params["timestamps"] = "true"
        if since:
            params["sinceTime"] = since
        async with aclosing(self._transport.stream(_log_call(pod, namespace, params, endless=True))) as chunks:
            async for line in _lines(chunks):
                yield line

    async def _json(self, call: Call) -> JsonObject:
        body = await self._transport.send(call)
        try:
            found: Any = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            start = body[:80].decode("utf-8", "replace")
            raise ApiError(f"{call}: this is no Kubernetes API server, it answered {start!r}", status=200)
        return found


def _namespace(resource: Resource, body: JsonObject) -> str | None:
    if not resource.namespaced:
        return None
    namespace = body["metadata"].get("namespace")
    if not isinstance(namespace, str) or not namespace:
        raise ValueError(f"{resource.kind}: metadata.namespace was not given")
    return namespace


def _path_of(resource: Resource, body: JsonObject, subresource: str) -> str:
    return resource.path(namespace=_namespace(resource, body), name=body["metadata"]["name"], subresource=subresource)


def _label(resource: Resource, subresource: str) -> str:
    return f"{resource.plural}/{subresource}" if subresource else resource.plural


def _log_params(container: str, tail: int | None, limit_bytes: int | None, previous: bool) -> dict[str, str]:
    params = {"container": container}
    if tail is not None:
        params["tailLines"] = str(tail)
    if limit_bytes is not None:
        params["limitBytes"] = str(limit_bytes)
    if previous:
        params["previous"] = "true"
    return params


def _log_call(pod: str, namespace: str, params: Mapping[str, str], *, endless: bool = False) -> Call:
    path = PODS.path(namespace=namespace, name=pod, subresource="log")
    return Call("get", "GET", path, "pods/log", params=params, accept="*/*", endless=endless)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of any length: aiohttp's own reader fails at 128 KiB."""
    rest = bytearray()
    async for data in chunks:
        rest += data
        *whole, last = rest.split(b"\n")
        for line in whole:
            yield bytes(line)
        while len(last) > _MAX_LINE:
            yield bytes(last[:_MAX_LINE])
            last = last[_MAX_LINE:]
        rest = last
    if rest:
        yield bytes(rest)
