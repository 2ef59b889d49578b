"""Answers of the API that are no success: problem details as RFC 9457 has them, with a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

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
    """An answer that is no success: status, a word for programs, a sentence for people."""

    def __init__(self, status: int, reason: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


def install(api: FastAPI) -> None:
    """Answer every error of this application with problem details."""
    api.add_exception_handler(Problem, _problem)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(storage.StoreError, _store)
    api.add_exception_handler(kube.ApiError, _kube)


def _answer(problem: Problem) -> Response:
    content = ProblemDetails(
        title=HTTPStatus(problem.status).phrase, status=problem.status, reason=problem.reason, detail=str(problem)
    )
    return JSONResponse(content.model_dump(), problem.status, problem.headers, media_type=MEDIA_TYPE)


def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - for mypy
    return _answer(error)


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for mypy
    lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return _answer(Problem(422, "Invalid", "; ".join(lines)))


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for mypy
    reason = HTTPStatus(error.status_code).phrase.replace(" ", "")
    return _answer(Problem(error.status_code, reason, f"{error.detail}; see /api/v1/openapi.json", error.headers))


def _store(_: Request, error: Exception) -> Response:
    match error:
        case storage.NotFound():
            found = Problem(404, "NotFound", str(error))
        case storage.BadObjectPath():
            found = Problem(400, "BadPath", str(error))
        case storage.StoreFull():
            found = Problem(507, "StoreFull", str(error))
        case storage.StoreRefused():
            found = Problem(409, "Refused", str(error))
        case _:
            found = Problem(503, "Unavailable", str(error), {"Retry-After": "5"})
    return _answer(found)


def _kube(_: Request, error: Exception) -> Response:
    match error:
        case kube.Unauthorized():
            return _answer(unauthorized("the cluster does not accept this token: it is wrong or has expired"))
        case kube.Forbidden():
            return _answer(Problem(403, "Forbidden", _said(error)))
        case kube.NotFound():
            return _answer(Problem(404, "NotFound", _said(error)))
    return _answer(Problem(503, "Unavailable", "the Kubernetes API server does not answer", {"Retry-After": "5"}))


def unauthorized(detail: str) -> Problem:
    """Who asks is not known."""
    return Problem(401, "Unauthorized", detail, {"WWW-Authenticate": 'Bearer realm="penstock"'})


def _said(error: kube.ApiError) -> str:
    """The server's own sentence, without the request in front of it."""
    before, mark, text = error.message.partition(f" {error.reason}: ")
    return text if mark and error.reason else before
