"""Whether executions and deployments fit the pipeline that they name: one place for manifests, operator and gateway."""

from __future__ import annotations

from penstock.api.base import ValueType
from penstock.api.deployment import DeploymentSpec
from penstock.api.execution import ExecutionSpec
from penstock.api.pipeline import PipelineSpec
from penstock.api.problems import Problem, suggest
from penstock.engine.mapping import check
from penstock.engine.wiring import is_required
from penstock.storage.errors import BadObjectPath
from penstock.storage.paths import expand, parts


def deployment_problems(pipeline: PipelineSpec, deployment: DeploymentSpec) -> list[Problem]:
    """What does not fit between a deployment and its pipeline; each is without problems of its own."""
    found = check(pipeline, deployment)
    for index, bound in enumerate(deployment.inputs):
        if bound.object is not None and (wrong := _path_problem(bound.object)):
            found.append(Problem(("spec", "inputs", index, "object"), wrong))
    for index, output in enumerate(deployment.outputs):
        if output.object is not None and (wrong := _pattern_problem(output.object)):
            found.append(Problem(("spec", "outputs", index, "object"), wrong))
    return found


def execution_problems(pipeline: PipelineSpec, execution: ExecutionSpec) -> list[Problem]:
    """What does not fit between an execution and its pipeline; each is without problems of its own."""
    found = []
    inputs = [each.name for each in pipeline.inputs]
    for index, given in enumerate(execution.inputs):
        if given.name not in inputs:
            message = f'the pipeline has no input "{given.name}"{suggest(given.name, inputs)}'
            found.append(Problem(("spec", "inputs", index, "name"), message))
    names = {each.name for each in execution.inputs}
    found += [
        Problem(("spec", "inputs"), f'the pipeline requires the input "{each.name}"; give it a value')
        for each in pipeline.inputs
        if is_required(each) and each.name not in names
    ]
    outputs = {each.name: each.type for each in pipeline.outputs}
    for index, output in enumerate(execution.outputs):
        here = ("spec", "outputs", index)
        if output.name not in outputs:
            message = f'the pipeline has no output "{output.name}"{suggest(output.name, list(outputs))}'
            found.append(Problem((*here, "name"), message))
        elif output.object is not None:
            kind = outputs[output.name]
            wrong = _pattern_problem(output.object)
            if kind is not ValueType.FILE:
                wrong = f"only an output of type file goes to the data store, and this one is a {kind}"
            if wrong:
                found.append(Problem((*here, "object"), wrong))
    return found


def _path_problem(path: str) -> str:
    try:
        parts(path)
    except BadObjectPath as error:
        return str(error)
    return ""


def _pattern_problem(pattern: str) -> str:
    try:
        expand(pattern, execution_id="x", now=0)
    except BadObjectPath as error:
        return str(error)
    return ""
