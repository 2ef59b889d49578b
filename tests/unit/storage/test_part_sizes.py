from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.storage.multipart import GIB, MAX_OBJECT, MAX_SINGLE, MIB, MIN_PART, part_sizes


@given(st.integers(1, MAX_OBJECT))
def test_parts_hold_the_object_and_are_what_s3_takes(size: int) -> None:
    found = part_sizes(size)
    assert sum(count * part for count, part in found) >= size
    assert sum(count for count, _ in found) <= 1_200
    assert all(MIN_PART <= part <= MAX_SINGLE for _, part in found)
    assert [part for _, part in found] == sorted(part for _, part in found)
    # Not one more than needed.
    count, part = found[-1]
    assert sum(each * bytes_ for each, bytes_ in found[:-1]) + (count - 1) * part < size


def test_small_files_go_up_in_parallel_and_large_ones_need_few_urls() -> None:
    assert part_sizes(100 * MIB) == [(7, 16 * MIB)]
    assert part_sizes(GIB) == [(16, 16 * MIB), (12, 64 * MIB)]
    assert sum(count for count, _ in part_sizes(100 * GIB)) == 80
    assert part_sizes(2 * MAX_OBJECT) == part_sizes(MAX_OBJECT)
