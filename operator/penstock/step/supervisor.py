"""Runs a function step that has files or large values: `python -P -m penstock.step.supervisor package.module:callable`.

It fetches the file inputs, runs the function as `runtime` does in a process of its own, judges what that left, uploads
the files among it, and says what it found: see `report`. So one container does what takes two others beside any other
step. The function's process has nothing of what this one knows in its environment or arguments: the plan of transfers
is only read here.

What it says is its termination message, with `exit` besides: the exit code of the function, or null where it was not
run because its inputs were not there. When it speaks, no process of the function is left that could write into it, or
into the log, and the lines that it writes to the log begin with a mark that was made after their end. Whoever ends
without having said anything has given nothing, whatever was uploaded by then.

Signals: while inputs are fetched they end it; then they go to the function; while outputs are uploaded they change
nothing.

Exit codes: that of the function (128 + n where a signal ended it); 64 it was not started as it has to be; 74 inputs or
outputs were not transferred or are not as declared, which the message tells, or nothing could be said.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from penstock.step.report import InLog, ReportError, Result, gather, message, read_message, shortened
from penstock.step.values import Declared, JsonObject, compact_json, load_json

if TYPE_CHECKING:
    from types import FrameType

MODULE = "penstock.step.supervisor"

EXIT_CONFIGURATION = 64
EXIT_TRANSFER = 74

_VARIABLE = "PENSTOCK_SUPERVISOR"
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class SupervisorError(Exception):
    """It was not started as it has to be; the message says why."""


class Outcome(NamedTuple):
    """What a supervisor said.

    Attributes:
        exit_code: that of the function; None: it was not run.
        found: what became of inputs and outputs, or where that is to be read.
    """

    exit_code: int | None
    found: Result | InLog


class Settings(NamedTuple):
    """What a supervisor is told besides the step contract.

    Attributes:
        message_file: where the termination message goes.
        message_bytes: how long it may be.
        limit: bytes that the values may have in all, as compact JSON.
        plan_file: the plan of transfers (see `plan`); empty where no input and no output is a file.
        inputs_dir: where to put fetched files: what the function sees as `$PENSTOCK_INPUTS`, but may not write to;
            empty where no input is a file.
        given_dir: the folder with the values among the inputs, which are copied beside the files; empty: there are
            none.
        environment: variables for itself alone: of transfers (`wire`), certificates, temporary files.
    """

    message_file: str
    message_bytes: int
    limit: int
    plan_file: str = ""
    inputs_dir: str = ""
    given_dir: str = ""
    environment: Mapping[str, str] = {}


# --- for whoever starts it and reads what it said ---------------------------------------------------


def environment(settings: Settings) -> dict[str, str]:
    """The variable that tells a supervisor what to do, besides those of the step contract and of function steps."""
    return {_VARIABLE: compact_json(settings._asdict())}


def parse_message(text: str) -> Outcome:
    """Read a supervisor's termination message.

    Raises:
        ReportError: it is not one.
    """
    try:
        found = load_json(text)
        code = found["exit"]
        return Outcome(None if code is None else int(code), read_message(found))
    except (ValueError, TypeError, KeyError, AttributeError):
        shown = text if len(text) <= 200 else f"{text[:199]}…"
        raise ReportError(f"what was said of them cannot be read: {shown!r}") from None


# --- what it does -----------------------------------------------------------------------------------


class _Contract(NamedTuple):
    """What the function is told as well."""

    declared: list[Declared]
    output_file: str
    outputs_dir: str


class _Signals:
    """What signals do: they end this process, go to the function's, or nothing."""

    def __init__(self) -> None:
        self.child: int | None = None
        self.over = False
        for number in _FORWARDED:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.over:
            return
        if self.child is None:
            # Threads may wait for a store for a long time; what is not complete has a temporary name.
            os._exit(128 + number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)


def main(arguments: Sequence[str]) -> int:
    """Run a function step; returns the exit code."""
    signals = _Signals()
    env = dict(os.environ)
    try:
        settings, contract = _read(env, arguments)
    except SupervisorError as error:
        return _fail(EXIT_CONFIGURATION, str(error))
    os.environ.update(settings.environment)
    _forget_search_path(env)
    if settings.inputs_dir and (missing := _fetch(settings)) is not None:
        return _say(settings, None, missing)
    command = [sys.executable, "-m", "penstock.step", *arguments]
    try:
        signals.child = os.posix_spawn(sys.executable, command, env, setpgroup=0)
    except OSError as error:
        return _fail(EXIT_CONFIGURATION, f"{sys.executable} cannot be started: {error.strerror}")
    code = _wait(signals.child)
    signals.over = True
    _end_rest(signals.child)
    return _say(settings, code, _outputs(settings, contract))


def _read(env: dict[str, str], arguments: Sequence[str]) -> tuple[Settings, _Contract]:
    """Take what is meant for this process out of the environment."""
    names = (_VARIABLE, "PENSTOCK_OUTPUT_TYPES", "PENSTOCK_OUTPUT", "PENSTOCK_OUTPUTS")
    missing = [name for name in names if name not in env]
    if missing or len(arguments) != 1:
        lacks = f"{', '.join(missing)} not set" if missing else "wanted one argument, package.module:callable"
        raise SupervisorError(f"{lacks}: this command is started by the operator, for a step with `function:`")
    try:
        settings = Settings(**load_json(env.pop(_VARIABLE)))
        declared = [Declared(*output) for output in load_json(env["PENSTOCK_OUTPUT_TYPES"])]
    except (ValueError, TypeError):
        raise SupervisorError(
            f"{_VARIABLE} or PENSTOCK_OUTPUT_TYPES is not as the operator writes it: install in the step's image the "
            "version of penstock that the operator has"
        ) from None
    return settings, _Contract(declared, env["PENSTOCK_OUTPUT"], env["PENSTOCK_OUTPUTS"])


def _forget_search_path(env: Mapping[str, str]) -> None:
    """Modules of the function's own that bear names of the standard library's are not for this process."""
    own = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120 - pathlib may not be needed
    given = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [path for path in sys.path if path == own or path not in given]


def _fetch(settings: Settings) -> JsonObject | None:
    """Fetch the inputs; returns what is to be said if they are not all there."""
    from penstock.step import fetch  # noqa: PLC0415 - the function may have no files
    from penstock.step.transfer import Problem  # noqa: PLC0415

    env = fetch.environment(
        plan_file=settings.plan_file,
        inputs_dir=settings.inputs_dir,
        message_file=settings.message_file,
        given_dir=settings.given_dir or None,
    )
    try:
        problems = fetch.fetch(env)
    except fetch.FetchError as error:
        problems = [Problem(str(error), transient=False)]
    if not problems:
        return None
    problems.sort(key=lambda problem: problem.transient)
    texts = shortened([problem.text for problem in problems])
    return {"outputs": {}, "problems": texts, "transient": problems[0].transient}


def _wait(child: int) -> int:
    """Wait for the function's process, and for orphans that it leaves to the first process; returns its exit code."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _end_rest(child: int) -> None:
    """End what the function's process has left behind, so that nothing changes any more.

    As the first process of its container this one has nobody else beside it. Where it is not (a PID namespace that the
    pod shares), what has not left the function's process group is ended.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _outputs(settings: Settings, contract: _Contract) -> JsonObject:
    from pathlib import Path  # noqa: PLC0415

    plan_file = Path(settings.plan_file) if settings.plan_file else None
    return gather(
        contract.declared,
        Path(contract.output_file),
        Path(contract.outputs_dir),
        limit=settings.limit,
        plan_file=plan_file,
    )


def _say(settings: Settings, code: int | None, result: JsonObject) -> int:
    """Say what became of the step; returns the exit code."""
    problems = result.get("problems", ())
    if not code:  # of a function that failed, its own last words are the last
        for problem in problems:
            _fail(EXIT_TRANSFER, problem)
    try:
        # The function may have changed the log's pipe, which it shares.
        os.set_blocking(sys.stdout.fileno(), True)
        said = message(result, settings.message_bytes, beside={"exit": code}, mark=os.urandom(8).hex())
        with open(settings.message_file, "wb") as file:  # noqa: PTH123
            file.write(said)
    except OSError as error:
        return _fail(EXIT_TRANSFER, f"what became of the step could not be handed on: {error}")
    return code or (EXIT_TRANSFER if problems else 0)


def _fail(code: int, text: str) -> int:
    print(f"penstock: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
