"""Patterns of paths in the data store, as `penstock data` takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.cli.cluster import Refused
from penstock.cli.stores import LocalData, is_pattern, matching
from penstock.local.home import Home
from penstock.local.objects import Objects

PATHS = ("a.csv", "raw/a.csv", "raw/b.txt", "raw/deep/c.csv", "raw/deep/er/d.csv", "raw/x[1].csv", "raw/x^1.csv")


@pytest.fixture
def data(tmp_path: Path) -> LocalData:
    """A data store with these objects."""
    home = Home(tmp_path)
    for path in PATHS:
        (home.datastore / path).parent.mkdir(parents=True, exist_ok=True)
        (home.datastore / path).touch()
    return LocalData(Objects(home))


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*", ["a.csv"]),
        ("*.csv", ["a.csv"]),
        ("raw/*", ["raw/a.csv", "raw/b.txt", "raw/x[1].csv", "raw/x^1.csv"]),
        ("raw/?.csv", ["raw/a.csv"]),
        ("raw/[!a].txt", ["raw/b.txt"]),
        ("raw/[a-b].*", ["raw/a.csv", "raw/b.txt"]),
        ("raw/x[[]1].csv", ["raw/x[1].csv"]),
        ("raw/x[^]1.csv", ["raw/x^1.csv"]),
        ("raw/deep/**", ["raw/deep/c.csv", "raw/deep/er/d.csv"]),
        ("**/d.csv", ["raw/deep/er/d.csv"]),
        ("**/a.csv", ["a.csv", "raw/a.csv"]),
        ("raw*/a.csv", ["raw/a.csv"]),
        ("raw/[", []),
        ("RAW/*", []),
    ],
)
def test_a_pattern_fits(data: LocalData, pattern: str, fits: list[str]) -> None:
    assert is_pattern(pattern)
    assert [entry.path for entry in matching(data, pattern)] == fits


def test_what_is_no_pattern_is_told(data: LocalData) -> None:
    with pytest.raises(Refused, match="check what stands in brackets"):
        matching(data, "raw/[z-a]")
