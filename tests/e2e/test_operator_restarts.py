"""What the operator costs the API server, and that killing it at any moment changes nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.shell import ClusterError, wait_until
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import (
    LocalOperator,
    Place,
    execution,
    local_operator,
    restricted_namespace,
    script,
    steps,
    values,
)

pytest_plugins = ["e2e.operator_fixtures"]

EXECUTIONS = 30
KILLS = 6
CHAIN = 10


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
    wait_until(lambda: place.kubectl.get("pipelines", pipeline).get("status"), timeout=30, what="the pipeline's status")
    before = operator.writes()
    assert before >= 2  # a revision and a status: they are counted
    name = place.start(pipeline)
    assert place.wait(name)["phase"] == "Succeeded"
    wait_until(lambda: settled(place, name), timeout=30, what="its Jobs to end")
    assert operator.writes() - before <= budget
    assert operator.writes() - before >= 3 * length + 1, "writes are not counted"


def test_an_operator_killed_at_any_moment_neither_loses_a_step_nor_runs_one_twice(
    lone: tuple[Place, LocalOperator],
) -> None:
    place, operator = lone
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    outputs = [{"name": "text", "type": "string"}]
    say = 'sleep 1; echo "text=$PENSTOCK_STEP" >> "$PENSTOCK_OUTPUT"'
    spec = steps(
        script("first", say, outputs=outputs),
        script("left", say, outputs=outputs, inputs=[{"name": "x", "from": "steps.first.outputs.text"}]),
        script("right", "sleep 1", inputs=[{"name": "x", "from": "steps.first.outputs.text"}]),
        script("last", 'test "$INPUT_X" = left', inputs=[{"name": "x", "from": "steps.left.outputs.text"}]),
    )
    pipeline = place.pipeline(spec)
    names = place.start_all([execution(pipeline, name=f"e-{number}") for number in range(EXECUTIONS)])
    for _ in range(KILLS):
        run_until_chance_says(operator, chance)
        operator.kill()
        operator.start()
    ended = place.wait_all(names, seconds=180)

    assert Counter(status["phase"] for status in ended.values()) == {"Succeeded": EXECUTIONS}
    for name, status in ended.items():
        assert {step["name"]: step["attempts"] for step in status["steps"]} == dict.fromkeys(
            ("first", "left", "right", "last"), 1
        ), name
        assert values(status["steps"][0]) == {"text": "first"}
    jobs = place.kubectl.items("jobs")
    ran = Counter(
        (pod["metadata"]["labels"]["penstock.dev/execution"], pod["metadata"]["labels"]["penstock.dev/step"])
        for pod in place.kubectl.items("pods")
    )
    assert len(jobs) == len(ran) == 4 * EXECUTIONS
    assert set(ran.values()) == {1}
    wait_until(
        lambda: all(
            any(each["type"] == "Complete" for each in job.get("status", {}).get("conditions", ()))
            for job in place.kubectl.items("jobs")
        ),
        timeout=30,
        what="every Job to be Complete",
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
