"""Plain JSON Schema (draft 2020-12) of the kinds, for editors and for `penstock schema`.

Unlike the schema of a CustomResourceDefinition (`crd`) it keeps references, defaults and the refusal of unknown fields.
"""

from __future__ import annotations

from typing import Any, Final

from penstock.api.crd import KINDS
from penstock.api.structural import HINTS, Schema, formulas

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_MAPS: Final = frozenset({"properties", "$defs"})
"""Keywords whose value is a map from names to schemas: the names are no keywords."""


def json_schema(kind: str | None = None) -> dict[str, Any]:
    """The JSON Schema of one kind, or of all of them.

    Args:
        kind: `Pipeline`, `Deployment` or `Execution`; None for a schema that takes any of them.

    Raises:
        KeyError: there is no such kind.
    """
    if kind is not None:
        return {"$schema": DIALECT, "title": kind, **_of(kind)}
    definitions: Schema = {}
    for name in KINDS:
        schema = _of(name)
        definitions |= schema.pop("$defs", {})
        definitions[name] = schema
    # `if` and not `oneOf`: an editor then reports on the kind that was meant.
    branches = [
        {"if": {"properties": {"kind": {"const": name}}, "required": ["kind"]}, "then": {"$ref": f"#/$defs/{name}"}}
        for name in KINDS
    ]
    kinds = {"type": "string", "enum": list(KINDS), "description": "Kind of the manifest."}
    return {
        "$schema": DIALECT,
        "title": "Penstock manifest",
        "type": "object",
        "properties": {"kind": kinds},
        "required": ["kind"],
        "allOf": branches,
        "$defs": dict(sorted(definitions.items())),
    }


def _of(kind: str) -> Schema:
    schema: Schema = _plain(KINDS[kind].model.model_json_schema(by_alias=True))
    schema["required"] = ["apiVersion", "kind", *schema["required"]]
    return schema


def _plain(node: Any) -> Any:
    """One node without pydantic's noise, with the hints made into what they mean."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = _without_null(node)
    result: Schema = {}
    for key, value in node.items():
        if key in _MAPS:
            result[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key == "description":
            result[key] = " ".join(value.split())
        elif key == "default":
            if not isinstance(value, dict) and value is not None:  # an object's default is that of its fields
                result[key] = value
        elif key not in HINTS and key not in {"title", "x-kubernetes-int-or-string"}:
            result[key] = _plain(value)
    if node.get("x-list") == "set":
        result["uniqueItems"] = True
    rules = formulas(node)
    if rules:
        result["allOf"] = rules
    return result


def _without_null(node: Schema) -> Schema:
    """A field that may be left out is not a field that may be null: an API server drops those that are.

    Items of a list, which have no default, keep their null.
    """
    if "default" not in node or "anyOf" not in node:
        return node
    branches = [branch for branch in node["anyOf"] if branch != {"type": "null"}]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if len(branches) > 1:
        return {**rest, "anyOf": branches}
    return {**branches[0], **rest}
