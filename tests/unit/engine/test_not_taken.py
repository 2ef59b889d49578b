"""Attempts that the platform had not taken when an execution was last written: they are asked for again."""

from __future__ import annotations

import json

import pytest

from builders import Driver, literal, pipeline
from penstock.engine import status
from penstock.engine.decide import Snapshot, decide
from penstock.engine.types import AttemptId, AttemptPhase, Observation, Plan


def after_restart(x: Driver, *seen: Observation) -> Plan:
    """The first plan of somebody who knows nothing but the stored status."""
    state = status.load(x.pipeline, x.identity, json.loads(json.dumps(x.status())), x.limits)
    return decide(Snapshot(state, x.request, seen), x.now)


def waiting(x: Driver, task: str, reason: str | None) -> Driver:
    return x.tick(Observation(x.attempt(task), AttemptPhase.PENDING, reason=reason, message="no room"))


@pytest.mark.parametrize("reason", ["Refused", "Suspended"])
def test_the_same_attempt_is_asked_for_with_the_same_inputs(reason: str) -> None:
    x = Driver(pipeline().step("a", inputs={"n": literal(1)}, timeoutSeconds=60)).start()
    (first,) = x.plan.starts
    (again,) = after_restart(waiting(x, "a", reason)).starts
    assert (again.id, again.inputs, again.image, again.timeout_seconds) == (
        first.id, first.inputs, first.image, first.timeout_seconds,
    )  # fmt: skip


def test_an_item_of_a_fan_out_too() -> None:
    told = pipeline().step("f", forEach={"items": ["x", "y"]}, inputs={"n": "item"})
    x = Driver(told).start()
    (again,) = after_restart(waiting(x, "f[1]", "Refused")).starts
    assert (again.id, again.inputs) == (AttemptId("f", 1, 1), {"n": "y"})


def test_what_waits_for_other_things_or_is_being_stopped_or_is_seen_is_not_asked_for_again() -> None:
    for reason in (None, "Unschedulable", "ImagePullFailed"):
        assert after_restart(waiting(Driver(pipeline().step("a")).start(), "a", reason)).starts == ()
    x = waiting(Driver(pipeline().step("a")).start(), "a", "Refused")
    running = Observation(x.attempt("a"), AttemptPhase.RUNNING, started_at=x.now)
    assert after_restart(x, running).starts == ()
    plan = after_restart(x.cancel())
    assert (plan.starts, [each.id for each in plan.stops]) == ((), [AttemptId("a", -1, 1)])
