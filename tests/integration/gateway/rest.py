"""A gateway with a history, one without, and an API server behind them that knows who may do what. No tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from aiohttp import web

from penstock.storage.history.history import History
from penstock.storage.history.records import Version

from .cluster import ClusterServer
from .endpoints_fixtures import PIPELINE
from .support import OWN, OWNER, READER, SECONDS, STRANGER, start_gateway

T = TypeVar("T")

RIGHTS: Mapping[str, set[str]] = {
    OWNER: {"get", "list", "watch", "create", "patch", "delete"},
    READER: {"get", "list", "watch"},
    STRANGER: set(),
}
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Guarded(ClusterServer):
    """An API server on which people have rights in the namespace `ours`; labels are left to the gateway."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == OWN or token not in RIGHTS:
            return await super()._answer(request)
        parts = request.path.strip("/").split("/")
        if parts[-1] == "selfsubjectreviews":
            return web.json_response({"status": {"userInfo": {"username": token}}}, status=201)
        if parts[-1] == "selfsubjectaccessreviews":
            asked = (await request.json())["spec"]["resourceAttributes"]
            allowed = asked["namespace"] == "ours" and asked["verb"] in RIGHTS[token]
            return web.json_response({"status": {"allowed": allowed}}, status=201)
        verb = VERBS.get(request.method, "get" if len(parts) == 7 else "list")
        if parts[4] != "ours" or verb not in RIGHTS[token]:
            body = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": f"you may not {verb}"}
            return web.json_response(body, status=403)
        query = {key: value for key, value in request.query.items() if key != "labelSelector"}
        headers = {**request.headers, "Authorization": f"Bearer {OWNER}"}
        return await super()._answer(request.clone(rel_url=request.rel_url.with_query(query), headers=headers))


class Rest:
    """The API of a namespace, as callers use it.

    Attributes:
        server: its API server.
        url: of the gateway.
    """

    def __init__(self, folder: Path, server: Guarded, *, history: bool, url: str) -> None:
        self.server = server
        self._history = f"sqlite:///{folder / 'history.db'}" if history else ""
        if history:
            self.record()
        given = url or self._history
        environ = {"PENSTOCK_HISTORY_URL": given} if given else {}
        self.folder = folder
        self.process, self.url = start_gateway(folder, server.url, **environ)
        self.http = httpx.Client(timeout=SECONDS, trust_env=False)

    def close(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()

    def ask(
        self, method: str, path: str, token: str | None = OWNER, *, namespace: str = "ours", **options: Any
    ) -> httpx.Response:
        headers = ({} if token is None else {"Authorization": f"Bearer {token}"}) | options.pop("headers", {})
        place = f"{self.url}/api/v1/namespaces/{namespace}/{path}"
        return self.http.request(method, place, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        """What a request gives that succeeds."""
        answer = self.ask("GET", path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def names(self, query: str = "") -> list[str]:
        """Names of a page of executions."""
        return [each["metadata"]["name"] for each in self.get(f"executions?{query}")["items"]]

    def live(self, *bodies: dict[str, Any]) -> None:
        """Executions that the API server has."""
        for body in bodies:
            meta = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
            parts = {key: body[key] for key in ("apiVersion", "spec", "status")}
            name, namespace = meta["name"], meta["namespace"]
            stored = self.server.put("executions", name, namespace=namespace, metadata=meta, **parts)
            stored["kind"] = "Execution"

    def record(self, *bodies: dict[str, Any], removed: Mapping[str, float] | None = None) -> None:
        """Executions that the history has."""
        self._with_history(lambda found: found.record_many([Version(body, 1) for body in bodies], removed))

    def there(self, *bodies: dict[str, Any]) -> None:
        """Executions that this gateway knows, from wherever it has them."""
        if self._history:
            self.record(*bodies)
        else:
            self.live(*bodies)

    def forget(self) -> None:
        """Remove all executions, as if there had never been any."""
        for kind, namespace, name in list(self.server.objects):
            self.server.remove(kind, name, namespace)
        if self._history:

            async def work(found: History) -> None:
                # Those that are live stay when a history is pruned, so all are over first.
                left = await found.list(limit=500)
                await found.record_many([], {each.uid: 3e9 for each in left.items})
                await found.prune(older_than=4e9)
                assert not (await found.list()).items

            self._with_history(work)

    def _with_history(self, work: Callable[[History], Awaitable[T]]) -> T:
        async def opened() -> T:
            found = await History.open(self._history)
            try:
                return await work(found)
            finally:
                await found.close()

        return asyncio.run(opened())


@contextmanager
def rest(folder: Path, *, history: bool, url: str = "") -> Iterator[Rest]:
    """A gateway for some tests.

    Args:
        folder: where its store and its log are.
        history: whether it has one, which tests write.
        url: another one, which they do not.
    """
    server = Guarded()
    try:
        found = Rest(folder, server, history=history, url=url)
        try:
            found.server.put("pipelines", "iris", spec=PIPELINE)
            yield found
        finally:
            found.close()
    finally:
        server.close()


def problem(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, word and sentence of an error."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = json.loads(answer.content)
    assert body["status"] == answer.status_code
    return answer.status_code, body["reason"], body["detail"]
