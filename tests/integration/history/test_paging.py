"""Pages put together are the whole in its order, whatever is recorded while they are read."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from history_bodies import NOON, an_execution, uid
from penstock.storage.history.filters import (
    Filter,
    LabelOp,
    LabelRule,
    MetricFilter,
    Sort,
    SortKey,
    StepFilter,
    StepSort,
    StepSortKey,
)
from penstock.storage.history.history import History
from penstock.storage.history.records import Metric, Recorded, RecordedStep, Version
from postgres import Server

LATER = float("inf")
MOST = 10_000


def _or_later(at: float | None) -> float:
    return LATER if at is None else at


KEYS: dict[SortKey, Callable[[dict[str, Any]], Any]] = {
    SortKey.CREATED: lambda each: each["created"],
    SortKey.STARTED: lambda each: _or_later(each["started"]),
    SortKey.ENDED: lambda each: _or_later(each["finished"]),
    SortKey.DURATION: lambda each: LATER if each["finished"] is None else each["finished"] - each["started"],
    SortKey.NAME: lambda each: each["name"],
}
# Few values: ties are what goes wrong.
FACTS = st.fixed_dictionaries(
    {
        "created": st.integers(0, 3),
        "wait": st.integers(0, 2),
        "length": st.integers(0, 2),
        "phase": st.sampled_from(["Pending", "Running", "Succeeded"]),
        "name": st.text(alphabet="aB_\u00e9\U0001f600", min_size=1, max_size=3),
        "team": st.sampled_from(["a", "b"]),
    }
)


async def _pages(history: History, wanted: Filter, sort: Sort, limit: int) -> list[Recorded]:
    found: list[Recorded] = []
    after: str | None = None
    while True:
        page = await history.list(wanted, sort, limit=limit, after=after)
        assert len(page.items) <= limit
        assert page.items or after is None
        assert len(found) < MOST, "it goes round in circles"
        found += page.items
        after = page.after
        if after is None:
            return found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_pages_are_a_sort_cut_into_pieces(
    kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    namespaces = (f"n{number}" for number in itertools.count())
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('history')}/history.db"
    else:
        server: Server = request.getfixturevalue("postgres")
        url = server.url(server.database())

    with asyncio.Runner() as runner:
        history = runner.run(History.open(url))

        @settings(max_examples=40, phases=(Phase.explicit, Phase.generate))  # shrinking takes minutes of a database
        @given(st.lists(FACTS, max_size=12), st.sampled_from(list(KEYS)), st.booleans(), st.integers(1, 5))
        def check(facts: list[dict[str, Any]], key: SortKey, descending: bool, limit: int) -> None:
            runner.run(_check(history, next(namespaces), facts, Sort(key, descending), limit))

        check()
        runner.run(history.close())


async def _check(history: History, namespace: str, facts: list[dict[str, Any]], sort: Sort, limit: int) -> None:
    base = int(namespace[1:]) * 100
    for number, fact in enumerate(facts):
        fact["uid"] = uid(base + number)
        fact["started"] = None if fact["phase"] == "Pending" else fact["created"] + fact["wait"]
        fact["finished"] = fact["started"] + fact["length"] if fact["phase"] == "Succeeded" else None
        body = an_execution(
            base + number,
            fact["phase"],
            namespace=namespace,
            name=fact["name"],
            created=NOON + fact["created"],
            started=None if fact["started"] is None else NOON + fact["started"],
            finished=None if fact["finished"] is None else NOON + fact["finished"],
            labels={"team": fact["team"]},
        )
        await history.record(body, sequence=number)
    key = KEYS[sort.key]
    ordered = sorted(facts, key=lambda each: (key(each), each["uid"]), reverse=sort.descending)
    found = await _pages(history, Filter(namespaces=(namespace,)), sort, limit)
    assert [each.uid for each in found] == [each["uid"] for each in ordered]
    team = Filter(namespaces=(namespace,), labels=(LabelRule("team", LabelOp.EQ, ("a",)),))
    found = await _pages(history, team, sort, limit)
    assert [each.uid for each in found] == [each["uid"] for each in ordered if each["team"] == "a"]


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("key", [SortKey.CREATED, SortKey.NAME])
async def test_what_is_recorded_meanwhile_makes_no_double_and_no_gap(
    history: History, key: SortKey, descending: bool
) -> None:
    before = range(0, 200, 2)
    await history.record_many([Version(an_execution(n, "Running"), 1) for n in before])
    over = asyncio.Event()

    async def insert() -> None:
        for number in itertools.chain(range(1, 200, 2), range(200, 1_000)):
            if over.is_set():
                return
            await history.record(an_execution(number), sequence=1)
            await history.record(an_execution(number % 100 * 2), sequence=2)

    async with asyncio.TaskGroup() as group:
        group.create_task(insert())
        found = await _pages(history, Filter(), Sort(key, descending), 7)
        over.set()
    uids = [each.uid for each in found]
    assert len(uids) == len(set(uids))
    assert {uid(n) for n in before} <= set(uids)


async def test_pages_of_steps_and_metrics_are_complete(history: History) -> None:
    await history.record_many([Version(an_execution(n, steps=_steps(n)), 1) for n in range(9)])
    await history.record_metrics([Metric(uid(n), "a", "loss", 0.5, NOON, number=n % 2) for n in range(9)])
    everything = (await history.steps()).items
    for key in StepSortKey:
        for descending in (True, False):
            sort = StepSort(key, descending)
            found: list[RecordedStep] = []
            after: str | None = None
            while not found or after is not None:
                page = await history.steps(StepFilter(), sort, limit=4, after=after)
                found += page.items
                after = page.after
            assert sorted(each.id for each in found) == sorted(each.id for each in everything)
            assert found == list((await history.steps(StepFilter(), sort)).items)
    assert len((await history.metrics(MetricFilter(steps=("a",)), limit=9)).items) == 9


def _steps(number: int) -> list[dict[str, Any]]:
    return [{"name": name, "phase": "Pending"} for name in ("a", "b", "c")[: number % 3 + 1]]
