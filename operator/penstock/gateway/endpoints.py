"""Endpoints over HTTP: `POST <environment>/endpoints/<path>`, and the results of what that has started.

An environment is a namespace. Callers have the endpoint's token and nothing else. Two ways to wait: redirects, each of
which is answered after at most 25 seconds (what `curl -L` and every HTTP library follow by themselves), and `?wait=30`,
one request that is answered with the results, or with 202 where they are not there yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from penstock.controller.serving import Served
from penstock.engine.types import File, Value
from penstock.gateway import calls
from penstock.gateway.answers import ID_HEADER, ErrorBody, answer, file_answer
from penstock.gateway.problems import Problem
from penstock.gateway.service import Result, Service, Started

NAMESPACE = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
PREFIX = "/environments/{namespace}"
"""Where the environments of a gateway are that serves many."""
_SCHEME = "endpointtoken"

Namespace = Annotated[str, Path(pattern=NAMESPACE, description="The environment: a namespace.")]
EndpointPath = Annotated[str, Path(description="Path of the endpoint.", max_length=200)]
ExecutionName = Annotated[str, Path(description="The execution.", max_length=253)]
Wait = Annotated[
    float | None,
    Query(ge=0, description="Seconds to wait in this request, instead of being redirected; 0: not at all."),
]
Token = Annotated[
    str | None,
    Query(description="The endpoint's token, for who cannot send a header.", include_in_schema=False),
]
IdempotencyKey = Annotated[str | None, Header(description="One execution for each key, however often it is sent.")]
Shape = Literal["plain", "v1"]


class Accepted(BaseModel, use_attribute_docstrings=True):
    """An execution that is under way."""

    execution_id: str
    """Its name, for asking for its results."""


class Outputs(BaseModel, use_attribute_docstrings=True):
    """The results of an execution."""

    outputs: dict[str, Any]
    """By name. Of a file: `url`, where to get it with the same token."""


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ErrorBody, "description": _MEANINGS[code]} for code in codes}


_MEANINGS = {
    400: "The request cannot be read.",
    401: "There is no token.",
    403: "The token is wrong, or there is no such endpoint.",
    404: "There is no such execution or output.",
    409: "The deployment cannot run, or its execution was cancelled.",
    413: "The request, or its values together, are too large.",
    415: "Neither JSON nor a form.",
    422: "Inputs are unknown, missing or of the wrong type, or an idempotency key was used for other inputs.",
    423: "The deployment is suspended.",
    429: "Too many calls; Retry-After says when to come again.",
    500: "The execution has failed; the message is its own.",
    503: "Not now; Retry-After says when to come again.",
    507: "The store is full.",
}
_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Outputs,
        "description": "The results; a single file as it is.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    202: {"model": Accepted, "description": "With `wait`: it is under way, ask again."},
    303: {"model": Accepted, "description": "It is under way: `Location` gives the results, or redirects again."},
}
_BODY = {
    "requestBody": {
        "description": "The inputs by name; none: nothing at all. In a form, values are JSON and files are files.",
        "content": {
            "application/json": {"schema": {"type": "object", "additionalProperties": True}},
            "multipart/form-data": {"schema": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
    }
}
_SECURITY: list[dict[str, list[str]]] = [{"endpointToken": []}]
_TOKEN_ALSO: list[dict[str, list[str]]] = [*_SECURITY, {"endpointTokenInQuery": []}]


def install(api: FastAPI, service: Service, namespace: str | None = None) -> None:
    """Add the routes.

    Args:
        api: the application.
        service: what is served.
        namespace: the one environment, which has no path of its own; None: all, each under `/environments/<name>`.
    """
    router = APIRouter(prefix="" if namespace is not None else PREFIX, tags=["endpoints"])
    environment = any_environment if namespace is None else fixed(namespace)
    _results_routes(router, service, environment)
    _call_routes(router, service, environment)
    api.include_router(router)


def any_environment(namespace: Namespace) -> str:
    """The environment that a path names."""
    return namespace


def fixed(namespace: str) -> Callable[[], str]:
    """The one environment that there is."""
    return lambda: namespace


async def start(request: Request, service: Service, served: Served, key: str | None) -> Started:
    """Start an execution for a call; where nothing comes of it, the files that it has brought go again.

    Args:
        request: the call.
        service: what is served.
        served: the deployment.
        key: the caller's idempotency key.

    Raises:
        Problem: the call cannot be read, or no execution can be started for it.
    """
    pipeline, types = await service.interface(served)
    data = service.data(served.namespace)
    async with service.receiving(served.namespace) as sent:
        try:
            await calls.read(request, types, data, service.settings.max_call_bytes, sent)
        except ClientDisconnect:
            raise Problem(400, "Incomplete", "the connection ended before the request did") from None
        started = await service.trigger(served, pipeline, sent, key)
    if started.replayed:
        await service.discard(served.namespace, sent)
    return started


def _call_routes(router: APIRouter, service: Service, environment: Callable[..., str]) -> None:
    async def call(
        request: Request,
        path: EndpointPath,
        wait: Wait = None,
        idempotency_key: IdempotencyKey = None,
        place: str = Depends(environment),
    ) -> Response:
        """Start an execution, with inputs by name, and be led to its results."""
        served = service.enter(place, path, _header_token(request))
        started = await start(request, service, served, idempotency_key)
        headers = {ID_HEADER: started.name} | ({"Idempotent-Replayed": "true"} if started.replayed else {})
        named = request.url.path.rstrip("/").rsplit("/", 2)[-2] == "endpoints"
        location = f"{'' if named else 'endpoints/'}{path}/executions/{started.name}"
        if wait is not None:
            return await _whole(request, service, served, started.name, wait, location)
        return answer(request, {"execution_id": started.name}, 303, headers | {"Location": location})

    described: dict[str, Any] = {
        "response_model": None,
        "status_code": 303,
        "responses": _RESULTS | _errors(400, 401, 403, 404, 409, 413, 415, 422, 423, 429, 500, 503, 507),
        "openapi_extra": _BODY | {"security": _SECURITY},
    }
    router.add_api_route(
        "/endpoints/{path}", call, methods=["POST"], name="call", operation_id="call_endpoint", **described
    )
    router.add_api_route(
        "/{path}", call, methods=["POST"], name="call", operation_id="call_endpoint_short", **described
    )


def _results_routes(router: APIRouter, service: Service, environment: Callable[..., str]) -> None:
    errors = _errors(400, 401, 403, 404, 409, 422, 500, 503)

    def results(shape: Shape) -> Callable[..., Any]:
        async def get(
            request: Request,
            path: EndpointPath,
            execution: ExecutionName,
            token: Token = None,
            wait: Wait = None,
            place: str = Depends(environment),
        ) -> Response:
            """The results of an execution; while it is under way, a redirect to here that is answered late."""
            served = service.enter(place, path, _header_token(request) or token)
            if wait is not None:
                return await _whole(request, service, served, execution, wait, _here(request, execution), shape)
            found = await service.look(served, execution, service.settings.poll_seconds)
            if found.body is not None and found.over:
                return await _given(request, service, served, service.result(found.body), shape)
            headers = {ID_HEADER: execution, "Location": _here(request, execution)}
            return answer(request, {"execution_id": execution}, 303, headers)

        return get

    for prefix, shape, name in (("/endpoints/v1", "v1", "v1"), ("/endpoints", "plain", "")):
        described: dict[str, Any] = {
            "response_model": None,
            "responses": _RESULTS | errors,
            "openapi_extra": {"security": _TOKEN_ALSO},
        }
        handler = results(shape)  # type: ignore[arg-type]
        route = prefix + "/{path}/executions/{execution}"
        router.add_api_route(route, handler, methods=["GET"], operation_id=f"get_results{name}", **described)
        # `curl -X POST -L` follows redirects with POST.
        router.add_api_route(route, handler, methods=["POST"], include_in_schema=False, **described)

    @router.get(
        "/endpoints/{path}/executions/{execution}/outputs/{output}",
        response_model=None,
        responses=_errors(400, 401, 403, 404, 409, 422, 500, 503)
        | {200: {"description": "The file, or the value as JSON.", "content": {"application/octet-stream": {}}}},
        openapi_extra={"security": _TOKEN_ALSO},
    )
    async def output(
        request: Request,
        path: EndpointPath,
        execution: ExecutionName,
        output: Annotated[str, Path(description="The output.", max_length=253)],
        token: Token = None,
        place: str = Depends(environment),
    ) -> Response:
        """One output of an execution that is over."""
        served = service.enter(place, path, _header_token(request) or token)
        found = await service.look(served, execution, 0)
        if found.body is None or not found.over:
            raise Problem(409, "NotFinished", f'execution "{execution}" is still under way', {"Retry-After": "1"})
        result = service.result(found.body)
        if output not in result.outputs:
            known = ", ".join(result.outputs) or "it has none"
            raise Problem(404, "UnknownOutput", f'execution "{execution}" has no output "{output}": {known}')
        value = result.outputs[output]
        if isinstance(value, File):
            return file_answer(value, await service.open(served.namespace, value), execution, output)
        return answer(request, {"value": _plain(value)})


async def _whole(
    request: Request,
    service: Service,
    served: Served,
    execution: str,
    wait: float,
    location: str,
    shape: Shape = "plain",
) -> Response:
    """One request that is answered with the results, or with 202."""
    found = await service.look(served, execution, min(wait, service.settings.max_wait_seconds))
    if found.body is not None and found.over:
        return await _given(request, service, served, service.result(found.body), shape)
    return answer(request, {"execution_id": execution}, 202, {ID_HEADER: execution, "Location": location})


async def _given(request: Request, service: Service, served: Served, result: Result, shape: Shape) -> Response:
    outputs = result.outputs
    if shape == "plain" and len(outputs) == 1:
        ((name, value),) = outputs.items()
        if isinstance(value, File):
            return file_answer(value, await service.open(served.namespace, value), result.execution, name)
    base = _address(request, service.settings.public_url, result.execution)
    shown = {name: _shown(value, f"{base}/outputs/{name}", shape) for name, value in outputs.items()}
    return answer(request, {"outputs": shown, "execution_id": result.execution}, 200, {ID_HEADER: result.execution})


def _shown(value: Value, url: str, shape: Shape) -> Any:
    if isinstance(value, File):
        return {"url": url}
    return {"value": _plain(value)} if shape == "v1" else _plain(value)


def _plain(value: Value) -> Any:
    """A value as JSON; of the files of a fan-out, which endpoints do not hand on one by one, what is known."""
    if isinstance(value, File):
        return {"sha256": value.sha256, "size": value.size, "folder": value.folder}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _address(request: Request, public_url: str, execution: str) -> str:
    """The URL of an execution's results, as callers reach us."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    head = path.split("/endpoints/", 1)[0] if "/endpoints/" in path else path.rsplit("/", 1)[0]
    endpoint: Mapping[str, str] = request.path_params
    base = public_url or str(request.base_url).rstrip("/")
    return f"{base}{head}/endpoints/{endpoint['path']}/executions/{execution}"


def _here(request: Request, execution: str) -> str:
    """Once more here, relative, because nobody knows what is in front of us. The token stays where it was given."""
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "again"]
    again = request.query_params.get("again", "0")
    count = int(again) + 1 if again.isdigit() and len(again) < 10 else 1
    return f"{execution}?{urlencode([*pairs, ('again', str(count))])}"


def _header_token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == _SCHEME and token.strip() else None
