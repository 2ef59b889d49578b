"""Objects of Penstock in the words of the Craft AI platform, and its mappings in ours. Pure translation.

Both spellings of what has changed between versions of its SDK are given: one reads `inputs[].input_name`, another
`parameters.inputs[].name`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.api.deployment import DeploymentInput, DeploymentOutput, DeploymentSpec
from penstock.api.labels import CREATED_BY, DEPLOYMENT, TRIGGER
from penstock.api.pipeline import PipelineSpec
from penstock.controller.contract import value_type
from penstock.gateway.problems import Problem
from penstock.step.values import JsonObject

STATUS: Mapping[str, str] = {
    "Pending": "Pending",
    "Suspended": "Pending",
    "Running": "Running",
    "Succeeded": "Succeeded",
    "Failed": "Failed",
    "Error": "Error",
    "Cancelled": "Failed",  # there is no such status there
}
"""Phases of executions."""
_STEP_STATUS: Mapping[str, str] = {
    "Retrying": "Running",
    "Cached": "Succeeded",
    "Omitted": "Skipped",
    "Cancelled": "Failed",
}


def pipeline(body: JsonObject) -> JsonObject:
    """A pipeline, as `pipelines/{name}` shows it."""
    meta, spec = body["metadata"], body["spec"]
    inputs = [_declared(each, "input") for each in spec.get("inputs") or ()]
    outputs = [_declared(each, "output") for each in spec.get("outputs") or ()]
    known = {"pipeline_name": meta["name"], "description": spec.get("description"), "container_config": {}}
    info = {"created_at": meta.get("creationTimestamp"), "created_by": "", "status": pipeline_status(body)}
    return {
        "parameters": {**known, "inputs": inputs, "outputs": outputs},
        "creation_info": {**info, "origin": "local"},
        **known,
        **info,
        "inputs": inputs,
        "outputs": outputs,
    }


def pipeline_status(body: JsonObject) -> str:
    """Whether it can run, in their words."""
    return {"True": "ready", "False": "creation_failed"}.get(_ready(body), "creation_pending")


def _declared(each: JsonObject, what: str) -> JsonObject:
    found = {"name": each["name"], f"{what}_name": each["name"], "data_type": each["type"]}
    found["description"] = each.get("description")
    if what == "input":
        found["is_required"] = each.get("required", "default" not in each)
        found["default_value"] = each.get("default")
    return found


def _ready(body: JsonObject) -> str:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return next((each["status"] for each in conditions if each["type"] == "Ready"), "Unknown")


def deployment(body: JsonObject, token: str | None) -> JsonObject:
    """A deployment, as `deployments/{name}` shows it.

    Args:
        body: the object.
        token: the endpoint's token, if whoever asks may know it.
    """
    meta, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    endpoint, schedule = spec.get("endpoint"), spec.get("schedule")
    found: JsonObject = {
        "id": meta["uid"],
        "name": meta["name"],
        "pipeline": {"name": spec["pipeline"]["name"]},
        "pipeline_name": spec["pipeline"]["name"],
        "mode": "elastic",
        "version": str(spec["pipeline"].get("revision", "")),
        "inputs_mapping": [_input_mapping(each) for each in spec.get("inputs") or ()],
        "outputs_mapping": [_output_mapping(each) for each in spec.get("outputs") or ()],
        "created_at": meta.get("creationTimestamp"),
        "created_by": (meta.get("annotations") or {}).get(CREATED_BY, ""),
        "updated_at": meta.get("creationTimestamp"),
        "updated_by": "",
        "is_enabled": not spec.get("suspend", False),
        "description": (meta.get("annotations") or {}).get("penstock.dev/description"),
        "status": deployment_status(body),
        "execution_rule": "endpoint" if endpoint else "periodic",
        "enable_parallel_executions": False,
        "max_parallel_executions_per_pod": 1,
    }
    if endpoint:
        found |= {"endpoint_url_path": endpoint["path"], "endpoint_token": token}
    if schedule:
        found |= {"schedule": schedule["cron"], "human_readable_schedule": status.get("summary") or schedule["cron"]}
    return found


def deployment_status(body: JsonObject) -> str:
    """Whether it can start executions, in their words."""
    if body["spec"].get("suspend"):
        return "disabled"
    return {"True": "up", "False": "creation_failed"}.get(_ready(body), "creation_pending")


def _input_mapping(each: JsonObject) -> JsonObject:
    source, value = _input_source(each)
    return {"pipeline_input_name": each["name"], "mapping_type": source, **value}


def _input_source(each: JsonObject) -> tuple[str, JsonObject]:
    if given := each.get("endpoint"):
        kept = {"endpoint_input_name": given["name"], "is_required": given.get("required"), "default_value": None}
        return "endpoint", kept | ({"default_value": given["default"]} if "default" in given else {})
    if "object" in each:
        return "datastore", {"datastore_path": each["object"]}
    if reference := each.get("configMapKeyRef"):
        return "environment_variable", {"environment_variable_name": reference["key"]}
    if each.get("void"):
        return "is_null", {"is_null": True}
    return "constant", {"constant_value": each.get("value")}


def _output_mapping(each: JsonObject) -> JsonObject:
    destination, value = _output_destination(each)
    return {"pipeline_output_name": each["name"], "mapping_type": destination, **value}


def _output_destination(each: JsonObject | None) -> tuple[str, JsonObject]:
    if each is None:
        return "run", {}
    if "endpoint" in each:
        return "endpoint", {"endpoint_output_name": each["endpoint"]}
    if "object" in each:
        return "datastore", {"datastore_path": each["object"]}
    return "is_null", {"is_null": True}


def execution_brief(body: JsonObject) -> JsonObject:
    """An execution, as lists show it."""
    meta, status = body["metadata"], body.get("status") or {}
    return {
        "execution_id": meta["name"],
        "status": STATUS.get(status.get("phase") or "Pending", "Pending"),
        "created_at": meta.get("creationTimestamp"),
        "created_by": (meta.get("annotations") or {}).get(CREATED_BY, ""),
        "end_date": status.get("finishedAt"),
        "pipeline_name": (body["spec"].get("pipeline") or {}).get("name"),
        "deployment_name": (meta.get("labels") or {}).get(DEPLOYMENT),
        "steps": [_step(each) for each in status.get("steps") or ()],
    }


def _step(each: JsonObject) -> JsonObject:
    return {
        "name": each["name"],
        "status": _STEP_STATUS.get(each["phase"], each["phase"]),
        "start_date": each.get("startedAt"),
        "end_date": each.get("finishedAt"),
        "commit_id": None,
        "repository_url": None,
        "repository_branch": None,
        "requirements_path": None,
        "origin": "local",
    }


def execution(
    body: JsonObject, spec: PipelineSpec | None, started_by: DeploymentSpec | None, *, values: bool = True
) -> JsonObject:
    """An execution with its inputs and outputs.

    Args:
        body: the object.
        spec: the pipeline that it runs, if that is known.
        started_by: its deployment, if that is known: it says where inputs came from.
        values: whether the values of inputs and outputs are wanted.
    """
    types = {} if spec is None else {each.name: str(each.type) for each in spec.inputs}
    bound = {} if started_by is None else {each.name: each.manifest() for each in started_by.inputs}
    trigger = (body["metadata"].get("labels") or {}).get(TRIGGER, "run")
    inputs = []
    for each in body["spec"].get("inputs") or ():
        source, how = _given(each, bound.get(each["name"]), trigger)
        kind = types.get(each["name"]) or ("file" if "object" in each else value_type(each.get("value")))
        item = {"pipeline_input_name": each["name"], "data_type": kind, "mapping_type": source, "mapping_value": how}
        inputs.append(item | ({"value": each.get("value")} if values else {}))
    return execution_brief(body) | {"inputs": inputs, "outputs": outputs(body, spec, values=values)}


def _given(each: JsonObject, bound: JsonObject | None, trigger: str) -> tuple[str, JsonObject]:
    if bound is not None:
        return _input_source(bound)
    if trigger == "endpoint":
        return "endpoint", {"endpoint_input_name": each["name"]}
    if "object" in each and not each["object"].startswith("uploads/"):
        return "datastore", {"datastore_path": each["object"]}
    return "run", {}


def outputs(body: JsonObject, spec: PipelineSpec | None, *, values: bool = True) -> list[JsonObject]:
    """The outputs of an execution."""
    types = {} if spec is None else {each.name: str(each.type) for each in spec.outputs}
    bound = {each["name"]: each for each in body["spec"].get("outputs") or ()}
    found = []
    for entry in (body.get("status") or {}).get("outputs") or ():
        name = entry["name"]
        destination, how = _output_destination(bound.get(name))
        kind = types.get(name) or ("file" if "file" in entry else value_type(entry.get("value")))
        item = {
            "pipeline_output_name": name,
            "data_type": kind,
            "mapping_type": destination,
            "mapping_value": how,
        }
        shown = None if destination == "is_null" else entry.get("value")
        found.append(item | ({"value": shown} if values else {}))
    return found


# --- their mappings in our words ---


def bindings(
    inputs: Sequence[JsonObject] | None, outputs: Sequence[JsonObject] | None
) -> tuple[list[DeploymentInput], list[DeploymentOutput]]:
    """Mappings of inputs and outputs.

    Raises:
        Problem: one of them is none, or has no counterpart here.
    """
    found = [DeploymentInput.model_validate(_binding(each)) for each in inputs or ()]
    return found, [DeploymentOutput.model_validate(_destination(each)) for each in outputs or ()]


def _binding(each: JsonObject) -> JsonObject:
    name = each.get("pipeline_input_name") or each.get("step_input_name")
    if not isinstance(name, str):
        raise Problem(422, "BadMapping", "inputs_mapping: an entry names no input (pipeline_input_name)")
    sources = [key for key in _SOURCES if each.get(key) is not None]
    if len(sources) != 1:
        raise Problem(422, "BadMapping", f'inputs_mapping: "{name}" must have one of {", ".join(_SOURCES)}')
    value = each[sources[0]]
    match sources[0]:
        case "constant_value":
            return {"name": name, "value": value}
        case "datastore_path":
            return {"name": name, "object": value}
        case "is_null":
            return {"name": name, "value": None}
        case "environment_variable_name":
            raise Problem(
                501,
                "NotSupported",
                f'inputs_mapping: "{name}" comes from an environment variable; here values of an environment are in '
                "ConfigMaps, which a Deployment names (configMapKeyRef)",
            )
    given = {"name": value}
    given |= {"required": each["is_required"]} if each.get("is_required") is not None else {}
    return {"name": name, "endpoint": given | ({"default": each["default_value"]} if "default_value" in each else {})}


_SOURCES = ("constant_value", "datastore_path", "is_null", "environment_variable_name", "endpoint_input_name")


def _destination(each: JsonObject) -> JsonObject:
    name = each.get("pipeline_output_name") or each.get("step_output_name")
    if not isinstance(name, str):
        raise Problem(422, "BadMapping", "outputs_mapping: an entry names no output (pipeline_output_name)")
    if each.get("is_null"):
        return {"name": name, "void": True}
    if each.get("datastore_path") is not None:
        return {"name": name, "object": each["datastore_path"]}
    if each.get("endpoint_output_name") is not None:
        return {"name": name, "endpoint": each["endpoint_output_name"]}
    raise Problem(
        422, "BadMapping", f'outputs_mapping: "{name}" must have one of is_null, datastore_path, endpoint_output_name'
    )
