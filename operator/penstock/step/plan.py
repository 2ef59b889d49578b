"""The plan of an attempt's transfers: signed URLs that a pod gets as a JSON file at `$PENSTOCK_TRANSFERS`.

Whoever makes plans writes the file again with new URLs before they expire; `Plan.refresh` notices. What the URLs are
for stays the same: names, keys, the identity of a multipart upload.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.step.values import NAME, load_json, quote

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "PENSTOCK_TRANSFERS"
"""The environment variable with the path of the plan."""
ETAG = "etag-"
"""What the digest of an object begins with that nobody has digested: the store's ETag follows."""

_VERSION = 1


class PlanError(Exception):
    """The plan cannot be used; the message says why."""


class Request(NamedTuple):
    """Where to send a request, and the headers that its signature asks for."""

    url: str
    headers: Mapping[str, str]


class Input(NamedTuple):
    """An object to fetch.

    Attributes:
        name: of the input; `name/index` for one element of a list of files, which the plan has as `index`.
        request: how to get it.
        sha256: hexadecimal digest of its content (see `digest`), or `etag-` and the store's ETag.
        size: bytes of its content; of a folder, of all files in it.
        folder: whether it is the archive of a folder.
    """

    name: str
    request: Request
    sha256: str
    size: int
    folder: bool


class Multipart(NamedTuple):
    """An S3 multipart upload that was begun.

    Attributes:
        sizes: so many parts of so many bytes at most, in this order.
        url: what the URLs of all parts begin with.
        parts: what follows `&` in the URL of part 1, 2, …
        complete: URL that makes one object of the parts.
        abort: URL that drops the parts.
    """

    sizes: tuple[tuple[int, int], ...]
    url: str
    parts: tuple[str, ...]
    complete: str
    abort: str

    def size_of(self, index: int) -> int | None:
        """Bytes of the part with an index from 0; None beyond the last."""
        if index >= len(self.parts):
            return None
        for count, size in self.sizes:
            if index < count:
                return size
            index -= count
        return None

    def even_size(self, total: int) -> int:
        """The least bound of parts with which all of them hold so many bytes in all, if they can."""
        left, count = total, len(self.parts)
        for several, size in self.sizes:
            if (bound := -(-left // max(count, 1))) <= size:
                return bound
            left -= several * size
            count -= several
        return self.sizes[-1][1]


class Output(NamedTuple):
    """An object to give.

    Attributes:
        name: of the output.
        key: where it is to be in the store, for whoever reads the result.
        put: how to give it in one request.
        multipart: how to give it in many; None where the store has no such thing.
        max_bytes: bytes that its content may have; None: not bounded.
        max_files: files that a folder may have; None: not bounded.
    """

    name: str
    key: str
    put: Request
    multipart: Multipart | None
    max_bytes: int | None
    max_files: int | None


class _Content(NamedTuple):
    text: str
    expires: float
    inputs: dict[str, Input]
    outputs: dict[str, Output]


class Plan:
    """A plan file.

    Args:
        path: of the file.

    Raises:
        PlanError: it cannot be read, or is not a plan.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._content = _parse(self._read())

    @property
    def expires(self) -> float:
        """When its URLs end, in seconds since the epoch."""
        return self._content.expires

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What to fetch, by name."""
        return self._content.inputs

    @property
    def outputs(self) -> Mapping[str, Output]:
        """What to give, by name."""
        return self._content.outputs

    def refresh(self) -> None:
        """Read the file again. One that cannot be read or lacks something is being written: the old one stays."""
        with self._lock:
            try:
                text = self._read()
                if text == self._content.text:
                    return
                found = _parse(text)
            except PlanError:
                return
            if found.inputs.keys() >= self.inputs.keys() and found.outputs.keys() >= self.outputs.keys():
                self._content = found

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise PlanError(f"the plan {self._path} (${VARIABLE}) cannot be read: {why}") from None


def _parse(text: str) -> _Content:
    try:
        found = load_json(text)
        if found["version"] != _VERSION:
            raise PlanError(
                f"the plan's version is {found['version']!r}, this image of Penstock knows {_VERSION}: "
                "use the image that belongs to the operator"
            )
        inputs = [_input(item) for item in found.get("inputs", [])]
        outputs = [_output(item) for item in found.get("outputs", [])]
        expires = float(found["expires"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # Only the kind of error: its text may hold a piece of a URL.
        raise PlanError(f"${VARIABLE} is not a plan as the operator writes it ({type(error).__name__})") from None
    return _Content(text, expires, {item.name: item for item in inputs}, {item.name: item for item in outputs})


def _input(item: Any) -> Input:
    name = str(item["name"])
    if not NAME.fullmatch(name):
        raise PlanError(f"{quote(name)} cannot be the name of an input")
    if (index := item.get("index")) is not None:
        name = f"{name}/{int(index)}"
    request = Request(str(item["url"]), dict(item.get("headers") or {}))
    return Input(name, request, str(item["sha256"]), int(item["size"]), bool(item["folder"]))


def _output(item: Any) -> Output:
    name = str(item["name"])
    if not NAME.fullmatch(name):
        raise PlanError(f"{quote(name)} cannot be the name of an output")
    many = item.get("multipart")
    return Output(
        name,
        str(item["key"]),
        Request(str(item["put"]["url"]), dict(item["put"].get("headers") or {})),
        None if many is None else _multipart(many),
        None if item.get("max_bytes") is None else int(item["max_bytes"]),
        None if item.get("max_files") is None else int(item["max_files"]),
    )


def _multipart(item: Any) -> Multipart:
    return Multipart(
        tuple((int(count), int(size)) for count, size in item["sizes"]),
        str(item["url"]),
        tuple(str(part) for part in item["parts"]),
        str(item["complete"]),
        str(item["abort"]),
    )
