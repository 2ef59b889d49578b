"""Our moments against those of cronsim, which is not made on croniter and does as Debian's cron does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from random import Random
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from crons import random_cron
from penstock.api.cron import parse
from penstock.api.deployment import Schedule
from penstock.engine.cron import moments

EXPRESSIONS = 1_000
FIRES = 12

PLACES = [
    ("UTC", ["2024-02-27", "2026-12-30"]),
    ("Europe/Paris", ["2026-03-28", "2026-10-24", "2027-03-27", "2030-10-26"]),
    ("America/New_York", ["2026-03-07", "2026-10-31", "2028-03-11", "2028-11-04"]),
    ("Asia/Tokyo", ["2024-02-28", "2026-10-24"]),
    ("Australia/Lord_Howe", ["2026-10-03", "2026-04-04", "2027-10-02"]),
]


def judged(expression: str, start: datetime) -> Iterator[int]:
    last = 0
    for found in CronSim(expression, start):
        moment = int(found.timestamp())
        if moment > last:  # several times of a skipped hour are one there too, but it tells each of them
            yield moment
        last = moment


def as_debian_does(expression: str, zone: str) -> Schedule:
    """Debian's cron follows real time where minute or hour begins with `*`, and our defaults where not."""
    minute, hour = expression.split()[:2]
    real_time = minute.startswith("*") or hour.startswith("*")
    saving = {"skipped": "Skip", "repeated": "Twice"} if real_time else {}
    return Schedule.model_validate({"cron": expression, "timeZone": zone, "daylightSaving": saving})


def cases(seed: int) -> Iterator[tuple[str, str, str]]:
    random = Random(seed)
    while True:
        expression = random_cron(random)
        zone, days = random.choice(PLACES)
        hour = expression.split()[1]
        if len(parse(expression).hours) == 24 and not hour.startswith("*"):
            continue  # every hour without a `*`: real time for us, times of their own for Debian
        if zone == "Australia/Lord_Howe" and "*" in " ".join(expression.split()[:2]):
            continue  # cronsim counts whole hours, and leaves out minutes after a change by half an hour
        yield expression, zone, random.choice(days)


@pytest.mark.parametrize("part", range(10))
def test_a_thousand_random_expressions_come_when_cronsim_says(part: int) -> None:
    for expression, zone, day in islice(cases(part), EXPRESSIONS // 10):
        start = datetime.fromisoformat(f"{day}T12:00:30").replace(tzinfo=ZoneInfo(zone))
        theirs = list(islice(judged(expression, start), FIRES))
        ours = list(islice(moments(as_debian_does(expression, zone)).following(start.timestamp()), FIRES))
        assert ours == theirs, (expression, zone, day)


@pytest.mark.parametrize(
    "expression",
    ["30 2 * * *", "0,15,30,45 1-3 * * *", "*/5 * * * *", "0 * * * *", "*/20 2 * * *", "5 */2 * * *", "0 9 13 * fri"],
)
@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York"])
def test_over_both_changes_of_a_year_times_come_when_cronsim_says(expression: str, zone: str) -> None:
    for place, days in PLACES:
        for day in days if place == zone else []:
            start = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo(zone))
            theirs = list(islice(judged(expression, start), 400))
            ours = list(islice(moments(as_debian_does(expression, zone)).following(start.timestamp()), 400))
            assert ours == theirs
