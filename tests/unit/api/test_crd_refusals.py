"""What a model may not say: each refusal names the place in the model and what is wrong there."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import ConfigDict, Field, StringConstraints, create_model

from penstock.api.base import Json, Model
from penstock.api.structural import SchemaError, structural

Text = Annotated[str, StringConstraints(max_length=10)]


class Named(Model):
    """Something with a name."""

    name: Text
    """Its name."""
    label: Text | None = None
    """Its label."""


class Nested(Model):
    """Something that contains itself."""

    inner: Annotated[list[Nested], Field(max_length=2)] | None = None
    """The same again."""


def convert(annotation: Any, **options: Any) -> dict[str, Any]:
    """The structural schema of a field `spec.field` with that type."""
    spec = create_model("Spec", __base__=Model, field=(annotation, ...))
    kind = create_model("Thing", __base__=Model, spec=(spec, ...))
    schema = structural(kind.model_json_schema(by_alias=True), kind="Thing", **options)
    field: dict[str, Any] = schema["properties"]["spec"]["properties"]["field"]
    return field


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        pytest.param(str, "a string needs a greatest length", id="an unbounded string"),
        pytest.param(list[Text], "a list needs a greatest length", id="an unbounded list"),
        pytest.param(dict[str, Text], "a map needs a greatest size", id="an unbounded map"),
        pytest.param(dict[str, Any], "a map needs a greatest size", id="an unbounded map of anything"),
        pytest.param(float, "floats are not allowed", id="a float"),
        pytest.param(int | Text, "a union of 2 types", id="a union without the hint"),
        pytest.param(Literal["a", 3], "no such thing as", id="an enumeration of two types"),
        pytest.param(
            Annotated[list[Text], Field(max_length=2, json_schema_extra={"uniqueItems": True})],
            "does not take uniqueItems",
            id="unique items",
        ),
        pytest.param(tuple[Text, Text], "does not take prefixItems", id="a tuple"),
        pytest.param(Annotated[int, Field(multiple_of=2)], "does not take multipleOf", id="a multiple"),
        pytest.param(
            Annotated[str, Field(max_length=5, json_schema_extra={"pattern": "^(?!a)b$"})],
            "not one of RE2",
            id="look-ahead",
        ),
        pytest.param(
            Annotated[str, Field(max_length=5, json_schema_extra={"pattern": r"^(a)\1$"})],
            "not one of RE2",
            id="a back-reference",
        ),
        pytest.param(
            Annotated[list[Named], Field(max_length=2, json_schema_extra={"x-list": "label"})],
            "`label` has to be a required field",
            id="a list whose key is optional",
        ),
        pytest.param(
            Annotated[list[Named], Field(max_length=2, json_schema_extra={"x-list": "set"})],
            "a set has scalar items",
            id="a set of objects",
        ),
        pytest.param(
            Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True})],
            "its text needs a greatest length",
            id="an unbounded quantity",
        ),
    ],
)
def test_refused(annotation: Any, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        convert(annotation)
    assert str(caught.value).startswith("Thing.spec.field: ")
    assert message in str(caught.value)


def test_the_place_of_a_fault_inside_lists_and_maps_is_named() -> None:
    inner = Annotated[dict[str, list[Text]], Field(max_length=2)]
    with pytest.raises(SchemaError, match=r"^Thing\.spec\.field\[\]\.\*: a list needs"):
        convert(Annotated[list[inner], Field(max_length=2)])


def test_a_model_that_contains_itself_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"^Thing\.spec\.field\.inner\[\]: Nested contains itself"):
        convert(Nested)


def test_a_hint_that_names_no_field_is_refused() -> None:
    class Wrong(Model):
        """A model with a slip in its hint."""

        model_config = ConfigDict(json_schema_extra={"x-one-of": ["a", "c"]})
        a: Text | None = None
        b: Text | None = None

    with pytest.raises(SchemaError, match="a hint names `c`, which is no field: a, b"):
        convert(Wrong)


class Pair(Model):
    """One of two."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["a", "b"]})
    a: Text | None = None
    b: Text | None = None


class Frozen(Model):
    """Immutable but for one field."""

    model_config = ConfigDict(json_schema_extra={"x-changeable": ["b"]})
    a: Text | None = None
    b: Text | None = None


def test_rules_turn_from_words_into_formulas_where_there_may_be_too_many() -> None:
    few = convert(Annotated[list[Pair], Field(max_length=10)], cel_places=10)["items"]
    many = convert(Annotated[list[Pair], Field(max_length=11)], cel_places=10)["items"]
    assert [rule["message"] for rule in few["x-kubernetes-validations"]] == ["give exactly one of `a` and `b`"]
    assert many["oneOf"] == [{"required": ["a"]}, {"required": ["b"]}]
    assert "x-kubernetes-validations" not in many


def test_immutability_is_refused_where_cel_cannot_run() -> None:
    assert convert(Frozen)["x-kubernetes-validations"]
    with pytest.raises(SchemaError, match="immutable fields can be guarded by CEL alone"):
        convert(Annotated[list[Frozen], Field(max_length=11)], cel_places=10)


@pytest.mark.parametrize(
    ("annotation", "wanted"),
    [
        pytest.param(
            Annotated[int, Field(gt=0, lt=10)], {"minimum": 1, "maximum": 9, "format": "int32"}, id="exclusive"
        ),
        pytest.param(Annotated[int, Field(ge=0)], {"minimum": 0, "format": "int64"}, id="no upper bound"),
        pytest.param(Literal["a"], {"type": "string", "enum": ["a"]}, id="a constant"),
        pytest.param(Text | None, {"type": "string", "maxLength": 10}, id="optional"),
        pytest.param(
            Annotated[list[Text | None], Field(max_length=2)],
            {"items": {"type": "string", "maxLength": 10, "nullable": True}, "x-kubernetes-list-type": "atomic"},
            id="a list with gaps",
        ),
        pytest.param(
            Annotated[dict[str, Json], Field(max_length=2)],
            {"additionalProperties": {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}},
            id="a map of anything",
        ),
    ],
)
def test_converted(annotation: Any, wanted: dict[str, Any]) -> None:
    found = convert(annotation)
    assert {key: found.get(key) for key in wanted} == wanted
    assert not found.keys() & {"exclusiveMinimum", "exclusiveMaximum", "const", "anyOf", "default", "title"}
