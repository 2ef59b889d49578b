"""Ends of attempts that the server does not take when they are recorded: they reach it as soon as it takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from kube_objects import second
from penstock.controller.contract import SystemClock
from penstock.kube import conclusions
from penstock.kube.conclusions import Conclusion, Conclusions, PodEnd

from .support import Bench, Handler, refuse, reset
from .test_attempts import Store, one_step, reported, until, working

Json = dict[str, Any]
TRIES = 5
"""How often the client itself makes a request that the server fails at."""


class Outage:
    """A store whose server does not take writes of one kind until `over`.

    Attributes:
        failed: how many it did not take.
    """

    def __init__(self, store: Store, write: str, fail: Handler) -> None:
        self.failed = 0
        self.over = False
        self._store = store
        self._write = write
        self._fail = fail

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Handle one request."""
        kind, _, sub = ([*request.path.partition("/namespaces/n/")[2].split("/"), "", ""])[:3]
        if self.over or self._write != f"{request.method} {kind}{'/' + sub if sub else ''}":
            return await self._store(request)
        self.failed += 1
        return await self._fail(request)


def conditions(store: Store) -> list[str]:
    """The types of the conditions of the only Job."""
    (job,) = store.objects["jobs"].values()
    return [each["type"] for each in job.get("status", {}).get("conditions", ())]


@pytest.mark.parametrize(
    ("fail", "tries"), [(refuse(503, "ServiceUnavailable"), TRIES), (reset, TRIES), (refuse(403, "Forbidden"), 1)]
)
async def test_the_job_of_a_step_that_ended_in_an_outage_is_ended_after_it(
    fake: Bench, fail: Handler, tries: int
) -> None:
    store = Store()
    store.execution(one_step())
    outage = Outage(store, "PATCH jobs/status", fail)
    async with working(fake, store) as attempts:
        fake.server.default = outage
        await until(lambda: store.objects.get("pods"))
        attempts.pod(reported(store))
        await until(lambda: outage.failed == tries)  # the client has given up
        await until(lambda: len(attempts.conclusions) == 1)
        assert store.status["phase"] == "Succeeded"  # nobody has to wait for what only tells of it
        assert conditions(store) == []
        outage.over = True
        await until(lambda: conditions(store))
        await until(lambda: len(attempts.conclusions) == 0)
    assert "Complete" in conditions(store)
    assert store.asked.count("PATCH jobs/status") == 1


@asynccontextmanager
async def concluding(fake: Bench, handler: Handler) -> AsyncIterator[Conclusions]:
    """Conclusions on their way to a server."""
    fake.server.default = handler
    found = Conclusions(fake.client(), SystemClock())
    work = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def an_end(name: str = "x", pod_end: PodEnd = PodEnd.NONE) -> Conclusion:
    """The end of an attempt that succeeded."""
    status = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": second(1)}]}
    return Conclusion("n", name, status, name, pod_end)


def a_store(*names: str) -> Store:
    """A store with Jobs and Pods of these names."""
    store = Store()
    for kind in ("jobs", "pods"):
        store.objects[kind] = {name: {"metadata": {"name": name}, "spec": {}} for name in names}
    return store


@pytest.mark.parametrize(
    ("pod_end", "write"), [(PodEnd.BY_KUBELET, "PATCH pods"), (PodEnd.DELETED, "DELETE pods"), (PodEnd.NONE, None)]
)
async def test_a_pod_that_runs_on_is_ended_after_the_outage_too(
    fake: Bench, pod_end: PodEnd, write: str | None
) -> None:
    store = a_store("x")
    outage = Outage(store, write or "PATCH jobs/status", refuse(500, ""))
    async with concluding(fake, outage) as ends:
        await ends.write(an_end(pod_end=pod_end))
        assert len(ends) == 1
        outage.over = True
        await until(lambda: len(ends) == 0)
    assert store.asked == ([write] if write else []) + ["PATCH jobs/status"]
    if pod_end is PodEnd.BY_KUBELET:
        assert store.pod()["spec"]["activeDeadlineSeconds"] == 1
    assert conditions(store) == ["Complete"]


async def test_a_job_that_is_removed_meanwhile_is_forgotten(fake: Bench) -> None:
    store = a_store("x")
    outage = Outage(store, "PATCH jobs/status", refuse(503, ""))
    async with concluding(fake, outage) as ends:
        await ends.write(an_end())
        assert len(ends) == 1
        store.objects["jobs"].clear()
        outage.over = True
        await until(lambda: len(ends) == 0)
    assert store.asked == ["PATCH jobs/status"]


async def test_a_job_that_somebody_has_ended_is_left_as_it_is(fake: Bench) -> None:
    store = a_store("x")
    async with concluding(fake, Outage(store, "PATCH jobs/status", refuse(422, "Invalid"))) as ends:
        await ends.write(an_end(pod_end=PodEnd.BY_KUBELET))
        assert len(ends) == 0
    assert store.asked == ["PATCH pods"]


async def test_no_more_ends_are_kept_than_fit(fake: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conclusions, "MOST_WAITING", 2)
    store = a_store("a", "b", "c")
    outage = Outage(store, "PATCH jobs/status", refuse(503, ""))
    async with concluding(fake, outage) as ends:
        for name in "abc":
            await ends.write(an_end(name))
        assert len(ends) == 2
        await ends.write(an_end("a"))  # is kept already
        assert len(ends) == 2
        outage.over = True
        await until(lambda: len(ends) == 0)
    ended = [name for name, job in store.objects["jobs"].items() if "status" in job]
    assert ended == ["a", "b"]
