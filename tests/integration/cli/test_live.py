"""The live view on a terminal: a real pseudo terminal, read until the command ends."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
from dataclasses import dataclass

from .support import PENSTOCK, Cli, until

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Screen:
    """What a terminal was sent."""

    code: int
    raw: str

    @property
    def text(self) -> str:
        """Without control sequences."""
        return _SEQUENCE.sub("", self.raw).replace("\r", "")

    @property
    def last(self) -> list[str]:
        """The lines that stay: those since the table was drawn for the last time."""
        return _SEQUENCE.sub("", re.split(r"\x1b\[1A\x1b\[2K", self.raw)[-1]).replace("\r", "").splitlines()


def on_terminal(
    cli: Cli, *arguments: str, columns: int = 100, rows: int = 30, env: dict[str, str] | None = None, stop: str = ""
) -> Screen:
    """Run a command with a terminal as its output; once `stop` has been seen, press Ctrl-C."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    before = termios.tcgetattr(theirs)
    popen = subprocess.Popen(
        [*PENSTOCK, *arguments],
        cwd=cli.folder,
        env=cli.env({"TERM": "xterm-256color", **(env or {})}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    read = b""
    os.set_blocking(ours, False)

    def over() -> bool:
        nonlocal read, stop
        ended = popen.poll() is not None
        try:
            while more := os.read(ours, 65_536):
                read += more
        except BlockingIOError:
            pass
        if stop and stop.encode() in read:
            stop = ""
            popen.send_signal(signal.SIGINT)
        return ended

    until(over, "the command has ended")
    assert termios.tcgetattr(theirs) == before, "the terminal is as it was"
    os.close(ours)
    os.close(theirs)
    return Screen(popen.wait(), read.decode())


def manifest(cli: Cli) -> str:
    return cli.pipeline(
        [
            {"name": "prepare", "script": "echo making ready; sleep 0.5"},
            {"name": "train", "script": "true", "forEach": {"items": [1, 2, 3]}, "dependsOn": ["prepare"]},
            {"name": "odd", "script": "true", "when": "1 > 2"},
        ]
    )


def test_steps_phases_progress_and_the_last_line_of_the_log_are_shown(cli: Cli) -> None:
    screen = on_terminal(cli, "run", manifest(cli))

    assert screen.code == 0
    assert "● prepare Running" in screen.text
    assert "making ready" in screen.text
    assert re.search(r"✓ prepare Succeeded 0\.\d+s", screen.text)
    last = "\n".join(screen.last)
    assert re.search(r"p-\w{5} Succeeded .*3/3 steps", last)
    assert re.search(r"✓ train +Succeeded .*3/3 items", last)
    assert re.search(r"- odd +Skipped", last)
    assert "Succeeded in" in screen.last[-1], "the result comes below the table"
    assert "\x1b[32m" in screen.raw, "there are colours"
    assert screen.raw.rindex(SHOW) > screen.raw.index(HIDE), "the cursor is there again"


def test_ctrl_c_is_told_above_the_table_and_leaves_the_terminal_in_order(cli: Cli) -> None:
    file = cli.pipeline([{"name": "long", "script": "echo under way; sleep 1000"}])
    screen = on_terminal(cli, "run", file, stop="under way")

    assert screen.code == 130
    assert "cancelling; `finally` steps still run" in screen.text
    assert "■ long Cancelled" in screen.text
    assert screen.raw.rindex(SHOW) > screen.raw.rindex(HIDE)


def test_a_narrow_terminal_wraps_no_line(cli: Cli) -> None:
    screen = on_terminal(cli, "run", manifest(cli), "-o", "json", columns=20)
    drawn = re.split(r"[\r\n]", _SEQUENCE.sub("", screen.raw).split("{\r\n", 1)[0])

    assert screen.code == 0
    assert any("prepare" in line for line in drawn)
    assert max(len(line) for line in drawn) <= 20


def test_the_smallest_terminal_of_all_harms_nothing(cli: Cli) -> None:
    screen = on_terminal(cli, "run", manifest(cli), columns=1, rows=1)

    assert screen.code == 0
    assert "Traceback" not in screen.text


def test_no_color_is_respected(cli: Cli) -> None:
    screen = on_terminal(cli, "run", manifest(cli), env={"NO_COLOR": "1"})

    assert screen.code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", screen.raw)
    assert "✓ prepare Succeeded" in screen.text


def test_a_dumb_terminal_gets_no_control_sequences(cli: Cli) -> None:
    screen = on_terminal(cli, "run", manifest(cli), env={"TERM": "dumb"})

    assert screen.code == 0
    assert "\x1b" not in screen.raw
    assert "prepare" in screen.text
