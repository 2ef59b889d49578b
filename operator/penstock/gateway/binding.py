"""From what a caller has sent to the inputs and outputs of an execution; what is wrong with it, as an answer."""

from __future__ import annotations

from penstock.api.pipeline import PipelineSpec
from penstock.controller.serving import Backend, Served
from penstock.engine.mapping import Fault, Given, NotBound, ObjectAt, bind, config_keys
from penstock.engine.types import Limits
from penstock.gateway.calls import Call
from penstock.gateway.problems import Problem
from penstock.step.values import JsonObject


async def bind_call(backend: Backend, served: Served, pipeline: PipelineSpec, call: Call, limits: Limits) -> JsonObject:
    """`inputs` and `outputs` of the execution of a call, as its spec has them.

    Raises:
        Problem: what was sent does not fit (422) or is too large (413), or a ConfigMap does not (409).
    """
    given: dict[str, Given] = {**call.values, **{name: ObjectAt(path) for name, path in call.files.items()}}
    keys = config_keys(served.spec)
    config = await backend.config(served.namespace, keys) if keys else {}
    try:
        bound = bind(pipeline, served.spec, given, config, limit=limits.input_bytes)
    except NotBound as error:
        raise _problem(served, error) from None
    found: JsonObject = {"inputs": [each.manifest() for each in bound.inputs]}
    if bound.outputs:
        found["outputs"] = [each.manifest() for each in bound.outputs]
    return found


def _problem(served: Served, error: NotBound) -> Problem:
    faults = {mistake.fault for mistake in error.mistakes}
    data = {"inputs": [{"name": each.name, "fault": str(each.fault)} for each in error.mistakes]}
    if Fault.CONFIG in faults:  # the caller can do nothing about it
        return Problem(409, "NotReady", f'the deployment "{served.name}" cannot run: {error}')
    if faults == {Fault.TOO_LARGE}:
        return Problem(413, "InputsTooLarge", str(error))
    if len(faults) == 1:
        names = {Fault.UNKNOWN: "UnknownInput", Fault.MISSING: "MissingInput", Fault.WRONG_TYPE: "WrongType"}
        return Problem(422, names[faults.pop()], str(error), data=data)
    return Problem(422, "InvalidInputs", str(error), data=data)
