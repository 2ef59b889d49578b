"""The rules that span fields: each rule has a manifest that breaks it, and what was left alone stays allowed."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.api.base import ValueType
from penstock.api.deployment import DeploymentSpec
from penstock.api.execution import Execution, ExecutionSpec
from penstock.api.pipeline import Pipeline, PipelineSpec
from penstock.api.problems import Loc
from penstock.api.rules import (
    deployment_problems,
    execution_problems,
    misfit,
    object_problems,
    pipeline_problems,
)

S: Loc = ("spec", "steps", 0)


def step(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "image": "i", **fields}


def pipeline(*steps: dict[str, Any], **fields: Any) -> list[tuple[Loc, str, str]]:
    spec = PipelineSpec.model_validate({"steps": list(steps) or [step()], **fields})
    return [(problem.loc, problem.message, problem.severity) for problem in pipeline_problems(spec)]


STEPS: list[tuple[str, dict[str, Any], Loc, str]] = [
    ("script and command", {"command": ["a"], "script": "b"}, ("script",), "`command` is given too"),
    ("function and args", {"args": ["a"], "function": "a:b"}, ("function",), "`args` is given too"),
    ("shell without script", {"shell": ["/bin/sh"]}, ("shell",), "is for `script` only"),
    ("empty shell", {"script": "a", "shell": []}, ("shell",), "must not be empty"),
    ("two images", {"imageFrom": "inputs.i"}, ("imageFrom",), "`image` is given too"),
    ("nothing runs", {"image": None}, (), "says nothing that runs"),
    ("args alone run nothing", {"image": None, "args": ["a"]}, (), "says nothing that runs"),
    ("input without source", {"inputs": [{"name": "x"}]}, ("inputs", 0), "needs one of `value` and `from`"),
    ("null is a value", {"inputs": [{"name": "x", "value": None, "from": "a"}]}, ("inputs", 0, "from"), "`value` is"),
    ("default of a literal", {"inputs": [{"name": "x", "value": 1, "default": 2}]}, ("inputs", 0, "default"), "`from`"),
    ("inputs twice", {"inputs": [{"name": "x", "value": 1}] * 2}, ("inputs", 1, "name"), "given twice"),
    ("inputs of one variable", {"inputs": [{"name": "x", "value": 1}, {"name": "X", "value": 1}]},
     ("inputs", 1, "name"), "both the variable INPUT_X"),
    ("outputs alike in CEL", {"outputs": [{"name": "a-b", "type": "json"}, {"name": "a_b", "type": "json"}]},
     ("outputs", 1, "name"), "both `a_b` in expressions"),
    ("reserved", {"outputs": [{"name": "in", "type": "json"}]}, ("outputs", 0, "name"), "word of the expression"),
    ("maxBytes of a number", {"outputs": [{"name": "a", "type": "number", "maxBytes": 3}]},
     ("outputs", 0, "maxBytes"), "for type string only, and the type is number"),
    ("dependsOn twice", {"dependsOn": ["b", "b"]}, ("dependsOn", 1), "given twice"),
    ("fan-out of nothing", {"forEach": {}}, ("forEach",), "needs one of `items`, `from` and `matrix`"),
    ("fan-out of two", {"forEach": {"items": [], "from": "a"}}, ("forEach", "from"), "`items` is given too"),
    ("include without matrix", {"forEach": {"items": [1], "include": [{"a": 1}]}}, ("forEach", "include"), "`matrix`"),
    ("axis of nothing", {"forEach": {"matrix": [{"name": "k"}]}}, ("forEach", "matrix", 0), "the axis needs one of"),
    ("axis twice", {"forEach": {"matrix": [{"name": "k", "items": [1]}] * 2}}, ("forEach", "matrix", 1, "name"),
     "twice"),
    ("too many combinations", {"forEach": {"matrix": [{"name": n, "items": [1] * 11} for n in "abc"]}},
     ("forEach", "matrix"), "1331 combinations (11 x 11 x 11), at most 1000"),
    ("exclude of no axis", {"forEach": {"matrix": [{"name": "kind", "items": [1]}], "exclude": [{"kin": 1}]}},
     ("forEach", "exclude", 0, "kin"), 'did you mean "kind"?'),
    ("variable without value", {"env": [{"name": "A"}]}, ("env", 0), "needs one of `value` and `valueFrom`"),
    ("variable with two values", {"env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s",
     "key": "k"}}}]}, ("env", 0, "valueFrom"), "`value` is given too"),
    ("valueFrom nothing", {"env": [{"name": "A", "valueFrom": {}}]}, ("env", 0, "valueFrom"), "`secretKeyRef`"),
    ("variable twice", {"env": [{"name": "A", "value": ""}] * 2}, ("env", 1, "name"), "given twice"),
    ("our variable", {"env": [{"name": "INPUT_A", "value": ""}]}, ("env", 0, "name"), "is set by Penstock"),
    ("envFrom nothing", {"envFrom": [{"prefix": "A"}]}, ("envFrom", 0), "needs one of `secretRef` and `configMapRef`"),
    ("waits", {"retry": {"limit": 1, "delaySeconds": 5, "maxDelaySeconds": 4}}, ("retry", "maxDelaySeconds"),
     "(4 < 5)"),
    ("reasons twice", {"retry": {"limit": 1, "reasons": ["StepFailed"] * 2}}, ("retry", "reasons", 1), "given twice"),
    ("pod template field", {"podTemplate": {"containers": []}}, ("podTemplate", "containers"), "`metadata` and `spec`"),
    ("pod template spec", {"podTemplate": {"spec": 3}}, ("podTemplate", "spec"), "wanted a map, got the number 3"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "loc", "message"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_a_step_that_breaks_a_rule_has_one_problem_at_its_place(fields: dict[str, Any], loc: Loc, message: str) -> None:
    ((where, said, severity),) = pipeline(step(**fields))
    assert (where, severity) == ((*S, *loc), "error")
    assert message in said


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"command": ["a"], "args": ["b"]},
        {"script": "a", "shell": ["python", "-c"]},
        {"image": None, "imageFrom": "inputs.image"},
        {"inputs": [{"name": "x", "value": None}, {"name": "y", "from": "inputs.y", "default": None}]},
        {"outputs": [{"name": "x", "type": "json"}, {"name": "X", "type": "json"}]},
        {"forEach": {"items": []}},
        {"forEach": {"matrix": [{"name": "k", "items": []}], "include": [{"other": 1}], "exclude": [{"k": 1}]}},
        {"env": [{"name": "A", "value": ""}], "envFrom": [{"secretRef": {"name": "s"}}]},
        {"cache": {}, "podTemplate": {"metadata": {}, "spec": {"containers": []}}},
        {"retry": {"limit": 1, "delaySeconds": 5, "maxDelaySeconds": 5}},
    ],
    ids=str,
)
def test_what_the_rules_allow(fields: dict[str, Any]) -> None:
    assert pipeline(step(**fields)) == []


def test_a_step_without_an_image_is_warned_of_unless_the_defaults_have_one() -> None:
    bare = {"name": "a", "command": ["a"]}
    ((loc, message, severity),) = pipeline(bare)
    assert (loc, severity) == (S, "warning")
    assert "a cluster needs `image` here or in spec.defaults" in message
    assert pipeline(bare, defaults={"image": "i"}) == []


def test_names_are_shared_by_steps_and_finally() -> None:
    ((loc, message, _),) = pipeline(step(), **{"finally": [step()]})
    assert loc == ("spec", "finally", 0, "name")
    assert "`steps` and `finally` share names" in message
    ((loc, _, _),) = pipeline(step(), step(name="b"), step())
    assert loc == ("spec", "steps", 2, "name")
    ((loc, _, _),) = pipeline(step(name="true"))
    assert loc == (*S, "name")


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({"type": "number", "default": "3"}, "wanted a number, got the text"),
        ({"type": "number", "default": True}, "wanted a number, got the boolean true"),
        ({"type": "boolean", "default": 1}, "wanted a boolean, got the number 1"),
        ({"type": "array", "default": {}}, "wanted an array, got a map"),
        ({"type": "string", "default": None}, "wanted a string, got nothing (null)"),
        ({"type": "string", "default": "éé", "maxBytes": 3}, "is too long: 4 bytes, at most 3"),
        ({"type": "file", "default": "a"}, "a file has no default"),
        ({"type": "json", "default": 1, "required": True}, "is never used with `required: true`"),
    ],
    ids=str,
)
def test_a_default_must_fit(declaration: dict[str, Any], message: str) -> None:
    ((loc, said, _),) = pipeline(inputs=[{"name": "a", **declaration}])
    assert loc == ("spec", "inputs", 0, "default")
    assert message in said


def test_values_that_fit_their_type() -> None:
    good: list[tuple[ValueType, object]] = [
        (ValueType.STRING, ""), (ValueType.NUMBER, 1.5), (ValueType.BOOLEAN, False), (ValueType.ARRAY, []),
        (ValueType.JSON, None), (ValueType.JSON, {"a": [1]}),
    ]  # fmt: skip
    assert [misfit(value, kind) for kind, value in good] == [None] * len(good)
    assert misfit("abc", ValueType.STRING, 3) is None


def execution(**spec: Any) -> list[tuple[Loc, str]]:
    return [(p.loc, p.message) for p in execution_problems(ExecutionSpec.model_validate(spec))]


def test_an_execution_runs_exactly_one_pipeline_and_the_inline_one_is_checked() -> None:
    assert execution(pipeline={"name": "a"}, inputs=[{"name": "x", "value": None}]) == []
    ((loc, _),) = execution()
    assert loc == ("spec",)
    inline = {"steps": [step(shell=["a"])]}
    assert [loc for loc, _ in execution(pipeline={"name": "a"}, pipelineSpec=inline)] == [
        ("spec", "pipelineSpec"),
        ("spec", "pipelineSpec", "steps", 0, "shell"),
    ]


def test_inputs_of_an_execution_have_one_source_and_one_name() -> None:
    bad = [{"name": "x"}, {"name": "x", "value": None, "object": "o"}]
    assert [loc for loc, _ in execution(pipeline={"name": "a"}, inputs=bad)] == [
        ("spec", "inputs", 0),
        ("spec", "inputs", 1, "object"),
        ("spec", "inputs", 1, "name"),
    ]


@pytest.mark.parametrize(
    ("spec", "loc", "message"),
    [
        ({"schedule": None}, (), "needs one of `schedule` and `endpoint`"),
        ({"endpoint": {"path": "a"}}, ("endpoint",), "`schedule` is given too"),
        ({"schedule": {"cron": "0 25 * * *"}}, ("schedule", "cron"), '"25" is not valid as hour (field 2 of'),
        ({"schedule": {"cron": "@hourly", "timeZone": "Europe/Pariss"}}, ("schedule", "timeZone"), '"Europe/Paris"?'),
        ({"schedule": {"cron": "@hourly", "startingDeadlineSeconds": 121}}, ("schedule", "startingDeadlineSeconds"),
          "has no meaning with catchUp None, which drops a time after 120 seconds: set `catchUp` to Last or All"),
        ({"inputs": [{"name": "a"}]}, ("inputs", 0), "needs one of `value`, `endpoint`, `configMapKeyRef`, `object`"),
        ({"inputs": [{"name": "a", "value": None, "void": True}]}, ("inputs", 0, "void"), "`value` is given too"),
        ({"inputs": [{"name": "a", "void": False}]}, ("inputs", 0, "void"), "can only be true"),
        ({"inputs": [{"name": "a", "endpoint": {"name": "a"}}]}, ("inputs", 0, "endpoint"), "a schedule has no caller"),
        ({"outputs": [{"name": "a", "endpoint": "a"}]}, ("outputs", 0, "endpoint"), "a schedule has no caller"),
        ({"outputs": [{"name": "a", "void": True}] * 2}, ("outputs", 1, "name"), "given twice"),
        ({"schedule": None, "endpoint": {"path": "a"}, "outputs": [{"name": "a", "endpoint": "x"}, {"name": "b",
          "endpoint": "x"}]}, ("outputs", 1, "endpoint"), '"x" is given by two outputs'),
        ({"outputs": [{"name": "a", "void": False}]}, ("outputs", 0, "void"), "can only be true"),
        ({"concurrency": {"limit": 2}}, ("concurrency", "limit"), "no meaning with policy Allow"),
        ({"schedule": None, "endpoint": {"path": "a"}, "inputs": [{"name": "a", "endpoint": {"name": "a",
          "required": True, "default": 1}}]}, ("inputs", 0, "endpoint", "default"), "never used"),
    ],
    ids=str,
)  # fmt: skip
def test_a_deployment_that_breaks_a_rule(spec: dict[str, Any], loc: Loc, message: str) -> None:
    whole = {"pipeline": {"name": "a"}, "schedule": {"cron": "@daily"}, **spec}
    ((where, said),) = [(p.loc, p.message) for p in deployment_problems(DeploymentSpec.model_validate(whole))]
    assert where == ("spec", *loc)
    assert message in said


@pytest.mark.parametrize(
    ("outputs", "loc", "message"),
    [
        ([{"name": "a"}], (0,), "the output needs one of `endpoint`, `object` and `void`"),
        ([{"name": "a", "object": "x", "void": True}], (0, "void"), "`object` is given too"),
        ([{"name": "a", "void": False}], (0, "void"), "can only be true"),
        ([{"name": "a", "void": True}] * 2, (1, "name"), "given twice"),
    ],
    ids=str,
)
def test_an_execution_whose_outputs_break_a_rule(outputs: list[dict[str, Any]], loc: Loc, message: str) -> None:
    spec = ExecutionSpec.model_validate({"pipeline": {"name": "a"}, "outputs": outputs})
    ((where, said),) = [(problem.loc, problem.message) for problem in execution_problems(spec)]
    assert where == ("spec", "outputs", *loc)
    assert message in said


def test_names_of_objects() -> None:
    spec = {"steps": [step()]}
    pipe = Pipeline.model_validate({"metadata": {"generateName": "a-"}, "spec": spec})
    assert [p.loc for p in object_problems(pipe)] == [("metadata",)]
    run = {"spec": {"pipeline": {"name": "a"}}}
    assert [p.loc for p in object_problems(Execution.model_validate(run))] == [("metadata",)]
    assert object_problems(Execution.model_validate({"metadata": {"generateName": "a-"}, **run})) == []
    bad = Execution.model_validate({"metadata": {"generateName": "A_"}, **run})
    assert [p.loc for p in object_problems(bad)] == [("metadata", "generateName")]
