"""Ctrl-C: the first cancels and lets `finally` steps run, the second leaves at once; nothing is left behind."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from .support import Cli, Ended, Running, until

STUBBORN = """
trap 'echo asked >> "$FOLDER/ran"' TERM
echo work >> "$FOLDER/ran"
while :; do sleep 0.01 || true; done
"""

POLITE = """
trap 'echo asked >> "$FOLDER/ran"; exit 3' TERM
echo work >> "$FOLDER/ran"
while :; do sleep 0.01; done
"""


def start(cli: Cli, script: str, last: str = "") -> Running:
    env = [{"name": "FOLDER", "value": str(cli.folder)}]
    final: dict[str, Any] = {"finally": [{"name": "last", "script": f'echo last >> "$FOLDER/ran"\n{last}', "env": env}]}
    file = cli.pipeline(
        [
            {"name": "work", "script": script, "env": env},
            {"name": "after", "script": 'echo after >> "$FOLDER/ran"', "env": env, "dependsOn": ["work"]},
        ],
        **final,
    )
    running = cli.start("run", file, "--output", "json")
    until(lambda: "work" in cli.lines("ran"), "the step runs")
    return running


def cancelled(running: Running, number: signal.Signals) -> Ended:
    running.signal(number)
    return running.ended()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_and_the_finally_steps_run(cli: Cli, number: signal.Signals) -> None:
    done = cancelled(start(cli, POLITE), number)

    assert done.code == 130
    assert cli.lines("ran") == ["work", "asked", "last"]
    assert done.object["status"]["phase"] == "Cancelled"
    assert done.phases == {"work": "Cancelled", "after": "Omitted", "last": "Succeeded"}
    assert "cancelling; `finally` steps still run, a second Ctrl-C leaves at once" in done.err
    assert not cli.left_behind()


def test_what_a_step_has_started_in_the_background_ends_with_it(cli: Cli) -> None:
    background = "sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 &\n"
    done = cancelled(start(cli, background + POLITE), signal.SIGINT)

    assert done.code == 130


def test_what_a_finished_step_has_left_in_the_background_ends_with_it(cli: Cli) -> None:
    done = cli.run(cli.pipeline([{"name": "leave", "script": "sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 &"}]))

    assert done.code == 0, done.err


def test_a_second_signal_leaves_at_once_even_where_a_step_will_not_end(cli: Cli) -> None:
    running = start(cli, STUBBORN)
    running.signal(signal.SIGINT)
    until(lambda: "asked" in cli.lines("ran"), "the step was asked to end, and did not")
    done = cancelled(running, signal.SIGINT)

    assert done.code == 130
    assert done.out == ""
    assert done.err.endswith("penstock: stopped\n")
    assert "last" not in cli.lines("ran")
    until(lambda: not cli.left_behind(), "the stubborn step was killed")


def test_after_leaving_in_a_hurry_the_same_command_runs_afresh(cli: Cli) -> None:
    running = start(cli, STUBBORN)
    running.signal(signal.SIGINT)
    until(lambda: "asked" in cli.lines("ran"), "the step was asked to end")
    cancelled(running, signal.SIGINT)
    until(lambda: not cli.left_behind(), "the stubborn step was killed")

    again = cli.start("run", "src/p.yaml", "--output", "json")
    until(lambda: cli.lines("ran").count("work") == 2 or not again.alive, "it runs afresh")
    assert again.alive, again.err
    assert cli.lines("ran") == ["work", "asked", "last", "work"], "`finally` of the cancelled execution ran first"
    again.signal(signal.SIGINT)
    until(lambda: cli.lines("ran").count("asked") == 2, "the step was asked to end")
    assert cancelled(again, signal.SIGINT).code == 130


def test_ctrl_c_while_a_cancelled_execution_comes_to_its_end_leaves_nothing_behind(cli: Cli) -> None:
    crashed = start(cli, POLITE, last="sleep 1000")
    crashed.signal(signal.SIGINT)
    until(lambda: "last" in cli.lines("ran"), "the `finally` step runs")
    crashed.kill()

    running = cli.start("run", "src/p.yaml")
    until(lambda: "last                     Running" in running.err or not running.alive, "it was adopted")
    done = cancelled(running, signal.SIGINT)

    assert (done.code, done.out) == (130, "")
    assert "was cancelled, but did not come to its end: that comes first" in done.err
    assert cli.lines("ran") == ["work", "asked", "last"], "nothing was started afresh"
