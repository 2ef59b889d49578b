"""Reads everything that an attempt left behind and judges it against the declarations, all problems at once.

For whoever looks at an attempt after its end (the local runner, the collector container). Nothing is changed or copied.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from penstock.step import folders
from penstock.step.values import (
    Declared,
    JsonObject,
    OutputError,
    OutputSyntaxError,
    RawText,
    coerce,
    describe,
    did_you_mean,
    json_bytes,
    parse_output,
    quote,
)

if TYPE_CHECKING:
    from pathlib import Path  # not at run time: function steps import this module, and start-up time matters there

READ_FACTOR = 8
"""How much larger than the limit `$PENSTOCK_OUTPUT` may be: values are measured as compact JSON, and may have been
written with escapes, indented, or more than once."""
_MOST_NAMED = 10
_REMEDY = "what reads outputs is another user; end the step with `chmod -R a+rX $PENSTOCK_OUTPUTS`"


class Collected(NamedTuple):
    """What an attempt left.

    Attributes:
        values: the declared values that are as declared, by name. None of them where they are too large in all.
        files: the declared files and folders, by name, links already followed.
        problems: a sentence for each thing that is wrong, for the step's author. Empty: the outputs are complete.
    """

    values: JsonObject
    files: dict[str, Path]
    problems: list[str]


def collect(declared: Sequence[Declared], output_file: Path, outputs_dir: Path, *, limit: int) -> Collected:
    """Read `$PENSTOCK_OUTPUT` and `$PENSTOCK_OUTPUTS` and check them against the declarations.

    Args:
        declared: the step's outputs.
        output_file: the file that the step saw as `$PENSTOCK_OUTPUT`; it need not exist.
        outputs_dir: the folder that it saw as `$PENSTOCK_OUTPUTS`; it need not exist.
        limit: bytes that the values may have in all, as compact JSON.

    Never raises for anything that a step can do: each is a problem in the result.
    """
    files, found, problems = _collect_files(declared, outputs_dir)
    try:
        raw = parse_output(read_output_file(output_file, limit * READ_FACTOR))
    except OutputError as error:
        # With the file unreadable, "was not written" for each value would be noise.
        return Collected({}, files, [str(error), *problems])
    values, value_problems = judge(declared, raw, found, limit=limit)
    return Collected(values, files, value_problems + problems)


def read_output_file(path: Path, limit: int) -> str:
    """The text of `$PENSTOCK_OUTPUT`; empty where there is no such file.

    Never reads more than `limit` bytes, never follows a link, never waits for a pipe: a step may have left anything.

    Raises:
        OutputSyntaxError: not a regular file, larger than `limit` bytes, or not UTF-8.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    not_a_file = "was replaced by something that is not a regular file: append to the file that is there"
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return ""
    except OSError as error:
        # ELOOP is how O_NOFOLLOW says that the last part of the path is a link.
        why = not_a_file if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise OutputSyntaxError(why) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OutputSyntaxError(not_a_file)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OutputSyntaxError(
            f"holds {max(status.st_size, len(data)):,} bytes, more than the {limit:,} that are read: "
            "leave large data in a file output ($PENSTOCK_OUTPUTS/<name>)"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise OutputSyntaxError(
            f"is not UTF-8 text (byte 0x{data[error.start]:02x}): write UTF-8, and leave binary data in a file output",
            line=data.count(b"\n", 0, error.start) + 1,
        ) from None


def how_to_append(output: Declared) -> str:
    """What to do so that a value is there after all."""
    return f"append `{output.name}=VALUE` to $PENSTOCK_OUTPUT"


def judge(
    declared: Sequence[Declared],
    raw: Mapping[str, object],
    found: Iterable[str] = (),
    *,
    limit: int | None = None,
    how: Callable[[Declared], str] = how_to_append,
) -> tuple[JsonObject, list[str]]:
    """The values among the declared outputs, and what is wrong with what was written for them.

    Args:
        declared: the step's outputs.
        raw: what was written, by name: `RawText` or JSON values.
        found: names of what is in `$PENSTOCK_OUTPUTS`, to recognise a value that was left there.
        limit: bytes that the values may have in all, as compact JSON; None: not bounded.
        how: says what to do about a value that is not there.
    """
    values: JsonObject = {}
    problems: list[str] = []
    found = set(found)
    for output in declared:
        if output.type == "file":
            if output.name in raw:
                problems.append(_value_for_file(output.name, raw[output.name]))
        elif output.name in raw:
            try:
                values[output.name] = coerce(output, raw[output.name])
            except OutputError as error:
                problems.append(str(error))
        else:
            problems.append(_not_written(output, output.name in found, how(output)))
    problems += undeclared(raw, declared)
    if limit is not None and values and (size := json_bytes(values)) > limit:
        problems.append(_too_large(values, size, limit))
        values = {}
    return values, problems


def _not_written(output: Declared, left_as_file: bool, how: str) -> str:
    if left_as_file:
        return (
            f"output {quote(output.name)} was left at $PENSTOCK_OUTPUTS/{output.name}, which is for files, "
            f"but its type is {output.type}: {how}, or declare `type: file`"
        )
    return f"output {quote(output.name)} was not written: {how}"


def _value_for_file(name: str, raw: object) -> str:
    got = describe(str(raw) if isinstance(raw, RawText) else raw)
    place = f"write the file to $PENSTOCK_OUTPUTS/{name}"
    return f"output {quote(name)}: wanted a file, got {got} in $PENSTOCK_OUTPUT: {place}"


def undeclared(found: Iterable[str], declared: Sequence[Declared], where: str = "") -> list[str]:
    """A problem for each of the names that is not declared, up to a few."""
    known = [output.name for output in declared]
    declared_names = set(known)
    names = [name for name in found if name not in declared_names]
    if not names:
        return []
    listed = f"declared are {', '.join(map(quote, known))}" if known else "the step declares no outputs"
    problems = [
        f"output {quote(folders.printable(name))} is not declared{where}: {listed}{did_you_mean(name, known)}"
        for name in names[:_MOST_NAMED]
    ]
    if len(names) > _MOST_NAMED:
        problems.append(f"{len(names) - _MOST_NAMED} more outputs are not declared")
    return problems


def _too_large(values: JsonObject, size: int, limit: int) -> str:
    largest = sorted(((json_bytes(value), name) for name, value in values.items()), reverse=True)[:3]
    named = ", ".join(f"{quote(name)} {bytes_:,}" for bytes_, name in largest)
    return (
        f"the values are {size:,} bytes as JSON, the limit is {limit:,} (largest: {named}): "
        "declare large data as `type: file` and write it to $PENSTOCK_OUTPUTS/<name>"
    )


def _collect_files(declared: Sequence[Declared], outputs_dir: Path) -> tuple[dict[str, Path], list[str], list[str]]:
    """Files by name, the names of all that lies there, and problems."""
    files: dict[str, Path] = {}
    problems: list[str] = []
    try:
        found = list_outputs(outputs_dir)
    except OSError as error:
        return {}, [], [f"$PENSTOCK_OUTPUTS cannot be read: {error.strerror}"]
    for output in declared:
        if output.type != "file":
            continue
        try:
            files[output.name] = check_file(outputs_dir, output.name)
        except FileNotFoundError:
            problems.append(f"output {quote(output.name)} was not written: write it to $PENSTOCK_OUTPUTS/{output.name}")
        except folders.UnsafePath as error:
            problems.append(f"output {quote(output.name)}: {error}")
        except OSError as error:
            place = folders.printable(str(error.filename or output.name))
            remedy = f": {_REMEDY}" if error.errno in (errno.EACCES, errno.EPERM) else ""
            problems.append(f"output {quote(output.name)}: {place} cannot be read: {error.strerror}{remedy}")
    problems += undeclared(found, declared, " but is in $PENSTOCK_OUTPUTS")
    return files, found, problems


def list_outputs(outputs_dir: Path) -> list[str]:
    """Names of what lies in `$PENSTOCK_OUTPUTS`, sorted; hidden files are left out.

    Hidden files come from file systems and desktops (`.nfs…`, `.DS_Store`); no output can have such a name.

    Raises:
        OSError: it is there and cannot be listed.
    """
    try:
        return sorted(name for name in os.listdir(outputs_dir) if not name.startswith("."))  # noqa: PTH208
    except FileNotFoundError:
        return []


def check_file(outputs_dir: Path, name: str) -> Path:
    """The file or folder of output `name`, links followed.

    Raises:
        FileNotFoundError: there is none.
        folders.UnsafePath: it, or something in it, cannot be kept; the message names it.
        OSError: it cannot be read.
    """
    path = outputs_dir / folders.follow(outputs_dir, name)
    mode = path.lstat().st_mode
    if path == outputs_dir:
        raise folders.UnsafePath(outputs_dir / name, "is a link to the folder of all outputs: copy what is meant")
    if stat.S_ISDIR(mode):
        for entry in folders.walk(path):
            if entry.kind == "file":
                _check_readable(path / entry.path)
    elif stat.S_ISREG(mode):
        _check_readable(path)
    else:
        raise folders.UnsafePath(path, f"is {folders.special(mode)}: only files and folders can be outputs")
    return path


def _check_readable(path: Path) -> None:
    if not os.access(path, os.R_OK):
        raise PermissionError(13, "Permission denied", str(path))
