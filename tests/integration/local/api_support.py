"""A home with an API server, the real clients in front of it, and a runner that only keeps what it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from penstock.api.execution import Execution
from penstock.controller.contract import SystemClock
from penstock.kube.client import Client
from penstock.kube.errors import from_answer
from penstock.kube.transport import Call, Transport
from penstock.local.apiserver import ApiAnswer, ApiRequest, ApiServer, Refusal, is_stream
from penstock.local.database import Database
from penstock.local.home import Home, RandomIds
from penstock.local.objects import Objects
from penstock.local.sources import Tree
from penstock.local.store import Revision, Store


class Recording:
    """A runner that stores executions and runs nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sources: dict[str, Tree | None] = {}
        self.started: list[str] = []
        self.looked: list[str] = []
        self.deleted: list[str] = []

    def submit(self, execution: Execution, *, revision: Revision | None, source: Tree | None) -> str:
        uid = self.store.new_uid()
        self.store.create(execution, revision=revision, uid=uid)
        self.sources[uid] = source
        return uid

    def start(self, uid: str) -> None:
        self.started.append(uid)

    def changed(self, uid: str) -> None:
        self.looked.append(uid)

    def delete(self, uid: str) -> None:
        self.deleted.append(uid)


class Direct(Transport):
    """The way to an API server in the same process."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def send(self, call: Call) -> bytes:
        answer = await self._server.answer(_request(call))
        if answer.status >= 300:
            raise _error(call, answer)
        return answer.body

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        request = _request(call)
        assert is_stream(request)
        try:
            found = self._server.stream(request)
        except Refusal as error:
            raise _error(call, error.answer) from None
        try:
            async for data in found:
                yield data
        finally:
            await found.aclose()


def _request(call: Call) -> ApiRequest:
    body = b"" if call.body is None else json.dumps(call.body).encode()
    return ApiRequest(call.method, call.path, call.params, body, call.content_type, call.accept)


def _error(call: Call, answer: ApiAnswer) -> Exception:
    return from_answer(
        what=str(call), status=answer.status, body=answer.body, retry_after=answer.headers.get("Retry-After")
    )


class Served:
    """One process at a home."""

    def __init__(self, root: Path, *, namespace: str = "default") -> None:
        self.home = Home(root)
        self.database = Database(self.home)
        objects = Objects(self.home)
        clock, ids = SystemClock(), RandomIds()
        self.store = Store(self.database, objects, clock=clock, ids=ids)
        self.runner = Recording(self.store)
        self.server = ApiServer(
            database=self.database,
            store=self.store,
            objects=objects,
            runner=self.runner,
            clock=clock,
            ids=ids,
            namespace=namespace,
        )
        self.transport = Direct(self.server)
        self.client = Client(self.transport)

    async def ask(self, method: str, path: str, body: Any = None, **rest: Any) -> tuple[int, Any]:
        """A request as it is on the wire; gives the HTTP status and the answer."""
        given = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        answer = await self.server.answer(ApiRequest(method, path, body=given, **rest))
        return answer.status, json.loads(answer.body)

    def close(self) -> None:
        """As when the process ends."""
        self.database.close()


def named(name: str, **rest: Any) -> dict[str, Any]:
    """Metadata."""
    return {"name": name, "namespace": "default", **rest}


def a_pipeline(name: str = "iris", *, run: str = "true", **metadata: Any) -> dict[str, Any]:
    """A pipeline of one step."""
    return {"metadata": named(name, **metadata), "spec": {"steps": [{"name": "train", "command": [run]}]}}


def an_execution(name: str = "one", pipeline: str = "iris", **metadata: Any) -> dict[str, Any]:
    """An execution of a pipeline."""
    return {"metadata": named(name, **metadata), "spec": {"pipeline": {"name": pipeline}}}


def a_deployment(name: str = "calls", pipeline: str = "iris", **metadata: Any) -> dict[str, Any]:
    """A deployment with an endpoint."""
    return {
        "metadata": named(name, **metadata),
        "spec": {"pipeline": {"name": pipeline}, "endpoint": {"path": name}},
    }
