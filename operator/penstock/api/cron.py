"""Cron expressions and names of time zones: what is taken, what it means, and what is wrong with the rest.

What is taken is what all crons read in the same way:

- Five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or jan-dec), day of week (0-7 or sun-sat; 0
  and 7 are Sunday). A field is `*`, `*/step`, or a list of numbers, ranges `a-b` and ranges with a step `a-b/step`.
- A word: `@hourly`, `@daily` or `@midnight`, `@weekly` (Sunday), `@monthly`, `@yearly` or `@annually`.
- Where day of month and day of week are both given, a day that fits one of them is enough: `0 9 1 * mon` is the first
  of each month and each Monday.

Refused with a remedy: seconds and years, the extensions `L`, `W`, `#`, `?`, `H` and `R`, ranges that go down, a number
with a step (`5/15`), steps longer than their field, `*/n` for days together with the other field of days (some crons
want both to fit, some one), and days that never come. When a time comes is for the engine to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from penstock.api.problems import quoted, suggest

WORDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""What stands for five fields."""

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART: Final = re.compile(
    r"(?P<low>\*|[0-9]{1,2}|[a-z]{3})(?:-(?P<high>[0-9]{1,2}|[a-z]{3}))?(?:/(?P<step>[0-9]{1,4}))?"
)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression, read.

    Attributes:
        minutes: minutes of the hour, rising.
        hours: hours of the day, rising.
        days: days of the month, rising; None for any.
        months: months of the year from 1, rising.
        weekdays: days of the week from Sunday, 0, rising; None for any.
        free_minute: whether the field of minutes begins with `*`.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...] | None
    months: tuple[int, ...]
    weekdays: tuple[int, ...] | None
    free_minute: bool


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int | None:
        """The number that a number or name stands for, if it is one of this field."""
        if text in self.names:
            return self.names.index(text) + self.low
        return int(text) if text.isdecimal() and self.low <= int(text) <= self.high else None

    def wanted(self) -> str:
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"wanted {self.low}-{self.high}{named}"


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _WEEKDAYS),
)


class CronError(ValueError):
    """A cron expression that is not taken; its text says why and what to do."""


@lru_cache(maxsize=4_096)
def parse(text: str) -> Cron:
    """Reads a cron expression.

    Raises:
        CronError: it is not taken.
    """
    if text.startswith("@"):
        if text not in WORDS:
            raise CronError(f"{quoted(text)} is not known: wanted one of {', '.join(WORDS)}{suggest(text, WORDS)}")
        return parse(WORDS[text])
    fields = text.lower().split()
    if fields and re.match(r"(cron_)?tz=", fields[0]):
        raise CronError(f"{quoted(text)} names a time zone: set the field `timeZone` instead")
    if len(fields) != len(_FIELDS):
        hint = ": there are no seconds or years here" if len(fields) > len(_FIELDS) else ""
        raise CronError(f"wanted 5 fields ({', '.join(f.name for f in _FIELDS)}), got {len(fields)}{hint}")
    minutes, hours, days, months, weekdays = (_values(text, position) for position in range(len(_FIELDS)))
    day, weekday = fields[2], fields[4]
    if day != "*" and weekday != "*" and "*" in day + weekday:
        stepped = day if "*" in day else weekday
        spelled = stepped.replace("*", "1-31" if stepped == day else "0-6")
        raise CronError(
            f"{quoted(stepped)} next to another field of days is read in two ways: write {spelled} for days that fit "
            f"one of the two fields"
        )
    if weekday == "*" and not any(day <= _LONGEST[month - 1] for day in days for month in months):
        raise CronError(f"{quoted(text)} never comes: there is no such day")
    return Cron(
        minutes=minutes,
        hours=hours,
        days=None if day == "*" else days,
        months=months,
        weekdays=None if weekday == "*" else tuple(sorted({number % 7 for number in weekdays})),
        free_minute=fields[0].startswith("*"),
    )


def _values(text: str, position: int) -> tuple[int, ...]:
    field, written = _FIELDS[position], text.split()[position]
    parts = written.lower().split(",")
    found: set[int] = set()
    for part in parts:
        numbers = _part(part, field, alone=len(parts) == 1)
        if isinstance(numbers, str):
            place = f"(field {position + 1} of {quoted(text)})"
            raise CronError(f"{quoted(written)} is not valid as {field.name} {place}: {numbers}")
        found.update(numbers)
    return tuple(sorted(found))


def _part(part: str, field: _Field, *, alone: bool) -> range | str:
    """The numbers of one part of a list, or what is wrong with it."""
    match = _PART.fullmatch(part)
    if match is None:
        if not part.strip("0123456789abcdefghijklmnopqrstuvwxyz*-/"):
            return f"{field.wanted()}, lists a,b, ranges a-b and steps */n or a-b/n"
        return (
            f"the signs {' '.join(sorted(set(re.sub(r'[0-9a-z*/-]', '', part))))} are not used here, {field.wanted()}"
        )
    low_text, high_text, step_text = match["low"], match["high"], match["step"]
    if low_text == "*":
        low, high = field.low, (6 if field.names is _WEEKDAYS else field.high)
        if high_text is not None or not alone:
            return f"`*` is no part of a range or list, write {low}-{high}"
    else:
        first, last = field.number(low_text), field.number(high_text or low_text)
        if first is None or last is None:
            return field.wanted()
        low, high = first, last
    if low > high:
        return f"a range goes up, write {_turned(low_text, high_text, field)}"
    if step_text is None:
        return range(low, high + 1)
    if low_text != "*" and high_text is None:
        return f"a step needs a range, write {low_text}-{field.high}/{step_text}"
    if not 1 <= int(step_text) <= max(1, high - low):
        return f"the step is 0 or longer than the range: wanted 1-{max(1, high - low)}, or no step"
    return range(low, high + 1, int(step_text))


def _turned(low: str, high: str, field: _Field) -> str:
    """A range that goes down, as the list of two that it may have meant."""
    named = low in field.names
    last = field.names[-1] if named else str(6 if field.names is _WEEKDAYS else field.high)
    first = field.names[0] if named else str(field.low)
    pieces = (low if low == last else f"{low}-{last}", first if first == high else f"{first}-{high}")
    return ",".join(pieces)


def cron_problem(text: str) -> str | None:
    """What is wrong with a cron expression, or None."""
    try:
        parse(text)
    except CronError as error:
        return str(error)
    return None


def time_zone_problem(name: str) -> str | None:
    """What is wrong with the name of a time zone, or None."""
    known = _time_zones()
    if name == "UTC" or name in known:
        return None
    if not known:
        return f"{quoted(name)} cannot be checked: there is no time zone data here, install the package tzdata"
    return f"{quoted(name)} is not a time zone: wanted an IANA name such as Europe/Paris{suggest(name, known)}"


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    # Each look reads some 600 files, and an operator asks for every deployment.
    import zoneinfo  # noqa: PLC0415

    return frozenset(zoneinfo.available_timezones())
