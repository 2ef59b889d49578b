"""From a model's JSON Schema to the structural schema of a CustomResourceDefinition: one pure function, `structural`.

What an API server refuses, or would silently drop, is refused here with the place in the model. Names, columns and
versions of the definitions are in `crd`.

Models give hints through `json_schema_extra`:

- on a list, `x-list`: the key of its items (`name`, `type`, `index`), or `set`; a list without it is `atomic`;
- on a map, `x-open`: an object whose content is not ours to check;
- on a model, `x-one-of`: exactly one of these fields is given;
- on a model, `x-excludes`: a field, and the fields that may not be given beside it;
- on a model, `x-needs`: a field, and the one that must be given with it;
- on a model, `x-changeable`: all fields but these are immutable; `x-one-way`: those of them that may only become true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

Schema: TypeAlias = dict[str, Any]

HINTS: Final = frozenset({"x-list", "x-open", "x-one-of", "x-excludes", "x-needs", "x-changeable", "x-one-way"})
"""Every hint that a model may give."""

_NOISE: Final = frozenset({"title", "default", "examples", "additionalProperties", "properties", "items", "required"})
_SCALAR_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "string": frozenset({"enum", "format", "maxLength", "minLength", "pattern"}),
    "integer": frozenset({"enum", "format", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"}),
    "boolean": frozenset({"enum"}),
    "array": frozenset({"maxItems", "minItems"}),
    "object": frozenset({"maxProperties", "minProperties"}),
}
_ANY: Final[Schema] = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
_INT32: Final = 2**31 - 1
_NOT_RE2: Final = re.compile(r"\(\?(?:[=!>(]|<[=!]|P=)|\\[1-9]|\\Z|[*+?}]\+")

_CEL_RESERVED: Final = frozenset((
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return", "var", "void", "while",
))  # fmt: skip
"""Field names that CEL writes as `__name__`."""


class SchemaError(ValueError):
    """A model that an API server would not take; names the place in the model."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a kind the conversion is.

    Attributes:
        path: for messages, for example `Pipeline.spec.steps[].env[]`.
        times: how often an object at this place may occur: the product of the bounds of the lists around it.
        models: definitions that are being inlined, outermost first.
    """

    path: str
    times: int = 1
    models: tuple[str, ...] = ()

    def down(self, name: str, times: int = 1) -> _Place:
        return replace(self, path=self.path + name, times=self.times * times)

    def error(self, message: str) -> SchemaError:
        return SchemaError(f"{self.path}: {message}")


def structural(schema: Mapping[str, Any], *, kind: str, cel_places: int = 20_000) -> Schema:
    """The structural schema of a kind.

    Args:
        schema: what pydantic's `model_json_schema(by_alias=True)` gives.
        kind: name of the kind, for messages.
        cel_places: how often an object may occur at most for its rules to be CEL, which reports in words; where it may
            occur more often they are structural (`oneOf`, `not`), which is cheaper and reports in formulas. An API
            server counts the cost of a CEL rule that often, and takes about 10 µs for each.

    Raises:
        SchemaError: an API server would refuse or silently change it, or something in it has no bound.
    """
    definitions = schema.get("$defs", {})
    root = {key: value for key, value in schema.items() if key != "$defs"}
    return _Converter(definitions, cel_places).convert(root, _Place(kind, models=(kind,)))


class _Converter:
    """Holds the definitions while one schema is converted."""

    def __init__(self, definitions: Mapping[str, Schema], cel_places: int) -> None:
        self._definitions = definitions
        self._cel_places = cel_places

    def convert(self, node: Schema, place: _Place, *, keep_null: bool = False) -> Schema:
        """Converts one node. `keep_null`: null is a value here (an item of a list), not the absence of a field."""
        node, nullable, place = self._flatten(node, place)
        result: Schema = {}
        if "description" in node:
            result["description"] = " ".join(node["description"].split())
        if _is_any(node):
            return result | _ANY
        result |= self._typed(node, place)
        if nullable and keep_null:
            result["nullable"] = True
        return result

    def _typed(self, node: Schema, place: _Place) -> Schema:
        if node.get("x-open"):
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        if node.get("x-kubernetes-int-or-string"):
            return self._int_or_string(node, place)
        kind = node.get("type")
        match kind:
            case "object":
                return self._object(node, place)
            case "array":
                return self._array(node, place)
            case "string" | "integer" | "boolean":
                return _scalar(node, kind, place)
            case "number":
                raise place.error("floats are not allowed in a manifest: use an integer with a unit in its name")
        raise place.error(f"a structural schema has no such thing as {node}: use one plain type")

    def _flatten(self, node: Schema, place: _Place) -> tuple[Schema, bool, _Place]:
        """Puts what a node refers to in its place; takes `null` out of a union.

        What stands beside a reference wins over what it refers to (a field's description over its model's).
        """
        nullable = False
        while True:
            if "$ref" in node:
                name = node["$ref"].removeprefix("#/$defs/")
                if name in place.models:
                    raise place.error(f"{name} contains itself, which a structural schema cannot say")
                place = replace(place, models=(*place.models, name))
                inner = self._definitions[name]
            elif "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
                branches = [branch for branch in node["anyOf"] if branch != {"type": "null"}]
                nullable = nullable or len(branches) < len(node["anyOf"])
                if len(branches) != 1:
                    raise place.error(f"a union of {len(branches)} types: use one optional field for each")
                inner = branches[0]
            else:
                return node, nullable, place
            node = {**inner, **{key: value for key, value in node.items() if key not in {"$ref", "anyOf"}}}

    def _int_or_string(self, node: Schema, place: _Place) -> Schema:
        text: Schema = next((branch for branch in node.get("anyOf", []) if branch.get("type") == "string"), {})
        if "maxLength" not in text:
            raise place.error("its text needs a greatest length")
        bounds: Schema = {key: text[key] for key in ("maxLength", "pattern") if key in text}
        return {"anyOf": [{"type": "integer"}, {"type": "string"}], **bounds, "x-kubernetes-int-or-string": True}

    def _array(self, node: Schema, place: _Place) -> Schema:
        result = _scalar(node, "array", place)
        if "maxItems" not in node:
            raise place.error("a list needs a greatest length")
        if not isinstance(node.get("items"), dict):
            raise place.error("a list needs one type for its items")
        items = self.convert(node["items"], place.down("[]", node["maxItems"]), keep_null=True)
        result["items"] = items
        hint = node.get("x-list", "atomic")
        if hint in {"atomic", "set"}:
            result["x-kubernetes-list-type"] = hint
            if hint == "set" and items.get("type") not in {"string", "integer", "boolean"}:
                raise place.error("a set has scalar items")
            return result
        if hint not in items.get("required", ()):
            raise place.error(f"the list's key `{hint}` has to be a required field of its items")
        return result | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [hint]}

    def _object(self, node: Schema, place: _Place) -> Schema:
        properties: Mapping[str, Schema] | None = node.get("properties")
        if properties is None:
            return self._map(node, place)
        result = _scalar(node, "object", place)
        result["properties"] = {name: self.convert(value, place.down(f".{name}")) for name, value in properties.items()}
        if node.get("required"):
            result["required"] = list(node["required"])
        return result | _rules(node, result["properties"], place, cel=place.times <= self._cel_places)

    def _map(self, node: Schema, place: _Place) -> Schema:
        result = _scalar(node, "object", place)
        values = node.get("additionalProperties")
        if values is True:  # how pydantic writes a map of anything
            values = {}
        if not isinstance(values, dict):
            raise place.error("a map needs a type for its values, or the hint `x-open`")
        if "maxProperties" not in node:
            raise place.error("a map needs a greatest size")
        result["additionalProperties"] = self.convert(values, place.down(".*", node["maxProperties"]), keep_null=True)
        return result


def _is_any(node: Schema) -> bool:
    return not (node.keys() - {"description", "title", "default", "examples"})


def _scalar(node: Schema, kind: str, place: _Place) -> Schema:
    """The node's own keywords, all of which have to be known; bounds made inclusive."""
    unknown = node.keys() - _NOISE - HINTS - _SCALAR_KEYS[kind] - {"type", "description", "const"}
    if unknown:
        raise place.error(f"an API server does not take {', '.join(sorted(unknown))} here")
    result: Schema = {"type": kind}
    result |= {key: node[key] for key in sorted(_SCALAR_KEYS[kind] & node.keys())}
    if "const" in node:
        result["enum"] = [node["const"]]
    if kind == "string":
        if "maxLength" not in result and "enum" not in result:
            raise place.error("a string needs a greatest length")
        if _NOT_RE2.search(result.get("pattern", "")):
            raise place.error(f"the pattern {result['pattern']} is not one of RE2: no look-around, no back-references")
    if kind == "integer":
        if "exclusiveMaximum" in result:
            result["maximum"] = result.pop("exclusiveMaximum") - 1
        if "exclusiveMinimum" in result:
            result["minimum"] = result.pop("exclusiveMinimum") + 1
        result["format"] = "int32" if result.get("maximum", _INT32 + 1) <= _INT32 else "int64"
    return result


# --- rules that span fields ---


def formulas(node: Schema) -> list[Schema]:
    """What a model's hints say that a plain JSON Schema can say as well, one schema for each rule."""
    return [rule.structural for rule in _field_rules(node) if rule.structural is not None]


def _rules(node: Schema, properties: Mapping[str, Schema], place: _Place, *, cel: bool) -> Schema:
    """What a model's hints become: CEL where it may be and where it sees the fields, structural otherwise."""
    rules = list(_field_rules(node))
    for rule in rules:
        for name in rule.fields:
            if name not in properties:
                raise place.error(f"a hint names `{name}`, which is no field: {', '.join(properties)}")
    if not rules:
        return {}
    if cel and all(_cel_sees(properties[name]) for rule in rules for name in rule.fields if rule.structural):
        return {"x-kubernetes-validations": [rule.cel for rule in rules]}
    formulas = []
    for rule in rules:
        if rule.structural is None:
            raise place.error("immutable fields can be guarded by CEL alone, and CEL cannot run here")
        formulas.append(rule.structural)
    # The first stands by itself: errors inside an `allOf` are reported twice.
    return formulas[0] | ({"allOf": formulas[1:]} if formulas[1:] else {})


@dataclass(frozen=True, slots=True)
class _Rule:
    """One rule, in both languages; `structural` is None where only CEL can say it."""

    fields: tuple[str, ...]
    cel: Schema
    structural: Schema | None


def _field_rules(node: Schema) -> Iterator[_Rule]:
    if fields := node.get("x-one-of"):
        yield _one_of(fields)
    for field, others in node.get("x-excludes", {}).items():
        yield _excludes(field, others)
    for field, other in node.get("x-needs", {}).items():
        yield _needs(field, other)
    if "x-changeable" in node:
        changeable = node["x-changeable"]
        for field in node["properties"]:
            if field not in changeable:
                yield _immutable(field, changeable)
    for field in node.get("x-one-way", ()):
        yield _one_way(field)


def _one_of(fields: Sequence[str]) -> _Rule:
    if len(fields) == 2:
        rule = f"{_has(fields[0])} != {_has(fields[1])}"
    else:
        rule = f"[{', '.join(map(_has, fields))}].exists_one(given, given)"
    return _Rule(
        fields=tuple(fields),
        cel={"rule": rule, "message": f"give exactly one of {listed(fields, 'and')}"},
        structural={"oneOf": [{"required": [field]} for field in fields]},
    )


def _excludes(field: str, others: Sequence[str]) -> _Rule:
    return _Rule(
        fields=(field, *others),
        cel={
            "rule": " && ".join(f"!({_has(field)} && {_has(other)})" for other in others),
            "message": f"`{field}` cannot be given together with {listed(others, 'or')}: leave one of them out",
            "fieldPath": f".{field}",
            "reason": "FieldValueForbidden",
        },
        structural={"not": {"anyOf": [{"required": [field, other]} for other in others]}},
    )


def _needs(field: str, other: str) -> _Rule:
    return _Rule(
        fields=(field, other),
        cel={
            "rule": f"!{_has(field)} || {_has(other)}",
            "message": f"`{field}` has a meaning only together with `{other}`: give that too, or leave `{field}` out",
            "fieldPath": f".{field}",
            "reason": "FieldValueForbidden",
        },
        structural={"anyOf": [{"not": {"required": [field]}}, {"required": [other]}]},
    )


def _immutable(field: str, changeable: Sequence[str]) -> _Rule:
    new, old = _select("self", field), _select("oldSelf", field)
    return _Rule(
        fields=(field,),
        cel={
            "rule": f"has({new}) == has({old}) && (!has({new}) || {new} == {old})",
            "message": f"`{field}` cannot be changed, only {listed(changeable, 'and')} can: make a new object instead",
            "fieldPath": f".{field}",
            "reason": "FieldValueForbidden",
        },
        structural=None,
    )


def _one_way(field: str) -> _Rule:
    new, old = _select("self", field), _select("oldSelf", field)
    return _Rule(
        fields=(field,),
        cel={
            "rule": f"!(has({old}) && {old}) || (has({new}) && {new})",
            "message": f"`{field}` cannot be taken back once it is true",
            "fieldPath": f".{field}",
            "reason": "FieldValueForbidden",
        },
        structural=None,
    )


def _cel_sees(schema: Schema) -> bool:
    """Whether a field has a type in CEL: an untyped one, and a list or map of untyped ones, has none."""
    inner = schema.get("items") or schema.get("additionalProperties")
    if inner is not None:
        return _cel_sees(inner)
    return "type" in schema or "x-kubernetes-int-or-string" in schema


def _select(subject: str, field: str) -> str:
    return f"{subject}.__{field}__" if field in _CEL_RESERVED else f"{subject}.{field}"


def _has(field: str) -> str:
    return f"has({_select('self', field)})"


def listed(fields: Sequence[str], word: str) -> str:
    """Field names in backticks with a word before the last one: ``listed("ab", "or")`` is "`a` or `b`"."""
    quoted = [f"`{field}`" for field in fields]
    if len(quoted) == 1:
        return quoted[0]
    return f"{', '.join(quoted[:-1])} {word} {quoted[-1]}"
