"""Requests and answers of the SDK, and when a request is made again. No input or output.

An operation is a generator: it yields `Request`s and `Pause`s and is sent `Answer`s, or has `ConnectionFailed` thrown
into it. Whoever drives it decides how they are sent.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from penstock.client.errors import ConnectionFailed, from_answer
from penstock.client.types import FileInput, Retry

T = TypeVar("T")

_AGAIN = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        method: HTTP method.
        url: absolute.
        headers: its headers.
        params: query parameters.
        json: body as JSON; None: there is none.
        form: fields of a form, already text.
        files: files of a form.
        content: body as it is.
        seconds: how long the gateway may take to answer on top of what the client allows.
        idempotent: whether doing it twice does no harm.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] | None = None
    files: Mapping[str, FileInput] = field(default_factory=dict)
    content: FileInput | None = None
    seconds: float = 0.0
    idempotent: bool = True

    @property
    def repeatable(self) -> bool:
        """Whether all that it sends can be sent again."""
        sent = [*self.files.values(), *([] if self.content is None else [self.content])]
        return all(each.repeatable for each in sent)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """The body, which is JSON.

        Raises:
            Unavailable: it is not.
        """
        try:
            return json.loads(self.content)
        except ValueError:
            raise from_answer(self.status, self.content) from None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


Steps: TypeAlias = "Generator[Request | Pause, Answer | None, T]"


def send(request: Request, retry: Retry) -> Steps[Answer]:
    """Make a request, as often as it takes; gives an answer that is a success or a redirect.

    Raises:
        PenstockError: it did not succeed.
    """
    failures = 0
    while True:
        asked: float | None = None
        try:
            answer = yield request
        except ConnectionFailed as error:
            failures += 1
            if not (request.idempotent and request.repeatable) or failures >= retry.tries:
                raise
            del error
        else:
            assert answer is not None  # noqa: S101 - whoever drives gives one for each request
            if answer.status < 400:
                return answer
            error_found = from_answer(answer.status, answer.content)
            failures += 1
            asked = _seconds(answer.headers.get("retry-after"))
            if (
                answer.status not in _AGAIN
                or failures >= retry.tries
                or not request.repeatable
                or (asked or 0) > retry.longest_asked_seconds
            ):
                raise error_found
        backoff = min(retry.max_seconds, retry.base_seconds * 2.0 ** (failures - 1))
        yield Pause(max(asked or 0.0, backoff * (0.5 + 0.5 * random.random())))  # noqa: S311


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.strip().isdigit() else None
