"""`penstock gc`: removes old executions of this machine, and files that nobody needs any more.

On a cluster the operator does that; there it only says what would go.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Refused, Where, lacking, where_options
from penstock.cli.main import OK, complain, emit
from penstock.cli.options import gateway_options, home_option

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
@click.option("--cluster", is_flag=True, help="Say what the operator of a cluster would remove; with --dry-run.")
@home_option
@gateway_options
@where_options
def command(
    where: Where,
    dry_run: bool,
    keep: int,
    days: float,
    cache_days: float,
    cluster: bool,
    home: Path,
    gateway: str | None,
    token: str | None,
) -> int:
    """Remove old executions of this machine with their logs and files.

    An execution goes if it has finished, is not among the newest --keep of its pipeline and is older than --days. Files
    stay that an execution that stays has, or a cached output. The data store is never touched; `penstock data rm` is
    for that. If it is killed, the next one goes on.

    On a cluster the operator does this by itself: executions go when their time to live is over, and their files with
    them. There, --cluster --dry-run says what of a namespace its next sweep would remove.
    """
    given = _given()
    if cluster:
        wrong = "without --dry-run" if not dry_run else next((f"with --{name}" for name in _LOCAL if name in given), "")
        if wrong:
            raise click.UsageError(
                f"--cluster does not go {wrong}: there the operator removes what is of no use, and executions go when "
                "their time to live (ttlSecondsAfterFinished) is over; ask what would go with --cluster --dry-run."
            )
        return _of_cluster(where, gateway, token, cache_days)
    if given & {"gateway", "token"} or where != Where():
        raise click.UsageError(
            "--gateway, --token, --kubeconfig, --context, --namespace and --as say which cluster is meant and who we "
            "are there; add --cluster."
        )
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


_LOCAL = ("keep", "days", "home")


def _given() -> set[str]:
    """The options that are on the command line."""
    context = click.get_current_context()
    line = click.core.ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) is line}


def _of_cluster(where: Where, gateway: str | None, token: str | None, cache_days: float) -> int:
    if (code := lacking()) is not None:
        return code
    from penstock.cli.gateway_client import find_gateway  # noqa: PLC0415

    try:
        _print_unused(find_gateway(where, gateway, token).unused(cache_days * 86_400))
    except Refused as error:
        complain(str(error))
        return error.code
    return OK


def _print_unused(found: dict[str, Any]) -> None:
    for key in found["keys"]:
        emit(key)
    if (more := found["objects"] + found["cache_entries"] - len(found["keys"])) > 0:
        emit(f"… and {more:,} more", err=True)
    told = [f"{_many(found['objects'], 'object')}, {found['bytes']:,} bytes"]
    told += [_many(found["cache_entries"], "cache entry", "cache entries")] if found["cache_entries"] else []
    told += [_many(found["uploads"], "unfinished upload")] if found["uploads"] else []
    emit(f"{', '.join(told)} would go", err=True)


def _many(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


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
