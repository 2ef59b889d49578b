"""Answers of the API that are no success: problem details as RFC 9457 has them, with a sentence for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from penstock.controller import serving
from penstock.kube import errors as kube
from penstock.storage import errors as storage

MEDIA_TYPE = "application/problem+json"


class ProblemDetails(BaseModel, use_attribute_docstrings=True):
    """An answer that is no success."""

    title: str
    """The status in words."""
    status: int
    """The HTTP status."""
    reason: str
    """A word for programs."""
    detail: str
    """What is wrong and what to do, for people."""


class Problem(Exception):  # noqa: N818 - an answer
    """An answer that is no success: status, a word for programs, a sentence for people, and what else there is."""

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})
        self.data = dict(data or {})


def install(api: FastAPI, answer: Callable[[Request, Problem], Response] | None = None) -> None:
    """Answer every error of an application.

    Args:
        api: the application.
        answer: how; None: with problem details.
    """
    give = answer or (lambda _, problem: _answer(problem))

    async def handle(request: Request, error: Exception) -> Response:
        return give(request, problem_of(error))

    for kind in (
        Problem,
        RequestValidationError,
        HTTPException,
        storage.StoreError,
        kube.ApiError,
        serving.Unavailable,
    ):
        api.add_exception_handler(kind, handle)


def problem_of(error: Exception) -> Problem:
    """What to answer where this went wrong."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            return Problem(422, "Invalid", "; ".join(lines))
        case HTTPException():
            reason = HTTPStatus(error.status_code).phrase.replace(" ", "")
            return Problem(error.status_code, reason, f"{error.detail}; see openapi.json", error.headers)
        case storage.StoreError():
            return _of_store(error)
        case kube.ApiError():
            return _of_cluster(error)
        case serving.Unavailable():
            return Problem(503, "Unavailable", str(error), {"Retry-After": "5"})
    return Problem(500, "InternalError", "the gateway has failed at this request; its log says how")


def _answer(problem: Problem) -> Response:
    content = ProblemDetails(
        title=HTTPStatus(problem.status).phrase, status=problem.status, reason=problem.reason, detail=str(problem)
    )
    # In ASCII: what is repeated of a request may hold halves of characters, which only escapes can say.
    return Response(json.dumps(content.model_dump()), problem.status, problem.headers, media_type=MEDIA_TYPE)


def _of_store(error: storage.StoreError) -> Problem:
    match error:
        case storage.NotFound():
            return Problem(404, "NotFound", str(error))
        case storage.BadObjectPath():
            return Problem(400, "BadPath", str(error))
        case storage.StoreFull():
            return Problem(507, "StoreFull", str(error))
        case storage.StoreRefused():
            return Problem(409, "Refused", str(error))
    return Problem(503, "Unavailable", str(error), {"Retry-After": "5"})


def _of_cluster(error: kube.ApiError) -> Problem:
    match error:
        case kube.Unauthorized():
            return unauthorized("the cluster does not accept this token: it is wrong or has expired")
        case kube.Forbidden():
            return Problem(403, "Forbidden", _said(error))
        case kube.NotFound():
            return Problem(404, "NotFound", _said(error))
        case kube.AlreadyExists() | kube.Conflict():
            return Problem(409, "Conflict", _said(error))
        case kube.Invalid():
            return Problem(422, "Invalid", _said(error))
        case kube.ApiError(status=400):
            return Problem(400, "BadRequest", _said(error))
        case kube.TooLarge():
            return Problem(413, "TooLarge", _said(error))
    return Problem(503, "Unavailable", "the Kubernetes API server does not answer", {"Retry-After": "5"})


def unauthorized(detail: str) -> Problem:
    """Who asks is not known."""
    return Problem(401, "Unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="penstock"'})


def _said(error: kube.ApiError) -> str:
    """The server's own sentence, without the request in front of it."""
    before, mark, text = error.message.partition(f" {error.reason}: ")
    return text if mark and error.reason else before
