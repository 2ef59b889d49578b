"""`penstock get`: pipelines, deployments and executions of a cluster, as a table or as objects; and outputs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import (
    Where,
    check_namespace,
    cleaned,
    fetch,
    kind_of,
    on_cluster,
    reference,
    targets,
    where_options,
)
from penstock.cli.main import OK, complain, emit
from penstock.cli.options import gateway_options, home_option
from penstock.kube.resources import EXECUTIONS, Resource

if TYPE_CHECKING:
    from penstock.cli.cluster import Cluster

FORMATS = ("table", "wide", "json", "yaml", "name")


@click.command("get")
@click.argument("words", nargs=-1, metavar="[KIND [NAME]…]")
@click.option(
    "--output",
    "-o",
    metavar="table|wide|json|yaml|name|FOLDER",
    help="How to print them; table by default. For outputs, the folder that gets them.",
)
@click.option("--selector", "-l", default="", metavar="LABELS", help="Only those with these labels: app=x,tier!=y.")
@click.option("--all-namespaces", "-A", is_flag=True, help="Of all namespaces.")
@click.option("--watch", "-w", is_flag=True, help="Go on with what changes until Ctrl-C; one kind at a time.")
@click.option("--force", is_flag=True, help="Outputs: replace what is in the folder already.")
@home_option
@gateway_options
@where_options
def command(
    where: Where,
    words: tuple[str, ...],
    output: str | None,
    selector: str,
    all_namespaces: bool,
    watch: bool,
    **options: Any,
) -> int:
    """List the objects of a kind, or those that are named. Or fetch the outputs of an execution.

    KIND is pipelines (pipe), deployments (pdep) or executions (exec), which is what is listed if none is given. Several
    kinds can be named as KIND/NAME.

    `get outputs EXECUTION -o FOLDER` puts each output into FOLDER by its name: files and folders as they are, texts as
    NAME.txt, other values as NAME.json. Without -o it prints them. Outputs of this machine (--local) need no server.
    """
    if words[:1] == ("outputs",):
        if selector or all_namespaces or watch:
            raise click.UsageError("get outputs: takes neither --selector, --all-namespaces nor --watch.")
        from penstock.cli.outputs import get_outputs  # noqa: PLC0415

        return get_outputs(where, words[1:], output, **options)
    output = _format(output)
    wanted = targets(words) if len(words) > 1 or "/" in "".join(words) else []
    if wanted and (selector or all_namespaces):
        raise click.UsageError("Objects that are named need neither --selector nor --all-namespaces.")
    if watch and len(wanted) > 1:
        raise click.UsageError("--watch: name one object, or a kind.")

    async def work(cluster: Cluster) -> int:
        if wanted and not watch:
            found = [(resource, await fetch(cluster, resource, name)) for resource, name in wanted]
            _print(found, output, single=len(found) == 1)
            return OK
        resource = wanted[0][0] if wanted else _kind(words)
        if watch:
            from penstock.cli.watch import watch as watch_objects  # noqa: PLC0415

            if wanted:
                await fetch(cluster, *wanted[0])
            await watch_objects(
                cluster,
                resource,
                namespace=None if all_namespaces else cluster.namespace,
                labels=selector,
                fields=f"metadata.name={wanted[0][1]}" if wanted else "",
                show=_Rows(resource, output, all_namespaces).show,
                on_trouble=lambda said: complain(f"trouble, trying again: {said}"),
            )
        listing = await cluster.client.list(
            resource,
            namespace=None if all_namespaces else cluster.namespace,
            labels=selector,
            keep=lambda body: cleaned(dict(body), resource),
        )
        found = [(resource, body) for body in sorted(listing.items, key=_order(resource))]
        if not found and output in {"table", "wide"}:
            if not all_namespaces:
                await check_namespace(cluster)
            place = "the cluster" if all_namespaces else f'namespace "{cluster.namespace}"'
            emit(f"no {resource.plural} in {place}", err=True)
            return OK
        _print(found, output, namespaces=all_namespaces)
        return OK

    if not wanted:
        _kind(words)  # wrong words are told before a cluster is asked
    return on_cluster(where, work)


def _format(output: str | None) -> str:
    """How objects are printed.

    Raises:
        click.UsageError: there is no such way, or an option is only for outputs.
    """
    sources = click.get_current_context().get_parameter_source
    for name in ("force", "home", "gateway", "token"):
        if sources(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is for outputs: penstock get outputs EXECUTION.")
    if output is not None and output not in FORMATS:
        raise click.UsageError(f'--output "{output}": is none of {", ".join(FORMATS)}.')
    return output or "table"


class _Rows:
    """Prints objects as they change: in a table with one head, whose columns never get narrower."""

    def __init__(self, resource: Resource, output: str, namespaces: bool) -> None:
        self._resource, self._output, self._namespaces = resource, output, namespaces
        self._widths: list[int] = []

    def show(self, bodies: list[dict[str, Any]]) -> None:
        """Print these."""
        bodies = sorted(bodies, key=_order(self._resource))
        if self._output not in {"table", "wide"}:
            for body in bodies:
                if self._output == "yaml":
                    emit("---")
                _print([(self._resource, body)], self._output, single=True)
            return
        from penstock.cli.columns import object_rows, table, widths_of  # noqa: PLC0415

        first = not self._widths
        rows = object_rows(
            self._resource.kind, bodies, time.time(), wide=self._output == "wide", namespaces=self._namespaces
        )
        now = widths_of(rows)
        self._widths = now if first else [max(pair) for pair in zip(self._widths, now, strict=True)]
        for line in table(rows, widths=self._widths)[0 if first else 1 :]:
            emit(line)


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
