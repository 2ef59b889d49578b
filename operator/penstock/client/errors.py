"""What can go wrong for users of the SDK: one class for each thing that a program may want to tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PenstockError(Exception):
    """Anything that went wrong.

    Attributes:
        message: a sentence for people.
        status: HTTP status of the answer; 0 where there was none.
        name: a word for programs, such as `WrongType`.
        request_id: names the request in the gateway's log; empty where there was no answer.
        execution_id: the execution that this is about, if there is one.
        additional_data: what else the gateway has said.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        name: str = "",
        request_id: str = "",
        execution_id: str | None = None,
        additional_data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.name = name
        self.request_id = request_id
        self.execution_id = execution_id
        self.additional_data = dict(additional_data or {})


class Denied(PenstockError):  # noqa: N818
    """There is no token, it is wrong, or it does not give the right to do this (401, 403)."""


class NotFound(PenstockError):  # noqa: N818
    """There is no such pipeline, deployment, execution or object (404)."""


class InvalidInputs(PenstockError):  # noqa: N818
    """Inputs are unknown, missing or of the wrong type (400, 422)."""


class TooLarge(PenstockError):  # noqa: N818
    """Inputs are too large together; files are exempt (413)."""


class Suspended(PenstockError):  # noqa: N818
    """The deployment takes no calls (423)."""


class TooManyRequests(PenstockError):  # noqa: N818
    """There were too many calls, and trying again did not help (429)."""


class ExecutionFailed(PenstockError):  # noqa: N818
    """The execution has ended without success; the message is its own."""


class Unavailable(PenstockError):  # noqa: N818
    """The gateway or what is behind it does not work now, and trying again did not help (5xx)."""


class ConnectionFailed(PenstockError):  # noqa: N818
    """The gateway cannot be reached, or the connection was lost, and trying again did not help."""


class TimedOut(PenstockError):  # noqa: N818
    """The execution has not ended in the time that was given. It goes on: `execution_id` says which."""


_BY_STATUS: Mapping[int, type[PenstockError]] = {
    400: InvalidInputs,
    401: Denied,
    403: Denied,
    404: NotFound,
    413: TooLarge,
    422: InvalidInputs,
    423: Suspended,
    429: TooManyRequests,
}


def from_answer(status: int, content: bytes) -> PenstockError:
    """The error that an answer stands for."""
    import json  # noqa: PLC0415 - only where something went wrong

    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        start = content[:200].decode("utf-8", "replace")
        return Unavailable(f"this is no gateway of Penstock: it answered {status}: {start!r}", status=status)
    name = str(body.get("name") or body.get("reason") or "")
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else PenstockError)
    if name.startswith("Execution"):
        kind = ExecutionFailed
    return kind(
        str(body.get("message") or body.get("detail") or f"the gateway answered {status}"),
        status=status,
        name=name,
        request_id=str(body.get("request_id") or ""),
        execution_id=body.get("execution_id"),
        additional_data=body.get("additional_data"),
    )
