"""Schemas of what is served, as the Kubernetes API publishes them: for `kubectl explain`, and for `kubectl apply`.

That one asks whether the server checks manifests, and would check them itself if it did not say so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from penstock import __version__
from penstock.api.crd import KINDS as DEFINED
from penstock.api.crd import crd
from penstock.local.apikinds import KINDS, REVISIONS, Kind
from penstock.step.values import JsonObject

_ROOT = "/openapi/v3"
_TEXT = {"type": "string"}
_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")


def openapi(path: str) -> JsonObject | None:
    """What is found at the paths of schemas; None for all others."""
    if path == _ROOT:
        places = dict.fromkeys(_place(kind) for kind in KINDS.values())
        return {"paths": {place: {"serverRelativeURL": f"{_ROOT}/{place}"} for place in places}}
    if path.startswith(f"{_ROOT}/"):
        kinds = [kind for kind in KINDS.values() if _place(kind) == path.removeprefix(f"{_ROOT}/")]
        return _document(tuple(kinds)) if kinds else None
    return None


def _place(kind: Kind) -> str:
    return f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"


@cache
def _document(kinds: tuple[Kind, ...]) -> JsonObject:
    paths: JsonObject = {}
    schemas: JsonObject = {}
    for kind in kinds:
        named = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        name = f"{'.'.join(reversed((kind.group or 'core.api.k8s.io').split('.')))}.{kind.version}.{kind.kind}"
        schemas[name] = {**_schema(kind), "x-kubernetes-group-version-kind": [named]}
        where = "/namespaces/{namespace}" if kind.namespaced else ""
        operations: JsonObject = {"get": _operation("get", named, name)}
        if "patch" in kind.verbs:
            operations["patch"] = {
                **_operation("patch", named, name),
                "parameters": [{"name": each, "in": "query", "schema": _TEXT} for each in _PARAMETERS],
            }
        paths[f"/{_place(kind)}{where}/{kind.plural}/{{name}}"] = operations
    info = {"title": "Penstock", "version": __version__}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _operation(action: str, named: JsonObject, schema: str) -> JsonObject:
    found = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {
        "responses": {"200": {"description": "OK", "content": found}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": named,
    }


def _schema(kind: Kind) -> JsonObject:
    if kind.kind in DEFINED and kind.model is not None:
        found: JsonObject = crd(kind.kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return found
    texts: JsonObject = {"type": "object", "additionalProperties": _TEXT}
    fields: dict[str, Any] = {"apiVersion": _TEXT, "kind": _TEXT, "metadata": {"type": "object"}}
    fields |= {field: texts if "ata" in field else {} for field in sorted(kind.fields)}
    if kind is REVISIONS:
        fields |= {"data": {"type": "object"}, "revision": {"type": "integer"}}
    return {"type": "object", "properties": fields}
