"""What became of an attempt's outputs, on its way from a pod to the operator: one JSON object, said and read back here.

Its fields are `outputs` (the sound values by name) and, if something is wrong, `problems` (sentences). Where there was
a plan of transfers, the files go to the store first; then there are `files` (what is in the store, by name) and, if
only the platform was in the way, `"transient": true`. It is a termination message; what is too long for that goes to
the log of whoever says it, and the message is `{"log": {"size": …, "sha256": …}}` of that JSON.

In the log the JSON is compressed and written in numbered lines of ASCII, shorter than any runtime splits lines at, so
that timestamps, other lines and repeated ones do no harm, and a log that lacks some is noticed; see `parse_log`. Where
others write to the same log, the lines begin with a mark of their own that nobody can know before they are over; the
message names it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from penstock.step.values import Declared, JsonObject, compact_json, load_json

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.step.transfer import Problem

MESSAGE_BYTES = 4_000
"""Of the 4,096 bytes of a termination message."""

_MARK = "penstock-outputs"
_CHUNK = 6_000
"""Bytes in a line of the log: 8,000 characters. Container runtimes split lines at 16 KiB."""
_MOST_PROBLEMS = 10
_LONGEST_PROBLEM = 500


class ReportError(Exception):
    """What was said cannot be used; the message says why, for people."""


class Result(NamedTuple):
    """What was found.

    Attributes:
        outputs: the declared values that are as declared, by name.
        problems: a sentence for each thing that is wrong; empty: the outputs are complete.
        files: the declared files that are in the store, by name: `{"key", "sha256", "size", "folder"}`.
        transient: whether all that is wrong is the platform's trouble, so that the same might work later.
    """

    outputs: JsonObject
    problems: list[str]
    files: Mapping[str, JsonObject] = {}
    transient: bool = False


class InLog(NamedTuple):
    """The result is in the log.

    Attributes:
        size: bytes of its JSON.
        sha256: hexadecimal digest of its JSON.
        mark: what its lines begin with beside what all such lines do; empty where nobody else writes to the log.
        lines: how many they are; 0: that is not said.
    """

    size: int
    sha256: str
    mark: str = ""
    lines: int = 0


# --- for whoever says it ----------------------------------------------------------------------------


def gather(
    declared: Sequence[Declared], output_file: Path, outputs_dir: Path, *, limit: int, plan_file: Path | None
) -> JsonObject:
    """Judge what a step left, and upload the files among it.

    Args:
        declared: the step's outputs.
        output_file: what the step saw as `$PENSTOCK_OUTPUT`.
        outputs_dir: what it saw as `$PENSTOCK_OUTPUTS`.
        limit: bytes that the values may have in all, as compact JSON.
        plan_file: the plan of transfers; None where no output is a file.

    Returns:
        What is to be said.
    """
    from penstock.step.outputs import collect  # noqa: PLC0415 - not while the step runs

    found = collect(declared, output_file, outputs_dir, limit=limit)
    result: JsonObject = {"outputs": found.values}
    problems = list(found.problems)
    if found.files and plan_file is not None:
        files, failed = _upload(plan_file, found.files)
        result["files"] = files
        if failed and not problems and all(problem.transient for problem in failed):
            result["transient"] = True
        problems += [problem.text for problem in failed]
    if problems:
        result["problems"] = shortened(problems)
    return result


def _upload(plan_file: Path, files: Mapping[str, Path]) -> tuple[dict[str, JsonObject], list[Problem]]:
    """Give files to the store; returns what is there by name, and what is wrong."""
    from penstock.step.plan import Plan, PlanError  # noqa: PLC0415 - few steps have files
    from penstock.step.transfer import Problem, upload_outputs  # noqa: PLC0415

    try:
        return upload_outputs(Plan(plan_file), files)
    except (PlanError, ValueError) as error:
        return {}, [Problem(str(error), transient=True)]


def shortened(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many more there are; none of them too long to be read."""
    short = [p if len(p) <= _LONGEST_PROBLEM else f"{p[: _LONGEST_PROBLEM - 1]}…" for p in problems[:_MOST_PROBLEMS]]
    return [*short, f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else short


def message(result: JsonObject, room: int, *, beside: JsonObject | None = None, mark: str = "") -> bytes:
    """The termination message that says a result; what has no room there is written to the log first.

    Args:
        result: what is to be said.
        room: bytes that the message may have.
        beside: what the message says in any case, besides.
        mark: what lines of the log begin with, where others write to it too.
    """
    beside = beside or {}
    said = compact_json({**beside, **result}).encode()
    if len(said) <= room:
        return said
    data = compact_json(result).encode()
    return compact_json({**beside, "log": _to_log(data, mark)}).encode()


def _to_log(data: bytes, mark: str) -> JsonObject:
    """Write `data` to the log; returns what to say of it."""
    import base64  # noqa: PLC0415 - small results need none of these
    import hashlib  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    packed = zlib.compress(data, 6)
    total = -(-len(packed) // _CHUNK)
    if mark:  # what others wrote last may have no end of line
        sys.stdout.write("\n")
    for number in range(total):
        chunk = base64.b64encode(packed[number * _CHUNK : (number + 1) * _CHUNK]).decode()
        sys.stdout.write(f"{_begin(mark)}{number + 1}/{total} {chunk}\n")
    # Before the message: whoever sees the message reads the log.
    sys.stdout.flush()
    found: JsonObject = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {**found, "mark": mark, "lines": total} if mark else found


def _begin(mark: str) -> str:
    return f"{_MARK} {mark} " if mark else f"{_MARK} "


# --- for whoever reads it ---------------------------------------------------------------------------


def parse_message(text: str) -> Result | InLog:
    """Read a termination message.

    Raises:
        ReportError: it is not one of these.
    """
    try:
        return read_message(load_json(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        shown = text if len(text) <= 200 else f"{text[:199]}…"
        raise ReportError(f"what was said of them cannot be read: {shown!r}") from None


def read_message(found: JsonObject) -> Result | InLog:
    """The same of JSON that was parsed already.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not one of these.
    """
    log = found.get("log")
    if log is None:
        return _result(found)
    return InLog(int(log["size"]), str(log["sha256"]), str(log.get("mark", "")), int(log.get("lines", 0)))


def parse_log(text: str, wanted: InLog) -> Result:
    """Read the result out of a log.

    Args:
        text: the log; with timestamps or without.
        wanted: what the termination message says of it.

    Raises:
        ReportError: the log is incomplete or was changed.
    """
    import base64  # noqa: PLC0415 - those who write seldom need these
    import hashlib  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    chunks: dict[int, str] = {}
    total = 0
    for line in text.split("\n"):
        _, mark, rest = line.partition(_begin(wanted.mark))
        place, _, chunk = rest.partition(" ")
        number, _, count = place.partition("/")
        if mark and number.isdecimal() and count.isdecimal():
            chunks[int(number)] = chunk.strip()
            total = int(count)
    if total == 0 or any(number not in chunks for number in range(1, total + 1)):
        there = sum(number in chunks for number in range(1, total + 1))
        raise ReportError(f"the log holds {there} of {total or 'its'} lines: it was cut or rotated away")
    try:
        data = base64.b64decode("".join(chunks[number] for number in range(1, total + 1)), validate=True)
        # Bounded by what was announced, whatever the log holds.
        found = zlib.decompressobj().decompress(data, wanted.size + 1)
        if len(found) != wanted.size or hashlib.sha256(found).hexdigest() != wanted.sha256:
            raise ReportError("the log does not hold what was written to it")
        return _result(load_json(found.decode()))
    except (ValueError, TypeError, zlib.error) as error:
        raise ReportError(f"the log cannot be read: {error}") from None


_LINE = re.compile(rf"{_MARK} [0-9a-f]{{16}} [0-9]+/[0-9]+ [A-Za-z0-9+/]+=*")


def is_report(line: str) -> bool:
    """Whether a line of a log that others write to as well looks like one of a result."""
    return _LINE.fullmatch(line) is not None


def without_report(text: str, result: InLog) -> str:
    """Such a log without the lines of a result."""
    return "\n".join(line for line in text.split("\n") if not line.startswith(_begin(result.mark)))


def _result(found: JsonObject) -> Result:
    outputs, problems, files = found["outputs"], found.get("problems", []), found.get("files", {})
    if not isinstance(outputs, dict) or not isinstance(problems, list) or not isinstance(files, dict):
        raise TypeError("not a result")
    return Result(outputs, [str(problem) for problem in problems], files, bool(found.get("transient", False)))
