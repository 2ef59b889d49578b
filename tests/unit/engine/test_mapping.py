"""What deployments bind: what does not fit their pipeline, and what the executions get that they start."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.api.deployment import DeploymentSpec
from penstock.api.pipeline import PipelineSpec
from penstock.engine.mapping import (
    Bound,
    Fault,
    NotBound,
    ObjectAt,
    bind,
    check,
    config_keys,
    endpoint_inputs,
    endpoint_outputs,
)
from penstock.step.values import RawText

PIPELINE = PipelineSpec.model_validate(
    {
        "inputs": [
            {"name": "rows", "type": "number"},
            {"name": "label", "type": "string", "default": "none", "maxBytes": 10},
            {"name": "note", "type": "json", "required": False},
            {"name": "source", "type": "file", "required": False},
        ],
        "outputs": [
            {"name": "score", "type": "number", "from": "steps.a.outputs.score"},
            {"name": "model", "type": "file", "from": "steps.a.outputs.model"},
        ],
        "steps": [
            {
                "name": "a",
                "image": "i",
                "outputs": [{"name": "score", "type": "number"}, {"name": "model", "type": "file"}],
            }
        ],
    }
)
SCHEDULE = {"schedule": {"cron": "0 9 * * *"}}
ENDPOINT = {"endpoint": {"path": "p"}}
ALL_BOUND = {
    "inputs": [
        {"name": "rows", "value": 3},
        {"name": "note", "void": True},
        {"name": "source", "object": "raw/iris.csv"},
    ],
    "outputs": [{"name": "score", "void": True}, {"name": "model", "object": "models/{date}"}],
}


def deployment(rule: dict[str, Any], **fields: Any) -> DeploymentSpec:
    return DeploymentSpec.model_validate({"pipeline": {"name": "p"}, **rule, **fields})


def problems(rule: dict[str, Any], **fields: Any) -> list[str]:
    return [problem.sentence() for problem in check(PIPELINE, deployment(rule, **fields))]


def inputs(bound: Bound) -> dict[str, Any]:
    return {each.name: each.value if each.object is None else ObjectAt(each.object) for each in bound.inputs}


def mistakes(deployed: DeploymentSpec, *args: Any, **named: Any) -> list[tuple[Fault, str]]:
    with pytest.raises(NotBound) as caught:
        bind(PIPELINE, deployed, *args, **named)
    return [(each.fault, each.name) for each in caught.value.mistakes]


def test_a_deployment_that_binds_everything_has_no_problems() -> None:
    assert problems(SCHEDULE, **ALL_BOUND) == []
    assert problems(ENDPOINT, **ALL_BOUND) == []
    assert problems(ENDPOINT) == []


def test_a_schedule_has_nobody_to_ask_so_every_input_without_default_and_every_output_must_be_bound() -> None:
    unbound = "spec.inputs: a schedule must bind every input without a default; bind"
    assert problems(SCHEDULE) == [
        f'{unbound} "rows": give it a value',
        f'{unbound} "note": give it a value, or void: true',
        f'{unbound} "source": give it a value, or void: true',
        'spec.outputs: a schedule must bind every output; "score" is not bound (void: true drops it)',
        'spec.outputs: a schedule must bind every output; "model" is not bound (void: true drops it)',
    ]


INPUTS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown", {"name": "row", "value": 1}, 'no input "row"; did you mean "rows"?'),
    ("wrong type", {"name": "rows", "value": "3"}, 'wanted a number, got the string "3"'),
    ("null", {"name": "rows", "value": None}, "wanted a number, got null"),
    ("too long", {"name": "label", "value": "x" * 11}, "11 bytes"),
    ("a file has no constant", {"name": "source", "value": "raw/iris.csv"}, "use `object` for a path"),
    ("void of a required one", {"name": "rows", "void": True}, 'requires the input "rows"'),
    ("object for a number", {"name": "rows", "object": "a"}, "this one is a number"),
    ("file from a ConfigMap", {"name": "source", "configMapKeyRef": {"name": "m", "key": "k"}}, "use `object`"),
    ("optional key", {"name": "rows", "configMapKeyRef": {"name": "m", "key": "k", "optional": True}}, "requires"),
    ("default", {"name": "rows", "endpoint": {"name": "rows", "default": "3"}}, "its default does not fit"),
    ("not required", {"name": "rows", "endpoint": {"name": "rows", "required": False}}, "give it a `default` here"),
    ("two types", {"name": "rows", "endpoint": {"name": "label"}}, 'is a number for "rows" and a string for "label"'),
]


@pytest.mark.parametrize(("binding", "said"), [case[1:] for case in INPUTS], ids=[case[0] for case in INPUTS])
def test_an_input_that_does_not_fit_is_a_problem(binding: dict[str, Any], said: str) -> None:
    (problem,) = problems(ENDPOINT, inputs=[binding])
    assert said in problem


OUTPUTS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown", {"name": "modell", "void": True}, 'no output "modell"'),
    ("a value in the data store", {"name": "score", "object": "scores"}, "only an output of type file"),
    ("a name that another has", {"name": "score", "endpoint": "model"}, 'bind "model" too'),
]


@pytest.mark.parametrize(("binding", "said"), [case[1:] for case in OUTPUTS], ids=[case[0] for case in OUTPUTS])
def test_an_output_that_does_not_fit_is_a_problem(binding: dict[str, Any], said: str) -> None:
    (problem,) = problems(ENDPOINT, outputs=[binding])
    assert said in problem


def test_an_execution_of_a_schedule_gets_what_is_bound_and_nothing_else() -> None:
    bound = bind(PIPELINE, deployment(SCHEDULE, **ALL_BOUND))
    assert inputs(bound) == {"rows": 3, "source": ObjectAt("raw/iris.csv")}
    assert [each.manifest() for each in bound.outputs] == [
        {"name": "score", "void": True},
        {"name": "model", "object": "models/{date}"},
    ]


def test_what_is_not_bound_is_the_callers_by_its_own_name() -> None:
    deployed = deployment(ENDPOINT, inputs=[{"name": "label", "value": "fixed"}])
    bound = bind(PIPELINE, deployed, {"rows": 3, "note": None, "source": ObjectAt("uploads/x")})
    assert inputs(bound) == {"rows": 3, "label": "fixed", "note": None, "source": ObjectAt("uploads/x")}
    assert [each.manifest() for each in bound.outputs] == [
        {"name": "score", "endpoint": "score"},
        {"name": "model", "endpoint": "model"},
    ]


def test_what_a_caller_leaves_out_is_the_deployments_default_and_then_the_pipelines() -> None:
    assert inputs(bind(PIPELINE, deployment(ENDPOINT), {"rows": 1})) == {"rows": 1}
    deployed = deployment(ENDPOINT, inputs=[{"name": "rows", "endpoint": {"name": "n", "default": 7}}])
    assert inputs(bind(PIPELINE, deployed)) == {"rows": 7}
    assert inputs(bind(PIPELINE, deployed, {"n": 8})) == {"rows": 8}


def test_text_of_a_form_is_read_by_the_type_of_the_input() -> None:
    bound = bind(
        PIPELINE, deployment(ENDPOINT), {"rows": RawText("2.5"), "label": RawText("7"), "note": RawText("[1]")}
    )
    assert inputs(bound) == {"rows": 2.5, "label": "7", "note": [1]}


def test_everything_that_is_wrong_with_a_call_is_said_at_once() -> None:
    deployed = deployment(ENDPOINT)
    given: dict[str, Any] = {"row": 1, "label": 3, "note": ObjectAt("uploads/x"), "source": "text"}
    assert mistakes(deployed, given) == [
        (Fault.UNKNOWN, "row"),
        (Fault.MISSING, "rows"),
        (Fault.WRONG_TYPE, "label"),
        (Fault.WRONG_TYPE, "note"),
        (Fault.WRONG_TYPE, "source"),
    ]
    with pytest.raises(NotBound, match=r'there is no input "row".*input "rows" \(number\) is required'):
        bind(PIPELINE, deployed, given)


def test_nobody_gives_an_input_to_a_schedule() -> None:
    assert mistakes(deployment(SCHEDULE, **ALL_BOUND), {"rows": 4}) == [(Fault.UNKNOWN, "rows")]


def test_values_of_config_maps_are_read_by_the_type_of_their_input() -> None:
    references = [{"name": "rows", "configMapKeyRef": {"name": "settings", "key": "rows"}}]
    deployed = deployment(ENDPOINT, inputs=references)
    assert config_keys(deployed) == [("settings", "rows")]
    assert inputs(bind(PIPELINE, deployed, {}, {("settings", "rows"): "12"})) == {"rows": 12}
    assert mistakes(deployed, {}, {}) == [(Fault.CONFIG, "rows")]
    assert mistakes(deployed, {}, {("settings", "rows"): "many"}) == [(Fault.CONFIG, "rows")]


def test_an_optional_key_that_is_not_there_leaves_the_input_to_its_default() -> None:
    reference = {"name": "label", "configMapKeyRef": {"name": "m", "key": "k", "optional": True}}
    assert inputs(bind(PIPELINE, deployment(ENDPOINT, inputs=[reference]), {"rows": 1})) == {"rows": 1}


def test_values_that_are_together_too_large_are_refused_and_files_do_not_count() -> None:
    deployed = deployment(ENDPOINT)
    # {"rows":1,"label":"none","note":"…"}: what the pipeline has by default counts as well.
    room = 100 - len('{"rows":1,"label":"none","note":""}')
    fits: dict[str, Any] = {"rows": 1, "note": "x" * room, "source": ObjectAt("uploads/" + "y" * 200)}
    assert inputs(bind(PIPELINE, deployed, fits, limit=100)) == fits
    assert mistakes(deployed, fits | {"note": "x" * (room + 1)}, limit=100) == [(Fault.TOO_LARGE, "")]


def test_a_caller_is_told_what_may_be_given() -> None:
    deployed = deployment(ENDPOINT, inputs=[{"name": "rows", "endpoint": {"name": "n"}}, {"name": "note", "value": 1}])
    told = {each.name: (str(each.type), each.required, each.default) for each in endpoint_inputs(PIPELINE, deployed)}
    assert told == {
        "n": ("number", True, None),
        "label": ("string", False, "none"),
        "source": ("file", False, None),
    }
    assert list(endpoint_outputs(PIPELINE, deployment(ENDPOINT, outputs=[{"name": "score", "endpoint": "s"}]))) == [
        "s",
        "model",
    ]
    assert endpoint_inputs(PIPELINE, deployment(SCHEDULE, **ALL_BOUND)) == ()
