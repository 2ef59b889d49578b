"""`python -m tests.e2e`: all end-to-end tests on one cluster, several at a time; those that need it alone come last.

What has failed is run once more with nothing beside it, and counts as failed if it fails again: four tests at a time on
two cores now and then keep a node from doing what it is asked for. They are named, to be mended all the same.

Arguments are pytest's, for both parts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .cluster.cluster import used
from .cluster.locks import turn
from .cluster.settings import Layout
from .cluster.shell import ClusterError, say

FOLDER = Path(__file__).resolve().parent
# Most of what tests do is waiting: more of them at a time than there are cores. A module's tests share its operators.
TOGETHER = ("-m", "not disruptive", "-n", "4", "--dist", "loadscope", "--no-loadscope-reorder")
ALONE = ("-m", "disruptive")
FAILED_BEFORE = ("--last-failed", "--last-failed-no-failures=none", "--verbose", "--color=no")
NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)


def main(arguments: list[str]) -> int:
    """Run them; 0 if all passed."""
    codes: list[int] = []
    # pytest has it as well, and ends in good order; after that the cluster is to end.
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with contextlib.ExitStack() as until_the_end:
            layout = Layout.from_environment()
            # A disruptive test of another session is not taken for a broken cluster.
            with turn(layout.state, alone=False):
                until_the_end.enter_context(used(layout, keep=bool(os.environ.get("PENSTOCK_E2E_KEEP"))))
            for part in (TOGETHER, ALONE):
                codes.append(run(*part, *arguments))
                if codes[-1] == pytest.ExitCode.TESTS_FAILED:
                    say("what has failed is run once more, with nothing beside it:")
                    again = run(*part[:2], *FAILED_BEFORE, *arguments)
                    codes[-1] = again if again != NO_TESTS else codes[-1]
                if codes[-1] == pytest.ExitCode.INTERRUPTED:
                    break
    except ClusterError as error:
        say(str(error))
        return 1
    # With a selection of one's own there may be none of one kind, but not of both.
    ran = [code for code in codes if code != NO_TESTS] if arguments else codes
    return next((code for code in ran if code != 0), 0) if ran else NO_TESTS


def run(*arguments: str) -> int:
    """Run pytest; gives its exit code."""
    command = (sys.executable, "-m", "pytest", str(FOLDER), "--durations=20", *arguments)
    return subprocess.run(command, check=False).returncode


sys.exit(main(sys.argv[1:]))
