"""Fixtures: `penstock serve` in a folder of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from integration.cli.support import Cli, until

from .support import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A home that nothing serves yet. At the end nothing that was started may live any more."""
    found = Served(Cli(tmp_path))
    try:
        yield found
        found.close()
        until(lambda: not found.cli.left_behind(), f"all processes are gone: {found.cli.left_behind()}")
    finally:
        for pid in found.cli.left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
