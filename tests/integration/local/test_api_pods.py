"""Attempts as Pods, and what they have printed, as the clients of clusters ask for it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.local.api_support import Direct, Served, a_pipeline, named
from penstock.cli.cluster import Cluster
from penstock.cli.log_follow import _Seen
from penstock.cli.logs import Choice, find
from penstock.kube import names
from penstock.kube.client import Client
from penstock.kube.errors import ApiError, NotFound
from penstock.kube.resources import EXECUTIONS, PIPELINES, PODS
from penstock.local.apiserver import ApiServer
from penstock.local.home import RandomIds
from penstock.local.journal import Journal
from penstock.local.logfile import Printed
from penstock.local.session import LocalSession, Settings

SPEC = {
    "steps": [
        {"name": "load", "script": 'for i in 1 2 3; do echo "line $i"; done'},
        {
            "name": "each",
            "dependsOn": ["load"],
            "forEach": {"items": [1, 2]},
            "script": "echo item; exit 0",
        },
    ]
}


@dataclass
class Running:
    """A session with an API server, and clients."""

    session: LocalSession
    server: ApiServer
    client: Client
    cluster: Cluster


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Running]:
    session = LocalSession(Settings(home=home))
    server = ApiServer(
        database=session.database,
        store=session.store,
        objects=session.objects,
        runner=session,
        clock=session.clock,
        ids=RandomIds(),
    )
    transport = Direct(server)
    client = Client(transport)
    try:
        cluster = Cluster(client=client, transport=transport, namespace="default", chosen=False)
        yield Running(session, server, client, cluster)
    finally:
        await session.close()


async def test_the_logs_of_an_execution_are_found_as_on_a_cluster(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as on:
        body = {"metadata": named("with.dots"), "spec": {"pipelineSpec": SPEC}}
        made = await on.client.create(EXECUTIONS, body)
        await on.session.run(made["metadata"]["uid"])
        body = await on.client.get(EXECUTIONS, "with.dots", "default")
        assert body["status"]["phase"] == "Succeeded"
        found = await find(on.cluster, body, Choice())
        assert [(each.attempt.step, each.attempt.index, each.waiting) for each in found] == [
            ("load", -1, ""),
            ("each", 0, ""),
            ("each", 1, ""),
        ]
        item = await find(on.cluster, body, Choice("each", 1, 1))
        assert [each.pod for each in item] == ["with.dots.each.1.1"]
        pod = await on.client.get(PODS, "with.dots.each.1.1", "default")
        assert names.attempt_of(pod["metadata"]["labels"]) == item[0].attempt
        assert pod["status"]["phase"] == "Succeeded"
        log: dict[str, Any] = {"namespace": "default", "container": names.STEP_CONTAINER}
        assert await on.client.log("with.dots.load.1", **log) == b"line 1\nline 2\nline 3\n"
        assert await on.client.log("with.dots.load.1", tail=1, **log) == b"line 3\n"
        assert await on.client.log("with.dots.load.1", limit_bytes=4, **log) == b"line"
        lines = on.client.follow_log("with.dots.load.1", tail=2, **log)
        async with aclosing(lines):
            assert [line async for line in lines] == [b"line 2", b"line 3"]
        for name in ("with.dots.load.2", "with.dots.load", "other.load.1", "x", "with.dots.load.x"):
            with pytest.raises(NotFound):
                await on.client.get(PODS, name, "default")
        with pytest.raises(ApiError, match="container other is not valid"):
            await on.client.log("with.dots.load.1", namespace="default", container="other")
        listing = await on.client.list(PODS, metadata_only=True, keep=lambda body: body["metadata"]["name"])
        assert len(listing.items) == 3
        assert not (await on.client.list(PODS, namespace="other", keep=lambda body: body)).items


async def test_what_a_step_prints_is_followed_until_it_ends(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f'echo first; read line < "{gate}"; echo "$line"; exit 3'
    async with running(tmp_path / "home") as on:
        spec = {"pipelineSpec": {"steps": [{"name": "wait", "script": script}]}}
        made = await on.client.create(EXECUTIONS, {"metadata": named("one"), "spec": spec})
        run = asyncio.create_task(on.session.run(made["metadata"]["uid"]))
        body = made
        while not [each for each in await find(on.cluster, body, Choice()) if not each.waiting]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        pod = await on.client.get(PODS, "one.wait.1", "default")
        assert pod["status"]["phase"] == "Running"
        assert "running" in pod["status"]["containerStatuses"][0]["state"]
        lines = on.client.follow_log("one.wait.1", namespace="default", container="step", timestamps=True)
        async with aclosing(lines):
            first = await anext(lines)
            assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z first", first)
            await asyncio.to_thread(gate.write_text, "second\n")
            assert [line.partition(b" ")[2] async for line in lines] == [b"second"]
        await run
        pod = await on.client.get(PODS, "one.wait.1", "default")
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (pod["status"]["phase"], state["exitCode"]) == ("Failed", 3)


async def test_an_execution_that_has_waited_for_its_pipeline_runs(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as on:
        made = await on.client.create(EXECUTIONS, {"metadata": named("one"), "spec": {"pipeline": {"name": "iris"}}})
        await on.client.create(PIPELINES, a_pipeline())
        found = await on.session.run(made["metadata"]["uid"])
        assert (found["status"]["phase"], found["status"]["revision"]) == ("Succeeded", "iris-1")


async def test_an_attempt_that_waits_for_its_turn_says_so(tmp_path: Path) -> None:
    served = Served(tmp_path / "home")
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(EXECUTIONS, {"metadata": named("one"), "spec": {"pipeline": {"name": "iris"}}})
    attempt = names.attempt_of({names.STEP: "train", names.ATTEMPT: "1"})
    assert attempt is not None
    Journal(served.database).add(made["metadata"]["uid"], attempt, (), now=1_700_000_000.0)
    cluster = Cluster(client=served.client, transport=served.transport, namespace="default", chosen=False)
    (found,) = await find(cluster, made, Choice())
    assert found.waiting.startswith("Queued: ")
    with pytest.raises(ApiError, match="is waiting to start: Queued"):
        await served.client.log(found.pod, namespace="default", container="step")
    served.close()


TEXTS = st.lists(st.sampled_from([b"", b"a", b"bc\r", b"\n", b"x\n", b"\n\n", "ä\n".encode()]), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=TEXTS, tail=st.integers(0, 6), block=st.integers(1, 7))
def test_the_last_lines_are_those_that_tail_gives(tmp_path: Path, pieces: list[bytes], tail: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.local.logfile._BLOCK", block)
        data = b"".join(pieces)
        path = tmp_path / "log"
        path.write_bytes(data)
        lines = data.split(b"\n")
        whole = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        wanted = b"".join(whole[-tail:]) if tail else b""
        assert b"".join(Printed(path, begun=0.0, tail=tail).more()) == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=TEXTS, cuts=st.lists(st.integers(0, 12), max_size=3), begun=st.sampled_from([0.0, 1_700_000_000.999]))
def test_a_reader_that_begins_again_misses_nothing_and_sees_nothing_twice(
    tmp_path: Path, pieces: list[bytes], cuts: list[int], begun: float
) -> None:
    """As `penstock logs --follow` does over lost connections: from the second of the last line on."""
    path = tmp_path / "log"
    path.write_bytes(b"")
    seen, shown = _Seen(), []
    for end in [*sorted(cuts), len(pieces)]:
        data = b"".join(pieces[:end])
        path.write_bytes(data[: data.rfind(b"\n") + 1])  # a line is read as a whole here, however it is cut there
        seen.begin()
        since: dict[str, Any] = {}
        if seen.since:
            since["since"] = float(int(begun))
        text = b"".join(Printed(path, begun=begun, stamps=True, **since).more())
        shown += [line for each in text.split(b"\n")[:-1] if (line := seen.fresh(each)) is not None]
    data = b"".join(pieces)
    assert shown == data.split(b"\n")[:-1]
