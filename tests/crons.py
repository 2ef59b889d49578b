"""Cron expressions made at random: every shape that is taken."""

from __future__ import annotations

from random import Random

_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "weekday": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}


def random_cron(random: Random) -> str:
    """Five fields; of the two fields of days, one at most has a `*` with a step."""
    minute, hour = _field(random, 0, 59, 0.2), _field(random, 0, 23, 0.4)
    day, weekday = random.choice(
        [
            ("*", "*"),
            (_field(random, 1, 31, 0), "*"),
            ("*", _field(random, 0, 7, 0, "weekday")),
            (_listed(random, 1, 31), _listed(random, 0, 7, "weekday")),
        ]
    )
    month = _field(random, 1, 12, 0.6, "month")
    if weekday == "*" and day != "*" and not day.startswith("*"):
        day += ",7"  # a day that every month has
    return f"{minute} {hour} {day} {month} {weekday}"


def _field(random: Random, low: int, high: int, every: float, names: str = "") -> str:
    if random.random() < every:
        return "*"
    if random.random() < 0.25:
        return f"*/{random.randint(1, min(high, 6) - low if names == 'weekday' else high - low)}"
    return _listed(random, low, high, names)


def _listed(random: Random, low: int, high: int, names: str = "") -> str:
    return ",".join(_part(random, low, high, names) for _ in range(random.choice([1, 1, 1, 2, 4])))


def _part(random: Random, low: int, high: int, names: str) -> str:
    first, last = sorted(random.randint(low, high) for _ in range(2))
    if random.random() < 0.5 or first == last:
        return _word(random, first, low, names)
    step = f"/{random.randint(1, last - first)}" if random.random() < 0.4 else ""
    if last - low >= len(_NAMES.get(names, range(100))):  # 7 has no name
        return f"{first}-{last}{step}"
    return f"{_word(random, first, low, names)}-{_word(random, last, low, names)}{step}"


def _word(random: Random, number: int, low: int, names: str) -> str:
    known = _NAMES.get(names, ())
    if number - low < len(known) and random.random() < 0.3:
        return random.choice([str.lower, str.upper, str.title])(known[number - low])
    return str(number)
