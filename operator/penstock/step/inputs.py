"""Prepares what an attempt sees: the files of `$PENSTOCK_INPUTS`, the variables of the contract, and `$(NAME)`.

For whoever starts attempts. Nothing here knows where files come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.step.values import NAME, compact_json, quote

MAX_VARIABLE = 32 * 1024
"""Bytes of one `INPUT_<NAME>`; the kernel's own bound of one string is 128 KiB."""
MAX_VARIABLES = 128 * 1024
"""Bytes of all of them with their names, so that there is room for the command and the rest of the environment."""


def env_name(name: str) -> str:
    """The environment variable of an input: `INPUT_` and the name in upper case, dashes as underscores."""
    return "INPUT_" + name.upper().replace("-", "_")


def input_text(value: object) -> str:
    """What the file and the variable of an input hold: a string as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else compact_json(value)


def input_env(texts: Mapping[str, str]) -> dict[str, str]:
    """The variables `INPUT_<NAME>` of inputs by name, those left out that are too large for an environment.

    Inputs count in their own order: one that no longer fits is left out, smaller ones after it may still be there.

    Raises:
        ValueError: two names make the same variable.
    """
    env: dict[str, str] = {}
    owner: dict[str, str] = {}
    room = MAX_VARIABLES
    for name, text in texts.items():
        variable = env_name(name)
        if variable in owner:
            raise ValueError(
                f"inputs {quote(owner[variable])} and {quote(name)} are both {variable}: rename one of them"
            )
        owner[variable] = name
        size = len(text.encode())
        whole = len(variable) + size + 2  # "=" and the NUL at its end
        if size <= MAX_VARIABLE and whole <= room and "\0" not in text:
            env[variable] = text
            room -= whole
    return env


def write_inputs(
    folder: Path,
    inputs: Mapping[str, object],
    files: Mapping[str, Path | Sequence[Path | None]],
    *,
    link: bool = True,
) -> dict[str, str]:
    """Write `$PENSTOCK_INPUTS`: a file for each value, the file or folder itself for each file.

    A list of files becomes a folder with entries `0`, `1`, …; an item without a file has no entry.

    Args:
        folder: what the step will see as `$PENSTOCK_INPUTS`; made if it is not there.
        inputs: JSON values by name.
        files: existing files and folders by name, or the files of a fan-out in item order.
        link: symbolic links to the files; False: copies, for a step that does not see where the files are.

    Returns:
        The variables `INPUT_<NAME>` (see `input_env`); for a file, its path in `folder`.

    Raises:
        ValueError: a name that cannot be a file name, is given twice, or two that make the same variable.
        OSError: something cannot be written, or a file is not there.
    """
    texts: dict[str, str] = {}
    for name in [*inputs, *files]:
        if not NAME.fullmatch(name):
            raise ValueError(f"{quote(name)} cannot be the name of an input")
        if name in texts:
            raise ValueError(f"input {quote(name)} is given both as a value and as a file")
        texts[name] = input_text(inputs[name]) if name in inputs and name not in files else str(folder / name)
    env = input_env(texts)
    folder.mkdir(parents=True, exist_ok=True)
    for name in inputs:
        # Bytes: text mode would change line ends on some systems.
        (folder / name).write_bytes(texts[name].encode())
    for name, source in files.items():
        if isinstance(source, Path):
            _place(source, folder / name, link=link)
            continue
        (folder / name).mkdir()
        for index, item in enumerate(source):
            if item is not None:
                _place(item, folder / name / str(index), link=link)
    return env


def _place(source: Path, target: Path, *, link: bool) -> None:
    if link:
        target.symlink_to(source.resolve(strict=True))
        return
    import shutil  # noqa: PLC0415 - most inputs are values or links

    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def contract_env(
    *,
    inputs_dir: Path | str,
    output_file: Path | str,
    outputs_dir: Path | str,
    execution: str,
    step: str,
    attempt: int,
    pipeline: str,
    index: int = -1,
) -> dict[str, str]:
    """The variables `PENSTOCK_…` of the step contract.

    Args:
        inputs_dir: folder of the inputs, as the step sees it.
        output_file: file to append values to, as the step sees it.
        outputs_dir: folder for file outputs, as the step sees it.
        execution: name of the execution.
        step: name of the step.
        attempt: number of the attempt, from 1.
        pipeline: name of the pipeline.
        index: number of the item of a fan-out, from 0; -1 outside of one, where there is no `PENSTOCK_INDEX`.
    """
    env = {
        "PENSTOCK_INPUTS": str(inputs_dir),
        "PENSTOCK_OUTPUT": str(output_file),
        "PENSTOCK_OUTPUTS": str(outputs_dir),
        "PENSTOCK_EXECUTION": execution,
        "PENSTOCK_STEP": step,
        "PENSTOCK_ATTEMPT": str(attempt),
        "PENSTOCK_PIPELINE": pipeline,
    }
    if index >= 0:
        env["PENSTOCK_INDEX"] = str(index)
    return env


_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, env: Mapping[str, str]) -> str:
    """Expand `$(NAME)` as Kubernetes does in `command`, `args` and `env`.

    `$$` is an escaped `$`, so `$$(NAME)` becomes the text `$(NAME)`. References to names that are not in `env` stay as
    they are, and so does every other `$`. What was put in is not expanded again.
    """

    def replacement(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else env.get(name, match[0])

    # Behind the last closing bracket there is no reference; looking for one there would take quadratic time.
    end = text.rfind(")") + 1
    return _REFERENCE.sub(replacement, text[:end]) + text[end:].replace("$$", "$")
