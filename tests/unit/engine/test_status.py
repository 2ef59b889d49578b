"""The stored status is the whole memory of a run; reasons and phases are one documented table."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock.engine
from builders import NOON, Driver, PipelineBuilder, a_file, pipeline
from penstock.api.execution import ExecutionPhase, ExecutionStatus, StepPhase
from penstock.engine import status
from penstock.engine.decide import Snapshot, decide
from penstock.engine.reasons import ERROR_REASONS, EXECUTION_PHASES, MEANING, STEP_PHASES, Reason, table
from penstock.engine.types import Identity, Plan, Request, Value

IDENTITY = Identity("x-1", "uid")


def rich() -> PipelineBuilder:
    return (
        pipeline().output("n", "number", "steps.a.outputs.n").output("f", "file", "steps.fan.outputs.f[0]")
        .step("a", outputs={"n": "number", "f": "file"})
        .step("fan", forEach={"items": [1, 2, 3, 4], "maxParallel": 2}, onFailure="Continue", when="item != 4",
              retry={"limit": 1, "delaySeconds": 5}, outputs={"f": "file"})
        .step("b", dependsOn=["a"], timeoutSeconds=60).step("no", when="false").final("end")
    )  # fmt: skip


def stages() -> list[Driver]:
    """Executions at many moments of their lives."""

    def at(*calls: str) -> Driver:
        x = Driver(rich()).start()
        for call in calls:
            match call.split():
                case ["ok", task]:
                    written: dict[str, Value] = {"n": 1, "f": a_file(task)}
                    declared = x.pipeline.steps[task.split("[")[0]].spec.outputs
                    x.succeed(task, **{each.name: written[each.name] for each in declared})
                case ["fail", task]:
                    x.fail(task, message="no")
                case [method, *given_]:
                    getattr(x, method)(*[float(each) if each.isdigit() else each for each in given_])
        return x

    story = [
        "ok a", "running b", "fail fan[0]", "ok fan[1]", "suspend", "advance 7", "resume", "fail fan[0]", "ok fan[2]",
        "ok b", "running end", "ok end",
    ]  # fmt: skip
    found = [at(*story[:length]) for length in range(len(story) + 1)]
    return [*found, at("cancel"), at("fail a"), at("cancel", "stopped"), at("ok a", "cancel")]


@pytest.mark.parametrize("x", stages(), ids=lambda x: f"{x.state.head.phase}-{x.passes}")
def test_what_is_loaded_is_what_was_dumped(x: Driver) -> None:
    stored = json.loads(json.dumps(x.status()))
    again = status.load(x.pipeline, x.identity, stored, x.limits)
    assert json.loads(json.dumps(status.dump(again))) == stored
    assert sorted(again.expected()) == sorted(x.state.expected())
    assert (again.waiting, again.open_main, again.open_final) == (
        x.state.waiting,
        x.state.open_main,
        x.state.open_final,
    )
    assert (again.failed, again.value_bytes, again.head) == (x.state.failed, x.state.value_bytes, x.state.head)


@pytest.mark.parametrize("x", stages(), ids=lambda x: f"{x.state.head.phase}-{x.passes}")
def test_a_status_is_one_of_the_api(x: Driver) -> None:
    shown = ExecutionStatus.model_validate(json.loads(json.dumps(x.status())))
    assert [step.name for step in shown.steps] == ["a", "fan", "b", "no", "end"]
    assert {each.type: each.status for each in shown.conditions} == (
        {"Complete": "True", "Ready": "False", "Stalled": "True"}
        if x.finished
        else {"Complete": "False", "Ready": "Unknown", "Reconciling": "True"}
    )
    assert {each.reason for each in shown.conditions} == {shown.reason}


def test_the_whole_of_a_small_execution() -> None:
    x = Driver(pipeline().output("n", "number", "steps.a.outputs.n").step("a", outputs={"n": "number"})).start()
    x.advance(1).running("a").advance(2).succeed("a", n=2.5)
    assert x.status() == {
        "phase": "Succeeded",
        "reason": "Succeeded",
        "outcome": "Succeeded",
        "progress": "1/1",
        "startedAt": "2023-11-14T22:13:20.000Z",
        "finishedAt": "2023-11-14T22:13:23.000Z",
        "duration": "3.0s",
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "reason": "Succeeded",
                "message": "",
                "lastTransitionTime": "2023-11-14T22:13:23.000Z",
            }
            for kind in ("Complete", "Ready")
        ],
        "outputs": [{"name": "n", "value": 2.5}],
        "steps": [
            {
                "name": "a",
                "phase": "Succeeded",
                "exitCode": 0,
                "attempts": 1,
                "queuedAt": "2023-11-14T22:13:20.000Z",
                "attemptAt": "2023-11-14T22:13:20.000Z",
                "startedAt": "2023-11-14T22:13:21.000Z",
                "finishedAt": "2023-11-14T22:13:23.000Z",
                "outputs": [{"name": "n", "value": 2.5}],
            }
        ],
    }


def test_an_empty_status_is_a_new_execution() -> None:
    state = status.load(rich().compiled(), IDENTITY, {})
    assert (state.head.phase, state.head.total, state.tasks) == (ExecutionPhase.PENDING, 5, {})


def test_a_step_that_the_pipeline_does_not_have_is_passed_over() -> None:
    stored = {"phase": "Running", "steps": [{"name": "gone", "phase": "Succeeded"}]}
    assert status.load(rich().compiled(), IDENTITY, stored).tasks == {}


def test_items_that_succeeded_are_left_out_once_all_have_finished() -> None:
    x = Driver(pipeline().step("f", forEach={"items": [1, 2]}, outputs={"n": "number"}).step("b")).start()
    x.succeed("f[0]", n=1)
    assert [item["index"] for item in x.status()["steps"][0]["items"]] == [0, 1]
    x.succeed("f[1]", n=2)
    shown = x.status()["steps"][0]
    assert "items" not in shown
    assert shown["outputs"] == [{"name": "n", "value": [1, 2]}]
    assert (shown["itemCount"], shown["itemsFinished"]) == (2, 2)
    assert x.reboot().outputs("f[1]") == {"n": 2}


@given(st.integers(0, 4_102_444_800_000))
def test_times_are_kept_to_the_millisecond(milliseconds: int) -> None:
    at = round(milliseconds / 1000, 3)
    assert status.from_timestamp(status.to_timestamp(at)) == at
    assert status.to_timestamp(at).endswith("Z")


@pytest.mark.parametrize(
    "value",
    [None, True, 0, 2.5, "", "é\u2028", [], {}, [None], {"file": 1}, a_file(), a_file(folder=True), [a_file(), None]],
    ids=repr,
)
def test_every_kind_of_value_survives(value: Any) -> None:
    entry = json.loads(json.dumps(status.dump_value("n", value)))
    assert status.load_value(entry) == value
    ExecutionStatus.model_validate({"outputs": [entry]})


def test_a_plan_says_what_is_worth_a_write() -> None:
    def said(plan: Plan) -> tuple[tuple[str, ...], list[int], bool, bool]:
        return plan.steps, [task.index for task in plan.tasks], plan.urgent, plan.head is not None

    x = Driver(pipeline().step("a").step("f", forEach={"items": [1, 2]}, dependsOn=["a"])).start()
    assert said(x.plan) == (("a",), [], True, True)
    assert said(x.running("a").plan) == (("a",), [], False, False)
    assert said(x.succeed("a").plan) == (("a", "f"), [0, 1], True, True)
    assert said(x.tick().plan) == ((), [], False, False)


def test_a_chain_needs_one_write_more_than_it_has_steps() -> None:
    told = pipeline().step("s0")
    for index in range(1, 10):
        told.step(f"s{index}", dependsOn=[f"s{index - 1}"])
    x = Driver(told).start()
    writes = int(x.plan.urgent)
    for index in range(10):
        writes += int(x.running(f"s{index}").plan.urgent)
        writes += int(x.succeed(f"s{index}").plan.urgent)
    assert (x.finished, writes) == (True, 11)


def test_a_finished_execution_is_left_alone() -> None:
    x = Driver(pipeline().step("a")).start().succeed("a")
    plan = decide(Snapshot(x.state, Request(cancel=True, suspend=True)), NOON + 1e6)
    assert (plan.finished, plan.changed, plan.starts, plan.stops, plan.wake_at) == (True, False, (), (), None)


# --- the table --------------------------------------------------------------------------------------------


def test_every_reason_and_phase_has_a_meaning() -> None:
    assert list(MEANING) == list(Reason)
    assert set(STEP_PHASES) == {str(phase) for phase in StepPhase}
    assert set(EXECUTION_PHASES) == {str(phase) for phase in ExecutionPhase}
    assert set(MEANING) >= ERROR_REASONS
    assert all(meaning.endswith(".") for _, meaning in MEANING.values())


def test_the_table_shows_all_of_them() -> None:
    shown = table()
    for word in (*Reason, *StepPhase, *ExecutionPhase):
        assert f"| `{word}` |" in shown


def sources() -> list[Path]:
    return sorted(Path(penstock.engine.__path__[0]).parent.rglob("*.py"))


def test_every_reason_in_the_source_is_in_the_table() -> None:
    """Names of `Reason` are used, never words; and every one of them is used somewhere."""
    used: set[str] = set()
    for source in sources():
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in {"Reason"}:
                used.add(node.attr)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "finish":
                words = [each for each in node.args[3:4] if isinstance(each, ast.Constant) and each.value is not None]
                assert not words, f"{source.name}:{node.lineno}: a word and no Reason"
    assert used <= set(Reason.__members__)
    assert set(Reason.__members__) == used


def test_a_new_execution_has_a_reason_of_the_table_once_it_has_one() -> None:
    for x in stages():
        words = {step.get("reason") for step in x.status()["steps"]} | {x.state.head.reason}
        words |= {item.get("reason") for step in x.status()["steps"] for item in step.get("items", ())}
        assert words - {None} <= {str(reason) for reason in Reason}
