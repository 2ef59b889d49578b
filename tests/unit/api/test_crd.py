"""The CustomResourceDefinitions: what an API server demands, what we demand of ourselves, and details that matter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.api.crd import KINDS, crd, render

ROOT = Path(__file__).parents[3]
KIND = sorted(KINDS)
JUNCTORS = ("oneOf", "anyOf", "allOf", "not")
Node = dict[str, Any]


def root(kind: str) -> Node:
    """The schema of a kind."""
    schema: Node = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def at(kind: str, path: str) -> Node:
    """The schema at a path, for example `spec.steps[].env[].name`."""
    node = root(kind)
    for part in path.replace("[]", ".[]").split("."):
        node = node["items"] if part == "[]" else node["properties"][part]
    return node


def nodes(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    """All schemas but those inside `oneOf`, `not` and their like, each with its path."""
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from nodes(node["additionalProperties"], f"{path}.*")


EVERYWHERE = [(path, node) for kind in KIND for path, node in nodes(root(kind), kind)]


# --- lint ---


def test_every_field_has_one_plain_type_or_is_open() -> None:
    for path, node in EVERYWHERE:
        if "type" in node:  # a float, or a union, has no place
            assert node["type"] in {"object", "array", "string", "integer", "boolean"}, path
        else:
            assert node.get("x-kubernetes-preserve-unknown-fields") or node.get("x-kubernetes-int-or-string"), path


def test_everything_is_bounded() -> None:
    for path, node in EVERYWHERE:
        bounds = {
            "string": {"maxLength", "enum"},
            "array": {"maxItems"},
            "object": {"properties", "maxProperties", "x-kubernetes-preserve-unknown-fields"},
            None: {"maxLength", "x-kubernetes-preserve-unknown-fields"},
        }
        assert bounds.get(node.get("type"), node.keys()) & node.keys(), path


def test_every_list_says_how_it_is_merged() -> None:
    for path, node in EVERYWHERE:
        if node.get("type") != "array":
            continue
        how = node["x-kubernetes-list-type"]
        assert how in {"atomic", "set", "map"}, path
        if how == "map":
            (key,) = node["x-kubernetes-list-map-keys"]
            assert key in node["items"]["required"], path
            assert node["items"]["properties"][key]["type"] in {"string", "integer"}, path
        if path.endswith(".conditions"):
            assert node["x-kubernetes-list-map-keys"] == ["type"], path
        if "name" in node["items"].get("required", ()):
            assert node.get("x-kubernetes-list-map-keys") == ["name"], path


def test_every_field_is_described_in_one_line() -> None:
    for path, node in EVERYWHERE:
        if ".metadata" in path:
            continue  # an API server takes no description there
        if path.endswith(("[]", ".*")) and "properties" not in node:
            continue  # an item that is no model of its own is described with its list
        assert node["description"].strip(), path
        assert "\n" not in node["description"], path


def test_no_keyword_that_an_api_server_refuses_or_drops() -> None:
    refused = {"$ref", "$defs", "default", "title", "const", "uniqueItems", "prefixItems", "discriminator"}
    for path, node in EVERYWHERE:
        allowed = {"default"} if path.endswith(".status") and path.count(".") == 1 else set()
        assert not node.keys() & (refused - allowed | {"exclusiveMinimum", "exclusiveMaximum"}), path
        assert not {key for key in node if key.startswith("x-") and not key.startswith("x-kubernetes-")}, path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_patterns_are_of_the_common_subset_of_python_and_re2() -> None:
    patterns = {node["pattern"] for _, node in EVERYWHERE if "pattern" in node}
    assert patterns
    for pattern in patterns:
        re.compile(pattern)
        assert not re.search(r"\(\?[^:P]|\\[1-9AZbB]", pattern), pattern


def named(formula: Any) -> Iterator[str]:
    """The fields that a formula names; refuses what an API server does not take in one."""
    if isinstance(formula, list):
        for part in formula:
            yield from named(part)
        return
    assert formula.keys() <= {"required", *JUNCTORS}, "a junctor holds no type, description or default"
    yield from formula.get("required", ())
    for junctor in JUNCTORS:
        yield from named(formula.get(junctor, []))


def test_formulas_only_name_fields_that_are_declared_outside() -> None:
    for path, node in EVERYWHERE:
        if "x-kubernetes-int-or-string" in node:  # the one junctor with types that is allowed
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
            continue
        for junctor in JUNCTORS:
            assert set(named(node.get(junctor, []))) <= node.get("properties", {}).keys(), path


def test_every_cel_rule_has_a_message_and_names_fields_that_are_there() -> None:
    rules = [(path, node, rule) for path, node in EVERYWHERE for rule in node.get("x-kubernetes-validations", ())]
    assert rules
    for path, node, rule in rules:
        assert rule["message"], path
        assert "fieldPath" not in rule or rule["fieldPath"].removeprefix(".") in node["properties"], path
        for field in re.findall(r"(?:self|oldSelf)\.(\w+)", rule["rule"]):
            assert re.sub(r"^__(\w+)__$", r"\1", field) in node["properties"], path


@pytest.mark.parametrize("kind", KIND)
def test_a_status_is_never_refused_for_a_rule(kind: str) -> None:
    # A status that cannot be written would leave an object where it is for ever.
    for _, node in nodes(root(kind)["properties"]["status"], ""):
        assert not node.keys() & {"x-kubernetes-validations", "oneOf", "allOf", "not"}


# As YAML 1.1 has them, which kubectl and Helm read.
YAML_BOOLEANS = {"y", "n", "yes", "no", "on", "off", "true", "false"}


def test_no_field_has_a_name_that_kubectl_reads_as_a_boolean() -> None:
    for path, _ in EVERYWHERE:
        assert path.rsplit(".", 1)[-1].lower() not in YAML_BOOLEANS, path


@pytest.mark.parametrize("kind", KIND)
def test_a_definition_fits_the_annotation_of_kubectl_apply(kind: str) -> None:
    assert len(json.dumps(crd(kind))) < 262_144


# --- the committed files ---


@pytest.mark.parametrize("folder", ["crds", "charts/penstock/crds"])
@pytest.mark.parametrize("kind", KIND)
def test_committed_definitions_are_those_of_the_models(kind: str, folder: str) -> None:
    committed = ROOT / folder / f"{KINDS[kind].plural}.yaml"
    assert committed.read_text(encoding="utf-8") == render(kind), "run `make generate`"


@pytest.mark.parametrize("folder", ["crds", "charts/penstock/crds"])
def test_nothing_else_is_committed_beside_them(folder: str) -> None:
    assert {path.stem for path in (ROOT / folder).iterdir()} == {of.plural for of in KINDS.values()}


@pytest.mark.parametrize("kind", KIND)
def test_the_yaml_says_the_same_as_the_dict_and_has_no_anchors(kind: str) -> None:
    text = render(kind)
    assert yaml.safe_load(text) == crd(kind)
    assert not re.search(r"[:-] [&*]id\d", text)


def test_each_call_gives_a_fresh_dict() -> None:
    crd("Pipeline")["spec"]["versions"][0]["additionalPrinterColumns"][0]["name"] = "changed"
    assert crd("Pipeline")["spec"]["versions"][0]["additionalPrinterColumns"][0]["name"] == "Ready"


# --- golden details ---


@pytest.mark.parametrize(
    ("kind", "plural", "short"),
    [("Pipeline", "pipelines", "pipe"), ("Deployment", "deployments", "pdep"), ("Execution", "executions", "exec")],
)
def test_names(kind: str, plural: str, short: str) -> None:
    definition = crd(kind)
    assert definition["metadata"] == {"name": f"{plural}.penstock.dev"}
    assert definition["spec"]["group"] == "penstock.dev"
    assert definition["spec"]["scope"] == "Namespaced"
    assert definition["spec"]["names"] == {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": plural,
        "singular": kind.lower(),
        "shortNames": [short],
        "categories": ["penstock"],
    }
    (version,) = definition["spec"]["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {"status": {}}


def columns(kind: str, *, wide: bool = False) -> list[str]:
    """Headings that `kubectl get` prints."""
    shown = crd(kind)["spec"]["versions"][0]["additionalPrinterColumns"]
    return [column["name"] for column in shown if wide or not column.get("priority")]


def test_columns() -> None:
    assert columns("Pipeline") == ["Ready", "Revision", "Age"]
    assert columns("Execution") == ["Phase", "Progress", "Pipeline", "Revision", "Age", "Duration"]
    assert columns("Execution", wide=True)[-5:] == ["Reason", "Started", "Finished", "Age", "Duration"]
    assert columns("Deployment") == [
        *("Pipeline", "Schedule", "Endpoint", "Suspended", "Active", "Last", "Next", "Ready", "Age"),
    ]


@pytest.mark.parametrize("kind", KIND)
def test_every_column_and_selectable_field_shows_a_field_of_the_schema(kind: str) -> None:
    version = crd(kind)["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    for path in [*paths, *(field["jsonPath"] for field in version.get("selectableFields", ()))]:
        if path != ".metadata.creationTimestamp":
            found = at(kind, re.sub(r'\[\?\(@\.type=="\w+"\)\]', "[]", path).removeprefix("."))
            assert found["type"] in {"string", "integer", "boolean"}


def test_what_an_operator_has_not_seen_yet_says_so_where_one_will() -> None:
    # kstatus takes an object with neither conditions nor observedGeneration for done.
    unseen = {kind: root(kind)["properties"]["status"].get("default") for kind in KIND}
    assert unseen == {kind: {"observedGeneration": -1} for kind in ("Pipeline", "Execution", "Deployment")}


def test_the_next_time_is_text_because_a_date_to_come_prints_as_invalid() -> None:
    (column,) = [
        column
        for column in crd("Deployment")["spec"]["versions"][0]["additionalPrinterColumns"]
        if column["name"] == "Next"
    ]
    assert column["type"] == "string"


def test_executions_can_be_selected_by_pipeline_and_phase() -> None:
    assert crd("Execution")["spec"]["versions"][0]["selectableFields"] == [
        {"jsonPath": ".spec.pipeline.name"},
        {"jsonPath": ".status.phase"},
    ]


@pytest.mark.parametrize("kind", KIND)
def test_metadata_says_no_more_than_an_api_server_allows(kind: str) -> None:
    assert root(kind)["properties"]["metadata"] == {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 63}},
    }


ANY = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Pipeline", "spec.inputs[].default"),
        ("Pipeline", "spec.steps[].inputs[].value"),
        ("Pipeline", "spec.steps[].forEach.items[]"),
        ("Execution", "spec.inputs[].value"),
        ("Execution", "status.outputs[].value"),
        ("Deployment", "spec.inputs[].endpoint.default"),
    ],
)
def test_a_value_of_any_type_is_open_and_may_be_null(kind: str, path: str) -> None:
    node = at(kind, path)
    node.pop("description", None)
    assert node == ANY


def test_an_item_may_be_null_and_an_optional_field_may_not() -> None:
    files = at("Execution", "status.outputs[].files")
    assert files["items"]["nullable"] is True
    assert "nullable" not in files
    assert "nullable" not in at("Execution", "status.outputs[].file")


def test_a_pod_template_is_open() -> None:
    node = at("Pipeline", "spec.steps[].podTemplate")
    assert (node["type"], node["x-kubernetes-preserve-unknown-fields"]) == ("object", True)


def test_a_quantity_is_an_integer_or_text() -> None:
    quantity = at("Pipeline", "spec.steps[].resources.limits")["additionalProperties"]
    assert quantity == {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "maxLength": 64,
        "x-kubernetes-int-or-string": True,
    }


@pytest.mark.parametrize(
    ("kind", "path", "fields"),
    [
        ("Pipeline", "spec.steps[].inputs[]", ["value", "from"]),
        ("Pipeline", "spec.steps[].env[]", ["value", "valueFrom"]),
        ("Pipeline", "spec.steps[].forEach", ["items", "from", "matrix"]),
        ("Execution", "spec.inputs[]", ["value", "object"]),
        ("Deployment", "spec.inputs[]", ["value", "endpoint", "configMapKeyRef", "object", "void"]),
    ],
)
def test_exactly_one_as_a_formula_where_cel_is_blind_or_too_dear(kind: str, path: str, fields: list[str]) -> None:
    assert at(kind, path)["oneOf"] == [{"required": [field]} for field in fields]


@pytest.mark.parametrize(
    ("kind", "path", "rule", "message"),
    [
        (
            "Execution",
            "spec",
            "has(self.pipeline) != has(self.pipelineSpec)",
            "give exactly one of `pipeline` and `pipelineSpec`",
        ),
        (
            "Deployment",
            "spec",
            "has(self.schedule) != has(self.endpoint)",
            "give exactly one of `schedule` and `endpoint`",
        ),
        (
            "Deployment",
            "spec.outputs[]",
            "[has(self.endpoint), has(self.object), has(self.__void__)].exists_one(given, given)",
            "give exactly one of `endpoint`, `object` and `void`",
        ),
    ],
)
def test_exactly_one_in_words_where_cel_can_say_it(kind: str, path: str, rule: str, message: str) -> None:
    assert {"rule": rule, "message": message} in at(kind, path)["x-kubernetes-validations"]


def test_include_and_exclude_need_a_matrix() -> None:
    assert at("Pipeline", "spec.steps[].forEach")["allOf"] == [
        {"anyOf": [{"not": {"required": ["exclude"]}}, {"required": ["matrix"]}]},
        {"anyOf": [{"not": {"required": ["include"]}}, {"required": ["matrix"]}]},
    ]


def test_a_step_of_a_pipeline_says_in_words_what_excludes_what() -> None:
    rules = {rule["fieldPath"]: rule for rule in at("Pipeline", "spec.steps[]")["x-kubernetes-validations"]}
    assert rules[".script"] == {
        "rule": "!(has(self.script) && has(self.command)) && !(has(self.script) && has(self.args))"
        " && !(has(self.script) && has(self.__function__))",
        "message": "`script` cannot be given together with `command`, `args` or `function`: leave one of them out",
        "fieldPath": ".script",
        "reason": "FieldValueForbidden",
    }
    assert rules[".shell"]["rule"] == "!has(self.shell) || has(self.script)"
    assert rules.keys() == {".script", ".function", ".imageFrom", ".shell"}


def test_an_inline_pipeline_has_no_cel_for_each_step() -> None:
    # Each status write of an execution checks its spec again.
    step = at("Execution", "spec.pipelineSpec.steps[]")
    assert "x-kubernetes-validations" not in step
    assert [step["not"], *step["allOf"]] == [
        {"anyOf": [{"required": ["function", "command"]}, {"required": ["function", "args"]}]},
        {"not": {"anyOf": [{"required": ["imageFrom", "image"]}]}},
        {"not": {"anyOf": [{"required": ["script", field]} for field in ("command", "args", "function")]}},
        {"anyOf": [{"not": {"required": ["shell"]}}, {"required": ["script"]}]},
    ]


def test_an_execution_is_immutable_but_for_three_fields() -> None:
    rules = [rule for rule in at("Execution", "spec")["x-kubernetes-validations"] if "oldSelf" in rule["rule"]]
    fields = at("Execution", "spec")["properties"].keys() - {"suspend", "cancel", "ttlSecondsAfterFinished"}
    frozen = {rule["fieldPath"][1:]: rule["rule"] for rule in rules if "cannot be changed" in rule["message"]}
    assert frozen.keys() == fields
    for field, rule in frozen.items():
        new, old = f"self.{field}", f"oldSelf.{field}"
        assert rule == f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"


def test_a_cancel_cannot_be_taken_back_not_even_by_leaving_it_out() -> None:
    (rule,) = [
        rule for rule in at("Execution", "spec")["x-kubernetes-validations"] if rule.get("fieldPath") == ".cancel"
    ]
    assert rule["rule"] == "!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)"


def test_pipelines_and_deployments_may_change() -> None:
    assert "oldSelf" not in render("Pipeline") + render("Deployment")
