"""The moments at which a schedule comes: cron expressions in local time, over every change of the clocks.

croniter finds the days. Hours and minutes, and what they are in UTC, are found here: croniter alone does not let
anybody choose what a skipped or a repeated hour means. A moment is a whole second since the epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo

from penstock.api.cron import Cron, parse
from penstock.api.deployment import Repeated, Schedule, Skipped

_HOURS: Final = 24
_DAY: Final = 86_400
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - local times are without a zone here
_SECOND: Final = timedelta(seconds=1)


def moments(schedule: Schedule) -> Moments:
    """The moments of a schedule that `api.rules` found nothing wrong with.

    Raises:
        CronError: the expression is not valid.
        ZoneInfoNotFoundError: there is no such time zone here.
    """
    saving = schedule.daylight_saving
    return _moments(schedule.cron, schedule.time_zone, saving.skipped, saving.repeated)


def upcoming(schedule: Schedule, after: float, count: int) -> list[int]:
    """The next `count` moments after a moment."""
    return list(islice(moments(schedule).following(after), count))


class Moments:
    """Every moment of one schedule, in order and each once."""

    def __init__(self, cron: Cron, zone: ZoneInfo, skipped: Skipped, repeated: Repeated) -> None:
        self._zone = zone
        self._hours, self._minutes = cron.hours, cron.minutes
        self._days = _day_expression(cron)
        every_hour = len(cron.hours) == _HOURS
        self._makes_up = skipped is Skipped.RUN_AFTER and not every_hour
        self._both = repeated is Repeated.TWICE or every_hour or cron.free_minute

    def after(self, moment: float) -> int:
        """The first moment later than this one."""
        second = int(moment // 1)
        local = datetime.fromtimestamp(second, self._zone).replace(tzinfo=None)
        found = self._first(local, second)
        if self._both:
            before, later = self._offsets(local)
            if before > later:  # a repeated hour: local times that are earlier may come once more
                found = min(found, self._first(local - timedelta(seconds=before - later), second))
        return found

    def following(self, moment: float) -> Iterator[int]:
        """All moments later than this one."""
        while True:
            moment = self.after(moment)
            yield moment

    def newest(self, since: float, until: float, limit: int) -> list[int]:
        """The last moments later than `since` and not later than `until`, at most `limit`, the oldest first."""
        # As long as they take if every day has some: a wider look only where days are named.
        span = 1.1 * _DAY * limit / (len(self._hours) * len(self._minutes)) + 7_200
        while True:
            start = max(since, until - span)
            found: list[int] = []
            for moment in self.following(start):
                if moment > until:
                    break
                found.append(moment)
            if len(found) >= limit or start <= since:
                return found[-limit:]
            span *= 2

    def _first(self, local: datetime, second: int) -> int:
        while True:
            local = self._local_after(local)
            for moment in self._fires(local):
                if moment > second:
                    return moment

    def _local_after(self, local: datetime) -> datetime:
        """The next local time that the expression names, whether the clock shows it or not."""
        day = local.date()
        if (found := _day_from(self._days, day)) == day:
            minute, hour = bisect_right(self._minutes, local.minute), bisect_right(self._hours, local.hour)
            if minute < len(self._minutes) and hour and self._hours[hour - 1] == local.hour:
                return datetime.combine(day, time(local.hour, self._minutes[minute]))
            if hour < len(self._hours):
                return datetime.combine(day, time(self._hours[hour], self._minutes[0]))
            found = _day_from(self._days, day + timedelta(days=1))
        return datetime.combine(found, time(self._hours[0], self._minutes[0]))

    def _fires(self, local: datetime) -> tuple[int, ...]:
        """The moments of a local time that the expression names."""
        before, later = self._offsets(local)
        second = (local - _EPOCH) // _SECOND
        if before < later:
            return (self._change(second - later, second - before),) if self._makes_up else ()
        if before > later and self._both:
            return (second - before, second - later)
        return (second - before,)

    def _offsets(self, local: datetime) -> tuple[int, int]:
        """What a local time is ahead of UTC, in seconds, read as before and as after a change of the clocks.

        They differ where it does not exist (the second is greater) and where it comes twice (the first is greater).
        """
        return _seconds(local.replace(tzinfo=self._zone)), _seconds(local.replace(tzinfo=self._zone, fold=1))

    def _change(self, before: int, later: int) -> int:
        """The moment in `before < moment <= later` at which the clocks change."""
        old = _seconds(datetime.fromtimestamp(before, self._zone))
        while later - before > 1:
            middle = (before + later) // 2
            if _seconds(datetime.fromtimestamp(middle, self._zone)) == old:
                before = middle
            else:
                later = middle
        return later


@lru_cache(maxsize=20_000)
def _moments(cron: str, zone: str, skipped: Skipped, repeated: Repeated) -> Moments:
    return Moments(parse(cron), ZoneInfo(zone), skipped, repeated)


def _seconds(moment: datetime) -> int:
    offset = moment.utcoffset()
    assert offset is not None  # noqa: S101 - it has a zone
    return offset // _SECOND


def _day_expression(cron: Cron) -> str:
    fields = (cron.days, cron.months, cron.weekdays)
    return "0 0 " + " ".join("*" if field is None else ",".join(map(str, field)) for field in fields)


@lru_cache(maxsize=20_000)
def _day_from(expression: str, first: date) -> date:
    """The first day from `first` on that the expression names. Many schedules share few expressions of days."""
    # Imported here: it takes 0.1 s, and most of what imports the engine has no schedule.
    from croniter import croniter  # type: ignore[import-untyped]  # noqa: PLC0415

    before = datetime.combine(first, time(), UTC) - _SECOND
    found = croniter(expression, before).get_next(datetime)
    assert isinstance(found, datetime)  # noqa: S101 - croniter has no types
    return found.date()
