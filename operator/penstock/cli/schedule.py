"""`penstock schedule preview`: when a schedule comes, before anybody deploys it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.main import OK, emit

if TYPE_CHECKING:
    from penstock.api.deployment import Schedule


@click.group("schedule")
def command() -> None:
    """Schedules of deployments."""


@command.command("preview")
@click.argument("what", metavar="FILE|CRON")
@click.option("--count", type=click.IntRange(1, 1_000), default=10, show_default=True, help="How many times to show.")
@click.option("--time-zone", metavar="NAME", help="IANA name for a CRON, such as Europe/Paris; UTC by default.")
@click.option(
    "--from", "start", metavar="TIME", help="Begin after this, for example 2026-03-28T12:00Z; by default now."
)
def preview(what: str, count: int, time_zone: str | None, start: str | None) -> int:
    """Show when a schedule comes next: that of each Deployment in FILE, or that of a CRON such as "0 9 * * mon-fri"."""
    after = _moment(start)
    for number, (title, schedule) in enumerate(_schedules(what, time_zone)):
        emit("\n".join([*([""] if number else []), *_lines(title, schedule, after, count)]))
    return OK


def _moment(start: str | None) -> float:
    if start is None:
        return time.time()
    try:
        found = datetime.fromisoformat(start)
    except ValueError:
        raise click.UsageError(f'--from: "{start}" is no moment; write for example 2026-03-28T12:00Z.') from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _schedules(what: str, time_zone: str | None) -> Iterator[tuple[str, Schedule]]:
    from penstock.api.cron import cron_problem, time_zone_problem  # noqa: PLC0415
    from penstock.api.deployment import Deployment, Schedule  # noqa: PLC0415

    is_file = what == "-" or Path(what).exists()
    if not is_file and (" " in what.strip() or what.startswith("@")):
        zone = time_zone or "UTC"
        for name, wrong in (("CRON", cron_problem(what)), ("--time-zone", time_zone_problem(zone))):
            if wrong:
                raise click.UsageError(f"{name}: {wrong}.")
        yield "", Schedule(cron=what, time_zone=zone)
        return
    if not is_file:
        raise click.UsageError(f'There is no file "{what}", and a cron expression has five fields: "0 9 * * mon-fri".')
    if time_zone is not None:
        raise click.UsageError("--time-zone is for a cron expression: a Deployment names its own.")
    from penstock.api.problems import InvalidManifest  # noqa: PLC0415
    from penstock.cli.manifests import read_all  # noqa: PLC0415

    documents = read_all([what])
    errors = [problem for document in documents for problem in document.problems if problem.severity == "error"]
    if errors:
        raise InvalidManifest(errors)
    models = [document.model for document in documents if isinstance(document.model, Deployment)]
    found = [(model.metadata.name or "", model.spec.schedule) for model in models if model.spec.schedule is not None]
    if not found:
        raise click.UsageError(f"There is no Deployment with a schedule in {what}.")
    for name, schedule in found:
        yield name, schedule


def _lines(title: str, schedule: Schedule, after: float, count: int) -> Iterator[str]:
    from zoneinfo import ZoneInfo  # noqa: PLC0415

    from penstock.engine.cron import upcoming  # noqa: PLC0415
    from penstock.engine.sentence import sentence  # noqa: PLC0415

    yield f"{title}: {sentence(schedule)}" if title else sentence(schedule)
    zone = ZoneInfo(schedule.time_zone)
    for at in upcoming(schedule, after, count):
        local = datetime.fromtimestamp(at, zone).strftime("%a %Y-%m-%d %H:%M %Z")
        yield f"  {local:<28}  {datetime.fromtimestamp(at, UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"
