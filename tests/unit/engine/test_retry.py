"""Retries: how often, when, on what; disruptions apart from them."""

from __future__ import annotations

from typing import Any

import pytest

from builders import NOON, Drive, PipelineBuilder, pipeline
from penstock.engine.types import Limits


def retried(**retry: Any) -> PipelineBuilder:
    return pipeline().step("a", retry=retry, outputs={"n": "number"}, inputs={"try": "attempt"})


def test_without_a_policy_a_failure_is_the_end(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().fail("a")
    assert (x.phase("a"), x.reason("a"), x.said("a")) == ("Failed", "StepFailed", "exit code 1")


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_limit_counts_the_retries_after_the_first_attempt(drive: Drive, limit: int) -> None:
    x = drive(retried(limit=limit)).start()
    for _ in range(limit):
        x.fail("a")
        assert x.in_flight
    x.fail("a", exit_code=9)
    assert x.head() == ("Failed", "StepFailed")
    assert len(x.started) == limit + 1
    shown = x.status()["steps"][0]
    assert (shown["attempts"], shown["failures"], shown["exitCode"]) == (limit + 1, limit + 1, 9)


def test_a_retry_that_succeeds_makes_a_success(drive: Drive) -> None:
    x = drive(retried(limit=1)).start().fail("a", exit_code=3).succeed("a", n=1)
    assert (x.phase("a"), x.reason("a"), x.head()) == ("Succeeded", None, ("Succeeded", "Succeeded"))
    shown = x.status()["steps"][0]
    assert (shown["attempts"], shown["failures"], shown["exitCode"]) == (2, 1, 0)


def test_waiting_for_a_retry_is_a_phase_with_a_time(drive: Drive) -> None:
    x = drive(retried(limit=1, delaySeconds=10)).start().fail("a", exit_code=3)
    assert (x.phase("a"), x.reason("a"), x.said("a")) == ("Retrying", "StepFailed", "exit code 3")
    assert x.plan.wake_at == NOON + 10
    assert x.state.step("a").retry_at == NOON + 10
    assert x.advance(9.875).in_flight == []
    assert x.advance(0.125).in_flight == ["a#2"]
    assert "retryAt" not in x.status()["steps"][0]


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        ({"delaySeconds": 5}, [5, 5, 5, 5]),
        ({"delaySeconds": 5, "factor": 2}, [5, 10, 20, 40]),
        ({"delaySeconds": 5, "factor": 2, "maxDelaySeconds": 15}, [5, 10, 15, 15]),
        ({"delaySeconds": 20, "factor": 3, "maxDelaySeconds": 20}, [20, 20, 20, 20]),
        ({"delaySeconds": 0, "factor": 10}, [0, 0, 0, 0]),
    ],
)
def test_delays_grow_by_the_factor_up_to_the_bound(drive: Drive, policy: dict[str, int], waits: list[int]) -> None:
    x = drive(retried(limit=4, **policy)).start()
    for wait in waits:
        x.fail("a")
        if wait:
            assert x.plan.wake_at == x.now + wait
            x.advance(wait)
        assert x.in_flight
    assert x.inputs("a") == {"try": 5}


def test_no_retry_is_started_after_the_total_time(drive: Drive) -> None:
    policy = {"limit": 9, "delaySeconds": 10, "maxTotalSeconds": 25}
    x = drive(retried(**policy)).start().fail("a").advance(10).advance(5).fail("a")
    assert x.plan.wake_at == NOON + 25
    x.advance(10).fail("a")
    assert (x.phase("a"), len(x.started)) == ("Failed", 3)


@pytest.mark.parametrize(
    ("end", "retried_on"),
    [
        ({"exit_code": 1}, "StepFailed"),
        ({"reason": "StepError"}, "StepError"),
        ({"reason": "TimedOut"}, "TimedOut"),
        ({"reason": "InvalidOutputs", "exit_code": 0}, "InvalidOutputs"),
        ({"exit_code": 0}, "InvalidOutputs"),
    ],
)
def test_only_named_reasons_are_retried(drive: Drive, end: dict[str, Any], retried_on: str) -> None:
    reasons = {"StepFailed", "StepError", "TimedOut", "InvalidOutputs"}
    assert drive(retried(limit=1)).start().end("a", **end).in_flight == ["a#2"]
    assert drive(retried(limit=1, reasons=[retried_on])).start().end("a", **end).in_flight == ["a#2"]
    x = drive(retried(limit=1, reasons=sorted(reasons - {retried_on}))).start().end("a", **end)
    assert (x.finished, x.reason("a")) == (True, retried_on)


def test_outputs_that_are_too_large_are_not_tried_again(drive: Drive) -> None:
    x = drive(pipeline().step("a", retry={"limit": 5}, outputs={"s": "string"}), limits=Limits(step_output_bytes=20))
    x.start().succeed("a", s="x" * 20)
    assert (x.phase("a"), x.reason("a"), len(x.started)) == ("Failed", "OutputsTooLarge", 1)


@pytest.mark.parametrize("how", ["disrupt", "lose"])
def test_disruptions_do_not_use_up_the_limit(drive: Drive, how: str) -> None:
    x = drive(retried(limit=1)).start()
    for wait in (1, 2, 4):
        x.lose("a") if how == "lose" else x.end("a", reason="Disrupted")
        assert (x.phase("a"), x.reason("a"), x.plan.wake_at) == ("Retrying", "Disrupted", x.now + wait)
        x.advance(wait)
    x.fail("a").succeed("a", n=1)
    shown = x.status()["steps"][0]
    assert (shown["attempts"], shown["failures"], shown["disruptions"]) == (5, 1, 3)
    assert x.head()[0] == "Succeeded"


def test_disruptions_are_tried_again_without_any_policy(drive: Drive) -> None:
    x = drive(pipeline().step("a")).start().end("a", reason="Disrupted").advance(1)
    assert x.in_flight == ["a#2"]


def test_disruptions_have_a_bound_of_their_own(drive: Drive) -> None:
    x = drive(pipeline().step("a"), limits=Limits(disruptions=2)).start()
    for _ in range(3):
        x.end("a", reason="Disrupted", message="node is gone").advance(1_000)
    assert (x.phase("a"), x.head(), x.message) == ("Error", ("Error", "Disrupted"), 'step "a": node is gone')
    assert x.started == ["a", "a#2", "a#3"]


def test_the_wait_after_disruptions_is_bounded(drive: Drive) -> None:
    x = drive(pipeline().step("a"), limits=Limits(disruptions=20)).start()
    waits = []
    for _ in range(11):
        x.end("a", reason="Disrupted")
        assert x.plan.wake_at is not None
        waits.append(x.plan.wake_at - x.now)
        x.advance(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_lost_attempt_says_so(drive: Drive) -> None:
    assert drive(pipeline().step("a")).start().lose("a").said("a") == "attempt 1 is gone without a trace"


def test_the_attempt_number_is_visible_to_steps_and_to_expressions(drive: Drive) -> None:
    told = retried(limit=2).step("b", inputs={"tries": "steps.a.attempts"})
    x = drive(told).start().fail("a")
    assert x.inputs("a") == {"try": 2}
    x.end("a", reason="Disrupted").advance(1)
    assert x.inputs("a") == {"try": 3}
    assert x.succeed("a", n=1).inputs("b") == {"tries": 3}


def test_the_image_may_depend_on_the_attempt(drive: Drive) -> None:
    told = pipeline().step("a", imageFrom="attempt == 1 ? 'small' : 'large'", retry={"limit": 1})
    x = drive(told).start().fail("a")
    assert [start.image for start in x.starts.values()] == ["small", "large"]


def test_defaults_of_the_pipeline_hold_for_steps_that_say_nothing(drive: Drive) -> None:
    told = pipeline().settings(defaults={"retry": {"limit": 1}}, failurePolicy="FinishRunning")
    x = drive(told.step("a").step("b", retry={"limit": 0})).start().fail("a").fail("b")
    assert (x.in_flight, x.phase("b")) == (["a#2"], "Failed")


def test_a_late_word_of_an_earlier_attempt_is_not_heard(drive: Drive) -> None:
    from penstock.engine.types import AttemptPhase, Observation

    x = drive(retried(limit=2)).start()
    first = x.attempt("a")
    x.fail("a").tick(Observation(first, AttemptPhase.ENDED, exit_code=0, outputs={"n": 1}))
    assert (x.in_flight, x.phase("a")) == (["a#2"], "Pending")


def test_times_of_a_status_are_in_milliseconds_even_after_odd_sums(drive: Drive) -> None:
    """A sum of a time and a delay is the same number as the one that is read back."""
    from penstock.engine.status import from_timestamp, to_timestamp

    for milliseconds in range(0, 1000, 7):
        x = drive(retried(limit=1, delaySeconds=10_000_003), now=round(NOON + milliseconds / 1000, 3)).start().fail("a")
        at = x.state.step("a").retry_at
        assert at is not None
        assert from_timestamp(to_timestamp(at)) == at


def test_outputs_that_do_not_fit_tell_a_function_apart_from_a_failed_command(drive: Drive) -> None:
    told = pipeline().step("f", function="m:f", command=None, retry={"limit": 1, "reasons": ["InvalidOutputs"]})
    x = drive(told).start().fail("f", exit_code=65)
    assert x.in_flight == ["f#2"]
    assert drive(pipeline().step("c")).start().fail("c", exit_code=65).reason("c") == "StepFailed"
