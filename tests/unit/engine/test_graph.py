"""The graph: edges from references and `dependsOn`, cycles, unknown names, defaults."""

from __future__ import annotations

from typing import Any

import pytest

from builders import PipelineBuilder, bound, literal, pipeline
from penstock.api.problems import InvalidManifest
from penstock.engine.compile import check_pipeline


def with_edge(**fields: Any) -> PipelineBuilder:
    return pipeline().input("l", "array", default=[]).step(
        "a", outputs={"n": "number", "s": "string", "l": "array"}
    ).step("b", **fields)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "soft"),
    [
        ({"dependsOn": ["a"]}, False),
        ({"when": "steps.a.outputs.n > 1"}, False),
        ({"when": "steps.a.status == 'Failed'"}, False),
        ({"inputs": {"n": "steps.a.outputs.n"}}, False),
        ({"inputs": {"n": "1 + size(steps.a.outputs.l)"}}, False),
        ({"inputs": {"n": bound("steps.a.outputs.n", default=1)}}, True),
        ({"inputs": {"n": "steps.a.status"}}, True),
        ({"inputs": {"n": "steps.a.attempts"}}, False),
        ({"inputs": {"n": bound("steps.a.outputs.n", default=1), "m": "steps.a.outputs.n"}}, False),
        ({"imageFrom": "steps.a.outputs.s"}, False),
        ({"forEach": {"from": "steps.a.outputs.l"}}, False),
        ({"forEach": {"matrix": [{"name": "k", "from": "steps.a.outputs.l"}]}}, False),
        ({"cache": {"key": "steps.a.outputs.n"}}, False),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_every_reference_is_an_edge(fields: dict[str, Any], *, soft: bool) -> None:
    compiled = with_edge(**fields).compiled()
    assert compiled.steps["b"].deps == ("a",)
    assert compiled.steps["b"].soft == (frozenset({"a"}) if soft else frozenset())
    assert compiled.dependants == {"a": ("b",), "b": ()}
    assert compiled.order == ("a", "b")


@pytest.mark.parametrize("text", ["'steps.a.outputs.n'", "inputs.l", "1 // steps.a.outputs.n", 'r"steps.a.status"'])
def test_what_only_looks_like_a_reference_is_no_edge(text: str) -> None:
    assert with_edge(inputs={"x": text}).compiled().steps["b"].deps == ()


def test_a_literal_is_no_edge() -> None:
    assert with_edge(inputs={"x": literal("steps.a.outputs.n")}).compiled().steps["b"].deps == ()


def test_two_references_to_a_step_are_one_edge() -> None:
    step = with_edge(dependsOn=["a"], when="steps.a.outputs.n + steps.a.outputs.n > 1").compiled().steps["b"]
    assert step.deps == ("a",)


def test_finally_steps_wait_for_each_other_only() -> None:
    compiled = pipeline().step("a").final("f").final("g", dependsOn=["f"], inputs={"s": "steps.a.status"}).compiled()
    assert (compiled.steps["g"].deps, compiled.dependants["a"]) == (("f",), ())
    assert (compiled.main, compiled.finals, compiled.order) == (("a",), ("f", "g"), ("a",))


def test_steps_may_be_written_in_any_order() -> None:
    compiled = pipeline().step("c", dependsOn=["b"]).step("b", dependsOn=["a"]).step("a").compiled()
    assert compiled.order == ("a", "b", "c")
    assert [compiled.steps[name].position for name in "cba"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("told", "ring", "at"),
    [
        (pipeline().step("a", dependsOn=["b"]).step("b", dependsOn=["a"]), "a -> b -> a", 0),
        (
            pipeline().step("x", dependsOn=["a"]).step("a", dependsOn=["c"]).step("b", inputs={"s": "steps.a.status"})
            .step("c", when="steps.b.status == 'x'"),
            "a -> c -> b -> a", 1,
        ),
        (pipeline().step("m").final("a", dependsOn=["b"]).final("b", dependsOn=["a"]), "a -> b -> a", 0),
    ],
)  # fmt: skip
def test_a_cycle_is_shown_with_all_its_steps(told: PipelineBuilder, ring: str, at: int) -> None:
    (problem,) = told.problems()
    assert problem.message == f"steps wait for each other: {ring}; take out one of these references"
    assert problem.loc[-1] == at
    assert problem.loc[:-1] in {("spec", "steps"), ("spec", "finally")}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("prepar", 'unknown step "prepar"; did you mean "prepare"?'),
        ("zzz", 'unknown step "zzz"'),
        ("b", "a step cannot wait for itself"),
        ("end", '"end" is a `finally` step: it runs after all others, so they cannot wait for it'),
    ],
)
def test_depends_on_names_steps_that_one_can_wait_for(name: str, says: str) -> None:
    (problem,) = pipeline().step("prepare").step("b", dependsOn=["prepare", name]).final("end").problems()
    assert (problem.loc, problem.message) == (("spec", "steps", 1, "dependsOn", 1), says)


def test_a_finally_step_cannot_wait_for_a_step_before_but_needs_not() -> None:
    compiled = pipeline().step("a").final("f", dependsOn=["a"]).compiled()
    assert compiled.steps["f"].deps == ()


def test_duplicate_steps_are_refused_before_they_are_compiled() -> None:
    with pytest.raises(AssertionError, match='the step name "a" is given twice'):
        pipeline().step("a").final("a").spec()


def test_everything_wrong_is_found_at_once() -> None:
    told = pipeline().input("n", "number").output("o", "string", "inputs.n").step("a", when="inputs.m > 1 || inputs.k")
    told.step("b", dependsOn=["c"], inputs={"x": "1 +", "y": "steps.a.outputs.n"}).step("d", dependsOn=["e"])
    told.step("e", dependsOn=["d"])
    assert [(problem.loc[1:], problem.column) for problem in told.problems()] == [
        (("steps", 0, "when"), 1),
        (("steps", 0, "when"), 17),
        (("steps", 1, "inputs", 0, "from"), 4),
        (("steps", 1, "inputs", 1, "from"), 1),
        (("steps", 1, "dependsOn", 0), None),
        (("steps", 2), None),
        (("outputs", 0, "from"), 1),
    ]
    with pytest.raises(InvalidManifest) as caught:
        told.compiled()
    assert 'unknown input "m"' in str(caught.value)
    assert "inputs.m > 1 || inputs.k" in str(caught.value)


def test_problems_are_placed_where_the_pipeline_is() -> None:
    _, problems = check_pipeline(pipeline().step("a", when="x").spec(), ("spec", "pipelineSpec"))
    assert problems[0].loc == ("spec", "pipelineSpec", "steps", 0, "when")


def test_defaults_are_merged_and_a_steps_own_settings_win() -> None:
    told = pipeline().settings(
        defaults={
            "image": "d:1",
            "timeoutSeconds": 5,
            "retry": {"limit": 3},
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
            "envFrom": [{"secretRef": {"name": "s"}}],
        }
    )
    own = {"env": [{"name": "B", "value": "2"}], "envFrom": [{"configMapRef": {"name": "c"}}]}
    told.step("a").step("b", image="b:1", timeoutSeconds=7, retry={"limit": 0}, **own).step("c", imageFrom="'c:1'")
    steps = told.compiled().steps
    a, b, c = steps["a"].spec, steps["b"].spec, steps["c"].spec
    assert (a.image, a.timeout_seconds, a.retry and a.retry.limit) == ("d:1", 5, 3)
    assert (b.image, b.timeout_seconds, b.retry and b.retry.limit) == ("b:1", 7, 0)
    assert [(each.name, each.value) for each in b.env or ()] == [("A", "1"), ("B", "2")]
    assert [each.secret_ref and each.secret_ref.name for each in b.env_from or ()] == ["s", None]
    assert c.image is None


def test_a_step_after_a_recovery_may_recover_too() -> None:
    told = pipeline().step("a").step("b", when="steps.a.status == 'Failed'").step("c", dependsOn=["b"]).step("d")
    assert [step.recovers for step in told.compiled().steps.values()] == [False, True, True, False]
