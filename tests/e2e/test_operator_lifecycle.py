"""What can happen to an execution and to its pods, and what the operator makes of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.shell import wait_until
from e2e.image import PYTHON_IMAGE
from e2e.kubectl import Kubectl
from e2e.manifests import BUSYBOX
from e2e.operator_fixtures import (
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
JOB_SECONDS = 20


def conditions(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions of an object by type."""
    return {each["type"]: each for each in found.get("status", {}).get("conditions", ())}


# --- how executions end -----------------------------------------------------------------------------


def test_a_step_is_tried_again_as_often_as_it_says(operator: Place) -> None:
    flaky = script(
        "flaky",
        'if [ "$PENSTOCK_ATTEMPT" -lt 3 ]; then echo "not yet $PENSTOCK_ATTEMPT" >&2; exit 7; fi',
        retry={"limit": 2},
    )
    hopeless = script("hopeless", "echo never >&2; exit 9", retry={"limit": 1})
    good, bad = operator.start_all([execution(steps(flaky)), execution(steps(hopeless))])
    ended = operator.wait_all([good, bad])
    assert (ended[good]["phase"], step_of(ended[good], "flaky")["attempts"]) == ("Succeeded", 3)
    assert len(operator.jobs(good)) == 3
    failed = step_of(ended[bad], "hopeless")
    assert (ended[bad]["phase"], failed["attempts"], failed["exitCode"], failed["message"]) == ("Failed", 2, 9, "never")


def test_a_step_and_an_execution_that_take_too_long_are_stopped(operator: Place) -> None:
    slow = script("slow", FOREVER, timeoutSeconds=2)
    step, whole = operator.start_all([execution(steps(slow)), execution(steps(script("s", FOREVER)), timeoutSeconds=3)])
    ended = operator.wait_all([step, whole])
    timed_out = step_of(ended[step], "slow")
    assert (ended[step]["phase"], timed_out["phase"], timed_out["reason"]) == ("Failed", "Failed", "TimedOut")
    assert timed_out["message"] == "took longer than timeoutSeconds: 2"
    assert (ended[whole]["phase"], ended[whole]["reason"]) == ("Failed", "TimedOut")
    assert step_of(ended[whole], "s")["reason"] == "ExecutionTimedOut"
    assert_nothing_runs(operator, whole)


def test_a_cancelled_execution_stops_and_its_finally_steps_run(operator: Place) -> None:
    spec = steps(
        script("long", FOREVER),
        script("next", "exit 0", dependsOn=["long"]),
        **{
            "finally": [
                script(
                    "clean",
                    'echo "was=$INPUT_WAS" >> "$PENSTOCK_OUTPUT"',
                    inputs=[{"name": "was", "from": "execution.status"}],
                    outputs=[{"name": "was", "type": "string", "maxBytes": 20}],
                )
            ]
        },
    )
    name = operator.start(spec)
    operator.wait_for_pod(name, "long")
    operator.kubectl("patch", "exec.penstock.dev", name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    status = operator.wait(name)
    assert status["phase"] == "Cancelled"
    assert (step_of(status, "long")["phase"], step_of(status, "next")["phase"]) == ("Cancelled", "Omitted")
    assert values(step_of(status, "clean")) == {"was": "Cancelled"}
    assert_nothing_runs(operator, name)


def assert_nothing_runs(place: Place, name: str) -> None:
    """All Jobs and Pods of an execution come to an end."""

    def over() -> bool:
        jobs = all({"Complete", "Failed"} & conditions(job).keys() for job in place.jobs(name))
        return jobs and all(pod["status"]["phase"] in {"Succeeded", "Failed"} for pod in place.pods(name))

    wait_until(over, timeout=JOB_SECONDS + 30, what=f"everything of {name} to be over", every=0.3)


def test_a_suspended_execution_starts_nothing_until_it_is_resumed(operator: Place) -> None:
    name = operator.start(steps(script("s", "exit 0")), suspend=True)
    status = operator.wait(name, "Suspended")
    assert operator.jobs(name) == []
    assert step_of(status, "s")["phase"] == "Pending"
    operator.kubectl("patch", "exec.penstock.dev", name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    assert operator.wait(name)["phase"] == "Succeeded"


def test_an_execution_that_is_deleted_takes_its_jobs_and_pods_along(operator: Place) -> None:
    name = operator.start(steps(script("s", FOREVER)))
    operator.wait_for_pod(name, "s")
    operator.kubectl("delete", "exec.penstock.dev", name, "--wait=false")
    wait_until(
        lambda: not operator.jobs(name) and not operator.pods(name), timeout=90, what="its children to go", every=0.5
    )


def test_a_finished_execution_goes_when_its_time_is_over(operator: Place) -> None:
    name = operator.start(steps(script("s", "exit 0")), ttlSecondsAfterFinished=1)
    gone = ("get", "exec.penstock.dev", name)
    wait_until(lambda: operator.kubectl.attempt(*gone)[0] != 0, timeout=60, what="the execution to go", every=0.3)


# --- what happens to pods ---------------------------------------------------------------------------


def test_out_of_memory_is_named_with_the_limit(operator: Place) -> None:
    hungry = {
        "name": "hungry",
        "image": PYTHON_IMAGE,
        "command": ["python3", "-c", "x = bytearray(400_000_000); print(len(x))"],
        "resources": {"limits": {"memory": "32Mi"}},
    }
    status = operator.wait(operator.start(steps(hungry)))
    step = step_of(status, "hungry")
    assert (step["phase"], step["reason"]) == ("Failed", "StepFailed")
    assert step["message"].startswith("out of memory: killed at its limit of 32Mi")


def test_an_evicted_and_a_deleted_pod_are_replaced_without_using_up_retries(operator: Place) -> None:
    once = f'if [ "$PENSTOCK_ATTEMPT" -eq 1 ]; then {FOREVER}; fi'
    evicted, deleted = operator.start_all([execution(steps(script("s", once))), execution(steps(script("s", once)))])
    pod = operator.wait_for_pod(evicted, "s")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": operator.kubectl.namespace},
    }
    path = f"/api/v1/namespaces/{operator.kubectl.namespace}/pods/{pod}/eviction"
    operator.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    operator.kubectl("delete", "pod", operator.wait_for_pod(deleted, "s"), "--wait=false")
    for name, status in operator.wait_all([evicted, deleted]).items():
        step = step_of(status, "s")
        assert (status["phase"], step["attempts"], step.get("disruptions")) == ("Succeeded", 2, 1), name
        assert step.get("failures", 0) == 0


def test_what_keeps_a_step_from_starting_is_said_on_it_and_waited_for_until_its_time_is_over(operator: Place) -> None:
    nowhere = {"spec": {"nodeSelector": {"penstock.dev/none": "such"}}}
    absent = {**script("s", "exit 0"), "image": "docker.io/library/no-such-image:1", "timeoutSeconds": 4}
    image, place, secret = operator.start_all(
        [
            execution(steps(absent)),
            execution(steps(script("s", "exit 0", podTemplate=nowhere, timeoutSeconds=4))),
            execution(steps(script("s", "exit 0", envFrom=[{"secretRef": {"name": "none"}}], timeoutSeconds=4))),
        ]
    )
    for name, reason, word in (
        (image, "ImagePullFailed", "no-such-image"),
        (place, "Unschedulable", "no node"),
        (secret, "ConfigMissing", '"none"'),
    ):
        step = operator.wait_for_step(name, "s", reason=reason)
        assert step["phase"] == "Pending"
        assert word in step["message"]
    for name, status in operator.wait_all([image, place, secret]).items():
        step = step_of(status, "s")
        assert (status["phase"], step["phase"], step["reason"]) == ("Failed", "Failed", "TimedOut"), name


def test_a_command_that_is_not_there_says_where_it_was_asked_for(operator: Place) -> None:
    status = operator.wait(operator.start(steps({"name": "s", "image": BUSYBOX, "command": ["no-such-program"]})))
    step = step_of(status, "s")
    assert (status["phase"], step["exitCode"]) == ("Failed", 127)
    assert "spec.steps[s].command: there is no such program in the image" in step["message"]


@pytest.fixture
def tight_place(cluster_kubectl: Kubectl, crds: None, example_images: None, tmp_path: Any) -> Iterator[Place]:
    """A namespace with a quota that has room for no pod."""
    del crds, example_images
    with restricted_namespace(cluster_kubectl, "tight") as work, local_operator(work, tmp_path):
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "q"},
            "spec": {"hard": {"pods": "0"}},
        }
        work.apply(quota)
        counted = ("resourcequota", "q")
        wait_until(lambda: work.get(*counted).get("status", {}).get("hard"), timeout=60, what="the quota to hold")
        yield Place(work, "local")


def test_a_quota_that_is_used_up_is_waited_for(tight_place: Place) -> None:
    name = tight_place.start(steps(script("s", "exit 0")))
    step = tight_place.wait_for_step(name, "s", reason="Refused")
    assert step["phase"] == "Pending"
    assert "exceeded quota" in step["message"]
    more = '{"spec":{"hard":{"pods":"5"}}}'
    tight_place.kubectl("patch", "resourcequota", "q", "--type=merge", "-p", more)
    status = tight_place.wait(name)
    assert (status["phase"], step_of(status, "s")["attempts"]) == ("Succeeded", 1)


# --- what people see --------------------------------------------------------------------------------


def test_a_broken_pipeline_says_what_is_wrong_and_its_execution_starts_once_it_is_mended(operator: Place) -> None:
    broken = steps(script("s", "exit 0", inputs=[{"name": "x", "from": "steps.none.outputs.y"}]))
    pipeline = operator.pipeline(broken)

    def ready() -> dict[str, Any]:
        return conditions(operator.kubectl.get("pipelines", pipeline)).get("Ready", {})

    wait_until(lambda: ready().get("status") == "False", timeout=30, what="the pipeline to be told broken")
    assert "none" in ready()["message"]
    name = operator.start(pipeline)
    status = operator.wait(name, "Pending")
    assert f'pipeline "{pipeline}" is not Ready' in status["message"]
    assert operator.jobs(name) == []
    operator.pipeline(steps(script("s", "exit 0")), name=pipeline)
    status = operator.wait(name)
    assert (status["phase"], status["revision"]) == ("Succeeded", f"{pipeline}-1")
    assert ready()["status"] == "True"


def test_an_execution_that_was_there_before_its_pipeline_starts_with_it(operator: Place) -> None:
    name = operator.start("p-later")
    assert 'no pipeline "p-later"' in operator.wait(name, "Pending")["message"]
    operator.pipeline(steps(script("s", "exit 0")), name="p-later")
    assert operator.wait(name)["phase"] == "Succeeded"


def test_an_execution_goes_on_with_the_revision_it_began_with(operator: Place) -> None:
    first = steps(script("wait", "sleep 4"), script("s", "exit 0", dependsOn=["wait"]))
    pipeline = operator.pipeline(first)
    name = operator.start(pipeline)
    operator.wait_for_pod(name, "wait")
    operator.pipeline(steps(script("other", "exit 0")), name=pipeline)
    second = operator.wait(operator.start(pipeline))
    assert (second["phase"], second["revision"], second["steps"][0]["name"]) == ("Succeeded", f"{pipeline}-2", "other")
    status = operator.wait(name)
    assert (status["phase"], status["revision"]) == ("Succeeded", f"{pipeline}-1")
    assert [step["name"] for step in status["steps"]] == ["wait", "s"]


def test_kubectl_shows_a_steps_job_as_complete_its_log_and_the_progress_of_the_execution(operator: Place) -> None:
    good, bad = operator.start_all(
        [execution(steps(script("s", "echo said by the step"))), execution(steps(script("s", "exit 4")))]
    )
    operator.wait_all([good, bad])
    (job,) = operator.jobs(good)
    done = job["metadata"]["name"]
    operator.kubectl("wait", "--for=condition=Complete", f"job/{done}", f"--timeout={JOB_SECONDS}s")
    shown = operator.kubectl("get", "jobs", done, "--no-headers").split()
    assert shown[:3] == [done, "Complete", "1/1"]
    assert operator.kubectl("logs", f"job/{done}") == "said by the step\n"
    (failed,) = operator.jobs(bad)
    operator.kubectl("wait", "--for=condition=Failed", f"job/{failed['metadata']['name']}", f"--timeout={JOB_SECONDS}s")
    header, line = operator.kubectl("get", "exec", good).splitlines()
    assert header.split()[:3] == ["NAME", "PHASE", "PROGRESS"]
    assert line.split()[:3] == [good, "Succeeded", "1/1"]
    # Our kind of that name does not hide the apps of the cluster.
    apps = operator.kubectl("get", "deploy", "--namespace", operator.operator, "-o", "name")
    assert apps.split() == ["deployment.apps/penstock", "deployment.apps/penstock-gateway"]


def test_nothing_but_the_status_is_written_to_what_people_applied(operator: Place) -> None:
    pipeline = operator.pipeline(steps(script("s", "exit 0")))
    name = operator.start(pipeline)
    assert operator.wait(name)["phase"] == "Succeeded"
    for kind, each in (("pipelines", pipeline), ("exec.penstock.dev", name)):
        found = json.loads(operator.kubectl("get", kind, each, "-o", "json", "--show-managed-fields"))
        meta = found["metadata"]
        assert meta["generation"] == 1
        assert not {"annotations", "labels", "finalizers", "ownerReferences"} & meta.keys()
        ours = [field for field in meta["managedFields"] if field["manager"] != "kubectl"]
        assert ours
        assert all(field.get("subresource") == "status" for field in ours), ours
        assert all(set(field["fieldsV1"]) <= {"f:status"} for field in ours), ours
        assert found["status"]["observedGeneration"] == 1


def test_a_step_finds_neither_a_token_nor_the_addresses_of_services(operator: Place) -> None:
    look = "test ! -e /var/run/secrets/kubernetes.io; env | grep _SERVICE_HOST | grep -v ^KUBERNETES_ && exit 1; exit 0"
    name = operator.start(steps(script("s", look)))
    status = operator.wait(name)
    assert status["phase"] == "Succeeded", status
    (pod,) = operator.pods(name)
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "volumes" not in pod["spec"]
