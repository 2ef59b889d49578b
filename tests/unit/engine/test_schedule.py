"""What starts, what is dropped and when to look again, on a clock that jumps, stops and goes back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crons import random_cron
from penstock.api.base import OBJECT_NAME
from penstock.api.deployment import Schedule
from penstock.engine.cron import moments, upcoming
from penstock.engine.schedule import Due, Mark, due, fire_name

MINUTE, HOUR, DAY = 60, 3_600, 86_400
NOON = datetime(2026, 5, 5, 12, tzinfo=UTC).timestamp()


def schedule(cron: str = "* * * * *", **fields: Any) -> Schedule:
    return Schedule.model_validate({"cron": cron, **fields})


class Operator:
    """Keeps the mark of one schedule as an operator does, and lists what was started."""

    def __init__(self, wanted: Schedule, now: float = NOON, *, edited_at: float | None = None) -> None:
        self.wanted = wanted
        self.suspended = False
        self.mark: Mark | None = None
        self.fired: list[int] = []
        self.missed = 0
        self.look(now, edited_at=edited_at)

    def look(self, now: float, *, edited_at: float | None = None) -> Due:
        self.now = now
        found = due(self.wanted, suspended=self.suspended, mark=self.mark, now=now, edited_at=edited_at)
        self.mark, self.found = found.mark, found
        self.fired += found.fires
        self.missed += found.missed
        return found

    def wake(self, late: float = 0.05) -> Due:
        """Looks when it was told to, a bit later."""
        assert self.found.next_at is not None
        return self.look(max(self.now, self.found.next_at + late))


def ago(found: Iterable[int], now: float) -> list[float]:
    return [now - moment for moment in found]


# --- in time ---


@pytest.mark.parametrize("cron", ["* * * * *", "*/7 3-20 * * *", "0 9 * * mon-fri", "0 0 29 2 *"])
@pytest.mark.parametrize("late", [0, 0.05, 15])
def test_an_operator_that_wakes_when_it_was_told_starts_every_time_once(cron: str, late: float) -> None:
    operator = Operator(schedule(cron, timeZone="Europe/Paris"))
    for _ in range(50):
        assert len(operator.wake(late).fires) == 1
    assert operator.fired == upcoming(operator.wanted, NOON, 50)
    assert operator.missed == 0


def test_looking_more_often_changes_nothing_and_gives_nothing_to_write() -> None:
    operator = Operator(schedule("*/10 * * * *"))
    for second in range(0, HOUR, 7):
        before, found = operator.mark, operator.look(NOON + second)
        assert (found.mark == before) is (not found.fires)
        assert found.next_at == (NOON + second) // 600 * 600 + 600
    assert operator.fired == [NOON + 600 * n for n in range(1, 6)]


def test_the_second_at_which_a_time_comes_is_not_too_early() -> None:
    operator = Operator(schedule())
    assert operator.look(NOON + MINUTE - 0.001).fires == ()
    assert operator.look(NOON + MINUTE).fires == (NOON + MINUTE,)
    assert operator.look(NOON + MINUTE).fires == ()


def test_operators_that_decide_at_once_want_the_same_executions() -> None:
    wanted = schedule()
    mark = Operator(wanted).mark
    one, other = (due(wanted, suspended=False, mark=mark, now=NOON + MINUTE + late) for late in (0.1, 14))
    assert one.fires == other.fires == (NOON + MINUTE,)
    assert one.mark == other.mark


# --- late and missed ---


@pytest.mark.parametrize("catch_up", ["None", "Last", "All"])
@pytest.mark.parametrize("down", [15, 45, 119.9, 120])
def test_a_restart_or_a_new_leader_costs_no_execution(catch_up: str, down: float) -> None:
    operator = Operator(schedule("0 * * * *", catchUp=catch_up))
    found = operator.look(NOON + HOUR + down)
    assert (found.fires, found.missed) == ((NOON + HOUR,), 0)


def test_with_none_what_is_late_by_more_than_two_minutes_is_dropped_and_counted() -> None:
    operator = Operator(schedule("0 * * * *"))
    found = operator.look(NOON + HOUR + 120.1)
    assert (found.fires, found.missed, found.missed_last) == ((), 1, NOON + HOUR)
    assert found.next_at == NOON + 2 * HOUR
    assert operator.look(NOON + HOUR + 121).missed == 0


@pytest.mark.parametrize(
    ("down", "none", "last", "everything"),
    [
        (5 * MINUTE, 3, 3, 5),  # 10:03, 10:04 and 10:05 are on time
        (90 * MINUTE, 3, 3, 90),
        (3 * HOUR, 3, 3, 100),
        (10 * DAY, 3, 3, 100),
        (100 * DAY, 3, 3, 100),
    ],
)
def test_after_an_outage_of_minutes_to_months_each_minute(down: int, none: int, last: int, everything: int) -> None:
    for catch_up, wanted in {"None": none, "Last": last, "All": everything}.items():
        operator = Operator(schedule(catchUp=catch_up))
        found = operator.look(NOON + down)
        assert list(found.fires) == [NOON + down - MINUTE * n for n in reversed(range(wanted))]
        assert found.missed == min(100, down // MINUTE - wanted)
        assert found.next_at == NOON + down + MINUTE


@pytest.mark.parametrize(("days", "everything"), [(1, 1), (3, 3), (60, 60), (500, 100)])
def test_after_an_outage_of_days_to_a_year_each_day(days: int, everything: int) -> None:
    now = NOON + days * DAY
    times = [NOON + DAY * n - 3 * HOUR for n in range(1, days + 1)]
    for catch_up, fires in {"None": [], "Last": times[-1:], "All": times[-everything:]}.items():
        found = Operator(schedule("0 9 * * *", catchUp=catch_up)).look(now)
        assert list(found.fires) == fires
        assert found.missed == min(100, days - len(fires))


@pytest.mark.parametrize(
    ("catch_up", "deadline", "late"),
    [
        ("None", 60, [0, 60]),
        ("None", 30, [0]),
        ("Last", 60, [0, 60]),
        ("All", 600, [60.0 * n for n in range(11)]),
        ("All", 1, [0]),
    ],
)
def test_a_deadline_drops_what_is_later(catch_up: str, deadline: int, late: list[float]) -> None:
    operator = Operator(schedule(catchUp=catch_up, startingDeadlineSeconds=deadline))
    found = operator.look(NOON + HOUR)
    assert ago(reversed(found.fires), NOON + HOUR) == late
    assert found.missed == 60 - len(late)


def test_the_last_missed_time_is_not_made_up_for_after_its_deadline() -> None:
    wanted = schedule("0 9 * * *", catchUp="Last", startingDeadlineSeconds=3 * HOUR)
    assert Operator(wanted).look(NOON + DAY).fires == (NOON + 21 * HOUR,)
    found = Operator(wanted).look(NOON + DAY + 1)
    assert (found.fires, found.missed) == ((), 1)


# --- a clock that jumps ---


@pytest.mark.parametrize("back", [1, 61, HOUR, 30 * DAY])
def test_a_clock_set_back_starts_nothing_twice(back: int) -> None:
    operator = Operator(schedule(catchUp="All"))
    for _ in range(5):
        operator.wake()
    found = operator.look(NOON + 5 * MINUTE - back)
    assert (found.fires, found.next_at, found.clock_behind) == ((), NOON + 6 * MINUTE, back)
    for _ in range(3):
        operator.wake()
    assert operator.fired == [NOON + MINUTE * n for n in range(1, 9)]


def test_a_clock_set_forward_makes_missed_times() -> None:
    operator = Operator(schedule("0 * * * *", catchUp="Last"))
    operator.wake()
    assert operator.look(NOON + 10.5 * HOUR).fires == (NOON + 10 * HOUR,)
    assert operator.missed == 8


def test_after_a_wrong_jump_far_ahead_an_edit_begins_anew() -> None:
    operator = Operator(schedule("0 * * * *"))
    operator.look(NOON + 365 * DAY)
    assert operator.look(NOON + 1_800).clock_behind == 365 * DAY - 1_800
    operator.wanted = schedule("0 * * * *", catchUp="Last")
    assert operator.look(NOON + 1_800).next_at == NOON + HOUR


@given(
    st.sampled_from(["* * * * *", "*/15 * * * *", "30 2 * * *", "0 9 13 * fri"]),
    st.sampled_from(["None", "Last", "All"]),
    st.lists(st.floats(-3 * DAY, 3 * DAY) | st.floats(-100, 200) | st.just(0.0), max_size=30),
)
@settings(max_examples=150)
def test_whatever_the_clock_does_no_time_starts_twice(cron: str, catch_up: str, jumps: list[float]) -> None:
    operator = Operator(schedule(cron, timeZone="Europe/Paris", catchUp=catch_up))
    now = NOON
    for jump in jumps:
        now += jump
        found = operator.look(now)
        assert all(moment <= now for moment in found.fires)
        assert found.next_at is not None
        assert found.next_at > now
    assert all(earlier < later for earlier, later in pairwise(operator.fired))


@given(st.randoms(use_true_random=False), st.lists(st.floats(0, 40 * DAY), min_size=1, max_size=8))
@settings(max_examples=100)
def test_every_time_is_started_or_counted_as_missed(random: Random, steps: list[float]) -> None:
    catch_up = random.choice(["None", "Last", "All"])
    cron = " ".join([random.choice(["0", "5,55"]), *random_cron(random).split()[1:]])
    operator = Operator(schedule(cron, timeZone="America/New_York", catchUp=catch_up))
    for step in steps:
        began, now = operator.now, operator.now + step
        passed = moments(operator.wanted).newest(began, now, 10_000)
        found = operator.look(now)
        assert set(found.fires) <= set(passed)
        assert len(found.fires) + found.missed == len(passed) or found.missed == 100
        assert {moment for moment in passed if now - moment <= 120} <= set(found.fires)
        if found.missed:
            assert found.missed_last == max(set(passed) - set(found.fires))


# --- edited, suspended, new ---


@pytest.mark.parametrize(
    "edit",
    [{"cron": "*/10 * * * *"}, {"timeZone": "Asia/Kolkata"}, {"daylightSaving": {"skipped": "Skip"}},
     {"startingDeadlineSeconds": 9_999}],
    ids=str,
)  # fmt: skip
def test_times_before_an_edit_are_not_made_up_for(edit: dict[str, Any]) -> None:
    before = {"cron": "*/5 * * * *", "catchUp": "All"}
    operator = Operator(schedule(**before))
    operator.wanted = schedule(**(before | edit))
    found = operator.look(NOON + 2 * HOUR + 1)
    assert (found.fires, found.missed) == ((), 0)
    assert operator.wake().fires == tuple(upcoming(operator.wanted, NOON + 2 * HOUR + 1, 1))


def test_catching_up_that_is_switched_on_later_does_not_reach_back() -> None:
    operator = Operator(schedule("0 * * * *"))
    operator.wanted = schedule("0 * * * *", catchUp="All")
    assert operator.look(NOON + DAY + 1).fires == ()


def test_times_after_an_edit_are_missed_where_it_is_known_when_it_was() -> None:
    operator = Operator(schedule("0 * * * *", catchUp="All"))
    operator.wanted = schedule("30 * * * *", catchUp="All")
    found = operator.look(NOON + 3 * HOUR, edited_at=NOON + HOUR)
    assert ago(found.fires, NOON) == [-1.5 * HOUR, -2.5 * HOUR]


def test_an_edit_that_is_older_than_the_last_start_starts_nothing_again() -> None:
    operator = Operator(schedule("0 * * * *", catchUp="All"))
    operator.wake()
    operator.wanted = schedule("0 * * * *", catchUp="Last")
    assert operator.look(NOON + HOUR + 5, edited_at=NOON + HOUR - 5).fires == ()


def test_an_edit_of_the_future_is_an_edit_of_now() -> None:
    operator = Operator(schedule("0 * * * *"), edited_at=NOON + DAY)
    assert operator.found.next_at == NOON + HOUR


def test_writing_a_default_out_is_no_edit() -> None:
    operator = Operator(schedule("0 * * * *"))
    saving = {"skipped": "RunAfter", "repeated": "Once"}
    operator.wanted = schedule("0 * * * *", timeZone="UTC", catchUp="None", daylightSaving=saving)
    assert operator.look(NOON + HOUR + 10).fires == (NOON + HOUR,)


def test_a_mark_is_of_the_same_schedule_after_an_upgrade() -> None:
    # These were stored. A version in which they come out different would take every schedule for edited.
    plain = Operator(schedule("0 9 * * *", timeZone="Europe/Paris")).mark
    full = Operator(schedule("0 9 * * *", catchUp="All", startingDeadlineSeconds=60)).mark
    assert plain is not None
    assert full is not None
    assert (plain.key, full.key) == ("6640ce3741a347fe", "d61598aa551a11c4")


def test_a_new_schedule_counts_from_when_it_was_made() -> None:
    wanted = schedule("0 * * * *", catchUp="All")
    assert Operator(wanted, edited_at=NOON - 2 * HOUR).fired == [NOON - HOUR, NOON]
    assert Operator(wanted).fired == []


def test_while_suspended_nothing_starts_and_nothing_is_made_up_for() -> None:
    operator = Operator(schedule("0 * * * *", catchUp="All"))
    operator.suspended = True
    suspended = operator.look(NOON + 1)
    for hour in range(1, 5):
        found = operator.look(NOON + hour * HOUR + 1)
        assert (found.fires, found.missed, found.next_at, found.mark) == ((), 0, None, suspended.mark)
    operator.suspended = False
    assert operator.look(NOON + 5.5 * HOUR).fires == ()
    assert operator.wake().fires == (NOON + 6 * HOUR,)


# --- names ---


def test_names_say_deployment_and_time_in_utc() -> None:
    at = int(datetime(2026, 3, 29, 3, tzinfo=ZoneInfo("Europe/Paris")).timestamp())
    assert fire_name("nightly", at) == "nightly-20260329-0100"
    assert fire_name("n" * 49, at) == "n" * 49 + "-20260329-0100"
    assert fire_name("n" * 50, at) == "n" * 40 + "-7dd60b1d-20260329-0100"
    assert fire_name("a" * 39 + "." + "b" * 20, at).startswith("a" * 39 + "-")


@given(
    st.lists(st.tuples(st.from_regex(OBJECT_NAME, fullmatch=True), st.integers(0, 60_000_000)), min_size=2, max_size=9)
)
def test_names_are_short_valid_and_differ_with_deployment_and_time(fires: list[tuple[str, int]]) -> None:
    fires = sorted({(name[:63].rstrip("-.\n") or "a", minute * 60) for name, minute in fires})
    names = [fire_name(*fire) for fire in fires]
    assert len(set(names)) == len(fires)
    for (deployment, _), name in zip(fires, names, strict=True):
        assert len(name) <= 63
        assert re.fullmatch(OBJECT_NAME, name)
        assert name.count(".-") <= deployment.count(".-")


def test_both_times_of_a_repeated_hour_have_names_of_their_own() -> None:
    wanted = schedule("30 2 * * *", timeZone="Europe/Paris", daylightSaving={"repeated": "Twice"})
    first, second = upcoming(wanted, datetime(2026, 10, 24, 12, tzinfo=UTC).timestamp(), 2)
    assert [fire_name("a", first), fire_name("a", second)] == ["a-20261025-0030", "a-20261025-0130"]
