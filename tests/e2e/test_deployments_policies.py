"""What becomes of an execution that is due while another one runs. It takes the minutes that it waits for."""

from __future__ import annotations

from e2e.cluster.shell import wait_until
from e2e.deployment_fixtures import LONG, MINUTE, SECONDS, TICK_SECONDS, Deployments, each_minute
from e2e.operator_fixtures import LocalOperator

pytest_plugins = ["e2e.operator_fixtures", "e2e.deployment_fixtures"]


def test_policies_decide_what_becomes_of_an_execution_that_is_due_while_another_runs(
    own: tuple[Deployments, LocalOperator],
) -> None:
    deployments, _ = own
    deployments.place.pipeline(LONG, name="long")
    for policy in ("Forbid", "Replace", "Queue"):
        deployments.apply(policy.lower(), each_minute("long", concurrency={"policy": policy}))
    deployments.apply("idle", each_minute("long", suspend=True))
    assert "nextTime" not in deployments.ready("idle", "True", "Suspended")
    deployments.wait_for("queue", 2, 2 * MINUTE + TICK_SECONDS)
    deployments.wait_for("replace", 2, TICK_SECONDS)
    deployments.place.wait(deployments.executions("replace")[0]["metadata"]["name"], "Cancelled")
    assert len(deployments.executions("forbid")) == 1
    assert not deployments.get("idle").get("status", {}).get("lastTime")
    assert deployments.executions("idle") == []
    running, waiting = deployments.executions("queue")[:2]
    assert waiting["spec"]["suspend"] is True
    # What is freed is given to who waits, without any event of the schedule.
    cancel = ("--type=merge", "-p", '{"spec": {"cancel": true}}')
    deployments.kubectl("patch", "executions", running["metadata"]["name"], *cancel)
    deployments.place.wait(waiting["metadata"]["name"], "Running")
    # What a deployment has started goes with it.
    deployments.kubectl("delete", "deployments.penstock.dev", "replace", "queue", "forbid", "--wait=false")
    wait_until(lambda: not deployments.kubectl.items("executions"), timeout=SECONDS, what="executions to be gone")
