"""Values: what references stand for during an execution, the inputs of executions and attempts, collected outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock.api.execution import StepPhase
from penstock.api.pipeline import PipelineInput
from penstock.engine.compile import CompiledStep
from penstock.engine.expressions import Expr, ExpressionError, Unavailable, evaluate
from penstock.engine.reasons import Reason
from penstock.engine.state import STEP, ExecutionState, TaskState
from penstock.engine.types import File, Limits, TaskId, Value
from penstock.step.values import OutputTypeError, check_value, json_bytes


class InvalidInputs(Exception):  # noqa: N818 - the reason's own name
    """The inputs of an execution cannot be used.

    Attributes:
        reason: `InvalidInputs` or `InputsTooLarge`.
        problems: a sentence for each.
    """

    def __init__(self, reason: Reason, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.reason = reason
        self.problems = problems


def resolver(state: ExecutionState, extra: Mapping[str, Value] | None = None) -> Callable[[str], Value]:
    """A function that gives the value of a variable by its dotted name, or raises `Unavailable`."""
    scope = state.pipeline.scope
    local = extra or {}

    def resolve(name: str) -> Value:
        if name in local:
            return local[name]
        if name in scope.inputs:
            return state.inputs.get(scope.inputs[name])
        variable = scope.variables.get(name)
        if variable is None:
            return _of_execution(state, name)
        record = state.step(variable.step)
        if variable.field == "outputs":
            if variable.output not in record.outputs or not record.phase.finished:
                raise Unavailable(name)
            return record.outputs[variable.output]
        if variable.field == "status":
            # A cached success is a success to everyone who asks.
            return str(StepPhase.SUCCEEDED if record.phase is StepPhase.CACHED else record.phase)
        return record.exit_code if variable.field == "exitCode" else record.attempts

    return resolve


def _of_execution(state: ExecutionState, name: str) -> Value:
    identity = state.identity
    if name == "execution.status":
        return state.head.outcome
    if name == "execution.failedSteps":
        return list[Any](state.failed_steps(final=False))
    return {"name": identity.name, "uid": identity.uid, "namespace": identity.namespace}[name.split(".")[1]]


def value_of(state: ExecutionState, expr: Expr, extra: Mapping[str, Value] | None = None) -> Value:
    """The value of an expression now. Raises as `expressions.evaluate`."""
    return evaluate(expr, resolver(state, extra), state.pipeline.programs)


def item_variables(state: ExecutionState, task: TaskId) -> dict[str, Value]:
    """`item` and `index`, for an item of a fan-out."""
    if task.index == STEP:
        return {}
    return {"item": state.items[task.step][task.index], "index": task.index}


def attempt_inputs(state: ExecutionState, step: CompiledStep, task: TaskId, attempt: int) -> dict[str, Value]:
    """The inputs of one attempt by name.

    Raises:
        Unavailable: a binding without a default refers to a value that does not exist.
        ExpressionError: a binding cannot be evaluated; the message names it.
    """
    extra = item_variables(state, task) | {"attempt": attempt}
    found: dict[str, Value] = {}
    for bound in step.inputs:
        if bound.expr is None:
            found[bound.name] = bound.value
            continue
        try:
            found[bound.name] = value_of(state, bound.expr, extra)
        except Unavailable:
            if not bound.has_default:
                raise
            found[bound.name] = bound.default
        except ExpressionError as error:
            raise ExpressionError(f'input "{bound.name}": {error}') from None
    return found


def execution_inputs(declared: list[PipelineInput], given: Mapping[str, Value], limits: Limits) -> dict[str, Value]:
    """The inputs of an execution, checked against their declarations, with defaults.

    Raises:
        InvalidInputs: names are unknown or missing, types do not fit, or the values are together over the limit.
    """
    by_name = {declaration.name: declaration for declaration in declared}
    problems = [_unknown(name, list(by_name)) for name in given if name not in by_name]
    found: dict[str, Value] = {}
    for declaration in declared:
        name = declaration.name
        has_default = "default" in declaration.model_fields_set
        if name in given:
            problems += [f'input "{name}": {wrong}'] if (wrong := input_misfit(declaration, given[name])) else []
            found[name] = given[name]
        elif has_default:
            found[name] = declaration.default
        elif is_required(declaration):
            problems.append(f'input "{name}" ({declaration.type}) is required; give it a value')
        else:
            found[name] = None
    if problems:
        raise InvalidInputs(Reason.INVALID_INPUTS, problems)
    if message := over_limit("input", found, limits.input_bytes):
        raise InvalidInputs(Reason.INPUTS_TOO_LARGE, [message])
    return found


def is_required(declaration: PipelineInput) -> bool:
    """Whether an execution must give an input."""
    if declaration.required is not None:
        return declaration.required
    return "default" not in declaration.model_fields_set


def _unknown(name: str, known: list[str]) -> str:
    return f'unknown input "{name}"; the pipeline has {", ".join(known) if known else "no inputs"}'


def input_misfit(declaration: PipelineInput, value: Value) -> str:
    """Why a value cannot be that of an input; empty where it can."""
    if value is None and declaration.required is False:
        return ""
    if declaration.type == "file" or isinstance(value, File):
        if isinstance(value, File) and declaration.type == "file":
            return ""
        got = "a file" if isinstance(value, File) else "a value"
        return f"wanted {'a file' if declaration.type == 'file' else f'a {declaration.type}'}, got {got}"
    try:
        check_value(declaration.name, str(declaration.type), value, declaration.max_bytes, what="input")
    except OutputTypeError as error:
        return f"wanted {error.wanted}, got {error.got}"
    return ""


def is_file(value: Any) -> bool:
    """Whether a value is a file, or a fan-out's list of files."""
    return isinstance(value, File) or (isinstance(value, list) and any(isinstance(item, File) for item in value))


def _without_files(values: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if not is_file(value)}


def value_bytes(values: Mapping[str, Value]) -> int:
    """Bytes of values as one JSON object by name, compact, in UTF-8; files are exempt, and no values take no bytes."""
    plain = _without_files(values)
    return json_bytes(plain) if plain else 0


def over_limit(what: str, values: Mapping[str, Value], limit: int) -> str | None:
    """What to say if values are together over a limit, else None.

    The size is that of the JSON object of all values by name, compact, in UTF-8; files are exempt.
    """
    plain = _without_files(values)
    total = json_bytes(plain)
    if total <= limit:
        return None
    sizes = {name: json_bytes(value) for name, value in plain.items()}
    largest = sorted(sizes.items(), key=lambda entry: -entry[1])[:3]
    shown = ", ".join(f'"{name}" {size:,}' for name, size in largest)
    return (
        f"the {what} values are together {total:,} bytes as JSON, the limit is {limit:,} (largest: {shown} bytes); "
        f"pass large data as a file"
    )


def collect(state: ExecutionState, step: CompiledStep, record: TaskState) -> dict[str, Value]:
    """The outputs of a finished fan-out: for each declared output the items' values in item order, null for none."""
    count = record.item_count or 0
    items = [state.task(TaskId(step.name, index)) for index in range(count)]
    found: dict[str, Any] = {}
    for declared in step.spec.outputs:
        found[declared.name] = [item.outputs.get(declared.name) for item in items]
    return found
