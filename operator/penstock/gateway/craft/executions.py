"""Executions for the `craft-ai-sdk`: shown, waited for, and their inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from penstock.api.base import PipelineRef
from penstock.api.labels import DEPLOYMENT
from penstock.api.pipeline import PipelineSpec
from penstock.controller.serving import finished
from penstock.engine.status import load_value
from penstock.engine.types import File
from penstock.gateway.access import Cluster
from penstock.gateway.answers import PRIVATE, file_answer
from penstock.gateway.craft import shapes
from penstock.gateway.craft.common import Who, one
from penstock.gateway.endpoints import Wait
from penstock.gateway.problems import Problem
from penstock.gateway.service import Service
from penstock.kube.resources import EXECUTIONS
from penstock.step.values import JsonObject
from penstock.storage.paths import data_key


def install(router: APIRouter, service: Service, cluster: Cluster, environment: Callable[..., str]) -> None:
    """Add the routes."""
    _whole(router, service, cluster, environment)
    _waited(router, service, cluster, environment)
    _values(router, service, cluster, environment)


async def _spec_of(service: Service, body: JsonObject) -> PipelineSpec | None:
    reference = body["spec"].get("pipeline")
    if reference is None:
        return PipelineSpec.model_validate(body["spec"]["pipelineSpec"])
    return await service.backend.pipeline(body["metadata"]["namespace"], PipelineRef.model_validate(reference))


def _whole(router: APIRouter, service: Service, cluster: Cluster, environment: Callable[..., str]) -> None:
    @router.get("/executions/{name}")
    async def execution(
        name: str, asks: Who, include_io_values: bool = True, place: str = Depends(environment)
    ) -> dict[str, Any]:
        """An execution, with its inputs and outputs."""
        body = await one(cluster, asks, EXECUTIONS, place, name)
        owner = (body["metadata"].get("labels") or {}).get(DEPLOYMENT)
        found = service.backend.deployment(place, owner) if owner else None
        started_by = None if found is None else found.spec
        return shapes.execution(body, await _spec_of(service, body), started_by, values=include_io_values)

    @router.delete("/executions/{name}")
    async def delete(name: str, asks: Who, place: str = Depends(environment)) -> dict[str, str]:
        """Delete an execution."""
        if not await cluster.acting(asks, lambda client, _: client.delete(EXECUTIONS, name, place)):
            raise Problem(404, "NotFound", f'there is no execution "{name}" in namespace "{place}"')
        return {"execution_id": name}


def _waited(router: APIRouter, service: Service, cluster: Cluster, environment: Callable[..., str]) -> None:
    @router.get("/executions/{name}/outputs", response_model=None)
    async def outputs(
        name: str,
        asks: Who,
        wait_for_completion: bool = False,
        wait_for_results: bool = False,
        wait: Wait = None,
        place: str = Depends(environment),
    ) -> Response:
        """The outputs of an execution. Who waits gets 307 while it is under way: ask again."""
        await cluster.require(asks, "get", place)
        waits = wait_for_completion or wait_for_results
        seconds = min(service.settings.poll_seconds if wait is None else wait, service.settings.max_wait_seconds)
        with service.metrics.waiting.track_inprogress():
            found = await service.backend.wait(place, name, None, seconds if waits else 0.0)
        if not found.there:
            raise Problem(404, "NotFound", f'there is no execution "{name}" in namespace "{place}"')
        if found.body is None or not finished(found.body):
            if waits:
                return JSONResponse(
                    {"execution_id": name}, 307, PRIVATE | {"Location": "outputs?wait_for_completion=true"}
                )
            return JSONResponse({"outputs": []}, 200, PRIVATE)
        service.result(found.body)
        return JSONResponse({"outputs": shapes.outputs(found.body, await _spec_of(service, found.body))}, 200, PRIVATE)


def _values(router: APIRouter, service: Service, cluster: Cluster, environment: Callable[..., str]) -> None:
    @router.get("/executions/{name}/outputs/{output}", response_model=None)
    async def one_output(name: str, output: str, asks: Who, place: str = Depends(environment)) -> Response:
        """One output: a file as it is, anything else as JSON."""
        status = (await one(cluster, asks, EXECUTIONS, place, name)).get("status") or {}
        entry = next((each for each in status.get("outputs") or () if each["name"] == output), None)
        if entry is None:
            raise Problem(404, "NotFound", f'execution "{name}" has no output "{output}"')
        value = load_value(entry)
        if isinstance(value, File):
            return file_answer(value, await service.open(place, value), name, output)
        return JSONResponse(entry.get("value"), 200, PRIVATE)

    @router.get("/executions/{name}/inputs/{given}", response_model=None)
    async def one_input(name: str, given: str, asks: Who, place: str = Depends(environment)) -> Response:
        """One input: a file as it is, anything else as JSON."""
        inputs = (await one(cluster, asks, EXECUTIONS, place, name))["spec"].get("inputs") or ()
        entry = next((each for each in inputs if each["name"] == given), None)
        if entry is None:
            raise Problem(404, "NotFound", f'execution "{name}" was given no input "{given}"')
        if "object" not in entry:
            return JSONResponse(entry.get("value"), 200, PRIVATE)
        if service.store is None:
            raise Problem(409, "NoStore", "this installation has no object store")
        download = await service.store.get(data_key(place, entry["object"]))
        return file_answer(File(entry["object"], "", download.stat.size), download, name, given)
