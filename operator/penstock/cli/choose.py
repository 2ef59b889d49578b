"""Which object of the files given is meant."""

from __future__ import annotations

from collections.abc import Sequence

import click

from penstock.api.execution import Execution
from penstock.api.manifest import Document
from penstock.api.pipeline import Pipeline, PipelineSpec


def one_pipeline(documents: Sequence[Document], wanted: str | None) -> tuple[str, PipelineSpec]:
    """The name and spec of the pipeline that is meant; one written inside an execution counts too.

    Raises:
        click.UsageError: there is none, or there are several and none is named.
    """
    found: dict[str, PipelineSpec] = {}
    for document in documents:
        model = document.model
        if isinstance(model, Pipeline):
            found[document.name] = model.spec
        elif isinstance(model, Execution) and model.spec.pipeline_spec is not None:
            found[document.name or (model.metadata.generate_name or "execution-").rstrip("-")] = (
                model.spec.pipeline_spec
            )
    if not found:
        raise click.UsageError("There is no Pipeline in what was given.")
    if wanted is not None:
        if wanted not in found:
            raise click.UsageError(f'There is no pipeline "{wanted}"; there are: {", ".join(found)}.')
        return wanted, found[wanted]
    if len(found) > 1:
        raise click.UsageError(f"There are several pipelines: {', '.join(found)}. Say which one with --pipeline NAME.")
    return next(iter(found.items()))
