"""Reads a step's outputs from beside it: `python -m penstock.step.collector`, in a container of its own.

It waits until the step is over, judges what the step left in the volume that both see, uploads the files among it, and
says what it found in its termination message or its log; see `report`.

How it knows that the step is over (`PENSTOCK_COLLECTOR_WAIT`):
- `signal`: as a native sidecar it is sent SIGTERM after the step has ended.
- `processes`: it shares the step's PID namespace, where pid 1 is the pod's sandbox. A process that is not pid 1 and not
  in the collector's own container belongs to the step. Once one was seen and none is left, the step is over. If none is
  seen but the step has written something, the step was faster than the collector's start. If there is neither, the
  step's image may still be on its way. SIGTERM then ends the wait, but never before the step. That it may be sent is
  told by the line `WAITS` in the log: before, it would just end the collector.

Once it knows, it says so with the line `OVER`. From then on SIGTERM changes nothing: it ends by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from penstock.step.values import Declared, compact_json, load_json

if TYPE_CHECKING:
    from pathlib import Path

SIGNAL = "signal"
PROCESSES = "processes"

WAITS = "penstock: waits for the step"
"""The first line of the log if the step was not over at the first look; SIGTERM is understood by then."""

OVER = "penstock: the step is over"
"""The line of the log after which outputs are read and uploaded."""

EXIT_CONFIGURATION = 64
EXIT_WRITE = 74

_WAIT = "PENSTOCK_COLLECTOR_WAIT"
_DECLARED = "PENSTOCK_OUTPUT_TYPES"
_OUTPUT = "PENSTOCK_OUTPUT"
_OUTPUTS = "PENSTOCK_OUTPUTS"
_MESSAGE = "PENSTOCK_COLLECTOR_MESSAGE"
_MESSAGE_BYTES = "PENSTOCK_COLLECTOR_MESSAGE_BYTES"
_LIMIT = "PENSTOCK_COLLECTOR_LIMIT"
_TRANSFERS = "PENSTOCK_TRANSFERS"

_OFTEN = 0.02
_SELDOM = 0.5


class CollectorError(Exception):
    """The collector was not started as it has to be; the message says why."""


# --- for whoever starts it ---------------------------------------------------------------------------


def environment(
    declared: Sequence[Declared],
    *,
    output_file: str,
    outputs_dir: str,
    message_file: str,
    message_bytes: int,
    limit: int,
    wait: str,
    plan_file: str | None = None,
) -> dict[str, str]:
    """The variables that tell a collector what to do.

    Args:
        declared: the step's outputs.
        output_file: the file that the step sees as `$PENSTOCK_OUTPUT`, as the collector sees it.
        outputs_dir: the folder that the step sees as `$PENSTOCK_OUTPUTS`, as the collector sees it.
        message_file: where the termination message goes.
        message_bytes: how long it may be.
        limit: bytes that the values may have in all, as compact JSON.
        wait: `SIGNAL` or `PROCESSES`.
        plan_file: the plan of transfers (see `plan`); None where no output is a file.
    """
    transfers = {} if plan_file is None else {_TRANSFERS: plan_file}
    return transfers | {
        _WAIT: wait,
        _DECLARED: compact_json([list(output) for output in declared]),
        _OUTPUT: output_file,
        _OUTPUTS: outputs_dir,
        _MESSAGE: message_file,
        _MESSAGE_BYTES: str(message_bytes),
        _LIMIT: str(limit),
    }


# --- what it does -----------------------------------------------------------------------------------


class Settings(NamedTuple):
    """What the environment says; see `environment`."""

    declared: list[Declared]
    output_file: Path
    outputs_dir: Path
    message_file: Path
    message_bytes: int
    limit: int
    wait: str
    plan_file: Path | None


def read_settings(env: Mapping[str, str]) -> Settings:
    """Read the variables that `environment` made.

    Raises:
        CollectorError: one is missing or wrong.
    """
    from pathlib import Path  # noqa: PLC0415

    missing = [
        name for name in (_WAIT, _DECLARED, _OUTPUT, _OUTPUTS, _MESSAGE, _MESSAGE_BYTES, _LIMIT) if name not in env
    ]
    if missing:
        raise CollectorError(f"{', '.join(missing)} not set: this command is started by the operator, beside a step")
    try:
        settings = Settings(
            declared=[Declared(*output) for output in load_json(env[_DECLARED])],
            output_file=Path(env[_OUTPUT]),
            outputs_dir=Path(env[_OUTPUTS]),
            message_file=Path(env[_MESSAGE]),
            message_bytes=int(env[_MESSAGE_BYTES]),
            limit=int(env[_LIMIT]),
            wait=env[_WAIT],
            plan_file=Path(env[_TRANSFERS]) if env.get(_TRANSFERS) else None,
        )
    except (ValueError, TypeError) as error:
        raise CollectorError(f"the variables PENSTOCK_… are not as the operator writes them: {error}") from None
    if settings.wait not in (SIGNAL, PROCESSES):
        raise CollectorError(f"{_WAIT} is {settings.wait!r}: wanted {SIGNAL} or {PROCESSES}")
    return settings


class _Stop:
    """Remembers SIGTERM, and wakes whoever waits for `wake`."""

    def __init__(self) -> None:
        self.asked = False
        self.wake, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        os.write(self._write, b"x")

    def pause(self, seconds: float | None, *descriptors: int) -> None:
        """Sleep until SIGTERM, until one of the descriptors is readable, or for so many seconds."""
        import select  # noqa: PLC0415

        wanted = list(descriptors) if self.asked else [self.wake, *descriptors]
        if wanted or seconds is not None:  # it may have come since the caller looked
            select.select(wanted, [], [], seconds)


class Processes:
    """The processes of the step, as `/proc` of the shared PID namespace shows them.

    Args:
        proc: where `/proc` is.
        own: the collector's own process.
    """

    def __init__(self, proc: str = "/proc", *, own: int | None = None) -> None:
        self._proc = proc
        self._own = os.getpid() if own is None else own
        sandbox, mine = self._cgroup(1), self._cgroup(self._own)
        # In a pod each container has a cgroup of its own; where that is not to be seen, all others are the step's.
        self._mine = mine if mine != sandbox else None

    def alive(self) -> list[int]:
        """Process ids of the step's processes that have not ended, lowest first."""
        with os.scandir(self._proc) as entries:
            found = sorted(int(entry.name) for entry in entries if entry.name.isdecimal())
        return [pid for pid in found if pid not in (1, self._own) and self._is_step(pid)]

    def _is_step(self, pid: int) -> bool:
        stat = self._read(pid, "stat")
        # `pid (name) state …`; a name may hold anything, brackets too.
        state = stat.rpartition(") ")[2][:1]
        if state in ("", "X", "x") or (state == "Z" and not self._has_threads(pid)):
            return False
        return self._mine is None or self._cgroup(pid) != self._mine

    def _has_threads(self, pid: int) -> bool:
        """Whether a process whose first thread has ended lives on in others."""
        try:
            return len(os.listdir(f"{self._proc}/{pid}/task")) > 1  # noqa: PTH208
        except OSError:
            return False

    def _cgroup(self, pid: int) -> str | None:
        return self._read(pid, "cgroup") or None

    def _read(self, pid: int, name: str) -> str:
        try:
            with open(f"{self._proc}/{pid}/{name}", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                return file.read()
        except OSError:
            return ""


def wait_for_processes(processes: Processes, settings: Settings, stop: _Stop) -> None:
    """Return when the step is over; see the module's text."""
    seen = said = False
    pause = _OFTEN
    while True:
        # In this order: what was written before no process was there was written by a step that is over.
        wrote = _wrote(settings)
        asked = stop.asked
        alive = processes.alive()
        if not said and (alive or not (wrote or asked)):
            # Only now: who reads it and sees no end of the step is to find that this one will not see it either.
            print(WAITS, flush=True)
            said = True
        if alive:
            seen = True
            _await_end(alive[0], stop)
            continue
        if seen or wrote or asked:
            return
        stop.pause(pause)
        pause = min(pause * 1.2, _SELDOM)


def _await_end(pid: int, stop: _Stop) -> None:
    """Sleep until a process ends, or shortly where the system cannot tell."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # forbidden here
        stop.pause(_OFTEN * 5)
        return
    try:
        # SIGTERM does not matter here: the step gets its own, and may still write.
        stop.pause(None, descriptor)
    finally:
        os.close(descriptor)
    # A process that ended may still be listed until its parent has looked at it.
    time.sleep(0.001)


def _wrote(settings: Settings) -> bool:
    try:
        try:
            size = os.stat(settings.output_file).st_size  # noqa: PTH116
        except FileNotFoundError:  # a step that gives nothing but files
            size = 0
        return size > 0 or bool(os.listdir(settings.outputs_dir))  # noqa: PTH208
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it is there and cannot be read: `collect` says why


def report(settings: Settings) -> None:
    """Collect the outputs, upload the files among them, and say what was found.

    Raises:
        OSError: it cannot be said.
    """
    from penstock.step.report import gather, message  # noqa: PLC0415 - not while waiting for the step

    result = gather(
        settings.declared,
        settings.output_file,
        settings.outputs_dir,
        limit=settings.limit,
        plan_file=settings.plan_file,
    )
    settings.message_file.write_bytes(message(result, settings.message_bytes))


def main() -> int:
    """Wait for the step and report; returns the exit code."""
    stop = _Stop()
    try:
        settings = read_settings(os.environ)
    except CollectorError as error:
        return _fail(EXIT_CONFIGURATION, str(error))
    if settings.wait == PROCESSES:
        wait_for_processes(Processes(), settings, stop)
    else:
        while not stop.asked:
            stop.pause(None)
    print(OVER, flush=True)
    try:
        report(settings)
    except OSError as error:
        return _fail(EXIT_WRITE, f"the outputs could not be handed on: {error}")
    return 0


def _fail(code: int, message: str) -> int:
    print(f"penstock: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
