"""The fixture that gives every test a folder with the command line in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .support import Cli, until


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """`penstock` in an empty folder. At the end of every test nothing that it has started may live any more."""
    found = Cli(tmp_path)
    yield found
    try:
        until(lambda: not found.left_behind(), f"all processes are gone: {found.left_behind()}")
    finally:
        for pid in found.left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
