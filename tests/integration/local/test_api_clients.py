"""What is written for clusters works against one machine's API server: the gateway's backend, deployments, rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from integration.local.api_support import Served, a_deployment, a_pipeline, an_execution
from penstock.api.base import PipelineRef
from penstock.api.labels import TRIGGER
from penstock.api.pipeline import PipelineSpec
from penstock.cli.apply import apply
from penstock.cli.change import _change
from penstock.cli.cluster import Cluster, fetch
from penstock.cli.cluster import Refused as NoSuch
from penstock.cli.describe import _events
from penstock.controller.ports import NewExecution
from penstock.controller.serving import Refused, Taken
from penstock.engine.mapping import Bound
from penstock.gateway.access import _review, _whoami
from penstock.kube.backend import KubeBackend
from penstock.kube.deployments import CANCELLED_BECAUSE, KubeDeployments, execution_body
from penstock.kube.resources import CONFIG_MAPS, DEPLOYMENTS, EXECUTIONS, PIPELINES, SECRETS
from penstock.kube.sweeping import living


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "home")
    yield found
    found.close()


@asynccontextmanager
async def backend(served: Served) -> AsyncIterator[KubeBackend]:
    """The gateway's backend, once it knows all there is."""
    found = KubeBackend(served.transport)
    task = asyncio.create_task(found.run())
    try:
        while found.trouble():  # noqa: ASYNC110
            await asyncio.sleep(0)
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_gateway_waits_for_an_execution_that_it_has_made(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    await served.client.create(DEPLOYMENTS, a_deployment())
    async with backend(served) as gateway:
        found = gateway.endpoint("default", "calls")
        assert found is not None
        assert found.problem == "the operator has not read it yet"
        body = an_execution("call", labels={TRIGGER: "endpoint"})
        made = await gateway.create(body)
        with pytest.raises(Taken):
            await gateway.create(body)
        with pytest.raises(Refused, match="no input"):
            await gateway.create(an_execution("x") | {"spec": {"inputs": [{"name": "no input"}]}})
        assert not (await gateway.wait("default", "call", None, 0.0)).over
        waiting = asyncio.create_task(gateway.wait("default", "call", None, 60.0))
        await asyncio.sleep(0)
        await served.store.refuse(made["metadata"]["uid"], "InvalidInputs", "no")
        served.server.execution_changed(made["metadata"]["uid"])
        look = await waiting
        assert look.over
        assert look.body is not None
        assert look.body["status"]["reason"] == "InvalidInputs"


async def test_the_gateway_reads_pipelines_revisions_and_config(served: Served) -> None:
    made = await served.client.create(PIPELINES, a_pipeline())
    await served.client.create(CONFIG_MAPS, {"metadata": made["metadata"] | {"name": "c"}, "data": {"a": "1"}})
    async with backend(served) as gateway:
        newest = await gateway.pipeline("default", PipelineRef(name="iris"))
        first = await gateway.pipeline("default", PipelineRef(name="iris", revision=1))
        assert newest is not None
        assert newest == first
        assert await gateway.pipeline("default", PipelineRef(name="iris", revision=2)) is None
        assert await gateway.config("default", [("c", "a"), ("c", "b"), ("d", "a")]) == {("c", "a"): "1"}


async def test_who_is_let_in_may_do_everything(served: Served) -> None:
    assert await _review(served.transport, "create", "default") is None
    assert (await _whoami(served.transport)).name == "penstock"


async def test_the_executions_that_there_are_hold_their_files(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(EXECUTIONS, an_execution())
    uid = made["metadata"]["uid"]
    output = {"name": "x", "file": {"key": "executions/other/x", "sha256": "0", "size": 1}}
    head = json.dumps({"phase": "Succeeded", "outputs": [output]})
    served.database.execute("UPDATE executions SET head = ? WHERE uid = ?", (head, uid))
    found = await living(served.client, "default", [uid, "gone"])
    assert (found.uids, found.keys) == (frozenset({uid}), frozenset({"executions/other/x"}))


async def test_a_schedule_starts_an_execution_that_belongs_to_its_deployment(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(DEPLOYMENTS, a_deployment())
    new = NewExecution(
        name="calls-1", pipeline="iris", revision=None, bound=Bound((), ()), scheduled_at=1_700_000_000, queued=True
    )
    body = await served.client.create(EXECUTIONS, execution_body("default", "calls", made["metadata"]["uid"], new))
    assert body["metadata"]["annotations"]["penstock.dev/scheduled-at"] == "2023-11-14T22:13:20Z"
    assert body["spec"]["suspend"] is True
    change = {"metadata": {"annotations": {"penstock.dev/queued": None}, "uid": body["metadata"]["uid"]}}
    after = await served.client.patch(EXECUTIONS, "calls-1", "default", change | {"spec": {"suspend": False}})
    assert after["metadata"]["annotations"].keys() == {"penstock.dev/scheduled-at"}
    assert after["metadata"]["labels"] == body["metadata"]["labels"]


async def test_an_object_is_described_with_its_events(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    cluster = Cluster(client=served.client, transport=served.transport, namespace="default", chosen=False)
    body = await fetch(cluster, PIPELINES, "iris")
    assert await _events(cluster, body) == []
    with pytest.raises(NoSuch, match='there is no pipeline "irs" in namespace "default"; did you mean "iris"'):
        await fetch(cluster, PIPELINES, "irs")
    elsewhere = Cluster(client=served.client, transport=served.transport, namespace="other", chosen=True)
    with pytest.raises(NoSuch, match='there is no namespace "other"'):
        await fetch(elsewhere, PIPELINES, "iris")


async def test_the_command_line_applies_and_tells_whose_fields_it_would_change(served: Served) -> None:
    cluster = Cluster(client=served.client, transport=served.transport, namespace="default", chosen=False)
    body = a_deployment()
    body["spec"]["suspend"] = False
    assert await apply(cluster, DEPLOYMENTS, body) == ("calls", "created")
    assert await apply(cluster, DEPLOYMENTS, body) == ("calls", "unchanged")
    await _change(cluster, DEPLOYMENTS, "calls", {"suspend": True})
    with pytest.raises(NoSuch, match=r'"penstock" owns spec\.suspend'):
        await apply(cluster, DEPLOYMENTS, body)
    assert await apply(cluster, DEPLOYMENTS, body, force=True) == ("calls", "configured")


class _Newest:
    """Finds the newest revision of any pipeline."""

    async def resolve(self, namespace: str, name: str, number: int | None, pinned: str) -> tuple[str, PipelineSpec]:
        return f"{name}-1", PipelineSpec.model_validate(a_pipeline()["spec"])


async def test_deployments_are_looked_after_as_on_a_cluster(served: Served) -> None:
    marked: list[str] = []
    deployments = KubeDeployments(
        served.client, _Newest(), lambda key, _: marked.append(key), lambda _, path: f"http://here/{path}"
    )

    def seen(plural: str, what: str, body: dict[str, Any]) -> None:
        if plural == "deployments":
            deployments.observe(body, deleted=what == "DELETED")
        elif plural == "executions":
            deployments.execution(body, deleted=what == "DELETED")

    served.server.subscribe(seen)
    await served.client.create(PIPELINES, a_pipeline())
    key = (await served.client.create(DEPLOYMENTS, a_deployment()))["metadata"]["uid"]
    assert marked == [key]
    stored = await deployments.load(key)
    assert stored is not None
    assert (stored.url, stored.edited_at is not None, list(stored.executions)) == ("http://here/calls", True, [])
    new = NewExecution(name="calls-1", pipeline="iris", revision=None, bound=Bound(), queued=True)
    assert await deployments.create(key, new)
    assert await deployments.create(key, new)  # it is its own
    await deployments.release(key, "calls-1")
    await deployments.cancel(key, "calls-1", "room for another")
    body = await served.client.get(EXECUTIONS, "calls-1", "default")
    assert (body["spec"]["cancel"], body["spec"]["suspend"]) == (True, False)
    assert list(body["metadata"]["annotations"]) == [CANCELLED_BECAUSE]
    await deployments.save(key, {"observedGeneration": 1, "active": 1})
    await deployments.store_token(key, "calls-token", "x" * 43)
    assert await deployments.brought_token(key, "calls-token") == "x" * 43
    await served.store.refuse(body["metadata"]["uid"], "InvalidInputs", "no")
    served.server.execution_changed(body["metadata"]["uid"])
    stored = await deployments.load(key)
    assert stored is not None
    assert [(each.name, each.finished_at is not None) for each in stored.executions] == [("calls-1", True)]
    assert stored.status == {"observedGeneration": 1, "active": 1}
    await deployments.delete(key, "calls-1")
    assert served.runner.deleted == [body["metadata"]["uid"]]
    await served.client.delete(DEPLOYMENTS, "calls", "default")
    assert await deployments.load(key) is None
    assert not (await served.client.list(SECRETS, keep=lambda secret: secret)).items
