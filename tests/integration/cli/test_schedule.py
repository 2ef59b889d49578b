"""`penstock schedule preview`: when a schedule comes, of an expression and of a manifest."""

from __future__ import annotations

from typing import Any

import pytest

from .support import Cli, pipeline

SPRING = ("--from", "2026-03-28T00:00Z", "--count", "3")
PIPELINE = pipeline("p", [{"name": "a", "script": "true"}])


def deployment(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": "nightly"},
        "spec": {"pipeline": {"name": "p"}, **spec},
    }


def test_an_expression_is_shown_as_a_sentence_and_as_times_there_and_in_utc(cli: Cli) -> None:
    done = cli("schedule", "preview", "30 2 * * *", "--time-zone", "Europe/Paris", *SPRING)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "At 02:30 every day, Europe/Paris",
        "  Sat 2026-03-28 02:30 CET      2026-03-28T01:30:00Z",
        "  Sun 2026-03-29 03:00 CEST     2026-03-29T01:00:00Z",
        "  Mon 2026-03-30 02:30 CEST     2026-03-30T00:30:00Z",
    ]
    assert "At 00:00 every day, UTC" in cli("schedule", "preview", "@daily").out


def test_a_manifest_says_how_its_clocks_change(cli: Cli) -> None:
    schedule = {"cron": "30 2 * * *", "timeZone": "Europe/Paris", "daylightSaving": {"skipped": "Skip"}}
    path = cli.write("nightly.yaml", PIPELINE, deployment(schedule=schedule))
    done = cli("schedule", "preview", path, *SPRING)
    assert done.code == 0
    assert done.out.splitlines()[0] == "nightly: At 02:30 every day, Europe/Paris"
    assert [line.split()[-1] for line in done.out.splitlines()[1:]] == [
        "2026-03-28T01:30:00Z",
        "2026-03-30T00:30:00Z",
        "2026-03-31T00:30:00Z",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("30 25 * * *",), 'CRON: "25" is not valid as hour'),
        (("@dayly",), 'did you mean "@daily"?'),
        (("* * * * *", "--time-zone", "Europe/Pariss"), "--time-zone:"),
        (("gone.yaml",), 'There is no file "gone.yaml"'),
        (("* * * * *", "--from", "tomorrow"), '"tomorrow" is no moment'),
        (("* * * * *", "--count", "0"), "--count"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, tuple) else "",
)
def test_what_cannot_be_shown_is_said_and_gives_2(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    done = cli("schedule", "preview", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_manifest_without_a_schedule_and_one_that_is_wrong_are_said(cli: Cli) -> None:
    path = cli.write("endpoint.yaml", PIPELINE, deployment(endpoint={"path": "p"}))
    assert "no Deployment with a schedule" in cli("schedule", "preview", path).err
    path = cli.write("wrong.yaml", PIPELINE, deployment(schedule={"cron": "a b c d e"}))
    done = cli("schedule", "preview", path)
    assert done.code == 2
    assert "spec.schedule.cron" in done.err
    assert "its own" in cli("schedule", "preview", path, "--time-zone", "UTC").err
