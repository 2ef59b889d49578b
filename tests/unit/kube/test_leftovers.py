"""What the status of an execution says about attempts whose Jobs were never ended."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.engine.types import AttemptId
from penstock.kube.leftovers import End, end_of, unfinished
from penstock.kube.names import MANAGER


def test_an_attempt_that_is_recorded_as_over_has_the_end_that_is_recorded() -> None:
    done = {
        "phase": "Running",
        "steps": [{"name": "s", "phase": "Succeeded", "attempts": 2, "finishedAt": "1970-01-01T00:00:05.000Z"}],
    }
    assert end_of(done, AttemptId("s", -1, 2)) == End(True, "Completed", "", 5.0)
    assert end_of(done, AttemptId("s", -1, 1)) == End(False, "StepFailed", "another attempt followed", None)


@pytest.mark.parametrize("phase", ["Failed", "Error", "Retrying", "Cancelled"])
def test_an_attempt_that_did_not_succeed_says_why(phase: str) -> None:
    entry = {"name": "s", "phase": phase, "attempts": 1, "reason": "TimedOut", "message": "too long"}
    assert end_of({"phase": "Running", "steps": [entry]}, AttemptId("s", -1, 1)) == End(
        False, "TimedOut", "too long", None
    )


def test_an_attempt_that_is_not_recorded_yet_or_runs_is_left_alone_until_its_execution_is_over() -> None:
    for phase, recorded in (("Running", 1), ("Pending", 0), ("Retrying", 0)):
        entry = {"name": "s", "phase": phase, "attempts": recorded}
        assert end_of({"phase": "Running", "steps": [entry]}, AttemptId("s", -1, 1)) is None
        over = end_of({"phase": "Cancelled", "steps": [entry]}, AttemptId("s", -1, 1))
        assert over == End(False, "Cancelled", "its execution is over", None)
    assert end_of({}, AttemptId("s", -1, 1)) is None


def test_an_item_that_a_finished_fan_out_does_not_list_has_succeeded() -> None:
    item = {"index": 1, "phase": "Failed", "attempts": 1, "reason": "StepFailed", "message": "boom"}
    entry = {"name": "s", "phase": "Failed", "itemCount": 3, "items": [item]}
    done = {"phase": "Running", "steps": [entry]}
    assert end_of(done, AttemptId("s", 0, 1)) == End(True, "Completed", "", None)
    assert end_of(done, AttemptId("s", 1, 1)) == End(False, "StepFailed", "boom", None)
    running = {"phase": "Running", "steps": [entry | {"phase": "Running"}]}
    assert end_of(running, AttemptId("s", 0, 1)) is None


def test_only_jobs_of_ours_that_do_not_say_they_are_over_count() -> None:
    ours: dict[str, Any] = {"spec": {"managedBy": MANAGER}, "status": {}}
    assert unfinished(ours)
    assert not unfinished({"spec": {}, "status": {}})
    for kind in ("Complete", "Failed"):
        assert not unfinished(ours | {"status": {"conditions": [{"type": kind, "status": "True"}]}})
