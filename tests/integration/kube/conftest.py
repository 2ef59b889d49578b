"""Fixtures for tests of the Kubernetes adapter that need no cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .support import Bench, bench


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[Bench]:
    """An API server that does as it is told, and sessions to it."""
    async with bench(tmp_path) as found:
        yield found
