"""What kopf is given to read of a list: nothing, because the operator has taken its objects on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from penstock.kube.listed import Listed
from penstock.kube.resources import EXECUTIONS, JOBS, NAMESPACES, PIPELINES, PODS, Resource

from .support import Bench

KINDS = (EXECUTIONS, PIPELINES, JOBS, PODS)


class World:
    """What is on the server: two pages of each kind in each namespace; and what was taken of it, in order."""

    def __init__(self, places: int = 1) -> None:
        self.taken: list[str] = []
        self.again = 0
        self.listed = Listed(dict.fromkeys(KINDS, self._take), places, self._again)

    def _take(self, body: Any) -> None:
        self.taken.append(f"{body['apiVersion']} {body['kind']} {body['metadata']['name']}")

    def _again(self) -> None:
        self.again += 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        second = "continue" in request.query
        metadata = {"resourceVersion": "7", "continue": "" if second else "more"}
        items = [{"metadata": {"name": "b" if second else "a"}}]
        return web.json_response({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})


async def lists(fake: Bench, world: World, kind: Resource, namespace: str | None = None) -> list[Any]:
    """What somebody reads of a kind who lists it in pages as kopf does."""
    fake.server.default, fake.sessions.view = world.answer, world.listed.view
    connection = await fake.sessions.current()
    pages: list[Any] = []
    query = {"limit": "1"}
    while not pages or query.get("continue"):
        async with await connection.session.get(connection.server + kind.path(namespace=namespace), params=query) as r:
            pages.append(await r.json())
        query["continue"] = pages[-1]["metadata"].get("continue", "")
    return pages


async def test_kopf_reads_empty_pages_whose_objects_were_taken(fake: Bench) -> None:
    world = World()
    pages = await lists(fake, world, PIPELINES)
    assert [page["items"] for page in pages] == [[], []]
    assert [page["metadata"]["resourceVersion"] for page in pages] == ["7", "7"]
    assert world.taken == ["penstock.dev/v1alpha1 Pipeline a", "penstock.dev/v1alpha1 Pipeline b"]


async def test_pods_are_taken_after_their_jobs_and_those_after_their_executions_however_they_are_asked_for(
    fake: Bench,
) -> None:
    world = World()
    early = [asyncio.create_task(lists(fake, world, kind)) for kind in (PODS, JOBS)]
    await lists(fake, world, PIPELINES)
    assert not any(task.done() for task in early)
    await lists(fake, world, EXECUTIONS)
    await asyncio.gather(*early)
    assert [line.split()[1] for line in world.taken] == ["Pipeline"] * 2 + ["Execution"] * 2 + ["Job"] * 2 + ["Pod"] * 2


async def test_it_is_complete_when_every_kind_was_listed_in_every_namespace(fake: Bench) -> None:
    world = World(places=2)
    for namespace in ("one", "two"):
        for kind in KINDS:
            assert not world.listed.complete.is_set()
            work = asyncio.create_task(lists(fake, world, kind, namespace))
            if namespace == "two" or kind in (EXECUTIONS, PIPELINES):
                await work
    await asyncio.wait_for(world.listed.complete.wait(), 5)
    assert world.again == 0


async def test_a_list_that_is_asked_for_once_more_says_so(fake: Bench) -> None:
    world = World()
    await lists(fake, world, EXECUTIONS)
    await lists(fake, world, EXECUTIONS)
    assert world.again == 1


@pytest.mark.parametrize(("kind", "query"), [(NAMESPACES, {}), (PODS, {"watch": "true"})])
async def test_all_else_is_left_alone(fake: Bench, kind: Resource, query: dict[str, str]) -> None:
    world = World()
    fake.server.default, fake.sessions.view = world.answer, world.listed.view
    connection = await fake.sessions.current()
    async with await connection.session.get(connection.server + kind.path(), params=query) as response:
        assert len((await response.json())["items"]) == 1
    assert world.taken == []


async def test_our_own_client_reads_what_is_there(fake: Bench) -> None:
    world = World()
    fake.server.default, fake.sessions.view = world.answer, world.listed.view
    found = await fake.client().list(EXECUTIONS, keep=lambda body: body["metadata"]["name"])
    assert found.items == ["a", "b"]
    assert world.taken == []
