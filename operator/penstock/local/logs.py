"""What steps printed: where it is, and its last line.

A log is written by the step itself, straight into the file; nothing here writes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_TAIL = 4_096
_SHOWN = 500
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def last_line(path: Path, limit: int = _SHOWN) -> str:
    """The last line of a log that is not blank, fit to be shown; empty where there is none.

    Only the end of the file is read. Colours and other control sequences are taken out; of a line that was overwritten
    with carriage returns (a progress bar) the last state counts.

    Args:
        path: the log.
        limit: longest result, in characters.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        size = os.fstat(descriptor).st_size
        text = os.pread(descriptor, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    for line in reversed(re.split(r"[\r\n]", _ESCAPES.sub("", text))):
        shown = _CONTROL.sub("", line.replace("\t", " ")).strip()
        if shown:
            return shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return ""


def tail(path: Path, lines: int, *, size: int = 16_384) -> list[str]:
    """The last lines of a log, fit to be shown; empty where there is none.

    Args:
        path: the log.
        lines: how many.
        size: how much of the file's end is read, in bytes.
    """
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(0, end - size))
            text = log.read(size).decode("utf-8", "replace")
    except OSError:
        return []
    shown = [_CONTROL.sub("", line.replace("\t", "    ")) for line in _ESCAPES.sub("", text).splitlines()]
    return shown[-lines:]
