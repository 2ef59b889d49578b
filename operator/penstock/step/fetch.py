"""Fetches a step's file inputs before it starts: `python -m penstock.step.fetch`, in an init container.

Its termination message is one JSON object: `problems` (sentences; none: all is there) and `transient` (whether the same
might work later: the platform's trouble, not the user's).

Exit codes: 0 all is there; 64 it was not started as it has to be; 65 an input cannot be had; 74 it could not say so;
75 it might work later.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from penstock.step.transfer import Problem, fetch_inputs
from penstock.step.values import JsonObject, compact_json, load_json

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

EXIT_CONFIGURATION = 64
EXIT_INPUTS = 65
EXIT_WRITE = 74
EXIT_TRANSIENT = 75

_TRANSFERS = "PENSTOCK_TRANSFERS"
_INPUTS = "PENSTOCK_INPUTS"
_MESSAGE = "PENSTOCK_FETCH_MESSAGE"
_GIVEN = "PENSTOCK_GIVEN"

_MESSAGE_BYTES = 4_000
"""Of the 4,096 bytes of a termination message."""
_LONGEST_PROBLEM = 500
_EXIT_TERMINATED = 143


class FetchError(Exception):
    """What a fetch said cannot be used, or it was not started as it has to be; the message says why, for people."""


class Fetched(NamedTuple):
    """What a fetch said.

    Attributes:
        problems: a sentence for each input that is not there; empty: all are.
        transient: whether the same might work later.
    """

    problems: list[str]
    transient: bool


# --- for whoever starts it and reads what it said ---------------------------------------------------


def environment(*, plan_file: str, inputs_dir: str, message_file: str, given_dir: str | None = None) -> dict[str, str]:
    """The variables that tell a fetch what to do; `wire.PATIENCE` and its like may go with them.

    Args:
        plan_file: the plan of transfers (see `plan`).
        inputs_dir: the folder that the step sees as `$PENSTOCK_INPUTS`, as the fetch sees it.
        message_file: where the termination message goes.
        given_dir: a folder with the values among the inputs, each a file, which are copied beside the fetched files;
            None: there are none.
    """
    env = {_TRANSFERS: plan_file, _INPUTS: inputs_dir, _MESSAGE: message_file}
    return env if given_dir is None else {**env, _GIVEN: given_dir}


def parse_message(text: str) -> Fetched:
    """Read a fetch's termination message.

    Raises:
        FetchError: it is not one.
    """
    try:
        found = load_json(text)
        return Fetched([str(problem) for problem in found["problems"]], bool(found["transient"]))
    except (ValueError, TypeError, KeyError):
        shown = text if len(text) <= 200 else f"{text[:199]}…"
        raise FetchError(f"the message of what fetches inputs cannot be read: {shown!r}") from None


# --- what it does -----------------------------------------------------------------------------------


def fetch(env: Mapping[str, str]) -> list[Problem]:
    """Fetch what the environment says; returns what is wrong.

    Raises:
        FetchError: a variable or the plan cannot be used.
    """
    from pathlib import Path  # noqa: PLC0415

    from penstock.step.plan import Plan, PlanError  # noqa: PLC0415

    inputs = Path(env[_INPUTS])
    if _GIVEN in env and (problem := _copy(Path(env[_GIVEN]), inputs)) is not None:
        return [problem]
    try:
        return fetch_inputs(Plan(Path(env[_TRANSFERS])), inputs)
    except (PlanError, ValueError) as error:
        raise FetchError(str(error)) from None


def _copy(given: Path, inputs: Path) -> Problem | None:
    """Copy the values among the inputs to where the files will be."""
    try:
        inputs.mkdir(parents=True, exist_ok=True)
        for source in given.iterdir():
            if not source.name.startswith("."):  # how a kubelet keeps versions of a volume
                (inputs / source.name).write_bytes(source.read_bytes())
    except OSError as error:
        return Problem(f"the values among the inputs cannot be copied to {inputs}: {error.strerror}", transient=False)
    return None


def message(problems: list[Problem]) -> str:
    """What to say about them; never longer than a termination message may be."""
    # One that will not go away makes waiting useless for all.
    transient = bool(problems) and all(problem.transient for problem in problems)
    texts = [p.text if len(p.text) <= _LONGEST_PROBLEM else f"{p.text[: _LONGEST_PROBLEM - 1]}…" for p in problems]
    texts = [text for _, text in sorted(zip(problems, texts, strict=True), key=lambda pair: pair[0].transient)]
    kept = len(texts)
    while True:
        more = [f"and {len(texts) - kept} more"] if kept < len(texts) else []
        found: JsonObject = {"problems": texts[:kept] + more, "transient": transient}
        text = compact_json(found)
        if len(text.encode()) <= _MESSAGE_BYTES:
            return text
        kept -= 1


def main() -> int:
    """Fetch and say what was wrong; returns the exit code."""
    # As the first process of a container it would not be ended by the signal without this.
    signal.signal(signal.SIGTERM, _terminated)
    missing = [name for name in (_TRANSFERS, _INPUTS, _MESSAGE) if name not in os.environ]
    if missing:
        return _fail(
            EXIT_CONFIGURATION,
            f"{', '.join(missing)} not set: this command is started by the operator, before a step",
        )
    try:
        problems = fetch(os.environ)
        code = EXIT_INPUTS if problems else 0
    except FetchError as error:
        problems, code = [Problem(str(error), transient=False)], EXIT_CONFIGURATION
    if problems and all(problem.transient for problem in problems):
        code = EXIT_TRANSIENT
    for problem in problems:
        _fail(code, problem.text)
    try:
        with open(os.environ[_MESSAGE], "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(message(problems))
    except OSError as error:
        return _fail(EXIT_WRITE, f"what went wrong could not be handed on: {error}")
    return code


def _terminated(_number: int, _frame: FrameType | None) -> None:
    # Threads may wait for a store for a long time; what is not complete has a temporary name.
    os._exit(_EXIT_TERMINATED)


def _fail(code: int, text: str) -> int:
    print(f"penstock: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
