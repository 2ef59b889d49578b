"""The REST API of executions: looked up, started, changed, and followed as they change."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from penstock.api import manifest
from penstock.api.base import API_VERSION
from penstock.api.labels import CREATED_BY, TRIGGER
from penstock.controller.serving import finished
from penstock.gateway import live
from penstock.gateway.access import Caller, Cluster, caller
from penstock.gateway.answers import PRIVATE, Json
from penstock.gateway.asking import ExecutionQuery, ExecutionsAsked, only
from penstock.gateway.following import over, streamed, told
from penstock.gateway.history import Executions
from penstock.gateway.problems import Problem
from penstock.kube.client import Client
from penstock.kube.resources import EXECUTIONS
from penstock.step.values import JsonObject

RERUN_OF = "penstock.dev/rerun-of"
"""Annotation of an execution that runs another one again: the name of that one."""
OBJECT = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
Namespace = Annotated[
    str, Path(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="The namespace.", examples=["default"])
]
Name = Annotated[str, Path(pattern=f"^{OBJECT}$", description="Name of the execution.", examples=["iris-x7k2p"])]
StepName = Annotated[str, Path(max_length=63, description="Name of the step.", examples=["train"])]
Who = Annotated[Caller, Depends(caller)]
_REVALIDATED = {"Cache-Control": "private, no-cache"}
_NO_OTHERS = Depends(only())
_PREFIX = 50
"""Longest part of a name that a new one begins with; the server adds five characters."""

_EXECUTION: JsonObject = {
    "apiVersion": API_VERSION,
    "kind": "Execution",
    "metadata": {
        "name": "iris-x7k2p",
        "namespace": "default",
        "uid": "0f6f3f9e-7f3e-4a55-9a3c-0d9f1c0a7a11",
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "labels": {"penstock.dev/trigger": "run"},
    },
    "spec": {"pipeline": {"name": "iris"}, "inputs": [{"name": "rows", "value": 150}]},
    "status": {
        "phase": "Succeeded",
        "revision": "iris-3",
        "progress": "2/2",
        "startedAt": "2026-01-31T12:00:01.020Z",
        "finishedAt": "2026-01-31T12:00:09.500Z",
        "outputs": [{"name": "accuracy", "value": 0.97}],
    },
}
_STEP: JsonObject = {
    "name": "train",
    "phase": "Succeeded",
    "attempts": 1,
    "startedAt": "2026-01-31T12:00:04Z",
    "finishedAt": "2026-01-31T12:00:09Z",
    "exitCode": 0,
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Object(BaseModel):
    """An object as its manifest and `kubectl get -o json` have it."""

    model_config = ConfigDict(
        extra="allow", use_attribute_docstrings=True, json_schema_extra={"examples": [dict(_EXECUTION)]}
    )

    metadata: dict[str, Any]
    """Name, namespace, labels and annotations, as of any Kubernetes object."""
    spec: dict[str, Any]
    """What is wanted; in lists without a pipeline that is written in place."""
    status: dict[str, Any] | None = None
    """What is known of it; in lists without its steps."""
    deletedAt: str | None = None  # noqa: N815 - as objects have their fields
    """When the object was removed; it is in the history alone. Left out where it is there."""


class Objects(_Model):
    """A page of objects."""

    items: list[Object]
    """In the order that was asked for."""
    next: str | None
    """Give it as `after` to get the next page; null: this is the last one."""


class Steps(_Model):
    """Steps of an execution."""

    items: Annotated[list[dict[str, Any]], Field(examples=[[dict(_STEP)]])]
    """As in its status, in their order."""


class Attempt(_Model):
    """One attempt of a step, or of one item of a fan-out."""

    item: int | None = None
    """Index of the item; left out for the step itself."""
    attempt: int
    """Counts from 1."""
    status: Annotated[dict[str, Any], Field(examples=[{"phase": "Retrying", "exitCode": 1}])] | None
    """How the step stood during this attempt, as it was last seen; null: nobody has seen it."""


class Attempts(_Model):
    """Attempts of a step."""

    items: list[Attempt]
    """Those of the step itself first, then those of its items."""


class NewMetadata(_Model):
    """What a new execution is called, and what is noted at it."""

    name: Annotated[str, Field(pattern=f"^{OBJECT}$", examples=["iris-first"])] | None = None
    """Its name; one is made where it is not given."""
    generateName: Annotated[str, Field(max_length=58)] | None = None  # noqa: N815
    """How the name begins that is made."""
    labels: Annotated[dict[str, str], Field(max_length=256, examples=[{"team": "vision"}])] = {}
    """Labels."""
    annotations: Annotated[dict[str, str], Field(max_length=256)] = {}
    """Annotations."""


class NewExecution(_Model):
    """An execution to start, as its manifest has it; all but `spec` may be left out."""

    apiVersion: Literal["penstock.dev/v1alpha1"] = API_VERSION  # noqa: N815
    """Version of the format."""
    kind: Literal["Execution"] = "Execution"
    """Kind of the object."""
    metadata: NewMetadata = NewMetadata()
    """Name, labels and annotations."""
    spec: Annotated[dict[str, Any], Field(examples=[_EXECUTION["spec"]])]
    """What is to be run: docs/reference has its fields."""


class Rerun(_Model):
    """How an execution is to be run again."""

    inputs: Annotated[list[dict[str, Any]], Field(max_length=1_000, examples=[[{"name": "rows", "value": 300}]])] = []
    """Inputs that are to be others, each as in a manifest: `name`, and `value` or `object`."""


_NOT_CHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "It is as `If-None-Match` says."}}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `change`, and at the end `finished`, `deleted` or `error`; data is JSON with the "
        "execution's name, uid, phase, progress, reason, message, startedAt and finishedAt, as far as there are such.",
        "content": {
            "text/event-stream": {
                "example": 'event: change\ndata: {"name": "iris-x7k2p", "phase": "Running", "progress": "1/2"}\n\n',
            }
        },
    }
}


def install(api: FastAPI, cluster: Cluster, executions: Executions, closing: Callable[[], bool]) -> None:
    """Add the routes.

    Args:
        api: where to.
        cluster: decides who may do what.
        executions: those that there are and were.
        closing: whether nobody is to wait any longer.
    """
    _reading(api, executions)
    _steps(api, executions)
    _starting(api, cluster, executions)
    _changing(api, cluster)
    _following(api, cluster, executions, closing)


def _reading(api: FastAPI, executions: Executions) -> None:
    @api.get(
        "/namespaces/{namespace}/executions",
        response_model=Objects,
        dependencies=[Depends(only(of=ExecutionQuery))],
        tags=["executions"],
    )
    async def list_executions(namespace: Namespace, who: Who, request: Request, asked: ExecutionsAsked) -> Response:
        """Executions of a namespace, those that are over and gone included if a history is kept.

        Without one they are those that the cluster has, of at most 10,000. Needs `list` of executions.
        """
        page = await executions.page(who, namespace, asked)
        return paged(request, list(page.items), page.after)

    @api.get(
        "/namespaces/{namespace}/executions/{name}",
        response_model=Object,
        responses=_NOT_CHANGED,
        dependencies=[_NO_OTHERS],
        tags=["executions"],
    )
    async def get_execution(namespace: Namespace, name: Name, who: Who, request: Request) -> Response:
        """An execution with its steps: as it is, or where its object was removed, as it was. Needs `get` of it."""
        found = await executions.one(who, namespace, name)
        headers = _REVALIDATED | {"ETag": found.etag}
        if _has(request, found.etag):
            return Response(status_code=304, headers=headers)
        return Json(found.body, 200, headers)


def _has(request: Request, etag: str) -> bool:
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or etag.removeprefix("W/") in re.findall(r'"[^"]*"', given)


def paged(request: Request, items: list[JsonObject], after: str | None) -> Response:
    """A page, which names the next one."""
    headers = dict(PRIVATE)
    if after is not None:
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "after"]
        headers["Link"] = f'<?{urlencode([*query, ("after", after)])}>; rel="next"'
    return Json({"items": items, "next": after}, 200, headers)


def _steps(api: FastAPI, executions: Executions) -> None:
    @api.get(
        "/namespaces/{namespace}/executions/{name}/steps",
        response_model=Steps,
        dependencies=[_NO_OTHERS],
        tags=["executions"],
    )
    async def list_steps(namespace: Namespace, name: Name, who: Who) -> Response:
        """The steps of an execution, as far as they have begun. Needs `get` of the execution."""
        found = await executions.one(who, namespace, name)
        return Json({"items": list(found.steps)}, 200, PRIVATE)

    @api.get(
        "/namespaces/{namespace}/executions/{name}/steps/{step}/attempts",
        response_model=Attempts,
        dependencies=[_NO_OTHERS],
        tags=["executions"],
    )
    async def list_attempts(namespace: Namespace, name: Name, step: StepName, who: Who) -> Response:
        """The attempts of a step and of its items; of earlier ones the history knows more. Needs `get`."""
        found = await executions.one(who, namespace, name)
        return Json({"items": await executions.attempts(found, step)}, 200, PRIVATE)


def _starting(api: FastAPI, cluster: Cluster, executions: Executions) -> None:
    async def start(who: Caller, namespace: str, meta: JsonObject, spec: JsonObject, above: str) -> Response:
        meta = {**meta, "namespace": namespace}
        body = {"apiVersion": API_VERSION, "kind": EXECUTIONS.kind, "metadata": meta, "spec": spec}
        await asyncio.to_thread(_check, body)
        meta["annotations"] = {**meta.get("annotations", {}), CREATED_BY: (await cluster.person(who)).name}
        made = await cluster.acting(who, lambda client, _: client.create(EXECUTIONS, body))
        return Json(live.shown(made), 201, PRIVATE | {"Location": above + made["metadata"]["name"]})

    @api.post(
        "/namespaces/{namespace}/executions",
        status_code=201,
        response_model=Object,
        dependencies=[_NO_OTHERS],
        tags=["executions"],
    )
    async def create_execution(namespace: Namespace, who: Who, wanted: NewExecution) -> Response:
        """Start an execution. Who asks is noted as its author. Needs `create` of executions."""
        given = wanted.metadata
        meta: JsonObject = {"annotations": given.annotations, "labels": {TRIGGER: "run", **given.labels}}
        pipeline = wanted.spec.get("pipeline")
        of = pipeline.get("name") if isinstance(pipeline, dict) else None
        meta |= {"name": given.name} if given.name else {"generateName": given.generateName or _beginning(of)}
        return await start(who, namespace, meta, wanted.spec, "executions/")

    @api.post(
        "/namespaces/{namespace}/executions/{name}/rerun",
        status_code=201,
        response_model=Object,
        dependencies=[_NO_OTHERS],
        tags=["executions"],
    )
    async def rerun(namespace: Namespace, name: Name, who: Who, changes: Rerun | None = None) -> Response:
        """Run an execution again from its first step, as a new one whose name is in the answer.

        Inputs and the revision of the pipeline are the same, but for `inputs` that are given here. It may be one that
        only the history has. Needs `get` and `create` of executions.
        """
        found = await executions.one(who, namespace, name)
        meta: JsonObject = {
            "generateName": _beginning(found.body["metadata"].get("generateName", "").rstrip("-") or name),
            "labels": {TRIGGER: "run"},
            "annotations": {RERUN_OF: name},
        }
        return await start(who, namespace, meta, _again(found.body, [] if changes is None else changes.inputs), "../")


def _beginning(name: object) -> str:
    return f"{name[:_PREFIX].rstrip('-.')}-" if isinstance(name, str) and name else "execution-"


def _again(body: JsonObject, changes: list[JsonObject]) -> JsonObject:
    """The spec that runs the same again."""
    spec = {key: value for key, value in body["spec"].items() if key not in {"cancel", "suspend"}}
    if pipeline := spec.get("pipeline"):
        number = (body.get("status") or {}).get("revision", "").removeprefix(f"{pipeline['name']}-")
        if number.isascii() and number.isdigit():
            spec["pipeline"] = {**pipeline, "revision": int(number)}
    changed = {str(each.get("name", "")): each for each in changes}
    if len(changed) < len(changes):
        raise Problem(422, "Invalid", "body.inputs: two of them have the same name")
    before = [each for each in spec.get("inputs") or () if each["name"] not in changed]
    if before or changes:
        spec["inputs"] = [*before, *changes]
    return spec


def _check(body: JsonObject) -> None:
    """Make sure that an execution is right as it is written.

    Raises:
        Problem: it is not; says all that is wrong.
    """
    try:
        text = json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError):
        raise Problem(422, "Invalid", "body: holds NaN, Infinity or what is nested too deeply") from None
    wrong = [
        each.sentence() for document in manifest.load(text) for each in document.problems if each.severity == "error"
    ]
    if wrong:
        raise Problem(422, "Invalid", "; ".join(wrong))


def _changing(api: FastAPI, cluster: Cluster) -> None:
    async def change(who: Caller, namespace: str, name: str, spec: JsonObject) -> Response:
        async def work(client: Client) -> JsonObject:
            body = await client.get(EXECUTIONS, name, namespace)
            if finished(body):
                phase = body["status"]["phase"]
                raise Problem(409, "Finished", f'execution "{name}" has finished already, as {phase}')
            return await client.patch(EXECUTIONS, name, namespace, {"spec": spec})

        return Json(live.shown(await cluster.acting(who, lambda client, _: work(client))), 200, PRIVATE)

    def add(what: str, said: str, spec: JsonObject) -> None:
        async def changed(namespace: Namespace, name: Name, who: Who) -> Response:
            return await change(who, namespace, name, spec)

        api.post(
            f"/namespaces/{{namespace}}/executions/{{name}}/{what}",
            name=f"{what}_execution",
            description=f"{said} Needs `get` and `patch` of executions.",
            response_model=Object,
            dependencies=[_NO_OTHERS],
            tags=["executions"],
        )(changed)

    add(
        "cancel",
        "Cancel it: running steps are ended, `finally` steps still run. Cannot be taken back.",
        {"cancel": True},
    )
    add("suspend", "Start nothing new of it; what runs goes on.", {"suspend": True})
    add("resume", "Go on with what was suspended.", {"suspend": False})

    @api.delete(
        "/namespaces/{namespace}/executions/{name}", status_code=204, dependencies=[_NO_OTHERS], tags=["executions"]
    )
    async def delete_execution(namespace: Namespace, name: Name, who: Who) -> Response:
        """Remove an execution and what belongs to it; the history keeps what was. Needs `delete` of executions."""
        if not await cluster.acting(who, lambda client, _: client.delete(EXECUTIONS, name, namespace)):
            raise Problem(404, "NotFound", f'there is no execution "{name}" in namespace "{namespace}"')
        return Response(status_code=204)


def _following(api: FastAPI, cluster: Cluster, executions: Executions, closing: Callable[[], bool]) -> None:
    @api.get(
        "/namespaces/{namespace}/executions/{name}/events",
        response_class=StreamingResponse,
        responses=_STREAM,
        dependencies=[Depends(only("heartbeat"))],
        tags=["executions"],
    )
    async def events(
        namespace: Namespace,
        name: Name,
        who: Who,
        heartbeat: Annotated[
            float, Query(ge=0.1, le=60, description="Seconds without a change after which a comment is sent.")
        ] = 15.0,
    ) -> Response:
        """Phase and progress of an execution as they change, as server-sent events, until it has finished.

        Where the stream ends without `finished` or `deleted`, ask again. Needs `get` and `watch` of executions.
        """
        found = await executions.one(who, namespace, name)
        if not found.live:
            return streamed(over(found.body))
        return streamed(told(cluster, who, namespace, name, heartbeat, closing))
