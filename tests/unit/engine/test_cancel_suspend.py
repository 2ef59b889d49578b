"""Cancel, suspend and resume."""

from __future__ import annotations

import pytest

from builders import NOON, Drive, pipeline


def test_a_cancel_stops_what_runs_and_omits_the_rest(drive: Drive) -> None:
    told = pipeline().step("a").step("b", dependsOn=["a"]).step("c", when="steps.a.status != 'Succeeded'")
    x = drive(told).start().running("a").cancel()
    assert (x.stop_reasons, x.head()[0]) == ({"a": "Cancelled"}, "Running")
    assert (x.phase("b"), x.reason("b"), x.phase("c")) == ("Omitted", "Cancelled", "Omitted")
    x.stopped()
    assert (x.phase("a"), x.reason("a"), x.head()) == ("Cancelled", "Cancelled", ("Cancelled", "Cancelled"))
    assert x.message == "the execution was cancelled"


def test_a_cancel_before_the_start_starts_nothing(drive: Drive) -> None:
    x = drive(pipeline().step("a").final("f")).cancel()
    assert (x.head(), x.started) == (("Cancelled", "Cancelled"), [])
    assert x.phases() == {"a": "Omitted", "f": "Omitted"}


def test_a_cancel_ends_waiting_retries_and_items(drive: Drive) -> None:
    told = pipeline().step("a", retry={"limit": 1, "delaySeconds": 60})
    told.step("f", forEach={"items": [1, 2, 3], "maxParallel": 1}, retry={"limit": 1, "delaySeconds": 60})
    x = drive(told).start().fail("a").fail("f[0]").cancel()
    assert x.stop_reasons == {"f[1]": "Cancelled"}
    assert [x.phase(f"f[{i}]") for i in range(3)] == ["Cancelled", "Pending", "Omitted"]
    x.stopped()
    assert (x.phases(), x.head()[0]) == ({"a": "Cancelled", "f": "Cancelled"}, "Cancelled")


def test_what_is_cancelled_is_not_tried_again_even_if_disrupted(drive: Drive) -> None:
    x = drive(pipeline().step("a", retry={"limit": 3})).start().cancel().end("a", reason="Disrupted")
    assert (x.phase("a"), x.finished) == ("Cancelled", True)


def test_a_lost_attempt_ends_a_cancel(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().cancel().lose("a")
    assert (x.phase("a"), x.head()) == ("Cancelled", ("Cancelled", "Cancelled"))


def test_a_cancel_after_a_failure_is_still_a_cancel(drive: Drive) -> None:
    told = pipeline().settings(failurePolicy="FinishRunning").step("a").step("b")
    x = drive(told).start().fail("a").cancel().stopped()
    assert (x.head(), x.phases()) == (("Cancelled", "Cancelled"), {"a": "Failed", "b": "Cancelled"})


def test_a_cancel_after_the_end_changes_nothing(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().succeed("a")
    before = x.status()
    x.cancel()
    assert (x.status(), x.plan.changed, x.plan.finished) == (before, False, True)


def test_a_cancel_that_crosses_the_last_success_is_too_late(drive: Drive) -> None:
    from builders import Driver
    from penstock.engine.types import AttemptPhase, Observation

    x: Driver = drive(pipeline().step("a")).start()
    from dataclasses import replace

    x.request = replace(x.request, cancel=True)
    x.tick(Observation(x.attempt("a"), AttemptPhase.ENDED, exit_code=0))
    assert (x.phase("a"), x.head()[0], x.stops) == ("Succeeded", "Succeeded", [])


def test_stops_are_asked_for_again_after_a_restart() -> None:
    from builders import Driver

    x = Driver(pipeline().step("a").step("b")).start().cancel()
    assert len(x.stops) == 2
    x.tick()
    assert len(x.stops) == 2
    x.reboot().tick()
    assert len(x.stops) == 4


def test_suspending_lets_what_runs_go_on_and_starts_nothing(drive: Drive) -> None:
    told = pipeline().step("a").step("b", dependsOn=["a"]).step("c", retry={"limit": 1, "delaySeconds": 5})
    x = drive(told).start().fail("c").suspend()
    assert (x.head(), x.stops) == (("Suspended", "Suspended"), [])
    x.succeed("a").advance(60)
    assert (x.in_flight, x.phase("a"), x.phase("c")) == ([], "Succeeded", "Retrying")
    assert x.status()["suspendedAt"] == "2023-11-14T22:13:20.000Z"
    x.resume()
    assert (x.in_flight, x.head()) == (["b", "c#2"], ("Running", "Running"))
    assert "suspendedAt" not in x.status()


def test_suspended_from_the_start_begins_when_it_is_let_go(drive: Drive) -> None:
    x = drive(pipeline().settings(timeoutSeconds=30).step("a")).suspend()
    assert (x.head(), x.started, x.plan.wake_at) == (("Suspended", "Suspended"), [], None)
    assert "startedAt" not in x.status()
    x.advance(100).resume()
    assert (x.in_flight, x.head(), x.plan.wake_at) == (["a"], ("Running", "Running"), NOON + 130)


def test_suspended_time_does_not_count_towards_the_timeout(drive: Drive) -> None:
    x = drive(pipeline().settings(timeoutSeconds=30).step("a")).start().advance(10).suspend()
    assert x.plan.wake_at is None
    x.advance(100)
    assert x.stops == []
    x.resume()
    assert x.plan.wake_at == NOON + 130
    x.advance(5).suspend().advance(50).resume()
    assert x.plan.wake_at == NOON + 180
    assert x.status()["suspendedMilliseconds"] == 150_000
    assert x.advance(15).stop_reasons == {"a": "ExecutionTimedOut"}


def test_the_timeout_of_a_running_attempt_goes_on_while_suspended(drive: Drive) -> None:
    x = drive(pipeline().step("a", timeoutSeconds=10)).start().running("a").suspend()
    assert x.advance(10).stop_reasons == {"a": "TimedOut"}


def test_suspending_an_execution_whose_last_step_runs_lets_it_end(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().suspend().succeed("a")
    assert x.head() == ("Succeeded", "Succeeded")
    assert "suspendedAt" not in x.status()


def test_a_cancel_of_a_suspended_execution_is_not_held_up(drive: Drive) -> None:
    x = drive(pipeline().step("a").final("f")).start().suspend().cancel().stopped()
    assert x.in_flight == ["f"]
    x.succeed("f")
    assert x.head() == ("Cancelled", "Cancelled")


def test_a_failure_while_suspended_still_stops_the_others(drive: Drive) -> None:
    x = drive(pipeline().step("a").step("b")).start().suspend().fail("a")
    assert x.stop_reasons == {"b": "FailedFast"}


def test_finally_steps_wait_while_suspended_and_so_does_their_time(drive: Drive) -> None:
    told = pipeline().settings(finallyTimeoutSeconds=20).step("a").final("f")
    x = drive(told).start().suspend().succeed("a").advance(1_000)
    assert (x.started, x.phase("f"), x.finished) == (["a"], "Pending", False)
    x.resume()
    assert (x.in_flight, x.plan.wake_at) == (["f"], x.now + 20)
    x.advance(5).suspend().advance(100).resume()
    assert x.plan.wake_at == x.now + 15
    x.advance(15)
    assert x.stop_reasons == {"f": "TimedOut"}


@pytest.mark.parametrize("failed", [True, False])
def test_why_it_ended_is_not_forgotten_when_suspended_before_finally(drive: Drive, *, failed: bool) -> None:
    told = pipeline().settings(timeoutSeconds=30, failurePolicy="FinishRunning").step("a").step("b").final("f")
    x = drive(told).start()
    if failed:
        x.fail("a")
    x.advance(30).stopped().suspend().advance(5).resume().succeed("f")
    assert x.head() == ("Failed", "TimedOut")
    assert x.message == "the execution took longer than timeoutSeconds"


def test_suspending_twice_is_suspending_once(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().suspend().advance(5)
    before = x.status()
    assert x.suspend().status() == before
    assert x.plan.changed is False
