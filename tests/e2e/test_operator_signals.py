"""What the operator lets people and their tools know: health, Events, metrics and logs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.shell import wait_until
from e2e.health import Health, health
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import (
    LocalOperator,
    Place,
    execution,
    local_operator,
    restricted_namespace,
    script,
    steps,
)

pytest_plugins = ["e2e.operator_fixtures"]

SECRET = "s3cr3t-value-of-an-input"
SECONDS = 30
FOREVER = "trap 'exit 143' TERM; sleep 600 & wait"
CANCEL = '{"spec":{"cancel":true}}'


@dataclass(frozen=True)
class Watched:
    """A namespace whose operator tells everything.

    Attributes:
        place: What is done there.
        operator: The operator.
        folder: For files.
    """

    place: Place
    operator: LocalOperator
    folder: Path

    def pipeline(self, name: str) -> Health:
        """How a Pipeline fares."""
        return health(self.folder, [self.place.kubectl.get("pipelines", name)])[0]

    def execution(self, name: str) -> Health:
        """How an Execution fares."""
        return health(self.folder, [self.place.kubectl.get("exec.penstock.dev", name)])[0]

    def events(self, name: str) -> dict[str, dict[str, Any]]:
        """The events about an object by their reasons."""
        found = self.place.kubectl.items("events.v1.events.k8s.io")
        return {each["reason"]: each for each in found if each["regarding"]["name"] == name}

    def wait_for_events(self, name: str, *reasons: str) -> dict[str, dict[str, Any]]:
        """The same, once there are events for all of these reasons."""
        wait_until(lambda: self.events(name).keys() >= set(reasons), timeout=SECONDS, what=f"{reasons} of {name}")
        return self.events(name)


@pytest.fixture(scope="module")
def watched(
    cluster_kubectl: Kubectl, crds: None, example_images: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """An operator of this machine that writes all events, and its namespace."""
    del crds, example_images
    folder = tmp_path_factory.mktemp("signals")
    with (
        restricted_namespace(cluster_kubectl, "signals") as work,
        local_operator(work, folder, EVENTS="all", LOG_LEVEL="DEBUG") as operator,
    ):
        yield Watched(Place(work, "local"), operator, folder)


def until(found: Callable[[], Health], both: tuple[str, str]) -> Health:
    """Wait until an object fares like this."""
    seen: list[Health] = []

    def fares() -> bool:
        seen[:] = [found()]
        return seen[0].both == both

    wait_until(fares, timeout=SECONDS, what=f"{both}", every=0.2)
    return seen[0]


# --- health -----------------------------------------------------------------------------------------


def test_a_pipeline_is_current_when_it_can_run_and_failed_when_it_cannot(watched: Watched) -> None:
    place = watched.place
    name = place.pipeline(steps(script("s", "exit 0")))
    until(lambda: watched.pipeline(name), ("Current", "Healthy"))
    place.pipeline(steps(script("s", "exit 0", dependsOn=["none"])), name=name)
    broken = until(lambda: watched.pipeline(name), ("Failed", "Degraded"))
    assert "none" in broken.message
    place.pipeline(steps(script("s", "exit 0")), name=name)
    until(lambda: watched.pipeline(name), ("Current", "Healthy"))


def test_what_an_execution_does_is_how_it_fares(watched: Watched) -> None:
    place = watched.place
    pending = place.start("p-not-there")
    suspended = place.start(steps(script("s", "exit 0")), suspend=True)
    running = place.start(steps(script("s", FOREVER)))
    good = place.start(steps(script("s", "exit 0")))
    bad = place.start(steps(script("s", "echo no such table >&2; exit 3")))
    refused = place.start(steps(script("s", "exit 0")), inputs=[{"name": "unknown", "value": 1}])
    until(lambda: watched.execution(pending), ("InProgress", "Progressing"))
    assert "p-not-there" in until(lambda: watched.execution(pending), ("InProgress", "Progressing")).message
    until(lambda: watched.execution(suspended), ("InProgress", "Suspended"))
    until(lambda: watched.execution(running), ("InProgress", "Progressing"))
    place.wait_all([good, bad, refused])
    assert watched.execution(good).both == ("Current", "Healthy")
    assert watched.execution(bad).both == ("Failed", "Degraded")
    assert "no such table" in watched.execution(bad).message
    assert watched.execution(refused).both == ("Failed", "Degraded")
    place.wait_for_pod(running, "s")
    place.kubectl("patch", "exec.penstock.dev", running, "--type=merge", "-p", CANCEL)
    place.wait(running)
    assert watched.execution(running).both == ("Failed", "Degraded")


def test_a_finished_execution_whose_spec_is_changed_is_as_current_as_before(watched: Watched) -> None:
    place = watched.place
    name = place.start(steps(script("s", "exit 0")))
    place.wait(name)
    change = '{"spec":{"ttlSecondsAfterFinished":86400}}'
    place.kubectl("patch", "exec.penstock.dev", name, "--type=merge", "-p", change)
    until(lambda: watched.execution(name), ("Current", "Healthy"))
    found = place.kubectl.get("exec.penstock.dev", name)
    assert found["metadata"]["generation"] == 2
    assert {each["observedGeneration"] for each in found["status"]["conditions"]} == {2}
    assert found["status"]["phase"] == "Succeeded"


def test_what_no_operator_has_seen_yet_is_in_progress(
    kubectl: Kubectl, crds: None, tmp_path: Path, example_images: None
) -> None:
    del crds, example_images
    place = Place(kubectl, "none")
    name = place.pipeline(steps(script("s", "exit 0")))
    started = place.start(name)

    def fare() -> list[tuple[str, str]]:
        objects = [kubectl.get("pipelines", name), kubectl.get("exec.penstock.dev", started)]
        return [each.both for each in health(tmp_path, objects)]

    assert fare() == [("InProgress", "Progressing")] * 2
    with local_operator(kubectl, tmp_path):
        place.wait(started)
        assert fare() == [("Current", "Healthy")] * 2
    # The operator is gone: nobody has seen this change.
    place.pipeline(steps(script("other", "exit 0")), name=name)
    assert fare() == [("InProgress", "Progressing"), ("Current", "Healthy")]


# --- events -----------------------------------------------------------------------------------------


def test_events_tell_the_life_of_an_execution_to_kubectl_describe(watched: Watched) -> None:
    place = watched.place
    flaky = script("flaky", "echo no such table >&2; exit 3", retry={"limit": 2})
    name = place.start(steps(flaky))
    assert place.wait(name)["phase"] == "Failed"
    events = watched.wait_for_events(name, "Started", "StepRetrying", "Failed")
    assert events["StepRetrying"]["note"] == 'step "flaky": no such table (StepFailed); it is tried again'
    assert (events["Failed"]["type"], events["Started"]["type"]) == ("Warning", "Normal")
    assert events["Failed"]["note"] == 'step "flaky": no such table (StepFailed); 1/1 steps finished'
    assert events["Failed"]["reportingController"] == "penstock.dev/operator"
    assert "StepFailed" not in events
    shown = place.kubectl("describe", "exec.penstock.dev", name)
    assert "no such table" in shown.partition("Events:")[2]
    assert "penstock.dev/operator" in shown.partition("Events:")[2]


def test_events_tell_of_success_of_cancelling_and_of_pipelines(watched: Watched) -> None:
    place = watched.place
    pipeline = place.pipeline(steps(script("s", "exit 0", dependsOn=["none"])))
    assert "none" in watched.wait_for_events(pipeline, "InvalidPipeline")["InvalidPipeline"]["note"]
    place.pipeline(steps(script("s", "exit 0")), name=pipeline)
    watched.wait_for_events(pipeline, "InvalidPipeline", "Ready")
    good = place.start(pipeline)
    place.wait(good)
    events = watched.wait_for_events(good, "Started", "Succeeded")
    assert events.keys() == {"Started", "Succeeded"}
    assert events["Started"]["note"] == f'runs pipeline "{pipeline}", revision {pipeline}-1'
    cancelled = place.start(steps(script("s", FOREVER)))
    place.wait_for_pod(cancelled, "s")
    place.kubectl("patch", "exec.penstock.dev", cancelled, "--type=merge", "-p", CANCEL)
    place.wait(cancelled)
    assert watched.wait_for_events(cancelled, "Cancelled")["Cancelled"]["type"] == "Normal"


def test_an_image_that_cannot_be_pulled_is_an_event(watched: Watched) -> None:
    place = watched.place
    name = place.start(steps({"name": "s", "image": "registry.invalid/none:1", "command": ["true"]}))
    events = watched.wait_for_events(name, "StepWaiting")
    assert "ImagePullFailed" in events["StepWaiting"]["note"]
    place.kubectl("patch", "exec.penstock.dev", name, "--type=merge", "-p", CANCEL)
    place.wait(name)


def test_by_default_only_what_goes_wrong_is_an_event(
    kubectl: Kubectl, crds: None, tmp_path: Path, example_images: None
) -> None:
    del crds, example_images
    place = Place(kubectl, "local")
    with local_operator(kubectl, tmp_path) as operator:
        here = Watched(place, operator, tmp_path)
        good, bad = place.start_all([execution(steps(script("s", "exit 0"))), execution(steps(script("s", "exit 3")))])
        place.wait_all([good, bad])
        assert here.wait_for_events(bad, "Failed").keys() == {"Failed"}
        assert here.events(good) == {}
        assert operator.metrics()['penstock_events_total{outcome="written"}'] == 1
        assert operator.metrics()['penstock_api_requests_total{code="201",resource="events",verb="create"}'] == 1


# --- metrics and logs -------------------------------------------------------------------------------


def test_metrics_tell_how_long_executions_take_to_start_and_to_finish(watched: Watched) -> None:
    before = watched.operator.metrics()
    watched.place.wait(watched.place.start(steps(script("s", "exit 0"))))
    after = watched.operator.metrics()
    for name in ("start", "finish"):
        count = f"penstock_execution_{name}_seconds_count"
        assert after[count] == before[count] + 1
        assert after[f"penstock_execution_{name}_seconds_sum"] - before[f"penstock_execution_{name}_seconds_sum"] >= 0
    assert after["penstock_queue_wait_seconds_count"] > before["penstock_queue_wait_seconds_count"]
    assert after["penstock_pass_seconds_count"] > before["penstock_pass_seconds_count"]


def test_log_lines_are_json_say_which_execution_they_are_about_and_hold_no_values(watched: Watched) -> None:
    leak = 'echo "$INPUT_TOKEN" >&2; echo "said=$INPUT_TOKEN" >> "$PENSTOCK_OUTPUT"; [ "$PENSTOCK_ATTEMPT" -gt 1 ]'
    step = script(
        "leaky",
        leak,
        inputs=[{"name": "token", "from": "inputs.token"}],
        outputs=[{"name": "said", "type": "string", "maxBytes": 100}],
        env=[{"name": "PASSWORD", "value": SECRET}],
        retry={"limit": 1},
    )
    spec = steps(step, inputs=[{"name": "token", "type": "string"}])
    name = watched.place.start(spec, inputs=[{"name": "token", "value": SECRET}])
    assert watched.place.wait(name)["phase"] == "Succeeded"
    ends = {("step finished", "leaky", 2, "Succeeded"), ("execution finished", None, None, "Succeeded")}

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in watched.operator.log.read_text().splitlines()]

    def told() -> list[tuple[Any, ...]]:
        ours = [line for line in lines() if line.get("execution") == name]
        assert all(line["namespace"] == watched.place.kubectl.namespace for line in ours)
        return [(line["message"], line.get("step"), line.get("attempt"), line.get("phase")) for line in ours]

    # The status is there a moment before the operator has heard that it was written.
    wait_until(lambda: ends <= set(told()), timeout=SECONDS, what=f"the log to tell of {ends}")
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines())
    assert ("attempt failed, the step is tried again", "leaky", 1) in [line[:3] for line in told()]
    text = watched.operator.log.read_text()
    assert SECRET not in text
    credentials = watched.place.kubectl("config", "view", "--raw", "-o", "json")
    for user in json.loads(credentials)["users"]:
        for value in user["user"].values():
            assert str(value) not in text
