"""The plain JSON Schema: what an editor needs, and that it agrees with the definitions for the API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.api.crd import KINDS, crd
from penstock.api.schema import DIALECT, json_schema

KIND = sorted(KINDS)
Node = dict[str, Any]


def nodes(node: Any, path: str = "#") -> Iterator[tuple[str, Node]]:
    """All maps of a schema, each with its path."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from nodes(value, f"{path}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from nodes(value, f"{path}/{index}")


@pytest.mark.parametrize("kind", [*KIND, None])
def test_every_reference_leads_to_a_definition_and_every_definition_is_used(kind: str | None) -> None:
    schema = json_schema(kind)
    used = {node["$ref"].removeprefix("#/$defs/") for _, node in nodes(schema) if isinstance(node.get("$ref"), str)}
    assert used == schema["$defs"].keys()


@pytest.mark.parametrize("kind", [*KIND, None])
def test_it_is_plain(kind: str | None) -> None:
    for path, node in nodes(json_schema(kind)):
        keys = set(node) if not path.endswith(("/properties", "/$defs")) else set()
        assert not {key for key in keys if key.startswith("x-")}, path
        assert "default" not in keys or node["default"] is not None, path


@pytest.mark.parametrize("kind", KIND)
def test_it_is_of_the_newest_dialect_and_asks_for_the_kind(kind: str) -> None:
    schema = json_schema(kind)
    assert schema["$schema"] == DIALECT
    assert schema["title"] == kind
    assert schema["required"] == ["apiVersion", "kind", "spec"]
    assert schema["properties"]["kind"]["const"] == kind
    assert schema["properties"]["apiVersion"]["const"] == "penstock.dev/v1alpha1"


@pytest.mark.parametrize("kind", KIND)
def test_unknown_fields_are_refused_everywhere_but_in_metadata(kind: str) -> None:
    schema = json_schema(kind)
    for name, definition in {**schema["$defs"], kind: schema}.items():
        if "properties" in definition:
            assert definition["additionalProperties"] is (name == "Metadata"), name


def test_descriptions_and_defaults_are_kept() -> None:
    definitions = json_schema("Pipeline")["$defs"]
    assert definitions["Retry"]["properties"]["factor"]["default"] == 1
    assert definitions["Step"]["properties"]["onFailure"]["default"] == "Fail"
    assert definitions["PipelineSpec"]["properties"]["steps"]["description"] == "The steps, in any order."
    assert "\n" not in definitions["Step"]["properties"]["when"]["description"]


def test_an_optional_field_may_be_left_out_but_not_null_and_a_value_may_be_null() -> None:
    step = json_schema("Pipeline")["$defs"]["Step"]["properties"]
    assert step["image"] == {"type": "string", "minLength": 1, "maxLength": 1024, "description": "Container image."}
    assert step["retry"]["$ref"] == "#/$defs/Retry"
    value = json_schema("Pipeline")["$defs"]["StepInput"]["properties"]["value"]
    assert value == {"$ref": "#/$defs/JsonValue", "description": "A literal of any JSON type."}
    files = json_schema("Execution")["$defs"]["NamedValue"]["properties"]["files"]
    assert files["items"] == {"anyOf": [{"$ref": "#/$defs/FileRef"}, {"type": "null"}]}


def test_rules_that_span_fields_are_kept() -> None:
    definitions = json_schema("Pipeline")["$defs"]
    assert definitions["StepInput"]["allOf"] == [{"oneOf": [{"required": ["value"]}, {"required": ["from"]}]}]
    assert {"anyOf": [{"not": {"required": ["shell"]}}, {"required": ["script"]}]} in definitions["Step"]["allOf"]
    assert definitions["Step"]["properties"]["dependsOn"]["uniqueItems"] is True
    assert json_schema("Execution")["$defs"]["ExecutionSpec"]["allOf"] == [
        {"oneOf": [{"required": ["pipeline"]}, {"required": ["pipelineSpec"]}]}
    ]


def test_a_schema_of_all_kinds_chooses_by_kind() -> None:
    schema = json_schema()
    assert schema["properties"]["kind"]["enum"] == list(KINDS)
    assert [branch["then"]["$ref"] for branch in schema["allOf"]] == [f"#/$defs/{kind}" for kind in KINDS]
    assert [branch["if"]["properties"]["kind"]["const"] for branch in schema["allOf"]] == list(KINDS)


def test_an_unknown_kind_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="Pod"):
        json_schema("Pod")


@pytest.mark.parametrize("kind", KIND)
def test_it_has_the_fields_and_bounds_of_the_definition_for_the_api_server(kind: str) -> None:
    schema = json_schema(kind)
    definition = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def compare(plain: Node, cluster: Node, path: str) -> int:
        if cluster.get("nullable") and "anyOf" in plain:
            plain, null = plain["anyOf"]
            assert null == {"type": "null"}, path
        while "$ref" in plain:
            plain = schema["$defs"][plain["$ref"].removeprefix("#/$defs/")]
        for bound in ("maxLength", "maxItems", "maxProperties", "minimum", "pattern"):
            if "anyOf" not in plain:
                assert plain.get(bound) == cluster.get(bound), f"{path}: {bound}"
        if "properties" not in cluster:
            return 1 + (compare(plain["items"], cluster["items"], f"{path}[]") if "items" in cluster else 0)
        assert plain["properties"].keys() == cluster["properties"].keys(), path
        assert set(plain.get("required", ())) == set(cluster.get("required", ())), path
        return 1 + sum(
            compare(plain["properties"][name], inner, f"{path}.{name}") for name, inner in cluster["properties"].items()
        )

    fields = sum(
        compare(schema["properties"][part], definition["properties"][part], part) for part in ("spec", "status")
    )
    assert fields > 30
