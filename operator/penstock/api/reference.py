"""The reference of all manifest fields as Markdown, made from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from penstock.api.base import API_VERSION
from penstock.api.crd import KINDS
from penstock.api.schema import json_schema
from penstock.api.structural import Schema, listed

_HEAD: Final = f"""<!-- Made from the models in operator/penstock/api by `make generate`: change those. -->

# Fields of the manifests

Every field of the three kinds of `{API_VERSION}`: its type, its bounds, and what holds where it is
not given. Fields that are not listed here are refused. `penstock schema KIND` prints the same for editors, as JSON
Schema.
"""


def manifests() -> str:
    """The page `docs/reference/manifests.md`: a table for each model, after the one that first uses it."""
    parts = [_HEAD]
    seen: set[str] = set()
    for kind, of in KINDS.items():
        raw = of.model.model_json_schema(by_alias=True)["$defs"]
        schema = json_schema(kind)
        definitions = schema["$defs"] | {kind: schema}
        names = [name for name in _reachable(kind, definitions) if name not in seen]
        seen.update(names)
        for name in names:
            level = "##" if name == kind else "###"
            parts.append(_section(f"{level} {name}", definitions[name], definitions, raw.get(name, {})))
    return "\n".join(parts)


def _reachable(start: str, definitions: Schema) -> list[str]:
    """Models that have fields, from `start` on, depth first."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or "properties" not in definitions[name]:
            return
        order.append(name)
        for reference in _references(definitions[name]["properties"]):
            visit(reference)

    visit(start)
    return order


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield _name(node)
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _name(node: Schema) -> str:
    return str(node["$ref"]).removeprefix("#/$defs/")


def _section(heading: str, schema: Schema, definitions: Schema, raw: Schema) -> str:
    lines = [heading, "", schema.get("description", ""), ""]
    rules = [f"- {rule}" for rule in _rules(raw)]
    if rules:
        lines += [*rules, ""]
    lines += ["| field | type | if not given | meaning |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for field, node in sorted(schema["properties"].items(), key=lambda item: item[0] not in required):
        absent = "**required**" if field in required else _default(node)
        cells = (f"`{field}`", _type(node, definitions), absent, node.get("description", ""))
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join([*lines, ""])


def _rules(raw: Schema) -> Iterator[str]:
    if fields := raw.get("x-one-of"):
        yield f"Exactly one of {listed(fields, 'and')} is given."
    for field, others in raw.get("x-excludes", {}).items():
        yield f"`{field}` is not given together with {listed(others, 'or')}."
    for field, other in raw.get("x-needs", {}).items():
        yield f"`{field}` is given only together with `{other}`."
    if fields := raw.get("x-changeable"):
        yield f"Only {listed(fields, 'and')} can be changed once the object is there."
    for field in raw.get("x-one-way", ()):
        yield f"`{field}` cannot be taken back once it is true."


def _default(node: Schema) -> str:
    return f"`{json.dumps(node['default'])}`" if node.get("default", []) != [] else ""


def _type(node: Schema, definitions: Schema) -> str:
    """A type with its bounds, in words."""
    if "$ref" in node:
        name = _name(node)
        target = definitions[name]
        return f"[{name}](#{name.lower()})" if "properties" in target else _type(target, definitions)
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{value if isinstance(value, str) else json.dumps(value)}`" for value in node["enum"])
    if "anyOf" in node:
        return " or ".join(_type(branch, definitions) for branch in node["anyOf"])
    match node.get("type"):
        case "array":
            distinct = "distinct " if node.get("uniqueItems") else ""
            return f"list{_bounds(node, 'Items')} of {distinct}{_type(node['items'], definitions)}"
        case "object":
            values = node.get("additionalProperties")
            inner = f" to {_type(values, definitions)}" if isinstance(values, dict) else ""
            return f"map{_bounds(node, 'Properties')}{inner}"
        case "string":
            kind = "RFC 3339 time" if node.get("format") == "date-time" else f"string{_bounds(node, 'Length')}"
            return f"{kind}, `{node['pattern']}`" if "pattern" in node else kind
        case "integer":
            return f"integer{_range(node)}"
        case None:
            return "any JSON"
    return str(node["type"])


def _bounds(node: Schema, of: str) -> str:
    least, most = node.get(f"min{of}", 0), node.get(f"max{of}")
    if most is None:
        return ""
    return f" ({least} to {most:,})" if least else f" (at most {most:,})"


def _range(node: Schema) -> str:
    least = node.get("minimum")
    most = node["exclusiveMaximum"] - 1 if "exclusiveMaximum" in node else node.get("maximum")
    if least is None:
        return ""
    return f" ({least:,} or more)" if most is None else f" ({least:,} to {most:,})"
