"""What a deployment binds: whether it fits its pipeline, and the inputs and outputs of an execution that it starts.

    check(pipeline, deployment) -> problems        when either changes
    config_keys(deployment) -> keys to read        before each execution
    bind(pipeline, deployment, given, config) -> Bound, or raises NotBound

An endpoint maps inputs and outputs that are not bound by their own names; a schedule has nobody to ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from penstock.api.base import ValueType
from penstock.api.deployment import DeploymentInput, DeploymentOutput, DeploymentSpec, EndpointValue
from penstock.api.execution import ExecutionInput, ExecutionOutput
from penstock.api.pipeline import PipelineInput, PipelineOutput, PipelineSpec
from penstock.api.problems import Loc, Problem, suggest
from penstock.engine.types import Json
from penstock.engine.wiring import input_misfit, is_required, over_limit
from penstock.step.values import Declared, OutputTypeError, RawText, coerce

INPUT_BYTES: Final = 60_000
"""Bound of the values into an execution, in bytes of JSON; files are exempt."""

_SPEC: Final[Loc] = ("spec",)


@dataclass(frozen=True, slots=True)
class ObjectAt:
    """An object of the data store, given for an input of type `file`.

    Attributes:
        path: where it is.
    """

    path: str


Given: TypeAlias = "Json | ObjectAt | RawText"
"""What a caller gives: a JSON value, a file that is in the data store by now, or text, read by the input's type."""

ConfigKey: TypeAlias = tuple[str, str]
"""A key of a ConfigMap: name of the map, key in its data."""


class Fault(StrEnum):
    """What is wrong with what a caller gives."""

    UNKNOWN = "Unknown"
    MISSING = "Missing"
    WRONG_TYPE = "WrongType"
    TOO_LARGE = "TooLarge"
    CONFIG = "Config"  # not the caller's: a ConfigMap lacks a key, or holds what does not fit


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong.

    Attributes:
        fault: what kind of thing.
        name: of the endpoint's input, or of the pipeline's where the caller does not give it; empty for all together.
        message: a sentence for people.
    """

    fault: Fault
    name: str
    message: str


class NotBound(Exception):  # noqa: N818 - a state, not a fault
    """No execution can be made of what is given.

    Attributes:
        mistakes: all that is wrong, in the order of the pipeline's inputs.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(mistake.message for mistake in mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Bound:
    """Inputs and outputs of one execution, as its spec has them."""

    inputs: tuple[ExecutionInput, ...] = ()
    outputs: tuple[ExecutionOutput, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointInput:
    """What a caller may give.

    Attributes:
        name: its name in the call.
        type: what it must be.
        required: whether the caller must give it.
        description: for people.
        default: its value where the caller gives none; only with `has_default`.
        has_default: whether it has one, the deployment's or the pipeline's.
        max_bytes: longest UTF-8 encoding of a string.
    """

    name: str
    type: ValueType
    required: bool
    description: str = ""
    default: Json = None
    has_default: bool = False
    max_bytes: int | None = None


# --- whether a deployment fits its pipeline ---


def check(pipeline: PipelineSpec, deployment: DeploymentSpec) -> list[Problem]:
    """What does not fit between a deployment and its pipeline, in the order of the manifest.

    Both are without problems of their own (`api.rules`). What paths mean to a store is not looked at.
    """
    return [*_input_problems(pipeline, deployment), *_output_problems(pipeline, deployment)]


def _input_problems(pipeline: PipelineSpec, deployment: DeploymentSpec) -> Iterator[Problem]:
    declared = {each.name: each for each in pipeline.inputs}
    loc = (*_SPEC, "inputs")
    for index, bound in enumerate(deployment.inputs):
        here = (*loc, index)
        if (declaration := declared.get(bound.name)) is None:
            message = f'the pipeline has no input "{bound.name}"{suggest(bound.name, list(declared))}'
            yield Problem((*here, "name"), message)
        elif wrong := _misfit(declaration, bound):
            yield Problem((*here, wrong[0]), wrong[1])
    bound_names = {each.name for each in deployment.inputs}
    if deployment.schedule is not None:
        for declaration in pipeline.inputs:
            if declaration.name in bound_names or "default" in declaration.model_fields_set:
                continue
            remedy = "give it a value" if is_required(declaration) else "give it a value, or void: true"
            yield Problem(
                loc, f'a schedule must bind every input without a default; bind "{declaration.name}": {remedy}'
            )
        return
    types: dict[str, tuple[str, ValueType]] = {}
    for declaration, source in _asked(pipeline, deployment):
        name, kind = types.setdefault(source.name, (declaration.name, declaration.type))
        if kind is not declaration.type:
            yield Problem(
                loc,
                f'the endpoint\'s input "{source.name}" is a {kind} for "{name}" and a {declaration.type} for '
                f'"{declaration.name}": give one of the two another name',
            )


def _misfit(declaration: PipelineInput, bound: DeploymentInput) -> tuple[str, str] | None:
    """The field of a binding that does not fit its input, and why."""
    given = bound.model_fields_set
    is_file = declaration.type is ValueType.FILE
    if bound.void:
        if is_required(declaration):
            return "void", f'the pipeline requires the input "{declaration.name}"; give it a value'
    elif bound.object is not None:
        if not is_file:
            return "object", f"an object is for an input of type file, and this one is a {declaration.type}"
    elif bound.config_map_key_ref is not None:
        if is_file:
            return "configMapKeyRef", "an input of type file cannot come from a ConfigMap; use `object`"
        if bound.config_map_key_ref.optional and is_required(declaration):
            wanted = "it needs a default, or `optional` must go"
            return "configMapKeyRef", f'the pipeline requires the input "{declaration.name}": {wanted}'
    elif bound.endpoint is not None:
        if "default" in bound.endpoint.model_fields_set and (
            wrong := input_misfit(declaration, bound.endpoint.default)
        ):
            return "endpoint", f"its default does not fit: {wrong}"
        if bound.endpoint.required is False and is_required(declaration) and not _has_default(bound.endpoint):
            wanted = "give it a `default` here, or take `required: false` away"
            return "endpoint", f'the pipeline requires the input "{declaration.name}": {wanted}'
    elif "value" in given and (wrong := input_misfit(declaration, bound.value)):
        return "value", wrong + ("; use `object` for a path in the data store" if is_file else "")
    return None


def _output_problems(pipeline: PipelineSpec, deployment: DeploymentSpec) -> Iterator[Problem]:
    declared = {each.name: each for each in pipeline.outputs}
    loc = (*_SPEC, "outputs")
    for index, bound in enumerate(deployment.outputs):
        if (declaration := declared.get(bound.name)) is None:
            message = f'the pipeline has no output "{bound.name}"{suggest(bound.name, list(declared))}'
            yield Problem((*loc, index, "name"), message)
        elif bound.object is not None and declaration.type is not ValueType.FILE:
            message = f"only an output of type file goes to the data store, and this one is a {declaration.type}"
            yield Problem((*loc, index, "object"), message)
    bound_names = {each.name for each in deployment.outputs}
    unbound = [name for name in declared if name not in bound_names]
    if deployment.schedule is not None:
        for name in unbound:
            yield Problem(loc, f'a schedule must bind every output; "{name}" is not bound (void: true drops it)')
        return
    taken = {each.endpoint: each.name for each in deployment.outputs if each.endpoint is not None}
    for name in unbound:
        if name in taken:
            message = f'"{taken[name]}" is given as "{name}", which is also the name of an output that is not bound'
            yield Problem(loc, f'{message}: bind "{name}" too')


# --- what callers give and get ---


def endpoint_inputs(pipeline: PipelineSpec, deployment: DeploymentSpec) -> tuple[EndpointInput, ...]:
    """What a caller of the endpoint may give; nothing for a schedule. The deployment fits the pipeline (`check`)."""
    found: dict[str, EndpointInput] = {}
    for declaration, source in _asked(pipeline, deployment):
        own = _has_default(source)
        has_default = own or "default" in declaration.model_fields_set
        required = _must_be_given(declaration, source)
        before = found.get(source.name)
        found[source.name] = EndpointInput(
            name=source.name,
            type=declaration.type,
            required=required or (before is not None and before.required),
            description=declaration.description or "",
            default=source.default if own else declaration.default,
            has_default=has_default,
            max_bytes=declaration.max_bytes,
        )
    return tuple(found.values())


def endpoint_outputs(pipeline: PipelineSpec, deployment: DeploymentSpec) -> dict[str, PipelineOutput]:
    """What a caller of the endpoint gets, by the name under which it does; nothing for a schedule."""
    declared = {each.name: each for each in pipeline.outputs}
    bound = outputs(pipeline, deployment)
    return {each.endpoint: declared[each.name] for each in bound if each.endpoint is not None}


def _asked(pipeline: PipelineSpec, deployment: DeploymentSpec) -> Iterator[tuple[PipelineInput, EndpointValue]]:
    """Inputs of the pipeline that a caller gives, and how."""
    if deployment.endpoint is None:
        return
    bound = {each.name: each for each in deployment.inputs}
    for declaration in pipeline.inputs:
        binding = bound.get(declaration.name)
        if binding is None:
            yield declaration, EndpointValue(name=declaration.name)
        elif binding.endpoint is not None:
            yield declaration, binding.endpoint


def _has_default(source: EndpointValue) -> bool:
    return "default" in source.model_fields_set


def _must_be_given(declaration: PipelineInput, source: EndpointValue) -> bool:
    if source.required is not None:
        return source.required
    return is_required(declaration) and not _has_default(source)


# --- one execution ---


def config_keys(deployment: DeploymentSpec) -> list[ConfigKey]:
    """The keys of ConfigMaps that must be read before an execution is made, each once."""
    references = [each.config_map_key_ref for each in deployment.inputs if each.config_map_key_ref is not None]
    return list(dict.fromkeys((each.name, each.key) for each in references))


def bind(
    pipeline: PipelineSpec,
    deployment: DeploymentSpec,
    given: Mapping[str, Given] | None = None,
    config: Mapping[ConfigKey, str] | None = None,
    *,
    limit: int = INPUT_BYTES,
) -> Bound:
    """The inputs and outputs of one execution.

    Args:
        pipeline: the pipeline that it runs.
        deployment: what starts it; it fits the pipeline (`check`).
        given: what the caller gives, by the endpoint's names. A null is given, a name that is left out is not.
        config: values of those of the `config_keys` that are there.
        limit: how large the values may be together, in bytes of JSON.

    Raises:
        NotBound: with everything that is wrong.
    """
    binding = _Binding(deployment, given or {}, config or {})
    asked = [source.name for _, source in _asked(pipeline, deployment)]
    for name in given or {}:
        if name not in asked:
            binding.wrong(Fault.UNKNOWN, name, f'there is no input "{name}"{_known(asked, name)}')
    bound = {each.name: each for each in deployment.inputs}
    for declaration in pipeline.inputs:
        binding.add(declaration, bound.get(declaration.name))
    if not binding.mistakes and (message := over_limit("input", binding.values, limit)):
        binding.wrong(Fault.TOO_LARGE, "", message)
    if binding.mistakes:
        raise NotBound(binding.mistakes)
    return Bound(tuple(binding.inputs), outputs(pipeline, deployment))


def outputs(pipeline: PipelineSpec, deployment: DeploymentSpec) -> tuple[ExecutionOutput, ...]:
    """Where the outputs of an execution go; see `bind`."""
    bound = {each.name: each for each in deployment.outputs}
    found = []
    for declaration in pipeline.outputs:
        if (binding := bound.get(declaration.name)) is not None:
            found.append(_destination(binding))
        elif deployment.endpoint is not None:
            found.append(ExecutionOutput(name=declaration.name, endpoint=declaration.name))
    return tuple(found)


def _destination(bound: DeploymentOutput) -> ExecutionOutput:
    # Only what is given: a null is not the same as nothing to the rules of the API.
    if bound.object is not None:
        return ExecutionOutput(name=bound.name, object=bound.object)
    if bound.endpoint is not None:
        return ExecutionOutput(name=bound.name, endpoint=bound.endpoint)
    return ExecutionOutput(name=bound.name, void=True)


def _known(names: Sequence[str], name: str) -> str:
    return suggest(name, names) or (f"; there are {', '.join(names)}" if names else "; there are none")


@dataclass(slots=True)
class _Binding:
    """The inputs of one execution while they are gathered."""

    deployment: DeploymentSpec
    given: Mapping[str, Given]
    config: Mapping[ConfigKey, str]
    inputs: list[ExecutionInput] = field(default_factory=list)
    values: dict[str, Json] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def wrong(self, fault: Fault, name: str, message: str) -> None:
        self.mistakes.append(Mistake(fault, name, message))

    def add(self, declaration: PipelineInput, bound: DeploymentInput | None) -> None:
        if bound is None and self.deployment.endpoint is not None:
            self._from_caller(declaration, EndpointValue(name=declaration.name))
        elif bound is None or bound.void:
            self._left(declaration)
        elif bound.endpoint is not None:
            self._from_caller(declaration, bound.endpoint)
        elif bound.object is not None:
            self._object(declaration, bound.object)
        elif (reference := bound.config_map_key_ref) is not None:
            text = self.config.get((reference.name, reference.key))
            if text is not None:
                where = f'key "{reference.key}" of ConfigMap "{reference.name}" does not fit'
                self._value(declaration, RawText(text), Fault.CONFIG, declaration.name, where)
            elif reference.optional:
                self._left(declaration)
            else:
                message = f'there is no key "{reference.key}" in a ConfigMap "{reference.name}"'
                self.wrong(Fault.CONFIG, declaration.name, f'input "{declaration.name}": {message}')
        else:
            self._value(declaration, bound.value, Fault.WRONG_TYPE, declaration.name, "")

    def _from_caller(self, declaration: PipelineInput, source: EndpointValue) -> None:
        if source.name not in self.given:
            if _must_be_given(declaration, source):
                self.wrong(Fault.MISSING, source.name, f'input "{source.name}" ({declaration.type}) is required')
            elif _has_default(source):
                self._value(declaration, source.default, Fault.WRONG_TYPE, source.name, "its default does not fit")
            else:
                self._left(declaration)
            return
        given = self.given[source.name]
        if not isinstance(given, ObjectAt):
            self._value(declaration, given, Fault.WRONG_TYPE, source.name, "")
        elif declaration.type is ValueType.FILE:
            self._object(declaration, given.path)
        else:
            message = f'input "{source.name}": wanted a {declaration.type}, got a file'
            self.wrong(Fault.WRONG_TYPE, source.name, message)

    def _left(self, declaration: PipelineInput) -> None:
        """Nothing is given: the pipeline's default, which counts as well."""
        if "default" in declaration.model_fields_set:
            self.values[declaration.name] = declaration.default

    def _object(self, declaration: PipelineInput, path: str) -> None:
        self.inputs.append(ExecutionInput(name=declaration.name, object=path))

    def _value(self, declaration: PipelineInput, value: Json | RawText, fault: Fault, name: str, where: str) -> None:
        wrong = ""
        if isinstance(value, RawText):
            try:
                value = coerce(Declared(declaration.name, str(declaration.type), declaration.max_bytes), value)
            except OutputTypeError as error:
                wrong = f"wanted {error.wanted}, got {error.got}"
        wrong = wrong or input_misfit(declaration, value)
        if wrong:
            self.wrong(fault, name, f'input "{name}": {f"{where}: " if where else ""}{wrong}')
            return
        self.values[declaration.name] = value
        self.inputs.append(ExecutionInput(name=declaration.name, value=value))
