"""Filters, orders and counts: what is asked for is found, and nothing else."""

from __future__ import annotations

import pytest

from history_bodies import NOON, a_step, an_execution, uid
from penstock.storage.history.filters import (
    AllOf,
    AnyOf,
    BadQuery,
    Compare,
    Filter,
    LabelOp,
    LabelRule,
    Op,
    Sort,
    SortKey,
    StepFilter,
)
from penstock.storage.history.history import History
from penstock.storage.history.records import Version

TRIGGER = "penstock.dev/trigger"
DEPLOYMENT = "penstock.dev/deployment"

BODIES = [
    an_execution(0, "Succeeded", labels={TRIGGER: "schedule", DEPLOYMENT: "nightly", "team": "a"}, author="Ann"),
    an_execution(1, "Failed", labels={TRIGGER: "endpoint", DEPLOYMENT: "web", "team": "b"}, reason="StepFailed"),
    an_execution(2, "Running", pipeline="other_100%", labels={"team": "a", "gpu": ""}, author="bob"),
    an_execution(3, "Pending", namespace="second", steps=[]),
    an_execution(4, "Error", pipeline="other", finished=NOON + 100, revision="other-12"),
    an_execution(
        5, "Cancelled", namespace="second", labels={"team": "c"}, name="zeta", message="Disk FULL: \u00c9t\u00e9"
    ),
]


@pytest.fixture
async def filled(history: History) -> History:
    """A history with executions of all kinds; the last one's object was removed."""
    await history.record_many([Version(body, 1) for body in BODIES], {uid(5): NOON + 200})
    return history


def _label(key: str, op: LabelOp, *values: str) -> Filter:
    return Filter(labels=(LabelRule(key, op, values),))


CASES: list[tuple[Filter, set[int]]] = [
    (Filter(), {0, 1, 2, 3, 4, 5}),
    (Filter(namespaces=("second",)), {3, 5}),
    (Filter(namespaces=("second", "default")), {0, 1, 2, 3, 4, 5}),
    (Filter(namespaces=()), set()),
    (Filter(uids=(uid(1), uid(3), "none")), {1, 3}),
    (Filter(pipelines=("other",)), {4}),
    (Filter(revisions=("iris-3",)), {0, 1, 3, 5}),
    (Filter(deployments=("nightly",)), {0}),
    (Filter(deployments=("",)), {2, 3, 4, 5}),
    (Filter(triggers=("schedule", "endpoint")), {0, 1}),
    (Filter(triggers=("run",)), {2, 3, 4, 5}),
    (Filter(phases=("Failed", "Error")), {1, 4}),
    (Filter(created_by=("Ann",)), {0}),
    (Filter(name_prefix="iris-"), {0, 1, 3}),
    (Filter(name_prefix="other_100%-"), {2}),
    (Filter(name_prefix=""), {0, 1, 2, 3, 4, 5}),
    (Filter(name_prefix="z\x00"), set()),
    (Filter(created_from=NOON + 1, created_to=NOON + 3), {1, 2}),
    (Filter(finished_from=NOON + 3), {1, 4, 5}),
    (Filter(finished_to=NOON + 4), {0, 1}),
    (Filter(deleted=True), {5}),
    (Filter(deleted=False, namespaces=("second",)), {3}),
    (_label("team", LabelOp.EQ, "a"), {0, 2}),
    (_label("team", LabelOp.NE, "a"), {1, 3, 4, 5}),
    (_label("team", LabelOp.IN, "a", "c"), {0, 2, 5}),
    (_label("team", LabelOp.IN), set()),
    (_label("team", LabelOp.NOT_IN, "a", "c"), {1, 3, 4}),
    (_label("gpu", LabelOp.EXISTS), {2}),
    (_label("gpu", LabelOp.MISSING), {0, 1, 3, 4, 5}),
    (Filter(labels=(LabelRule("team", LabelOp.EQ, ("a",)), LabelRule("gpu", LabelOp.MISSING))), {0}),
    (Filter(namespaces=("default",), labels=(LabelRule("team", LabelOp.EQ, ("a",)),)), {0, 2}),
    (Filter(namespaces=("default",), phases=("Running",), labels=(LabelRule("team", LabelOp.EQ, ("a",)),)), {2}),
    (Filter(namespaces=("second",), labels=(LabelRule("team", LabelOp.EQ, ("a",)),)), set()),
    (
        Filter(
            namespaces=("default",),
            labels=(LabelRule("team", LabelOp.EQ, ("a",)), LabelRule(TRIGGER, LabelOp.EQ, ("schedule",))),
        ),
        {0},
    ),
    (
        Filter(
            namespaces=("default", "second"),
            pipelines=("iris",),
            labels=(LabelRule("team", LabelOp.IN, ("a", "c")), LabelRule("gpu", LabelOp.MISSING)),
        ),
        {0, 5},
    ),
    (Filter(where=Compare("name", Op.CONTAINS, "R_100%")), {2}),
    (Filter(where=Compare("message", Op.CONTAINS, "disk")), {5}),
    (Filter(where=Compare("message", Op.CONTAINS, "full: \u00c9T\u00e9")), {5}),
    (Filter(where=Compare("message", Op.CONTAINS, "\u00e9t")), set()),
    (Filter(where=Compare("name", Op.ENDS, "00001")), {1}),
    (_label("team", LabelOp.NOT_IN), {0, 1, 2, 3, 4, 5}),
    (Filter(where=Compare("created_by", Op.STARTS, "ANN")), {0}),
    (Filter(where=Compare("phase", Op.NE, "Failed")), {0, 2, 3, 4, 5}),
    (Filter(where=Compare("phase", Op.IN, ("Failed", "Error"))), {1, 4}),
    (Filter(where=Compare("phase", Op.NOT_IN, ("Failed", "Error"))), {0, 2, 3, 5}),
    (Filter(where=Compare("phase", Op.IN, ())), set()),
    (Filter(where=Compare("finished", Op.EQ, False)), {2, 3}),
    (Filter(where=Compare("revision_number", Op.GT, 3)), {4}),
    (Filter(where=Compare("started", Op.GE, NOON + 3)), {2, 4, 5}),
    (Filter(where=Compare("duration", Op.GT, 5)), {4}),
    (Filter(where=Compare("duration", Op.LE, 1)), {0, 1, 5}),
    (Filter(where=AnyOf((Compare("phase", Op.EQ, "Error"), LabelRule("gpu")))), {2, 4}),
    (Filter(where=AllOf((Compare("phase", Op.EQ, "Running"), LabelRule("gpu")))), {2}),
    (Filter(where=AllOf(())), {0, 1, 2, 3, 4, 5}),
    (Filter(where=AnyOf(())), set()),
]


async def test_filters_find_what_they_say_and_nothing_else(filled: History) -> None:
    for wanted, expected in CASES:
        found = await filled.list(wanted)
        assert {each.uid for each in found.items} == {uid(n) for n in expected}, wanted
        assert await filled.count(wanted) == len(expected), wanted


async def test_every_order_is_one_of_both_directions(filled: History) -> None:
    expected = {
        SortKey.CREATED: [0, 1, 2, 3, 4, 5],
        SortKey.STARTED: [0, 1, 2, 4, 5, 3],
        SortKey.ENDED: [0, 1, 5, 4, 2, 3],
        SortKey.DURATION: [0, 1, 5, 4, 2, 3],
        SortKey.NAME: [0, 1, 3, 4, 2, 5],
    }
    for key, order in expected.items():
        up = await filled.list(sort=Sort(key, descending=False))
        down = await filled.list(sort=Sort(key))
        assert [each.uid for each in up.items] == [uid(n) for n in order], key
        assert [each.uid for each in down.items] == [uid(n) for n in reversed(order)], key
    updated = await filled.list(sort=Sort(SortKey.UPDATED), limit=1)
    assert updated.items[0].uid == uid(4)


async def test_pages_can_be_counted_too(filled: History) -> None:
    found = await filled.list(sort=Sort(descending=False), limit=2, offset=4)
    assert [each.uid for each in found.items] == [uid(4), uid(5)]
    assert found.after is None
    assert await filled.count(at_most=4) == 4


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Filter(where=Compare("colour", Op.EQ, "red")), "no field 'colour'; there are: created, "),
        (Filter(where=Compare("created", Op.EQ, "noon")), "created: is compared with seconds"),
        (Filter(where=Compare("created", Op.LT, float("nan"))), "no moment"),
        (Filter(created_from=float("inf")), "no moment"),
        (Filter(where=Compare("revision_number", Op.EQ, "3")), "revision_number: '3' is not of its type"),
        (Filter(where=Compare("revision_number", Op.EQ, 2**40)), "not of its type"),
        (Filter(where=Compare("revision_number", Op.EQ, True)), "not of its type"),
        (Filter(where=Compare("phase", Op.EQ, ("a", "b"))), "phase: '=' takes one value"),
        (Filter(where=Compare("phase", Op.IN, "a")), "phase: 'in' takes several values"),
        (Filter(where=Compare("duration", Op.CONTAINS, "1")), "compares text with text"),
        (_label("team", LabelOp.EQ), "label team: '=' takes 1 value"),
        (_label("team", LabelOp.EXISTS, "a"), "label team: 'exists' takes no values"),
        (Filter(uids=tuple(map(str, range(10_001)))), "uid: 10001 values"),
    ],
)
async def test_a_filter_that_cannot_be_is_refused_in_words(history: History, wanted: Filter, message: str) -> None:
    with pytest.raises(BadQuery, match=message):
        await history.list(wanted)


async def test_steps_have_no_labels_and_pages_have_rows(history: History) -> None:
    with pytest.raises(BadQuery, match="steps have no labels"):
        await history.steps(StepFilter(where=LabelRule("a")))
    with pytest.raises(BadQuery, match="the least is 1"):
        await history.list(limit=0)


@pytest.mark.parametrize(
    "after", ["", "x", "!!!", "bnVsbA", "W10", "WyJlLmNyZWF0ZWQiLHRydWUsIngiLCJ5Il0", "é", "W1tb" * 1_000]
)
async def test_a_cursor_that_no_page_has_given_is_refused(history: History, after: str) -> None:
    with pytest.raises(BadQuery, match="no cursor"):
        await history.list(after=after)


async def test_a_cursor_is_for_the_order_that_gave_it(filled: History) -> None:
    page = await filled.list(limit=1)
    with pytest.raises(BadQuery, match="another order"):
        await filled.list(sort=Sort(SortKey.ENDED), after=page.after)


async def test_steps_are_filtered_by_any_field(history: History) -> None:
    steps = [a_step("a", "Failed", exitCode=3, message="boom"), a_step("b", attempts=4), a_step("c", "Cached")]
    await history.record(an_execution(steps=steps), sequence=1)
    for clause, expected in (
        (Compare("exit_code", Op.EQ, 3), ["a"]),
        (Compare("attempts", Op.GT, 2), ["b"]),
        (Compare("message", Op.CONTAINS, "OO"), ["a"]),
        (AnyOf((Compare("cached", Op.EQ, True), Compare("name", Op.LT, "b"))), ["a", "c"]),
    ):
        found = await history.steps(StepFilter(where=clause))
        assert [each.status["name"] for each in found.items] == expected
