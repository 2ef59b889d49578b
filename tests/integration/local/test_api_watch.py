"""Watches at one machine's API server: nothing that happens is missed, whoever does it and whenever somebody looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.local.api_support import Served, a_deployment, a_pipeline, an_execution, named
from penstock.kube.errors import ApiError, Gone
from penstock.kube.follow import Changed, Listed, changes, everything, versions
from penstock.kube.resources import CONFIG_MAPS, DEPLOYMENTS, EXECUTIONS, PIPELINES, PODS, Resource
from penstock.local import registry
from penstock.local.apiserver import ApiRequest
from penstock.local.gc import Collector, Rules


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "home")
    yield found
    found.close()


def _config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": named(name, **metadata), "data": {}}


async def _until(served: Served, resource: Resource, since: str, **params: str) -> list[tuple[str, str]]:
    """What a watch tells of what has happened since: types and names. It is over at once."""
    given = {"resourceVersion": since, "watch": "true", "timeoutSeconds": "0", **params}
    request = ApiRequest("GET", resource.path(namespace="default"), given)
    data = b"".join([chunk async for chunk in served.server.stream(request)])
    events = [json.loads(line) for line in data.splitlines()]
    return [(each["type"], each["object"]["metadata"].get("name", "")) for each in events]


async def _version(served: Served) -> str:
    return (await served.client.list(PIPELINES, keep=lambda body: body)).resource_version


async def test_a_watch_tells_what_is_new_has_changed_and_is_gone(served: Served) -> None:
    start = await _version(served)
    params = {"resourceVersion": start}
    async with aclosing(changes(served.transport, CONFIG_MAPS, "default", params)) as events:
        await served.client.create(CONFIG_MAPS, _config("a"))
        kind, body = await anext(events)
        assert (kind, body) == ("ADDED", await served.client.get(CONFIG_MAPS, "a", "default"))
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        changed = await served.client.patch(CONFIG_MAPS, "a", "default", {"data": {"x": "y"}})
        assert await waiting == ("MODIFIED", changed)
        await served.client.create(PIPELINES, a_pipeline())  # another kind
        await served.client.delete(CONFIG_MAPS, "a", "default")
        kind, body = await anext(events)
        assert (kind, body["data"]) == ("DELETED", {"x": "y"})
        assert int(body["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])


async def test_objects_are_followed_with_the_code_for_clusters(served: Served) -> None:
    await served.client.create(CONFIG_MAPS, _config("a"))
    async with aclosing(everything(served.client, served.transport, CONFIG_MAPS, namespace="default")) as events:
        first = await anext(events)
        assert isinstance(first, Listed)
        assert [body["metadata"]["name"] for body in first.items] == ["a"]
        await served.client.create(CONFIG_MAPS, _config("b"))
        second = await anext(events)
        assert isinstance(second, Changed)
        assert (second.body["metadata"]["name"], second.deleted) == ("b", False)
        await served.client.delete(CONFIG_MAPS, "a", "default")
        third = await anext(events)
        assert isinstance(third, Changed)
        assert (third.body["metadata"]["name"], third.deleted) == ("a", True)
    following = versions(served.client, served.transport, CONFIG_MAPS, "b", "default")
    async with aclosing(following) as seen:
        assert (await anext(seen))["data"] == {}
        await served.client.patch(CONFIG_MAPS, "b", "default", {"data": {"x": "y"}})
        await served.client.create(CONFIG_MAPS, _config("c"))
        assert (await anext(seen))["data"] == {"x": "y"}
        await served.client.delete(CONFIG_MAPS, "b", "default")
        assert [each async for each in seen] == []


async def test_a_watch_without_a_version_begins_with_all_there_is(served: Served) -> None:
    await served.client.create(CONFIG_MAPS, _config("a"))
    await served.client.create(CONFIG_MAPS, _config("b"))
    assert await _until(served, CONFIG_MAPS, "") == [("ADDED", "a"), ("ADDED", "b")]
    more = {"sendInitialEvents": "true", "allowWatchBookmarks": "true"}
    assert (await _until(served, CONFIG_MAPS, "", **more))[-2:] == [("BOOKMARK", ""), ("BOOKMARK", "")]


async def test_a_watch_tells_how_far_it_is_when_it_ends(served: Served) -> None:
    start = await _version(served)
    await served.client.create(PIPELINES, a_pipeline())
    newest = await _version(served)
    given = {"resourceVersion": start, "watch": "true", "timeoutSeconds": "0", "allowWatchBookmarks": "true"}
    request = ApiRequest("GET", CONFIG_MAPS.path(namespace="default"), given)
    events = [json.loads(line) async for line in served.server.stream(request)]
    assert [(each["type"], each["object"]["metadata"]["resourceVersion"]) for each in events] == [("BOOKMARK", newest)]


async def test_only_what_is_selected_is_told_and_that_it_is_not_selected_any_more(served: Served) -> None:
    start = await _version(served)
    await served.client.create(CONFIG_MAPS, _config("a", labels={"app": "x"}))
    await served.client.create(CONFIG_MAPS, _config("b"))
    middle = await _version(served)
    assert await _until(served, CONFIG_MAPS, start, labelSelector="app=x") == [("ADDED", "a")]
    assert await _until(served, CONFIG_MAPS, start, fieldSelector="metadata.name=b") == [("ADDED", "b")]
    await served.client.patch(CONFIG_MAPS, "b", "default", {"metadata": {"annotations": {"x": "y"}}})
    assert await _until(served, CONFIG_MAPS, middle, labelSelector="app=x") == []
    await served.client.patch(CONFIG_MAPS, "a", "default", {"metadata": {"labels": {"app": "z"}}})
    assert await _until(served, CONFIG_MAPS, middle, labelSelector="app=x") == [("DELETED", "a")]
    await served.client.delete(CONFIG_MAPS, "a", "default")
    assert await _until(served, CONFIG_MAPS, middle, labelSelector="app=x") == [("DELETED", "a")]
    assert await _until(served, CONFIG_MAPS, start, labelSelector="app=x") == []  # it came and went


async def test_objects_are_told_of_in_the_form_that_is_wanted(served: Served) -> None:
    for form, keys in (
        ("PartialObjectMetadata", {"kind", "apiVersion", "metadata"}),
        ("Table", {"kind", "apiVersion", "metadata", "columnDefinitions", "rows"}),
    ):
        accept = f"application/json;as={form};v=v1;g=meta.k8s.io,application/json"
        await served.client.apply(PIPELINES, a_pipeline())
        here = await _version(served)
        await served.client.delete(PIPELINES, "iris", "default")
        await served.client.create(PIPELINES, a_pipeline())
        given = {"resourceVersion": here, "watch": "true", "timeoutSeconds": "0"}
        request = ApiRequest("GET", PIPELINES.path(namespace="default"), given, accept=accept)
        data = b"".join([chunk async for chunk in served.server.stream(request)])
        events = [json.loads(line) for line in data.splitlines()]
        assert [each["type"] for each in events] == ["DELETED", "ADDED"]
        assert all(each["object"]["kind"] == form and each["object"].keys() == keys for each in events)


async def test_what_an_execution_does_is_told(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(EXECUTIONS, an_execution())
    following = versions(served.client, served.transport, EXECUTIONS, "one", "default")
    async with aclosing(following) as seen:
        assert await anext(seen) == made
        await served.store.refuse(made["metadata"]["uid"], "InvalidInputs", "no")
        served.server.execution_changed(made["metadata"]["uid"])
        assert (await anext(seen))["status"]["phase"] == "Failed"
        Collector(served.home, served.database).collect(Rules(keep=0, days=0, cache_days=0), now=9e9)
        assert [each async for each in seen] == []


async def test_what_other_processes_do_is_told(served: Served, tmp_path: Path) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    other = Served(tmp_path / "home")
    start = await _version(served)
    async with aclosing(changes(served.transport, EXECUTIONS, "default", {"resourceVersion": start})) as events:
        await other.client.create(EXECUTIONS, an_execution())
        kind, body = await anext(events)
        assert (kind, body["metadata"]["name"]) == ("ADDED", "one")
    other.close()


async def test_a_watch_goes_on_after_a_restart(served: Served, tmp_path: Path) -> None:
    await served.client.create(CONFIG_MAPS, _config("a"))
    start = await _version(served)
    await served.client.delete(CONFIG_MAPS, "a", "default")
    await served.client.create(CONFIG_MAPS, _config("b"))
    again = Served(tmp_path / "home")
    await again.server.start()
    assert await _until(again, CONFIG_MAPS, start) == [("DELETED", "a"), ("ADDED", "b")]
    again.close()


async def test_who_comes_too_late_is_told_to_begin_anew(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REMEMBERED", 2)
    start = await _version(served)
    for number in range(4):
        await served.client.create(CONFIG_MAPS, _config(f"c{number}"))
        await served.client.delete(CONFIG_MAPS, f"c{number}", "default")
    middle = await _version(served)
    await served.server.start()
    for version in (start, "999999", "x"):
        with pytest.raises(Gone):
            async with aclosing(
                changes(served.transport, CONFIG_MAPS, "default", {"resourceVersion": version})
            ) as events:
                await anext(events)
    assert await _until(served, CONFIG_MAPS, middle) == []


async def test_who_falls_behind_is_told_to_begin_anew(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    start = await _version(served)
    async with aclosing(changes(served.transport, CONFIG_MAPS, "default", {"resourceVersion": start})) as events:
        await served.client.create(CONFIG_MAPS, _config("a"))
        assert (await anext(events))[0] == "ADDED"
        monkeypatch.setattr(registry, "REMEMBERED", 2)
        for number in range(4):
            await served.client.create(CONFIG_MAPS, _config(f"c{number}"))
            await served.client.delete(CONFIG_MAPS, f"c{number}", "default")
        await served.server.start()
        with pytest.raises(Gone):
            await anext(events)


async def test_what_cannot_be_watched_says_so(served: Served) -> None:
    with pytest.raises(ApiError, match="cannot be watched") as caught:
        async with aclosing(changes(served.transport, PODS, "default", {})) as events:
            await anext(events)
    assert caught.value.status == 405


async def test_listeners_in_the_process_are_told_in_order(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    told: list[tuple[str, str, str]] = []
    versions_: list[int] = []

    def listen(plural: str, kind: str, body: dict[str, Any]) -> None:
        told.append((plural, kind, body["metadata"]["name"]))
        versions_.append(int(body["metadata"]["resourceVersion"]))

    served.server.subscribe(listen)
    made = await served.client.create(DEPLOYMENTS, a_deployment())
    owner = {"apiVersion": "x", "kind": "Deployment", "name": "calls", "uid": made["metadata"]["uid"]}
    await served.client.create(EXECUTIONS, an_execution(ownerReferences=[owner]))
    await served.client.apply(PIPELINES, a_pipeline(run="false"))
    await served.client.delete(DEPLOYMENTS, "calls", "default")
    assert told == [
        ("deployments", "ADDED", "calls"),
        ("executions", "ADDED", "one"),
        ("pipelines", "MODIFIED", "iris"),
        ("deployments", "DELETED", "calls"),
        ("executions", "DELETED", "one"),
    ]
    assert versions_ == sorted(versions_)


# --- whatever happens, whoever follows knows all of it ---

NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), NAMES, st.booleans()),
        st.tuples(st.just("label"), NAMES, st.booleans()),
        st.tuples(st.just("change"), NAMES, st.integers(0, 3)),
        st.tuples(st.just("delete"), NAMES, st.none()),
        st.tuples(st.just("look"), st.none(), st.integers(0, 3)),
    ),
    max_size=25,
)


class _Follower:
    """Keeps what it is told, as an informer does, and reconnects whenever it looks."""

    def __init__(self, selector: str) -> None:
        self.selector = {"labelSelector": selector} if selector else {}
        self.version = ""
        self.known: dict[str, Any] = {}

    async def look(self, served: Served, count: int | None = None) -> None:
        """List at first, then take some of the events that there are, or all."""
        if not self.version:
            labels = self.selector.get("labelSelector", "")
            listing = await served.client.list(CONFIG_MAPS, labels=labels, chunk=1, keep=lambda body: body)
            self.known = {body["metadata"]["uid"]: body for body in listing.items}
            self.version = listing.resource_version
        given = {"watch": "true", "timeoutSeconds": "0", "resourceVersion": self.version, **self.selector}
        request = ApiRequest("GET", CONFIG_MAPS.path(namespace="default"), given)
        data = b"".join([chunk async for chunk in served.server.stream(request)])
        for line in data.splitlines()[:count]:
            event = json.loads(line)
            body = event["object"]
            self.version = body["metadata"]["resourceVersion"]
            if event["type"] == "DELETED":
                self.known.pop(body["metadata"]["uid"], None)
            else:
                self.known[body["metadata"]["uid"]] = body


async def _do(served: Served, step: tuple[Any, ...]) -> None:
    what, name, value = step
    labels = {"on": "yes"} if value else None
    if what == "make":
        body = _config(name, **({"labels": labels} if labels else {}))
        await served.ask("POST", CONFIG_MAPS.path(namespace="default"), body)
        return
    path = CONFIG_MAPS.path(namespace="default", name=name)
    given: dict[str, Any] = {"content_type": "application/merge-patch+json"}
    if what == "label":
        await served.ask("PATCH", path, {"metadata": {"labels": labels or {"on": None}}}, **given)
    elif what == "change":
        await served.ask("PATCH", path, {"data": {"n": str(value)}}, **given)
    elif what == "delete":
        await served.ask("DELETE", path)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_event_is_lost(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]) -> None:
    async def work() -> None:
        root = tmp_path_factory.mktemp("home")
        one, other = Served(root), Served(root)
        followers = [_Follower(""), _Follower("on=yes")]
        for follower in followers:
            await follower.look(one)
        for number, step in enumerate(steps):
            if step[0] == "look":
                for follower in followers:
                    await follower.look(one, step[2])
            else:
                await _do((one, other)[number % 2], step)
        for follower in followers:
            await follower.look(other)
            labels = follower.selector.get("labelSelector", "")
            there = await one.client.list(CONFIG_MAPS, labels=labels, keep=lambda body: body)
            assert follower.known == {body["metadata"]["uid"]: body for body in there.items}
        one.close()
        other.close()

    asyncio.run(work())
