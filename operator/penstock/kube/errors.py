"""What can go wrong with an API server: one hierarchy, wrapped once, in the client.

What must not live here: retries (`transport`) and what an error means for an execution (whoever made the request).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.controller import ports
from penstock.step.values import JsonObject

_MAX_TEXT = 300
"""How much of an answer that is no `Status` object is repeated in a message, in characters."""


class ApiError(Exception):
    """An API server refused a request, or did not answer it.

    Attributes:
        status: HTTP status; 0 where there was no answer.
        reason: Kubernetes' reason in one word, for example `NotFound`; may be empty.
        message: for people.
        retry_after: seconds that the server asks to wait before the next try; None where it does not say.
        details: `details` of the `Status` object; empty where there were none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        details: JsonObject | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.details: JsonObject = details or {}

    def has_cause(self, reason: str) -> bool:
        """Whether the server gave this as one of the causes, for example `NamespaceTerminating`."""
        causes = self.details.get("causes")
        if not isinstance(causes, Sequence):
            return False
        return any(isinstance(each, Mapping) and each.get("reason") == reason for each in causes)


class Unauthorized(ApiError):  # noqa: N818
    """401: the credentials are not accepted, not even after they were read again."""


class Forbidden(ApiError):  # noqa: N818
    """403: no right to do this, a quota is used up, admission refused, or the namespace is being deleted."""


class NotFound(ApiError):  # noqa: N818
    """404: there is no such object, or no such kind on this server."""


class AlreadyExists(ApiError):  # noqa: N818
    """409 to a create: there is an object with this name."""


class Conflict(ApiError):  # noqa: N818
    """409: the object is not the one that was named by resource version or uid, or another manager owns a field."""


class Gone(ApiError):  # noqa: N818
    """410: the resource version or the list to go on with is too old."""


class Invalid(ApiError):  # noqa: N818
    """422: the object does not fit its schema."""


class TooLarge(ApiError):  # noqa: N818
    """413, or whatever status with which etcd's own refusal is passed on: the object is larger than can be stored."""


class TooManyRequests(ApiError):  # noqa: N818
    """429: the server has too much to do, or an eviction would break a disruption budget."""


class ServerError(ApiError):
    """5xx: the server failed; what was asked may have been done or not."""


class Unreachable(ApiError):  # noqa: N818
    """No answer, or not the whole of it.

    Attributes:
        sent: whether the server may have got the request, and so may have done what was asked.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Fenced(ApiError):  # noqa: N818
    """Not sent: this process does not lead (any more), so it must not write."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


def from_answer(*, what: str, status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The error that an answer is.

    Args:
        what: the request, for example `GET …/pods/x`; begins the message.
        status: HTTP status.
        body: the body: a `Status` object, or whatever a proxy on the way wrote.
        retry_after: the header of that name.
    """
    told = _status_object(body)
    reason = told.get("reason")
    reason = reason if isinstance(reason, str) else ""
    details = told.get("details")
    details = details if isinstance(details, dict) else {}
    message = told.get("message")
    if not isinstance(message, str) or not message:
        message = " ".join(body[: 4 * _MAX_TEXT].decode("utf-8", "replace").split())[:_MAX_TEXT] or "no explanation"
    return _class(status, reason, message)(
        f"{what}: {status} {reason + ': ' if reason else ''}{message}",
        status=status,
        reason=reason,
        retry_after=_seconds(retry_after, details.get("retryAfterSeconds")),
        details=details,
    )


def _status_object(body: bytes) -> JsonObject:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _class(status: int, reason: str, message: str) -> type[ApiError]:
    if status == 413 or "etcdserver: request is too large" in message:
        return TooLarge
    if status == 409:
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    if status >= 500:
        return ServerError
    return _BY_STATUS.get(status, ApiError)


def _seconds(header: str | None, detail: Any) -> float | None:
    """The wait that was asked for; API servers send whole seconds, never a date."""
    for each in (header, detail):
        try:
            seconds = float(each) if each is not None else -1.0
        except (TypeError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def port_error(error: ApiError) -> ports.Conflict | ports.Transient | ApiError:
    """What an error means to the controller; to be raised from the error.

    Returns:
        `ports.Conflict` to read again at once, `ports.Transient` for what heals by itself, and the error itself for
        everything that depends on what was asked (not found, exists, forbidden, invalid): its maker knows better.
    """
    if isinstance(error, Conflict):
        return ports.Conflict(error.message)
    if isinstance(error, TooManyRequests | ServerError | Unreachable | Unauthorized | Gone | Fenced):
        return ports.Transient(error.message, error.retry_after)
    return error
