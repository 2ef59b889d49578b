"""Deployments for the `craft-ai-sdk`: shown, made, switched on and off, triggered, and their tokens."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from penstock.api.base import API_VERSION
from penstock.api.labels import CREATED_BY, DEPLOYMENT
from penstock.controller.tokens import OVERLAP_ANNOTATION, ROTATE_ANNOTATION, token_secret
from penstock.gateway import calls
from penstock.gateway.access import Caller, Cluster
from penstock.gateway.answers import PRIVATE
from penstock.gateway.craft import shapes
from penstock.gateway.craft.common import Who, latest_of, listed, newest_first, one
from penstock.gateway.endpoints import IdempotencyKey, start
from penstock.gateway.problems import Problem
from penstock.gateway.service import Service
from penstock.kube.client import Client
from penstock.kube.errors import Forbidden, NotFound
from penstock.kube.follow import versions
from penstock.kube.resources import DEPLOYMENTS, EXECUTIONS, PIPELINES, SECRETS
from penstock.kube.tokens import KEY
from penstock.kube.transport import Transport
from penstock.step.values import JsonObject

_SETTLES_SECONDS = 25.0
"""How long somebody waits for the operator in one request."""


def install(router: APIRouter, service: Service, cluster: Cluster, environment: Callable[..., str]) -> None:
    """Add the routes."""
    _shown(router, cluster, environment)
    _made(router, cluster, environment)
    _changed(router, cluster, environment)
    _triggered(router, service, cluster, environment)


def _shown(router: APIRouter, cluster: Cluster, environment: Callable[..., str]) -> None:
    @router.get("/deployments")
    async def deployments(asks: Who, place: str = Depends(environment)) -> list[dict[str, Any]]:
        """All deployments."""
        kept = ("name", "pipeline_name", "version", "execution_rule", "mode", "is_enabled", "created_at")
        shown = [shapes.deployment(body, None) for body in await listed(cluster, asks, DEPLOYMENTS, place)]
        return [{key: each[key] for key in kept} for each in shown]

    @router.get("/deployments/{name}")
    async def deployment(
        name: str, asks: Who, wait_for_completion: bool = False, place: str = Depends(environment)
    ) -> dict[str, Any]:
        """A deployment, with its token if you may read the Secret that holds it."""
        body = await one(cluster, asks, DEPLOYMENTS, place, name)
        if wait_for_completion and shapes.deployment_status(body) == "creation_pending":
            body = await _settled(cluster, asks, body, lambda now: shapes.deployment_status(now) != "creation_pending")
        return shapes.deployment(body, await _token(cluster, asks, body))

    @router.get("/deployments/{name}/executions")
    async def executions(name: str, asks: Who, place: str = Depends(environment)) -> list[dict[str, Any]]:
        """Executions of a deployment, the newest first."""
        labels = f"{DEPLOYMENT}={name}"
        return [
            shapes.execution_brief(body)
            for body in newest_first(await listed(cluster, asks, EXECUTIONS, place, labels))
        ]

    @router.get("/deployments/{name}/executions/latest", response_model=None)
    async def latest(name: str, asks: Who, place: str = Depends(environment)) -> Response:
        """The newest execution of a deployment; null: there is none."""
        return latest_of(await listed(cluster, asks, EXECUTIONS, place, f"{DEPLOYMENT}={name}"))


def _made(router: APIRouter, cluster: Cluster, environment: Callable[..., str]) -> None:
    async def make(request: Request, asks: Caller, place: str, rule: str) -> Response:
        call = calls.Call()
        await calls.read(request, {}, None, calls.MAX_BODY, call)
        body = _manifest(call.values, rule, place)
        await one(cluster, asks, PIPELINES, place, body["spec"]["pipeline"]["name"])  # 404 now, and not a long wait
        body["metadata"]["annotations"][CREATED_BY] = (await cluster.person(asks)).name
        made = await cluster.acting(asks, lambda client, _: client.create(DEPLOYMENTS, body))
        found = await _settled(
            cluster, asks, made, lambda now: shapes.deployment_status(now) != "creation_pending" and _has_token(now)
        )
        ready = shapes.deployment_status(found) != "creation_pending"
        # 206: older clients ask until it is up.
        shown = shapes.deployment(found, await _token(cluster, asks, found))
        return JSONResponse(shown, 200 if ready else 206, PRIVATE)

    @router.post("/endpoints", response_model=None)
    async def endpoint(request: Request, asks: Who, place: str = Depends(environment)) -> Response:
        """Deploy a pipeline behind an endpoint."""
        return await make(request, asks, place, "endpoint")

    @router.post("/periodic-deployment", response_model=None)
    async def periodic(request: Request, asks: Who, place: str = Depends(environment)) -> Response:
        """Deploy a pipeline on a schedule, in UTC."""
        return await make(request, asks, place, "periodic")


def _manifest(given: JsonObject, rule: str, place: str) -> JsonObject:
    """The deployment that the SDK asks for.

    Raises:
        Problem: it asks for what there is not.
    """
    for wish, remedy in _INSTEAD.items():
        if given.get(wish) is not None:
            raise Problem(501, "NotSupported", f"{wish} is not supported: {remedy}")
    if given.get("mode", "elastic") != "elastic":
        raise Problem(501, "NotSupported", "only elastic deployments are supported: each execution has its own pods")
    name, pipeline = given.get("name"), given.get("pipeline_name")
    if not isinstance(name, str) or not isinstance(pipeline, str):
        raise Problem(422, "Invalid", "name and pipeline_name must be given")
    inputs, outputs = shapes.bindings(given.get("inputs_mapping"), given.get("outputs_mapping"))
    spec: JsonObject = {"pipeline": {"name": pipeline}}
    if rule == "endpoint":
        spec["endpoint"] = {"path": given.get("endpoint_url_path") or name}
    else:
        spec["schedule"] = {"cron": given.get("schedule") or ""}
    spec |= {"inputs": [each.manifest() for each in inputs]} if inputs else {}
    spec |= {"outputs": [each.manifest() for each in outputs]} if outputs else {}
    notes = {"penstock.dev/description": given["description"]} if given.get("description") else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": place, "annotations": notes},
        "spec": spec,
    }


_INSTEAD = {
    "ram_request": "the pipeline's steps say what they need (resources)",
    "gpu_request": "the pipeline's steps say what they need (resources)",
    "execution_timeout_s": "the pipeline says how long it may take (timeoutSeconds)",
    "endpoint_token": "put your own token into a Secret and name it (spec.endpoint.tokenSecret)",
}


def _changed(router: APIRouter, cluster: Cluster, environment: Callable[..., str]) -> None:
    @router.patch("/deployments/{name}")
    async def update(request: Request, name: str, asks: Who, place: str = Depends(environment)) -> dict[str, Any]:
        """Switch a deployment on or off, or change its schedule."""
        call = calls.Call()
        await calls.read(request, {}, None, calls.MAX_BODY, call)
        unknown = set(call.values) - {"is_enabled", "schedule"}
        if unknown:
            raise Problem(
                501, "NotSupported", f"{', '.join(sorted(unknown))}: change mappings in the manifest, and apply it"
            )
        change: JsonObject = {}
        if "is_enabled" in call.values:
            change["suspend"] = not call.values["is_enabled"]
        if "schedule" in call.values:
            change["schedule"] = {"cron": call.values["schedule"]}
        body = await cluster.acting(asks, lambda client, _: client.patch(DEPLOYMENTS, name, place, {"spec": change}))
        return shapes.deployment(body, await _token(cluster, asks, body))

    @router.delete("/deployments/{name}")
    async def delete(name: str, asks: Who, place: str = Depends(environment)) -> dict[str, str]:
        """Delete a deployment, and its executions with it."""
        body = await one(cluster, asks, DEPLOYMENTS, place, name)
        await cluster.acting(
            asks, lambda client, _: client.delete(DEPLOYMENTS, name, place, uid=body["metadata"]["uid"])
        )
        return {"name": name, "execution_rule": "endpoint" if body["spec"].get("endpoint") else "periodic"}

    @router.post("/endpoints/{name}/generate-new-token")
    async def rotate(
        request: Request, name: str, asks: Who, place: str = Depends(environment)
    ) -> dict[str, str | None]:
        """Make a new token; the old one ends at once, as clients of this API expect."""
        call = calls.Call()
        await calls.read(request, {}, None, calls.MAX_BODY, call, lax=True)
        if call.values.get("endpoint_token"):
            raise Problem(501, "NotSupported", f"endpoint_token is not supported: {_INSTEAD['endpoint_token']}")
        wanted = secrets.token_hex(8)
        notes = {ROTATE_ANNOTATION: wanted, OVERLAP_ANNOTATION: "0"}
        body = await cluster.acting(
            asks, lambda client, _: client.patch(DEPLOYMENTS, name, place, {"metadata": {"annotations": notes}})
        )
        if not body["spec"].get("endpoint"):
            raise Problem(422, "Invalid", f'the deployment "{name}" has no endpoint')
        body = await _settled(cluster, asks, body, lambda now: _endpoint(now).get("rotation") == wanted)
        if _endpoint(body).get("rotation") != wanted:
            raise Problem(
                503, "NotYet", "the operator has not made the token yet; see get_deployment", {"Retry-After": "5"}
            )
        token = await _token(cluster, asks, body)
        if token is None:
            raise Problem(403, "Forbidden", "there is a new token, in a Secret that you may not read")
        return {"endpoint_token": token}


def _triggered(router: APIRouter, service: Service, cluster: Cluster, environment: Callable[..., str]) -> None:
    @router.post("/deployments/{name}/executions")
    async def trigger(
        request: Request,
        name: str,
        asks: Who,
        idempotency_key: IdempotencyKey = None,
        place: str = Depends(environment),
    ) -> dict[str, str]:
        """Call an endpoint without its token: with the right to create executions."""
        await cluster.require(asks, "create", place)
        served = service.backend.deployment(place, name)
        if served is None:
            raise Problem(404, "NotFound", f'there is no deployment "{name}" with an endpoint in namespace "{place}"')
        started = await start(request, service, served, idempotency_key)
        return {"execution_id": started.name}


async def _settled(cluster: Cluster, asks: Caller, body: JsonObject, good: Callable[[JsonObject], bool]) -> JsonObject:
    """A deployment as soon as something holds, or as it is after a while."""
    meta = body["metadata"]
    last = [body]

    async def follow(client: Client, transport: Transport) -> None:
        async with aclosing(versions(client, transport, DEPLOYMENTS, meta["name"], meta["namespace"])) as seen:
            async for last[0] in seen:
                if good(last[0]):
                    return

    try:
        async with asyncio.timeout(_SETTLES_SECONDS):
            await cluster.acting(asks, follow)
    except TimeoutError:
        pass  # it is shown as it is
    return last[0]


def _endpoint(body: JsonObject) -> JsonObject:
    found: JsonObject = (body.get("status") or {}).get("endpoint") or {}
    return found


def _has_token(body: JsonObject) -> bool:
    return not body["spec"].get("endpoint") or bool(_endpoint(body).get("tokens"))


async def _token(cluster: Cluster, asks: Caller, body: JsonObject) -> str | None:
    """The token of an endpoint, if who asks may read the Secret that holds it; the gateway may not."""
    endpoint = body["spec"].get("endpoint")
    if not endpoint:
        return None
    meta = body["metadata"]
    name = endpoint.get("tokenSecret") or token_secret(meta["name"])
    try:
        secret = await cluster.acting(asks, lambda client, _: client.get(SECRETS, name, meta["namespace"]))
        return base64.b64decode(secret["data"][KEY]).decode()
    except (Forbidden, NotFound, KeyError, ValueError):
        return None
