"""Parts of the stream of a folder: small enough for a disk, and all of them hold the folder."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from penstock.step.archive import Packing, most_bytes
from penstock.step.plan import Multipart
from penstock.storage.multipart import GIB, MAX_OBJECT, MIB, part_sizes

TIB = 1 << 40


def multipart(size: int) -> Multipart:
    sizes = part_sizes(size)
    return Multipart(tuple(sizes), "", ("",) * sum(count for count, _ in sizes), "", "")


def held(many: Multipart, bound: int) -> int:
    return sum(min(many.size_of(index) or 0, bound) for index in range(len(many.parts)))


@given(st.integers(1, MAX_OBJECT), st.data())
def test_the_bound_is_the_least_with_which_the_parts_hold_all(size: int, data: st.DataObject) -> None:
    many = multipart(size)
    total = data.draw(st.integers(1, size))
    bound = many.even_size(total)
    assert held(many, bound) >= total
    assert bound == 1 or held(many, bound - 1) < total


@given(st.integers(1, TIB))
def test_two_parts_are_a_hundredth_of_the_folder_or_small(total: int) -> None:
    assert 2 * multipart(TIB).even_size(total) <= max(256 * MIB, total * 0.0101)


def test_what_is_known_of_sizes() -> None:
    assert multipart(TIB).even_size(GIB) < 16 * MIB
    assert multipart(TIB).even_size(30 * GIB) < 128 * MIB


def test_no_stream_is_longer_than_was_said_before(tmp_path: Path) -> None:
    for number, size in enumerate([0, 1, 511, 512, 513, 300_000, 5_000_000]):
        (tmp_path / f"{number}").write_bytes(os.urandom(size))
    (tmp_path / ("n" * 200)).mkdir()
    (tmp_path / ("n" * 200) / ("é" * 100)).write_bytes(b"x")
    (tmp_path / "link").symlink_to("0")
    said = most_bytes(tmp_path)
    length = sum(map(len, Packing(tmp_path)))
    assert length <= said < length + MIB
