"""Rules of a manifest that span fields, which the models' types cannot say.

A problem about something that is absent is placed at the map it is absent from, one about something that is there at
the field itself. What must not live here: what needs the graph or the expressions (the engine's).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any, Final, Protocol

from penstock.api.base import MAX_ITEMS, Metadata, Model, ValueType
from penstock.api.cron import cron_problem, time_zone_problem
from penstock.api.deployment import (
    ON_TIME_SECONDS,
    CatchUp,
    Concurrency,
    ConcurrencyPolicy,
    Deployment,
    DeploymentSpec,
    Schedule,
)
from penstock.api.execution import Execution, ExecutionSpec
from penstock.api.pipeline import ForEach, Pipeline, PipelineSpec, Retry, Step, StepInput, StepSettings
from penstock.api.problems import Loc, Problem, quoted, shown, suggest

RESERVED: Final = frozenset({"in", "true", "false", "null"})
"""Words of CEL that cannot follow a dot."""

_OWN_ENV: Final = ("PENSTOCK_", "INPUT_")
_NO_IMAGE: Final = (
    "has no image: it runs on a laptop with the process runner, a cluster needs `image` here or in spec.defaults"
)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def object_problems(model: Pipeline | Deployment | Execution) -> list[Problem]:
    """All rules for one object, its metadata included."""
    found = list(_metadata(model.kind, model.metadata))
    if isinstance(model, Pipeline):
        return found + pipeline_problems(model.spec)
    if isinstance(model, Deployment):
        return found + deployment_problems(model.spec)
    return found + execution_problems(model.spec)


def _metadata(kind: str, metadata: Metadata) -> Iterator[Problem]:
    if metadata.name is None and kind != "Execution":
        yield Problem(("metadata",), f"has no name: a {kind} needs `metadata.name`")
    elif metadata.name is None and not metadata.generate_name:
        yield Problem(("metadata",), "has no name: give it `name`, or `generateName` for a new one each time")
    prefix = metadata.generate_name
    if prefix and not re.fullmatch(r"[a-z0-9][-a-z0-9.]*", prefix):
        yield Problem(
            ("metadata", "generateName"),
            f"{quoted(prefix)} is not allowed: wanted lower case letters, digits, dashes and dots, "
            "starting with a letter or digit",
        )


# --- pipelines ---


def pipeline_problems(spec: PipelineSpec, loc: Loc = ("spec",)) -> list[Problem]:
    """Rules for a pipeline.

    Args:
        spec: the pipeline.
        loc: where it is in its manifest.

    Returns:
        All problems, in the order of the manifest's fields.
    """
    found: list[Problem] = []
    for index, item in enumerate(spec.inputs):
        here = (*loc, "inputs", index)
        found += _default(item, item.type, item.max_bytes, here)
        if item.required and "default" in item.model_fields_set:
            found.append(Problem((*here, "default"), "is never used with `required: true`: remove one of the two"))
        found += _max_bytes(item.type, item.max_bytes, here)
    found += _value_names(spec.inputs, (*loc, "inputs"))
    for index, output in enumerate(spec.outputs):
        found += _default(output, output.type, None, (*loc, "outputs", index))
    found += _value_names(spec.outputs, (*loc, "outputs"))
    if spec.defaults is not None:
        found += _settings(spec.defaults, (*loc, "defaults"))
    for field, steps in (("steps", spec.steps), ("finally", spec.finally_)):
        for index, step in enumerate(steps):
            found += _step(step, spec.defaults, (*loc, field, index))
    found += _step_names(spec, loc)
    return found


def _step_names(spec: PipelineSpec, loc: Loc) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for field, steps in (("steps", spec.steps), ("finally", spec.finally_)):
        for index, step in enumerate(steps):
            here = (*loc, field, index, "name")
            if step.name in RESERVED:
                yield Problem(here, f'the name "{step.name}" is a word of the expression language: choose another')
            if step.name in first:
                also = "`steps` and `finally` share names; " if first[step.name] != field else ""
                yield Problem(here, f'the step name "{step.name}" is given twice: {also}rename one of the two')
            first.setdefault(step.name, field)


def _step(step: Step, defaults: StepSettings | None, loc: Loc) -> Iterator[Problem]:
    yield from _what_runs(step, defaults, loc)
    yield from _settings(step, loc)
    for index, binding in enumerate(step.inputs):
        yield from _step_input(binding, (*loc, "inputs", index))
    yield from _value_names(step.inputs, (*loc, "inputs"), env=True)
    for index, output in enumerate(step.outputs):
        yield from _max_bytes(output.type, output.max_bytes, (*loc, "outputs", index))
    yield from _value_names(step.outputs, (*loc, "outputs"))
    yield from _repeated(step.depends_on, (*loc, "dependsOn"))
    if step.for_each is not None:
        yield from _for_each(step.for_each, (*loc, "forEach"))


def _what_runs(step: Step, defaults: StepSettings | None, loc: Loc) -> Iterator[Problem]:
    ways = [name for name in ("command", "script", "function") if getattr(step, name) is not None]
    if step.args is not None and "command" not in ways:
        ways.insert(0, "args")
    for surplus in ways[1:]:
        yield Problem((*loc, surplus), f"a step runs one thing, and `{ways[0]}` is given too: remove one of the two")
    if step.shell is not None and step.script is None:
        yield Problem((*loc, "shell"), "is for `script` only: write the text as `script`, or remove `shell`")
    elif step.shell is not None and not step.shell:
        yield Problem((*loc, "shell"), "must not be empty: for example [/bin/sh, -ec]")
    if step.image is not None and step.image_from is not None:
        yield Problem((*loc, "imageFrom"), "`image` is given too: remove one of the two")
    has_image = any((step.image, step.image_from, defaults and defaults.image))
    if not has_image and not (step.command or step.script or step.function):
        yield Problem(loc, "says nothing that runs: give it `command`, `script`, `function` or an `image`")
    elif not has_image:
        yield Problem(loc, _NO_IMAGE, severity="warning")


def _step_input(binding: StepInput, loc: Loc) -> Iterator[Problem]:
    given = binding.model_fields_set
    yield from _exactly_one(binding, loc, {"value": "value", "from": "from_"}, "the input", nulls={"value"})
    if "default" in given and "from_" not in given:
        yield Problem((*loc, "default"), "is for `from` only: it stands in when the step that `from` names was skipped")


def _settings(settings: StepSettings, loc: Loc) -> Iterator[Problem]:
    for index, variable in enumerate(settings.env or []):
        here = (*loc, "env", index)
        if variable.name.startswith(_OWN_ENV):
            yield Problem((*here, "name"), f'"{variable.name}" is set by Penstock: choose another name')
        yield from _exactly_one(variable, here, {"value": "value", "valueFrom": "value_from"}, "the variable")
        if variable.value_from is not None:
            sources = {"secretKeyRef": "secret_key_ref", "configMapKeyRef": "config_map_key_ref"}
            yield from _exactly_one(variable.value_from, (*here, "valueFrom"), sources, "the source")
    yield from _twice(settings.env or [], (*loc, "env"))
    for index, source in enumerate(settings.env_from or []):
        sources = {"secretRef": "secret_ref", "configMapRef": "config_map_ref"}
        yield from _exactly_one(source, (*loc, "envFrom", index), sources, "the source")
    if settings.retry is not None:
        yield from _retry(settings.retry, (*loc, "retry"))
    for key, value in (settings.pod_template or {}).items():
        here = (*loc, "podTemplate", key)
        if key not in {"metadata", "spec"}:
            yield Problem(here, f"unknown field {quoted(key)}: a pod template has `metadata` and `spec`")
        elif not isinstance(value, dict):
            yield Problem(here, f"wanted a map, got {shown(value)}")


def _retry(retry: Retry, loc: Loc) -> Iterator[Problem]:
    if retry.max_delay_seconds is not None and retry.max_delay_seconds < retry.delay_seconds:
        yield Problem(
            (*loc, "maxDelaySeconds"),
            f"is less than delaySeconds ({retry.max_delay_seconds} < {retry.delay_seconds}): the first wait is longer",
        )
    yield from _repeated([str(reason) for reason in retry.reasons or []], (*loc, "reasons"))


def _for_each(each: ForEach, loc: Loc) -> Iterator[Problem]:
    ways = {"items": "items", "from": "from_", "matrix": "matrix"}
    yield from _exactly_one(each, loc, ways, "the fan-out")
    for field, combinations in (("include", each.include), ("exclude", each.exclude)):
        if combinations is not None and each.matrix is None:
            yield Problem((*loc, field), "is for `matrix` only: change the list itself, or use `matrix`")
        elif combinations == []:
            yield Problem((*loc, field), "is empty: leave it out", severity="warning")
    axes = each.matrix or []
    for index, axis in enumerate(axes):
        yield from _exactly_one(axis, (*loc, "matrix", index), {"items": "items", "from": "from_"}, "the axis")
    yield from _value_names(axes, (*loc, "matrix"))
    literal = [len(axis.items) for axis in axes if axis.items is not None]
    if prod(literal) > MAX_ITEMS:
        sizes = " x ".join(str(size) for size in literal)
        yield Problem((*loc, "matrix"), f"has {prod(literal)} combinations ({sizes}), at most {MAX_ITEMS}")
    names = [axis.name for axis in axes]
    for index, combination in enumerate((each.exclude or []) if axes else []):
        for key in combination:
            if key not in names:
                near = suggest(key, names) or f"; axes: {', '.join(names)}"
                yield Problem((*loc, "exclude", index, key), f"{quoted(key)} is not an axis of the matrix{near}")


# --- executions and deployments ---


def execution_problems(spec: ExecutionSpec, loc: Loc = ("spec",)) -> list[Problem]:
    """Rules for an execution, an inline pipeline included; see `pipeline_problems`."""
    ways = {"pipeline": "pipeline", "pipelineSpec": "pipeline_spec"}
    found = list(_exactly_one(spec, loc, ways, "what to run"))
    if spec.pipeline_spec is not None:
        found += pipeline_problems(spec.pipeline_spec, (*loc, "pipelineSpec"))
    for index, item in enumerate(spec.inputs):
        sources = {"value": "value", "object": "object"}
        found += _exactly_one(item, (*loc, "inputs", index), sources, "the input", nulls={"value"})
    found += _twice(spec.inputs, (*loc, "inputs"))
    for index, output in enumerate(spec.outputs):
        found += _destination(output, (*loc, "outputs", index), "the output")
    found += _twice(spec.outputs, (*loc, "outputs"))
    return found


def deployment_problems(spec: DeploymentSpec, loc: Loc = ("spec",)) -> list[Problem]:
    """Rules for a deployment; see `pipeline_problems`."""
    found = list(_exactly_one(spec, loc, {"schedule": "schedule", "endpoint": "endpoint"}, "what starts executions"))
    if spec.schedule is not None:
        found += _schedule(spec.schedule, (*loc, "schedule"))
    sources = {
        "value": "value",
        "endpoint": "endpoint",
        "configMapKeyRef": "config_map_key_ref",
        "object": "object",
        "void": "void",
    }
    for index, item in enumerate(spec.inputs):
        here = (*loc, "inputs", index)
        found += _binding(item, here, sources, spec)
        source = item.endpoint
        if source is not None and {"required", "default"} <= source.model_fields_set and source.required:
            where = (*here, "endpoint", "default")
            found.append(Problem(where, "is never used with `required: true`: remove one of the two"))
    for index, output in enumerate(spec.outputs):
        here = (*loc, "outputs", index)
        found += _destination(output, here, "the binding")
        found += _no_caller(output, here, spec)
    names: set[str | None] = set()
    for index, bound in enumerate(spec.outputs):
        if bound.endpoint is not None and bound.endpoint in names:
            where = (*loc, "outputs", index, "endpoint")
            found.append(Problem(where, f'"{bound.endpoint}" is given by two outputs: rename one of the two'))
        names.add(bound.endpoint)
    found += _twice(spec.inputs, (*loc, "inputs"))
    found += _twice(spec.outputs, (*loc, "outputs"))
    found += _concurrency(spec.concurrency, (*loc, "concurrency"))
    return found


def _binding(item: Any, loc: Loc, sources: dict[str, str], spec: DeploymentSpec) -> Iterator[Problem]:
    yield from _exactly_one(item, loc, sources, "the binding", nulls={"value"})
    yield from _no_caller(item, loc, spec)
    if item.void is False:
        yield Problem((*loc, "void"), "can only be true: remove it")


def _no_caller(item: Any, loc: Loc, spec: DeploymentSpec) -> Iterator[Problem]:
    if item.endpoint is not None and spec.endpoint is None and spec.schedule is not None:
        yield Problem((*loc, "endpoint"), "a schedule has no caller: choose another kind of binding")


def _destination(item: Any, loc: Loc, what: str) -> Iterator[Problem]:
    yield from _exactly_one(item, loc, {name: name for name in ("endpoint", "object", "void")}, what)
    if item.void is False:
        yield Problem((*loc, "void"), "can only be true: remove it")


def _concurrency(concurrency: Concurrency, loc: Loc) -> Iterator[Problem]:
    if concurrency.limit is not None and concurrency.policy is ConcurrencyPolicy.ALLOW:
        yield Problem((*loc, "limit"), "has no meaning with policy Allow: set `policy` to Forbid, Replace or Queue")


def _schedule(schedule: Schedule, loc: Loc) -> Iterator[Problem]:
    if wrong := cron_problem(schedule.cron):
        yield Problem((*loc, "cron"), wrong)
    if wrong := time_zone_problem(schedule.time_zone):
        yield Problem((*loc, "timeZone"), wrong)
    deadline = schedule.starting_deadline_seconds
    if schedule.catch_up is CatchUp.NONE and deadline is not None and deadline > ON_TIME_SECONDS:
        yield Problem(
            (*loc, "startingDeadlineSeconds"),
            f"has no meaning with catchUp None, which drops a time after {ON_TIME_SECONDS} seconds: "
            "set `catchUp` to Last or All, or remove it",
        )


# --- shared ---


def misfit(value: object, kind: ValueType, max_bytes: int | None = None) -> str | None:
    """Why a JSON value does not fit a declared type, or None where it does.

    Args:
        value: the value.
        kind: the declared type; nothing fits `file`.
        max_bytes: for a string, the longest UTF-8 encoding.
    """
    checks: dict[ValueType, Callable[[], bool]] = {
        ValueType.STRING: lambda: isinstance(value, str),
        ValueType.NUMBER: lambda: isinstance(value, int | float) and not isinstance(value, bool),
        ValueType.BOOLEAN: lambda: isinstance(value, bool),
        ValueType.ARRAY: lambda: isinstance(value, list),
        ValueType.JSON: lambda: True,
        ValueType.FILE: lambda: False,
    }
    if not checks[kind]():
        article = "an" if kind is ValueType.ARRAY else "a"
        return f"wanted {article} {kind.value}, got {shown(value)}"
    if isinstance(value, str) and max_bytes is not None and kind is ValueType.STRING:
        size = len(value.encode("utf-8", "surrogatepass"))
        return f"is too long: {size} bytes, at most {max_bytes} (maxBytes)" if size > max_bytes else None
    return None


def _default(item: Model, kind: ValueType, max_bytes: int | None, loc: Loc) -> Iterator[Problem]:
    if "default" not in item.model_fields_set:
        return
    if kind is ValueType.FILE:
        yield Problem((*loc, "default"), "a file has no default: remove it, or use `required: false`")
    elif wrong := misfit(item.default, kind, max_bytes):  # type: ignore[attr-defined]
        yield Problem((*loc, "default"), wrong)


def _max_bytes(kind: ValueType, max_bytes: int | None, loc: Loc) -> Iterator[Problem]:
    if max_bytes is not None and kind is not ValueType.STRING:
        yield Problem((*loc, "maxBytes"), f"is for type string only, and the type is {kind.value}: remove it")


def _exactly_one(
    item: Model, loc: Loc, ways: dict[str, str], what: str, *, nulls: Iterable[str] = ()
) -> Iterator[Problem]:
    """Exactly one field must be given; for those in `nulls`, null is a value."""
    given = [
        name
        for name, attribute in ways.items()
        if getattr(item, attribute) is not None or (name in nulls and attribute in item.model_fields_set)
    ]
    names = [f"`{name}`" for name in ways]
    if not given:
        yield Problem(loc, f"{what} needs one of {', '.join(names[:-1])} and {names[-1]}")
    for surplus in given[1:]:
        yield Problem((*loc, surplus), f"`{given[0]}` is given too: remove one of the two")


def _twice(items: Sequence[_Named], loc: Loc) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.name in seen:
            message = f'the name "{item.name}" is given twice: remove or rename one of the two'
            yield Problem((*loc, index, "name"), message)
        seen.add(item.name)


def _value_names(items: Sequence[_Named], loc: Loc, *, env: bool = False) -> Iterator[Problem]:
    """Names that expressions (and, for `env`, environment variables) use: unique there as well, and no CEL words."""
    yield from _twice(items, loc)
    seen: dict[str, set[str]] = defaultdict(set)
    for index, item in enumerate(items):
        if item.name in RESERVED:
            message = f'the name "{item.name}" is a word of the expression language: choose another'
            yield Problem((*loc, index, "name"), message)
        mangled = item.name.replace("-", "_")
        key = mangled.upper() if env else mangled
        others = seen[key] - {item.name}
        if others and item.name not in seen[key]:
            as_what = f"the variable INPUT_{key}" if env else f"`{key}` in expressions"
            other = sorted(others)[0]
            message = f'"{item.name}" and "{other}" are both {as_what}: rename one of the two'
            yield Problem((*loc, index, "name"), message)
        seen[key].add(item.name)


def _repeated(words: Sequence[str], loc: Loc) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, word in enumerate(words):
        if word in seen:
            yield Problem((*loc, index), f'"{word}" is given twice: remove one of the two')
        seen.add(word)
