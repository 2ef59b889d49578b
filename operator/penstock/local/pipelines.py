"""Pipelines of the registry: their revisions, whether they can run, and what executions wait for that cannot begin.

The same words as the operator's (`kube.revisions`), so that people and programs need not know where they are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from penstock.api.base import MAX_MESSAGE, PipelineRef
from penstock.api.execution import ExecutionPhase
from penstock.api.labels import DIGEST, PIPELINE, REVISION_PREFIX
from penstock.api.pipeline import PipelineSpec
from penstock.controller.conditions import pipeline_status
from penstock.controller.ports import Clock
from penstock.engine.compile import check_pipeline
from penstock.engine.reasons import Reason
from penstock.engine.status import conditions, to_timestamp
from penstock.local.apikinds import PIPELINES, uid_of
from penstock.local.database import Database
from penstock.local.home import NotFound
from penstock.local.registry import Draft, Registry
from penstock.local.selectors import Selector
from penstock.local.store import Revision, Store
from penstock.local.views import stamp
from penstock.step.values import JsonObject

SOURCE_ANNOTATION: Final = "penstock.dev/source"
"""On a pipeline, or an execution with a pipeline of its own: the folder whose files its steps find around them."""
_KEPT: Final = 64


class NotReady(Exception):  # noqa: N818 - a state
    """A pipeline cannot be run (yet); the message says why."""


class Pipelines:
    """The pipelines of one home.

    Args:
        database: the home's database.
        registry: where they are.
        store: where their revisions are.
        clock: the time.
    """

    def __init__(self, database: Database, registry: Registry, store: Store, clock: Clock) -> None:
        self._db = database
        self._registry = registry
        self._store = store
        self._clock = clock
        self._revisions: OrderedDict[tuple[str, int], Revision] = OrderedDict()

    def read(self, name: str, spec: PipelineSpec, draft: Draft, generation: int) -> Draft:
        """A pipeline that is to be stored, with the status that says whether it can run; its revision is made.

        Args:
            name: its name.
            spec: its spec.
            draft: the object; its status is that of before.
            generation: the generation that it will have.
        """
        before: Mapping[str, Any] = draft.status or {}
        broken = "; ".join(problem.sentence() for problem in check_pipeline(spec)[1][:20])
        number = int(before.get("revision", 0)) if broken else self._store.add_revision(name, spec).number
        now = self._clock.now()
        status = pipeline_status(before, broken=broken, revision=number, generation=generation, now=now)
        return replace(draft, status=status)

    def resolve(self, namespace: str, reference: PipelineRef) -> tuple[Revision, str]:
        """The revision that an execution runs, and the folder of the pipeline's files; empty: it has none.

        Raises:
            NotReady: there is none that can be run (yet).
        """
        name, number = reference.name, reference.revision
        row = self._registry.brief(PIPELINES, namespace, name)
        if row is None:
            raise NotReady(f'there is no pipeline "{name}" in namespace "{namespace}" yet')
        status: Mapping[str, Any] = json.loads(row["status"] or "{}")
        ready: Mapping[str, Any] = next((each for each in status.get("conditions", ()) if each["type"] == "Ready"), {})
        if ready.get("status") != "True":
            raise NotReady(f'pipeline "{name}" is not Ready: {ready.get("message", "")}')
        found = self.revision(name, number or int(status["revision"]))
        if found is None:
            rows = self._db.rows("SELECT number FROM revisions WHERE pipeline = ? ORDER BY number", name)
            there = ", ".join(str(each["number"]) for each in rows)
            raise NotReady(f'pipeline "{name}" has no revision {number}; there are: {there}')
        annotations = json.loads(row["metadata"]).get("annotations") or {}
        return found, annotations.get(SOURCE_ANNOTATION, "")

    def revisions(self, namespace: str, labels: Selector, name: str = "") -> Iterator[JsonObject]:
        """Revisions as ControllerRevisions, with the names and labels that the operator gives them.

        Args:
            namespace: where they are shown.
            labels: only those with these labels.
            name: only the one with this name.
        """
        pipeline, number = labels.exactly(PIPELINE), None
        if name:
            whole, _, last = name.removeprefix(REVISION_PREFIX).rpartition("-")
            if not name.startswith(REVISION_PREFIX) or not last.isdecimal():
                return
            pipeline, number = whole, int(last)
        query = "SELECT * FROM revisions WHERE coalesce(?, pipeline) = pipeline AND coalesce(?, number) = number"
        for row in self._db.rows(f"{query} ORDER BY pipeline, number", pipeline, number):
            shown = f"{REVISION_PREFIX}{row['pipeline']}-{row['number']}"
            marks = {PIPELINE: row["pipeline"], DIGEST: row["digest"][:63]}
            if not labels.matches(marks):
                continue
            metadata = {
                "name": shown,
                "namespace": namespace,
                "uid": uid_of(f"{shown}/{row['digest']}"),
                "resourceVersion": "1",
                "creationTimestamp": stamp(row["created_at"]),
                "labels": marks,
            }
            spec = json.loads(row["spec"])
            head = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata}
            yield {**head, "revision": row["number"], "data": spec}

    def revision(self, name: str, number: int) -> Revision | None:
        """A revision; None if there is none. They never change, so some are kept."""
        key = (name, number)
        if key not in self._revisions:
            try:
                self._revisions[key] = self._store.revision(name, number)
            except NotFound:
                return None
            while len(self._revisions) > _KEPT:
                self._revisions.popitem(last=False)
        self._revisions.move_to_end(key)
        return self._revisions[key]


def standing(message: str, created: float) -> JsonObject:
    """The status of an execution that waits for its pipeline."""
    said, reason = message[:MAX_MESSAGE], str(Reason.PENDING)
    shown = conditions(ExecutionPhase.PENDING, reason, said, to_timestamp(created))
    return {"phase": str(ExecutionPhase.PENDING), "reason": reason, "message": said, "conditions": shown}
