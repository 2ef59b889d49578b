"""What `penstock run` does: choose what is run, run it in a local session, show it, print the result."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from penstock.api.base import Metadata, PipelineRef
from penstock.api.execution import Execution, ExecutionInput, ExecutionSpec
from penstock.api.manifest import Document
from penstock.api.pipeline import PipelineSpec
from penstock.api.problems import InvalidManifest, structural_problems
from penstock.cli.choose import one_pipeline
from penstock.cli.inputs import parse
from penstock.cli.main import CANCELLED, ERROR, FAILED, OK, complain, emit
from penstock.cli.manifests import read_all
from penstock.cli.result import print_failures, print_result
from penstock.cli.view import Lines, Live, Quiet, View
from penstock.engine.compile import compile_pipeline
from penstock.engine.types import File, Limits
from penstock.engine.wiring import InvalidInputs, execution_inputs
from penstock.local.session import LocalSession, Settings
from penstock.local.sources import MAX_BYTES, MAX_FILES, scan

UNCHANGED, CHANGED = "unchanged", "changed"
EXIT = {"Succeeded": OK, "Failed": FAILED, "Error": ERROR, "Cancelled": CANCELLED}


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a command line asks for.

    Attributes:
        documents: all that the files hold.
        execution: what is to be run; inputs that are files on this machine are in `files`.
        pipeline: name and spec of its pipeline; the name is empty where the execution holds the pipeline itself.
        files: files and folders of this machine that are inputs, by name.
        source: the folder that steps see.
        settings: of the session.
        fresh: never go on with an interrupted execution.
        quiet: show no progress.
        output: `text`, `json` or `yaml`.
        stored: whether the pipeline is on a cluster, and need not be brought there.
    """

    documents: Sequence[Document]
    execution: Execution
    pipeline: tuple[str, PipelineSpec]
    files: dict[str, Path]
    source: Path
    settings: Settings
    fresh: bool
    quiet: bool
    output: str
    stored: bool = False


def read(files: Sequence[str]) -> list[Document]:
    """The documents of all files.

    Raises:
        InvalidManifest: they are not right.
    """
    documents = read_all(files)
    errors = [problem for document in documents for problem in document.problems if problem.severity == "error"]
    if errors:
        raise InvalidManifest(errors)
    return documents


def prepare(
    *,
    files: Sequence[str],
    documents: Sequence[Document] | None = None,
    stored: tuple[str, PipelineSpec] | None = None,
    inputs: Sequence[str],
    output: str,
    pipeline: str | None,
    name: str | None,
    runner: str,
    parallel: int | None,
    source: Path | None,
    home: Path,
    new: bool,
    quiet: bool,
) -> RunRequest:
    """Everything that can be found wrong before anything is stored or started.

    The arguments are those of `penstock run`, and `documents`: what the files hold, if they were read already; and
    `stored`: name and spec of the Execution's pipeline, if a cluster has it and the files need not.

    Raises:
        InvalidManifest: the manifests are not right.
        click.UsageError: the options are not right.
    """
    documents = read(files) if documents is None else documents
    execution, chosen = _choose(documents, pipeline, stored)
    spec = chosen[1]
    compile_pipeline(spec)
    given = parse(spec.inputs, inputs)
    execution = _with_inputs(execution, given.values, given.objects)
    if name is not None:
        execution = execution.model_copy(update={"metadata": _named(execution.metadata, name)})
    if execution.spec.suspend:
        raise click.UsageError(
            "spec.suspend is true, so nothing would be started here; take it out or set it to false."
        )
    _check_inputs(spec, execution, {*given.files, *given.urls})
    return RunRequest(
        documents=documents,
        execution=execution,
        pipeline=chosen,
        files=given.files | _fetched(given.urls),
        source=source or _folder_of(files[0]),
        settings=Settings(home=home, runner=runner, parallel=parallel),
        fresh=new,
        quiet=quiet,
        output=output,
        stored=stored is not None,
    )


def _choose(
    documents: Sequence[Document], wanted: str | None, stored: tuple[str, PipelineSpec] | None
) -> tuple[Execution, tuple[str, PipelineSpec]]:
    """The execution that is meant, or one made for the pipeline that is meant, and the pipeline."""
    executions = [document.model for document in documents if isinstance(document.model, Execution)]
    if len(executions) > 1:
        names = ", ".join(each.metadata.name or each.metadata.generate_name or "?" for each in executions)
        raise click.UsageError(f"There are several Executions ({names}); give a file that has one.")
    if not executions or wanted is not None:
        name, spec = one_pipeline(documents, wanted)
        prefix = f"{name[:50].rstrip('-.')}-"
        made = Execution(metadata=Metadata(generate_name=prefix), spec=ExecutionSpec(pipeline=PipelineRef(name=name)))
        return made, (name, spec)
    execution = executions[0]
    if execution.spec.pipeline_spec is not None:
        return execution, ("", execution.spec.pipeline_spec)
    reference = execution.spec.pipeline
    if reference is None:
        raise click.UsageError("The Execution names no pipeline.")
    if stored is not None:
        return execution, stored
    if reference.revision is not None:
        raise click.UsageError(
            "spec.pipeline.revision: a local run takes the pipeline as it is in the files; take it out, or add "
            "--cluster."
        )
    return execution, one_pipeline(documents, reference.name)


def _fetched(urls: dict[str, str]) -> dict[str, Path]:
    """What URLs lead to, in files that are there until the command ends."""
    if not urls:
        return {}
    from penstock.cli.fetched import fetch  # noqa: PLC0415

    folder = click.get_current_context().with_resource(tempfile.TemporaryDirectory(prefix="penstock-"))
    return {name: fetch(name, url, Path(folder) / name) for name, url in urls.items()}


def _with_inputs(execution: Execution, values: dict[str, Any], objects: dict[str, str]) -> Execution:
    """The execution with inputs of the command line, which win over those of the manifest."""
    kept = [given for given in execution.spec.inputs if given.name not in values and given.name not in objects]
    added = [ExecutionInput(name=name, value=value) for name, value in values.items()]
    added += [ExecutionInput(name=name, object=path) for name, path in objects.items()]
    if not added:
        return execution
    return execution.model_copy(update={"spec": execution.spec.model_copy(update={"inputs": kept + added})})


def with_objects(execution: Execution, objects: dict[str, str]) -> Execution:
    """The execution with objects of the data store as inputs, by name."""
    return _with_inputs(execution, {}, objects)


def _named(metadata: Metadata, name: str) -> Metadata:
    """Metadata with another name.

    Raises:
        click.UsageError: it is not a name for an object.
    """
    given = {**metadata.model_dump(by_alias=True, exclude_unset=True), "name": name}
    given.pop("generateName", None)
    try:
        return Metadata.model_validate(given)
    except ValidationError as error:
        found = structural_problems(error.errors(include_url=False, include_input=False), Metadata, given, {})
        raise click.UsageError("\n".join(f'--name "{name}": {problem.message}.' for problem in found)) from None


def _check_inputs(spec: PipelineSpec, execution: Execution, files: set[str]) -> None:
    """Tell about missing, unknown and wrongly typed inputs before anything is stored."""
    stand_in = File("", "", 0)
    given: dict[str, Any] = {
        item.name: stand_in if item.object is not None else item.value for item in execution.spec.inputs
    }
    given |= dict.fromkeys(files, stand_in)
    try:
        execution_inputs(list(spec.inputs), given, Limits())
    except InvalidInputs as error:
        lines = "\n".join(f"{problem}." for problem in error.problems)
        raise click.UsageError(f"{lines}\nGive inputs with --input NAME=VALUE or --input NAME=@FILE.") from None


def _folder_of(path: str) -> Path:
    here = Path(path)
    return here if here.is_dir() else (Path.cwd() if path == "-" else here.parent)


async def run(request: RunRequest) -> int:
    """Run it, show it, print the result; returns the exit code."""
    shown: list[View] = [Quiet()]
    told: set[str] = set()

    def on_trouble(_: str, message: str) -> None:
        if message not in told:  # it is tried again and again: say it once
            told.add(message)
            shown[0].tell(f"trouble, trying again: {message}")

    session = LocalSession(
        request.settings, on_pass=lambda _, state, tasks: shown[0].changed(state, tasks), on_trouble=on_trouble
    )
    try:
        uid, resumed = await _take_up(session, request, shown)
        found = session.store.get(uid)
        shown[0] = _view(request, session, uid, found["metadata"]["name"])
        if resumed:
            shown[0].tell(f"going on with {found['metadata']['name']}, which was interrupted (--new starts afresh)")
        if resumed == CHANGED:
            shown[0].tell("the files beside the manifest have changed since; it keeps those that it began with")
        try:
            found = await _run_until_signalled(session, uid, shown[0])
        finally:
            shown[0].close()
    finally:
        await session.close()
    print_result(found, request.output, session.objects)
    if request.output == "text":
        print_failures(found, lambda attempt: session.log_path(uid, attempt))
    return EXIT[found["status"]["phase"]]


async def _take_up(session: LocalSession, request: RunRequest, shown: list[View]) -> tuple[str, str]:
    """The uid of what is run, and for an interrupted execution whether the files beside the manifest have changed."""
    name, spec = request.pipeline
    revision = session.revision(name, spec) if name else None
    execution = with_objects(
        request.execution, {given: session.objects.add_input(path) for given, path in request.files.items()}
    )
    source = scan(request.source, session.home.root)
    if source is None:
        complain(
            f"{request.source} has more than {MAX_FILES:,} files or {MAX_BYTES >> 20} MiB, so steps do not "
            "find its files in their working directory; name a smaller folder with --source"
        )
    while not request.fresh and (uid := await session.interrupted(execution, revision=revision)):
        found = session.store.get(uid)
        if not found["spec"].get("cancel"):
            loaded = await session.store.load(uid)
            same = loaded is None or loaded.code == ("" if source is None else source.digest)
            return uid, UNCHANGED if same else CHANGED
        view = shown[0] = _view(request, session, uid, found["metadata"]["name"])
        view.tell(f"{found['metadata']['name']} was cancelled, but did not come to its end: that comes first")
        try:
            await _run_until_signalled(session, uid, view, patience=1)
        finally:
            view.close()
    return session.submit(execution, revision=revision, source=source), ""


def _view(request: RunRequest, session: LocalSession, uid: str, name: str) -> View:
    if request.quiet:
        return Quiet()
    if sys.stderr is not None and sys.stderr.isatty():
        return Live(name, lambda attempt: session.log_path(uid, attempt))
    emit(f"execution {name}", err=True)
    return Lines()


async def _run_until_signalled(session: LocalSession, uid: str, view: View, *, patience: int = 2) -> dict[str, Any]:
    """Run; a signal cancels the execution, one that tries our patience (the second) ends what runs and leaves."""
    task = asyncio.ensure_future(session.run(uid))
    count = 0

    def on_signal() -> None:
        nonlocal count
        count += 1
        if count < patience:
            session.cancel(uid)
            view.tell("cancelling; `finally` steps still run, a second Ctrl-C leaves at once")
        else:
            session.attempts.kill_all()
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        if count < patience:
            raise
        raise click.Abort from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
