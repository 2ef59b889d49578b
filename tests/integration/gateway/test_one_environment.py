"""A gateway of one environment, which has no path of its own: all its addresses begin at the root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from penstock.gateway.access import Cluster, connecting
from penstock.gateway.app import application
from penstock.gateway.service import Service
from penstock.kube.backend import KubeBackend
from penstock.kube.credentials import Kubeconfig, Sessions
from penstock.kube.transport import Transport
from penstock.storage.folder import FolderStore
from penstock.storage.signing import SigningKeys

from .cluster import TOKEN, ClusterServer
from .endpoints_fixtures import PIPELINE, value
from .support import OWN, OWNER, kubeconfig

KEYS = f"test:{(b'k' * 32).hex()}"


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, ClusterServer]]:
    server = ClusterServer()
    server.put("pipelines", "iris", spec=PIPELINE)
    server.deployment("iris")
    source = Kubeconfig([kubeconfig(tmp_path / "config", server.url, token=OWN)], None, False)
    sessions = Sessions(source)
    backend = KubeBackend(Transport(sessions))
    following = asyncio.create_task(backend.run())
    keys = SigningKeys.parse(KEYS)
    store = FolderStore(tmp_path / "store", keys=keys, gateway_url="/")
    served = application(store, keys, Cluster(connecting(source)), service=Service(backend, store), namespace="ours")
    transport = httpx.ASGITransport(served)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=60) as http:
        for _ in range(3_000):
            if (await http.get("/readyz")).status_code == 200:
                break
            await asyncio.sleep(0.01)
        yield http, server
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await sessions.close()
    server.close()


async def test_endpoints_and_both_apis_begin_at_the_root(root: tuple[httpx.AsyncClient, ClusterServer]) -> None:
    http, server = root
    token = {"Authorization": f"EndpointToken {TOKEN}"}
    for path in ("/iris", "/endpoints/iris"):
        answer = await http.post(path, headers=token, json={"rows": 2})
        name = answer.json()["execution_id"]
        server.end(name, outputs=[value("accuracy", 2)])
        found = await http.get(answer.request.url.join(answer.headers["location"]), headers=token)
        assert found.json()["outputs"] == {"accuracy": 2}
    bearer = {"Authorization": f"Bearer {OWNER}"}
    assert (await http.get("/api/v1/pipelines", headers=bearer)).json()[0]["pipeline_name"] == "iris"
    assert (await http.get("/api/v1/namespaces/ours/data", headers=bearer)).json()["objects"] == []
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/nothing/at/all")).json()["name"] == "NotFound"
