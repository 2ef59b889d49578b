"""A gateway for all tests of a file, and `penstock` in a folder with its address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.cli.support import Cli

from .cluster import ClusterServer
from .endpoints_fixtures import PIPELINE, Endpoints
from .support import ApiServer, Gateway, OnGateway, until


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


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    server = ClusterServer()
    found = Endpoints(tmp_path_factory.mktemp("endpoints"), server)
    yield found
    found.kill()
    server.close()


@pytest.fixture
def endpoints(serving: Endpoints) -> Endpoints:
    """A gateway with one endpoint, `iris`, and no executions."""
    server = serving.server
    server.refuse.clear()
    server.on_create = lambda _: None
    for kind, namespace, name in list(server.objects):
        server.remove(kind, name, namespace)
    server.seen.clear()
    ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "Compiled"}]}
    server.put("pipelines", "iris", spec=PIPELINE, status=ready)
    server.deployment("iris")
    until(lambda: serving.call({"nobody": 1}).status_code == 422)
    return serving
