"""Executions of many steps on a real node: a long chain and a wide fan-out, side by side."""

from __future__ import annotations

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

CHAIN = 100
ITEMS = 200
PARALLEL = 20
SECONDS = 360


@pytest.fixture
def alone(
    cluster_kubectl: Kubectl, crds: None, example_images: None, tmp_path: Any
) -> Iterator[tuple[Place, LocalOperator]]:
    """An operator whose writes nobody else's executions add to, and its namespace."""
    del crds, example_images
    with restricted_namespace(cluster_kubectl, "large") as work, local_operator(work, tmp_path) as process:
        yield Place(work, "local"), process


def counting(length: int) -> dict[str, Any]:
    """A chain each step of which adds one to what the one before gave."""
    add = 'echo "n=$((INPUT_N + 1))" >> "$PENSTOCK_OUTPUT"'
    outputs = [{"name": "n", "type": "number"}]

    def source(number: int) -> dict[str, Any]:
        return {"from": f"steps.s{number - 1}.outputs.n"} if number else {"value": 0}

    listed = (script(f"s{n}", add, inputs=[{"name": "n", **source(n)}], outputs=outputs) for n in range(length))
    last = {"name": "n", "type": "number", "from": f"steps.s{length - 1}.outputs.n"}
    return steps(*listed, outputs=[last])


def squaring(items: int) -> dict[str, Any]:
    """A fan-out each item of which gives its square."""
    square = script(
        "square",
        'echo "n=$((INPUT_N * INPUT_N))" >> "$PENSTOCK_OUTPUT"',
        forEach={"items": list(range(items)), "maxParallel": PARALLEL},
        inputs=[{"name": "n", "from": "item"}],
        outputs=[{"name": "n", "type": "number"}],
    )
    return steps(square, outputs=[{"name": "all", "type": "array", "from": "steps.square.outputs.n"}])


def test_a_chain_of_a_hundred_steps_and_a_fan_out_of_two_hundred_items(alone: tuple[Place, LocalOperator]) -> None:
    place, operator = alone
    before = operator.writes()
    chain, wide = place.start_all([execution(counting(CHAIN)), execution(squaring(ITEMS))])
    most = 0

    def finished() -> bool:
        nonlocal most
        states = [pod["status"].get("phase") for pod in place.pods(wide)]
        most = max(most, states.count("Running") + states.count("Pending"))
        return all(place.status(name).get("phase") in ("Succeeded", "Failed", "Error") for name in (chain, wide))

    wait_until(finished, timeout=SECONDS, what="a long chain and a wide fan-out to finish", every=2)
    ended = place.wait_all([chain, wide])

    assert (ended[chain]["phase"], ended[chain]["progress"]) == ("Succeeded", f"{CHAIN}/{CHAIN}")
    assert values(ended[chain]) == {"n": CHAIN}
    assert [step["attempts"] for step in ended[chain]["steps"]] == [1] * CHAIN
    assert (ended[wide]["phase"], step_of(ended[wide], "square")["phase"]) == ("Succeeded", "Succeeded")
    assert values(ended[wide]) == {"all": [number * number for number in range(ITEMS)]}
    assert len(place.jobs(chain)) == CHAIN
    assert len(place.jobs(wide)) == ITEMS
    # A pod whose container has ended says so before the pod's own phase does, and the next one starts.
    assert PARALLEL // 2 <= most <= 2 * PARALLEL + PARALLEL // 2

    def settled() -> bool:
        jobs = place.kubectl.items("jobs")
        return all(any(each["type"] == "Complete" for each in job["status"].get("conditions", ())) for job in jobs)

    wait_until(settled, timeout=60, what="all Jobs to be Complete", every=1)
    written = operator.writes() - before
    assert 3 * (CHAIN + ITEMS) < written <= (4 * CHAIN + 1) + (4 * ITEMS + 1)
