"""A gateway for all tests of a file, and `penstock` in a folder with its address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.cli.support import Cli

from .support import ApiServer, Gateway, OnGateway


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    server = ApiServer()
    found = Gateway(tmp_path_factory.mktemp("gateway"), server)
    found.start()
    yield found
    found.process.terminate()
    found.process.wait()
    server.close()


@pytest.fixture
def gateway(running: Gateway) -> Gateway:
    """A gateway whose store is empty."""
    for path in running.store.iterdir():
        if path.name != ".penstock":
            shutil.rmtree(path)
    running.server.executions.clear()
    running.server.down = False
    return running


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def penstock(cli: Cli, gateway: Gateway) -> OnGateway:
    return OnGateway(cli, gateway)
