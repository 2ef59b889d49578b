"""What is worth telling people of a pass: what went wrong and what is waited for, once; never what only went well."""

from __future__ import annotations

from typing import Any

from builders import Driver, pipeline
from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptId, AttemptPhase, Observation, TaskId
from penstock.kube.events import Event, ended, of_pass, pipeline_read, retried, started


def told(x: Driver) -> list[Event]:
    return list(of_pass(x.state, [*map(TaskId, x.plan.steps), *x.plan.tasks]))


def waiting(x: Driver, reason: Reason, message: str) -> Driver:
    seen = Observation(AttemptId("a", -1, 1), AttemptPhase.PENDING, reason=str(reason), message=message)
    return x.tick(seen)


def two_steps(**fields: Any) -> Any:
    return pipeline().step("a", **fields).step("b")


def test_a_step_that_goes_well_is_no_event() -> None:
    x = Driver(two_steps()).start()
    assert told(x) == []
    assert told(x.running("a")) == []
    assert told(x.succeed("a")) == []
    assert told(x.succeed("b")) == []
    assert x.head() == ("Succeeded", "Succeeded")


def test_an_attempt_that_failed_and_is_tried_again_is_a_warning() -> None:
    note = 'step "a": exit code 3 (StepFailed); it is tried again'
    failed = Observation(AttemptId("a", -1, 1), AttemptPhase.ENDED, exit_code=3)
    for seconds in (0, 5):
        x = Driver(two_steps(retry={"limit": 1, "delaySeconds": seconds})).start().tick(failed)
        assert told(x) == []
        assert retried(x.state, failed) == Event("StepRetrying", "Retry", note, warning=True, subject="a")
    x = Driver(two_steps()).start().tick(failed)
    assert retried(x.state, failed) is None


def test_an_attempt_whose_outputs_are_not_right_is_not_told_to_have_failed() -> None:
    x = Driver(two_steps(retry={"limit": 1}, outputs={"n": "number"})).start()
    silent = Observation(AttemptId("a", -1, 1), AttemptPhase.ENDED, exit_code=0)
    event = retried(x.tick(silent).state, silent)
    assert event is not None
    assert "InvalidOutputs" in event.note


def test_a_step_that_failed_is_a_warning_unless_the_end_of_the_execution_names_it() -> None:
    x = Driver(two_steps(onFailure="Continue")).start().fail("a", message="no such table")
    note = 'step "a": no such table (StepFailed)'
    assert told(x) == [Event("StepFailed", "RunStep", note, warning=True, subject="a")]
    x = Driver(pipeline().step("a")).start().fail("a", message="no such table")
    assert x.state.head.message == 'step "a": no such table'
    assert told(x) == []


def test_a_step_whose_image_cannot_be_pulled_is_a_warning_and_one_that_is_held_back_is_not() -> None:
    x = waiting(Driver(two_steps()).start(), Reason.IMAGE_PULL_FAILED, "not found")
    note = 'step "a": not found (ImagePullFailed)'
    assert told(x) == [Event("StepWaiting", "StartStep", note, warning=True, subject="a")]
    assert told(waiting(Driver(two_steps()).start(), Reason.SUSPENDED, "its Job is suspended")) == []


def test_items_of_a_fan_out_are_told_by_their_numbers_and_count_as_one_subject() -> None:
    x = Driver(pipeline().step("fan", forEach={"items": [1, 2]}, onFailure="Continue").step("b")).start()
    (first,) = told(x.fail("fan[0]"))
    assert (first.reason, first.note, first.subject) == (
        "StepFailed",
        'step "fan", item 0: exit code 1 (StepFailed)',
        "fan",
    )
    assert {event.subject for event in told(x.fail("fan[1]"))} == {"fan"}


def test_beginnings_and_ends() -> None:
    assert started("iris", "iris-3") == Event("Started", "Start", 'runs pipeline "iris", revision iris-3')
    assert started("", "") == Event("Started", "Start", "runs a pipeline of its own")
    assert ended("Succeeded", "Succeeded", "", "3/3") == Event("Succeeded", "Finish", "3/3 steps finished")
    failed = ended("Failed", "TimedOut", "took too long", "1/3")
    assert failed == Event("Failed", "Finish", "took too long (TimedOut); 1/3 steps finished", warning=True)
    assert not ended("Cancelled", "Cancelled", "", "1/3").warning
    assert pipeline_read("") == Event("Ready", "Read", "it can be run")
    assert pipeline_read("spec: no").warning
