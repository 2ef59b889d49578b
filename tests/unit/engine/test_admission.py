"""Which executions of a deployment start, wait, stop, never come to be, and are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.deployment import Concurrency, History
from penstock.engine.admission import Active, Admission, Finished, admit, surplus


def decided(
    policy: str,
    limit: int | None = None,
    *,
    active: Sequence[str] = (),
    stopping: Sequence[str] = (),
    **more: Any,
) -> Admission:
    fields = {"policy": policy} | ({} if limit is None else {"limit": limit})
    running = [*(Active(name, stopping=True) for name in stopping), *(Active(name) for name in active)]
    return admit(Concurrency.model_validate(fields), active=running, **({"due": []} | more))


def reasons(found: Admission) -> dict[str, str]:
    return {each.name: each.why for each in found.drop}


def test_allow_starts_all_that_is_due() -> None:
    assert decided("Allow", active=["a"], due=["b", "c"]) == Admission(start=("b", "c"))


def test_forbid_drops_what_is_due_while_another_runs() -> None:
    assert decided("Forbid", due=["a"]) == Admission(start=("a",))
    found = decided("Forbid", active=["a"], due=["b"])
    assert (found.start, found.cancel, found.wait) == ((), (), ())
    assert reasons(found) == {"b": "1 execution runs and the limit is 1 (concurrency Forbid)"}


def test_forbid_gives_the_room_there_is_to_the_newest() -> None:
    found = decided("Forbid", 3, active=["a"], due=["b", "c", "d"])
    assert found.start == ("c", "d")
    assert reasons(found) == {"b": "1 execution runs and the limit is 3 (concurrency Forbid)"}
    assert decided("Forbid", 2, active=["a", "b", "c"], due=["d"]).start == ()


def test_forbid_counts_what_is_stopping_because_it_still_runs() -> None:
    assert decided("Forbid", stopping=["a"], due=["b"]).start == ()


def test_replace_stops_the_oldest_and_starts_the_newest() -> None:
    assert decided("Replace", active=["a"], due=["b"]) == Admission(start=("b",), cancel=("a",))
    assert decided("Replace", 2, active=["a", "b"], due=["c"]) == Admission(start=("c",), cancel=("a",))
    assert decided("Replace", 2, active=["a"], due=["b"]) == Admission(start=("b",))
    found = decided("Replace", active=["a"], due=["b", "c"])
    assert (found.start, found.cancel) == (("c",), ("a",))
    assert reasons(found) == {"b": "a newer one is due and the limit is 1 (concurrency Replace)"}


def test_replace_tells_nobody_to_stop_twice_and_does_not_wait_for_it() -> None:
    assert decided("Replace", stopping=["a"], due=["b"]) == Admission(start=("b",))


def test_replace_stops_nothing_where_nothing_is_due() -> None:
    assert decided("Replace", 1, active=["a", "b"]) == Admission()


def test_queue_lets_them_wait_their_turn() -> None:
    found = decided("Queue", active=["a"], due=["b", "c"])
    assert found == Admission(wait=("b", "c"))
    found = decided("Queue", waiting=found.wait, due=["d"])
    assert found == Admission(start=("b",), wait=("c", "d"))
    assert decided("Queue", 3, active=["a"], waiting=["b"], due=["c", "d"]) == Admission(start=("b", "c"), wait=("d",))


def test_a_queue_that_is_full_drops_what_is_due() -> None:
    waiting = [f"w{n}" for n in range(99)]
    found = decided("Queue", active=["a"], waiting=waiting, due=["x", "y"])
    assert found.wait == (*waiting, "x")
    assert reasons(found) == {"y": "100 executions wait already (concurrency Queue)"}


def test_what_waits_is_kept_when_the_policy_changes() -> None:
    assert decided("Allow", active=["a"], waiting=["b", "c"], due=["d"]) == Admission(start=("b", "c", "d"))
    found = decided("Forbid", 2, active=["a"], waiting=["b", "c"], due=["d"])
    assert (found.start, found.wait) == (("b",), ("c",))
    assert reasons(found) == {"d": "2 executions run and the limit is 2 (concurrency Forbid)"}
    assert decided("Replace", active=["a"], waiting=["b", "c"]) == Admission(start=("c",), cancel=("a", "b"))


def test_while_suspended_nothing_starts_and_what_waits_goes_on_waiting() -> None:
    found = decided("Queue", waiting=["a"], due=["b"], suspended=True)
    assert (found.start, found.wait, reasons(found)) == ((), ("a",), {"b": "the deployment is suspended"})


NAMES = st.lists(st.integers(0, 30).map(str), unique=True, max_size=8)


@given(st.sampled_from(["Allow", "Forbid", "Replace", "Queue"]), st.integers(1, 5), NAMES, NAMES, NAMES, st.booleans())
def test_nobody_is_lost_and_limits_hold(
    policy: str, limit: int, active: list[str], waiting: list[str], due: list[str], suspended: bool
) -> None:
    waiting = [name for name in waiting if name not in active]
    found = decided(policy, limit, active=active, waiting=waiting, due=due, suspended=suspended)
    fresh = [name for name in due if name not in {*active, *waiting}]
    ended = [*found.start, *found.wait, *(name for name in found.cancel if name in waiting), *reasons(found)]
    assert sorted(ended) == sorted([*waiting, *fresh])
    kept = [name for name in active if name not in found.cancel]
    if policy != "Allow" and found.start:
        assert len(kept) + len(found.start) <= limit
    if policy != "Replace":
        assert found.cancel == ()
    # Asked again after it was done, what was due exists: nothing new starts and nobody is told to stop twice.
    stopping = [name for name in found.cancel if name in active]
    again = decided(
        policy, limit, active=[*kept, *found.start], stopping=stopping, waiting=found.wait, suspended=suspended
    )
    assert set(again.start) <= set(found.wait)
    assert again.cancel == ()


# --- history ---


def finished(*executions: tuple[str, bool, float]) -> list[Finished]:
    return [Finished(*each) for each in executions]


def test_the_newest_finished_ones_of_each_kind_are_kept() -> None:
    ended = finished(("a", True, 1), ("b", False, 2), ("c", True, 3), ("d", False, 4), ("e", True, 5), ("f", True, 6))
    assert surplus(ended, History()) == ("a", "b")
    assert surplus(ended, History(succeeded=1, failed=0)) == ("a", "b", "c", "d", "e")
    assert surplus(ended, History(succeeded=9, failed=9)) == ()
    assert surplus([], History(succeeded=0, failed=0)) == ()


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_in_which_they_are_listed_does_not_matter(turned: bool) -> None:
    ended = finished(("a", True, 1), ("b", True, 1), ("c", True, 1), ("d", True, 0))
    assert surplus(ended[::-1] if turned else ended, History(succeeded=2)) == ("d", "a")
