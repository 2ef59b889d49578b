"""Problems in words: sentences, JSON, readable places, suggestions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.api.manifest import KINDS
from penstock.api.problems import PATTERNS, InvalidManifest, Problem, readable, suggest

DATA: dict[str, Any] = {
    "spec": {"steps": [{"name": "train", "inputs": [{"name": "table"}]}, {"image": "x"}, {"name": 3}]}
}


def test_places_show_the_names_of_list_elements_where_they_have_one() -> None:
    assert readable(("spec", "steps", 0, "inputs", 0, "from"), DATA) == "spec.steps[train].inputs[table].from"
    assert readable(("spec", "steps", 1, "image"), DATA) == "spec.steps[1].image"
    assert readable(("spec", "steps", 2), DATA) == "spec.steps[2]"
    assert readable(("spec", "steps", 0), None) == "spec.steps[0]"
    assert readable(("metadata", "labels", "a.b/c"), DATA) == 'metadata.labels["a.b/c"]'
    assert readable((), DATA) == ""


def test_a_sentence_has_place_message_column_and_text() -> None:
    problem = Problem(
        ("spec", "steps", 0, "when"),
        'unknown step "prepar"' + suggest("prepar", ["train", "prepare"]),
        expression="steps.prepar.outputs.rows\n  > 3",
        column=1,
        path="spec.steps[train].when",
        file="iris.yaml",
        line=12,
    )
    said = (
        'spec.steps[train].when: unknown step "prepar"; did you mean "prepare"? '
        "(column 1 of: steps.prepar.outputs.rows > 3)"
    )
    assert problem.sentence() == said
    assert str(problem) == f"iris.yaml:12: {said}"
    assert problem.to_json() == {
        "severity": "error",
        "path": "spec.steps[train].when",
        "loc": ["spec", "steps", 0, "when"],
        "message": 'unknown step "prepar"; did you mean "prepare"?',
        "expression": "steps.prepar.outputs.rows\n  > 3",
        "column": 1,
        "file": "iris.yaml",
        "line": 12,
    }


def test_an_invalid_manifest_says_all_problems_one_a_line() -> None:
    error = InvalidManifest([Problem(("spec",), "a", file="f", line=1), Problem((), "b", severity="warning", line=2)])
    assert str(error).splitlines() == ["f:1: spec: a", "line 2: warning: b"]
    assert [problem.message for problem in error.problems] == ["a", "b"]


def test_suggestions_are_near_or_none() -> None:
    assert suggest("timeout_seconds", ["timeoutSeconds", "image"]) == '; did you mean "timeoutSeconds"?'
    assert suggest("ONFAILURE", ["onFailure"]) == '; did you mean "onFailure"?'
    assert suggest("zzz", ["image"]) == ""
    assert suggest("image", ["image"]) == ""


@given(st.lists(st.text() | st.integers()))
def test_any_place_can_be_written(loc: list[str | int]) -> None:
    assert "\n" not in readable(tuple(loc), DATA)


def test_every_pattern_of_the_models_has_words() -> None:
    used: set[str] = set()

    def collect(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                used.add(node["pattern"])
            for inner in node.values():
                collect(inner)
        elif isinstance(node, list):
            for inner in node:
                collect(inner)

    for model in KINDS.values():
        collect(model.model_json_schema())
    assert used == set(PATTERNS)
