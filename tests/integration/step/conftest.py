"""Fixtures of the tests of transfers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import Store, running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with running(tmp_path / "store") as found:
        yield found
