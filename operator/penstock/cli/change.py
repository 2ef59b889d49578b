"""`penstock cancel`, `suspend`, `resume`, `retry` and `delete`: small changes of what is on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Refused, Where, fetch, not_found, on_cluster, reference, targets, where_options
from penstock.cli.main import OK, emit
from penstock.kube.resources import EXECUTIONS, PIPELINES, Resource

if TYPE_CHECKING:
    from penstock.cli.cluster import Cluster

RETRY_OF = "penstock.dev/retry-of"
"""Annotation of an execution that was made by `penstock retry`: the name of the one before."""

_PREFIX = 50
"""Longest part of an old name that a new one begins with; the server adds five characters."""


def _executions(words: Sequence[str]) -> list[str]:
    """Names of executions, with or without their kind in front.

    Raises:
        click.UsageError: something else is named.
    """
    found = targets(words, EXECUTIONS)
    if other := [f"{resource.kind.lower()}/{name}" for resource, name in found if resource is not EXECUTIONS]:
        raise click.UsageError(f"{other[0]}: only an execution can be named here.")
    return [name for _, name in found]


@click.command("cancel")
@click.argument("words", nargs=-1, required=True, metavar="EXECUTION…")
@where_options
def cancel(where: Where, words: tuple[str, ...]) -> int:
    """Cancel executions: running steps are ended, and `finally` steps still run. It cannot be taken back."""
    names = _executions(words)

    async def work(cluster: Cluster) -> int:
        for name in names:
            _unfinished(await fetch(cluster, EXECUTIONS, name))
            await _change(cluster, EXECUTIONS, name, {"cancel": True})
            emit(f"{reference(EXECUTIONS, name)} is being cancelled")
        return OK

    return on_cluster(where, work)


@click.command("suspend")
@click.argument("words", nargs=-1, required=True, metavar="EXECUTION…|deployment/NAME…")
@where_options
def suspend(where: Where, words: tuple[str, ...]) -> int:
    """Start nothing new: no further step of an execution, no further execution of a deployment. What runs goes on."""
    return _set_suspended(where, words, suspended=True)


@click.command("resume")
@click.argument("words", nargs=-1, required=True, metavar="EXECUTION…|deployment/NAME…")
@where_options
def resume(where: Where, words: tuple[str, ...]) -> int:
    """Go on with what was suspended."""
    return _set_suspended(where, words, suspended=False)


def _set_suspended(where: Where, words: Sequence[str], *, suspended: bool) -> int:
    wanted = targets(words, EXECUTIONS)
    if any(resource is PIPELINES for resource, _ in wanted):
        raise click.UsageError("A pipeline does not run by itself: name an execution or a deployment.")

    async def work(cluster: Cluster) -> int:
        for resource, name in wanted:
            body = await fetch(cluster, resource, name)
            if resource is EXECUTIONS:
                _unfinished(body)
            done = "suspended" if suspended else "resumed"
            if bool(body["spec"].get("suspend")) is suspended:
                emit(f"{reference(resource, name)} {'is suspended already' if suspended else 'is not suspended'}")
                continue
            await _change(cluster, resource, name, {"suspend": suspended})
            emit(f"{reference(resource, name)} {done}")
        return OK

    return on_cluster(where, work)


@click.command("retry")
@click.argument("execution", metavar="EXECUTION")
@where_options
def retry(where: Where, execution: str) -> int:
    """Run a finished execution again from its first step, as a new execution with the same spec; prints its name.

    All steps run again, also those that have succeeded before; nothing is taken over from the first execution, which
    stays as it is. Inputs are the same. It runs the newest revision of the pipeline, unless the first execution asked
    for a certain one (spec.pipeline.revision) or holds its pipeline itself.
    """
    (name,) = _executions([execution])

    async def work(cluster: Cluster) -> int:
        from penstock.cli.columns import finished, phase  # noqa: PLC0415

        body = await fetch(cluster, EXECUTIONS, name)
        if not finished(found := phase(body)):
            raise Refused(f'execution "{name}" has not finished, it is {found}; wait for its end, or cancel it first')
        made = await cluster.client.create(EXECUTIONS, again(body))
        emit(made["metadata"]["name"])
        return OK

    return on_cluster(where, work)


def again(body: dict[str, Any]) -> dict[str, Any]:
    """A new execution with the spec of a finished one."""
    meta = body["metadata"]
    spec = {key: value for key, value in body["spec"].items() if key not in {"cancel", "suspend"}}
    prefix = meta.get("generateName") or f"{meta['name'][:_PREFIX].rstrip('-.')}-"
    return {
        "apiVersion": EXECUTIONS.api_version,
        "kind": EXECUTIONS.kind,
        "metadata": {
            "generateName": prefix,
            "namespace": meta["namespace"],
            "annotations": {RETRY_OF: meta["name"]},
        },
        "spec": spec,
    }


@click.command("delete")
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME…")
@where_options
def delete(where: Where, words: tuple[str, ...]) -> int:
    """Delete objects and what belongs to them: with an execution its Jobs and Pods, and so their logs.

    KIND is pipeline (pipe), deployment (pdep) or execution (exec); KIND/NAME works as well. A running execution ends at
    once, without its `finally` steps: cancel it first if they matter. Executions of a pipeline that is deleted go on.
    """
    wanted = targets(words)

    async def work(cluster: Cluster) -> int:
        from penstock.kube.errors import NotFound  # noqa: PLC0415

        for resource, name in wanted:
            if not await cluster.client.delete(resource, name, cluster.namespace):
                missing = NotFound("", status=404, details={"name": name})
                raise await not_found(cluster, resource, name, missing)
            emit(f"{reference(resource, name)} deleted")
        return OK

    return on_cluster(where, work)


def _unfinished(body: dict[str, Any]) -> None:
    from penstock.cli.columns import finished  # noqa: PLC0415

    phase = (body.get("status") or {}).get("phase", "")
    if finished(phase):
        raise Refused(f'execution "{body["metadata"]["name"]}" has finished already, as {phase}')


async def _change(cluster: Cluster, resource: Resource, name: str, spec: dict[str, Any]) -> None:
    await cluster.client.patch(resource, name, cluster.namespace, {"spec": spec})
