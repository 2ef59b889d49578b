"""One machine as a whole: an API server of our own kinds, what runs executions, deployments, and a gateway over them.

What is written for a cluster (the gateway, the deployment controller) works here unchanged, because the API server in
this process answers as that of a cluster does. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from penstock.api.pipeline import PipelineSpec
from penstock.controller.deployments import DeploymentController
from penstock.controller.loop import until_one_ends
from penstock.engine.state import ExecutionState
from penstock.gateway.access import Caller, Cluster
from penstock.gateway.app import application
from penstock.gateway.service import Service
from penstock.gateway.service import Settings as ServiceSettings
from penstock.kube.backend import KubeBackend
from penstock.kube.client import Client
from penstock.kube.deployments import KubeDeployments
from penstock.kube.errors import ApiError, NotFound, Unauthorized, Unreachable, from_answer
from penstock.kube.recording import Recording, check
from penstock.kube.resources import CONTROLLER_REVISIONS, DEPLOYMENTS, EXECUTIONS, PIPELINES
from penstock.kube.revisions import NotReady, object_name
from penstock.kube.transport import Call, Connection, Transport
from penstock.local.answers import ApiAnswer, ApiRequest, Refusal
from penstock.local.apiserver import ApiServer, Doomed, is_stream
from penstock.local.filestore import HomeStore
from penstock.local.session import LocalSession, Settings
from penstock.local.store import NAMESPACE
from penstock.step.values import JsonObject

API_BASE = "/kubernetes"
"""Where the API server is, for the command line: the gateway has `/api` for itself."""


class _Nowhere:
    """A provider of connections that has none."""

    async def current(self) -> Connection:
        raise Unreachable("there is no API server but the one in this process", sent=False)

    async def renew(self, rejected: Connection) -> None:
        del rejected


class InProcess(Transport):
    """Requests that the API server of this process answers.

    Args:
        server: the API server.
    """

    def __init__(self, server: ApiServer) -> None:
        super().__init__(_Nowhere())
        self._server = server

    async def send(self, call: Call) -> bytes:
        """Make a request; gives the whole body of the answer.

        Raises:
            ApiError: it did not succeed.
        """
        answer = await self._server.answer(_request(call))
        if answer.status >= 300:
            raise _error(call, answer)
        return answer.body

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Make a request and give its answer bit by bit as it comes.

        Raises:
            ApiError: it did not succeed.
        """
        try:
            stream = self._server.stream(_request(call))
        except Refusal as error:
            raise _error(call, error.answer) from None
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk


def _error(call: Call, answer: ApiAnswer) -> ApiError:
    return from_answer(what=str(call), status=answer.status, body=answer.body, retry_after=None)


def _request(call: Call) -> ApiRequest:
    body = b"" if call.body is None else json.dumps(call.body, separators=(",", ":")).encode()
    return ApiRequest(call.method, call.path, dict(call.params), body, call.content_type, call.accept)


class _Revisions:
    """Finds revisions of pipelines where the API server reads each pipeline as it is written."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._specs: dict[str, PipelineSpec] = {}

    async def resolve(self, namespace: str, name: str, number: int | None, pinned: str) -> tuple[str, PipelineSpec]:
        """See `kube.deployments.Resolver`."""
        revision = pinned or await self._newest(namespace, name, number)
        if revision not in self._specs:  # revisions never change
            try:
                found = await self._client.get(CONTROLLER_REVISIONS, object_name(revision), namespace)
            except NotFound:
                raise NotReady(f'there is no revision "{revision}"', broken=True) from None
            self._specs[revision] = PipelineSpec.model_validate(found["data"])
        return revision, self._specs[revision]

    async def _newest(self, namespace: str, name: str, number: int | None) -> str:
        try:
            status = (await self._client.get(PIPELINES, name, namespace)).get("status") or {}
        except NotFound:
            raise NotReady(f'there is no pipeline "{name}" in namespace "{namespace}" yet') from None
        conditions: list[JsonObject] = status.get("conditions") or []
        ready = next((each for each in conditions if each["type"] == "Ready"), {})
        if ready.get("status") != "True":
            raise NotReady(f'pipeline "{name}" is not Ready: {ready.get("message", "")}', broken=True)
        return f"{name}-{status['revision'] if number is None else number}"


class Standalone:
    """Penstock on one machine, until `run` is left.

    Args:
        settings: of the session that runs executions.
        token: who has it may do everything.
        url: where this is reached, without a slash at its end.
        service: how endpoints are served.
        on_trouble: called with a sentence when something failed that will be tried again.
        history_url: where executions are kept for good; empty: in the home.

    Raises:
        LocalError: the home cannot be used.
        BadSettings: no history can be kept there.

    Attributes:
        app: what serves all of it over HTTP.
        client: requests to the API server in this process.
        service: the endpoints.
        history: every execution that there was or is.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        token: str,
        url: str,
        service: ServiceSettings | None = None,
        on_trouble: Callable[[str], None] = lambda _: None,
        history_url: str = "",
    ) -> None:
        self._token = token
        self._session = LocalSession(
            settings,
            on_pass=self._on_pass,
            on_finished=self._on_finished,
            on_trouble=lambda _, message: on_trouble(message),
        )
        session = self._session
        self.server = ApiServer(
            database=session.database,
            store=session.store,
            objects=session.objects,
            runner=session,
            clock=session.clock,
            ids=session.ids,
            namespace=NAMESPACE,
            before_removal=self._keep,
        )
        self.transport = InProcess(self.server)
        self.client = Client(self.transport)
        self._recording = Recording(history_url or _history_of(settings.home), self.client, session.clock)
        self._recorded: list[asyncio.Task[None]] = []
        self.history = self._recording.history
        self._deployments = KubeDeployments(
            self.client,
            _Revisions(self.client),
            lambda key, urgent: self._scheduler.mark(key, urgent=urgent),
            lambda _, path: f"{url}/endpoints/{path}",
            self._recording.kept,
        )
        self._scheduler = DeploymentController(
            deployments=self._deployments, clock=session.clock, input_bytes=settings.limits.input_bytes
        )
        self._backend = KubeBackend(self.transport)
        self._store = store = HomeStore(session.home)
        self.service = Service(self._backend, store, settings=service)
        served = application(
            store, store.keys, Cluster(self._connect), service=self.service, history=self.history, namespace=NAMESPACE
        )
        self.app = Starlette(
            routes=[Mount(API_BASE, Route("/{path:path}", self._api, methods=_METHODS)), Mount("", served)]
        )

    def _on_pass(self, uid: str, state: ExecutionState, changed: object) -> None:
        del state, changed
        self.server.execution_changed(uid)

    def _on_finished(self, uid: str) -> None:
        self.server.execution_changed(uid)

    @asynccontextmanager
    async def _connect(self, who: Caller) -> AsyncIterator[Transport]:
        if not self._knows(who.token):
            raise Unauthorized("the token is not that of this Penstock", status=401, reason="Unauthorized")
        yield self.transport

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    async def _keep(self, executions: Sequence[Doomed]) -> None:
        await self._recording.keep(executions)

    # Work

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            Halt: nothing can go on until a person has done something.
        """
        await self.server.start()
        await self._observe()
        self._recorded = [recorded := asyncio.create_task(self._recording.run())]
        work = (self._session.serve(), self._scheduler.run(), self._backend.run(), _outlived(recorded))
        await until_one_ends([asyncio.create_task(each) for each in work])

    async def close(self) -> None:
        """Let go of everything; what runs goes on, and is taken up by the next one."""
        await self._recording.close(*self._recorded)
        await self._session.close()
        await self._store.close()

    async def _observe(self) -> None:
        """Tell the controller of deployments what there is, and what comes."""
        for resource in (DEPLOYMENTS, EXECUTIONS):
            for body in (await self.client.list(resource, namespace=NAMESPACE, keep=lambda body: body)).items:
                if resource is EXECUTIONS:
                    self._recording.see(body)
                self._seen(resource.plural, "ADDED", body)
        self._recording.listed()
        self.server.subscribe(self._seen)

    def _seen(self, plural: str, what: str, body: JsonObject) -> None:
        deleted = what == "DELETED"
        if plural == DEPLOYMENTS.plural:
            self._deployments.observe(body, deleted=deleted)
        elif plural == EXECUTIONS.plural:
            if deleted:
                self._recording.gone(body["metadata"]["uid"])
            else:
                self._recording.changed(body)
            self._deployments.execution(body, deleted=deleted)
        elif plural == PIPELINES.plural:
            self._deployments.pipeline_changed(body["metadata"]["namespace"], body["metadata"]["name"])

    # The API server over HTTP

    async def _api(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._knows(token.strip()):
            return _answered(ApiAnswer(401, _status(401, "Unauthorized", "send the token of this Penstock"), {}))
        wanted = ApiRequest(
            request.method,
            request.url.path.removeprefix(API_BASE),
            dict(request.query_params),
            await request.body(),
            request.headers.get("content-type", "application/json"),
            request.headers.get("accept", "application/json"),
        )
        if is_stream(wanted):
            try:
                return StreamingResponse(self.server.stream(wanted), media_type="application/json")
            except Refusal as error:
                return _answered(error.answer)
        return _answered(await self.server.answer(wanted))


async def _outlived(task: asyncio.Task[None]) -> None:
    """Wait for a task without taking it along when this is cancelled: it is ended last."""
    await asyncio.shield(task)


def _history_of(home: Path) -> str:
    return f"sqlite:///{home.absolute() / 'history.db'}"


async def prepared_history(home: Path, url: str) -> str:
    """The URL of a home's history, whose tables are those of this version; a database that is away is told of.

    Args:
        home: the home.
        url: of another database than the home's own.

    Raises:
        BadSettings: no history can be kept there.
    """
    url = url or _history_of(home)
    await check(url)
    return url


_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def _answered(answer: ApiAnswer) -> Response:
    return Response(answer.body, answer.status, {"Content-Type": "application/json", **answer.headers})


def _status(code: int, reason: str, message: str) -> bytes:
    found: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return json.dumps(found | {"code": code, "reason": reason, "message": message}).encode()
