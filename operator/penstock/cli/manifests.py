"""Reading and checking manifests for commands: structure, rules, graph, and what objects say of each other."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.api.deployment import Deployment
from penstock.api.execution import Execution
from penstock.api.manifest import Document, read
from penstock.api.pipeline import Pipeline, PipelineSpec
from penstock.api.problems import InvalidManifest, Loc, Problem, suggest
from penstock.engine.compile import check_pipeline


def read_all(paths: Sequence[str]) -> list[Document]:
    """The checked documents of files, folders and `-`; a file that cannot be read is a document with that problem."""
    documents: list[Document] = []
    for path in paths:
        try:
            documents += read(path)
        except InvalidManifest as error:
            documents.append(Document("", "", problems=tuple(error.problems), file=path))
    checked = [_with_graph(document) for document in documents]
    pipelines = {document.name: document.model.spec for document in checked if isinstance(document.model, Pipeline)}
    return [_with_references(document, pipelines) for document in checked]


def _with_graph(document: Document) -> Document:
    """Adds what is wrong with the graph and the expressions of a pipeline."""
    partial = document.partial
    if isinstance(partial, Pipeline):
        return document.judge(check_pipeline(partial.spec)[1])
    if isinstance(partial, Execution) and partial.spec.pipeline_spec is not None:
        return document.judge(check_pipeline(partial.spec.pipeline_spec, ("spec", "pipelineSpec"))[1])
    return document


def _with_references(document: Document, pipelines: dict[str, PipelineSpec]) -> Document:
    """Adds what does not fit between an execution or a deployment and its pipeline, if that is at hand."""
    model = document.model
    if isinstance(model, Execution):
        spec = model.spec.pipeline_spec or (pipelines.get(model.spec.pipeline.name) if model.spec.pipeline else None)
        if spec is not None:
            return document.judge(_binding_problems(spec, [(i.name, True) for i in model.spec.inputs], complete=True))
    if isinstance(model, Deployment) and (spec := pipelines.get(model.spec.pipeline.name)) is not None:
        # An endpoint maps what is not bound by its own name; a schedule has nobody to ask.
        inputs = [(i.name, not i.void) for i in model.spec.inputs]
        problems = _binding_problems(spec, inputs, complete=model.spec.schedule is not None)
        return document.judge([*problems, *_output_problems(spec, model)])
    return document


def _required(spec: PipelineSpec) -> list[str]:
    """Names of the inputs that an execution must give."""
    return [
        declared.name
        for declared in spec.inputs
        if (declared.required if declared.required is not None else "default" not in declared.model_fields_set)
    ]


def _binding_problems(spec: PipelineSpec, inputs: Sequence[tuple[str, bool]], *, complete: bool) -> list[Problem]:
    """What is wrong with the names of bound inputs; each comes with whether its binding gives a value."""
    known = [declared.name for declared in spec.inputs]
    problems = []
    for index, (name, _) in enumerate(inputs):
        if name not in known:
            loc: Loc = ("spec", "inputs", index, "name")
            problems.append(Problem(loc, f'the pipeline has no input "{name}"{suggest(name, known)}'))
    given = {name for name, gives in inputs if gives}
    voided = {name for name, gives in inputs if not gives}
    missing = [name for name in _required(spec) if name in voided or (complete and name not in given)]
    problems += [
        Problem(("spec", "inputs"), f'the pipeline requires the input "{name}"; give it a value') for name in missing
    ]
    return problems


def _output_problems(spec: PipelineSpec, model: Deployment) -> list[Problem]:
    known = [declared.name for declared in spec.outputs]
    problems = [
        Problem(
            ("spec", "outputs", index, "name"), f'the pipeline has no output "{bound.name}"{suggest(bound.name, known)}'
        )
        for index, bound in enumerate(model.spec.outputs)
        if bound.name not in known
    ]
    if model.spec.schedule is not None:
        bound_names = {bound.name for bound in model.spec.outputs}
        problems += [
            Problem(
                ("spec", "outputs"), f'a schedule must bind every output; "{name}" is not bound (void: true drops it)'
            )
            for name in known
            if name not in bound_names
        ]
    return problems
