"""The moments of schedules over years of time zones: every local time that is named, no other, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, takewhile
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crons import random_cron
from penstock.api.cron import Cron, parse
from penstock.api.deployment import Schedule
from penstock.engine.cron import moments, upcoming

PARIS, NEW_YORK, LORD_HOWE, TOKYO = "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo"
CHANGING = (PARIS, NEW_YORK, LORD_HOWE)
CHANGES = {
    PARIS: [date(2026, 3, 29), date(2026, 10, 25)],
    NEW_YORK: [date(2026, 3, 8), date(2026, 11, 1)],
    LORD_HOWE: [date(2026, 10, 4), date(2026, 4, 5)],
    TOKYO: [date(2026, 3, 29), date(2026, 10, 25)],
    "Africa/Casablanca": [date(2026, 3, 22), date(2026, 2, 15)],  # an hour back for Ramadan, forward after it
    "America/Sao_Paulo": [date(2017, 10, 15), date(2018, 2, 18)],  # midnight does not exist, 23:00 comes twice
    "Pacific/Apia": [date(2011, 12, 30), date(2012, 4, 1)],  # a whole day does not exist
}


def schedule(cron: str, zone: str = PARIS, **saving: str) -> Schedule:
    return Schedule.model_validate({"cron": cron, "timeZone": zone, "daylightSaving": saving})


def at(local: str, zone: str = PARIS, fold: int = 0) -> int:
    return int(datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp())


def shown(found: list[int], zone: str = PARIS) -> list[str]:
    """Moments as local day, time and what it is ahead of UTC."""
    return [datetime.fromtimestamp(moment, ZoneInfo(zone)).strftime("%d %H:%M %z") for moment in found]


def between(wanted: Schedule, since: float, until: float) -> list[int]:
    return list(takewhile(lambda moment: moment <= until, moments(wanted).following(since)))


# --- the changes of the clocks, by choice ---


@pytest.mark.parametrize(
    ("cron", "saving", "times"),
    [
        ("30 2 * * *", {}, ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        ("30 2 * * *", {"skipped": "Skip"}, ["28 02:30 +0100", "30 02:30 +0200", "31 02:30 +0200"]),
        # All times of the skipped hour are one at its end, and one with a time that is there anyway.
        ("0,20,40 2 * * *", {}, ["28 02:00 +0100", "28 02:20 +0100", "28 02:40 +0100", "29 03:00 +0200"]),
        ("0 2,3 * * *", {}, ["28 02:00 +0100", "28 03:00 +0100", "29 03:00 +0200", "30 02:00 +0200"]),
        ("*/30 2 * * *", {}, ["28 02:00 +0100", "28 02:30 +0100", "29 03:00 +0200", "30 02:00 +0200"]),
        ("0 */2 29 * *", {}, ["29 00:00 +0100", "29 03:00 +0200", "29 04:00 +0200", "29 06:00 +0200"]),
        ("30 * 29 * *", {}, ["29 00:30 +0100", "29 01:30 +0100", "29 03:30 +0200", "29 04:30 +0200"]),
        ("0 3 * * *", {}, ["28 03:00 +0100", "29 03:00 +0200"]),
        ("59 1 * * *", {}, ["28 01:59 +0100", "29 01:59 +0100"]),
    ],
)
def test_where_an_hour_is_skipped(cron: str, saving: dict[str, str], times: list[str]) -> None:
    assert shown(upcoming(schedule(cron, **saving), at("2026-03-28"), len(times))) == times


@pytest.mark.parametrize(
    ("cron", "saving", "times"),
    [
        ("30 2 * * *", {}, ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
        ("30 2 * * *", {"repeated": "Twice"}, ["24 02:30 +0200", "25 02:30 +0200", "25 02:30 +0100", "26 02:30 +0100"]),
        ("0,40 2 25-26 * *", {}, ["25 02:00 +0200", "25 02:40 +0200", "26 02:00 +0100", "26 02:40 +0100"]),
        ("0 */2 25 * *", {}, ["25 00:00 +0200", "25 02:00 +0200", "25 04:00 +0100"]),
        ("30 * 25 * *", {}, ["25 00:30 +0200", "25 01:30 +0200", "25 02:30 +0200", "25 02:30 +0100", "25 03:30 +0100"]),
        ("*/30 2 25 * *", {}, ["25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100"]),
        ("0 3 * * *", {}, ["24 03:00 +0200", "25 03:00 +0100"]),
    ],
)
def test_where_an_hour_is_repeated(cron: str, saving: dict[str, str], times: list[str]) -> None:
    assert shown(upcoming(schedule(cron, **saving), at("2026-10-24"), len(times))) == times


def test_all_times_of_the_second_pass_come_after_all_of_the_first() -> None:
    twice = schedule("0,40 2 * * *", repeated="Twice")
    whole = ["25 02:00 +0200", "25 02:40 +0200", "25 02:00 +0100", "25 02:40 +0100", "26 02:00 +0100"]
    assert shown(upcoming(twice, at("2026-10-25"), 5)) == whole
    # The same from any moment on: before, between and within the two passes.
    for fold, minute in [(0, 10), (0, 40), (0, 59), (1, 0), (1, 20), (1, 45)]:
        start = at(f"2026-10-25T02:{minute:02}", fold=fold)
        later = [moment for moment in upcoming(twice, at("2026-10-25"), 9) if moment > start]
        assert upcoming(twice, start, 3) == later[:3]


def test_half_an_hour_is_skipped_and_repeated_on_lord_howe() -> None:
    daily = schedule("15 2 * * *", LORD_HOWE)
    assert shown(upcoming(daily, at("2026-10-03", LORD_HOWE), 3), LORD_HOWE) == [
        "03 02:15 +1030", "04 02:30 +1100", "05 02:15 +1100",
    ]  # fmt: skip
    twice = schedule("45 1 * * *", LORD_HOWE, repeated="Twice")
    assert shown(upcoming(twice, at("2026-04-04T12:00", LORD_HOWE), 3), LORD_HOWE) == [
        "05 01:45 +1100", "05 01:45 +1030", "06 01:45 +1030",
    ]  # fmt: skip


def test_a_day_that_a_zone_leaves_out_is_made_up_for_at_its_end() -> None:
    # Samoa went from 29 December 2011 straight to the 31st.
    daily = schedule("0 9 * * *", "Pacific/Apia")
    assert shown(upcoming(daily, at("2011-12-29", "Pacific/Apia"), 3), "Pacific/Apia") == [
        "29 09:00 -1000", "31 00:00 +1400", "31 09:00 +1400",
    ]  # fmt: skip


# --- over years ---


@pytest.mark.parametrize("zone", [*CHANGING, TOKYO, "UTC"])
@pytest.mark.parametrize("time", ["30 2", "45 1", "0 0", "15 2", "59 23"])
def test_a_daily_time_comes_once_on_every_day_of_ten_years(zone: str, time: str) -> None:
    start, end = at("2024-01-01", zone) - 1, at("2034-01-01", zone) - 1
    days = Counter(
        datetime.fromtimestamp(moment, ZoneInfo(zone)).date()
        for moment in between(schedule(f"{time} * * *", zone), start, end)
    )
    assert set(days.values()) == {1}
    assert len(days) == (date(2034, 1, 1) - date(2024, 1, 1)).days


@pytest.mark.parametrize("zone", [*CHANGING, TOKYO])
@pytest.mark.parametrize(("cron", "minutes"), [("*/5 * * * *", 5), ("*/30 * * * *", 30), ("* * * * *", 1)])
def test_what_comes_many_times_an_hour_has_no_gap_and_no_double_in_real_time(
    zone: str, cron: str, minutes: int
) -> None:
    days = changes(zone, 2024, 2030)
    assert len(days) == (0 if zone == TOKYO else 12)
    for day in days or CHANGES[zone]:
        start = at(f"{day}T00:00", zone)
        found = between(schedule(cron, zone), start, start + 6 * 3_600)
        assert {later - earlier for earlier, later in pairwise(found)} == {minutes * 60}


@pytest.mark.parametrize("zone", sorted(set(CHANGES) - {TOKYO}))
def test_the_days_that_these_tests_look_at_are_days_of_change(zone: str) -> None:
    for day in CHANGES[zone]:
        # A day that is left out is told as the one after it.
        assert {day, day + timedelta(days=1)} & set(changes(zone, day.year, day.year + 1))


def changes(zone: str, first: int, end: int) -> list[date]:
    """The days, or what is left of them, on which the clocks change in the years from `first` to before `end`."""
    noons = [
        datetime(first, 1, 1, 12, tzinfo=ZoneInfo(zone)) + timedelta(days=day) for day in range(366 * (end - first))
    ]
    ahead = [noon.utcoffset() for noon in noons]
    return [noons[i].date() for i in range(1, len(noons)) if ahead[i] != ahead[i - 1] and noons[i].year < end]


def test_leap_days_come_every_four_years_and_not_in_2100() -> None:
    leap = schedule("0 12 29 2 *", "UTC")
    years = [datetime.fromtimestamp(moment, UTC).year for moment in upcoming(leap, at("2088-03-01", "UTC"), 4)]
    assert years == [2092, 2096, 2104, 2108]
    longest = upcoming(schedule("0 12 31 * *", "UTC"), at("2024-01-01", "UTC"), 8)
    assert [datetime.fromtimestamp(moment, UTC).month for moment in longest] == [1, 3, 5, 7, 8, 10, 12, 1]


def test_a_day_that_fits_one_of_the_two_fields_is_enough() -> None:
    found = upcoming(schedule("0 9 13 * fri", "UTC"), at("2026-02-01", "UTC"), 8)
    days = [datetime.fromtimestamp(moment, UTC).strftime("%a %d %b") for moment in found]
    assert days == [
        "Fri 06 Feb", "Fri 13 Feb", "Fri 20 Feb", "Fri 27 Feb", "Fri 06 Mar", "Fri 13 Mar", "Fri 20 Mar", "Fri 27 Mar",
    ]  # fmt: skip
    every_day = schedule("0 9 1 * 0-6", "UTC")
    assert {b - a for a, b in pairwise(upcoming(every_day, at("2026-02-01", "UTC"), 60))} == {86_400}


# --- invariants ---


def oracle(wanted: Schedule, cron: Cron, start: int, end: int) -> Iterator[int]:
    """All moments after `start` and up to `end`, found by looking at every minute: the definition."""
    zone = ZoneInfo(wanted.time_zone)
    every_hour = len(cron.hours) == 24
    both = wanted.daylight_saving.repeated == "Twice" or every_hour or wanted.cron.startswith("*")
    makes_up = wanted.daylight_saving.skipped == "RunAfter" and not every_hour
    before = datetime.fromtimestamp(start, zone)
    for moment in range(start + 60, end + 1, 60):
        here = datetime.fromtimestamp(moment, zone)
        skipped = (here.replace(tzinfo=None) - before.replace(tzinfo=None)) // timedelta(minutes=1) - 1
        left_out = [here.replace(tzinfo=None) - timedelta(minutes=back) for back in range(1, skipped + 1)]
        if (matches(cron, here) and (both or not here.fold)) or (
            makes_up and any(matches(cron, local) for local in left_out)
        ):
            yield moment
        before = here


def matches(cron: Cron, local: datetime) -> bool:
    day = cron.days is not None and local.day in cron.days
    weekday = cron.weekdays is not None and local.isoweekday() % 7 in cron.weekdays
    on_day = day or weekday or (cron.days is None and cron.weekdays is None)
    return local.month in cron.months and on_day and local.hour in cron.hours and local.minute in cron.minutes


@st.composite
def near_changes(draw: st.DrawFn) -> tuple[Schedule, int, int]:
    """A schedule with many times, and two days of its zone around a change of the clocks."""
    zone = draw(st.sampled_from(sorted(CHANGES)))
    change = draw(st.sampled_from(CHANGES[zone]))
    fields = draw(st.randoms(use_true_random=False).map(random_cron)).split()
    hours = draw(st.sampled_from([fields[1], "0-3", "1,2", "2", "23,0-1", "*/2", "*"]))
    saving = {
        "skipped": draw(st.sampled_from(["RunAfter", "Skip"])),
        "repeated": draw(st.sampled_from(["Once", "Twice"])),
    }
    start = at(str(change - timedelta(days=1)), zone) + 60 * draw(st.integers(0, 1_800))
    return schedule(f"{fields[0]} {hours} * * *", zone, **saving), start, start + 86_400


@given(near_changes())
@settings(max_examples=100)
def test_none_is_left_out_and_none_is_made_up_where_the_clocks_change(case: tuple[Schedule, int, int]) -> None:
    wanted, start, end = case
    assert between(wanted, start, end) == list(oracle(wanted, parse(wanted.cron), start, end))


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(CHANGES)), st.integers(1_700_000_000, 2_500_000_000))
@settings(max_examples=150)
def test_moments_rise_and_fit_the_fields_in_local_time(random: Random, zone: str, start: int) -> None:
    wanted = schedule(random_cron(random), zone, skipped="Skip")
    cron = parse(wanted.cron)
    found = upcoming(wanted, start, 30)
    assert start < found[0]
    assert all(earlier < later for earlier, later in pairwise(found))
    assert all(matches(cron, datetime.fromtimestamp(moment, ZoneInfo(zone))) for moment in found)
    # The way there does not matter, nor do parts of a second.
    assert [moments(wanted).after(moment - 0.5) for moment in found] == found
    assert [moments(wanted).after(moment + 0.5) for moment in found[:-1]] == found[1:]


@given(
    st.randoms(use_true_random=False),
    st.sampled_from(sorted(CHANGES)),
    st.integers(0, 400 * 86_400),
    st.integers(1, 300),
)
@settings(max_examples=60)
def test_the_newest_moments_are_the_last_ones(random: Random, zone: str, seconds: int, limit: int) -> None:
    fields = random_cron(random).split()
    wanted = schedule(" ".join([random.choice(["0", "7,50"]), *fields[1:]]), zone)
    start = at("2026-01-01", zone)
    assert moments(wanted).newest(start, start + seconds, limit) == between(wanted, start, start + seconds)[-limit:]


def test_a_moment_itself_is_not_after_it() -> None:
    nine = at("2026-05-05T09:00")
    assert moments(schedule("0 9 * * *")).after(nine) == nine + 86_400
    assert moments(schedule("0 9 * * *")).after(nine - 0.001) == nine
    assert moments(schedule("0 9 * * *")).newest(nine - 1, nine, 5) == [nine]
    assert moments(schedule("0 9 * * *")).newest(nine, nine + 1, 5) == []
