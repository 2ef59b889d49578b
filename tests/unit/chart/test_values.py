"""The chart's values, their schema, their table in the README and the operator's settings say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock import __version__
from penstock.kube.settings import OperatorSettings

CHART = Path(__file__).parents[3] / "charts" / "penstock"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# What the chart sets by itself: from `namespaces`, the release's name, the downward API, and the port that it exposes.
SET_BY_THE_CHART = {"namespaces", "lease_namespace", "lease_name", "identity", "http_port", "history_url"}
SETTINGS = sorted(OperatorSettings.model_fields.keys() - SET_BY_THE_CHART)


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    return SCHEMA["definitions"][reference.rpartition("/")[2]] if reference else schema


def strict_objects(schema: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if "properties" in schema:
        yield place, schema
        for name, child in schema["properties"].items():
            yield from strict_objects(child, f"{place}.{name}")
    if "items" in schema:
        yield from strict_objects(schema["items"], f"{place}[]")


def camel(setting: str) -> str:
    head, *rest = setting.split("_")
    return head + "".join(word.capitalize() for word in rest)


def test_every_object_of_the_schema_refuses_unknown_names() -> None:
    loose = [place for place, schema in strict_objects(SCHEMA) if schema.get("additionalProperties") is not False]
    assert not loose


def test_schema_and_values_have_the_same_names() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any], place: str) -> None:
        assert schema["properties"].keys() - {"global"} == values.keys(), place
        for name, child in schema["properties"].items():
            if "properties" in child and name != "global":
                compare(child, values[name], f"{place}.{name}")

    compare(SCHEMA, VALUES, "values")


def test_the_readme_lists_every_value_with_its_default() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", (CHART / "README.md").read_text(), re.MULTILINE)
    assert [(name, json.loads(default)) for name, default in rows] == list(leaves(VALUES))


def test_the_chart_has_exactly_the_settings_of_the_operator() -> None:
    assert sorted(VALUES["settings"]) == sorted(camel(name) for name in SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_has_the_same_default_and_bounds_in_chart_and_operator(name: str) -> None:
    model = OperatorSettings.model_json_schema()
    ours = resolved(SCHEMA["properties"]["settings"]["properties"][camel(name)])
    theirs = model["properties"][name]
    default = theirs.get("default")
    if "$ref" in theirs:
        theirs = model["$defs"][theirs["$ref"].rpartition("/")[2]]
    assert VALUES["settings"][camel(name)] == default
    assert (ours.get("minimum"), ours.get("maximum")) == (theirs.get("minimum"), theirs.get("maximum"))
    if "enum" in ours:
        pattern = theirs.get("pattern", "^(" + "|".join(theirs.get("enum", ())) + ")$")
        assert pattern == "^(" + "|".join(ours["enum"]) + ")$"
    else:
        assert "enum" not in theirs
        assert "pattern" not in theirs or ours["pattern"] == theirs["pattern"]


def test_chart_and_package_have_the_same_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
