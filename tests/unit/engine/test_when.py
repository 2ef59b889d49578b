"""`when`: by default every dependency must have succeeded; one that asks for a status has taken over."""

from __future__ import annotations

import pytest

from builders import Drive, PipelineBuilder, pipeline


def after_a(**fields: object) -> PipelineBuilder:
    return pipeline().step("a", onFailure="Continue", outputs={"n": "number"}).step("b", dependsOn=["a"], **fields)


@pytest.mark.parametrize(("rows", "phase"), [(11, "Pending"), (10, "Skipped")])
def test_a_condition_on_an_input_runs_or_skips_the_step(drive: Drive, rows: int, phase: str) -> None:
    x = drive(pipeline().input("rows", "number").step("a", when="inputs.rows > 10"), inputs={"rows": rows}).start()
    assert x.phase("a") == phase
    assert x.finished is (phase == "Skipped")


def test_a_false_condition_names_itself(drive: Drive) -> None:
    x = drive(pipeline().step("a", when="1 > 2")).start()
    assert (x.phase("a"), x.reason("a"), x.said("a")) == ("Skipped", "WhenFalse", "when is false: 1 > 2")
    assert x.head() == ("Succeeded", "Succeeded")


def test_a_condition_is_asked_only_after_the_steps_it_mentions(drive: Drive) -> None:
    x = drive(pipeline().step("b", when="steps.a.outputs.n > 2").step("a", outputs={"n": "number"})).start()
    assert x.started == ["a"]
    x.succeed("a", n=3)
    assert x.started == ["a", "b"]


@pytest.mark.parametrize(
    ("how", "when", "phase"),
    [
        ("fail", "steps.a.status == 'Failed'", "Pending"),
        ("fail", "steps.a.status == 'Succeeded'", "Skipped"),
        ("fail", "steps.a.exitCode == 7", "Pending"),
        ("fail", "steps.a.exitCode == 8", "Skipped"),
        ("fail", "steps.a.exitCode > 5", "Pending"),
        ("succeed", "steps.a.exitCode == 0", "Pending"),
        ("succeed", "steps.a.status in ['Succeeded', 'Failed']", "Pending"),
    ],
)
def test_one_that_asks_for_a_status_decides_whatever_became_of_the_step(
    drive: Drive, how: str, when: str, phase: str
) -> None:
    x = drive(pipeline().step("a").step("b", when=when)).start()
    x.fail("a", exit_code=7) if how == "fail" else x.succeed("a")
    assert x.phase("b") == phase


def test_one_that_has_taken_over_waits_for_all_dependencies(drive: Drive) -> None:
    x = drive(
        pipeline().settings(failurePolicy="FinishRunning").step("a").step("c")
        .step("b", dependsOn=["c"], when="steps.a.status == 'Failed'")
    ).start()  # fmt: skip
    x.fail("a")
    assert x.phase("b") == "Pending"
    assert "b" not in x.started
    x.fail("c")
    assert "b" in x.started


def test_one_that_has_taken_over_runs_after_a_skipped_step(drive: Drive) -> None:
    x = drive(pipeline().step("a", when="false").step("b", when="steps.a.status == 'Skipped'")).start()
    assert x.started == ["b"]


def test_one_that_has_taken_over_sees_an_omitted_step(drive: Drive) -> None:
    x = drive(pipeline().step("a").step("b", dependsOn=["a"]).step("c", when="steps.b.status == 'Omitted'")).start()
    x.fail("a")
    assert x.phases() == {"a": "Failed", "b": "Omitted", "c": "Pending"}
    x.succeed("c")
    assert x.head() == ("Failed", "StepFailed")


def test_asking_for_attempts_does_not_take_over(drive: Drive) -> None:
    x = drive(pipeline().step("a").step("b", when="steps.a.attempts == 1")).start().fail("a")
    assert (x.phase("b"), x.reason("b")) == ("Omitted", "DependencyFailed")


def test_a_negated_status_takes_over_too(drive: Drive) -> None:
    x = drive(pipeline().step("a").step("b", when="!(steps.a.status == 'Succeeded')")).start().fail("a")
    assert "b" in x.started


def test_a_step_without_attempt_has_a_null_exit_code(drive: Drive) -> None:
    told = pipeline().step("a", when="false").step("b", when="steps.a.exitCode == null || steps.a.exitCode > 0")
    assert drive(told).start().started == ["b"]


def test_a_null_exit_code_in_a_comparison_of_numbers_is_an_error_that_names_the_condition(drive: Drive) -> None:
    x = drive(pipeline().step("a", when="false").step("b", when="steps.a.exitCode > 0")).start()
    assert (x.phase("b"), x.reason("b")) == ("Failed", "ExpressionError")
    assert x.said("b").startswith("when: cannot evaluate 'steps.a.exitCode > 0'")


def test_a_null_exit_code_is_equal_to_no_number_even_where_numbers_are_doubles(drive: Drive) -> None:
    x = drive(pipeline().step("a", when="false").step("b", when="steps.a.exitCode == 1.5")).start()
    assert x.reason("b") == "WhenFalse"


def test_a_condition_that_cannot_be_evaluated_fails_the_step(drive: Drive) -> None:
    x = drive(pipeline().input("n", "number").step("a", when="10 / inputs.n > 1"), inputs={"n": 0}).start()
    assert (x.phase("a"), x.reason("a")) == ("Failed", "ExpressionError")
    assert "10 / inputs.n > 1" in x.said("a")
    assert x.head() == ("Failed", "ExpressionError")


def test_a_json_condition_that_is_no_boolean_fails_the_step(drive: Drive) -> None:
    x = drive(pipeline().input("j", "json").step("a", when="inputs.j.ok"), inputs={"j": {"ok": "yes"}}).start()
    assert (x.reason("a"), x.said("a")) == ("ExpressionError", "when: 'inputs.j.ok' must be true or false, it is 'yes'")


def test_a_condition_on_a_value_that_never_came_skips(drive: Drive) -> None:
    told = after_a(when="steps.a.outputs.n > 1")
    x = drive(told).start().fail("a")
    assert (x.phase("b"), x.reason("b")) == ("Skipped", "InputUnavailable")
    assert "steps.a.outputs.n" in x.said("b")


def test_a_condition_may_guard_a_value_that_never_came(drive: Drive) -> None:
    told = after_a(when="steps.a.status == 'Succeeded' ? steps.a.outputs.n > 1 : true")
    assert "b" in drive(told).start().fail("a").started


def test_a_cached_step_has_the_status_succeeded(drive: Drive) -> None:
    told = pipeline().step("a", cache={}).step("b", when="steps.a.status == 'Succeeded'")
    first = drive(told).start().succeed("a")
    second = drive(told, cache=first.cache, name="x-2").start()
    assert (second.phase("a"), second.started) == ("Cached", ["b"])


def test_names_with_dashes_are_written_with_underscores(drive: Drive) -> None:
    told = pipeline().step("get-it", outputs={"n-rows": "number"}).step("b", when="steps.get_it.outputs.n_rows == 1")
    assert "b" in drive(told).start().succeed("get-it", **{"n-rows": 1}).started


def test_a_recovery_step_heals_nothing_but_runs_under_fail_fast(drive: Drive) -> None:
    x = drive(
        pipeline()
        .step("a")
        .step("slow")
        .step("fix", when="steps.a.status == 'Failed'")
        .step("after", dependsOn=["fix"])
    ).start()
    x.fail("a")
    assert x.stop_reasons == {"slow": "FailedFast"}
    x.stopped().succeed("fix").succeed("after")
    assert x.phases() == {"a": "Failed", "slow": "Cancelled", "fix": "Succeeded", "after": "Succeeded"}
    assert x.head() == ("Failed", "StepFailed")
