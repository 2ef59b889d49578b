"""The items of a fan-out: literal lists, expressions, and matrices with include and exclude.

Include and exclude are merged as GitHub Actions does ("Running variations of jobs in a workflow", sections on expanding
or adding and on excluding matrix configurations): exclude first; then each include is added to every original
combination that it does not contradict, and becomes a combination of its own if there is none.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.api.base import MAX_ITEMS
from penstock.engine.compile import FanOut
from penstock.engine.expressions import Expr, ExpressionError
from penstock.engine.types import Value


class TooManyItems(Exception):  # noqa: N818 - the reason's own name
    """A fan-out has more items than one step may have."""


def expand(fan_out: FanOut, evaluate: Callable[[Expr], Value]) -> list[Any]:
    """The items of a fan-out in order; for a matrix, maps from axis to value.

    Raises:
        ExpressionError: an expression fails or gives no list.
        Unavailable: an expression refers to a value that does not exist.
        TooManyItems: there are more than `MAX_ITEMS`.
    """
    lists = [_items(axis.expr, axis.items, evaluate) for axis in fan_out.axes]
    size = 1
    for values in lists:
        size *= len(values)
    if size > MAX_ITEMS:
        raise TooManyItems(f"{size} items; one step may have {MAX_ITEMS}: make the list shorter or split the step")
    if not fan_out.matrix:
        return list(lists[0])
    names = [axis.name for axis in fan_out.axes]
    combinations = merge(names, lists, fan_out.include, fan_out.exclude)
    if len(combinations) > MAX_ITEMS:
        raise TooManyItems(f"{len(combinations)} items; one step may have {MAX_ITEMS}")
    return combinations


def _items(expr: Expr | None, items: Sequence[Any], evaluate: Callable[[Expr], Value]) -> Sequence[Any]:
    if expr is None:
        return items
    value = evaluate(expr)
    if not isinstance(value, list):
        raise ExpressionError(f"{expr.text!r} gives no list but {json.dumps(value, default=str)[:60]}")
    return value


def merge(
    names: Sequence[str],
    lists: Sequence[Sequence[Any]],
    include: Sequence[Mapping[str, Any]],
    exclude: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The combinations of a matrix, the last axis varying fastest."""
    product = (dict(zip(names, values, strict=True)) for values in itertools.product(*lists))
    originals = [each for each in product if not any(_matches(each, pattern) for pattern in exclude)]
    merged = [dict(original) for original in originals]
    added: list[dict[str, Any]] = []
    for extra in include:
        fitting = [
            index
            for index, original in enumerate(originals)
            if all(_same(original[key], value) for key, value in extra.items() if key in original)
        ]
        for index in fitting:
            merged[index].update(extra)
        if not fitting:
            added.append(dict(extra))
    return merged + added


def _matches(combination: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    return all(key in combination and _same(combination[key], value) for key, value in pattern.items())


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: `1` and `true` differ, `1` and `1.0` do not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
