"""Running commands and waiting, bounded in time and with errors that say what happened. No knowledge of Kubernetes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

TAIL_LINES = 25


class ClusterError(Exception):
    """Something that `up` or a test needs could not be had; the message says what to do about it."""


def say(text: str) -> None:
    """Tell what is going on; stdout is kept for results."""
    print(f"e2e: {text}", file=sys.stderr, flush=True)


def run(
    *command: str | Path,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Run a command to its end and return its stdout.

    Args:
        command: The program and its arguments.
        timeout: Seconds after which the command is killed.
        cwd: The working directory.
        env: The whole environment, instead of ours.
        stdin: Text for its stdin, which is empty otherwise.

    Raises:
        ClusterError: It is not there, failed, or took too long; with the end of what it printed.
    """
    words = [str(word) for word in command]
    shown = " ".join(words[:6]) + (" …" if len(words) > 6 else "")
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=env, input=stdin or "", check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"there is no command {words[0]!r} here") from error
    except subprocess.TimeoutExpired as error:
        printed = "".join(p.decode() if isinstance(p, bytes) else p or "" for p in (error.stdout, error.stderr))
        raise ClusterError(f"`{shown}` took longer than {timeout:.0f} s\n{last_lines(printed)}") from error
    if done.returncode != 0:
        raise ClusterError(f"`{shown}` ended with {done.returncode}\n{last_lines(done.stdout + done.stderr)}")
    return done.stdout


def succeeds(*command: str | Path, timeout: float = 30) -> bool:
    """Whether a command ends with 0, where failure is an answer and not an error."""
    try:
        run(*command, timeout=timeout)
    except ClusterError:
        return False
    return True


def last_lines(text: str) -> str:
    """The end of a text, indented for an error message."""
    return "\n".join(f"    {line}" for line in text.splitlines()[-TAIL_LINES:])


def wait_until(condition: Callable[[], object], *, timeout: float, what: str, every: float = 0.1) -> None:
    """Wait for a condition to be true.

    Args:
        condition: Asked again and again; what it raises is raised.
        timeout: Seconds to wait.
        what: What is waited for, for the error.
        every: Seconds between two questions.

    Raises:
        ClusterError: It was still false when the time was over.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(every)
