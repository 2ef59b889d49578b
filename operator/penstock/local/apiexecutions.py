"""Executions as an API server takes them: created, changed as far as that goes, deleted.

What is asked for is written here; that it is run is the runner's.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from penstock.api.execution import Execution
from penstock.api.problems import Problem
from penstock.api.structural import listed
from penstock.controller.ports import Clock
from penstock.local.answers import ApiRequest, exists, invalid, not_allowed
from penstock.local.apikinds import EXECUTIONS, Place
from penstock.local.apiwrites import Wanted, changed, said
from penstock.local.home import BadObjectPath, Home, LocalError, NameTaken, NotFound
from penstock.local.patching import dump_managers, load_managers, same
from penstock.local.pipelines import SOURCE_ANNOTATION, NotReady, Pipelines, standing
from penstock.local.registry import Registry
from penstock.local.sources import MAX_BYTES, MAX_FILES, Tree, copy, scan
from penstock.local.store import Revision, Store
from penstock.local.views import body_of, compact, metadata_of
from penstock.step.values import JsonObject

_CHANGEABLE: Final = ("suspend", "cancel", "ttlSecondsAfterFinished")


class Runner(Protocol):
    """Runs executions."""

    def submit(self, execution: Execution, *, revision: Revision | None, source: Tree | None) -> str:
        """Store a new execution; gives its uid.

        Raises:
            LocalError: its name is taken, an input names an object that is not there, or there is no space.
        """

    def start(self, uid: str) -> None:
        """Begin to run an execution that was submitted, or one that is stored and has waited for its pipeline."""

    def changed(self, uid: str) -> None:
        """What is asked of an execution was written: look at it."""

    def delete(self, uid: str) -> None:
        """The record of an execution is gone: end what runs of it, and remove its folders."""


@dataclass(frozen=True, slots=True)
class Made:
    """An execution that was made.

    Attributes:
        uid: its uid.
        warnings: what people should know.
    """

    uid: str
    warnings: list[str] = field(default_factory=list)


class ApiExecutions:
    """The executions of one home.

    Args:
        home: the home.
        registry: shows them.
        store: where they are.
        pipelines: what they run.
        runner: runs them.
        clock: the time.
    """

    def __init__(
        self,
        *,
        home: Home,
        registry: Registry,
        store: Store,
        pipelines: Pipelines,
        runner: Runner,
        clock: Clock,
    ) -> None:
        self._home = home
        self._registry = registry
        self._store = store
        self._pipelines = pipelines
        self._runner = runner
        self._clock = clock

    async def create(self, place: Place, wanted: Wanted) -> Made:
        """Store an execution and have it run; one whose pipeline cannot be run yet waits for it.

        Raises:
            Refusal: there is one with its name, or an input is not there.
            LocalError: it cannot be stored.
        """
        execution = _execution(wanted, place)
        if wanted.name and self._registry.row(EXECUTIONS, place.namespace or "", wanted.name) is not None:
            raise exists(EXECUTIONS.about(wanted.name))
        reference, revision, waits_for, folder = execution.spec.pipeline, None, "", ""
        try:
            if reference is not None:
                revision, folder = self._pipelines.resolve(place.namespace or "", reference)
        except NotReady as error:
            assert reference is not None  # noqa: S101 - for mypy
            waits_for, why = reference.name, str(error)
        annotations = execution.metadata.annotations or {}
        try:
            if waits_for:
                uid = self._store.new_uid()
                self._store.create(execution, revision=None, uid=uid, waits_for=waits_for)
                self._store.say(uid, standing(why, self._clock.now()))
                return Made(uid)
            source, warnings = await self._source(folder or annotations.get(SOURCE_ANNOTATION, ""))
            uid = self._runner.submit(execution, revision=revision, source=source)
        except NameTaken:
            raise exists(EXECUTIONS.about(wanted.name or "")) from None
        except (NotFound, BadObjectPath, _NoSource) as error:
            where, _, what = str(error).partition(": ")
            about = EXECUTIONS.about(wanted.name or execution.metadata.generate_name or "")
            raise invalid(about, "Execution", [Problem((), what, path=where)]) from None
        self._runner.start(uid)
        return Made(uid, warnings)

    async def _source(self, folder: str) -> tuple[Tree | None, list[str]]:
        if not folder:
            return None, []
        if not Path(folder).is_absolute():
            raise _NoSource(f"metadata.annotations[{SOURCE_ANNOTATION}]: {folder!r} is not the whole path of a folder")
        try:
            tree = await asyncio.to_thread(scan, Path(folder), self._home.root)
        except OSError as error:
            raise _NoSource(
                f"metadata.annotations[{SOURCE_ANNOTATION}]: {folder} cannot be read ({error.strerror}); apply the "
                "pipeline again from where its files are"
            ) from None
        if tree is not None:
            return tree, []
        return None, [
            f"{folder} has more than {MAX_FILES:,} files or {MAX_BYTES >> 20} MiB, so steps do not find its files in "
            f"their working directory; name a smaller folder with the annotation {SOURCE_ANNOTATION}"
        ]

    def note_managers(self, uid: str, wanted: Wanted) -> None:
        """Keep who has applied which fields of a new execution."""
        self._store.note_managers(uid, dump_managers(wanted.draft.managers))

    def change(self, request: ApiRequest, place: Place, row: sqlite3.Row, *, dry_run: bool) -> JsonObject | None:
        """Change an execution as a PUT or PATCH asks.

        Returns:
            For a dry run, what it would be.

        Raises:
            Refusal: it cannot be done.
        """
        if place.sub:
            raise not_allowed("the status of an execution is written by what runs it, and by nobody else")
        before = body_of(self._store.views.texts([row], steps=False)[0])
        wanted = changed(request, place, before, load_managers(json.loads(row["managers"])))
        spec: JsonObject = wanted.draft.content.get("spec", {})
        if problems := _forbidden(before["spec"], spec):
            raise invalid(EXECUTIONS.about(place.name), "Execution", problems)
        if dry_run:
            return {**before, "metadata": {**metadata_of(row), **wanted.draft.metadata}, "spec": spec}
        unchanged = same([spec, wanted.draft.metadata], [before["spec"], said(json.loads(row["metadata"]))])
        managers = dump_managers(wanted.draft.managers)
        if unchanged:
            if compact(managers) != row["managers"]:
                self._store.note_managers(row["uid"], managers)
            return None
        flags = bool(spec.get("cancel")), bool(spec.get("suspend"))
        self._store.change(row["uid"], metadata=wanted.draft.metadata, spec=spec, flags=flags, managers=managers)
        self._runner.changed(row["uid"])
        return None

    def delete(self, uid: str) -> None:
        """Delete an execution; what runs of it ends."""
        if self._store.delete(uid):
            self._runner.delete(uid)

    async def take_up(self, pipeline: str | None = None) -> None:
        """Begin the executions that have waited for a pipeline and need not any more; say of the others why."""
        for uid in self._store.waiting(pipeline):
            row = self._registry.by_uid(EXECUTIONS, uid)
            if row is None:
                continue
            execution = Execution.model_validate_json(self._store.views.texts([row], steps=False)[0])
            assert execution.spec.pipeline is not None  # noqa: S101 - it waits for one
            try:
                revision, folder = self._pipelines.resolve(row["namespace"], execution.spec.pipeline)
                annotations = execution.metadata.annotations or {}
                source, _ = await self._source(folder or annotations.get(SOURCE_ANNOTATION, ""))
                copied = None if source is None else self._home.source(uid)
                if source is not None and copied is not None:
                    await asyncio.to_thread(copy, source, copied)
            except (NotReady, _NoSource) as error:
                self._store.say(uid, standing(str(error), row["created_at"]))
                continue
            except OSError as error:
                why = f"{error.filename}: cannot be copied for the steps ({error.strerror})"
                self._store.say(uid, standing(why, row["created_at"]))
                continue
            self._home.run(uid).mkdir(exist_ok=True)
            if self._store.pin(uid, revision, source=copied, code="" if source is None else source.digest):
                self._runner.start(uid)


class _NoSource(LocalError):  # noqa: N818 - a state
    """The folder of a pipeline's files cannot be read."""


def _execution(wanted: Wanted, place: Place) -> Execution:
    assert isinstance(wanted.model, Execution)  # noqa: S101 - the kind's model
    metadata = wanted.model.metadata.model_copy(update={"namespace": place.namespace})
    return wanted.model.model_copy(update={"metadata": metadata})


def _forbidden(before: JsonObject, after: JsonObject) -> list[Problem]:
    """Changes of a spec that cannot be made, as the definition of the kind says it."""
    found = []
    for name in dict.fromkeys((*before, *after)):
        if name not in _CHANGEABLE and not same(before.get(name), after.get(name)):
            only = f"only {listed(_CHANGEABLE, 'and')} can: make a new object instead"
            found.append(Problem(("spec", name), f"`{name}` cannot be changed, {only}"))
    if before.get("cancel") and not after.get("cancel"):
        found.append(Problem(("spec", "cancel"), "`cancel` cannot be taken back once it is true"))
    return found
