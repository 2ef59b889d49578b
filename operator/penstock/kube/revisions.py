"""Pipelines of an API server and their revisions: each change of a Pipeline becomes an immutable ControllerRevision.

Revisions have no owner: they must outlive their pipeline for as long as an execution runs one. `prune` removes those
that are over the limit, or whose pipeline is gone, and that nobody uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from penstock.api.labels import DIGEST, PIPELINE, REVISION_PREFIX
from penstock.api.pipeline import PipelineSpec
from penstock.api.problems import Problem
from penstock.api.rules import pipeline_problems
from penstock.controller.conditions import pipeline_status
from penstock.controller.ports import Clock
from penstock.engine.compile import check_pipeline
from penstock.kube.client import Client
from penstock.kube.errors import AlreadyExists, ApiError, NotFound, port_error
from penstock.kube.resources import CONTROLLER_REVISIONS, PIPELINES, ObjectId


class NotReady(Exception):  # noqa: N818 - a state, not a fault
    """A pipeline cannot be run (yet); the message says why.

    Attributes:
        broken: whether somebody has to change something first.
    """

    def __init__(self, message: str, *, broken: bool = False) -> None:
        super().__init__(message)
        self.broken = broken


class Reading(NotReady):
    """A pipeline was changed, and `reconcile` has not read it yet."""


@dataclass(slots=True)
class _Pipeline:
    """A pipeline as it was last seen, and its revisions.

    Attributes:
        uid: of its object.
        generation: generation of its spec; 0: it was not seen, or is gone.
        spec: as it is stored.
        ready: the generation for which `current` or `broken` holds.
        current: number of the revision that is its spec.
        broken: why it cannot run.
        numbers: digest of each revision by its number.
        conditions: those of its stored status.
        waiting: executions to look at when it changes.
    """

    uid: str = ""
    generation: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    ready: int = 0
    current: int = 0
    broken: str = ""
    numbers: dict[int, str] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)


class Revisions:
    """All pipelines that are looked after.

    Args:
        client: the REST client.
        clock: the time.
        mark: called with the uid of an execution that should be looked at.
        keep: how many revisions of each pipeline are kept besides those in use.
        on_told: called when it was written into a pipeline whether it can run, with what is wrong or nothing.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        mark: Callable[[str], None],
        keep: int = 10,
        on_told: Callable[[ObjectId, str], None] | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._mark = mark
        self._keep = keep
        self._on_told = on_told
        self._pipelines: dict[tuple[str, str], _Pipeline] = {}
        self._specs: dict[tuple[str, str], PipelineSpec] = {}
        self._waiting: dict[str, set[str]] = {}

    # What is seen

    def observe(self, body: Mapping[str, Any], *, deleted: bool = False) -> bool:
        """Take note of a pipeline that was listed or watched; whether `reconcile` has something to do."""
        meta = body["metadata"]
        known = self._pipelines.setdefault((meta["namespace"], meta["name"]), _Pipeline())
        if deleted:
            known.generation, known.spec, known.ready = 0, {}, 0
            return False
        known.uid, known.status = meta["uid"], body.get("status") or {}
        if meta.get("generation", 1) == known.generation:
            return False
        known.generation, known.spec = meta.get("generation", 1), body["spec"]
        return True

    def observe_revision(self, body: Mapping[str, Any]) -> None:
        """Take note of a revision that was listed."""
        meta = body["metadata"]
        labels = meta.get("labels", {})
        if PIPELINE in labels and DIGEST in labels:
            known = self._pipelines.setdefault((meta["namespace"], labels[PIPELINE]), _Pipeline())
            known.numbers[body["revision"]] = labels[DIGEST]

    def wake_on_change(self, namespace: str, key: str) -> None:
        """Look at an execution when a pipeline of its namespace changes."""
        self._waiting.setdefault(namespace, set()).add(key)

    # Pipelines

    async def reconcile(self, namespace: str, name: str) -> None:
        """Make a revision of a pipeline's spec if it has none, and say in its status whether it can run.

        Raises:
            Conflict, Transient: try again.
        """
        known = self._pipelines.get((namespace, name))
        if known is None or known.generation in {0, known.ready}:
            return
        generation, raw = known.generation, known.spec
        broken = _why_broken(raw)
        try:
            number = known.current if broken else await self._revision_of(namespace, name, known, raw)
            told = await self._write(namespace, name, known, generation, number, broken)
        except NotFound:
            return  # gone meanwhile
        except ApiError as error:
            raise port_error(error) from error
        if told and self._on_told is not None:
            self._on_told(ObjectId(PIPELINES, namespace, name, known.uid), broken)
        known.ready, known.current, known.broken = generation, number, broken
        for key in self._waiting.pop(namespace, set()):
            self._mark(key)

    async def _revision_of(self, namespace: str, name: str, known: _Pipeline, raw: Mapping[str, Any]) -> int:
        """The number of the revision that has this spec: the one that is there, or a new one."""
        digest = _digest(raw)
        for number, other in known.numbers.items():
            if other == digest:
                return number
        number = max(known.numbers, default=0) + 1
        body = {
            "metadata": {
                "name": object_name(f"{name}-{number}"),
                "namespace": namespace,
                "labels": {PIPELINE: name, DIGEST: digest},
            },
            "revision": number,
            "data": raw,
        }
        try:
            await self._client.create(CONTROLLER_REVISIONS, body)
        except AlreadyExists:  # made by an operator that did not live to tell
            there = await self._client.get(CONTROLLER_REVISIONS, object_name(f"{name}-{number}"), namespace)
            self.observe_revision(there)
            if known.numbers.get(number) != digest:
                return await self._revision_of(namespace, name, known, raw)
        known.numbers[number] = digest
        return number

    async def _write(
        self, namespace: str, name: str, known: _Pipeline, generation: int, number: int, broken: str
    ) -> bool:
        """Write the status, unless it says so already. Conditions follow kstatus: Ready, and Stalled if broken."""
        status_now = pipeline_status(
            known.status, broken=broken, revision=number, generation=generation, now=self._clock.now()
        )
        if all(known.status.get(key) == value for key, value in status_now.items()):
            return False
        body = await self._client.patch_status(PIPELINES, name, namespace, status_now)
        known.status = body.get("status") or {}
        return True

    # Executions

    async def resolve(self, namespace: str, name: str, number: int | None, pinned: str) -> tuple[str, PipelineSpec]:
        """The revision that an execution runs: the one it is pinned to, the one it asks for, or the newest.

        Returns:
            Its name, for example `iris-3`, and its spec.

        Raises:
            NotReady: there is none that can be run (yet).
            Conflict, Transient: try again.
        """
        revision = pinned or self._wanted(namespace, name, number)
        spec = self._specs.get((namespace, revision)) or self._as_seen(namespace, name, revision)
        if spec is None:
            try:
                found = await self._client.get(CONTROLLER_REVISIONS, object_name(revision), namespace)
            except NotFound:
                raise NotReady(f'revision "{revision}" is not there any more') from None
            except ApiError as error:
                raise port_error(error) from error
            spec = PipelineSpec.model_validate(found["data"])
            self._specs[namespace, revision] = spec
        return revision, spec

    def _as_seen(self, namespace: str, name: str, revision: str) -> PipelineSpec | None:
        """The spec of the pipeline, if that is the revision: there is no need to read it."""
        known = self._pipelines.get((namespace, name))
        if known is None or known.ready != known.generation or known.broken or revision != f"{name}-{known.current}":
            return None
        spec = self._specs[namespace, revision] = PipelineSpec.model_validate(known.spec)
        return spec

    def _wanted(self, namespace: str, name: str, number: int | None) -> str:
        known = self._pipelines.get((namespace, name))
        if known is None or known.generation == 0:
            raise NotReady(f'there is no pipeline "{name}" in namespace "{namespace}" yet')
        if known.ready != known.generation:
            raise Reading(f'pipeline "{name}" was changed and is being read')
        if known.broken:
            raise NotReady(f'pipeline "{name}" is not Ready: {known.broken}', broken=True)
        if number is not None and number not in known.numbers:
            there = ", ".join(str(each) for each in sorted(known.numbers))
            raise NotReady(f'pipeline "{name}" has no revision {number}; there are: {there}', broken=True)
        return f"{name}-{known.current if number is None else number}"

    async def prune(self, in_use: Collection[tuple[str, str]]) -> None:
        """Delete revisions over the limit, and all of pipelines that are gone, except those in use.

        Args:
            in_use: namespaces and names of revisions that unfinished executions run.

        Raises:
            Conflict, Transient: try again.
        """
        for (namespace, name), known in list(self._pipelines.items()):
            old = sorted(known.numbers)[: -self._keep] if known.generation else sorted(known.numbers)
            for number in old:
                revision = f"{name}-{number}"
                if (namespace, revision) in in_use or (known.generation and number == known.current):
                    continue
                try:
                    await self._client.delete(CONTROLLER_REVISIONS, object_name(revision), namespace)
                except ApiError as error:
                    raise port_error(error) from error
                del known.numbers[number]
                self._specs.pop((namespace, revision), None)
            if not known.generation and not known.numbers:
                del self._pipelines[namespace, name]


def object_name(revision: str) -> str:
    """Name of the ControllerRevision of a revision; others make ControllerRevisions in the same namespace."""
    return f"{REVISION_PREFIX}{revision}"


def _digest(raw: Mapping[str, Any]) -> str:
    """Digest of a spec, as long as a label's value may be."""
    text = json.dumps(raw, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:63]


def _why_broken(raw: Mapping[str, Any]) -> str:
    """What is wrong with a pipeline, a sentence for each problem; empty if it can run."""
    try:
        spec = PipelineSpec.model_validate(raw)
    except ValidationError as error:
        return "; ".join(f"spec.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:20])
    problems = [problem for problem in pipeline_problems(spec) if problem.severity == "error"]
    problems += check_pipeline(spec)[1]
    problems += _without_image(spec)
    return "; ".join(problem.sentence() for problem in problems[:20])


def _without_image(spec: PipelineSpec) -> list[Problem]:
    """A laptop can do without an image, a cluster cannot."""
    image = spec.defaults.image if spec.defaults is not None else None
    return [
        Problem(("spec", section, index), f'step "{step.name}" has no image; set `image` here or in spec.defaults')
        for section, steps in (("steps", spec.steps), ("finally", spec.finally_))
        for index, step in enumerate(steps)
        if image is None and step.image is None and step.image_from is None
    ]
