"""What a caller sends to an endpoint: JSON, or a form with files. Files go to the store while they come in.

Nothing is kept on the gateway's disk: a file of any size needs no more memory than one small one.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from penstock.api.base import ValueType
from penstock.gateway.problems import Problem
from penstock.step.values import JsonObject
from penstock.storage.datastore import DataStore

MAX_BODY = 1 << 20
"""Bytes of JSON, or of all values of a form, that are read at all; what counts is checked when they were read."""
_MAX_PARTS = 400
_MAX_HEADERS = 16_384
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Types: TypeAlias = Mapping[str, ValueType]


@dataclass(slots=True)
class Call:
    """What a caller has sent.

    Attributes:
        values: by the names of the endpoint.
        files: paths in the data store of what was uploaded, likewise.
        digests: SHA-256 of each of those files.
    """

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Tells calls apart that ask for different things."""
        text = json.dumps([self.values, self.digests], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


async def read(
    request: Request, types: Types, data: DataStore | None, max_bytes: int, call: Call, *, lax: bool = False
) -> None:
    """Read a call.

    Args:
        request: the request.
        types: inputs of the endpoint and their types.
        data: where files go; None: there is no store.
        max_bytes: how large the body may be in all.
        call: what was read is put there; after an error the caller removes the files that are in it.
        lax: whether fields that are no JSON count as text, and a form without files may come as one line.

    Raises:
        Problem: it cannot be read.
        ClientDisconnect: the connection ended before the body did.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary or len(boundary) > 256:
            raise Problem(
                400, "BadRequest", "the Content-Type names no boundary; leave the header to your HTTP library"
            )
        await _Form(request, boundary, types, data, max_bytes, call, lax).read()
        return
    body = await _body(request, min(max_bytes, MAX_BODY))
    if not body.strip():
        return
    if lax and kind == b"application/x-www-form-urlencoded":
        call.values.update(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        return
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise Problem(
            415,
            "UnsupportedMediaType",
            "send inputs as JSON with the header `Content-Type: application/json`, or files and JSON values as a form "
            "(multipart/form-data)",
        )
    found = parse(body, "the body")
    if not isinstance(found, dict):
        raise Problem(400, "BadRequest", "the body must be a JSON object: the names of the inputs and their values")
    call.values.update(found)


def parse(text: bytes | str, what: str) -> Any:
    """JSON as the standard has it.

    Raises:
        Problem: it is not.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise Problem(400, "BadRequest", f"{what} is nested too deep") from None
    except ValueError as error:
        raise Problem(400, "BadRequest", f"{what} is not JSON: {error}") from None


async def _body(request: Request, limit: int) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > limit:
            raise _too_large(limit)
    return bytes(found)


def _too_large(limit: int) -> Problem:
    return Problem(413, "TooLarge", f"the request is larger than {limit:,} bytes; send large data as files")


_Event: TypeAlias = "tuple[str, bytes]"


class _Form:
    """A form that is read once, from its beginning to its end, part by part."""

    def __init__(
        self,
        request: Request,
        boundary: bytes,
        types: Types,
        data: DataStore | None,
        max_bytes: int,
        call: Call,
        lax: bool,
    ) -> None:
        self._request = request
        self._types, self._data, self._max, self._call, self._lax = types, data, max_bytes, call, lax
        self._events: deque[_Event] = deque()
        self._value_bytes = 0
        add = self._events.append

        def data_of(kind: str) -> Any:
            return lambda content, start, end: add((kind, bytes(content[start:end])))

        def mark(kind: str) -> Any:
            return lambda: add((kind, b""))

        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": mark("begin"),
                "on_header_field": data_of("name"),
                "on_header_value": data_of("value"),
                "on_header_end": mark("header"),
                "on_headers_finished": mark("headers"),
                "on_part_data": data_of("data"),
                "on_part_end": mark("end"),
                "on_end": mark("over"),
            },
        )

    async def read(self) -> None:
        events = self._stream()
        parts = 0
        over = False
        async for kind, _ in events:
            if kind == "begin":
                parts += 1
                if parts > _MAX_PARTS:
                    raise Problem(400, "BadRequest", f"the form has more than {_MAX_PARTS} parts")
                await self._part(events)
            over = over or kind == "over"
        if not over:
            raise Problem(400, "BadRequest", "the form is cut off: its last boundary is missing")

    async def _stream(self) -> AsyncIterator[_Event]:
        received = 0
        async for chunk in self._request.stream():
            received += len(chunk)
            if received > self._max:
                raise _too_large(self._max)
            if not chunk:
                continue
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Problem(400, "BadRequest", f"the form cannot be read: {error}") from None
            while self._events:
                yield self._events.popleft()

    async def _part(self, events: AsyncIterator[_Event]) -> None:
        headers = await _headers(events)
        disposition, options = parse_options_header(headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if disposition != b"form-data" or not name:
            raise Problem(400, "BadRequest", "a part of the form has no name")
        if name in self._call.values or name in self._call.files:
            raise Problem(400, "BadRequest", f'the form has more than one part "{name}"')
        if self._types.get(name) == ValueType.FILE:
            await self._file(name, options.get(b"filename", b"").decode("utf-8", "replace"), events)
        else:
            await self._value(name, b"filename" in options, events)

    async def _value(self, name: str, is_file: bool, events: AsyncIterator[_Event]) -> None:
        if is_file:
            known = f'"{name}" is a {self._types[name]} input' if name in self._types else f'there is no input "{name}"'
            raise Problem(422, "InvalidInputs", f"a file was sent, and {known}; send values without a file name")
        content = bytearray()
        async for chunk in _content(events):
            self._value_bytes += len(chunk)
            if self._value_bytes > MAX_BODY:
                raise _too_large(MAX_BODY)
            content += chunk
        self._call.values[name] = self._understood(name, bytes(content))

    def _understood(self, name: str, content: bytes) -> Any:
        """A value is JSON. For a string input, text that is no JSON string counts as it is: people type it so."""
        text = self._lax or self._types.get(name) == ValueType.STRING
        try:
            found = parse(content, f'the value of "{name}"')
            if not text or self._lax or isinstance(found, str):
                return found
        except Problem:
            if not text:
                raise
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise Problem(400, "BadRequest", f'the value of "{name}" is not UTF-8') from None

    async def _file(self, name: str, filename: str, events: AsyncIterator[_Event]) -> None:
        if self._data is None:
            raise Problem(
                422, "NoStore", f'"{name}" is a file, and this installation has no object store; ask who runs it'
            )
        last = _UNSAFE.sub("_", filename.replace("\\", "/").rsplit("/", 1)[-1]).strip("._")[:100] or "file"
        path = f"uploads/{secrets.token_hex(16)}/{last}"
        self._call.files[name] = path  # before it is there, so that it is removed if it comes by halves
        stored = await self._data.put(path, _content(events))
        self._call.digests[name] = stored.sha256 or ""


async def _headers(events: AsyncIterator[_Event]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    name, value = b"", b""
    async for kind, content in events:
        match kind:
            case "name":
                name += content
            case "value":
                value += content
            case "header":
                found[name.lower()] = value
                name, value = b"", b""
            case "headers":
                break
        if len(name) + len(value) > _MAX_HEADERS:
            raise Problem(400, "BadRequest", "the headers of a part of the form are too long")
    return found


async def _content(events: AsyncIterator[_Event]) -> AsyncIterator[bytes]:
    async for kind, content in events:
        if kind == "end":
            return
        yield content
    raise Problem(400, "BadRequest", "the form is cut off in the middle of a part")


def as_object(found: Any, what: str) -> JsonObject:
    """A JSON object.

    Raises:
        Problem: it is something else.
    """
    if not isinstance(found, dict):
        raise Problem(400, "BadRequest", f"{what} must be a JSON object")
    return found
