"""A schedule as a sentence for people: `At 09:00 on weekdays, Europe/Paris`.

Common shapes are put into words; any other is quoted as it is written. Every sentence says exactly what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from penstock.api.cron import Cron, parse
from penstock.api.deployment import Schedule

_WEEKDAYS: Final = ("Sundays", "Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays")
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_MOST: Final = 6
"""What a list in a sentence holds at most."""


def sentence(schedule: Schedule) -> str:
    """A schedule as a sentence, without a full stop.

    Raises:
        CronError: the expression is not valid.
    """
    cron = parse(schedule.cron)
    times, days = _times(cron), _days(cron)
    if times is None or days is None:
        return f"By the cron expression {' '.join(schedule.cron.split())}, {schedule.time_zone}"
    if not days and times.startswith("At "):
        days = " every day"
    return f"{times}{days}, {schedule.time_zone}"


def _times(cron: Cron) -> str | None:
    every_hour = len(cron.hours) == 24
    step = _step(cron.minutes, 60)
    first = f"{cron.hours[0]:02}:{cron.minutes[0]:02}"
    if len(cron.hours) * len(cron.minutes) <= _MOST:
        return f"At {_list([f'{hour:02}:{minute:02}' for hour in cron.hours for minute in cron.minutes])}"
    if every_hour and len(cron.minutes) == 1:
        return "Every hour" if cron.minutes[0] == 0 else f"Every hour at minute {cron.minutes[0]}"
    if every_hour and step:
        return "Every minute" if step == 1 else f"Every {step} minutes"
    if every_hour and len(cron.minutes) <= _MOST:
        return f"Every hour at minutes {_list(cron.minutes)}"
    if len(cron.minutes) == 1 and (hours := _step(cron.hours, 24)):
        return f"Every {hours} hours from {first}"
    if cron.hours == tuple(range(cron.hours[0], cron.hours[-1] + 1)):
        last = f"{cron.hours[-1]:02}:{cron.minutes[-1]:02}"
        if step:
            return f"Every {'minute' if step == 1 else f'{step} minutes'} from {first} to {last}"
        if len(cron.minutes) == 1:
            return f"Every hour from {first} to {last}"
    return None


def _step(values: Sequence[int], size: int) -> int | None:
    """The step of values from 0 on that fill the whole circle evenly."""
    step = size // len(values)
    return step if tuple(values) == tuple(range(0, size, step)) else None


def _days(cron: Cron) -> str | None:
    days, weekdays, months = cron.days, cron.weekdays, cron.months
    if weekdays is not None and len(weekdays) == 7:
        days = weekdays = None  # one of the two is enough
    if (days is not None and len(days) > _MOST) or _MOST < len(months) < 12:
        return None
    names = [_MONTHS[month - 1] for month in months]
    if days is not None and weekdays is None and len(names) == 1:
        return f" on {_list([f'{day} {names[0]}' for day in days])}"
    parts = []
    if days is not None:
        parts.append(f" on day{'s' if len(days) > 1 else ''} {_list(days)} of the month")
    if weekdays is not None:
        parts.append(_on(weekdays))
    only = ", only" if len(parts) > 1 else ""
    return " and also".join(parts) + (f"{only} in {_list(names)}" if len(names) < 12 else "")


def _on(weekdays: Sequence[int]) -> str:
    if tuple(weekdays) == (1, 2, 3, 4, 5):
        return " on weekdays"
    if tuple(weekdays) == (0, 6):
        return " on Saturdays and Sundays"
    return f" on {_list([_WEEKDAYS[day] for day in weekdays])}"


def _list(parts: Sequence[object]) -> str:
    words = [str(part) for part in parts]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
