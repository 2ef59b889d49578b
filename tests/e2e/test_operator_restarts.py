"""What the operator costs the API server, and that killing it at any moment changes nothing."""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster import kwok
from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import ClusterError, wait_until
from e2e.journal import Journal
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

EXECUTIONS = 50
STEPS = ("first", "left", "right")
KILLS = 6
CHAIN = 10
COUNTED = 10
# What the operator writes for each execution of one step.
WRITES = {"POST jobs": 1, "POST pods": 1, "PATCH jobs/status": 1, "PATCH executions/status": 2}
JOB_SECONDS = 30
FOREVER = "trap 'exit 143' TERM; sleep 600 & wait"


@pytest.fixture
def lone(
    cluster_kubectl: Kubectl, crds: None, image: str, example_images: None, tmp_path: Any
) -> Iterator[tuple[Place, LocalOperator]]:
    """An operator of our own that can be killed, and its namespace."""
    del crds, example_images
    with (
        restricted_namespace(cluster_kubectl, "lone") as work,
        local_operator(work, tmp_path, COLLECTOR_IMAGE=image) as process,
    ):
        yield Place(work, "local"), process


def chain(length: int, text: str = "exit 0") -> dict[str, Any]:
    """Steps that run one after the other."""
    first = script("s0", text)
    return steps(first, *(script(f"s{n}", text, dependsOn=[f"s{n - 1}"]) for n in range(1, length)))


def settled(place: Place, name: str) -> bool:
    """Whether all Jobs of an execution have ended."""
    ends = [{each["type"] for each in job.get("status", {}).get("conditions", ())} for job in place.jobs(name)]
    return bool(ends) and all(end & {"Complete", "Failed"} for end in ends)


@pytest.mark.parametrize(("length", "budget"), [(1, 5), (CHAIN, 4 * CHAIN + 1)])
def test_writes_to_the_api_server_stay_within_the_budget(
    lone: tuple[Place, LocalOperator], length: int, budget: int
) -> None:
    place, operator = lone
    pipeline = place.pipeline(chain(length))
    place.kubectl("wait", "--for=condition=Ready", f"pipeline.penstock.dev/{pipeline}", "--timeout=30s")
    before = operator.writes()
    assert before >= 2  # a revision and a status: they are counted
    name = place.start(pipeline)
    assert place.wait(name)["phase"] == "Succeeded"
    wait_until(lambda: settled(place, name), timeout=30, what="its Jobs to end")
    assert operator.writes() - before <= budget
    assert operator.writes() - before >= 3 * length + 1, "writes are not counted"


@pytest.mark.disruptive
def test_the_api_server_counts_the_same_writes_as_the_operator(
    lone: tuple[Place, LocalOperator], cluster: Cluster, kubectl: Kubectl
) -> None:
    if cluster.layout is None:
        pytest.skip("only a cluster that was started here has fake nodes, and nobody else who writes")
    kwok.start(cluster.layout, cluster.processes, kubectl.program, count=1)
    place, operator = lone
    template = {
        "spec": {
            "nodeSelector": {kwok.LABEL: "true"},
            "tolerations": [{"key": kwok.LABEL, "operator": "Exists", "effect": "NoSchedule"}],
        }
    }
    gives = [{"name": "value", "type": "number"}]
    spec = steps(script("s", "what a fake node says it printed", podTemplate=template, outputs=gives))
    before, ours = stored_writes(kubectl), operator.writes()
    names = place.start_all([execution(spec) for _ in range(COUNTED)])
    assert {status["phase"] for status in place.wait_all(names).values()} == {"Succeeded"}
    wait_until(lambda: all(settled(place, name) for name in names), timeout=30, what="their Jobs to end")
    counted = stored_writes(kubectl) - before
    assert operator.writes() - ours == 5 * COUNTED
    assert {what: counted[what] for what in WRITES} == {what: number * COUNTED for what, number in WRITES.items()}
    # Besides: the execution itself, the binding of its pod, and what the node says of that; Events are not counted.
    assert counted.total() <= 9 * COUNTED, counted


def stored_writes(kubectl: Kubectl) -> Counter[str]:
    """The successful writes of executions and their children that the API server has counted, by resource and kind."""
    found: Counter[str] = Counter()
    for line in kubectl("get", "--raw", "/metrics").splitlines():
        if line.startswith("apiserver_request_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            what = labels["resource"] + (f"/{labels['subresource']}" if labels["subresource"] else "")
            wrote = labels["verb"] in ("POST", "PUT", "PATCH", "APPLY", "DELETE") and labels["code"].startswith("2")
            if wrote and labels["resource"] in ("executions", "jobs", "pods"):
                found[f"{labels['verb']} {what}"] += int(float(line.rsplit(" ", 1)[1]))
    return found


@pytest.mark.disruptive
def test_operator_and_api_server_killed_at_any_moment_neither_lose_a_step_nor_run_one_twice(
    lone: tuple[Place, LocalOperator], journal: Journal, cluster: Cluster
) -> None:
    place, operator = lone
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    outputs = [{"name": "text", "type": "string"}]
    said = [{"name": "x", "from": "steps.first.outputs.text"}]
    spec = steps(
        script("first", f'{journal.write}; echo "text=$PENSTOCK_STEP" >> "$PENSTOCK_OUTPUT"', outputs=outputs),
        script("left", f'{journal.write}; test "$INPUT_X" = first', inputs=said),
        script("right", f"{journal.write}; sleep 1", inputs=said),
    )
    pipeline = place.pipeline(spec)
    names = place.start_all([execution(pipeline, name=f"e-{number}") for number in range(EXECUTIONS)])
    for kill in range(KILLS):
        run_until_chance_says(operator, chance)
        if kill == KILLS // 2:
            kill_api_server(cluster)
            cluster.processes.start_again("apiserver")
            cluster.wait_until_ready()
            assert not operator.ended(), operator.tail()
            run_until_chance_says(operator, chance)
        operator.kill()
        operator.start()
    ended = place.wait_all(names, seconds=240)

    assert [status for status in ended.values() if status["phase"] != "Succeeded"] == []
    assert len(ended) == EXECUTIONS
    for name, status in ended.items():
        assert {step["name"]: step["attempts"] for step in status["steps"]} == dict.fromkeys(STEPS, 1), name
        assert values(status["steps"][0]) == {"text": "first"}
        assert sorted(journal.of(name)) == [(step, 1) for step in STEPS], "a step ran twice, or did not"
    assert_no_orphans(place, {(name, step) for name in names for step in STEPS})


def kill_api_server(cluster: Cluster) -> None:
    """Have no API server any more."""
    cluster.processes.kill("apiserver", signal.SIGKILL)
    wait_until(lambda: not cluster.processes.get("apiserver").alive(), timeout=10, what="the API server to be gone")


def assert_no_orphans(place: Place, wanted: set[tuple[str, str]]) -> None:
    """There is one Job and one Pod for each step, of its execution, and they come to an end."""
    owners = {each["metadata"]["uid"]: each["metadata"]["name"] for each in place.kubectl.items("executions")}
    jobs = {each["metadata"]["uid"]: each for each in place.kubectl.items("jobs")}
    of = {uid: owners[job["metadata"]["ownerReferences"][0]["uid"]] for uid, job in jobs.items()}
    pods = place.kubectl.items("pods")
    made = Counter((of[uid], job["metadata"]["labels"]["penstock.dev/step"]) for uid, job in jobs.items())
    ran = Counter(
        (of[pod["metadata"]["ownerReferences"][0]["uid"]], pod["metadata"]["labels"]["penstock.dev/step"])
        for pod in pods
    )
    assert made == ran == Counter(wanted)

    def over() -> bool:
        ends = [job.get("status", {}).get("conditions", ()) for job in place.kubectl.items("jobs")]
        return all(any(each["type"] == "Complete" for each in end) for end in ends)

    try:
        wait_until(over, timeout=JOB_SECONDS, what="every Job to be Complete", every=0.5)
    except ClusterError as error:
        raise ClusterError(f"{error}\n{place.kubectl.explain('jobs')}") from None


@pytest.mark.disruptive
def test_what_happened_while_no_watch_could_tell_is_found_by_listing_and_comparing(
    cluster_kubectl: Kubectl, cluster: Cluster, crds: None, journal: Journal, tmp_path: Any
) -> None:
    del crds
    wait = f'{journal.write}; if [ "$PENSTOCK_ATTEMPT" -eq 1 ]; then {FOREVER}; fi'
    with (
        restricted_namespace(cluster_kubectl, "deaf") as work,
        local_operator(work, tmp_path, RESYNC_SECONDS="5") as operator,
    ):
        place = Place(work, "local")
        bereft, deleted, cancelled = place.start_all([execution(steps(script("s", wait))) for _ in range(3)])
        pod, *_ = [place.wait_for_pod(name, "s") for name in (bereft, deleted, cancelled)]
        for name in (bereft, deleted, cancelled):
            place.wait_for_step(name, "s", phase="Running")
        operator.pause()
        # The new API server cannot go on with a watch of the old one: after it, there are only lists.
        kill_api_server(cluster)
        cluster.processes.start_again("apiserver")
        cluster.wait_until_ready()
        work("delete", "pod", pod, "--force", "--grace-period=0")
        work("delete", "exec.penstock.dev", deleted, "--cascade=foreground")
        work("patch", "exec.penstock.dev", cancelled, "--type=merge", "-p", '{"spec":{"cancel":true}}')
        operator.go_on()

        ended = place.wait_all([bereft, cancelled])
        assert ended[cancelled]["phase"] == "Cancelled"
        step = step_of(ended[bereft], "s")
        assert (ended[bereft]["phase"], step["attempts"], step["disruptions"]) == ("Succeeded", 2, 1)
        assert journal.of(bereft) == [("s", 1), ("s", 2)]
        forgotten = ("penstock_executions_live", "penstock_attempts_live")
        wait_until(
            lambda: not any(operator.metrics()[each] for each in forgotten),
            timeout=30,
            what="everything that is not there any more to be forgotten",
        )


def run_until_chance_says(operator: LocalOperator, chance: random.Random) -> None:
    """Let an operator work until it has made some number of writes: moments that lie in the middle of its work."""
    writes = chance.randrange(1, 60)

    def made() -> bool:
        try:
            return operator.writes() >= writes
        except OSError:  # it has not come so far
            return False

    try:
        wait_until(made, timeout=15, what=f"{writes} writes", every=0.02)
    except ClusterError:
        return  # there was not that much left to do
