"""What starting the command costs: CPU of whole processes, against an interpreter that does nothing."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

RUNS = 15


def cpu(command: list[str]) -> list[float]:
    """CPU seconds (user and system) of each of several runs, after one that is not counted."""
    found = []
    for run in range(RUNS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if run:
            found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return found


def main() -> None:
    """Print a table."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import click'": [sys.executable, "-c", "import click"],
        "penstock --help": [sys.executable, "-m", "penstock.cli", "--help"],
        "penstock lint examples/hello.yaml": [sys.executable, "-m", "penstock.cli", "lint", "examples/hello.yaml"],
    }
    print(f"\n## Start-up: CPU of whole processes, {RUNS} runs\n")
    print("| command | median ms | min | max |")
    print("|---|---|---|---|")
    for name, command in commands.items():
        times = [seconds * 1e3 for seconds in cpu(command)]
        print(f"| `{name}` | {statistics.median(times):.0f} | {min(times):.0f} | {max(times):.0f} |")
