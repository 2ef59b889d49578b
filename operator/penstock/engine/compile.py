"""Reading a pipeline once: the graph, checked expressions, merged defaults. What is derived here is kept out of passes.

Pure; everything wrong with the graph is found and reported at once, with field path, text and column.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.api.pipeline import ForEach, PipelineOutput, PipelineSpec, Step, StepInput
from penstock.api.problems import InvalidManifest, Problem, suggest
from penstock.engine import fingerprint
from penstock.engine.expressions import ANY, BOOLEAN, NUMBER, STRING, Expr, ExprType, check
from penstock.engine.scope import IN_FINALLY, Scope, declared_type
from penstock.engine.types import Value

Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class BoundInput:
    """One input of a step, ready to be evaluated: `expr`, or the literal `value`."""

    name: str
    expr: Expr | None
    value: Value
    has_default: bool
    default: Value


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a fan-out's matrix, or its only list (`name` is empty)."""

    name: str
    expr: Expr | None
    items: Sequence[Value]


@dataclass(frozen=True, slots=True)
class FanOut:
    """A compiled `forEach`."""

    axes: tuple[Axis, ...]
    matrix: bool
    include: Sequence[Mapping[str, Any]]
    exclude: Sequence[Mapping[str, Any]]
    max_parallel: int | None


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step with all that can be known before an execution.

    Attributes:
        name: its name.
        spec: the step with the pipeline's defaults merged in.
        position: its place in the manifest; the order in which steps are started where nothing else decides.
        final: whether it is a `finally` step.
        deps: steps that it waits for.
        soft: those of `deps` whose being skipped it can do without: every binding that refers to them has a default or
            asks for their status.
        inputs: its bindings.
        when: its condition.
        takes_over: whether the condition asks for the status of steps, and so decides whatever became of them.
        when_each: whether the condition is asked for each item of the fan-out.
        image: `imageFrom`.
        fan_out: `forEach`.
        cache_key: `cache.key`.
        recovers: whether it, or a step it depends on, takes over: it may still run after a failure.
        fingerprint: digest of what the step is, without its inputs.
    """

    name: str
    spec: Step
    position: int
    final: bool
    deps: tuple[str, ...]
    soft: frozenset[str]
    inputs: tuple[BoundInput, ...]
    when: Expr | None
    takes_over: bool
    when_each: bool
    image: Expr | None
    fan_out: FanOut | None
    cache_key: Expr | None
    recovers: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class CompiledPipeline:
    """A pipeline revision, ready to be run any number of times.

    Attributes:
        spec: as written.
        steps: all steps by name, `finally` steps last.
        dependants: the steps that wait for a step.
        order: the names of the main steps, each after all that it waits for.
        main: names of the main steps in the order of the manifest.
        finals: names of the `finally` steps.
        outputs: declarations of the pipeline's outputs with their expressions.
        scope: what names mean.
        programs: compiled expressions by text, filled as they are needed.
    """

    spec: PipelineSpec
    steps: Mapping[str, CompiledStep]
    dependants: Mapping[str, tuple[str, ...]]
    order: tuple[str, ...]
    main: tuple[str, ...]
    finals: tuple[str, ...]
    outputs: tuple[tuple[PipelineOutput, Expr], ...]
    scope: Scope
    programs: dict[tuple[str, bool], Any] = field(default_factory=dict)


def compile_pipeline(spec: PipelineSpec) -> CompiledPipeline:
    """Compile a pipeline that is structurally right (`api.rules` finds nothing).

    Raises:
        InvalidManifest: with everything that is wrong with its graph and expressions.
    """
    compiled, problems = check_pipeline(spec)
    if compiled is None:
        raise InvalidManifest(problems)
    return compiled


def check_pipeline(spec: PipelineSpec, loc: Loc = ("spec",)) -> tuple[CompiledPipeline | None, tuple[Problem, ...]]:
    """Compile a pipeline, or say all that is wrong with it.

    Args:
        spec: the pipeline.
        loc: where it is in its manifest.
    """
    return _Compiler(spec, loc).run()


class _Compiler:
    """Collects problems while it builds; one instance reads one pipeline."""

    def __init__(self, spec: PipelineSpec, loc: Loc) -> None:
        self.spec = spec
        self.loc = loc
        self.scope = Scope(spec)
        self.problems: list[Problem] = []
        self.names = {step.name for step in (*spec.steps, *spec.finally_)}
        self.final_names = {step.name for step in spec.finally_}

    def run(self) -> tuple[CompiledPipeline | None, tuple[Problem, ...]]:
        steps: dict[str, CompiledStep] = {}
        sections = (("steps", self.spec.steps, False), ("finally", self.spec.finally_, True))
        locs: dict[str, Loc] = {}
        for section, written, final in sections:
            for index, step in enumerate(written):
                locs[step.name] = (*self.loc, section, index)
                steps[step.name] = self.step(step, locs[step.name], position=len(steps), final=final)
        order = self.order(steps, locs)
        outputs = [self.output(output, (*self.loc, "outputs", i)) for i, output in enumerate(self.spec.outputs)]
        if self.problems:
            return None, tuple(self.problems)
        self.mark_recovering(steps, order)
        dependants: dict[str, list[str]] = {name: [] for name in steps}
        for each in steps.values():
            for dep in each.deps:
                dependants[dep].append(each.name)
        compiled = CompiledPipeline(
            spec=self.spec,
            steps=steps,
            dependants={name: tuple(names) for name, names in dependants.items()},
            order=tuple(name for name in order if not steps[name].final),
            main=tuple(step.name for step in self.spec.steps),
            finals=tuple(step.name for step in self.spec.finally_),
            outputs=tuple((declared, expr) for declared, expr in outputs if expr is not None),
            scope=self.scope,
        )
        return compiled, ()

    def problem(self, loc: Loc, message: str, expression: str | None = None, column: int | None = None) -> None:
        self.problems.append(Problem(loc=loc, message=message, expression=expression, column=column))

    def expr(
        self, text: str, loc: Loc, extra: Mapping[str, ExprType], *, final: bool, own: str | None = None
    ) -> Expr | None:
        """Check one expression at one place."""

        def explain(words: tuple[str, ...]) -> str:
            return self.scope.explain(words, extra, final=final)

        compiled, found = check(text, lambda name: self.scope.lookup(name, extra, final=final), explain)
        for problem in found:
            self.problem(loc, problem.message, text, problem.column)
        if compiled is None:
            return None
        for reference in compiled.references:
            variable = self.scope.variables.get(reference.name)
            if variable is not None and variable.step == own:
                self.problem(loc, "a step cannot refer to itself", text, reference.column)
                return None
        if compiled.type.kind in {"bytes", "timestamp", "duration"}:
            self.problem(
                loc, f"gives a {compiled.type.kind}, which is no JSON value; write string(…) around it", text, 1
            )
            return None
        return compiled

    def typed(
        self,
        text: str,
        loc: Loc,
        extra: Mapping[str, ExprType],
        wanted: ExprType,
        what: str,
        *,
        final: bool,
        own: str | None,
    ) -> Expr | None:
        """Check an expression that must give a certain type."""
        compiled = self.expr(text, loc, extra, final=final, own=own)
        if compiled is not None and compiled.type.kind not in {wanted.kind, "any"}:
            article = "an" if wanted.kind == "array" else "a"
            self.problem(loc, f"{what} must be {article} {wanted}, this gives a {compiled.type}", text, 1)
            return None
        return compiled

    def step(self, step: Step, loc: Loc, *, position: int, final: bool) -> CompiledStep:
        merged = merge_defaults(step, self.spec)
        base: dict[str, ExprType] = dict(IN_FINALLY) if final else {}
        fan_out, item = (
            (None, {}) if step.for_each is None else self.fan_out(step.for_each, loc, base, step.name, final)
        )
        each = base | item
        when = None
        if step.when is not None:
            when = self.typed(step.when, (*loc, "when"), each, BOOLEAN, "`when`", final=final, own=step.name)
        attempt = each | {"attempt": NUMBER}
        inputs = tuple(
            self.binding(binding, (*loc, "inputs", index), attempt, step.name, final=final)
            for index, binding in enumerate(step.inputs)
        )
        image = cache_key = None
        if step.image_from is not None:
            image = self.typed(
                step.image_from, (*loc, "imageFrom"), attempt, STRING, "`imageFrom`", final=final, own=step.name
            )
        if step.cache is not None and step.cache.key is not None:
            cache_key = self.expr(step.cache.key, (*loc, "cache", "key"), each, final=final, own=step.name)
            if cache_key is not None and (cache_key.type.kind == "file" or cache_key.type.is_files):
                self.problem(
                    (*loc, "cache", "key"), "a file is no key; make it an input, whose digest counts", step.cache.key, 1
                )
        takes_over = when is not None and when.mentions(self._asks_status)
        deps, soft = self.edges(step, loc, when, image, cache_key, fan_out, inputs, final=final)
        return CompiledStep(
            name=step.name,
            spec=merged,
            position=position,
            final=final,
            deps=deps,
            soft=soft,
            inputs=inputs,
            when=when,
            takes_over=takes_over,
            when_each=when is not None and fan_out is not None and when.mentions(_is_item),
            image=image,
            fan_out=fan_out,
            cache_key=cache_key,
            recovers=takes_over,
            fingerprint=fingerprint.of_step(merged),
        )

    def _asks_status(self, name: str) -> bool:
        variable = self.scope.variables.get(name)
        return variable is not None and variable.field in {"status", "exitCode"}

    def binding(
        self, binding: StepInput, loc: Loc, extra: Mapping[str, ExprType], own: str, *, final: bool
    ) -> BoundInput:
        expr = None
        if binding.from_ is not None:
            expr = self.expr(binding.from_, (*loc, "from"), extra, final=final, own=own)
        return BoundInput(
            name=binding.name,
            expr=expr,
            value=binding.value,
            has_default="default" in binding.model_fields_set,
            default=binding.default,
        )

    def fan_out(
        self, for_each: ForEach, loc: Loc, extra: Mapping[str, ExprType], own: str, final: bool
    ) -> tuple[FanOut, dict[str, ExprType]]:
        """Compile `forEach`, and say what `item` and `index` are in the step's expressions."""
        at = (*loc, "forEach")
        item = ANY
        if for_each.matrix is not None:
            axes = tuple(
                self.axis(axis.name, axis.from_, axis.items or [], (*at, "matrix", i, "from"), extra, own, final)
                for i, axis in enumerate(for_each.matrix)
            )
        else:
            axes = (self.axis("", for_each.from_, for_each.items or [], (*at, "from"), extra, own, final),)
            if axes[0].expr is not None and axes[0].expr.type.item is not None:
                item = axes[0].expr.type.item
        compiled = FanOut(
            axes=axes,
            matrix=for_each.matrix is not None,
            include=for_each.include or [],
            exclude=for_each.exclude or [],
            max_parallel=for_each.max_parallel,
        )
        return compiled, {"item": item, "index": NUMBER}

    def axis(
        self,
        name: str,
        text: str | None,
        items: Sequence[Value],
        loc: Loc,
        extra: Mapping[str, ExprType],
        own: str,
        final: bool,
    ) -> Axis:
        expr = None
        if text is not None:
            expr = self.typed(text, loc, extra, ExprType("array"), "what `forEach` goes over", final=final, own=own)
            if name and expr is not None and expr.type.is_files:
                self.problem(loc, "files cannot be an axis of a matrix; use forEach.from for them", text, 1)
        return Axis(name, expr, items)

    def edges(
        self,
        step: Step,
        loc: Loc,
        when: Expr | None,
        image: Expr | None,
        cache_key: Expr | None,
        fan_out: FanOut | None,
        inputs: Sequence[BoundInput],
        *,
        final: bool,
    ) -> tuple[tuple[str, ...], frozenset[str]]:
        """The steps that a step waits for, and those whose being skipped it can do without."""
        hard: dict[str, None] = {}
        soft: dict[str, None] = {}
        for index, name in enumerate(step.depends_on):
            at = (*loc, "dependsOn", index)
            if name not in self.names:
                self.problem(at, f'unknown step "{name}"{suggest(name, sorted(self.names))}')
            elif name == step.name:
                self.problem(at, "a step cannot wait for itself")
            elif name in self.final_names and not final:
                self.problem(at, f'"{name}" is a `finally` step: it runs after all others, so they cannot wait for it')
            else:
                hard[name] = None
        needed = [when, image, cache_key, *(axis.expr for axis in (fan_out.axes if fan_out else ()))]
        for expr in (expr for expr in needed if expr is not None):
            hard |= dict.fromkeys(self.producers(expr))
        for bound in inputs:
            if bound.expr is None:
                continue
            asked = {self.scope.variables[r.name].step for r in bound.expr.references if self._asks_status(r.name)}
            for name in self.producers(bound.expr):
                (soft if bound.has_default or name in asked else hard)[name] = None
        deps = [name for name in (hard | soft) if not final or name in self.final_names]
        return tuple(deps), frozenset(soft.keys() - hard.keys())

    def producers(self, expr: Expr) -> list[str]:
        """The steps that an expression refers to, in order, each once."""
        variables = (self.scope.variables.get(reference.name) for reference in expr.references)
        return list(dict.fromkeys(variable.step for variable in variables if variable is not None))

    def order(self, steps: Mapping[str, CompiledStep], locs: Mapping[str, Loc]) -> list[str]:
        """Names so that each comes after all that it waits for (Kahn's algorithm); cycles are problems."""
        left = {name: len(step.deps) for name, step in steps.items()}
        after: dict[str, list[str]] = {name: [] for name in steps}
        for step in steps.values():
            for dep in step.deps:
                after[dep].append(step.name)
        ready = deque(name for name, count in left.items() if count == 0)
        order = []
        while ready:
            name = ready.popleft()
            order.append(name)
            for dependant in after[name]:
                left[dependant] -= 1
                if left[dependant] == 0:
                    ready.append(dependant)
        stuck = [name for name in steps if left[name] > 0]
        if stuck:
            ring = _ring(steps, set(stuck))
            self.problem(
                locs[ring[0]],
                f"steps wait for each other: {' -> '.join((*ring, ring[0]))}; take out one of these references",
            )
        return order

    def mark_recovering(self, steps: dict[str, CompiledStep], order: Sequence[str]) -> None:
        for name in order:
            step = steps[name]
            if not step.recovers and any(steps[dep].recovers for dep in step.deps):
                steps[name] = replace(step, recovers=True)

    def output(self, output: PipelineOutput, loc: Loc) -> tuple[PipelineOutput, Expr | None]:
        expr = self.expr(output.from_, (*loc, "from"), {}, final=False)
        if expr is None:
            return output, None
        wanted, given = declared_type(output.type), expr.type
        fits = given.kind in {"any", wanted.kind} or (output.type == "json" and given.kind != "file")
        if given.is_files:
            self.problem(
                (*loc, "from"),
                "a list of files cannot be an output of the pipeline; pick one, for example with [0]",
                output.from_,
                1,
            )
        elif not fits or (given.kind == "any" and wanted.kind == "file"):
            self.problem(
                (*loc, "from"), f"the output is declared as {output.type}, this gives a {given}", output.from_, 1
            )
        return output, expr


def _is_item(name: str) -> bool:
    return name.split(".", 1)[0] in {"item", "index"}


def _ring(steps: Mapping[str, CompiledStep], stuck: set[str]) -> list[str]:
    """One cycle among steps of which each waits for another of them."""
    name = min(stuck, key=lambda name: steps[name].position)
    path: list[str] = []
    while name not in path:
        path.append(name)
        name = next(dep for dep in steps[name].deps if dep in stuck)
    ring = path[path.index(name) :]
    start = min(range(len(ring)), key=lambda i: steps[ring[i]].position)
    return ring[start:] + ring[:start]


def merge_defaults(step: Step, spec: PipelineSpec) -> Step:
    """A step with the pipeline's defaults: its own settings win; `env` is merged by name, `envFrom` put together."""
    defaults = spec.defaults
    if defaults is None:
        return step
    update: dict[str, Any] = {}
    if step.image is None and step.image_from is None:
        update["image"] = defaults.image
    for name in ("retry", "timeout_seconds", "resources", "pod_template"):
        if getattr(step, name) is None:
            update[name] = getattr(defaults, name)
    if defaults.env:
        own = step.env or []
        mine = {variable.name for variable in own}
        update["env"] = [variable for variable in defaults.env if variable.name not in mine] + own
    if defaults.env_from:
        update["env_from"] = [*defaults.env_from, *(step.env_from or [])]
    return step.model_copy(update={name: value for name, value in update.items() if value is not None})
