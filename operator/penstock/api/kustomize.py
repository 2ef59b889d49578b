"""What Kustomize has to be told of the three kinds: which lists are merged, and by which field of their items.

It takes that from an OpenAPI document; of a kind that is in none it replaces every list as a whole.
"""

from __future__ import annotations

import json

from penstock.api.base import GROUP, VERSION
from penstock.api.crd import KINDS, crd
from penstock.api.structural import Schema


def render() -> str:
    """The document, for the field `openapi` of a kustomization."""
    definitions = {f"dev.penstock.{VERSION}.{kind}": _definition(kind) for kind in KINDS}
    return json.dumps({"definitions": definitions}, indent=1) + "\n"


def _definition(kind: str) -> Schema:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return {
        "type": "object",
        "properties": {"spec": _merged(schema["properties"]["spec"])},
        "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": kind}],
    }


def _merged(node: Schema) -> Schema:
    """As much of a schema as leads to lists that are merged; empty if it has none."""
    if "items" in node:
        inner, keys = _merged(node["items"]), node.get("x-kubernetes-list-map-keys", ())
        if not inner and not keys:
            return {}
        found: Schema = {"type": "array", "items": inner or {"type": "object"}}
        if keys:
            found |= {"x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": keys[0]}
        return found
    fields = {name: inner for name, child in node.get("properties", {}).items() if (inner := _merged(child))}
    return {"type": "object", "properties": fields} if fields else {}
