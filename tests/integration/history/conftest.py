"""Histories in both databases: a file, and a real PostgreSQL that the tests start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from penstock.storage.history.history import History
from postgres import Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server for the whole session."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/history.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.database())


@pytest.fixture
async def history(url: str) -> AsyncIterator[History]:
    """A history in an empty database."""
    opened = await History.open(url)
    yield opened
    await opened.close()
