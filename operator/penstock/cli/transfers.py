"""Carries out the plans that a gateway makes, with the code that pods have; shows progress of what is large."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from penstock.cli.cluster import Refused
from penstock.cli.main import ERROR
from penstock.step.download import Downloads
from penstock.step.plan import Plan
from penstock.step.transfer import Problem
from penstock.step.upload import Uploads
from penstock.step.values import JsonObject
from penstock.step.wire import Body, Client, Reply, Settings

PATIENCE_SECONDS = 120.0
"""How long a store is waited for that does not answer: people do not wait as patiently as pods."""
_SETTINGS = Settings(patience=PATIENCE_SECONDS, refusals=5.0)
LARGE = 16 << 20
"""Bytes from which on progress is shown."""
_REDRAW_SECONDS = 0.2
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Written(NamedTuple):
    """What an upload has brought to the store.

    Attributes:
        sha256: digest of its content.
        size: bytes of its content.
        folder: whether it is a folder.
        etag: what the store answered; None where it went up in parts.
    """

    sha256: str
    size: int
    folder: bool
    etag: str | None


class Progress:
    """A line on a terminal that says how far a transfer is; nothing elsewhere, or for what is small.

    Args:
        label: what is transferred.
        total: its bytes; None where nobody knows.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._started = self._drawn = time.monotonic()
        self._lock = threading.Lock()
        self._shown = False
        large = total is None or total >= LARGE
        self._on = large and sys.stderr is not None and sys.stderr.isatty()

    def count(self, size: int) -> None:
        """So many bytes more have been transferred."""
        if not self._on:
            return
        with self._lock:
            self._done += size
            now = time.monotonic()
            if now - self._drawn >= _REDRAW_SECONDS:
                self._drawn = now
                self._shown = True
                with suppress(OSError):
                    sys.stderr.write(f"\r\x1b[K{self._text(now)}")
                    sys.stderr.flush()

    def _text(self, now: float) -> str:
        text = f"{self._label}  {in_units(self._done)}"
        if self._total:
            # What is sent again counts again, so that it may be more.
            text += f" of {in_units(self._total)}  {min(100, 100 * self._done // self._total)} %"
        return f"{text}  {in_units(int(self._done / max(now - self._started, 0.001)))}/s"

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            with suppress(OSError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()


def in_units(size: int) -> str:
    """A number of bytes for people: `1.5 GiB`."""
    number, unit = float(size), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{size:,} bytes" if unit == 0 else f"{number:.1f} {_UNITS[unit]}"


def upload(document: Mapping[str, Any], source: Path, *, label: str, size: int, folder: bool) -> Written:
    """Write the one object of a plan.

    Args:
        document: the plan.
        source: the file or folder.
        label: what it is, for people.
        size: its bytes.
        folder: whether it is a folder, which travels compressed.

    Raises:
        Refused: it could not be written.
    """
    progress = Progress(label, None if folder and size >= LARGE else size)
    with _PlanFile(document) as plan:
        uploads = _Uploads(plan, progress.count)
        try:
            done, problems = uploads.run({"object": source})
        finally:
            progress.close()
    if problems:
        raise _refused(label, problems[0], 'output "object": ')
    found: JsonObject = done["object"]
    return Written(found["sha256"], found["size"], found["folder"], uploads.etag)


def download(document: Mapping[str, Any], folder: Path, *, label: str, size: int) -> None:
    """Fetch all that a plan has into a folder, each under its name there, checked.

    Args:
        document: the plan.
        folder: where to.
        label: what it is, for people.
        size: bytes in all.

    Raises:
        Refused: something could not be fetched.
    """
    progress = Progress(label, size)
    with _PlanFile(document) as plan:
        try:
            problems = _Downloads(plan, folder, progress.count).run()
        finally:
            progress.close()
    if problems:
        raise _refused(label, problems[0], 'input "object": ')


def _refused(label: str, problem: Problem, prefix: str) -> Refused:
    return Refused(f"{label}: {problem.text.removeprefix(prefix)}", ERROR if problem.transient else 2)


class _PlanFile:
    """A plan in a file, as transfers read it. Nobody else may: it holds signed URLs."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-")

    def __enter__(self) -> Plan:
        path = Path(self._folder.name) / "plan"
        path.write_text(json.dumps(self._document), encoding="utf-8")
        return Plan(path)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


class _Uploads(Uploads):
    """Uploads that are counted, and tell what the store answered."""

    def __init__(self, plan: Plan, count: Callable[[int], None]) -> None:
        super().__init__(plan, _SETTINGS)
        self._client = self._counting = _Counting(plan, count)

    @property
    def etag(self) -> str | None:
        """Of the object, where it was written by one request."""
        return self._counting.etag


class _Downloads(Downloads):
    """Downloads that are counted."""

    def __init__(self, plan: Plan, folder: Path, count: Callable[[int], None]) -> None:
        super().__init__(plan, folder, _SETTINGS)
        self._client = _Counting(plan, count)


class _Counting(Client):
    """A client that tells how many bytes come and go."""

    def __init__(self, plan: Plan, count: Callable[[int], None]) -> None:
        super().__init__(plan, _SETTINGS)
        self._count = count
        self._single = {output.put.url for output in plan.outputs.values()}
        self.etag: str | None = None

    def open(self, method: str, find: Any, patience: Any, *, body: Body | None = None, **options: Any) -> Reply:
        """See `Client`."""
        counted = body if body is None else _CountedBody(body, self._count)
        reply = super().open(method, find, patience, body=counted, **options)
        if method == "PUT" and find().url in self._single:
            self.etag = reply.header("ETag").removeprefix("W/").strip('"') or None
        return _CountedReply(reply, self._count)


class _CountedBody:
    def __init__(self, body: Body, count: Callable[[int], None]) -> None:
        self._body, self._count = body, count

    @property
    def length(self) -> int:
        return self._body.length

    def send(self, connection: Any) -> None:
        self._body.send(_CountedSocket(connection, self._count))  # type: ignore[arg-type]  # bodies only send


class _CountedSocket:
    def __init__(self, connection: Any, count: Callable[[int], None]) -> None:
        self._connection, self._count = connection, count

    def sendall(self, data: Any) -> None:
        self._connection.sendall(data)
        self._count(len(data))


class _CountedReply(Reply):
    def __init__(self, reply: Reply, count: Callable[[int], None]) -> None:
        super().__init__(reply._client, reply._connection, reply._response)
        self._count = count

    def readinto(self, buffer: memoryview) -> int:
        """See `Reply`."""
        count = super().readinto(buffer)
        self._count(count)
        return count
