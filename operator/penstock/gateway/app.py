"""All that `penstock gateway` serves, in one application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Scope

from penstock import __version__
from penstock.gateway import api, craft, endpoints, problems
from penstock.gateway.access import Cluster
from penstock.gateway.answers import error
from penstock.gateway.files import Files
from penstock.gateway.metrics import Measured, Metrics
from penstock.gateway.service import Service
from penstock.storage.errors import StoreError
from penstock.storage.folder import FolderStore
from penstock.storage.objects import Store
from penstock.storage.plans import MAX_FILE_BYTES
from penstock.storage.signing import SigningKeys

if TYPE_CHECKING:
    from penstock.storage.history.history import History

Lifespan = Callable[[], AbstractAsyncContextManager[None]]


def application(
    store: Store | None,
    keys: SigningKeys | None,
    cluster: Cluster | None,
    *,
    service: Service | None = None,
    history: History | None = None,
    namespace: str | None = None,
    lifespan: Lifespan | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Starlette:
    """What `penstock gateway` serves.

    Args:
        store: the object store, if there is one; the files of a folder store are served too.
        keys: what the URLs of a folder store are signed with.
        cluster: decides who may use the API; None: there is no API.
        service: the endpoints; None: there are none.
        history: the executions that there are and were; None: the API has those of the cluster.
        namespace: the one environment that is served, at the root; None: all, under `/environments`.
        lifespan: what runs beside it.
        max_file_bytes: how large the archive of a folder may be.
    """
    metrics = service.metrics if service is not None else Metrics()
    routes: list[BaseRoute] = [
        Route("/healthz", _healthy),
        Route("/readyz", _ready(store, service)),
        Route("/metrics", metrics.show),
    ]
    if isinstance(store, FolderStore) and keys is not None:
        routes += Files(store, keys).routes()
    if cluster is not None:
        mount = Mount if namespace is None else _Beside
        closing = (lambda: False) if service is None else (lambda: service.closed)
        found = api.application(store, cluster, history=history, closing=closing, max_file_bytes=max_file_bytes)
        routes.append(mount("/api/v1", found))
    if service is not None:
        routes.append(Mount("", environments(service, cluster, namespace)))

    @asynccontextmanager
    async def beside(_: Starlette) -> AsyncIterator[None]:
        if lifespan is None:
            yield
            return
        async with lifespan():
            yield

    return Starlette(
        routes=routes,
        lifespan=beside,
        middleware=[Middleware(Measured, metrics=metrics)],
        exception_handlers={HTTPException: _nowhere},
    )


async def _nowhere(request: Request, found: Exception) -> Response:
    """No route at all."""
    return error(request, problems.problem_of(found))


def environments(service: Service, cluster: Cluster | None, namespace: str | None) -> FastAPI:
    """The APIs of environments: endpoints for whoever has their token, all else for whoever has one of the cluster.

    Args:
        service: what is served.
        cluster: decides who may do what; None: there are endpoints alone.
        namespace: the one environment, at the root; None: all.
    """
    found = FastAPI(
        title="Penstock endpoints",
        version=__version__,
        summary="Pipelines behind HTTP endpoints.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(found, error)
    if cluster is not None:
        craft.install(found, service, cluster, namespace)
    endpoints.install(found, service, namespace)
    return found


class _Beside(Mount):
    """The API for people's files, where an environment at the root has another API at the same base."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for it."""
        path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/api/v1/")
        if path.partition("/")[0] in {"namespaces", "openapi.json"}:
            return super().matches(scope)
        return Match.NONE, {}


def _ready(store: Store | None, service: Service | None) -> Callable[[Request], Awaitable[Response]]:
    """Whether requests should be sent here."""

    async def ready(_: Request) -> Response:
        trouble = service.trouble() if service is not None else ""
        if not trouble and isinstance(store, FolderStore):
            try:
                await asyncio.to_thread(store.probe)
            except StoreError as problem:
                trouble = str(problem)
        if trouble:
            return JSONResponse({"status": "not ready", "message": trouble}, 503)
        return JSONResponse({"status": "ok"})

    return ready


async def _healthy(request: Request) -> Response:
    return JSONResponse({"status": "ok"})
