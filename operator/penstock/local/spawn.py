"""Starts one command so that its end is known even if penstock does not live to see it.

Nothing here knows of executions. Between penstock and the command stands a small shell that outlives penstock and keeps
a *state file*, which holds up to three lines:

    start <seconds>    written by penstock just before it starts the shell
    pid <number>       written by the shell just before it runs the command: its own pid, and the process group's
    exit <code>        written by the shell when the command has ended; 128 + n for signal n

The shell's standard input is that file, locked (`flock`) by penstock before the shell exists. The lock belongs to the
open file and so is handed to the shell, and the kernel drops it when the shell is gone, however it went. The command
does not get it. So at any later time:

- the file is locked: the shell lives, the command runs or is about to;
- not locked, `exit`: the command ended with that code;
- not locked, `pid` but no `exit`: shell and command were killed (a reboot, `kill -9`);
- not locked, no `pid`: the command was never run, and may safely be started.

There is no window in which a command may or may not be running, and no pid is ever trusted while its owner may be gone.
Appends to a file that has content need no new room on the disk, so the exit code is kept on a full one as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SHELL = "/bin/sh"
_SCRIPT = 'trap : HUP INT TERM; echo "pid $$" >&0 && "$@" </dev/null; c=$?; echo "exit $c" >&0; exit $c'
# `trap :` and not `trap ''`: the shell survives what is sent to its group, the command gets the signals' own meaning.
_BEGUN_SECONDS = 0.5
"""After this a command counts as begun where the system does not show the shell's children."""
_NO_CHILD_SECONDS = 5.0
"""After this a shell without a child counts as one whose command has ended."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run.

    Attributes:
        argv: the program, as a path with a slash in it, and its arguments.
        env: its whole environment.
        cwd: its working directory.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path


@dataclass(frozen=True, slots=True)
class State:
    """What a state file says.

    Attributes:
        started_at: when the command was started, seconds since the epoch.
        pid: of the shell, which leads the command's session and process group; None: the command was never run.
        exit_code: of the command, once it has ended.
        changed_at: when the file was last written: with an exit code, when the command ended.
    """

    started_at: float | None = None
    pid: int | None = None
    exit_code: int | None = None
    changed_at: float | None = None


def read_state(path: Path) -> State:
    """Read a state file; a missing one says nothing."""
    try:
        text = path.read_text("ascii", "replace")
        changed_at = path.stat().st_mtime
    except FileNotFoundError:
        return State()
    # A last line without its end was torn and says nothing.
    lines = dict(line.split(" ", 1) for line in text.split("\n")[:-1] if " " in line)
    return State(
        started_at=float(lines["start"]) if "start" in lines else None,
        pid=int(lines["pid"]) if "pid" in lines else None,
        exit_code=int(lines["exit"]) if "exit" in lines else None,
        changed_at=round(changed_at, 3),
    )


def is_alive(path: Path) -> bool:
    """Whether the shell that keeps a state file lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Process:
    """The shell around one command: a child of ours, or one that an earlier penstock has left running.

    Args:
        pid: of the shell.
        state: its state file.
        child: the child, if it is ours.
    """

    def __init__(self, pid: int, state: Path, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._state = state
        self._child = child
        self._pidfd = -1
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, done: Callable[[], None]) -> None:
        """Have `done` called once in the running loop when the shell is gone."""
        self._loop = loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            self._pidfd = _open_pidfd(self.pid)
        if self._pidfd >= 0 and (self._child is not None or is_alive(self._state)):
            # Still locked after the pid was opened: it is the shell's, and not that of a later process.
            loop.add_reader(self._pidfd, self._gone, done)
            return
        threading.Thread(target=self._wait, args=(loop, done), name=f"wait-{self.pid}", daemon=True).start()

    def _gone(self, done: Callable[[], None]) -> None:
        self.unwatch()
        done()

    def _wait(self, loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
        if self._child is not None:
            self._child.wait()
        else:
            with self._state.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(lambda: done() if self._loop is not None else None)

    def unwatch(self) -> None:
        """Take back `watch`; the process goes on."""
        if self._pidfd >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._loop = None

    def begun(self, age: float) -> bool:
        """Whether the command itself runs, or has: before, the shell around it would swallow a signal.

        Between its fork and its exec the command is still a copy of the shell, traps included.

        Args:
            age: how long ago the shell was started, in seconds; where the system cannot tell, this has to do.
        """
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_bytes().split()
            shell = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return age >= _BEGUN_SECONDS
        if not children:
            return read_state(self._state).exit_code is not None or age >= _NO_CHILD_SECONDS
        with contextlib.suppress(OSError):  # it is gone already
            return Path(f"/proc/{int(children[0])}/cmdline").read_bytes() != shell
        return True

    def signal(self, number: int) -> None:
        """Send a signal to the command and all that it has started in its process group."""
        if self._child is not None and self._child.returncode is not None:
            return
        if self._child is None and not is_alive(self._state):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def reap(self) -> int | None:
        """After its end: end what the command has left running, and give its exit code; None if that is not known."""
        if self._child is None:
            end_leftovers(self.pid, self._state.parent)
            return read_state(self._state).exit_code
        # Before the child is waited for, so that its pid cannot have been given to anyone else.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._child.wait()
        return code if code >= 0 else read_state(self._state).exit_code

    def abandon(self) -> None:
        """Let it run on without us, as a later penstock will find it."""
        self.unwatch()
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # else Python complains that nobody waits for it


def spawn(command: Command, *, state: Path, log: Path, now: float) -> Process:
    """Start a command in a session of its own, what it prints going to the end of `log`.

    Args:
        command: what to run.
        state: the state file; must not be there.
        log: the log file.
        now: the time, seconds since the epoch.

    Raises:
        OSError: it cannot be started; `E2BIG`: arguments and environment are too long for the system.
        ValueError: an argument or variable holds a NUL character.
    """
    unusual = [name for name in command.env if not _PLAIN_NAME.fullmatch(name)]
    argv = list(command.argv)
    if unusual:  # shells drop variables that they cannot name
        argv = ["/usr/bin/env", *(f"{name}={command.env[name]}" for name in unusual), *argv]
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    locked = os.open(state, flags, 0o644)
    try:
        fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(locked, f"start {now:.3f}\n".encode("ascii"))
        printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            child = subprocess.Popen(
                [_SHELL, "-c", _SCRIPT, "penstock", *argv],
                stdin=locked,
                stdout=printed,
                stderr=printed,
                cwd=command.cwd,
                env=command.env,
                start_new_session=True,
            )
        finally:
            os.close(printed)
    finally:
        os.close(locked)
    return Process(child.pid, state, child)


def _open_pidfd(pid: int) -> int:
    if sys.platform != "linux":
        return -1
    return os.pidfd_open(pid)


def end_leftovers(session: int, folder: Path) -> None:
    """Kill what is left of a session whose leader is gone. Linux only; elsewhere it is left alone.

    The number of a session may have been given to others since. Its processes are known by their environment, which
    names the attempt's folder.
    """
    if sys.platform != "linux":
        return
    mark = os.fsencode(folder)
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == session and mark in Path(entry.path, "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
