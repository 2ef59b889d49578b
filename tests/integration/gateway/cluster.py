"""What stands for an API server and an operator behind endpoints: objects, watches, and executions that end when told.

It speaks HTTP as an API server does, as far as the gateway uses it. No tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any

from aiohttp import web

from .support import OWN, OWNER

API = "penstock.dev/v1alpha1"
Body = dict[str, Any]
TOKEN = "t" * 43


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class ClusterServer:
    """Objects by kind, namespace and name; every change is told to whoever watches.

    Attributes:
        seen: method and path of each request, with its token.
        refuse: answers to give instead, by method and kind.
        on_create: called with each execution that is created.
        silent: whether watches are told nothing.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Body] = {}
        self.seen: list[tuple[str, str, str]] = []
        self.refuse: dict[tuple[str, str], int] = {}
        self.on_create: Callable[[Body], None] = lambda _: None
        self.silent = False
        self._versions = itertools.count(2)
        self._version = 1
        self._watches: list[tuple[str, str, asyncio.Queue[bytes | None]]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = self._do(self._start())

    def _do(self, work: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await work

        found: Future[Any] = asyncio.run_coroutine_threadsafe(waited(), self._loop)
        return found.result(30)

    async def _start(self) -> str:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def close(self) -> None:
        self.cut()
        self._do(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What tests do

    def put(self, kind: str, name: str, *, namespace: str = "ours", **parts: Any) -> Body:
        """Store an object, as somebody who applies it."""
        body: Body = self._do(self._put(kind, namespace, name, parts))
        return body

    async def _put(self, kind: str, namespace: str, name: str, parts: Mapping[str, Any]) -> Body:
        before = self.objects.get((kind, namespace, name), {"metadata": {}})
        meta = {"uid": f"uid-{kind}-{name}", "creationTimestamp": "2026-01-01T00:00:00Z", **before["metadata"]}
        meta |= parts.get("metadata") or {}
        body = {**before, **{key: value for key, value in parts.items() if key != "metadata"}}
        body["metadata"] = meta | {"name": name, "namespace": namespace}
        self._store(kind, body, "MODIFIED" if (kind, namespace, name) in self.objects else "ADDED")
        return body

    def remove(self, kind: str, name: str, namespace: str = "ours") -> None:
        async def work() -> None:
            body = self.objects.pop((kind, namespace, name))
            self._tell(kind, "DELETED", body)

        self._do(work())

    def deployment(
        self, name: str, *, path: str | None = None, token: str = TOKEN, ready: str = "True", **spec: Any
    ) -> None:
        """A deployment with an endpoint, as the operator has read it."""
        self.put(
            "deployments",
            name,
            spec={"pipeline": {"name": "iris"}, "endpoint": {"path": path or name}, **spec},
            status={
                "conditions": [
                    {"type": "Ready", "status": ready, "reason": "Because", "message": "it is broken", **_SINCE}
                ],
                "endpoint": {"tokenSecret": f"{name}-endpoint-token", "tokens": [{"sha256": digest(token)}]},
            },
        )

    def end(self, name: str, phase: str = "Succeeded", *, namespace: str = "ours", **status: Any) -> None:
        """Let an execution end."""
        self.put("executions", name, namespace=namespace, status={"phase": phase, **status})

    def expire(self) -> None:
        """Tell all watches that where they are is too old, as a server does that has compacted its history."""
        gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}

        async def work() -> None:
            for _, _, queue in self._watches:
                queue.put_nowait(json.dumps(gone).encode() + b"\n")
                queue.put_nowait(None)

        self._do(work())

    def executions(self) -> list[Body]:
        return [body for (kind, _, _), body in self.objects.items() if kind == "executions"]

    def cut(self) -> None:
        """End all watches, as a server that restarts does."""

        async def work() -> None:
            for _, _, queue in self._watches:
                queue.put_nowait(None)

        self._do(work())

    def requests(self, method: str, kind: str) -> list[str]:
        return [path for asked, path, _ in self.seen if asked == method and f"/{kind}" in path and "watch=" not in path]

    # What an API server does

    def _store(self, kind: str, body: Body, event: str) -> None:
        self._version = next(self._versions)
        body["metadata"]["resourceVersion"] = str(self._version)
        meta = body["metadata"]
        self.objects[kind, meta["namespace"], meta["name"]] = body
        self._tell(kind, event, body)

    def _tell(self, kind: str, event: str, body: Body) -> None:
        line = json.dumps({"type": event, "object": body}).encode() + b"\n"
        if self.silent:
            return
        for watched, label, queue in self._watches:
            if watched == kind and (not label or label in (body["metadata"].get("labels") or {})):
                queue.put_nowait(line)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.seen.append((request.method, request.path_qs, token))
        parts = request.path.strip("/").split("/")
        if parts[-1] in {"selfsubjectaccessreviews", "selfsubjectreviews"}:
            return self._review(parts[-1], token)
        if token not in {OWN, OWNER}:
            return _status(401 if token != "nobody" else 403, "Unauthorized", "no")
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts else ""
        rest = parts[parts.index("namespaces") + 2 :] if namespace else parts[-1:]
        kind, name = rest[0], (rest[1] if len(rest) > 1 else "")
        if code := self.refuse.get((request.method, kind)):
            return _status(code, "Refused", "not now")
        if request.method == "POST":
            return await self._create(kind, namespace, await request.json())
        if name:
            return await self._one(request, kind, namespace, name)
        if "watch" in request.query:
            return await self._watch(request, kind)
        label = request.query.get("labelSelector", "")
        items = [
            body
            for (other, place, _), body in self.objects.items()
            if other == kind and namespace in {"", place} and _selected(body, label)
        ]
        return web.json_response({"items": items, "metadata": {"resourceVersion": str(self._version)}})

    def _review(self, kind: str, token: str) -> web.StreamResponse:
        if token not in {OWN, OWNER, "nobody"}:
            return _status(401, "Unauthorized", "Unauthorized")
        if kind == "selfsubjectreviews":
            return web.json_response({"status": {"userInfo": {"username": "ada", "uid": "u-1"}}}, status=201)
        return web.json_response({"status": {"allowed": token == OWNER}}, status=201)

    async def _create(self, kind: str, namespace: str, body: Body) -> web.StreamResponse:
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{next(self._versions)}"
        if (kind, namespace, name) in self.objects:
            return _status(409, "AlreadyExists", f"{kind} {name} already exists")
        body["metadata"] |= {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        self._store(kind, body, "ADDED")
        if kind == "executions":
            self.on_create(body)
        return web.json_response(body, status=201)

    async def _one(self, request: web.Request, kind: str, namespace: str, name: str) -> web.StreamResponse:
        body = self.objects.get((kind, namespace, name))
        if body is None:
            return _status(404, "NotFound", f'{kind} "{name}" not found')
        if request.method == "PATCH":
            change = await request.json()
            body = {**body, "spec": {**body["spec"], **change.get("spec", {})}}
            body["metadata"] = {**body["metadata"], **change.get("metadata", {})}
            self._store(kind, body, "MODIFIED")
        elif request.method == "DELETE":
            self._tell(kind, "DELETED", self.objects.pop((kind, namespace, name)))
        return web.json_response(body)

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        response = web.StreamResponse()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        since = int(request.query["resourceVersion"])
        label = request.query.get("labelSelector", "")
        for (other, _, _), body in self.objects.items():
            if other == kind and int(body["metadata"]["resourceVersion"]) > since and _selected(body, label):
                queue.put_nowait(json.dumps({"type": "MODIFIED", "object": body}).encode() + b"\n")
        entry = (kind, label.partition("=")[0], queue)
        self._watches.append(entry)
        try:
            await response.prepare(request)
            while (line := await queue.get()) is not None:
                await response.write(line)
        finally:
            self._watches.remove(entry)
        return response


_SINCE = {"lastTransitionTime": "2026-01-01T00:00:00Z"}


def _selected(body: Body, selector: str) -> bool:
    labels = body["metadata"].get("labels") or {}
    name, _, value = selector.partition("=")
    return not selector or (labels.get(name) == value if value else name in labels)


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(
        {"kind": "Status", "code": code, "reason": reason, "message": message, "details": {}}, status=code
    )
