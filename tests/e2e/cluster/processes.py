"""Processes that outlive the command which started them: started, found again, and ended by id and start time only.

A process id alone says little after a reboot or a while, so each is kept with the start time that the kernel knows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from .shell import ClusterError, last_lines, wait_until

STOP_SECONDS = 10
# Backgrounded by a shell that ends at once: the process belongs to init and nobody has to wait for it. `setsid` in the
# background has no need to fork, so `$!` is the id of the program itself.
LAUNCHER = 'log="$1"; shift; setsid "$@" >>"$log" 2>&1 </dev/null & echo $!'


@dataclass(frozen=True)
class Process:
    """A process that we started.

    Attributes:
        name: Unique within a cluster.
        pid: Its process id.
        started: Clock ticks from boot to its start: together with the id, no other process has them.
        command: How it was started, and can be again.
    """

    name: str
    pid: int
    started: int
    command: tuple[str, ...]

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.started


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks from boot; None if there is none, or only what is left of one."""
    try:
        # The second field is the program's name in parentheses, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19]) if fields[0] not in "ZX" or _has_threads(pid) else None


def _has_threads(pid: int) -> bool:
    """Whether more than the first thread is left: the ports of a killed process are taken until the last has ended."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except FileNotFoundError:
        return False


class Processes:
    """The processes of one cluster; a file each, so that any later command finds them."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs

    def all(self) -> list[Process]:
        """Everything started and not stopped, dead or alive, in the order of its start."""
        found = [self._read(path) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda process: (process.started, process.pid))

    def get(self, name: str) -> Process:
        """What was started under a name.

        Raises:
            ClusterError: Nothing was.
        """
        path = self._folder / f"{name}.json"
        if not path.exists():
            raise ClusterError(f"no process {name!r} was started; there are: {[p.name for p in self.all()]}")
        return self._read(path)

    def log(self, name: str) -> Path:
        """The file that a process' stdout and stderr go to."""
        return self._logs / f"{name}.log"

    def start(self, name: str, *command: str | Path | int, nice: int = 0) -> Process:
        """Start a program in its own session; its working directory is the folder of the logs.

        Args:
            name: What to call it.
            command: The program and its arguments.
            nice: How much politer than others it is.

        Raises:
            ClusterError: Its name is taken by a living process, or it ended at once.
        """
        path = self._folder / f"{name}.json"
        if path.exists() and self._read(path).alive():
            raise ClusterError(f"the process {name!r} runs already")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        words = tuple(str(word) for word in command)
        polite = ("nice", "-n", str(nice), *words) if nice else words
        launched = subprocess.run(
            ["sh", "-c", LAUNCHER, "sh", str(self.log(name)), *polite],
            capture_output=True, text=True, check=True, timeout=30, cwd=self._logs,
        )  # fmt: skip
        pid = int(launched.stdout)
        started = start_time(pid)
        if started is None:
            raise ClusterError(f"{name} ended at once; {self.log_end(name)}")
        process = Process(name=name, pid=pid, started=started, command=polite)
        path.write_text(json.dumps(asdict(process)))
        return process

    def start_again(self, name: str) -> Process:
        """Start a stopped or dead process as it was started before."""
        return self.start(name, *self.get(name).command)

    def kill(self, name: str, signum: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process, and to nothing else should it have ended."""
        process = self.get(name)
        if process.alive():
            os.kill(process.pid, signum)

    def stop(self, name: str, seconds: float = STOP_SECONDS) -> None:
        """End a process, politely at first; it can be started again.

        Raises:
            ClusterError: It did not even end when killed.
        """
        process = self.get(name)
        self.kill(name, signal.SIGTERM)
        try:
            wait_until(lambda: not process.alive(), timeout=seconds, what=f"{name} to end")
        except ClusterError:
            self.kill(name)
            wait_until(lambda: not process.alive(), timeout=seconds, what=f"{name} (pid {process.pid}) to end, killed")

    def require(self, *names: str) -> None:
        """See to it that processes live.

        Raises:
            ClusterError: One has ended; with the end of its log.
        """
        for name in names:
            if not self.get(name).alive():
                raise ClusterError(f"{name} has ended; {self.log_end(name)}")

    def log_end(self, name: str) -> str:
        """The last lines of a log, for an error message."""
        path = self.log(name)
        text = path.read_text(errors="replace") if path.exists() else ""
        return f"the end of {path}:\n{last_lines(text)}"

    @staticmethod
    def _read(path: Path) -> Process:
        data = json.loads(path.read_text())
        return Process(name=data["name"], pid=data["pid"], started=data["started"], command=tuple(data["command"]))
