"""`penstock get`: pipelines, deployments and executions of a cluster, as a table or as objects."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Where, cleaned, fetch, kind_of, on_cluster, reference, targets, where_options
from penstock.cli.main import OK, emit
from penstock.kube.resources import EXECUTIONS, Resource

if TYPE_CHECKING:
    from penstock.cli.cluster import Cluster


@click.command("get")
@click.argument("words", nargs=-1, metavar="[KIND [NAME]…]")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "wide", "json", "yaml", "name"]),
    default="table",
    help="How to print them.",
)
@click.option("--selector", "-l", default="", metavar="LABELS", help="Only those with these labels: app=x,tier!=y.")
@click.option("--all-namespaces", "-A", is_flag=True, help="Of all namespaces.")
@where_options
def command(where: Where, words: tuple[str, ...], output: str, selector: str, all_namespaces: bool) -> int:
    """List the objects of a kind, or those that are named.

    KIND is pipelines (pipe), deployments (pdep) or executions (exec), which is what is listed if none is given. Several
    kinds can be named as KIND/NAME.
    """
    wanted = targets(words) if len(words) > 1 or "/" in "".join(words) else []
    if wanted and (selector or all_namespaces):
        raise click.UsageError("Objects that are named need neither --selector nor --all-namespaces.")

    async def work(cluster: Cluster) -> int:
        if wanted:
            found = [(resource, await fetch(cluster, resource, name)) for resource, name in wanted]
            _print(found, output, single=len(found) == 1)
            return OK
        resource = _kind(words)
        listing = await cluster.client.list(
            resource,
            namespace=None if all_namespaces else cluster.namespace,
            labels=selector,
            keep=lambda body: cleaned(dict(body), resource),
        )
        found = [(resource, body) for body in sorted(listing.items, key=_order(resource))]
        if not found and output in {"table", "wide"}:
            place = "the cluster" if all_namespaces else f'namespace "{cluster.namespace}"'
            emit(f"no {resource.plural} in {place}", err=True)
            return OK
        _print(found, output, namespaces=all_namespaces)
        return OK

    if not wanted:
        _kind(words)  # wrong words are told before a cluster is asked
    return on_cluster(where, work)


def _kind(words: Sequence[str]) -> Resource:
    return kind_of(words[0]) if words else EXECUTIONS


def _order(resource: Resource) -> Any:
    """Executions by time, the newest last and so next to the prompt; all else by name."""

    def key(body: Mapping[str, Any]) -> tuple[str, str, str]:
        meta = body["metadata"]
        when = meta.get("creationTimestamp", "") if resource is EXECUTIONS else ""
        return when, meta.get("namespace", ""), meta["name"]

    return key


def _print(
    found: Sequence[tuple[Resource, dict[str, Any]]], output: str, *, single: bool = False, namespaces: bool = False
) -> None:
    if output == "name":
        for resource, body in found:
            emit(reference(resource, body["metadata"]["name"]))
    elif output in {"json", "yaml"}:
        bodies = [body for _, body in found]
        shown = bodies[0] if single else {"apiVersion": "v1", "kind": "List", "items": bodies}
        print_object(shown, output)
    else:
        from penstock.cli.columns import object_table  # noqa: PLC0415

        kinds = dict.fromkeys(resource.kind for resource, _ in found)
        for number, kind in enumerate(kinds):
            bodies = [body for resource, body in found if resource.kind == kind]
            lines = object_table(kind, bodies, time.time(), wide=output == "wide", namespaces=namespaces)
            emit("\n".join(["", *lines] if number else lines))


def print_object(shown: Mapping[str, Any], output: str) -> None:
    """Print an object as JSON or YAML."""
    if output == "json":
        emit(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    import yaml  # noqa: PLC0415 - only for this

    emit(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)
