"""`penstock run`: a pipeline here and now, with the same engine that a cluster has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.cli.cluster import Where, lacking, where_options
from penstock.cli.options import gateway_options, home_option

_LOCAL_ONLY = ("runner", "parallel", "source", "home", "new")


@click.command("run")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE|NAME=@FILE",
    help="One input; may be repeated. For a file also NAME=URL, or NAME=PATH of the data store.",
)
@click.option(
    "--output", "-o", type=click.Choice(["text", "json", "yaml"]), default="text", help="How to print the result."
)
@click.option("--pipeline", metavar="NAME", help="Which pipeline, where the files have several.")
@click.option("--name", metavar="NAME", help="Name of the execution; made from the pipeline's by default.")
@click.option(
    "--runner",
    type=click.Choice(["process", "docker", "podman"]),
    default="process",
    help="Run steps as processes of this machine, or in containers.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 1_000), metavar="N", help="Attempts at once; the number of CPUs by default."
)
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder whose files processes find in their working directory; the folder of the first FILE by default.",
)
@home_option
@click.option("--new", is_flag=True, help="Start afresh even if an interrupted execution could go on.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.option("--cluster", is_flag=True, help="Run it on a Kubernetes cluster, and wait for its end there.")
@gateway_options
@where_options
def command(where: Where, cluster: bool, gateway: str | None, token: str | None, **options: Any) -> int:
    """Run the pipeline or the execution in FILE… and wait for its end.

    Values are read by the declared type of their input: text as it is, other types as JSON. For an input of type file,
    @FILE and URL are copied into the data store, and PATH is an object that is there. Ctrl-C cancels the execution, and
    its `finally` steps still run; a second Ctrl-C leaves at once. If penstock itself was ended in the middle, the same
    command goes on where it was, and no finished step runs again.

    With --cluster the pipeline of FILE… is applied to a cluster and a new execution is made there. Ctrl-C cancels it; a
    second Ctrl-C leaves it to the cluster.
    """
    context = click.get_current_context()
    if cluster:
        given = [
            name for name in _LOCAL_ONLY if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        ]
        if given:
            raise click.UsageError(f"--{given[0]} is for runs on this machine; leave it out, or --cluster.")
        if (code := lacking()) is not None:
            return code
        from penstock.cli import cluster_run  # noqa: PLC0415

        return cluster_run.run(where, gateway=gateway, token=token, **options)
    for name in ("gateway", "token"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is for runs on a cluster; add --cluster.")
    if where != Where():
        raise click.UsageError(
            "--kubeconfig, --context, --namespace and --as say which cluster is meant and for whom; add --cluster."
        )
    import asyncio  # noqa: PLC0415 - 50 ms that --help need not pay

    from penstock.cli import local_run  # noqa: PLC0415

    request = local_run.prepare(**options)
    return asyncio.run(local_run.run(request))
