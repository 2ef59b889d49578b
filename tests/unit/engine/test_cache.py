"""`cache`: the outputs of an earlier success with the same fingerprint are used again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from builders import NOON, Drive, Driver, PipelineBuilder, a_file, literal, pipeline
from penstock.engine.types import CacheEntry, Limits


def told(**fields: Any) -> PipelineBuilder:
    given = {"image": "i:1", "inputs": {"rows": "inputs.rows"}, "outputs": {"n": "number"}, "cache": {}} | fields
    return pipeline().input("rows", "number", default=1).step("a", **given).step("b", inputs={"n": "steps.a.outputs.n"})


def after(first: Driver, drive: Drive, second: PipelineBuilder, **options: Any) -> Driver:
    """A second execution that sees what the first one remembered."""
    return drive(second, **{"cache": first.cache, "name": "x-2", "now": NOON + 100} | options).start()


def test_an_earlier_success_is_used_again(drive: Drive) -> None:
    first = drive(told()).start().succeed("a", n=3)
    x = after(first, drive, told())
    assert (x.phase("a"), x.reason("a"), x.said("a")) == ("Cached", None, 'outputs of execution "x-1"')
    assert (x.started, x.inputs("b")) == (["b"], {"n": 3})
    x.succeed("b")
    assert x.head() == ("Succeeded", "Succeeded")


def test_a_look_up_is_asked_for_before_the_step_is_started(drive: Drive) -> None:
    from penstock.engine.decide import Snapshot, decide

    x = drive(told())
    plan = decide(Snapshot(x.state, x.request), x.now)
    assert (len(plan.lookups), plan.starts) == (1, ())
    assert len(plan.lookups[0]) == 64
    x.start()
    assert x.in_flight == ["a"]


def test_only_successes_are_remembered(drive: Drive) -> None:
    x = drive(told(retry={"limit": 1})).start().fail("a")
    assert x.remembered == []
    x.succeed("a", n=3)
    assert [(entry.outputs, entry.created_at, entry.execution) for entry in x.remembered] == [({"n": 3}, NOON, "x-1")]


def test_without_cache_nothing_is_asked_or_remembered(drive: Drive) -> None:
    x = drive(told(cache=None)).start().succeed("a", n=3)
    assert (x.lookups, x.remembered) == ([], [])


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "i:2"},
        {"command": ["false"]},
        {"args": ["x"]},
        {"env": [{"name": "X", "value": "1"}]},
        {"inputs": {"rows": "inputs.rows + 1"}},
        {"inputs": {"row": "inputs.rows"}},
        {"outputs": {"n": "number", "m": "number"}},
        {"cache": {"key": "'2026'"}},
        {"podTemplate": {"spec": {"hostNetwork": True}}},
    ],
    ids=str,
)
def test_what_makes_a_difference_is_part_of_the_fingerprint(drive: Drive, fields: Mapping[str, Any]) -> None:
    first = drive(told(command=["true"])).start().succeed("a", n=3)
    assert after(first, drive, told(command=["true"])).phase("a") == "Cached"
    assert after(first, drive, told(**{"command": ["true"]} | dict(fields))).in_flight == ["a"]


@pytest.mark.parametrize(
    "fields",
    [
        {"retry": {"limit": 5}},
        {"timeoutSeconds": 5},
        {"description": "better"},
        {"when": "inputs.rows > 0"},
        {"onFailure": "Continue"},
        {"resources": {"limits": {"cpu": 1}}},
        {"inputs": {"rows": literal(1)}},
    ],
    ids=str,
)
def test_what_makes_no_difference_is_not(drive: Drive, fields: Mapping[str, Any]) -> None:
    first = drive(told()).start().succeed("a", n=3)
    assert after(first, drive, told(**fields)).phase("a") == "Cached"


def test_the_value_of_the_key_counts_and_not_its_text(drive: Drive) -> None:
    first = drive(told(cache={"key": "inputs.rows + 1"})).start().succeed("a", n=3)
    assert after(first, drive, told(cache={"key": "inputs.rows + 2 - 1"})).phase("a") == "Cached"
    assert after(first, drive, told(cache={"key": "inputs.rows + 2"})).in_flight == ["a"]


def test_local_code_counts(drive: Drive) -> None:
    first = drive(told(), code="1").start().succeed("a", n=3)
    assert after(first, drive, told(), code="1").phase("a") == "Cached"
    assert after(first, drive, told(), code="2").in_flight == ["a"]


def test_an_evaluated_image_counts_like_a_written_one(drive: Drive) -> None:
    first = drive(told()).start().succeed("a", n=3)
    second = pipeline().input("rows", "number", default=1).input("i", "string", default="i:1")
    second.step(
        "a", imageFrom="inputs.i", inputs={"rows": "inputs.rows"}, outputs={"n": "number"}, cache={}, when="true"
    )
    assert after(first, drive, second, inputs={"i": "i:2"}).in_flight == ["a"]


def test_files_count_by_their_content(drive: Drive) -> None:
    told = pipeline().input("f", "file").step("a", inputs={"f": "inputs.f"}, cache={})
    one, moved, other = a_file("one"), a_file("one"), a_file("two")
    moved = type(moved)("elsewhere", moved.sha256, moved.size)
    first = drive(told, inputs={"f": one}).start().succeed("a")
    assert after(first, drive, told, inputs={"f": moved}).phase("a") == "Cached"
    assert after(first, drive, told, inputs={"f": other}).in_flight == ["a"]
    assert after(first, drive, told, inputs={"f": a_file("one", folder=True)}).in_flight == ["a"]


@pytest.mark.parametrize(("later", "phase"), [(99, "Cached"), (100, "Cached"), (100.125, "Pending")])
def test_a_success_may_be_too_old(drive: Drive, later: float, phase: str) -> None:
    told_ = told(cache={"ttlSeconds": 100})
    first = drive(told_).start().succeed("a", n=3)
    assert after(first, drive, told_, now=NOON + later).phase("a") == phase


def test_an_entry_without_a_declared_output_is_not_used(drive: Drive) -> None:
    first = drive(told()).start().succeed("a", n=3)
    broken = {key: CacheEntry(key, {}, NOON, "x-1") for key in first.cache}
    assert drive(told(), cache=broken, name="x-2").start().in_flight == ["a"]


def test_an_entry_for_which_there_is_no_room_is_not_used(drive: Drive) -> None:
    first = drive(told()).start().succeed("a", n=3)
    assert after(first, drive, told(), limits=Limits(status_bytes=6)).in_flight == ["a"]


def test_a_success_after_retries_is_found_by_a_first_attempt(drive: Drive) -> None:
    fields: dict[str, Any] = {"inputs": {"try": "attempt"}, "retry": {"limit": 1}}
    first = drive(told(**fields)).start().fail("a").succeed("a", n=3)
    assert after(first, drive, told(**fields)).phase("a") == "Cached"


def test_only_the_first_attempt_is_looked_up(drive: Drive) -> None:
    x = drive(told(retry={"limit": 2})).start().fail("a")
    assert len(x.lookups) == 1


def test_two_steps_alike_may_share_within_one_execution(drive: Drive) -> None:
    x = drive(told().step("c", image="i:1", dependsOn=["a"], inputs={"rows": "inputs.rows"}, outputs={"n": "number"},
                          cache={})).start()  # fmt: skip
    x.succeed("a", n=3)
    assert x.lookups[0] == x.lookups[-1]


def test_items_are_looked_up_each(drive: Drive) -> None:
    def told(items: list[int]) -> PipelineBuilder:
        step = {"inputs": {"x": "item"}, "outputs": {"n": "number"}, "cache": {}}
        return pipeline().step("f", forEach={"items": items}, **step).step("g", inputs={"all": "steps.f.outputs.n"})

    first = drive(told([1, 2])).start().succeed("f[1]", n=20).succeed("f[0]", n=10)
    x = after(first, drive, told([2, 3, 1]))
    assert ([x.phase(f"f[{i}]") for i in range(3)], x.started) == (["Cached", "Pending", "Cached"], ["f[1]"])
    x.succeed("f[1]", n=30)
    assert (x.phase("f"), x.inputs("g")) == ("Succeeded", {"all": [20, 30, 10]})
    assert after(x, drive, told([3, 1])).phase("f") == "Cached"


def test_many_items_are_looked_up_in_few_passes(drive: Drive) -> None:
    told = pipeline().step("f", forEach={"items": list(range(200))}, inputs={"x": "item"}, cache={})
    x = drive(told).start()
    assert len(x.in_flight) == 200
    assert x.passes <= 8
    assert len(x.lookups) == len(set(x.lookups)) == 200
