"""`finally` steps: after everything else, whatever happened, with their own time."""

from __future__ import annotations

import pytest

from builders import Drive, Driver, PipelineBuilder, bound, pipeline


def told(**fields: object) -> PipelineBuilder:
    sees = {"status": "execution.status", "failed": "execution.failedSteps", "a": "steps.a.status"}
    return pipeline().settings(**fields).step("a").step("b").final("f", inputs=sees)


def after(x: Driver, what: str) -> Driver:
    x.start()
    match what:
        case "success":
            return x.succeed("a").succeed("b")
        case "failure":
            return x.fail("a").stopped()
        case "error":
            return x.end("b", reason="StepError").stopped()
        case "cancel":
            return x.cancel().stopped()
        case "timeout":
            return x.advance(60).stopped()
    raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "sees", "head"),
    [
        ("success", {"status": "Succeeded", "failed": [], "a": "Succeeded"}, ("Succeeded", "Succeeded")),
        ("failure", {"status": "Failed", "failed": ["a"], "a": "Failed"}, ("Failed", "StepFailed")),
        ("error", {"status": "Error", "failed": ["b"], "a": "Cancelled"}, ("Error", "StepError")),
        ("cancel", {"status": "Cancelled", "failed": [], "a": "Cancelled"}, ("Cancelled", "Cancelled")),
        ("timeout", {"status": "Failed", "failed": [], "a": "Cancelled"}, ("Failed", "TimedOut")),
    ],
)
def test_they_run_whatever_happened_and_see_it(
    drive: Drive, what: str, sees: dict[str, object], head: tuple[str, str]
) -> None:
    x = after(drive(told(timeoutSeconds=60)), what)
    assert (x.in_flight, x.inputs("f"), x.finished) == (["f"], sees, False)
    x.succeed("f")
    assert (x.phase("f"), x.head()) == ("Succeeded", head)


def test_they_wait_for_the_last_step_to_end(drive: Drive) -> None:
    x = drive(told()).start().fail("a")
    assert (x.stop_reasons, x.in_flight) == ({"b": "FailedFast"}, ["b"])
    assert x.stopped().in_flight == ["f"]


def test_their_conditions_see_how_it_ended(drive: Drive) -> None:
    told = pipeline().step("a").final("good", when="execution.status == 'Succeeded'")
    told.final("bad", when="'a' in execution.failedSteps").final("mail", when="steps.a.exitCode == 4")
    x = drive(told).start().fail("a", exit_code=4)
    assert (x.in_flight, x.phase("good")) == (["bad", "mail"], "Skipped")


def test_they_may_wait_for_each_other(drive: Drive) -> None:
    told = pipeline().step("a").final("f", outputs={"n": "number"}).final("g", inputs={"n": "steps.f.outputs.n"})
    x = drive(told.final("h", dependsOn=["g"])).start().succeed("a")
    assert x.in_flight == ["f"]
    assert x.succeed("f", n=1).in_flight == ["g"]
    assert x.fail("g").phase("h") == "Omitted"


def test_they_see_outputs_and_do_without_those_that_never_came(drive: Drive) -> None:
    told = pipeline().step("a", outputs={"n": "number"}).final("f", inputs={"n": bound("steps.a.outputs.n", default=0)})
    x = drive(told.final("g", inputs={"n": "steps.a.outputs.n"})).start().fail("a")
    assert (x.inputs("f"), x.phase("g"), x.reason("g")) == ({"n": 0}, "Skipped", "InputUnavailable")
    assert drive(told).start().succeed("a", n=5).inputs("g") == {"n": 5}


def test_a_failed_one_makes_a_success_a_failure_but_leaves_the_others_be(drive: Drive) -> None:
    x = drive(pipeline().step("a").final("f").final("g")).start().succeed("a").fail("f", message="no mail")
    assert (x.stops, x.in_flight) == ([], ["g"])
    x.succeed("g")
    assert (x.head(), x.message) == (("Failed", "FinallyFailed"), 'step "f": no mail')


def test_a_failed_one_does_not_hide_why_the_execution_failed(drive: Drive) -> None:
    x = drive(pipeline().step("a").final("f")).start().fail("a", exit_code=3).fail("f")
    assert (x.head(), x.message) == (("Failed", "StepFailed"), 'step "a": exit code 3')


def test_a_failed_one_that_may_fail_changes_nothing(drive: Drive) -> None:
    x = drive(pipeline().step("a").final("f", onFailure="Continue")).start().succeed("a").fail("f")
    assert x.head() == ("Succeeded", "Succeeded")


def test_what_failed_among_them_is_not_among_the_failed_steps_that_others_see(drive: Drive) -> None:
    """`execution.failedSteps` goes with `execution.status`: it says how the steps before ended."""
    told = pipeline().settings(maxParallel=1).step("a").final("f").final("g", inputs={"bad": "execution.failedSteps"})
    assert drive(told).start().succeed("a").fail("f").inputs("g") == {"bad": []}


def test_a_condition_on_the_failed_steps_is_not_asked_again(drive: Drive) -> None:
    told = pipeline().settings(maxParallel=1).step("a").final("f")
    x = drive(told.final("g", when="size(execution.failedSteps) == 0")).start().succeed("a").fail("f")
    assert x.in_flight == ["g"]


def test_they_have_their_retries_after_a_cancel(drive: Drive) -> None:
    told = pipeline().step("a").final("f", retry={"limit": 1, "delaySeconds": 5})
    x = drive(told).start().cancel().stopped().fail("f").advance(5)
    assert x.in_flight == ["f#2"]
    x.succeed("f")
    assert x.head() == ("Cancelled", "Cancelled")


def test_they_may_fan_out(drive: Drive) -> None:
    told = pipeline().step("a").final("f", forEach={"from": "execution.failedSteps"}, inputs={"s": "item"})
    x = drive(told).start().fail("a")
    assert x.inputs("f[0]") == {"s": "a"}
    x.succeed("f[0]")
    assert x.finished


def test_a_cancel_that_comes_while_they_run_does_not_stop_them(drive: Drive) -> None:
    x = drive(pipeline().step("a").final("f")).start().succeed("a").cancel()
    assert (x.stops, x.in_flight) == ([], ["f"])
    x.succeed("f")
    assert x.head() == ("Succeeded", "Succeeded")


def test_the_time_of_the_execution_does_not_count_for_them(drive: Drive) -> None:
    x = drive(pipeline().settings(timeoutSeconds=10).step("a").final("f")).start().advance(9).succeed("a").advance(60)
    assert (x.stops, x.in_flight) == ([], ["f"])


def test_they_have_a_time_of_their_own(drive: Drive) -> None:
    told = pipeline().settings(finallyTimeoutSeconds=20).step("a").final("f").final("g", dependsOn=["f"])
    x = drive(told).start().advance(100).succeed("a")
    assert x.plan.wake_at == x.now + 20
    x.advance(20)
    assert (x.stop_reasons, x.phase("g"), x.reason("g")) == ({"f": "TimedOut"}, "Omitted", "TimedOut")
    x.stopped()
    assert (x.phase("f"), x.reason("f"), x.head()) == ("Failed", "TimedOut", ("Failed", "FinallyFailed"))
    assert x.said("f") == "the time of the `finally` steps was over"


def test_time_over_while_one_waits_for_its_retry_is_a_failure_too(drive: Drive) -> None:
    told = pipeline().settings(finallyTimeoutSeconds=20).step("a")
    x = drive(told.final("f", retry={"limit": 1, "delaySeconds": 60})).start().succeed("a").fail("f").advance(20)
    assert (x.phase("f"), x.reason("f"), x.finished) == ("Cancelled", "TimedOut", True)
    assert (x.head(), x.message) == (("Failed", "FinallyFailed"), "the time of the `finally` steps was over")


def test_their_own_timeout_is_told_from_that_of_all(drive: Drive) -> None:
    told = pipeline().step("a").final("f", timeoutSeconds=5, retry={"limit": 1})
    x = drive(told).start().succeed("a").running("f").advance(5).stopped()
    assert x.in_flight == ["f#2"]


def test_refused_inputs_begin_nothing_so_there_is_nothing_to_clean_up(drive: Drive) -> None:
    x = drive(pipeline().input("n", "number").step("a").final("f")).start()
    assert (x.started, x.phase("f"), x.head()[0]) == ([], "Omitted", "Failed")


def test_outputs_of_the_pipeline_are_gathered_after_them(drive: Drive) -> None:
    told = pipeline().output("n", "number", "steps.a.outputs.n").step("a", outputs={"n": "number"}).final("f")
    x = drive(told).start().succeed("a", n=2)
    assert x.outputs() == {}
    x.succeed("f")
    assert x.outputs() == {"n": 2}
