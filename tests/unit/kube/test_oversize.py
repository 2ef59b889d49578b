"""What is kept of a status that is too large for an API server."""

from __future__ import annotations

from typing import Any

from penstock.api.execution import ExecutionStatus
from penstock.kube.oversize import cut, size

AT = "2026-01-01T00:00:09.000Z"


def given(name: str, length: int) -> list[dict[str, Any]]:
    return [{"name": name, "value": "x" * length}]


def a_status(**head: Any) -> dict[str, Any]:
    steps = [
        {"name": "small", "phase": "Succeeded", "attempts": 1, "outputs": given("t", 10)},
        {"name": "large", "phase": "Succeeded", "attempts": 1, "outputs": given("t", 5_000)},
        {"name": "runs", "phase": "Running", "attempts": 1},
        {"name": "items", "phase": "Running", "itemCount": 2, "items": [{"index": 0, "phase": "Running"}]},
        {"name": "again", "phase": "Retrying", "attempts": 2, "retryAt": AT},
        {"name": "later", "phase": "Pending"},
    ]
    return {"phase": "Running", "reason": "Running", "stopping": "Cancelled", "steps": steps, **head}


def kept(status: dict[str, Any], room: int) -> dict[str, Any]:
    """What is kept; it is a status, and what it was made of is as it was."""
    before = repr(status)
    found = cut(status, AT, room)
    ExecutionStatus.model_validate(found)
    assert repr(status) == before
    return found


def test_the_largest_values_go_first_and_the_message_names_them() -> None:
    found = kept(a_status(outputs=given("t", 3_000)), 4_600)
    assert size(found) <= 4_600
    assert (found["phase"], found["reason"], found["finishedAt"]) == ("Failed", "OutputsTooLarge", AT)
    assert '(largest: outputs of step "large" 5,0' in found["message"]
    assert "outputs of the execution 3,0" in found["message"]
    assert "pass large data as files" in found["message"]
    assert found["outputs"] == given("t", 3_000)
    assert [step["name"] for step in found["steps"] if "outputs" in step] == ["small"]


def test_what_was_not_over_is_over() -> None:
    found = kept(a_status(), 100_000)
    assert {step["name"]: step["phase"] for step in found["steps"]} == {
        "small": "Succeeded", "large": "Succeeded", "runs": "Cancelled", "items": "Cancelled", "again": "Cancelled",
        "later": "Omitted",
    }  # fmt: skip
    assert "stopping" not in found
    assert all("retryAt" not in step for step in found["steps"])


def test_a_failure_keeps_its_reason() -> None:
    found = kept(a_status(phase="Error", reason="StepError", message="no space", finishedAt="2026-01-01T00:00:00Z"), 0)
    assert (found["phase"], found["reason"], found["finishedAt"]) == ("Error", "StepError", "2026-01-01T00:00:00Z")
    assert found["message"].startswith("no space; its status would be ")


def test_long_messages_are_shortened_and_at_last_nothing_is_kept_of_the_steps() -> None:
    failed = [{"name": f"s{n}", "phase": "Failed", "attempts": 1, "message": "m" * 4_000} for n in range(20)]
    whole = {"phase": "Failed", "reason": "StepFailed", "message": "s0 failed", "steps": failed}
    some = kept(whole, 10_000)
    assert size(some) <= 10_000
    assert {len(step["message"]) for step in some["steps"]} == {256}
    none = kept(whole, 1_000)
    assert "steps" not in none
    assert size(none) <= 1_000
