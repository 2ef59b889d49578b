"""Reading manifests: what is read, what is refused and where, and that nothing ever breaks the reader."""

from __future__ import annotations

import copy
import io
import json
import random
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.manifest import Document, load, read, require
from penstock.api.pipeline import Pipeline
from penstock.api.problems import InvalidManifest, Problem

GOOD = """\
apiVersion: penstock.dev/v1alpha1
kind: Pipeline
metadata:
  name: iris
spec:
  inputs:
    - {name: rows, type: number, default: 150}
  outputs:
    - {name: accuracy, type: number, from: steps.train.outputs.accuracy}
  steps:
    - name: prepare
      image: registry.example/iris:1
      command: [python, prepare.py]
      inputs: [{name: rows, from: inputs.rows}]
      outputs: [{name: table, type: file}]
    - name: train
      image: registry.example/iris:1
      function: iris.train:run
      inputs: [{name: table, from: steps.prepare.outputs.table}]
      outputs: [{name: accuracy, type: number}]
      retry: {limit: 3, reasons: [StepFailed]}
"""
DEPLOYMENT = """\
apiVersion: penstock.dev/v1alpha1
kind: Deployment
metadata: {name: nightly}
spec:
  pipeline: {name: iris}
  schedule: {cron: "0 9 * * *", timeZone: Europe/Paris}
"""
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {on: 1, on: 2}\n"


def found(text: str) -> list[tuple[str, int | None, str]]:
    return [(p.path, p.line, p.message) for document in load(text) for p in document.problems]


def test_a_good_manifest_is_read_without_problems() -> None:
    (document,) = load(GOOD, file="iris.yaml")
    assert document.problems == ()
    assert (document.kind, document.name, document.file, document.line) == ("Pipeline", "iris", "iris.yaml", 1)
    assert isinstance(document.model, Pipeline)
    assert document.partial is document.model
    assert document.model.spec.steps[1].retry is not None


def test_the_same_manifest_as_json_with_tabs_and_escapes_is_read() -> None:
    data = yaml.safe_load(GOOD)
    data["spec"]["description"] = "snow ❄ and 😀"
    (document,) = load(json.dumps(data, indent="\t"))
    assert document.problems == ()
    assert isinstance(document.model, Pipeline)
    assert document.model.spec.description == "snow ❄ and 😀"


@pytest.mark.parametrize("text", ["😀", "\\😀", "\\\\ud83d\\ude00", "a/b\tc\n", "\x7f\x85\u2028\uffff", "\\"])
def test_any_text_in_json_is_read_as_it_is(text: str) -> None:
    data = yaml.safe_load(GOOD)
    data["spec"]["description"] = text
    for ascii_only in (True, False):
        written = json.dumps(data, ensure_ascii=ascii_only, indent="\t").replace("a/b", "a\\/b")
        (document,) = load(written)
        assert document.problems == ()
        assert isinstance(document.model, Pipeline)
        assert document.model.spec.description == text


# What is replaced in the good manifest, by what; then the problem: its path, its line, a part of its message.
BAD: list[tuple[str, str, str, str, int, str]] = [
    ("unknown field", "function: ", "fuction: ", "spec.steps[train].fuction", 18, 'did you mean "function"?'),
    ("snake case is unknown", "name: train", "name: train\n      timeout_seconds: 3",
     "spec.steps[train].timeout_seconds", 17, 'did you mean "timeoutSeconds"?'),
    ("missing field", "limit: 3, ", "", "spec.steps[train].retry.limit", 21, "is required"),
    ("number for a list", "[python, prepare.py]", "3", "spec.steps[prepare].command", 13,
     "wanted a list of strings, got the number 3"),
    ("number in a list of strings", "[python, prepare.py]", "[python, 1.10]", "spec.steps[prepare].command[1]", 13,
     'got the number 1.10: put it in quotes, "1.10"'),
    ("yes in a list of strings", "[python, prepare.py]", "[echo, yes]", "spec.steps[prepare].command[1]", 13,
     "got `yes`, which YAML reads as true: put it in quotes"),
    ("text for a number", "limit: 3", 'limit: "3"', "spec.steps[train].retry.limit", 21, "write it without quotes"),
    ("word not allowed", "StepFailed", "stepfailed", "spec.steps[train].retry.reasons[0]", 21,
     'did you mean "StepFailed"?'),
    ("type unknown", "type: file", "type: folder", "spec.steps[prepare].outputs[table].type", 15,
     'wanted one of string, number, boolean, json, array, file, got the text "folder"'),
    ("name pattern in words", "name: train", "name: Train", "spec.steps[Train].name", 16, "lower case letters, digits"),
    ("nothing given", "retry: {limit: 3, reasons: [StepFailed]}", "when: \"\"", "spec.steps[train].when", 21,
     "must not be empty"),
    ("too small", "limit: 3", "limit: -1", "spec.steps[train].retry.limit", 21, "must be at least 0, got -1"),
    ("too large", "limit: 3", "limit: 1001", "spec.steps[train].retry.limit", 21, "must be at most 1000, got 1001"),
    ("too long", "name: train", f"name: {'t' * 64}", "spec.steps[1].name", 16, "64 characters, at most 63"),
    ("a map for a keyed list", "inputs: [{name: rows, from: inputs.rows}]", "inputs: {rows: inputs.rows}",
     "spec.steps[prepare].inputs", 14, "write each entry as `- name: …`"),
    ("a union is one problem", "retry:", "resources: {limits: {cpu: 1.5}}\n      retry:",
     "spec.steps[train].resources.limits.cpu", 21, "wanted a whole number or a string, got the number 1.5"),
    ("key that YAML reads as true", "limit: 3, ", "limit: 3, on: 1, ", "spec.steps[train].retry.on", 21,
     'put it in quotes, "on"'),
    ("a number as key", "retry:", "podTemplate: {metadata: {labels: {1: a}}}\n      retry:",
     "spec.steps[train].podTemplate.metadata.labels.1", 21, "as a number"),
    ("duplicate key", "      function", "      image: b\n      function", "spec.steps[train].image", 18,
     "is given twice, first on line 17"),
    ("not finite", "150", ".nan", "spec.inputs[rows].default", 7, ".nan is not a number in JSON"),
    ("beyond 64 bits", "150", "9223372036854775808", "spec.inputs[rows].default", 7, "is too large: put it in quotes"),
    ("rule", "150", "many", "spec.inputs[rows].default", 7, 'wanted a number, got the text "many"'),
    ("empty list item", "[python, prepare.py]", "[python,]\n      args: [null]", "spec.steps[prepare].args[0]", 14,
     "got nothing (null)"),
    ("wrong version", "v1alpha1", "v1", "apiVersion", 1, "wanted penstock.dev/v1alpha1"),
    ("wrong kind", "Pipeline", "Pipline", "kind", 2, 'did you mean "Pipeline"?'),
    ("group misspelt", "penstock.dev", "penstok.dev", "apiVersion", 1, 'did you mean "penstock.dev/v1alpha1"?'),
    ("no name", "  name: iris", "  labels: {}", "metadata", 3, "needs `metadata.name`"),
    ("NUL", "prepare.py", '"a\\0b"', "spec.steps[prepare].command[1]", 13, "the character NUL"),
    ("tag", "150", "!secret a", "spec.inputs[rows].default", 7, "has no meaning here"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "path", "line", "message"), [row[1:] for row in BAD], ids=[r[0] for r in BAD])
def test_a_broken_manifest_has_one_problem_with_its_place(
    old: str, new: str, path: str, line: int, message: str
) -> None:
    assert old in GOOD
    problems = [p for d in load(GOOD.replace(old, new, 1)) for p in d.problems if p.severity == "error"]
    first = problems[0]
    assert (first.path, first.line) == (path, line), problems
    assert message in first.message
    extra = [p for p in problems[1:] if p.path != path]
    assert extra == [], "one mistake is one problem"


def test_all_problems_of_a_manifest_are_told_at_once_and_in_order() -> None:
    text = GOOD.replace("150", '"x"').replace("limit: 3", "limit: x").replace("[python, prepare.py]", "3")
    text = text.replace("name: table, from: ", "name: table, value: 3, from: ")
    assert [(path, line) for path, line, _ in found(text)] == [
        ("spec.inputs[rows].default", 7),
        ("spec.steps[prepare].command", 13),
        ("spec.steps[train].inputs[table].from", 19),
        ("spec.steps[train].retry.limit", 21),
    ]


def test_a_wrong_variable_does_not_hide_its_neighbours() -> None:
    text = GOOD.replace("retry:", "env: [{name: A, value: 3}, {name: INPUT_X, value: a}]\n      retry:")
    assert [path for path, _, _ in found(text)] == [
        "spec.steps[train].env[A].value",
        "spec.steps[train].env[INPUT_X].name",
    ]


def test_one_bad_document_hides_nothing_of_the_others() -> None:
    text = "---\n".join(
        [GOOD.replace("kind: Pipeline", "kind: Pipe"), CONFIG_MAP, DEPLOYMENT.replace("9", "99"), "a: [\n"]
    )
    kinds = [(d.kind, d.ok, d.ours) for d in load(text)]
    assert kinds == [("Pipe", False, True), ("ConfigMap", True, False), ("Deployment", False, True), ("", False, True)]
    with pytest.raises(InvalidManifest) as error:
        require(load(text, file="all.yaml"))
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("all.yaml:2: kind: wanted one of Pipeline, Deployment, Execution")
    assert lines[1].startswith('all.yaml:33: spec.schedule.cron: "99" is not valid as hour')


def test_lists_are_taken_apart_and_keep_their_lines() -> None:
    items = "".join("  - " + body.replace("\n", "\n    ").rstrip() + "\n" for body in (GOOD, DEPLOYMENT))
    documents = load(f"apiVersion: v1\nkind: List\nitems:\n{items}".replace("cron:", "crom:"))
    assert [d.name for d in documents] == ["iris", "nightly"]
    assert documents[0].problems == ()
    assert [(p.path, p.line) for p in documents[1].problems] == [("spec.schedule.cron", 30), ("spec.schedule.crom", 30)]


def test_merge_keys_aliases_dates_and_times_are_read_as_kubernetes_reads_them() -> None:
    text = GOOD.replace("      image: registry.example/iris:1\n", "", 1).replace(
        "[python, prepare.py]", "&c [a, 2024-01-01, 12:30, 1_0x, '0017']\n      <<: &d {image: b, timeoutSeconds: 0x10}"
    )
    text = text.replace("function: iris.train:run", "command: *c\n      <<: *d")
    (document,) = load(text)
    assert document.problems == ()
    assert isinstance(document.model, Pipeline)
    first, second = document.model.spec.steps
    assert first.command == second.command == ["a", "2024-01-01", "12:30", "1_0x", "0017"]
    assert (first.image, second.image) == ("b", "registry.example/iris:1")
    assert first.timeout_seconds == second.timeout_seconds == 16


def test_what_is_left_can_be_checked_on_and_follow_up_problems_are_left_out() -> None:
    text = GOOD.replace("type: file", "type: folder").replace("name: rows, type: number", "name: rows, type: numer")
    (document,) = load(text)
    assert document.model is None
    assert document.tainted == {"inputs.rows", "steps.prepare.outputs.table"}
    assert isinstance(document.partial, Pipeline)
    assert [step.name for step in document.partial.spec.steps] == ["prepare", "train"]
    judged = document.judge(
        [
            Problem(("spec", "steps", 0, "inputs", 0, "from"), "unknown input", expression="inputs.rows"),
            Problem(("spec", "steps", 1, "inputs", 0, "from"), "unknown", expression="steps.prepare.outputs.table"),
            Problem(("spec", "outputs", 0, "from"), "other", expression="steps.train.outputs.accuracy", column=7),
        ]
    )
    new = [p for p in judged.problems if p not in document.problems]
    assert [(p.path, p.line, p.column) for p in new] == [("spec.outputs[accuracy].from", 9, 7)]


def test_places_are_those_of_the_file_although_a_step_before_was_left_out() -> None:
    (document,) = load(GOOD.replace("name: prepare\n", "name: Prepare\n"))
    assert isinstance(document.partial, Pipeline)
    assert [step.name for step in document.partial.spec.steps] == ["train"]
    placed = document.place(Problem(("spec", "steps", 0, "function"), "x"))
    assert (placed.path, placed.line, placed.loc[2]) == ("spec.steps[train].function", 18, 1)


def test_problems_that_only_follow_from_a_cut_are_not_told() -> None:
    for old, new in [
        ("function: iris", "fuction: iris"),  # nothing runs any more
        ("function: iris.train:run", "script: 3\n      shell: [sh]"),  # `shell` without `script`
        ("  steps:", "  defaults: {image: 3}\n  steps:"),
    ]:
        text = GOOD.replace(old, new, 1).replace("      image: registry.example/iris:1\n", "")
        assert len([p for p in found(text) if "cluster" not in p[2]]) == 1, new
    ((path, _, _),) = found(DEPLOYMENT + "  concurrency: {policy: Forbit, limit: 2}\n")
    assert path == "spec.concurrency.policy"


def test_a_problem_inside_a_step_that_could_not_be_read_whole_is_left_out() -> None:
    text = GOOD.replace("retry:", "forEech: {items: [1]}\n      retry:").replace("name: train", "name: my-step")
    (document,) = load(text.replace("steps.train", "steps.my_step"))
    assert document.tainted == {"steps.my_step"}
    item = Problem(("spec", "steps", 1, "when"), "unknown name item", expression="item > 1")
    output = Problem(("spec", "outputs", 0, "from"), "type", expression="size(steps.my_step.outputs.accuracy)")
    depends = Problem(("spec", "steps", 0, "dependsOn"), "unknown step", expression="steps.my_step2.status")
    assert document.judge([item, output]).problems == document.problems
    assert len(document.judge([item, depends]).problems) == len(document.problems) + 1


GARBAGE = {
    "empty": ("", None, "is empty"),
    "comments only": ("# nothing\n---\n# here\n", None, "is empty"),
    "scalar": ("hello", 1, "wanted an object"),
    "list": ("[1, 2]", 1, "wanted an object"),
    "control characters": ("a: b\nc: \x07", 2, "control characters"),
    "open quote": ("a: 'b\nc: d\n", 3, "is a quote left open? The text began on line 1."),
    "tab": ("a:\n\tb: c\n", 2, "use spaces"),
    "colon in a text": ("a: b: c\n", 1, "needs quotes"),
    "Helm template": ("a: {{ .Values.a }} b\n", 1, "helm template"),
    "unknown alias": ("a: *b\n", 1, "no anchor &b"),
    "alias of itself": ("a: &b [*b]\n", 1, "part of"),
    "deep block": ("- " * 200_000, 1, "nested more than 100"),
    "deep flow": ("[" * 200_000, 1, "nested more than 100"),
    "half a surrogate": ("a: \ud800", None, "surrogate"),
}


@pytest.mark.parametrize(("text", "line", "message"), GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_gets_one_plain_problem(text: str, line: int | None, message: str) -> None:
    ((path, where, said),) = found(text)
    assert (path, where) == ("", line)
    assert message in said


def test_aliases_cannot_grow_without_bound() -> None:
    levels = [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 12)]
    ((_, line, message),) = found("l0: &l0 [x, x, x]\n" + "\n".join(levels))
    assert "aliases stand for more than" in message
    assert line is not None


def test_a_folder_is_read_in_order_and_a_bad_file_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(GOOD)
    (tmp_path / "a.yml").write_text(DEPLOYMENT)
    (tmp_path / "c.json").write_bytes(b"\xff\xfea\0")
    (tmp_path / "d.yaml").write_bytes(b"a: b\nc: \xe9\n")
    (tmp_path / "notes.txt").write_text("not a manifest")
    (tmp_path / "deeper.yaml").mkdir()
    documents = read(tmp_path)
    assert [d.kind for d in documents] == ["Deployment", "Pipeline", "", ""]
    assert [str(p) for d in documents[2:] for p in d.problems] == [
        f"{tmp_path}/c.json: is UTF-16: save it as UTF-8",
        f"{tmp_path}/d.yaml:2: is not UTF-8 here: save it as UTF-8",
    ]


@pytest.mark.parametrize("name", ["missing.yaml", "a\0b", "x" * 5000])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidManifest) as error:
        read(tmp_path / name)
    assert error.value.problems[0].file == str(tmp_path / name)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    request.getfixturevalue("without_root")
    with pytest.raises(InvalidManifest, match="permission denied"):
        read(path)


def test_an_empty_folder_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"the folder has no \*\.yaml"):
        read(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(InvalidManifest, match="is not a text file"):
        read(tmp_path / "a.yaml")


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + GOOD.encode())))
    (document,) = read("-")
    assert (document.name, document.file, document.problems) == ("iris", "<stdin>", ())


def check(documents: list[Document]) -> None:
    assert documents
    for document in documents:
        for problem in document.problems:
            assert problem.message
            assert "\n" not in str(problem)
            json.dumps(problem.to_json())
        if document.ours and document.ok:
            assert document.model is not None
        if document.model is not None:
            assert document.partial is document.model


@given(st.text())
def test_any_text_gives_documents(text: str) -> None:
    check(load(text))


# fmt: off
SOUP = [
    "a ", "- ", ": ", "\n", "  ", "{", "}", "[", "]", ",", "&a ", "*a", "<<: ", "'", '"', "? ", "| \n", "!!int ", "!x ",
    "---\n", "yes", "1e999", "0x_", "~", "\t", "#", "%",
]
# fmt: on


@given(st.lists(st.sampled_from(SOUP)))
def test_any_soup_of_yaml_gives_documents(parts: list[str]) -> None:
    check(load("".join(parts)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300)
@given(st.sampled_from([GOOD, DEPLOYMENT]), st.randoms(use_true_random=False), JSON, st.integers(1, 3))
def test_any_change_of_a_good_manifest_gives_documents(
    text: str, chance: random.Random, value: object, times: int
) -> None:
    data = yaml.safe_load(text)
    for _ in range(times):
        here: object = data
        while isinstance(here, dict | list) and here:
            key = chance.choice(list(here) if isinstance(here, dict) else list(range(len(here))))
            inner = here[key]
            if not isinstance(inner, dict | list) or chance.random() < 0.2:
                change = chance.choice(["replace", "remove", "rename"])
                if change == "replace":
                    here[key] = copy.deepcopy(value)
                elif change == "remove":
                    del here[key]
                elif isinstance(here, dict):
                    here[str(key)[1:] + "x"] = here.pop(key)
                break
            here = inner
    check(load(yaml.safe_dump(data, allow_unicode=True)))
    check(load(json.dumps(data)))
