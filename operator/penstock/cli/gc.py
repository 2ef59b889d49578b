"""`penstock gc`: removes old executions of this machine, and files that nobody needs any more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.main import OK, emit
from penstock.cli.options import home_option

if TYPE_CHECKING:
    from penstock.local.gc import Collected


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Remove nothing, only say what would go.")
@click.option(
    "--keep",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    metavar="N",
    help="Keep the newest N finished executions of each pipeline.",
)
@click.option(
    "--days",
    type=click.FloatRange(0),
    default=7,
    show_default=True,
    metavar="N",
    help="Keep executions that were created in the last N days.",
)
@click.option(
    "--cache-days",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    metavar="N",
    help="Keep cached outputs that were made in the last N days.",
)
@home_option
def command(dry_run: bool, keep: int, days: float, cache_days: float, home: Path) -> int:
    """Remove old executions of this machine with their logs and files.

    An execution goes if it has finished, is not among the newest --keep of its pipeline and is older than --days. Files
    stay that an execution that stays has, or a cached output. The data store is never touched; `penstock data rm` is
    for that. If it is killed, the next one goes on. On a cluster the operator does this by itself.
    """
    import time  # noqa: PLC0415

    from penstock.local.database import Database  # noqa: PLC0415
    from penstock.local.gc import Collector, Rules  # noqa: PLC0415
    from penstock.local.home import Home  # noqa: PLC0415

    if not home.is_dir():
        raise click.UsageError(f"There is no folder {home}; name the one of your runs with --home.")
    found_home = Home(home)
    database = Database(found_home)
    try:
        rules = Rules(keep=keep, days=days, cache_days=cache_days)
        _print(Collector(found_home, database).collect(rules, now=time.time(), dry_run=dry_run), time.time(), dry_run)
    finally:
        database.close()
    return OK


def _print(found: Collected, now: float, dry_run: bool) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    from penstock.cli.columns import NONE, age, table  # noqa: PLC0415

    rows = [["NAME", "PHASE", "AGE", "BYTES"]]
    for each in found.executions:
        created = datetime.fromtimestamp(each.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows.append(
            [
                each.name or f"left of {each.uid}",
                each.phase or NONE,
                age(created, now) if each.created_at else NONE,
                f"{each.bytes:,}",
            ]
        )
    if len(rows) > 1:
        emit("\n".join(table(rows)))
    for name in found.busy:
        emit(f"{name} is in use and stays", err=True)
    count = len(found.executions)
    more = f", {found.cache_entries:,} cached outputs" if found.cache_entries else ""
    verb = "would go" if dry_run else "removed"
    emit(f"{count:,} execution{'' if count == 1 else 's'}{more}, {found.bytes:,} bytes {verb}", err=True)
