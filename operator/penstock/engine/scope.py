"""Which names an expression may mention at its place in a pipeline, their types, and what to say of the others.

Pure look-ups over the declarations of one pipeline; `compile` asks here, `wiring` gives the values at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.api.pipeline import PipelineSpec, Step
from penstock.api.problems import suggest
from penstock.engine.expressions import ANY, ARRAY, BOOLEAN, FILE, NUMBER, STRING, ExprType

_KINDS = {"string": STRING, "number": NUMBER, "boolean": BOOLEAN, "json": ANY, "array": ARRAY, "file": FILE}
EXECUTION = {"execution.name": STRING, "execution.uid": STRING, "execution.namespace": STRING}
IN_FINALLY = {"execution.status": STRING, "execution.failedSteps": ExprType("array", STRING)}


def word(name: str) -> str:
    """A name as expressions write it: dashes as underscores."""
    return name.replace("-", "_")


def declared_type(declared: str) -> ExprType:
    """The expression type of a declared type. A `json` value may be anything, so nothing is assumed of it."""
    return _KINDS[declared]


@dataclass(frozen=True, slots=True)
class StepVariable:
    """What a variable `steps.<name>.…` stands for.

    Attributes:
        step: the step's real name.
        field: `outputs`, `status`, `exitCode` or `attempts`.
        output: the output's real name.
    """

    step: str
    field: str
    output: str = ""


class Scope:
    """All variables of one pipeline.

    Args:
        spec: the pipeline.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self.inputs: dict[str, str] = {}
        self.steps: dict[str, Step] = {}
        self.finals: set[str] = set()
        self.types: dict[str, ExprType] = dict(EXECUTION)
        self.variables: dict[str, StepVariable] = {}
        for declared in spec.inputs:
            self.inputs[f"inputs.{word(declared.name)}"] = declared.name
            optional = declared.required is False and declared.default is None
            self.types[f"inputs.{word(declared.name)}"] = declared_type(declared.type)._replace(nullable=optional)
        for step in (*spec.steps, *spec.finally_):
            self._add(step)
        self.finals = {word(step.name) for step in spec.finally_}

    def _add(self, step: Step) -> None:
        root = f"steps.{word(step.name)}"
        self.steps[word(step.name)] = step
        fields = {"status": STRING}
        if step.for_each is None:
            fields |= {"exitCode": NUMBER._replace(nullable=True), "attempts": NUMBER}
        for field, kind in fields.items():
            self.types[f"{root}.{field}"] = kind
            self.variables[f"{root}.{field}"] = StepVariable(step.name, field)
        for output in step.outputs:
            name = f"{root}.outputs.{word(output.name)}"
            kind = declared_type(output.type)
            self.types[name] = kind if step.for_each is None else ExprType("array", kind)
            self.variables[name] = StepVariable(step.name, "outputs", output.name)

    def lookup(self, name: str, extra: Mapping[str, ExprType], *, final: bool) -> ExprType | None:
        """Type of a variable at a place where `extra` variables exist too; None where there is no such variable."""
        if name in extra:
            return extra[name]
        if not final and (variable := self.variables.get(name)) and word(variable.step) in self.finals:
            return None
        return self.types.get(name)

    def explain(self, words: tuple[str, ...], extra: Mapping[str, ExprType], *, final: bool) -> str:
        """What to tell the author about a chain of words that no variable fits."""
        root, *rest = words
        if root == "inputs":
            return self._explain_input(rest)
        if root == "steps":
            return self._explain_step(rest, final=final)
        if root == "execution":
            if f"execution.{'.'.join(rest)}" in IN_FINALLY:
                return f'"execution.{rest[0]}" is known only in `finally` steps'
            known = [name.split(".")[1] for name in (EXECUTION | (IN_FINALLY if final else {}))]
            return f'"execution" has {_listed(known)}, written like execution.name'
        if root == "attempt":
            return '"attempt" is known only where an attempt is started: in step inputs and imageFrom'
        return f'"{root}" is known only in a step that has forEach'

    def _explain_input(self, rest: list[str]) -> str:
        known = [name.split(".", 1)[1] for name in self.inputs]
        if not rest:
            return 'write inputs.<name>, for example "inputs.rows"'
        if not known:
            return f'unknown input "{rest[0]}": the pipeline declares no inputs; add it under spec.inputs'
        return f'unknown input "{rest[0]}"{suggest(rest[0], known) or f"; declared are {_listed(known)}"}'

    def _explain_step(self, rest: list[str], *, final: bool) -> str:
        if not rest:
            return "write steps.<name>.outputs.<output>, steps.<name>.status or steps.<name>.exitCode"
        step = self.steps.get(rest[0])
        if step is None:
            known = [name for name in self.steps if final or name not in self.finals]
            return f'unknown step "{rest[0]}"{suggest(rest[0], known)}'
        if not final and rest[0] in self.finals:
            return f'"{step.name}" is a `finally` step: it runs after all others, so they cannot wait for it'
        if len(rest) >= 2 and rest[1] == "outputs":
            known = [word(output.name) for output in step.outputs]
            if len(rest) == 2:
                return f"write steps.{rest[0]}.outputs.<name>; declared are {_listed(known)}"
            if not known:
                return f'step "{step.name}" declares no outputs; add "{rest[2]}" under its outputs'
            hint = suggest(rest[2], known) or f"; it declares {_listed(known)}"
            return f'step "{step.name}" has no output "{rest[2]}"{hint}'
        if len(rest) >= 2 and rest[1] in {"exitCode", "attempts"}:
            return f'"{rest[1]}" is not known of step "{step.name}" as a whole, since it has forEach; use its status'
        hint = suggest(rest[1], ["outputs", "status", "exitCode", "attempts"]) if len(rest) > 1 else ""
        return f'step "{step.name}" has outputs.<name>, status, exitCode and attempts in expressions{hint}'


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
