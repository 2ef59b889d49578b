"""The dirty-key queue: many events make one pass, one key is never worked on twice at a time, what ends goes first."""

from __future__ import annotations

import asyncio
import time

from penstock.controller.queue import DirtyQueue, Turn


async def drain(queue: DirtyQueue, count: int) -> list[str]:
    found = []
    for _ in range(count):
        key = await asyncio.wait_for(queue.get(), 5)
        queue.done(key)
        found.append(key)
    return found


async def test_many_events_of_a_key_make_one_pass_in_the_order_of_the_first() -> None:
    queue = DirtyQueue(time.time)
    for key in ("a", "b", "a", "a", "c", "b"):
        queue.add(key)
    assert len(queue) == 3
    assert await drain(queue, 3) == ["a", "b", "c"]
    assert len(queue) == 0


async def test_a_key_that_is_worked_on_waits_for_its_end() -> None:
    queue = DirtyQueue(time.time)
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "b"
    waiting = asyncio.create_task(queue.get())
    await asyncio.wait({waiting}, timeout=0.01)
    assert not waiting.done()
    queue.done("a")
    assert await asyncio.wait_for(waiting, 5) == "a"


async def test_what_ends_goes_before_what_begins_even_if_it_was_waiting_already() -> None:
    queue = DirtyQueue(time.time)
    for key in ("a", "b", "c"):
        queue.add(key)
    queue.add("c", Turn.FIRST)
    queue.add("d", Turn.FIRST)
    assert await drain(queue, 4) == ["c", "d", "a", "b"]
    queue.add("e")
    assert await drain(queue, 1) == ["e"]


async def test_what_only_has_to_be_looked_at_some_time_waits_for_all_others_and_moves_up_with_news() -> None:
    queue = DirtyQueue(time.time)
    for key in ("a", "b", "c"):
        queue.add(key, Turn.LAST)
    queue.add("d")
    queue.add("b", Turn.FIRST)
    queue.add("c")
    queue.add("c", Turn.LAST)
    assert len(queue) == 4
    assert await drain(queue, 4) == ["b", "d", "c", "a"]
    assert len(queue) == 0


async def test_a_key_keeps_its_precedence_while_it_is_worked_on() -> None:
    queue = DirtyQueue(time.time)
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "a"
    queue.add("a", Turn.FIRST)
    queue.done("a")
    assert await drain(queue, 2) == ["a", "b"]


async def test_the_earlier_of_two_times_counts_and_a_forgotten_one_does_not() -> None:
    queue = DirtyQueue(lambda: 0.0)
    queue.add_at("late", 0.05)
    queue.add_at("late", 9_999.0)
    queue.add_at("never", 9_999.0)
    queue.add_at("gone", 0.01)
    queue.forget("gone")
    assert await asyncio.wait_for(queue.get(), 5) == "late"
    queue.close()


async def test_it_says_how_long_a_key_has_waited_since_it_was_first_added() -> None:
    at = 100.0
    taken: list[tuple[str, float]] = []
    queue = DirtyQueue(lambda: at, lambda key, waited: taken.append((key, waited)))
    queue.add("a")
    at = 102.5
    queue.add("a")
    queue.add("b")
    at = 103.0
    assert await drain(queue, 2) == ["a", "b"]
    assert taken == [("a", 3.0), ("b", 0.5)]


async def test_what_was_to_be_looked_at_later_is_looked_at_now_when_the_time_means_nothing_any_more() -> None:
    queue = DirtyQueue(lambda: 0.0)
    queue.add_at("a", 9_999.0)
    queue.add_at("b", 9_999.0, Turn.LAST)
    queue.expedite()
    assert await drain(queue, 2) == ["a", "b"]
    queue.add_at("a", 0.01)  # what is set from now on holds
    assert await drain(queue, 1) == ["a"]
    queue.close()


async def test_a_clock_that_is_set_back_makes_no_time_less_than_none() -> None:
    at = 100.0
    taken: list[float] = []
    queue = DirtyQueue(lambda: at, lambda _, waited: taken.append(waited))
    queue.add("a")
    at = 40.0
    await drain(queue, 1)
    assert taken == [0.0]


async def test_a_time_that_came_for_what_may_wait_stands_behind_all_else_and_takes_no_other_time_away() -> None:
    queue = DirtyQueue(lambda: 0.0)
    queue.add_at("a", 0.0, Turn.LAST)
    queue.add_at("b", 0.0)
    queue.add_at("a", 0.05)
    assert await drain(queue, 3) == ["b", "a", "a"]
    queue.add_at("a", 9_999.0)
    queue.add_at("a", 9_999.0, Turn.LAST)
    queue.forget("a")
    queue.close()
