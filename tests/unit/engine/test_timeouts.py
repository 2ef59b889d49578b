"""Time limits of a step's attempt and of the execution."""

from __future__ import annotations

import pytest

from builders import NOON, Drive, pipeline


def test_an_attempt_that_takes_too_long_is_stopped_and_fails(drive: Drive) -> None:
    x = drive(pipeline().step("a", timeoutSeconds=10)).start().running("a")
    assert x.plan.wake_at == NOON + 10
    x.advance(9.875)
    assert x.stops == []
    x.advance(0.125)
    assert x.stop_reasons == {"a": "TimedOut"}
    assert x.phase("a") == "Running"
    x.stopped()
    assert (x.phase("a"), x.reason("a")) == ("Failed", "TimedOut")
    assert x.said("a") == "took longer than timeoutSeconds: 10"
    assert x.head() == ("Failed", "TimedOut")


def test_the_time_of_an_attempt_begins_with_its_command(drive: Drive) -> None:
    x = drive(pipeline().step("a", timeoutSeconds=10)).start().advance(100)
    assert x.stops == []
    x.running("a").advance(9)
    assert x.stops == []
    assert x.advance(1).stop_reasons == {"a": "TimedOut"}


def test_every_attempt_has_the_whole_time(drive: Drive) -> None:
    x = drive(pipeline().step("a", timeoutSeconds=10, retry={"limit": 1})).start().running("a").advance(10).stopped()
    assert x.in_flight == ["a#2"]
    x.running("a").advance(9)
    assert x.stop_reasons == {"a": "TimedOut"}
    x.advance(1).stopped()
    assert (x.phase("a"), x.reason("a")) == ("Failed", "TimedOut")


def test_a_success_in_the_last_moment_is_a_success(drive: Drive) -> None:
    x = drive(pipeline().step("a", timeoutSeconds=10)).start().running("a").advance(10).succeed("a")
    assert (x.phase("a"), x.head()[0]) == ("Succeeded", "Succeeded")


def test_an_attempt_that_is_lost_after_its_time_has_timed_out(drive: Drive) -> None:
    x = drive(pipeline().step("a", timeoutSeconds=10)).start().running("a").advance(10).lose("a")
    assert (x.phase("a"), x.reason("a")) == ("Failed", "TimedOut")


def test_an_attempt_that_times_out_by_itself_is_judged_alike(drive: Drive) -> None:
    x = drive(pipeline().step("a", timeoutSeconds=10)).start().running("a").end("a", reason="TimedOut")
    assert (x.phase("a"), x.reason("a")) == ("Failed", "TimedOut")


def test_each_item_has_its_own_time(drive: Drive) -> None:
    x = drive(pipeline().step("f", forEach={"items": [1, 2]}, timeoutSeconds=10, onFailure="Continue")).start()
    x.running("f[0]").advance(5).running("f[1]").advance(5)
    assert x.stop_reasons == {"f[0]": "TimedOut"}
    x.stopped().advance(5)
    assert x.stop_reasons == {"f[0]": "TimedOut", "f[1]": "TimedOut"}


def test_the_starter_is_told_the_limit(drive: Drive) -> None:
    x = drive(pipeline().settings(defaults={"timeoutSeconds": 7}).step("a").step("b", timeoutSeconds=9)).start()
    assert [start.timeout_seconds for start in x.starts.values()] == [7, 9]


def test_an_execution_that_takes_too_long_is_ended(drive: Drive) -> None:
    told = pipeline().settings(timeoutSeconds=30).step("a").step("b", dependsOn=["a"]).step(
        "c", when="steps.a.status != 'Succeeded'"
    )  # fmt: skip
    x = drive(told).start()
    assert x.plan.wake_at == NOON + 30
    x.advance(30)
    assert x.stop_reasons == {"a": "ExecutionTimedOut"}
    assert (x.phase("b"), x.reason("b"), x.phase("c")) == ("Omitted", "ExecutionTimedOut", "Omitted")
    x.stopped()
    assert (x.phase("a"), x.reason("a")) == ("Cancelled", "ExecutionTimedOut")
    assert x.head() == ("Failed", "TimedOut")
    assert x.message == "the execution took longer than timeoutSeconds"


def test_an_execution_may_set_its_own_limit(drive: Drive) -> None:
    told = pipeline().settings(timeoutSeconds=30).step("a")
    assert drive(told, timeout_seconds=5).start().plan.wake_at == NOON + 5
    assert drive(told, timeout_seconds=50).start().advance(30).stops == []


def test_an_execution_whose_time_is_over_retries_nothing(drive: Drive) -> None:
    told = pipeline().settings(timeoutSeconds=30).step("a", retry={"limit": 9, "delaySeconds": 60}).step(
        "b", retry={"limit": 9}
    )  # fmt: skip
    x = drive(told).start().fail("a").advance(30)
    assert (x.phase("a"), x.reason("a")) == ("Cancelled", "ExecutionTimedOut")
    x.end("b", reason="Disrupted")
    assert (x.phases(), x.head()) == ({"a": "Cancelled", "b": "Cancelled"}, ("Failed", "TimedOut"))


def test_time_that_is_over_wins_over_an_earlier_failure(drive: Drive) -> None:
    told = pipeline().settings(timeoutSeconds=30, failurePolicy="FinishRunning").step("a").step("b")
    x = drive(told).start().fail("a").advance(30).stopped()
    assert x.head() == ("Failed", "TimedOut")


def test_an_execution_that_is_over_in_time_is_not_touched(drive: Drive) -> None:
    x = drive(pipeline().settings(timeoutSeconds=30).step("a")).start().succeed("a").advance(60)
    assert (x.head()[0], x.plan.wake_at) == ("Succeeded", None)


@pytest.mark.parametrize("pending", [True, False])
def test_a_step_that_never_gets_to_run_is_ended_with_the_execution(drive: Drive, *, pending: bool) -> None:
    from penstock.engine.types import AttemptPhase, Observation

    x = drive(pipeline().settings(timeoutSeconds=30).step("a", timeoutSeconds=5)).start()
    if pending:
        x.tick(Observation(x.attempt("a"), AttemptPhase.PENDING, message="no node fits"))
        assert x.said("a") == "no node fits"
    assert x.advance(30).stop_reasons == {"a": "ExecutionTimedOut"}
