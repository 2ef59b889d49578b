"""Takes what the Python function of a step returned: checks it, puts its files in place, writes `$PENSTOCK_OUTPUT`.

Runs inside a step, after the function. Nothing is written before all of it has been found good.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from penstock.step import folders
from penstock.step.outputs import check_file, judge, list_outputs, read_output_file, undeclared
from penstock.step.values import (
    MAX_DEPTH,
    Declared,
    OutputError,
    compact_json,
    describe,
    parse_output,
    quote,
)

if TYPE_CHECKING:
    from pathlib import Path

MAX_OUTPUT_FILE = 64 * 1024 * 1024
"""Bytes of `$PENSTOCK_OUTPUT` that are read before it is written again: far above every limit, to bound memory."""


class BadOutputsError(Exception):
    """What the function gave does not fit.

    Attributes:
        problems: a sentence for each thing that is wrong.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class _Source(NamedTuple):
    """Where the content of a file output is, before it is put in place."""

    name: str
    path: Path


def deliver(
    result: object, declared: Sequence[Declared], *, output_file: Path, outputs_dir: Path, work: Path, since: int
) -> None:
    """Make the returned outputs the outputs of this attempt.

    Args:
        result: what the function returned: a mapping of outputs by name, or None.
        declared: the step's outputs.
        output_file: `$PENSTOCK_OUTPUT`; values that are in it already count as if they had been returned.
        outputs_dir: `$PENSTOCK_OUTPUTS`; files that are in it already count as well.
        work: the work folder.
        since: when the function was started, nanoseconds since the epoch. Files below `work` that are newer were made
            by it and can be hard-linked; all others are copied, as writing to them later must not change an output.

    Raises:
        BadOutputsError: they do not fit the declarations; nothing has been written.
        OSError: something could not be written; `$PENSTOCK_OUTPUT` is then empty.
    """
    returned = _as_dict(result, declared)
    try:
        written = parse_output(read_output_file(output_file, MAX_OUTPUT_FILE))
    except OutputError as error:
        raise BadOutputsError([str(error)]) from None
    files = {output.name for output in declared if output.type == "file"}
    sources, problems = _sources({name: value for name, value in returned.items() if name in files}, outputs_dir)
    raw = written | {name: plain(value) for name, value in returned.items() if name not in files}
    found = list_outputs(outputs_dir)
    values, value_problems = judge(declared, raw, found, how=_how_to_return)
    problems = value_problems + problems + _files_left(declared, returned, sources, found, outputs_dir)
    if problems:
        raise BadOutputsError(problems)
    own = (work.resolve(), outputs_dir.resolve())
    for number, source in enumerate(sources, 1):
        again = any(other.path == source.path for other in sources[number:])
        if own[1] == source.path.parent and source.path.name not in files and not again:
            source.path.rename(outputs_dir / source.name)
        else:
            _place(source, outputs_dir, _Copier(own, since))
    if values:
        _write(output_file, compact_json(values).encode())


def _how_to_return(output: Declared) -> str:
    return f"return {{{quote(output.name)}: …}} from the function"


def _as_dict(result: object, declared: Sequence[Declared]) -> dict[str, object]:
    if result is None:
        return {}
    if isinstance(result, Mapping):
        odd = [key for key in result if not isinstance(key, str)]
        if odd:
            raise BadOutputsError(
                [f"the function returned a dict with {describe(odd[0])} as a key: keys are output names"]
            )
        return dict(result)
    got = describe(plain(result))
    if not declared:
        raise BadOutputsError(
            [f"the function returned {got}, but the step declares no outputs: declare one, or return nothing"]
        )
    example = ", ".join(f"{quote(output.name)}: …" for output in declared[:3]) + (", …" if len(declared) > 3 else "")
    raise BadOutputsError([f"the function returned {got}, wanted a dict of outputs by name: return {{{example}}}"])


def plain(value: object, depth: int = 0) -> object:
    """`value` as JSON has it where that is obvious: tuples as arrays, numbers and arrays of numeric libraries too.

    Anything else stays as it is, for the check of types to name it.
    """
    if depth > MAX_DEPTH or value is None or isinstance(value, bool | int | float | str | type):
        return value
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    for method in ("tolist", "item"):
        convert = getattr(value, method, None)
        if callable(convert):
            try:
                converted = convert()
            except Exception:  # noqa: S112 - not the kind of object that it looked like
                continue
            # What converts to its own kind would go on for ever.
            return converted if type(converted) is type(value) else plain(converted, depth + 1)
    return value


# --- files ----------------------------------------------------------------------------------------


def _sources(returned: Mapping[str, object], outputs_dir: Path) -> tuple[list[_Source], list[str]]:
    sources: list[_Source] = []
    problems: list[str] = []
    for name, value in returned.items():
        try:
            source = _source(name, value, outputs_dir)
        except (folders.UnsafePath, BadOutputsError) as error:
            problems.append(f"output {quote(name)}: {error}")
        except OSError as error:
            problems.append(f"output {quote(name)}: {quote(str(error.filename))} cannot be read: {error.strerror}")
        else:
            sources.append(source)
    return sources, problems


def _source(name: str, value: object, outputs_dir: Path) -> _Source:
    """The file that `value` stands for, checked."""
    from pathlib import Path  # noqa: PLC0415 - only steps with files need it

    content = value.get("path") if isinstance(value, Mapping) and set(value) == {"path"} else value
    if not isinstance(content, os.PathLike) and not (isinstance(content, str) and content is not value):
        example = quote(value) if isinstance(value, str) else "…"
        raise BadOutputsError(
            [f'wanted a file, got {describe(value)}: return {{{quote(name)}: {{"path": {example}}}}}']
        )
    given = os.fspath(content)
    if not isinstance(given, str):
        raise BadOutputsError([f"wanted a file, got {describe(given)} as its path: give it as a string"])
    path = Path(given)
    if not path.exists():
        raise BadOutputsError([f"there is no file {quote(given)} (looked in {Path.cwd()})"])
    path = path.resolve()
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        if outputs_dir.resolve().is_relative_to(path):
            raise BadOutputsError(
                [f"the folder {quote(given)} holds $PENSTOCK_OUTPUTS itself: return a folder of its own"]
            )
        for _ in folders.walk(path):
            pass
    elif not stat.S_ISREG(mode):
        raise folders.UnsafePath(path, f"is {folders.special(mode)}: only files and folders can be outputs")
    target = outputs_dir / name
    if os.path.lexists(target) and not (target.exists() and target.samefile(path)):
        raise BadOutputsError(
            [f"the function returned {quote(given)} and also wrote $PENSTOCK_OUTPUTS/{name}: do one of the two"]
        )
    return _Source(name, path)


def _files_left(
    declared: Sequence[Declared],
    returned: Mapping[str, object],
    sources: Sequence[_Source],
    found: Sequence[str],
    outputs_dir: Path,
) -> list[str]:
    """Problems with the files that the function wrote to `$PENSTOCK_OUTPUTS` itself."""
    problems: list[str] = []
    for output in declared:
        if output.type != "file" or output.name in returned:
            continue
        try:
            check_file(outputs_dir, output.name)
        except FileNotFoundError:
            how = f'return {{{quote(output.name)}: {{"path": …}}}} or write it to $PENSTOCK_OUTPUTS/{output.name}'
            problems.append(f"output {quote(output.name)} was not written: {how}")
        except (folders.UnsafePath, OSError) as error:
            problems.append(f"output {quote(output.name)}: {error}")
    moved = {source.path.name for source in sources if source.path.parent == outputs_dir.resolve()}
    problems += undeclared([name for name in found if name not in moved], declared, " but is in $PENSTOCK_OUTPUTS")
    return problems


def _place(source: _Source, outputs_dir: Path, copier: _Copier) -> None:
    """Put the content of a file output where `$PENSTOCK_OUTPUTS` wants it."""
    import shutil  # noqa: PLC0415 - only steps with files need it

    target = outputs_dir / source.name
    if target.exists():  # it is the same file, see _source
        return
    outputs_dir.mkdir(parents=True, exist_ok=True)
    try:
        if source.path.is_dir():
            shutil.copytree(source.path, target, symlinks=True, copy_function=copier.copy)
        else:
            copier.copy(str(source.path), str(target))
    except OSError:
        # Half a file must not look like an output.
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
        raise


class _Copier(NamedTuple):
    """Copies a file, or links it where it was made by this function.

    Attributes:
        own: folders in which it may have made files, links resolved.
        since: when it was started, nanoseconds since the epoch.
    """

    own: tuple[Path, ...]
    since: int

    def copy(self, source: str, target: str) -> object:
        """Make `target` the same as the file `source`."""
        import shutil  # noqa: PLC0415 - only steps with files need it

        made_here = any(os.path.commonpath([source, folder]) == str(folder) for folder in self.own)
        if made_here and os.stat(source).st_mtime_ns >= self.since:  # noqa: PTH116 - shutil calls with strings
            try:
                os.link(source, target)
            except OSError:
                pass  # another file system, or one without links
            else:
                return target
        return shutil.copy2(source, target)


def _write(path: Path, data: bytes) -> None:
    # In place and not by renaming: in a pod this file is a mount. Emptied if it cannot be written whole.
    with open(path, "wb", buffering=0) as file:  # noqa: PTH123
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(0)
            raise
