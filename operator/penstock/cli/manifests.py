"""Reading and checking manifests for commands: structure, rules, graph, and what objects say of each other."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.api.deployment import Deployment
from penstock.api.execution import Execution
from penstock.api.manifest import Document, read
from penstock.api.pipeline import Pipeline, PipelineSpec
from penstock.api.problems import InvalidManifest
from penstock.controller.checking import deployment_problems, execution_problems
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
        return document if spec is None else document.judge(execution_problems(spec, model.spec))
    if isinstance(model, Deployment) and (spec := pipelines.get(model.spec.pipeline.name)) is not None:
        return document.judge(deployment_problems(spec, model.spec))
    return document
