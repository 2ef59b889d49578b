"""Requests and answers of an API server, and what is refused: `Status` objects in the words of the Kubernetes API.

Clients read those words; messages about manifests are our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.api.problems import Problem
from penstock.local.views import compact

JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request.

    Attributes:
        method: HTTP method.
        path: from the server's root, quoted.
        params: query parameters.
        body: the body.
        content_type: of the body.
        accept: what answers are wanted.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = "application/json"
    accept: str = "application/json"


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """An answer.

    Attributes:
        status: HTTP status.
        body: the body.
        headers: what is said of it.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


class Refusal(Exception):  # noqa: N818 - an answer
    """A request that is not done.

    Args:
        status: HTTP status.
        reason: Kubernetes' word for it.
        message: for people.
        details: what it is about.
    """

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details = dict(details or {})

    def body(self) -> dict[str, Any]:
        """The `Status` object."""
        found: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.status,
        }
        return found | {"details": self.details} if self.details else found

    @property
    def answer(self) -> ApiAnswer:
        """The answer."""
        return ApiAnswer(self.status, compact(self.body()).encode("ascii"))


@dataclass(frozen=True, slots=True)
class About:
    """The object that a request is about.

    Attributes:
        group: its API group; empty for the core group.
        plural: its kind as it stands in paths.
        name: its name; empty where there is none yet.
    """

    group: str
    plural: str
    name: str = ""

    @property
    def words(self) -> str:
        """Kind and name as API servers write them."""
        kind = f"{self.plural}.{self.group}" if self.group else self.plural
        return f'{kind} "{self.name}"'

    def details(self, **more: Any) -> dict[str, Any]:
        """`details` of a `Status`."""
        found = {"name": self.name, "group": self.group, "kind": self.plural, **more}
        return {key: value for key, value in found.items() if value}


def not_found(about: About) -> Refusal:
    """There is no such object."""
    return Refusal(404, "NotFound", f"{about.words} not found", about.details())


def nowhere() -> Refusal:
    """There is nothing at this path."""
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def exists(about: About) -> Refusal:
    """There is an object with this name."""
    return Refusal(409, "AlreadyExists", f"{about.words} already exists", about.details())


def conflict(about: About, why: str) -> Refusal:
    """The object is not the one that was meant."""
    message = f"Operation cannot be fulfilled on {about.words}: {why}"
    return Refusal(409, "Conflict", message, about.details())


def not_newest(about: About) -> Refusal:
    """The resource version that was given is not the newest."""
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(about, why)


def other_uid(about: About, wanted: object, found: str) -> Refusal:
    """Another object has this name."""
    return conflict(about, f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}")


def contested(about: About, causes: Iterable[tuple[str, str]]) -> Refusal:
    """Other managers own fields.

    Args:
        about: the object.
        causes: manager and path of each field.
    """
    listed = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": path}
        for manager, path in causes
    ]
    told = "; ".join(f"{each['message']}: {each['field']}" for each in listed)
    message = f"Apply failed with {len(listed)} conflict{'' if len(listed) == 1 else 's'}: {told}"
    return Refusal(409, "Conflict", message, {"causes": listed})


def invalid(about: About, kind: str, problems: Iterable[Problem]) -> Refusal:
    """The object is not right.

    Args:
        about: the object.
        kind: its kind.
        problems: what is wrong.
    """
    found = list(problems)
    causes = [
        {
            "reason": "FieldValueInvalid",
            "message": each.sentence().removeprefix(f"{each.path}: ") if each.path else each.message,
            "field": each.path or ".".join(map(str, each.loc)) or "<object>",
        }
        for each in found
    ]
    named = f"{kind}.{about.group}" if about.group else kind
    said = [each.sentence() for each in found]
    told = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    details = {**about.details(causes=causes), "kind": kind}
    return Refusal(422, "Invalid", f'{named} "{about.name}" is invalid: {told}', details)


def bad_request(message: str) -> Refusal:
    """The request makes no sense."""
    return Refusal(400, "BadRequest", message)


def not_allowed(message: str) -> Refusal:
    """This cannot be done to this kind."""
    return Refusal(405, "MethodNotAllowed", message)


def gone(message: str) -> Refusal:
    """A resource version is too old, or not of this home."""
    return Refusal(410, "Expired", message)
