"""Executions, revisions and the cache in SQLite: the controller's `Executions` and `CacheStore` on one machine.

A save writes the rows that changed and no others, so that its cost does not grow with the number of steps. Attempts are
`journal`'s; nothing here runs anything.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.api.base import MAX_MESSAGE
from penstock.api.execution import Execution, ExecutionOutput, ExecutionPhase, ExecutionSpec, StepPhase
from penstock.api.pipeline import PipelineSpec
from penstock.controller.ports import Clock, Conflict, Loaded
from penstock.engine.state import ExecutionState
from penstock.engine.status import (
    dump_values,
    head_status,
    item_status,
    load_values,
    step_status,
    to_timestamp,
)
from penstock.engine.types import Identity, Plan, Request, TaskId, Value
from penstock.local.database import Database
from penstock.local.home import Ids, NameTaken, NotFound
from penstock.local.objects import Objects
from penstock.local.views import Views, body_of, compact
from penstock.step.values import JsonObject

NAMESPACE = "default"
"""The namespace of everything that does not name one."""

_NAME_TRIES = 20


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable state of a pipeline.

    Attributes:
        pipeline: name of the pipeline.
        number: counts from 1.
        spec: what it is.
    """

    pipeline: str
    number: int
    spec: PipelineSpec

    @property
    def name(self) -> str:
        """Its name, for example `iris-3`."""
        return f"{self.pipeline}-{self.number}"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What attempts need to know of their execution.

    Attributes:
        name: name of the execution.
        namespace: its namespace.
        pipeline: name of the pipeline, or of the execution where the pipeline is written in place.
        source: the folder whose entries steps find in their working directory; None where there is none.
    """

    name: str
    namespace: str
    pipeline: str
    source: Path | None


class Store:
    """Executions and pipeline revisions of one home; implements the controller's `Executions`.

    Args:
        database: the home's database.
        objects: the home's objects, to find files that executions name as inputs.
        clock: the time.
        ids: where uids and generated names come from.

    Attributes:
        views: executions as people see them.
    """

    def __init__(self, database: Database, objects: Objects, *, clock: Clock, ids: Ids) -> None:
        self._db = database
        self._objects = objects
        self._clock = clock
        self._ids = ids
        self.views = Views(database)
        self._positions: dict[str, dict[str, int]] = {}
        self._fixed: dict[str, Request] = {}

    # Revisions

    def add_revision(self, pipeline: str, spec: PipelineSpec) -> Revision:
        """The revision of a pipeline with this spec: the one that is there, or a new one with the next number."""
        text = compact(spec.manifest(), sort=True)
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
        find = "SELECT number FROM revisions WHERE pipeline = ? AND digest = ?"
        row = self._db.row(find, pipeline, digest)
        if row is not None:
            return Revision(pipeline, row["number"], spec)
        with self._db.transaction() as connection:
            row = connection.execute(find, (pipeline, digest)).fetchone()
            if row is None:
                row = connection.execute(
                    "INSERT INTO revisions SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ? FROM revisions"
                    " WHERE pipeline = ? RETURNING number",
                    (pipeline, digest, text, self._clock.now(), pipeline),
                ).fetchone()
        return Revision(pipeline, row["number"], spec)

    def revision(self, pipeline: str, number: int | None = None) -> Revision:
        """A revision of a pipeline, the newest where no number is given.

        Raises:
            NotFound: there is none.
        """
        wanted = "ORDER BY number DESC LIMIT 1" if number is None else "AND number = ?"
        parameters = (pipeline,) if number is None else (pipeline, number)
        row = self._db.row(f"SELECT number, spec FROM revisions WHERE pipeline = ? {wanted}", *parameters)  # noqa: S608
        if row is None:
            which = "no pipeline" if number is None else f"no revision {number} of a pipeline"
            raise NotFound(f"spec.pipeline: there is {which} {pipeline!r} here; run or apply its manifest first")
        return Revision(pipeline, row["number"], PipelineSpec.model_validate_json(row["spec"]))

    # Executions as their owners see them

    def new_uid(self) -> str:
        """A uid for an execution that is about to be created; its `Ownership` can be taken before it is visible."""
        return self._ids.uid()

    def create(
        self,
        execution: Execution,
        *,
        revision: Revision | None,
        uid: str,
        source: Path | None = None,
        code: str = "",
        waits_for: str = "",
    ) -> str:
        """Store a new execution.

        Args:
            execution: the manifest; its `metadata` gives `name` or `generateName`.
            revision: what it runs; None where its spec holds the pipeline itself (`pipelineSpec`).
            uid: from `new_uid`.
            source: the folder that its steps see.
            code: digest of what is in that folder, for cache fingerprints.
            waits_for: name of a pipeline that cannot be run yet: it is not begun until `pin` was called.

        Returns:
            Its name.

        Raises:
            NameTaken: there is an execution with that name.
            NotFound: an input names an object that is not in the data store.
            BadObjectPath: an input names an object outside of it.
        """
        spec, meta = execution.spec, execution.metadata
        inputs = dump_values(self._inputs(spec))
        row = {
            "uid": uid,
            "namespace": meta.namespace or NAMESPACE,
            "metadata": compact(meta.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)),
            "spec": compact(spec.manifest()),
            "pipeline": waits_for if revision is None else revision.pipeline,
            "revision": None if revision is None else revision.number,
            "inputs": compact(inputs),
            "source": None if source is None else str(source.absolute()),
            "code": code,
            "cancel": spec.cancel,
            "suspend": spec.suspend,
            "created_at": self._clock.now(),
            "owner": owner_of(meta.model_dump(by_alias=True, exclude_unset=True)),
            "waiting": bool(waits_for),
        }
        for _ in range(_NAME_TRIES):
            name = meta.name or f"{meta.generate_name or 'execution-'}{self._ids.suffix()}"
            try:
                self._insert(name, row)
            except sqlite3.IntegrityError as error:
                if meta.name is not None:
                    raise NameTaken(
                        f"metadata.name: there is an execution {name!r} already; choose another name, or use "
                        "generateName to have one made"
                    ) from error
                continue
            return name
        raise NameTaken(f"metadata.generateName: no free name was found for {meta.generate_name!r}; choose another one")

    def _insert(self, name: str, row: Mapping[str, object]) -> None:
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT INTO executions (uid, name, namespace, metadata, spec, pipeline, revision, inputs, source,"
                " code, cancel, suspend, generation, head, phase, finished, created_at, owner, waiting) VALUES (:uid,"
                " :name, :namespace, :metadata, :spec, :pipeline, :revision, :inputs, :source, :code, :cancel,"
                " :suspend, 1, '', :phase, 0, :created_at, :owner, :waiting)",
                {**row, "name": name, "phase": ExecutionPhase.PENDING.value},
            )

    def _inputs(self, spec: ExecutionSpec) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for entry in spec.inputs:
            if entry.object is None:
                found[entry.name] = entry.value
            else:
                found[entry.name] = self._objects.data(entry.object, place=f"spec.inputs[{entry.name}].object")
        return found

    def find(self, name: str, namespace: str = NAMESPACE) -> str:
        """The uid of the execution with this name.

        Raises:
            NotFound: there is none.
        """
        row = self._db.row("SELECT uid FROM executions WHERE namespace = ? AND name = ?", namespace, name)
        if row is None:
            raise NotFound(f"there is no execution {name!r} in namespace {namespace!r}")
        return str(row["uid"])

    def unfinished(self) -> Sequence[str]:
        """The uids of all executions that can run and are not over, oldest first."""
        query = "SELECT uid FROM executions WHERE NOT finished AND NOT waiting ORDER BY created_at"
        return [row["uid"] for row in self._db.rows(query)]

    def get(self, uid: str) -> dict[str, Any]:
        """The execution as `kubectl get -o json` would show it.

        Raises:
            NotFound: there is none.
        """
        text = self.views.text(uid)
        if text is None:
            raise NotFound(f"there is no execution with uid {uid!r}")
        return body_of(text)

    def set_cancel(self, uid: str) -> None:
        """Ask that the execution be cancelled; this cannot be taken back.

        Raises:
            NotFound: there is no such execution.
        """
        self._set_flag(uid, "cancel", value=True)

    def set_suspend(self, uid: str, *, suspend: bool) -> None:
        """Suspend the execution, or let it go on.

        Raises:
            NotFound: there is no such execution.
        """
        self._set_flag(uid, "suspend", value=suspend)

    def _set_flag(self, uid: str, flag: str, *, value: bool) -> None:
        if not self._db.row("SELECT 1 FROM executions WHERE uid = ?", uid):
            raise NotFound(f"there is no execution with uid {uid!r}")
        change = f"UPDATE executions SET {flag} = ?, generation = generation + 1 WHERE uid = ? AND {flag} <> ?"  # noqa: S608
        self._db.execute(change, (value, uid, value))

    def change(
        self, uid: str, *, metadata: JsonObject, spec: JsonObject, flags: tuple[bool, bool], managers: JsonObject
    ) -> None:
        """Write what is asked of an execution, and its metadata.

        Args:
            uid: the execution.
            metadata: what its owners say of it: labels, annotations, references to owners.
            spec: its spec as it is to be shown.
            flags: whether it is cancelled and suspended.
            managers: who has applied which fields.

        Raises:
            NotFound: there is no such execution.
        """
        changed = self._db.execute(
            "UPDATE executions SET generation = generation + (spec <> :spec OR cancel <> :cancel OR suspend <> :suspend"
            "), metadata = :metadata, spec = :spec, cancel = :cancel, suspend = :suspend, owner = :owner,"
            " managers = :managers WHERE uid = :uid",
            {
                "uid": uid,
                "metadata": compact(metadata),
                "spec": compact(spec),
                "cancel": flags[0],
                "suspend": flags[1],
                "owner": owner_of(metadata),
                "managers": compact(managers),
            },
        )
        if not changed:
            raise NotFound(f"there is no execution with uid {uid!r}")

    def note_managers(self, uid: str, managers: JsonObject) -> None:
        """Write who has applied which fields of an execution; that alone does not make it another one."""
        self._db.execute("UPDATE executions SET managers = ? WHERE uid = ?", (compact(managers), uid))

    def delete(self, uid: str) -> bool:
        """Forget an execution and all that is recorded of it; gives whether there was one. Its folders stay."""
        self._positions.pop(uid, None)
        self._fixed.pop(uid, None)
        return self._db.execute("DELETE FROM executions WHERE uid = ?", (uid,)) == 1

    def owned_by(self, owner: str) -> list[str]:
        """The uids of the executions that go with another object, by its uid."""
        return [row["uid"] for row in self._db.rows("SELECT uid FROM executions WHERE owner = ?", owner)]

    # Executions that wait for their pipeline

    def waiting(self, pipeline: str | None = None) -> list[str]:
        """The uids of executions that wait for a pipeline, or for any; oldest first."""
        query = "SELECT uid FROM executions WHERE waiting AND coalesce(?, pipeline) = pipeline ORDER BY created_at"
        return [row["uid"] for row in self._db.rows(query, pipeline)]

    def say(self, uid: str, head: JsonObject) -> None:
        """Write the status of an execution that waits."""
        text = compact(head)
        self._db.execute("UPDATE executions SET head = ? WHERE uid = ? AND waiting AND head <> ?", (text, uid, text))

    def pin(self, uid: str, revision: Revision, *, source: Path | None, code: str) -> bool:
        """Give an execution the revision that it has waited for; whether it still waited. See `create`."""
        path = None if source is None else str(source.absolute())
        change = "UPDATE executions SET waiting = 0, head = '', revision = ?, source = ?, code = ?"
        return self._db.execute(f"{change} WHERE uid = ? AND waiting", (revision.number, path, code, uid)) == 1

    def run_info(self, uid: str) -> RunInfo:
        """What attempts need to know of their execution.

        Raises:
            NotFound: there is no such execution.
        """
        row = self._db.row("SELECT name, namespace, pipeline, source FROM executions WHERE uid = ?", uid)
        if row is None:
            raise NotFound(f"there is no execution with uid {uid!r}")
        source = None if row["source"] is None else Path(row["source"])
        return RunInfo(row["name"], row["namespace"], row["pipeline"] or row["name"], source)

    # The controller's `Executions`

    async def load(self, key: str) -> Loaded | None:
        """See `controller.ports.Executions`."""
        row = self._db.row("SELECT * FROM executions WHERE uid = ?", key)
        if row is None:
            return None
        if row["revision"] is None:
            inline = ExecutionSpec.model_validate_json(row["spec"]).pipeline_spec
            if inline is None:
                raise NotFound(f"spec.pipelineSpec: execution {row['name']!r} holds no pipeline")
            pipeline, revision = inline, ""
        else:
            found = self.revision(row["pipeline"], row["revision"])
            pipeline, revision = found.spec, found.name
        names = [step.name for step in (*pipeline.steps, *pipeline.finally_)]
        self._positions[key] = {name: position for position, name in enumerate(names)}
        spec = json.loads(row["spec"])
        outputs = tuple(ExecutionOutput.model_validate(each) for each in spec.get("outputs", ()))
        self._fixed[key] = Request(
            inputs=load_values(json.loads(row["inputs"])), timeout_seconds=spec.get("timeoutSeconds"), outputs=outputs
        )
        return Loaded(
            identity=Identity(row["name"], key, row["namespace"]),
            pipeline=pipeline,
            revision=revision,
            request=self._request(key, row["cancel"], row["suspend"]),
            status=self._status(key, row["head"]),
            code=row["code"],
        )

    async def request(self, key: str) -> Request | None:
        """See `controller.ports.Executions`."""
        if key not in self._fixed:
            loaded = await self.load(key)
            return None if loaded is None else loaded.request
        row = self._db.row("SELECT cancel, suspend FROM executions WHERE uid = ?", key)
        return None if row is None else self._request(key, row["cancel"], row["suspend"])

    def _request(self, uid: str, cancel: int, suspend: int) -> Request:
        return replace(self._fixed[uid], cancel=bool(cancel), suspend=bool(suspend))

    async def save(self, key: str, plan: Plan, state: ExecutionState) -> None:
        """See `controller.ports.Executions`."""
        if not plan.changed:
            return
        steps, items, over = self._changes(plan, state)
        positions = self._positions[key]
        try:
            with self._db.transaction() as connection:
                if plan.head is not None:
                    _write_head(connection, key, head_status(state))
                else:  # the object is another one all the same
                    connection.execute("UPDATE executions SET head = head WHERE uid = ?", (key,))
                connection.executemany(
                    "INSERT INTO steps VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET status = excluded.status",
                    [(key, positions[name], name, compact(entry)) for name, entry in steps.items()],
                )
                connection.executemany("DELETE FROM items WHERE uid = ? AND step = ?", [(key, name) for name in over])
                connection.executemany(
                    "INSERT INTO items VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET status = excluded.status",
                    [(key, name, entry["index"], compact(entry)) for name, entry in items],
                )
        except sqlite3.IntegrityError as error:
            raise Conflict(f"execution {key} is not there any more") from error
        if plan.finished:
            self._positions.pop(key, None)
            self._fixed.pop(key, None)

    async def refuse(self, key: str, reason: str, message: str) -> None:
        """See `controller.ports.Executions`."""
        now = to_timestamp(self._clock.now())
        head: JsonObject = {
            "phase": ExecutionPhase.FAILED.value,
            "reason": reason,
            "message": message[:MAX_MESSAGE],
            "startedAt": now,
            "finishedAt": now,
        }
        head["conditions"] = [
            {
                "type": "Complete",
                "status": "True",
                "reason": reason,
                "message": head["message"],
                "lastTransitionTime": now,
            }
        ]
        with self._db.transaction() as connection:
            _write_head(connection, key, head)

    @staticmethod
    def _changes(
        plan: Plan, state: ExecutionState
    ) -> tuple[dict[str, JsonObject], list[tuple[str, JsonObject]], list[str]]:
        """What to write: steps by name, items with their step, and fan-outs that are over.

        Of a fan-out that is over only the items that did not succeed stay in its status, so its rows are replaced.
        """
        names = dict.fromkeys([*plan.steps, *(task.step for task in plan.tasks if task.index < 0)])
        steps = {name: step_status(state, name, items=False) for name in names}
        over = [
            name
            for name, entry in steps.items()
            if "itemCount" in entry and StepPhase(str(entry.get("phase", StepPhase.PENDING))).finished
        ]
        items: list[tuple[str, JsonObject]] = [
            (task.step, item_status(state, TaskId(*task)))
            for task in plan.tasks
            if task.index >= 0 and task.step not in over
        ]
        for name in over:
            left = step_status(state, name, items=True).get("items", [])
            items += [(name, entry) for entry in left if isinstance(entry, dict)] if isinstance(left, list) else []
        return steps, items, over

    def _status(self, uid: str, head: str) -> JsonObject:
        """The whole status: head, steps in the order of the pipeline, items in theirs."""
        if not head:
            return {}
        status: JsonObject = json.loads(head)
        steps = [json.loads(text) for text in self.views.steps([uid]).get(uid, ())]
        return {**status, "steps": steps} if steps else status


def _write_head(connection: sqlite3.Connection, uid: str, head: JsonObject) -> None:
    phase = ExecutionPhase(str(head.get("phase", ExecutionPhase.PENDING)))
    changed = connection.execute(
        "UPDATE executions SET head = ?, phase = ?, finished = ? WHERE uid = ?",
        (compact(head), phase.value, phase.finished, uid),
    ).rowcount
    if not changed:
        raise Conflict(f"execution {uid} is not there any more")


def owner_of(metadata: Mapping[str, Any]) -> str:
    """Uid of the object that another one goes with; empty if there is none."""
    references = metadata.get("ownerReferences") or ()
    return next((str(each.get("uid", "")) for each in references if isinstance(each, Mapping)), "")
