"""What a step has printed, read as the Kubernetes API gives logs: the last lines, so many bytes, with timestamps.

A log file does not say when a line was printed. A line's timestamp is when its attempt was asked for, plus its place in
the file in nanoseconds: lines are in order, and the same line has the same timestamp each time it is read, by which
readers go on with a log that they have lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_BLOCK: Final = 65_536


class Printed:
    """A log that is read bit by bit as it grows.

    Args:
        path: the file; it need not be there yet.
        begun: when its attempt was asked for, seconds since the epoch.
        tail: no more than so many of the lines that are there.
        limit: no more than so many bytes.
        stamps: begin each line with its timestamp.
        since: only lines of this second or later.
    """

    def __init__(
        self,
        path: Path,
        *,
        begun: float,
        tail: int | None = None,
        limit: int | None = None,
        stamps: bool = False,
        since: float | None = None,
    ) -> None:
        self._path = path
        self._begun = round(begun * 1_000) * 1_000_000
        self._left = limit
        self._stamps = stamps
        self._place = _last_lines(path, tail) if tail is not None else 0
        if since is not None:
            self._place = max(self._place, self._first_since(since))
        self._new_line = True

    @property
    def full(self) -> bool:
        """Whether as many bytes were given as are wanted."""
        return self._left == 0

    def more(self) -> Iterator[bytes]:
        """What is there and was not given yet."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            while not self.full and (data := os.pread(descriptor, _BLOCK, self._place)):
                shown = self._stamped(data) if self._stamps else data
                self._place += len(data)
                if self._left is not None:
                    shown = shown[: self._left]
                    self._left -= len(shown)
                yield shown
        finally:
            os.close(descriptor)

    def _stamped(self, data: bytes) -> bytes:
        found = bytearray()
        place = self._place
        for line in _lines(data):
            if self._new_line:
                found += self._stamp(place)
            found += line
            place += len(line)
            self._new_line = line.endswith(b"\n")
        return bytes(found)

    def _stamp(self, place: int) -> bytes:
        seconds, rest = divmod(self._begun + place, 1_000_000_000)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z ".encode("ascii")

    def _first_since(self, since: float) -> int:
        """The place of the first line whose timestamp is in this second or later."""
        least = int(since) * 1_000_000_000 - self._begun
        if least <= 0:
            return 0
        try:
            with self._path.open("rb") as log:
                log.seek(least - 1)
                log.readline()
                return log.tell()
        except OSError:
            return least


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines that end with line feeds and nothing else."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        yield data[start : end + 1]
        start = end + 1
    if start < len(data):
        yield data[start:]


def _last_lines(path: Path, count: int) -> int:
    """The place where the last lines begin."""
    try:
        with path.open("rb") as log:
            end = place = log.seek(0, os.SEEK_END)
            if count == 0:
                return end
            left = count
            while place > 0:
                size = min(_BLOCK, place)
                place -= size
                log.seek(place)
                block = log.read(size)
                at = size
                while (at := block.rfind(b"\n", 0, at)) >= 0:
                    if place + at == end - 1:
                        continue  # the end of the last line begins no other
                    left -= 1
                    if left == 0:
                        return place + at + 1
    except OSError:
        return 0
    return 0
