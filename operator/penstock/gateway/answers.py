"""Answers as the dialects of the endpoints give them: errors with a message, values as JSON, files as bytes."""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from penstock.engine.types import File
from penstock.gateway.problems import Problem
from penstock.storage.objects import Download

_LOG = logging.getLogger("penstock.gateway")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

ID_HEADER = "Craft-Ai-Execution-Id"
PRIVATE = {"Cache-Control": "no-store"}
"""Results are for who has asked."""


class ErrorBody(BaseModel, use_attribute_docstrings=True):
    """An answer that is no success."""

    message: str
    """What is wrong and what to do, for people."""
    name: str
    """A word for programs."""
    request_id: str
    """Names this request in the gateway's log; the caller's own `X-Request-Id`, if there was one."""
    additional_data: dict[str, Any] | None = None
    """What else there is, such as `execution_id`."""


class Json(JSONResponse):
    """JSON in ASCII: values may hold halves of characters, which only escapes can say."""

    def render(self, content: Any) -> bytes:
        """The bytes of a value."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def request_id(request: Request) -> str:
    """What this request is called in the log."""
    found: str | None = getattr(request.state, "request_id", None)
    if found is None:
        given = request.headers.get("x-request-id", "")
        found = request.state.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    return found


def error(request: Request, problem: Problem) -> Response:
    """An error, as clients of this protocol read it."""
    name = request_id(request)
    if problem.status >= 500 and not problem.reason.startswith("Execution"):
        _LOG.warning("request %s: %d %s: %s", name, problem.status, problem.reason, problem)
    body: dict[str, Any] = {"message": str(problem), "name": problem.reason, "request_id": name}
    headers = PRIVATE | {"X-Request-Id": name} | problem.headers
    if problem.data:
        body["additional_data"] = problem.data
        if "execution_id" in problem.data:
            body["execution_id"] = problem.data["execution_id"]
            headers[ID_HEADER] = body["execution_id"]
    return JSONResponse(body, problem.status, headers)


def answer(
    request: Request, content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON."""
    return JSONResponse(dict(content), status, PRIVATE | {"X-Request-Id": request_id(request)} | dict(headers or {}))


def file_answer(file: File, download: Download, execution: str, output: str) -> Response:
    """The content of a file; a folder is a compressed tar. Its name is what clients take apart."""
    name = f"{'archive' if file.folder else 'file'}_{execution}_{output}"
    headers = PRIVATE | {
        # Without quotes: clients take all that follows the execution for the output.
        "Content-Disposition": f"attachment; filename={name}",
        "Content-Length": str(download.stat.size),
        "X-Content-Type-Options": "nosniff",
        ID_HEADER: execution,
        "Execution-Id": execution,
    }
    return StreamingResponse(_chunks(download), 200, headers, media_type="application/octet-stream")


async def _chunks(download: Download) -> AsyncIterator[bytes]:
    async for chunk in download:
        yield bytes(chunk)
