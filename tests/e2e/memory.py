"""How much memory our containers in steps' pods take at most, as the kernel of this machine counts it.

PYTEST_DONT_REWRITE: there are no assertions in here.

A container is charged with the page cache of whatever files it reads and writes, which the kernel takes back when it
wants. So there are two figures without it: the peak of what the process itself holds (`VmHWM`: the kernel keeps it, so
none is missed), and the largest of what the control group is charged with less its page cache, of many looks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
OFTEN = 0.05
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")


@dataclass
class Peak:
    """What a program took at most.

    Attributes:
        process: bytes that it held.
        charged: bytes that its control group was charged with, page cache not counted.
        looks: how often it was looked at.
    """

    process: int = 0
    charged: int = 0
    looks: int = 0

    def __str__(self) -> str:
        mib = 1 << 20
        return f"{self.process / mib:.1f} MiB held, {self.charged / mib:.1f} MiB charged without page cache"


@dataclass
class Peaks:
    """What programs in pods took.

    Attributes:
        programs: words of their command lines.
        found: by the pod's uid and the word.
    """

    programs: tuple[str, ...]
    found: dict[tuple[str, str], Peak] = field(default_factory=dict)
    _known: dict[str, tuple[str, str] | None] = field(default_factory=dict)

    def look(self) -> None:
        """Look at all that run now."""
        running = {path.name for path in PROC.iterdir() if path.name.isdecimal()}
        self._known = {number: who for number, who in self._known.items() if number in running}
        for number in running:
            with suppress(OSError):  # it has ended meanwhile
                self._look(PROC / number)

    def _look(self, process: Path) -> None:
        if process.name not in self._known:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            program = next((word for word in self.programs if word in words), None)
            pod = _POD.search((process / "cgroup").read_text())
            if words != [""] and program is None and "runc" in words[0]:
                return  # becomes another program in a moment
            self._known[process.name] = (pod[1].replace("_", "-"), program) if program and pod else None
        who = self._known[process.name]
        if who is None:
            return
        held = re.search(r"^VmHWM:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
        peak = self.found.setdefault(who, Peak())
        peak.looks += 1
        peak.process = max(peak.process, int(held[1]) * 1024 if held else 0)
        peak.charged = max(peak.charged, _charged(process))


def _charged(process: Path) -> int:
    """What the control group of a process is charged with, page cache not counted."""
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            group, used, cache = CGROUPS / "memory", "memory.usage_in_bytes", "total_cache"
        elif controllers == "" and (CGROUPS / "cgroup.controllers").exists():
            group, used, cache = CGROUPS, "memory.current", "file"
        else:
            continue
        folder = group / path.lstrip("/")
        found = re.search(rf"^{cache} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        return max(0, int((folder / used).read_text()) - (int(found[1]) if found else 0))
    return 0


@contextmanager
def peaks(*programs: str) -> Iterator[Peaks]:
    """Look again and again in a thread, until the end."""
    found = Peaks(programs)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(OFTEN):
            found.look()

    thread = threading.Thread(target=work, name="memory")
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
