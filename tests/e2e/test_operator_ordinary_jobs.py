"""Jobs that the cluster's own controller looks after: all that happens to steps is told as for those we manage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.shell import wait_until
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import (
    LocalOperator,
    Place,
    execution,
    local_operator,
    restricted_namespace,
    script,
    step_of,
    steps,
    values,
)

pytest_plugins = ["e2e.operator_fixtures"]

FOREVER = "trap 'exit 143' TERM; sleep 600 & wait"
JOB_SECONDS = 60


@pytest.fixture(scope="module")
def ordinary(
    cluster_kubectl: Kubectl, crds: None, image: str, example_images: None, tmp_path_factory: Any
) -> Iterator[tuple[Place, LocalOperator]]:
    """An operator that leaves its Jobs to the Job controller, and its namespace."""
    del crds, example_images
    folder = tmp_path_factory.mktemp("ordinary")
    with (
        restricted_namespace(cluster_kubectl, "ordinary") as work,
        local_operator(work, folder, JOBS="ordinary", COLLECTOR_IMAGE=image) as operator,
    ):
        yield Place(work, "local"), operator


def ends(job: dict[str, Any]) -> set[str]:
    """Complete, Failed, or neither."""
    return {each["type"] for each in job.get("status", {}).get("conditions", ())} & {"Complete", "Failed"}


def wait_for_jobs(place: Place, name: str) -> list[set[str]]:
    """How the Jobs of an execution end; waits until they have."""
    wait_until(lambda: all(map(ends, place.jobs(name))), timeout=JOB_SECONDS, what=f"the Jobs of {name} to end")
    jobs = place.jobs(name)
    assert not any("managedBy" in job["spec"] for job in jobs)
    return [ends(job) for job in sorted(jobs, key=lambda job: str(job["metadata"]["labels"]["penstock.dev/attempt"]))]


def test_values_pass_along_a_chain_through_messages_and_collectors(ordinary: tuple[Place, LocalOperator]) -> None:
    place, _ = ordinary
    small = [{"name": "n", "type": "number"}]
    text = [{"name": "text", "type": "string"}]
    spec = steps(
        script("small", 'echo "n=$INPUT_N" >> "$PENSTOCK_OUTPUT"', inputs=[{"name": "n", "value": 7}], outputs=small),
        script(
            "large",
            'head -c 50000 /dev/zero | tr "\\0" x > /tmp/x; echo "text=$INPUT_N$(cat /tmp/x)" >> "$PENSTOCK_OUTPUT"',
            inputs=[{"name": "n", "from": "steps.small.outputs.n"}],
            outputs=text,
            podTemplate={"spec": {"volumes": [{"name": "t", "emptyDir": {}}]}},
        ),
        script(
            "last",
            'test "$(wc -c < "$PENSTOCK_INPUTS/text")" -eq 50001',
            inputs=[{"name": "text", "from": "steps.large.outputs.text"}],
        ),
    )
    name = place.start(spec)
    status = place.wait(name)
    assert status["phase"] == "Succeeded", status
    assert values(step_of(status, "small")) == {"n": 7}
    assert values(step_of(status, "large")) == {"text": "7" + "x" * 50_000}
    assert wait_for_jobs(place, name) == [{"Complete"}] * 3


def test_a_step_is_tried_again_and_one_that_fails_says_why(ordinary: tuple[Place, LocalOperator]) -> None:
    place, _ = ordinary
    flaky = script("s", 'test "$PENSTOCK_ATTEMPT" -eq 2', retry={"limit": 1})
    good, bad = place.start_all([execution(steps(flaky)), execution(steps(script("s", "echo oh no >&2; exit 9")))])
    ended = place.wait_all([good, bad])
    assert (ended[good]["phase"], step_of(ended[good], "s")["attempts"]) == ("Succeeded", 2)
    failed = step_of(ended[bad], "s")
    assert (failed["phase"], failed["reason"], failed["exitCode"]) == ("Failed", "StepFailed", 9)
    assert failed["message"] == "oh no"
    assert wait_for_jobs(place, good) == [{"Failed"}, {"Complete"}]
    assert wait_for_jobs(place, bad) == [{"Failed"}]


def test_what_is_cancelled_or_takes_too_long_is_stopped(ordinary: tuple[Place, LocalOperator]) -> None:
    place, _ = ordinary
    nowhere = {"spec": {"nodeSelector": {"penstock.dev/none": "such"}}}
    cancelled, late, unplaced = place.start_all(
        [
            execution(steps(script("s", FOREVER))),
            execution(steps(script("s", FOREVER, timeoutSeconds=2))),
            execution(steps(script("s", FOREVER, podTemplate=nowhere))),
        ]
    )
    place.wait_for_pod(cancelled, "s")
    place.wait_for_step(unplaced, "s", reason="Unschedulable")
    for name in (cancelled, unplaced):
        place.kubectl("patch", "exec.penstock.dev", name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    ended = place.wait_all([cancelled, late, unplaced])
    assert ended[unplaced]["phase"] == "Cancelled"
    assert (ended[cancelled]["phase"], step_of(ended[cancelled], "s")["phase"]) == ("Cancelled", "Cancelled")
    step = step_of(ended[late], "s")
    assert (ended[late]["phase"], step["reason"]) == ("Failed", "TimedOut")
    assert step["message"] == "took longer than timeoutSeconds: 2"
    for name in (cancelled, late, unplaced):
        assert wait_for_jobs(place, name) == [{"Failed"}]
        assert [pod["status"]["phase"] for pod in place.pods(name)] == ([] if name == unplaced else ["Failed"])


def test_an_evicted_pod_is_replaced_by_another_attempt(ordinary: tuple[Place, LocalOperator]) -> None:
    place, _ = ordinary
    name = place.start(steps(script("s", f'if [ "$PENSTOCK_ATTEMPT" -eq 1 ]; then {FOREVER}; fi')))
    pod = place.wait_for_pod(name, "s")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": place.kubectl.namespace},
    }
    path = f"/api/v1/namespaces/{place.kubectl.namespace}/pods/{pod}/eviction"
    place.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    status = place.wait(name)
    step = step_of(status, "s")
    assert (status["phase"], step["attempts"], step["disruptions"]) == ("Succeeded", 2, 1)
    assert step.get("failures", 0) == 0
    assert wait_for_jobs(place, name) == [{"Failed"}, {"Complete"}]


def test_an_operator_that_is_killed_neither_loses_a_step_nor_runs_one_twice(
    ordinary: tuple[Place, LocalOperator],
) -> None:
    place, operator = ordinary
    chain = steps(script("first", "sleep 3"), script("second", "sleep 3", dependsOn=["first"]))
    names = place.start_all([execution(chain) for _ in range(6)])
    for step in ("first", "second"):
        place.wait_for_pod(names[0], step)
        operator.kill()
        operator.start()
    for name, status in place.wait_all(names).items():
        assert status["phase"] == "Succeeded"
        assert [step["attempts"] for step in status["steps"]] == [1, 1]
        assert wait_for_jobs(place, name) == [{"Complete"}] * 2
        assert len(place.pods(name)) == 2
