"""What operations of the SDK take and give."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NotRequired, TypeAlias, TypedDict

Inputs: TypeAlias = Mapping[str, Any]
"""Inputs by name. A file is its content as `bytes`, an open binary file, or a path."""


class Result(TypedDict):
    """An execution, and its outputs if they were waited for."""

    execution_id: str
    """Its name."""
    outputs: NotRequired[dict[str, Any]]
    """By name; of a file, its content."""


class PipelineInfo(TypedDict):
    """A pipeline in a list."""

    pipeline_name: str
    """Its name."""
    created_at: str
    """When it was made."""
    status: str
    """`ready`, `creation_pending` or `creation_failed`."""


class ExecutionInfo(TypedDict):
    """An execution."""

    execution_id: str
    """Its name."""
    status: str
    """`Pending`, `Running`, `Succeeded`, `Failed` or `Error`."""
    created_at: str
    """When it was made."""
    end_date: str | None
    """When it was over."""
    pipeline_name: str | None
    """Its pipeline."""
    deployment_name: str | None
    """Its deployment, if it has one."""
    steps: list[dict[str, Any]]
    """Its steps."""
    inputs: NotRequired[list[dict[str, Any]]]
    """Its inputs, where one execution was asked for."""
    outputs: NotRequired[list[dict[str, Any]]]
    """Its outputs, likewise."""


class DataObject(TypedDict):
    """An object of the data store."""

    path: str
    """Where it is."""
    size: int
    """Bytes of its content."""
    modified: float
    """When it was written, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something is that is waited for.

    Attributes:
        execution_id: the execution.
        seconds: how long it has been waited for.
    """

    execution_id: str
    seconds: float


OnProgress: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is with a gateway that does not answer or has too much to do.

    Attributes:
        tries: how often a request is made at most.
        base_seconds: about the wait before the second try; it doubles from one to the next.
        max_seconds: the longest wait, unless the gateway asks for a longer one (`Retry-After`).
        longest_asked_seconds: how long a wait the gateway may ask for.
    """

    tries: int = 5
    base_seconds: float = 0.25
    max_seconds: float = 8.0
    longest_asked_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSource:
    """Where an input of a run comes from; exactly one of the sources.

    Attributes:
        pipeline_input_name: the input.
        constant_value: this value.
        datastore_path: an object of the data store.
        is_null: nothing.
        environment_variable_name: not supported; a Deployment takes values from ConfigMaps.
    """

    pipeline_input_name: str
    constant_value: Any = None
    datastore_path: str | None = None
    is_null: bool | None = None
    environment_variable_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDestination:
    """Where an output of a run goes; exactly one of the destinations.

    Attributes:
        pipeline_output_name: the output.
        datastore_path: an object of the data store; `{execution_id}`, `{date}` and `{date_time}` are replaced.
        is_null: nowhere.
    """

    pipeline_output_name: str
    datastore_path: str | None = None
    is_null: bool | None = None


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file is.

    Attributes:
        sha256: digest of its content, hexadecimal.
        size: bytes of its content.
    """

    sha256: str
    size: int


class FileInput:
    """A file to send, as often as it takes.

    Args:
        content: a path, bytes, or an open binary file, which is sent from where it stands.
    """

    def __init__(self, content: str | os.PathLike[str] | bytes | BinaryIO) -> None:
        self._content = content
        self._start: int | None = None
        if not isinstance(content, str | os.PathLike | bytes) and content.seekable():
            self._start = content.tell()

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent again."""
        return isinstance(self._content, str | os.PathLike | bytes) or self._start is not None

    @property
    def name(self) -> str:
        """Its name, without folders."""
        found = self._content if isinstance(self._content, str | os.PathLike) else getattr(self._content, "name", "")
        return os.path.basename(os.fspath(found)) if isinstance(found, str | os.PathLike) and found else "file"  # noqa: PTH119

    def digest(self) -> Digest:
        """What it is: reads all of it.

        Raises:
            OSError: it cannot be read.
            ValueError: it could not be read a second time.
        """
        import hashlib  # noqa: PLC0415 - only for uploads

        if not self.repeatable:
            raise ValueError("the file can be read only once; give a path, bytes, or a file that can be rewound")
        found, mine = self.open()
        if isinstance(found, bytes):
            return Digest(hashlib.sha256(found).hexdigest(), len(found))
        whole, size = hashlib.sha256(), 0
        try:
            while chunk := found.read(1 << 20):
                whole.update(chunk)
                size += len(chunk)
        finally:
            if mine:
                found.close()
        return Digest(whole.hexdigest(), size)

    def open(self) -> tuple[BinaryIO | bytes, bool]:
        """What to send, and whether it has to be closed after that.

        Raises:
            OSError: it cannot be read.
        """
        if isinstance(self._content, bytes):
            return self._content, False
        if isinstance(self._content, str | os.PathLike):
            return open(self._content, "rb"), True  # noqa: PTH123 - whoever sends it closes it
        if self._start is not None:
            self._content.seek(self._start)
        return self._content, False


def is_file(value: Any) -> bool:
    """Whether a value is a file without being told so: text may be anything."""
    return isinstance(value, bytes | os.PathLike) or (isinstance(value, io.IOBase) and value.readable())
