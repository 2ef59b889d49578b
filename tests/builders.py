"""Builders for tests: pipelines told as a story, and a driver that runs `decide` with a clock of its own.

The builder goes through real manifest dicts, models and rules; the driver through `decide` and, if asked, through the
stored status after every pass. Nothing of the engine is replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from penstock.api.execution import ExecutionStatus
from penstock.api.pipeline import Pipeline, PipelineSpec
from penstock.api.problems import Problem
from penstock.api.rules import pipeline_problems
from penstock.engine import status
from penstock.engine.compile import CompiledPipeline, check_pipeline, compile_pipeline
from penstock.engine.decide import Snapshot, decide
from penstock.engine.state import ExecutionState
from penstock.engine.types import (
    AttemptId,
    AttemptPhase,
    CacheEntry,
    File,
    Identity,
    Limits,
    Observation,
    Plan,
    Request,
    StartAttempt,
    StopAttempt,
    TaskId,
    Value,
)

NOON = 1_700_000_000.0
"""When tests begin, seconds since the epoch. Add only multiples of 1/8: they are exact in milliseconds."""


@dataclass(frozen=True)
class Binding:
    """What a step's input is bound to, where more than an expression has to be said."""

    fields: Mapping[str, Any]


def literal(value: Any) -> Binding:
    """A binding to a literal."""
    return Binding({"value": value})


def bound(expression: str, *, default: Any) -> Binding:
    """A binding to an expression with a default."""
    return Binding({"from": expression, "default": default})


def a_file(content: str = "content", *, folder: bool = False) -> File:
    """A file in the object store; the same content has the same digest."""
    return File(f"files/{content}", content.encode().hex()[:64], len(content), folder)


class PipelineBuilder:
    """Tells a pipeline step by step; fields are written as manifests write them (`dependsOn=["a"]`)."""

    def __init__(self) -> None:
        self._spec: dict[str, Any] = {"inputs": [], "outputs": [], "steps": [], "finally": []}

    def input(self, name: str, kind: str = "string", **fields: Any) -> PipelineBuilder:
        """Declare an input of the pipeline."""
        self._spec["inputs"].append({"name": name, "type": kind, **fields})
        return self

    def output(self, name: str, kind: str, expression: str, **fields: Any) -> PipelineBuilder:
        """Declare an output of the pipeline."""
        self._spec["outputs"].append({"name": name, "type": kind, "from": expression, **fields})
        return self

    def step(self, name: str, **fields: Any) -> PipelineBuilder:
        """Add a step; `inputs` maps names to expressions or bindings, `outputs` names to types."""
        self._spec["steps"].append(_step(name, fields))
        return self

    def final(self, name: str, **fields: Any) -> PipelineBuilder:
        """Add a `finally` step."""
        self._spec["finally"].append(_step(name, fields))
        return self

    def settings(self, **fields: Any) -> PipelineBuilder:
        """Set fields of the spec itself, such as `timeoutSeconds` or `failurePolicy`."""
        self._spec.update(fields)
        return self

    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        spec = {key: value for key, value in self._spec.items() if value != []}
        return {"apiVersion": "penstock.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": "p"}, "spec": spec}

    def spec(self) -> PipelineSpec:
        """The model; it must keep the rules of manifests."""
        spec = Pipeline.model_validate(json.loads(json.dumps(self.manifest()))).spec
        errors = [str(problem) for problem in pipeline_problems(spec) if problem.severity == "error"]
        assert not errors, errors
        return spec

    def compiled(self) -> CompiledPipeline:
        """Compiled; raises `InvalidManifest`."""
        return compile_pipeline(self.spec())

    def problems(self) -> tuple[Problem, ...]:
        """What the compiler finds wrong."""
        return check_pipeline(self.spec())[1]


def pipeline() -> PipelineBuilder:
    """Begin a pipeline."""
    return PipelineBuilder()


def _step(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, **fields}
    if not found.keys() & {"command", "script", "function", "image", "imageFrom"}:
        found["command"] = ["true"]
    found["inputs"] = [
        {"name": key, **(source.fields if isinstance(source, Binding) else {"from": source})}
        for key, source in fields.get("inputs", {}).items()
    ]
    found["outputs"] = [
        {"name": key, **(kind if isinstance(kind, dict) else {"type": kind})}
        for key, kind in fields.get("outputs", {}).items()
    ]
    return found


def task_id(task: str) -> TaskId:
    """`a` is the step, `a[2]` an item of its fan-out."""
    match = re.fullmatch(r"([^\[]+)(?:\[(\d+)\])?", task)
    assert match, task
    return TaskId(match[1], -1 if match[2] is None else int(match[2]))


def shown(id_: AttemptId) -> str:
    """An attempt for people: `a`, `a[2]`, and from the second on `a#2`."""
    return id_.step + (f"[{id_.index}]" if id_.index >= 0 else "") + (f"#{id_.attempt}" if id_.attempt > 1 else "")


class Driver:
    """Runs one execution pass by pass.

    Args:
        told: the pipeline.
        reload: whether the status is written as JSON, checked against the model and loaded again after every pass, as
            if the process were killed each time.
        inputs: values of the execution's inputs.
        timeout_seconds: its own time limit.
        limits: bounds.
        cache: entries by fingerprint; share it to see later executions find what earlier ones remembered.
        now: when it begins.
        name: the execution's name.
        code: digest of local sources.
    """

    def __init__(
        self,
        told: PipelineBuilder | CompiledPipeline,
        *,
        reload: bool = False,
        inputs: Mapping[str, Value] | None = None,
        timeout_seconds: int | None = None,
        limits: Limits | None = None,
        cache: dict[str, CacheEntry] | None = None,
        now: float = NOON,
        name: str = "x-1",
        code: str = "",
    ) -> None:
        self.pipeline = told.compiled() if isinstance(told, PipelineBuilder) else told
        self.reload = reload
        self.limits = limits or Limits()
        self.identity = Identity(name, f"uid-{name}", "default")
        self.code = code
        self.state = ExecutionState(self.pipeline, self.identity, self.limits, code)
        self.request = Request(inputs=inputs or {}, timeout_seconds=timeout_seconds)
        self.cache = {} if cache is None else cache
        self.now = now
        self.plan = Plan()
        self.starts: dict[AttemptId, StartAttempt] = {}
        self.stops: list[StopAttempt] = []
        self.lookups: list[str] = []
        self.remembered: list[CacheEntry] = []
        self.passes = 0

    # What happens

    def tick(self, *seen: Observation) -> Driver:
        """One pass now, with what was seen."""
        self._pass(seen, {})
        asked = 0
        while self.plan.lookups:
            asked += 1
            assert asked < 5_000, "look-ups never end"
            self.lookups += self.plan.lookups
            self._pass((), {key: self.cache.get(key) for key in self.lookups})
        return self

    def _pass(self, seen: Iterable[Observation], cache: Mapping[str, CacheEntry | None]) -> None:
        self.passes += 1
        self.plan = decide(Snapshot(self.state, self.request, tuple(seen), cache), self.now)
        for start in self.plan.starts:
            assert start.id not in self.starts, f"started twice: {start.id}"
            assert not self.state.pipeline.steps[start.id.step].fan_out or start.id.index >= 0
            self.starts[start.id] = start
        self.stops += self.plan.stops
        for entry in self.plan.remember:
            self.remembered.append(entry)
            self.cache[entry.fingerprint] = entry
        assert self.plan.wake_at is None or self.plan.wake_at > self.now
        if self.reload:
            self.reboot()

    def reboot(self) -> Driver:
        """Lose everything but the stored status."""
        stored = json.loads(json.dumps(self.status()))
        ExecutionStatus.model_validate(stored)
        self.state = status.load(self.pipeline, self.identity, stored, self.limits, self.code)
        return self

    def start(self) -> Driver:
        """The first pass."""
        return self.tick()

    def running(self, task: str) -> Driver:
        """An attempt's command began."""
        return self.tick(Observation(self.attempt(task), AttemptPhase.RUNNING, started_at=self.now))

    def succeed(self, task: str, **outputs: Value) -> Driver:
        """An attempt exited with 0 and wrote outputs."""
        return self.end(task, exit_code=0, outputs=outputs)

    def fail(self, task: str, *, exit_code: int = 1, message: str | None = None, **outputs: Value) -> Driver:
        """An attempt exited with another code."""
        return self.end(task, exit_code=exit_code, message=message, outputs=outputs)

    def end(
        self,
        task: str,
        *,
        reason: str | None = None,
        exit_code: int | None = None,
        message: str | None = None,
        outputs: Mapping[str, Value] | None = None,
    ) -> Driver:
        """An attempt ended."""
        return self.tick(
            Observation(
                self.attempt(task),
                AttemptPhase.ENDED,
                finished_at=self.now,
                reason=reason,
                exit_code=exit_code,
                message=message,
                outputs=outputs or {},
            )
        )

    def lose(self, task: str) -> Driver:
        """An attempt is gone without a trace."""
        return self.tick(Observation(self.attempt(task), AttemptPhase.LOST))

    def advance(self, seconds: float) -> Driver:
        """Let time go by, with a pass at every `wake_at` on the way and one at the end."""
        until = self.now + seconds
        while self.plan.wake_at is not None and self.plan.wake_at <= until:
            self.now = self.plan.wake_at
            self.tick()
        self.now = until
        return self.tick()

    def cancel(self) -> Driver:
        """Its owner cancels it."""
        self.request = replace(self.request, cancel=True)
        return self.tick()

    def suspend(self) -> Driver:
        """Its owner suspends it."""
        self.request = replace(self.request, suspend=True)
        return self.tick()

    def resume(self) -> Driver:
        """Its owner lets it go on."""
        self.request = replace(self.request, suspend=False)
        return self.tick()

    def stopped(self) -> Driver:
        """Every attempt that was asked to stop ends, killed by a signal."""
        asked = {stop.id for stop in self.stops}
        for id_ in [id_ for id_ in self.state.expected() if id_ in asked]:
            self.tick(Observation(id_, AttemptPhase.ENDED, exit_code=143, finished_at=self.now))
        return self

    # What is

    def attempt(self, task: str) -> AttemptId:
        """The attempt of a task that is in flight."""
        wanted = task_id(task)
        found = [id_ for id_ in self.state.expected() if id_.task == wanted]
        assert found, f"{task} is not in flight; in flight: {self.in_flight}"
        return found[0]

    @property
    def started(self) -> list[str]:
        """Every attempt that was ever started, in order."""
        return [shown(id_) for id_ in self.starts]

    @property
    def in_flight(self) -> list[str]:
        """Attempts in flight, sorted."""
        return sorted(shown(id_) for id_ in self.state.expected())

    @property
    def stop_reasons(self) -> dict[str, str]:
        """Attempts that were asked to stop, and why (the last time)."""
        return {shown(stop.id): stop.reason for stop in self.stops}

    @property
    def finished(self) -> bool:
        """Whether the execution is over."""
        return self.state.head.phase.finished

    def inputs(self, task: str) -> dict[str, Value]:
        """Inputs of the last attempt of a task."""
        wanted = task_id(task)
        return dict([start.inputs for id_, start in self.starts.items() if id_.task == wanted][-1])

    def status(self) -> dict[str, Any]:
        """The stored status."""
        return status.dump(self.state)

    def head(self) -> tuple[str, str | None]:
        """Phase and reason of the execution."""
        return str(self.state.head.phase), self.state.head.reason

    @property
    def message(self) -> str:
        """The execution's message."""
        return self.state.head.message or ""

    def phase(self, task: str) -> str:
        """Phase of a step or item."""
        return str(self.state.task(task_id(task)).phase)

    def phases(self) -> dict[str, str]:
        """Phases of all steps."""
        return {name: str(self.state.step(name).phase) for name in self.pipeline.steps}

    def reason(self, task: str) -> str | None:
        """Reason of a step or item."""
        return self.state.task(task_id(task)).reason

    def said(self, task: str) -> str:
        """Message of a step or item."""
        return self.state.task(task_id(task)).message or ""

    def outputs(self, task: str | None = None) -> dict[str, Value]:
        """Outputs of a step or item, or without a name of the execution."""
        if task is None:
            return dict(self.state.head.outputs or {})
        return dict(self.state.task(task_id(task)).outputs)


class Drive(Protocol):
    """Makes a driver in the mode of the test (the fixture `drive`)."""

    def __call__(self, told: PipelineBuilder | CompiledPipeline, **options: Any) -> Driver: ...
