"""`penstock history`: executions that there are and were, as the gateway of a cluster or of this machine has them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from penstock.cli.cluster import Where, lacking, where_options
from penstock.cli.main import OK, emit
from penstock.cli.options import gateway_options

_LIMIT = 100


@click.command("history")
@click.option("--pipeline", multiple=True, metavar="NAME", help="Only those of this pipeline; may be repeated.")
@click.option("--deployment", multiple=True, metavar="NAME", help="Only those of this deployment; may be repeated.")
@click.option("--failed", is_flag=True, help="Only those that have ended as Failed or Error.")
@click.option("--phase", multiple=True, metavar="PHASE", help="Only those in this phase; may be repeated.")
@click.option(
    "--trigger",
    multiple=True,
    metavar="schedule|endpoint|manual|run",
    help="Only those that this has started; may be repeated.",
)
@click.option("--created-by", multiple=True, metavar="USER", help="Only those that this user has made.")
@click.option("--selector", "-l", metavar="LABELS", help="Only those with these labels: app=x,tier!=y.")
@click.option("--since", metavar="WHEN", help="Only those that were made since then: 2d, 3h, or 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="WHEN", help="Only those that were made before.")
@click.option(
    "--limit", type=click.IntRange(1), default=_LIMIT, show_default=True, help="The newest so many of them at most."
)
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How to print them.",
)
@gateway_options
@where_options
def command(
    where: Where,
    gateway: str | None,
    token: str | None,
    pipeline: Sequence[str],
    deployment: Sequence[str],
    failed: bool,
    phase: Sequence[str],
    trigger: Sequence[str],
    created_by: Sequence[str],
    selector: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    output: str,
) -> int:
    """List executions that there are and were, the newest last.

    It asks the gateway, which has those that were removed too if a history is kept (docs/history.md); without one it
    gives those that are there, as `penstock get executions` does.
    """
    if failed and phase:
        raise click.UsageError("--failed stands for two phases: leave out --phase, or --failed.")
    if (code := lacking()) is not None:
        return code
    from penstock.cli.gateway_client import find_gateway  # noqa: PLC0415

    place = find_gateway(where, gateway, token)
    query: dict[str, str | Sequence[str]] = {
        "pipeline": pipeline,
        "deployment": deployment,
        "phase": ("Failed", "Error") if failed else phase,
        "trigger": trigger,
        "created_by": created_by,
    }
    once = {"labels": selector, "created_since": since, "created_until": until}
    query |= {name: value for name, value in once.items() if value is not None}
    found, more = place.executions(query, limit)
    found.reverse()
    if output != "table":
        from penstock.cli.get import print_object  # noqa: PLC0415

        print_object({"apiVersion": "v1", "kind": "List", "items": found}, output)
    elif found:
        from penstock.cli.columns import history_table  # noqa: PLC0415

        emit("\n".join(history_table(found, time.time())))
    else:
        emit(f'no such executions in namespace "{place.namespace}"', err=True)
    if more:
        emit(f"there are more than these {limit}: --limit says how many to show", err=True)
    return OK
