"""`forEach`: what the items are, how they run, and how their outputs are collected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builders import Drive, Driver, PipelineBuilder, a_file, bound, literal, pipeline
from penstock.api.base import MAX_ITEMS
from penstock.engine.fanout import merge
from penstock.engine.types import Limits, Value

OBJECT_LIMIT = 1_572_864
"""What the API server stores of one object, in bytes (etcd's own default limit)."""


def over(items: Any, **fields: Any) -> PipelineBuilder:
    for_each = {"items": items, **fields.pop("each", {})}
    return pipeline().step(
        "f", forEach=for_each, inputs={"x": "item", "i": "index"}, outputs={"n": "number"}, **fields
    ).step("g", inputs={"all": "steps.f.outputs.n"})  # fmt: skip


# --- matrices: the examples of GitHub's documentation -------------------------------------------------


def test_github_a_two_dimensional_matrix_runs_each_combination() -> None:
    versions, systems = [10, 12, 14], ["ubuntu-latest", "windows-latest"]
    assert merge(["version", "os"], [versions, systems], [], []) == [
        {"version": 10, "os": "ubuntu-latest"},
        {"version": 10, "os": "windows-latest"},
        {"version": 12, "os": "ubuntu-latest"},
        {"version": 12, "os": "windows-latest"},
        {"version": 14, "os": "ubuntu-latest"},
        {"version": 14, "os": "windows-latest"},
    ]


def test_github_includes_are_merged_where_they_overwrite_no_original_value() -> None:
    include: list[dict[str, Any]] = [
        {"color": "green"},
        {"color": "pink", "animal": "cat"},
        {"fruit": "apple", "shape": "circle"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]
    assert merge(["fruit", "animal"], [["apple", "pear"], ["cat", "dog"]], include, []) == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_github_expanding_configurations() -> None:
    include = [{"os": "windows-latest", "node": 16, "npm": 6}]
    found = merge(["os", "node"], [["windows-latest", "ubuntu-latest"], [14, 16]], include, [])
    assert found == [
        {"os": "windows-latest", "node": 14},
        {"os": "windows-latest", "node": 16, "npm": 6},
        {"os": "ubuntu-latest", "node": 14},
        {"os": "ubuntu-latest", "node": 16},
    ]


def test_github_adding_configurations() -> None:
    systems = ["macos-latest", "windows-latest", "ubuntu-latest"]
    found = merge(["os", "version"], [systems, [12, 14, 16]], [{"os": "windows-latest", "version": 17}], [])
    assert len(found) == 10
    assert found[-1] == {"os": "windows-latest", "version": 17}


def test_github_includes_without_a_matrix_each_run() -> None:
    include = [{"site": "production", "datacenter": "site-a"}, {"site": "staging", "datacenter": "site-b"}]
    assert merge(["x"], [[]], include, []) == include


def test_github_excluding_configurations() -> None:
    lists: list[list[Any]] = [["macos-latest", "windows-latest"], [12, 14, 16], ["staging", "production"]]
    exclude: list[dict[str, Any]] = [
        {"os": "macos-latest", "version": 12, "environment": "production"},
        {"os": "windows-latest", "version": 16},
    ]
    found = merge(["os", "version", "environment"], lists, [], exclude)
    assert len(found) == 9
    assert {"os": "macos-latest", "version": 12, "environment": "production"} not in found
    assert {"os": "macos-latest", "version": 12, "environment": "staging"} in found
    assert not [each for each in found if each["os"] == "windows-latest" and each["version"] == 16]


def test_includes_come_after_excludes_so_they_can_bring_back_a_combination() -> None:
    assert merge(["a"], [[1, 2]], [{"a": 2}], [{"a": 2}]) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("value", "pattern", "out"), [(1, 1.0, True), (1, True, False), ("1", 1, False), ({"k": [1]}, {"k": [1.0]}, True)]
)
def test_values_are_the_same_as_json_has_it(value: Any, pattern: Any, *, out: bool) -> None:
    assert (merge(["a"], [[value]], [], [{"a": pattern}]) == []) is out


def test_a_matrix_step_sees_its_combination_as_a_map(drive: Drive) -> None:
    matrix = {
        "matrix": [{"name": "k", "items": [1, 3]}, {"name": "city", "from": "inputs.cities"}],
        "include": [{"k": 3, "deep": True}],
        "exclude": [{"k": 1, "city": "b"}],
    }
    told = pipeline().input("cities", "array", default=["a", "b"])
    told.step("f", forEach=matrix, inputs={"k": "item.k * 10", "c": "item.city", "d": "has(item.deep)", "i": "index"})
    x = drive(told).start()
    assert [dict(start.inputs) for start in x.starts.values()] == [
        {"k": 10, "c": "a", "d": False, "i": 0},
        {"k": 30, "c": "a", "d": True, "i": 1},
        {"k": 30, "c": "b", "d": True, "i": 2},
    ]


# --- running ------------------------------------------------------------------------------------------


def test_outputs_come_in_item_order_whatever_order_items_end_in(drive: Drive) -> None:
    x = drive(over(["a", "b", "c"])).start()
    assert [x.inputs(f"f[{i}]") for i in range(3)] == [{"x": v, "i": i} for i, v in enumerate("abc")]
    x.succeed("f[2]", n=2).succeed("f[0]", n=0)
    assert x.phase("f") == "Running"
    x.succeed("f[1]", n=1)
    assert (x.phase("f"), x.inputs("g")) == ("Succeeded", {"all": [0, 1, 2]})


def test_outputs_come_in_item_order_under_retries(drive: Drive) -> None:
    x = drive(over([1, 2, 3], retry={"limit": 2, "delaySeconds": 5})).start()
    x.fail("f[0]").succeed("f[1]", n=1).end("f[2]", reason="Disrupted").advance(1).succeed("f[2]", n=2).advance(4)
    assert x.inputs("f[0]") == {"x": 1, "i": 0}
    x.succeed("f[0]", n=0)
    assert x.inputs("g") == {"all": [0, 1, 2]}
    assert x.started == ["f[0]", "f[1]", "f[2]", "f[2]#2", "f[0]#2", "g"]


def test_files_are_collected_as_a_list(drive: Drive) -> None:
    told = pipeline().step("f", forEach={"items": [1, 2]}, outputs={"t": "file"})
    told.step("g", inputs={"all": "steps.f.outputs.t", "first": "steps.f.outputs.t[0]"})
    x = drive(told).start().succeed("f[1]", t=a_file("1")).succeed("f[0]", t=a_file("0"))
    assert x.inputs("g") == {"all": [a_file("0"), a_file("1")], "first": a_file("0")}


def test_an_empty_list_succeeds_with_empty_outputs(drive: Drive) -> None:
    x = drive(over([])).start()
    assert (x.phase("f"), x.inputs("g"), x.started) == ("Succeeded", {"all": []}, ["g"])
    assert x.status()["steps"][0]["itemCount"] == 0


def test_an_empty_list_from_an_expression_succeeds_too(drive: Drive) -> None:
    told = pipeline().input("l", "array").step("f", forEach={"from": "inputs.l"}, outputs={"n": "number"})
    x = drive(told.output("sum", "array", "steps.f.outputs.n"), inputs={"l": []}).start()
    assert (x.head()[0], x.outputs()) == ("Succeeded", {"sum": []})


@pytest.mark.parametrize("most", [1, 2, 3])
def test_never_more_items_at_once_than_max_parallel(drive: Drive, most: int) -> None:
    x = drive(over([1, 2, 3], each={"maxParallel": most})).start()
    assert x.in_flight == [f"f[{i}]" for i in range(most)]
    x.succeed("f[0]", n=0)
    assert x.in_flight == [f"f[{i}]" for i in range(1, min(3, most + 1))]


def test_a_retry_waits_for_room_in_its_fan_out(drive: Drive) -> None:
    x = drive(over([1, 2], each={"maxParallel": 1}, retry={"limit": 1, "delaySeconds": 5})).start().fail("f[0]")
    assert x.in_flight == ["f[1]"]
    x.advance(60)
    assert x.in_flight == ["f[1]"]
    x.succeed("f[1]", n=1)
    assert x.in_flight == ["f[0]#2"]


def test_the_execution_has_its_own_max_parallel(drive: Drive) -> None:
    x = drive(over([1, 2, 3]).settings(maxParallel=2)).start()
    assert x.in_flight == ["f[0]", "f[1]"]
    x.succeed("f[1]", n=1)
    assert x.in_flight == ["f[0]", "f[2]"]


def test_a_retry_waits_for_room_in_the_execution(drive: Drive) -> None:
    told = pipeline().settings(maxParallel=1).step("a", retry={"limit": 1, "delaySeconds": 5}).step("b")
    x = drive(told).start().fail("a").advance(60)
    assert x.in_flight == ["b"]
    assert x.succeed("b").in_flight == ["a#2"]


def test_a_full_fan_out_does_not_hold_up_other_steps(drive: Drive) -> None:
    assert drive(over([1, 2], each={"maxParallel": 1}).step("h")).start().in_flight == ["f[0]", "h"]


def test_a_condition_on_the_item_is_asked_for_each(drive: Drive) -> None:
    x = drive(over([1, 2, 3], when="item != 2")).start()
    assert x.in_flight == ["f[0]", "f[2]"]
    assert (x.phase("f[1]"), x.reason("f[1]")) == ("Skipped", "WhenFalse")
    x.succeed("f[0]", n=0).succeed("f[2]", n=2)
    assert (x.phase("f"), x.inputs("g")) == ("Succeeded", {"all": [0, None, 2]})


def test_a_condition_on_the_index_is_asked_for_each(drive: Drive) -> None:
    assert drive(over([1, 2, 3], when="index == 1")).start().started == ["f[1]"]


def test_all_items_skipped_succeeds_with_nulls(drive: Drive) -> None:
    x = drive(over([1, 2], when="item > 5")).start()
    assert (x.phase("f"), x.inputs("g")) == ("Succeeded", {"all": [None, None]})


def test_a_condition_without_item_skips_the_whole_step(drive: Drive) -> None:
    x = drive(over([1, 2], when="1 > 2")).start()
    assert x.phases() == {"f": "Skipped", "g": "Skipped"}
    assert "itemCount" not in x.status()["steps"][0]


def test_a_condition_may_ask_for_item_and_status(drive: Drive) -> None:
    told = pipeline().step("a", onFailure="Continue")
    told.step("f", forEach={"items": [1, 2]}, when="item == 1 && steps.a.status == 'Failed'")
    assert drive(told).start().fail("a").started == ["a", "f[0]"]


def test_a_skipped_file_item_is_null_among_files(drive: Drive) -> None:
    told = pipeline().step("f", forEach={"items": [1, 2]}, when="item == 2", outputs={"t": "file"})
    x = drive(told.step("g", inputs={"all": "steps.f.outputs.t"})).start().succeed("f[1]", t=a_file("1"))
    assert x.inputs("g") == {"all": [None, a_file("1")]}


def test_collected_outputs_may_be_gone_over_again(drive: Drive) -> None:
    told = over([1, 2]).step(
        "h", forEach={"from": "steps.f.outputs.n"}, inputs={"x": "item * 0.5"}, outputs={"m": "number"}
    ).step("k", forEach={"from": "steps.h.outputs.m.map(m, m + 1.0)"}, inputs={"x": "item"})  # fmt: skip
    x = drive(told).start().succeed("f[1]", n=4).succeed("f[0]", n=3)
    assert [x.inputs("h[0]"), x.inputs("h[1]")] == [{"x": 1.5}, {"x": 2.0}]
    x.succeed("h[1]", m=8.5).succeed("h[0]", m=7.5)
    assert [x.inputs("k[0]"), x.inputs("k[1]")] == [{"x": 8.5}, {"x": 9.5}]


def test_files_may_be_gone_over(drive: Drive) -> None:
    told = pipeline().step("f", forEach={"items": [1, 2]}, outputs={"t": "file"})
    told.step("g", forEach={"from": "steps.f.outputs.t"}, inputs={"t": "item"})
    x = drive(told).start().succeed("f[0]", t=a_file("0")).succeed("f[1]", t=a_file("1"))
    assert [x.inputs("g[0]"), x.inputs("g[1]")] == [{"t": a_file("0")}, {"t": a_file("1")}]


def test_a_failed_item_fails_the_step_and_is_named(drive: Drive) -> None:
    x = drive(over([1, 2, 3]).settings(failurePolicy="FinishRunning")).start()
    x.succeed("f[0]", n=0).fail("f[1]", exit_code=4).succeed("f[2]", n=2)
    assert (x.phase("f"), x.reason("f")) == ("Failed", "ItemsFailed")
    assert x.said("f") == "1 of 3 items failed; item 1: exit code 4"
    assert x.head() == ("Failed", "ItemsFailed")
    assert x.phase("g") == "Omitted"
    shown = x.status()["steps"][0]
    assert [item["index"] for item in shown["items"]] == [1]


def test_a_failed_item_stops_the_others_at_once_under_fail_fast(drive: Drive) -> None:
    x = drive(over([1, 2, 3], each={"maxParallel": 2})).start().fail("f[0]")
    assert x.stop_reasons == {"f[1]": "FailedFast"}
    x.stopped()
    assert [x.phase(f"f[{i}]") for i in range(3)] == ["Failed", "Cancelled", "Omitted"]
    assert (x.phase("f"), x.finished) == ("Failed", True)


def test_only_platform_errors_make_the_step_an_error(drive: Drive) -> None:
    x = drive(over([1], onFailure="Continue")).start().end("f[0]", reason="StepError")
    assert x.phase("f") == "Error"
    y = drive(over([1, 2], onFailure="Continue")).start().end("f[0]", reason="StepError").fail("f[1]")
    assert y.phase("f") == "Failed"


def test_with_continue_all_items_run_and_the_rest_is_usable(drive: Drive) -> None:
    x = drive(over([1, 2], each={"maxParallel": 1}, onFailure="Continue")).start().fail("f[0]").succeed("f[1]", n=1)
    assert (x.phase("f"), x.inputs("g")) == ("Failed", {"all": [None, 1]})
    x.succeed("g")
    assert x.head() == ("Succeeded", "Succeeded")


def test_a_failed_fan_out_with_continue_keeps_outputs_of_more_than_half_the_bound(drive: Drive) -> None:
    x = drive(over([1, 2], onFailure="Continue"), limits=Limits(status_bytes=30)).start()
    x.fail("f[0]").succeed("f[1]", n=1_234_567_890_123)
    assert x.inputs("g") == {"all": [None, 1_234_567_890_123]}


def test_the_status_of_the_whole_is_seen_from_outside(drive: Drive) -> None:
    told = over([1, 2], onFailure="Continue").step("h", when="steps.f.status == 'Failed'")
    x = drive(told).start().succeed("f[0]", n=1).fail("f[1]")
    assert "h" in x.started


def test_the_attempt_number_is_that_of_the_item(drive: Drive) -> None:
    told = pipeline().step("f", forEach={"items": [1, 2]}, retry={"limit": 1}, inputs={"k": "item * 10 + attempt"})
    x = drive(told).start().fail("f[1]")
    assert [dict(start.inputs)["k"] for start in x.starts.values()] == [11, 21, 22]


def test_a_list_that_is_none_fails_the_step(drive: Drive) -> None:
    x = drive(pipeline().input("j", "json").step("f", forEach={"from": "inputs.j"}), inputs={"j": {"a": 1}}).start()
    assert (x.phase("f"), x.reason("f")) == ("Failed", "ExpressionError")
    assert x.said("f") == "forEach: 'inputs.j' gives no list but {\"a\": 1}"


def test_a_list_that_never_came_skips_the_step(drive: Drive) -> None:
    told = pipeline().step("a", onFailure="Continue", outputs={"l": "array"})
    x = drive(told.step("f", forEach={"from": "steps.a.outputs.l"})).start().fail("a")
    assert (x.phase("f"), x.reason("f")) == ("Skipped", "InputUnavailable")


@pytest.mark.parametrize(("count", "phase"), [(MAX_ITEMS, "Running"), (MAX_ITEMS + 1, "Failed")])
def test_more_items_than_a_step_may_have_fail_it(drive: Drive, count: int, phase: str) -> None:
    told = pipeline().input("l", "array").settings(maxParallel=1).step("f", forEach={"from": "inputs.l"})
    x = drive(told, inputs={"l": [0] * count}).start()
    assert x.phase("f") == phase
    if phase == "Failed":
        assert x.reason("f") == "TooManyItems"
        assert "1001 items; one step may have 1000" in x.said("f")


def test_a_matrix_is_measured_before_it_is_built(drive: Drive) -> None:
    axes = [{"name": name, "from": "inputs.l"} for name in "abcd"]
    told = pipeline().input("l", "array").step("f", forEach={"matrix": axes})
    x = drive(told, inputs={"l": list(range(1_000))}).start()
    assert (x.reason("f"), x.finished) == ("TooManyItems", True)


@pytest.mark.parametrize("turned", [False, True])
def test_the_same_text_means_what_its_own_place_says(drive: Drive, *, turned: bool) -> None:
    """`item == 1.5` with items known to be numbers, and with items of which nothing is known."""
    numbers = {"forEach": {"from": "steps.f.outputs.n"}, "when": "item == 1.5"}
    mixed = {"forEach": {"items": ["text", 1.5]}, "when": "item == 1.5", "dependsOn": ["f"]}
    told = over([1, 2]).step("x", **(mixed if turned else numbers)).step("y", **(numbers if turned else mixed))
    x = drive(told).start().succeed("f[0]", n=3).succeed("f[1]", n=1.5)
    for step in "xy":
        assert (x.reason(f"{step}[0]"), x.phase(f"{step}[1]")) == ("WhenFalse", "Pending"), step


def test_a_literal_beside_items_is_the_same_for_all(drive: Drive) -> None:
    told = pipeline().step(
        "f", forEach={"items": [1, 2]}, inputs={"x": literal({"a": 1}), "d": bound("item", default=0)}
    )
    x = drive(told).start()
    assert [x.inputs("f[0]"), x.inputs("f[1]")] == [{"x": {"a": 1}, "d": 1}, {"x": {"a": 1}, "d": 2}]


# --- size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
def test_a_thousand_items_stay_within_the_object_size_limit(outcome: str) -> None:
    told = pipeline().step(
        "f",
        forEach={"items": list(range(MAX_ITEMS))},
        onFailure="Continue",
        outputs={"accuracy": "number", "model": "file", "note": "string"},
    )
    x = Driver(told).start()
    worst = 0
    for index in range(MAX_ITEMS):
        outputs: dict[str, Value] = {"accuracy": 0.123456789, "model": a_file("m" * 64), "note": "n" * 200}
        if outcome == "succeed":
            x.succeed(f"f[{index}]", **outputs)
        else:
            x.end(f"f[{index}]", exit_code=1, message="exit code 1: " + "why " * 1_000, outputs=outputs)
        if index % 100 == 99 or index == MAX_ITEMS - 2:
            worst = max(worst, len(json.dumps(x.status(), separators=(",", ":"))))
    assert x.finished
    assert worst < OBJECT_LIMIT - 100_000
