"""What every adapter needs to start attempts: outputs' declarations, types of values, and the word for refusals.

Between the engine's types and the step contract of `penstock.step`; nothing here starts anything.
"""

from __future__ import annotations

import time

from penstock.api.pipeline import Step
from penstock.engine.reasons import Reason
from penstock.engine.types import File, StartAttempt, Value
from penstock.step.runtime import function_env
from penstock.step.values import Declared


class CannotStart(Exception):  # noqa: N818 - a fact about an attempt, which becomes an observation
    """An attempt cannot be started; its text is the message of the observation.

    Attributes:
        reason: `StepError` where the platform is to blame, `StepFailed` where the step is.
        exit_code: the exit code that a shell would have given, if any.
    """

    def __init__(self, message: str, *, reason: Reason = Reason.STEP_ERROR, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


class SystemClock:
    """The machine's clock; implements `ports.Clock`."""

    def now(self) -> float:
        """Seconds since the epoch, rounded to milliseconds."""
        return round(time.time(), 3)


def declared_outputs(step: Step) -> tuple[Declared, ...]:
    """The outputs of a step as the step contract's rules take them."""
    return tuple(Declared(output.name, output.type.value, output.max_bytes) for output in step.outputs)


def function_types(start: StartAttempt) -> dict[str, str]:
    """The variables by which a function step knows the types of its inputs and outputs."""
    types = {name: value_type(value) for name, value in start.inputs.items()}
    lengths = {name: len(value) for name, value in start.inputs.items() if isinstance(value, list)}
    files = {name: length for name, length in lengths.items() if types[name] == "files"}
    return function_env(types, declared_outputs(start.step.spec), lengths=files)


def value_type(value: Value) -> str:
    """The type of a value in the words of the step contract: those of declarations, and `files` for a list of them."""
    match value:
        case File():
            return "file"
        case list():
            return "files" if any(isinstance(item, File) for item in value) else "array"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "json"
