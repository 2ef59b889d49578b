"""What `penstock run --cluster` does: apply the pipeline, create the execution, show it, print the result."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from penstock.api.base import PipelineRef
from penstock.api.execution import Execution
from penstock.api.manifest import Document
from penstock.api.pipeline import Pipeline, PipelineSpec
from penstock.cli import apply, columns, local_run
from penstock.cli.cluster import Cluster, Refused, Where, cleaned, fetch, on_cluster
from penstock.cli.cluster_follow import versions
from penstock.cli.local_run import EXIT, RunRequest
from penstock.cli.logs import tail_of
from penstock.cli.main import ERROR, complain, emit
from penstock.cli.result import print_result
from penstock.cli.view import Lines, Live, Quiet, View, title
from penstock.engine.compile import CompiledPipeline, compile_pipeline
from penstock.engine.state import ExecutionState, TaskState
from penstock.engine.status import load
from penstock.engine.types import File, Identity, TaskId
from penstock.kube.errors import AlreadyExists, ApiError, NotFound
from penstock.kube.names import PIPELINE
from penstock.kube.resources import CONTROLLER_REVISIONS, EXECUTIONS, PIPELINES
from penstock.kube.revisions import object_name
from penstock.local.objects import Objects

READY_SECONDS = 10.0
"""How long the operator is given to read a pipeline or take up an execution before people are told that it has not."""
LOG_LINES = 15
FAILURES = 5
"""Failed steps and items whose logs are shown, and how many lines of each."""


class _Stored(Objects):
    """Files of a cluster's object storage are shown by their keys: they are not on this machine."""

    def __init__(self) -> None:
        """Nothing is kept on this machine."""

    def path(self, file: File) -> Path:
        """The key."""
        return Path(file.key)


def run(where: Where, *, files: Sequence[str], gateway: str | None, token: str | None, **options: Any) -> int:
    """Run on a cluster; gives the exit code. `gateway` and `token` are for files, `options` those of a local run."""
    documents = local_run.read(files)
    wanted = None if options["pipeline"] else _elsewhere(documents)
    request = None if wanted else local_run.prepare(documents=documents, files=files, **options)

    def uploaded(cluster: Cluster, request: RunRequest) -> RunRequest:
        return _uploaded(cluster, request, where, gateway, token)

    async def work(cluster: Cluster) -> int:
        if request is not None:
            return await _run(cluster, uploaded(cluster, request))
        assert wanted is not None  # noqa: S101  # or there is a request
        stored = wanted[0].name, await stored_pipeline(cluster, *wanted)
        try:
            prepared = local_run.prepare(documents=documents, stored=stored, files=files, **options)
            return await _run(cluster, uploaded(cluster, prepared))
        except click.UsageError as error:
            raise Refused(error.message) from None

    return on_cluster(where, work)


def _uploaded(
    cluster: Cluster, request: RunRequest, where: Where, gateway: str | None, token: str | None
) -> RunRequest:
    """What is run, with the files of this machine in the data store of its namespace: `uploads/<sha256>/<name>`.

    Raises:
        Refused: they cannot be brought there.
    """
    if not request.files:
        return request
    from penstock.cli.gateway_client import find_gateway  # noqa: PLC0415
    from penstock.cli.stores import ClusterData  # noqa: PLC0415

    namespace = _body(cluster, request)["metadata"]["namespace"]
    data = ClusterData(find_gateway(where, gateway, token, namespace=namespace))
    objects = {}
    for name, path in request.files.items():
        objects[name], new = data.add_input(path)
        if not request.quiet:
            emit(f"input {name} {'uploaded' if new else 'is there already'}: {objects[name]}", err=True)
    return replace(request, execution=local_run.with_objects(request.execution, objects), files={})


def _elsewhere(documents: Sequence[Document]) -> tuple[PipelineRef, str | None] | None:
    """The pipeline and namespace of an Execution whose pipeline is on the cluster and not in the files."""
    executions = [document.model for document in documents if isinstance(document.model, Execution)]
    if len(executions) != 1 or executions[0].spec.pipeline is None:
        return None
    reference = executions[0].spec.pipeline
    if reference.revision is None and any(isinstance(document.model, Pipeline) for document in documents):
        return None
    return reference, executions[0].metadata.namespace


async def stored_pipeline(cluster: Cluster, reference: PipelineRef, namespace: str | None) -> PipelineSpec:
    """The pipeline that an Execution names, as the cluster has it: a certain revision, or as it is now."""
    place = namespace or cluster.namespace
    if reference.revision is None:
        found = (await fetch(replace(cluster, namespace=place), PIPELINES, reference.name))["spec"]
    else:
        revision = f"{reference.name}-{reference.revision}"
        try:
            found = (await cluster.client.get(CONTROLLER_REVISIONS, object_name(revision), place))["data"]
        except NotFound:
            labels = f"{PIPELINE}={reference.name}"
            listed = await cluster.client.list(
                CONTROLLER_REVISIONS, namespace=place, labels=labels, keep=lambda body: int(body["revision"])
            )
            there = ", ".join(map(str, sorted(listed.items))) or "none"
            raise Refused(
                f'spec.pipeline.revision: pipeline "{reference.name}" has no revision {reference.revision} in '
                f'namespace "{place}"; there are: {there}'
            ) from None
    try:
        return PipelineSpec.model_validate(found)
    except ValidationError:
        raise Refused(
            f'pipeline "{reference.name}" on the cluster is not one that this version of penstock understands; see '
            f"`penstock describe pipeline {reference.name}`, and use the version that the cluster has"
        ) from None


async def _run(cluster: Cluster, request: RunRequest) -> int:
    body = _body(cluster, request)
    if "pipeline" in body["spec"] and not request.stored:
        await _apply_pipeline(cluster, request, body["metadata"]["namespace"])
    try:
        made = await cluster.client.create(EXECUTIONS, body)
    except AlreadyExists:
        name = body["metadata"]["name"]
        raise Refused(
            f'there is an execution "{name}" already; give another --name, or see `penstock describe execution {name}`'
        ) from None
    compiled = compile_pipeline(request.pipeline[1])
    found = await _follow(cluster, made, compiled, request.quiet)
    found = cleaned(found, EXECUTIONS)
    print_result(found, request.output, _Stored())
    status = found["status"]
    if request.output == "text" and status["phase"] != "Succeeded":
        await _print_failures(cluster, found, _state(compiled, found))
    return EXIT.get(status["phase"], ERROR)


def _body(cluster: Cluster, request: RunRequest) -> dict[str, Any]:
    """The execution to create. A pipeline that is no object of its own is written into it."""
    given = request.execution.manifest()
    metadata = given.get("metadata") or {}
    own = metadata.get("namespace")
    if own and cluster.chosen and own != cluster.namespace:
        raise Refused(
            f'the Execution\'s metadata.namespace is "{own}", but --namespace says "{cluster.namespace}"; take one out'
        )
    spec = dict(given["spec"])
    name, pipeline = request.pipeline
    if "pipeline" in spec and not request.stored and apply.only(request.documents, "Pipeline", name) is None:
        del spec["pipeline"]
        spec["pipelineSpec"] = pipeline.manifest()
    if not metadata.get("name") and not metadata.get("generateName"):
        metadata = {**metadata, "generateName": f"{(name or 'execution')[:50].rstrip('-.')}-"}
    return {
        "apiVersion": EXECUTIONS.api_version,
        "kind": EXECUTIONS.kind,
        "metadata": {**metadata, "namespace": own or cluster.namespace},
        "spec": spec,
    }


async def _apply_pipeline(cluster: Cluster, request: RunRequest, namespace: str) -> None:
    """Apply the pipeline and wait until the operator has read it.

    Raises:
        Refused: it cannot run on this cluster, or it says to be in another namespace.
    """
    name = request.pipeline[0]
    document = apply.only(request.documents, "Pipeline", name)
    if document is None:
        raise LookupError(name)
    body = apply.body_of(cluster, document)
    if body["metadata"]["namespace"] != namespace:
        raise Refused(
            f'the Pipeline says to be in namespace "{body["metadata"]["namespace"]}" and its Execution in "{namespace}"'
            "; they must be in the same"
        )
    _, done = await apply.apply(cluster, PIPELINES, body)
    if not request.quiet:
        emit(f"pipeline {name} {done}", err=True)
    try:
        async with asyncio.timeout(READY_SECONDS), aclosing(versions(cluster, PIPELINES, name, namespace)) as seen:
            async for found in seen:
                ready = columns.condition(found, "Ready")
                if ready.get("observedGeneration") != found["metadata"].get("generation"):
                    continue
                if ready["status"] == "True":
                    return
                if ready["status"] == "False":
                    raise Refused(f'pipeline "{name}" cannot run on this cluster: {ready.get("message", "")}')
    except TimeoutError:
        complain(
            f'no operator has read the pipeline so far: is one running, and does it look after namespace "{namespace}"?'
            " The execution is created all the same, and waits for one"
        )


def _state(compiled: CompiledPipeline, body: dict[str, Any]) -> ExecutionState:
    meta = body["metadata"]
    return load(compiled, Identity(meta["name"], meta["uid"], meta["namespace"]), body.get("status") or {})


def _view(name: str, quiet: bool) -> View:
    if quiet:
        return Quiet()
    if sys.stderr is not None and sys.stderr.isatty():
        return Live(name, lambda _: Path(os.devnull))  # the logs are on the cluster
    emit(f"execution {name}", err=True)
    return Lines()


async def _follow(cluster: Cluster, made: dict[str, Any], compiled: CompiledPipeline, quiet: bool) -> dict[str, Any]:
    """Show an execution until it has finished; gives it as it is then. A signal cancels it, the second one leaves."""
    name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]
    view = _view(name, quiet)
    task = asyncio.create_task(_until_finished(cluster, made, compiled, view))
    asked: list[asyncio.Task[None]] = []

    async def cancel() -> None:
        try:
            await cluster.client.patch(EXECUTIONS, name, namespace, {"spec": {"cancel": True}})
        except ApiError as error:
            view.tell(f"it could not be cancelled: {error.message}")

    def on_signal() -> None:
        if asked:
            task.cancel()
            return
        view.tell("cancelling; `finally` steps still run, a second Ctrl-C leaves it to the cluster")
        asked.append(asyncio.ensure_future(cancel()))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        if not asked:
            raise
        view.tell(f"{name} goes on without us: penstock get execution {name} --namespace {namespace}")
        raise click.Abort from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await asyncio.gather(*asked, return_exceptions=True)
        view.close()


async def _until_finished(
    cluster: Cluster, made: dict[str, Any], compiled: CompiledPipeline, view: View
) -> dict[str, Any]:
    meta = made["metadata"]
    name, namespace = meta["name"], meta["namespace"]
    shown: dict[TaskId, TaskState] = {}
    told = ""
    reminder = asyncio.get_running_loop().call_later(
        READY_SECONDS, view.tell, f'no operator has taken it up so far; does one look after namespace "{namespace}"?'
    )
    try:
        following = versions(
            cluster, EXECUTIONS, name, namespace, on_trouble=lambda said: view.tell(f"trouble, trying again: {said}")
        )
        async with aclosing(following) as seen:
            async for body in seen:
                status = body.get("status") or {}
                if body["metadata"]["uid"] != meta["uid"]:
                    break
                if status.get("phase"):
                    reminder.cancel()
                state = _state(compiled, body)
                changed = [task for task, record in state.tasks.items() if _is_news(shown.get(task), record)]
                shown.update((task, state.tasks[task]) for task in changed)
                view.changed(state, changed)
                message = status.get("message") or ""
                if columns.finished(status.get("phase", "")):
                    return body
                if message and message != told:
                    view.tell(message)
                told = message
    finally:
        reminder.cancel()
    raise Refused(f'execution "{name}" was deleted before it had finished', ERROR)


def _is_news(before: TaskState | None, record: TaskState) -> bool:
    """Whether a record says more than the one before; items that are left out of a status when all is over do not."""
    if before is not None and before.phase is record.phase and not record.attempts:
        return before.items_finished != record.items_finished
    return before != record


async def _print_failures(cluster: Cluster, body: dict[str, Any], state: ExecutionState) -> None:
    """Show on standard error what failed steps printed last, and how to see all of it."""
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    failures = [
        (record.finished_at or 0.0, task)
        for task, record in state.tasks.items()
        if record.phase.failed and record.attempts and record.item_count is None
    ]
    for _, task in sorted(failures)[:FAILURES]:
        lines = await tail_of(cluster, body, task, LOG_LINES)
        item = f" --item {task.index}" if task.index >= 0 else ""
        how = f"penstock logs {name} {task.step}{item} --namespace {namespace}"
        emit(f"\n{title(task)}: {'its last lines; all of them: ' if lines else ''}{how}", err=True)
        for line in lines:
            emit(f"  {line}", err=True)
    if len(failures) > FAILURES:
        emit(
            f"\n{len(failures) - FAILURES} more steps or items failed; see penstock describe execution {name}", err=True
        )
