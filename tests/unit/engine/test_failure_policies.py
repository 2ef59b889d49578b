"""`onFailure` of a step and `failurePolicy` of the execution."""

from __future__ import annotations

import pytest

from builders import Drive, bound, pipeline


def test_fail_fast_stops_what_runs_and_omits_what_waits(drive: Drive) -> None:
    x = drive(pipeline().step("a").step("b").step("c", dependsOn=["b"])).start().running("b").fail("a")
    assert x.stop_reasons == {"b": "FailedFast"}
    assert (x.phase("c"), x.reason("c")) == ("Omitted", "FailedFast")
    assert x.said("c") == 'step "a" failed and failurePolicy is FailFast'
    assert not x.finished
    x.stopped()
    assert (x.phase("b"), x.reason("b"), x.head()) == ("Cancelled", "FailedFast", ("Failed", "StepFailed"))


def test_a_step_that_was_stopped_but_succeeded_has_succeeded(drive: Drive) -> None:
    x = drive(pipeline().step("a").step("b", outputs={"n": "number"})).start().fail("a").succeed("b", n=1)
    assert (x.phase("b"), x.outputs("b"), x.head()) == ("Succeeded", {"n": 1}, ("Failed", "StepFailed"))


def test_fail_fast_ends_a_step_that_waits_for_its_retry(drive: Drive) -> None:
    x = drive(pipeline().step("a", retry={"limit": 1, "delaySeconds": 60}).step("b")).start().fail("a").fail("b")
    assert (x.phase("a"), x.reason("a"), x.finished) == ("Cancelled", "FailedFast", True)


@pytest.mark.parametrize("end", ["disrupt", "fail"])
def test_a_stopped_step_is_not_tried_again(drive: Drive, end: str) -> None:
    x = drive(pipeline().step("a").step("b", retry={"limit": 5})).start().fail("a")
    x.fail("b") if end == "fail" else x.end("b", reason="Disrupted")
    assert (x.phase("b"), x.finished) == ("Cancelled", True)


def test_finish_running_lets_what_runs_come_to_its_end_and_starts_nothing_new(drive: Drive) -> None:
    told = pipeline().settings(failurePolicy="FinishRunning").step("a").step("b").step("c", dependsOn=["b"])
    x = drive(told).start().fail("a")
    assert (x.stops, x.in_flight, x.phase("c")) == ([], ["b"], "Omitted")
    x.succeed("b")
    assert (x.phase("b"), x.head(), x.started) == ("Succeeded", ("Failed", "StepFailed"), ["a", "b"])


def test_finish_running_lets_what_runs_have_its_retries(drive: Drive) -> None:
    told = pipeline().settings(failurePolicy="FinishRunning").step("a").step("b", retry={"limit": 1, "delaySeconds": 5})
    x = drive(told.step("c", retry={"limit": 1, "delaySeconds": 5})).start().fail("c").fail("a").fail("b").advance(5)
    assert x.in_flight == ["b#2", "c#2"]
    x.succeed("b").succeed("c")
    assert x.phases() == {"a": "Failed", "b": "Succeeded", "c": "Succeeded"}


def test_finish_running_starts_no_more_items(drive: Drive) -> None:
    told = pipeline().settings(failurePolicy="FinishRunning").step("a")
    told.step("f", forEach={"items": [1, 2, 3], "maxParallel": 1})
    x = drive(told).start().fail("a")
    x.succeed("f[0]")
    assert [x.phase(f"f[{i}]") for i in range(3)] == ["Succeeded", "Omitted", "Omitted"]
    assert (x.phase("f"), x.reason("f"), x.finished) == ("Cancelled", "FailedFast", True)


def test_what_waits_for_room_is_not_started_after_a_failure(drive: Drive) -> None:
    told = pipeline().settings(failurePolicy="FinishRunning", maxParallel=1).step("a").step("b").step(
        "f", forEach={"items": [1]}
    )  # fmt: skip
    x = drive(told).start().fail("a")
    assert (x.started, x.phases(), x.finished) == (["a"], {"a": "Failed", "b": "Omitted", "f": "Omitted"}, True)


def test_with_continue_the_execution_goes_on_as_if_it_had_succeeded(drive: Drive) -> None:
    told = pipeline().step("a", onFailure="Continue").step("b").step("c", dependsOn=["a"])
    x = drive(told).start().fail("a")
    assert (x.stops, x.in_flight) == ([], ["b", "c"])
    x.succeed("b").succeed("c")
    assert (x.head(), x.phase("a")) == (("Succeeded", "Succeeded"), "Failed")


def test_outputs_and_exit_code_of_a_continued_failure_are_usable(drive: Drive) -> None:
    told = (
        pipeline()
        .output("n", "number", "steps.a.outputs.n")
        .step("a", onFailure="Continue", outputs={"n": "number", "m": "number"})
        .step(
            "b",
            inputs={"n": "steps.a.outputs.n", "code": "steps.a.exitCode", "m": bound("steps.a.outputs.m", default=0)},
        )
    )
    x = drive(told).start().fail("a", exit_code=3, n=7)
    assert x.inputs("b") == {"n": 7, "code": 3, "m": 0}
    x.succeed("b")
    assert (x.head()[0], x.outputs()) == ("Succeeded", {"n": 7})


def test_an_output_that_a_continued_failure_did_not_write_skips(drive: Drive) -> None:
    told = (
        pipeline().step("a", onFailure="Continue", outputs={"n": "number"}).step("b", inputs={"n": "steps.a.outputs.n"})
    )
    x = drive(told.step("c", dependsOn=["b"])).start().fail("a")
    assert (x.phase("b"), x.reason("b"), x.phase("c")) == ("Skipped", "InputUnavailable", "Skipped")
    assert x.said("b") == "inputs: steps.a.outputs.n has no value, because its step did not give one"
    assert x.head() == ("Succeeded", "Succeeded")


def test_continue_comes_after_the_retries(drive: Drive) -> None:
    x = drive(pipeline().step("a", onFailure="Continue", retry={"limit": 1}).step("b", dependsOn=["a"])).start()
    x.fail("a")
    assert x.in_flight == ["a#2"]
    assert x.fail("a").in_flight == ["b"]


def test_continue_holds_for_errors_of_the_platform_too(drive: Drive) -> None:
    x = (
        drive(pipeline().step("a", onFailure="Continue").step("b", dependsOn=["a"]))
        .start()
        .end("a", reason="StepError")
    )
    assert (x.phase("a"), x.in_flight) == ("Error", ["b"])


def test_continue_does_not_cover_an_omitted_step(drive: Drive) -> None:
    told = pipeline().step("a").step("b", dependsOn=["a"], onFailure="Continue").step("c", dependsOn=["b"])
    x = drive(told).start().fail("a")
    assert x.phases() == {"a": "Failed", "b": "Omitted", "c": "Omitted"}


def test_the_first_failure_gives_the_reason_and_others_are_named(drive: Drive) -> None:
    told = pipeline().settings(failurePolicy="FinishRunning")
    for name in "abcdef":
        told.step(name)
    x = drive(told).start()
    for name in "cabdef":
        x.fail(name, message=f"no {name}").advance(1)
    assert x.message == 'step "c": no c (also failed: a, b, d …)'


def test_the_first_failure_is_the_one_that_ended_first_in_whatever_order_it_is_heard(drive: Drive) -> None:
    from penstock.engine.types import AttemptPhase, Observation

    x = drive(pipeline().settings(failurePolicy="FinishRunning").step("a").step("b").step("c")).start().advance(5)
    late, early = x.attempt("a"), x.attempt("b")
    x.tick(Observation(late, AttemptPhase.ENDED, exit_code=1, finished_at=x.now))
    x.tick(Observation(early, AttemptPhase.ENDED, exit_code=2, finished_at=x.now - 1))
    x.succeed("c")
    assert x.message == 'step "b": exit code 2 (also failed: a)'


def test_a_second_failure_under_fail_fast_changes_nothing_for_a_recovery_step(drive: Drive) -> None:
    told = pipeline().step("a").step("b").step("fix", when="steps.a.status == 'Failed'")
    x = drive(told).start().fail("a")
    assert x.in_flight == ["b", "fix"]
    x.fail("b").succeed("fix")
    assert x.phases() == {"a": "Failed", "b": "Cancelled", "fix": "Succeeded"}


def test_a_recovery_step_may_use_its_retries_under_fail_fast(drive: Drive) -> None:
    told = pipeline().step("a").step("fix", when="steps.a.status == 'Failed'", retry={"limit": 1})
    x = drive(told).start().fail("a").fail("fix")
    assert x.in_flight == ["fix#2"]


def test_fail_fast_spares_a_recovery_step_that_already_runs(drive: Drive) -> None:
    told = pipeline().step("a", onFailure="Continue").step("b").step("fix", when="steps.a.status == 'Failed'")
    x = drive(told).start().fail("a")
    assert x.in_flight == ["b", "fix"]
    x.fail("b").succeed("fix")
    assert x.phases() == {"a": "Failed", "b": "Failed", "fix": "Succeeded"}
