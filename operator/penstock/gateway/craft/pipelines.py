"""Pipelines for the `craft-ai-sdk`: shown, run, and their executions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from penstock.api.base import API_VERSION, PipelineRef, ValueType
from penstock.api.deployment import DeploymentSpec, Endpoint
from penstock.api.labels import CREATED_BY, TRIGGER
from penstock.api.pipeline import PipelineSpec
from penstock.controller.serving import Served
from penstock.gateway import calls
from penstock.gateway.access import Cluster
from penstock.gateway.binding import bind_call
from penstock.gateway.craft import shapes
from penstock.gateway.craft.common import Who, latest_of, listed, newest_first, one
from penstock.gateway.problems import Problem
from penstock.gateway.service import Service
from penstock.kube.resources import EXECUTIONS, PIPELINES
from penstock.step.values import JsonObject

_FORM_FIELDS = ("json_inputs", "inputs_mapping", "outputs_mapping")


def install(router: APIRouter, service: Service, cluster: Cluster, environment: Callable[..., str]) -> None:
    """Add the routes."""

    @router.get("/pipelines")
    async def pipelines(asks: Who, place: str = Depends(environment)) -> list[dict[str, Any]]:
        """All pipelines."""
        return [
            {
                "pipeline_name": body["metadata"]["name"],
                "created_at": body["metadata"].get("creationTimestamp"),
                "status": shapes.pipeline_status(body),
            }
            for body in await listed(cluster, asks, PIPELINES, place)
        ]

    @router.get("/pipelines/{name}")
    async def pipeline(name: str, asks: Who, place: str = Depends(environment)) -> dict[str, Any]:
        """A pipeline."""
        return shapes.pipeline(await one(cluster, asks, PIPELINES, place, name))

    @router.post("/pipelines/{name}/run")
    async def run(request: Request, name: str, asks: Who, place: str = Depends(environment)) -> dict[str, str]:
        """Run a pipeline: a form with `json_inputs`, mappings as JSON, and a part for each file."""
        spec = PipelineSpec.model_validate((await one(cluster, asks, PIPELINES, place, name))["spec"])
        await cluster.require(asks, "create", place)
        types = {each.name: each.type for each in spec.inputs if each.type is ValueType.FILE}
        fields = types | dict.fromkeys(_FORM_FIELDS, ValueType.JSON)
        async with service.receiving(place) as sent:
            try:
                await calls.read(request, fields, service.data(place), service.settings.max_call_bytes, sent, lax=True)
            except ClientDisconnect:
                raise Problem(400, "Incomplete", "the connection ended before the request did") from None
            given = {field: _field(sent.values.pop(field, None), field) for field in _FORM_FIELDS}
            inputs, outputs = shapes.bindings(given["inputs_mapping"], given["outputs_mapping"])
            sent.values.update(calls.as_object(given["json_inputs"] or {}, "json_inputs"))
            try:
                deployment = DeploymentSpec(
                    pipeline=PipelineRef(name=name), endpoint=Endpoint(path="run"), inputs=inputs, outputs=outputs
                )
            except ValidationError as error:
                raise Problem(422, "BadMapping", str(error)) from None
            bound = await bind_call(
                service.backend, Served(place, name, "", deployment), spec, sent, service.settings.limits
            )
            bound["outputs"] = [each for each in bound.get("outputs", ()) if "endpoint" not in each]
            person = await cluster.person(asks)
            body = {
                "apiVersion": API_VERSION,
                "kind": "Execution",
                "metadata": {
                    "generateName": f"{name[:57].rstrip('-.')}-",
                    "namespace": place,
                    "labels": {TRIGGER: "run"},
                    "annotations": {CREATED_BY: person.name},
                },
                "spec": {"pipeline": {"name": name}, **bound},
            }
            made = await cluster.acting(asks, lambda client, _: client.create(EXECUTIONS, body))
        return {"execution_id": made["metadata"]["name"]}

    @router.get("/pipelines/{name}/executions")
    async def executions(name: str, asks: Who, place: str = Depends(environment)) -> list[dict[str, Any]]:
        """Executions of a pipeline, the newest first."""
        await one(cluster, asks, PIPELINES, place, name)
        found = [body for body in await listed(cluster, asks, EXECUTIONS, place) if _runs(body, name)]
        return [shapes.execution_brief(body) for body in newest_first(found)]

    @router.get("/pipelines/{name}/executions/latest", response_model=None)
    async def latest(name: str, asks: Who, place: str = Depends(environment)) -> Response:
        """The newest execution of a pipeline; null: there is none."""
        found = [body for body in await listed(cluster, asks, EXECUTIONS, place) if _runs(body, name)]
        return latest_of(found)


def _runs(body: JsonObject, pipeline: str) -> bool:
    return (body["spec"].get("pipeline") or {}).get("name") == pipeline


def _field(text: Any, name: str) -> Any:
    """A field of a form that holds JSON in JSON, or JSON."""
    if not isinstance(text, str):
        return text
    return calls.parse(text, name) if text else None
