"""The API that the `craft-ai-sdk` speaks, under `<environment>/api/v1`: pipelines, executions and deployments.

Everything is done in the name of whoever asks: the API server decides with their own token. The SDK exchanges that for
one of the shape it knows first (`tokens`). What has no counterpart here is answered with 501 and what to do instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel

from penstock.gateway import access
from penstock.gateway.access import Caller, Cluster
from penstock.gateway.answers import ErrorBody
from penstock.gateway.craft import deployments, executions, pipelines, tokens
from penstock.gateway.craft.common import Who
from penstock.gateway.endpoints import PREFIX, any_environment, fixed
from penstock.gateway.problems import Problem, unauthorized
from penstock.gateway.service import Service

BASE = "/api/v1"
_ELSEWHERE = {
    ("GET", "/pipelines/{name}/download"): "pipelines are manifests: `penstock get pipeline NAME -o yaml`",
    ("POST", "/pipelines"): "pipelines are manifests with images: write one, and `kubectl apply` it",
    ("POST", "/pipelines/{name}/logs"): "nothing is built here; the logs of executions are in `penstock logs`",
    ("POST", "/deployments/{name}/logs"): "there are no standing pods; the logs of executions are in `penstock logs`",
    ("POST", "/executions/{name}/logs"): "see `penstock logs NAME`",
    ("GET", "/environment-variables"): "values of an environment are in ConfigMaps: `kubectl get configmaps`",
    ("POST", "/environment-variables"): "values of an environment are in ConfigMaps: `kubectl create configmap`",
    ("PUT", "/environment-variables/{name}"): "values of an environment are in ConfigMaps: `kubectl edit configmap`",
    ("DELETE", "/environment-variables/{name}"): "values of an environment are in ConfigMaps",
    ("GET", "/metrics/{kind}"): "metrics are outputs of executions here",
    ("PUT", "/metrics/{kind}"): "metrics are outputs of executions here",
    ("POST", "/metrics/{kind}"): "metrics are outputs of executions here",
    ("GET", "/data-store/{rest:path}"): "see `penstock data`, or `penstock.Client`",
    ("POST", "/data-store/{rest:path}"): "see `penstock data`, or `penstock.Client`",
    ("DELETE", "/data-store/{rest:path}"): "see `penstock data`, or `penstock.Client`",
    ("GET", "/resource-metrics"): "ask your cluster's own monitoring",
    ("GET", "/project-information"): "there are no projects here: an environment is a namespace",
    ("GET", "/pipeline-templates"): "see the examples of Penstock",
}
"""What the SDK can ask for that is done in another way here."""


class Refresh(BaseModel):
    """What the SDK exchanges."""

    refresh_token: str


def install(api: FastAPI, service: Service, cluster: Cluster, namespace: str | None = None) -> None:
    """Add the routes.

    Args:
        api: the application.
        service: endpoints.
        cluster: what callers may do, and do, in their own name.
        namespace: the one environment, at the root; None: all.
    """
    prefix = ("" if namespace is not None else PREFIX) + BASE
    errors: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": ErrorBody, "description": "Not known, not allowed, not there, or not right."},
        "5XX": {"model": ErrorBody, "description": "Not supported, not now, or the execution has failed."},
    }
    router = APIRouter(prefix=prefix, tags=["craft-ai-sdk"], responses=errors)
    environment = any_environment if namespace is None else fixed(namespace)
    _user_routes(router, cluster, environment)
    for part in (pipelines, executions, deployments):
        part.install(router, service, cluster, environment)
    _unsupported(router)
    api.include_router(router)


def _user_routes(router: APIRouter, cluster: Cluster, environment: Callable[..., str]) -> None:
    @router.post("/auth/refresh")
    async def refresh(given: Refresh, _: str = Depends(environment)) -> dict[str, str]:
        """Exchange a token of the cluster for one of the shape that the SDK reads."""
        if not access.is_token(given.refresh_token):
            raise unauthorized("the SDK token is no token of the cluster; `kubectl create token NAME` makes one")
        person = await cluster.person(Caller(given.refresh_token))
        return {"access_token": tokens.wrap(given.refresh_token, person.name, time.time())}

    @router.get("/users/{user}")
    async def user(user: str, asks: Who, _: str = Depends(environment)) -> dict[str, str]:
        """Who you are (`me`), or somebody else: of others no more than their name is known."""
        if user != "me":
            return {"id": user, "name": user, "email": ""}
        found = await cluster.person(asks)
        return {"id": found.name, "name": found.name, "email": found.name if "@" in found.name else ""}


def _unsupported(router: APIRouter) -> None:
    def route(method: str, path: str, remedy: str) -> None:
        async def refuse(_: Who) -> None:
            """Not supported."""
            raise Problem(501, "NotSupported", f"this is not supported: {remedy}")

        router.add_api_route(path, refuse, methods=[method], include_in_schema=False)

    for (method, path), remedy in _ELSEWHERE.items():
        route(method, path, remedy)
