"""Wiring: what steps get, and what becomes of a step whose dependencies did not give it."""

from __future__ import annotations

import pytest

from builders import Drive, a_file, bound, literal, pipeline


def test_values_flow_from_inputs_through_steps_to_outputs(drive: Drive) -> None:
    x = drive(
        pipeline().input("rows", "number", default=150).output("acc", "number", "steps.b.outputs.y * 0.5")
        .step("a", inputs={"n": "inputs.rows", "k": literal([1, {"x": None}])}, outputs={"n": "number"})
        .step("b", inputs={"n": "steps.a.outputs.n + 1"}, outputs={"y": "number"})
    ).start()  # fmt: skip
    assert x.inputs("a") == {"n": 150, "k": [1, {"x": None}]}
    x.succeed("a", n=3)
    assert x.inputs("b") == {"n": 4}
    x.succeed("b", y=5)
    assert (x.head(), x.outputs()) == (("Succeeded", "Succeeded"), {"acc": 2.5})
    assert x.status()["progress"] == "2/2"


def test_files_flow_as_they_are(drive: Drive) -> None:
    table = a_file("table", folder=True)
    x = drive(
        pipeline().input("raw", "file").output("t", "file", "steps.b.outputs.t")
        .step("a", inputs={"f": "inputs.raw"}, outputs={"t": "file"})
        .step("b", inputs={"t": "steps.a.outputs.t", "both": "[inputs.raw, steps.a.outputs.t]"}, outputs={"t": "file"}),
        inputs={"raw": a_file("raw")},
    ).start()  # fmt: skip
    assert x.inputs("a") == {"f": a_file("raw")}
    x.succeed("a", t=table)
    assert x.inputs("b") == {"t": table, "both": [a_file("raw"), table]}
    x.succeed("b", t=table)
    assert x.outputs() == {"t": table}


def test_an_optional_input_that_is_not_given_is_null(drive: Drive) -> None:
    told = pipeline().input("x", "string", required=False).step("a", inputs={"x": "inputs.x"})
    assert drive(told).start().inputs("a") == {"x": None}


def test_execution_names_are_there_for_expressions(drive: Drive) -> None:
    told = pipeline().step("a", inputs={"x": "execution.name + '/' + execution.uid + '/' + execution.namespace"})
    assert drive(told).start().inputs("a") == {"x": "x-1/uid-x-1/default"}


def test_the_image_may_come_from_an_expression(drive: Drive) -> None:
    told = pipeline().step("a", outputs={"i": "json"}).step("b", imageFrom="steps.a.outputs.i")
    x = drive(told).start().succeed("a", i="registry/i:1")
    assert [start.image for start in x.starts.values()] == [None, "registry/i:1"]
    bad = drive(told).start().succeed("a", i=5)
    assert (bad.phase("b"), bad.reason("b")) == ("Failed", "ExpressionError")
    assert bad.said("b") == "imageFrom: 'steps.a.outputs.i' must give the name of an image, it gives 5"


def test_steps_start_in_the_order_of_the_manifest(drive: Drive) -> None:
    assert drive(pipeline().step("c").step("a").step("b")).start().started == ["c", "a", "b"]


@pytest.mark.parametrize("dead", ["fail", "skip", "omit"])
@pytest.mark.parametrize("edge", ["data", "dependsOn"])
def test_the_fate_of_a_dependency_is_passed_on(drive: Drive, dead: str, edge: str) -> None:
    told = (
        pipeline()
        .step("r", onFailure="Fail")
        .step("a", outputs={"n": "number"}, **({"when": "false"} if dead == "skip" else {"dependsOn": ["r"]}))
    )
    told.step("b", **({"inputs": {"n": "steps.a.outputs.n"}} if edge == "data" else {"dependsOn": ["a"]}))
    told.step("c", dependsOn=["b"])
    x = drive(told).start()
    if dead == "omit":
        x.fail("r")
    else:
        x.succeed("r")
        if dead == "fail":
            x.fail("a")
    wanted = ("Skipped", "DependencySkipped") if dead == "skip" else ("Omitted", "DependencyFailed")
    assert (x.phase("b"), x.reason("b")) == wanted
    assert (x.phase("c"), x.reason("c")) == wanted
    assert x.said("b").startswith('step "a", which it waits for, ')
    assert x.finished


def test_a_default_stands_in_for_a_skipped_producer(drive: Drive) -> None:
    x = drive(
        pipeline().step("a", when="false", outputs={"n": "number"})
        .step("b", inputs={"n": bound("steps.a.outputs.n * 2", default=7)})
    ).start()  # fmt: skip
    assert (x.started, x.inputs("b")) == (["b"], {"n": 7})


def test_a_default_of_null_is_a_default(drive: Drive) -> None:
    told = pipeline().step("a", when="false", outputs={"n": "number"})
    told.step("b", inputs={"n": bound("steps.a.outputs.n", default=None)})
    assert drive(told).start().inputs("b") == {"n": None}


def test_a_default_for_one_of_two_bindings_does_not_do(drive: Drive) -> None:
    told = pipeline().step("a", when="false", outputs={"n": "number"})
    told.step("b", inputs={"n": bound("steps.a.outputs.n", default=7), "m": "steps.a.outputs.n"})
    assert drive(told).start().phase("b") == "Skipped"


def test_a_default_does_not_make_up_for_depends_on(drive: Drive) -> None:
    told = pipeline().step("a", when="false", outputs={"n": "number"})
    told.step("b", dependsOn=["a"], inputs={"n": bound("steps.a.outputs.n", default=7)})
    assert drive(told).start().phase("b") == "Skipped"


def test_a_default_does_not_make_up_for_a_failure(drive: Drive) -> None:
    told = pipeline().step("a", outputs={"n": "number"}).step("b", inputs={"n": bound("steps.a.outputs.n", default=7)})
    assert drive(told).start().fail("a").phase("b") == "Omitted"


def test_a_status_as_input_is_known_of_a_skipped_step(drive: Drive) -> None:
    told = pipeline().step("a", when="false").step("b", inputs={"s": "steps.a.status"})
    assert drive(told).start().inputs("b") == {"s": "Skipped"}


def test_a_failed_dependency_is_named_before_a_skipped_one(drive: Drive) -> None:
    told = pipeline().step("s", when="false").step("f").step("b", dependsOn=["s", "f"])
    x = drive(told).start().fail("f")
    assert (x.phase("b"), x.said("b")) == ("Omitted", 'step "f", which it waits for, is Failed')


def test_an_output_of_the_pipeline_that_never_came_fails_the_execution(drive: Drive) -> None:
    told = pipeline().output("n", "number", "steps.a.outputs.n").step("a", when="false", outputs={"n": "number"})
    x = drive(told).start()
    assert x.head() == ("Failed", "OutputUnavailable")
    assert x.message.startswith('output "n": steps.a.outputs.n has no value')


def test_an_output_with_a_default_does_not_need_its_step(drive: Drive) -> None:
    told = pipeline().output("n", "number", "steps.a.outputs.n", default=4)
    x = drive(told.step("a", when="false", outputs={"n": "number"})).start()
    assert (x.head(), x.outputs()) == (("Succeeded", "Succeeded"), {"n": 4})


def test_an_output_of_the_wrong_type_fails_the_execution(drive: Drive) -> None:
    told = pipeline().output("n", "number", "steps.a.outputs.j").step("a", outputs={"j": "json"})
    x = drive(told).start().succeed("a", j="text")
    assert x.head() == ("Failed", "InvalidOutputs")
    assert 'output "n": ' in x.message
    assert "number" in x.message


def test_a_json_output_that_holds_no_file_cannot_be_a_file_and_json_null_is_a_value(drive: Drive) -> None:
    told = pipeline().output("j", "json", "steps.a.outputs.j").step("a", outputs={"j": "json"})
    x = drive(told).start().succeed("a", j=None)
    assert (x.head()[0], x.outputs()) == ("Succeeded", {"j": None})


def test_outputs_that_are_there_are_kept_when_the_execution_fails(drive: Drive) -> None:
    told = pipeline().output("n", "number", "steps.a.outputs.n").output("m", "number", "steps.b.outputs.m")
    told.step("a", outputs={"n": "number"}).step("b", dependsOn=["a"], outputs={"m": "number"})
    x = drive(told).start().succeed("a", n=1).fail("b")
    assert (x.head(), x.outputs()) == (("Failed", "StepFailed"), {"n": 1})
    assert x.message.startswith('step "b": exit code 1')


def test_an_input_that_cannot_be_evaluated_fails_the_step_and_names_the_input(drive: Drive) -> None:
    told = pipeline().input("j", "json").step("a", inputs={"x": "inputs.j.missing"})
    x = drive(told, inputs={"j": {}}).start()
    assert (x.phase("a"), x.reason("a")) == ("Failed", "ExpressionError")
    assert x.said("a").startswith('input "x": cannot evaluate')
    assert x.finished


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, 'input "rows" (number) is required; give it a value'),
        ({"rows": "many"}, "wanted a number"),
        ({"rows": 1, "row": 2}, 'unknown input "row"; the pipeline has rows, raw'),
        ({"rows": None}, "wanted a number"),
        ({"rows": a_file()}, 'input "rows": wanted a number, got a file'),
        ({"rows": 1, "raw": "text"}, 'input "raw": wanted a file, got a value'),
    ],
)
def test_bad_inputs_start_nothing_and_say_what_is_wrong(drive: Drive, given: dict[str, object], says: str) -> None:
    told = pipeline().input("rows", "number").input("raw", "file", required=False).step("a").final("f")
    x = drive(told, inputs=given).start()
    assert x.head() == ("Failed", "InvalidInputs")
    assert says in x.message
    assert (x.started, x.phases()) == ([], {"a": "Omitted", "f": "Omitted"})
    assert x.tick().plan.finished


def test_missing_outputs_are_named(drive: Drive) -> None:
    told = pipeline().step("a", outputs={"n": "number", "m": "number", "f": "file"})
    x = drive(told).start().succeed("a", m=1)
    assert (x.phase("a"), x.reason("a")) == ("Failed", "InvalidOutputs")
    assert x.said("a") == "declared outputs were not written: n, f"


def test_a_missing_exit_code_without_reason_is_a_failure_of_the_step(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().end("a")
    assert (x.phase("a"), x.reason("a")) == ("Failed", "StepFailed")


def test_a_platform_error_is_an_error_of_the_execution(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().end("a", reason="StepError", message="no such image")
    assert (x.phase("a"), x.head(), x.message) == ("Error", ("Error", "StepError"), 'step "a": no such image')


def test_one_failure_of_the_user_makes_the_execution_failed_whatever_else(drive: Drive) -> None:
    x = drive(pipeline().settings(failurePolicy="FinishRunning").step("a").step("b")).start()
    x.end("a", reason="StepError").fail("b")
    assert x.head() == ("Failed", "StepError")
    assert "(also failed: b)" in x.message


def test_stale_and_repeated_observations_change_nothing(drive: Drive) -> None:
    x = drive(pipeline().step("a", outputs={"n": "number"}).step("b", dependsOn=["a"])).start()
    old = x.attempt("a")
    x.succeed("a", n=1)
    before = x.status()
    from penstock.engine.types import AttemptId, AttemptPhase, Observation

    for phase in AttemptPhase:
        x.tick(Observation(old, phase, exit_code=1), Observation(AttemptId("b", -1, 7), phase, exit_code=1))
        assert (x.status(), x.plan.changed) == (before, False)
