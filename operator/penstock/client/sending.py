"""How requests of the SDK are sent: with httpx, waiting for each in the thread or in the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import httpx

from penstock import __version__
from penstock.client.errors import ConnectionFailed
from penstock.client.wire import Answer, Pause, Request, Steps

T = TypeVar("T")
_Outcome: TypeAlias = Answer | ConnectionFailed | None

_HEADERS = {"User-Agent": f"penstock-client/{__version__}"}
_CHUNK = 1 << 20


class Sender:
    """Drives operations in a thread.

    Args:
        timeout: seconds to connect, and to wait for each piece of an answer.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._http = httpx.Client(headers=_HEADERS, follow_redirects=False)

    def drive(self, steps: Steps[T]) -> T:
        """Do what an operation asks for, until it gives its result."""
        outcome: _Outcome = None
        while True:
            try:
                step = _go_on(steps, outcome)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
                continue
            try:
                with _arguments(step, self._timeout) as arguments:
                    found = self._http.request(**arguments)
                outcome = _answer(found)
            except httpx.HTTPError as error:
                outcome = _failed(step, error)

    def close(self) -> None:
        """Give connections back."""
        self._http.close()


class AsyncSender:
    """Drives operations in an event loop; see `Sender`."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._http = httpx.AsyncClient(headers=_HEADERS, follow_redirects=False)

    async def drive(self, steps: Steps[T]) -> T:
        """Do what an operation asks for, until it gives its result."""
        outcome: _Outcome = None
        while True:
            try:
                step = _go_on(steps, outcome)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
                continue
            try:
                with _arguments(step, self._timeout, asynchronous=True) as arguments:
                    found = await self._http.request(**arguments)
                outcome = _answer(found)
            except httpx.HTTPError as error:
                outcome = _failed(step, error)

    async def close(self) -> None:
        """Give connections back."""
        await self._http.aclose()


def _go_on(steps: Steps[T], outcome: _Outcome) -> Request | Pause:
    """What an operation asks for next, told what became of its last wish; None at its start and after a pause."""
    return steps.throw(outcome) if isinstance(outcome, ConnectionFailed) else steps.send(outcome)


@contextmanager
def _arguments(request: Request, timeout: float, *, asynchronous: bool = False) -> Iterator[dict[str, Any]]:
    """What httpx is given for a request; files that are opened for it are closed after it."""
    opened: list[Any] = []

    def content(file: Any) -> Any:
        found, mine = file.open()
        if mine:
            opened.append(found)
        return found

    arguments: dict[str, Any] = {
        "method": request.method,
        "url": request.url,
        "headers": dict(request.headers),
        "params": dict(request.params) or None,
        "timeout": httpx.Timeout(timeout, read=timeout + request.seconds),
    }
    try:
        if request.json is not None:
            arguments["json"] = request.json
        if request.form is not None:
            arguments["data"] = dict(request.form)
        if request.files:
            arguments["files"] = {name: (file.name, content(file)) for name, file in request.files.items()}
        if request.content is not None:
            whole = content(request.content)
            arguments["content"] = _pieces(whole) if asynchronous and not isinstance(whole, bytes) else whole
        yield arguments
    finally:
        for file in opened:
            file.close()


async def _pieces(file: Any) -> Any:
    while chunk := await asyncio.to_thread(file.read, _CHUNK):
        yield chunk


def _answer(found: httpx.Response) -> Answer:
    return Answer(found.status_code, {name.lower(): value for name, value in found.headers.items()}, found.content)


def _failed(request: Request, error: httpx.HTTPError) -> ConnectionFailed:
    place = request.url.partition("?")[0]
    what = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__
    return ConnectionFailed(f"{request.method} {place}: {what}")
