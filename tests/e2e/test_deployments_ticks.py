"""A tick of a schedule fires once, whoever dies at it. It takes the minutes that it waits for."""

from __future__ import annotations

import time

from e2e.deployment_fixtures import (
    MINUTE,
    TICK_SECONDS,
    Deployments,
    each_minute,
    minute,
    pipeline,
    times,
    wait_for_time,
)
from e2e.operator_fixtures import LocalOperator, values

pytest_plugins = ["e2e.operator_fixtures", "e2e.deployment_fixtures"]


def test_each_minute_fires_exactly_once_though_the_operator_is_killed_at_the_tick(
    own: tuple[Deployments, LocalOperator],
) -> None:
    deployments, operator = own
    deployments.place.pipeline(pipeline(), name="hello")
    if time.time() % MINUTE > MINUTE - 15:
        wait_for_time((time.time() // MINUTE + 1) * MINUTE)
    deployments.apply("each", each_minute("hello"))
    status = deployments.ready("each", "True", "Scheduled")
    assert status["summary"] == "Every minute, UTC"
    first = (time.time() // MINUTE + 1) * MINUTE
    assert status["nextTime"] == minute(first)
    # As soon as the execution is there; before its time; and at its time.
    deployments.wait_for("each", 1, first - time.time() + TICK_SECONDS)
    operator.kill()
    operator.start()
    operator.wait()
    wait_for_time(first + MINUTE - 0.5)
    operator.kill()
    wait_for_time(first + MINUTE + 0.5)
    operator.start()
    operator.wait()
    deployments.wait_for("each", 2, TICK_SECONDS)
    wait_for_time(first + 2 * MINUTE)
    operator.kill()
    operator.start()
    operator.wait()
    names = [each["metadata"]["name"] for each in deployments.wait_for("each", 3, TICK_SECONDS)]
    ended = deployments.place.wait_all(names, "Succeeded")
    found = deployments.executions("each")
    assert times(found) == [minute(first + number * MINUTE) for number in range(3)]
    assert all(each["steps"][0]["attempts"] == 1 for each in ended.values())
    assert [each["spec"]["inputs"] for each in found] == [[{"name": "who", "value": "world"}]] * 3
    # What is void was dropped.
    assert [values(each) for each in ended.values()] == [{}] * 3
