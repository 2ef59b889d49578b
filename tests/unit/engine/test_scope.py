"""Which names an expression may mention where, and what is said of the others: place, text and column."""

from __future__ import annotations

from typing import Any

import pytest

from builders import PipelineBuilder, pipeline


def at_x(**fields: Any) -> PipelineBuilder:
    return (
        pipeline().input("rows", "number").input("name", "string").input("j", "json").input("l", "array")
        .input("raw", "file")
        .step("prepare", outputs={"table": "file", "n": "number", "long-name": "string"})
        .step("fan", forEach={"items": [1, 2]}, outputs={"n": "number", "t": "file"})
        .step("bare").step("x", **fields).final("clean")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("inputs.row > 1", 1, 'unknown input "row"; did you mean "rows"?'),
        ("inputs.zzz > 1", 1, 'unknown input "zzz"; declared are rows, name, j, l, raw'),
        ("1 > 0 && steps.prepar.status == ''", 10, 'unknown step "prepar"; did you mean "prepare"?'),
        ("steps.prepare.outputs.tabel == 1", 1, 'step "prepare" has no output "tabel"; did you mean "table"?'),
        ("steps.prepare.outputs.zzz == 1", 1, 'step "prepare" has no output "zzz"; it declares table, n, long_name'),
        ("steps.bare.outputs.n == 1", 1, 'step "bare" declares no outputs; add "n" under its outputs'),
        ("steps.prepare.outputs == 1", 1, "write steps.prepare.outputs.<name>; declared are table, n, long_name"),
        ("steps.prepare.stat == ''", 1, 'step "prepare" has outputs.<name>, status, exitCode and attempts in '
         'expressions; did you mean "status"?'),
        ("steps.fan.exitCode == 0", 1, '"exitCode" is not known of step "fan" as a whole, since it has forEach; use '
         "its status"),
        ("steps == 1", 1, "write steps.<name>.outputs.<output>, steps.<name>.status or steps.<name>.exitCode"),
        ("inputs == 1", 1, 'write inputs.<name>, for example "inputs.rows"'),
        ("item > 1", 1, '"item" is known only in a step that has forEach'),
        ("index > 1", 1, '"index" is known only in a step that has forEach'),
        ("attempt > 1", 1, '"attempt" is known only where an attempt is started: in step inputs and imageFrom'),
        ("execution.status == ''", 1, '"execution.status" is known only in `finally` steps'),
        ("execution.foo == ''", 1, '"execution" has name, uid, namespace, written like execution.name'),
        ("  steps.x.status == ''", 3, "a step cannot refer to itself"),
        ("steps.clean.status == ''", 1, '"clean" is a `finally` step: it runs after all others, so they cannot wait '
         "for it"),
        ("foo > 1", 1, 'there is no variable or function "foo" in an expression'),
        ("inputs.name > 1", 13, '">" cannot be applied to (string, int)'),
        ("inputs.rows > 1 &&\n  inputs.name > 2", 34, '">" cannot be applied to (string, int)'),
        ("'é' == inputs.nam", 8, 'unknown input "nam"; did you mean "name"?'),
        ("'é' > inputs.rows", 5, '">" cannot be applied to (string, int)'),
        ("inputs.rows", 1, "`when` must be a boolean, this gives a number"),
        ("inputs.raw == 'x'", 12, '"==" cannot be applied to (file, string)'),
    ],
)  # fmt: skip
def test_a_condition_that_cannot_be_read_says_where_and_why(text: str, column: int, says: str) -> None:
    (problem,) = at_x(when=text).problems()
    assert (problem.loc, problem.expression, problem.column) == (("spec", "steps", 3, "when"), text, column)
    assert problem.message == says


def test_a_syntax_error_has_its_column() -> None:
    (problem,) = at_x(when="1 +").problems()
    assert (problem.column, problem.message.startswith("syntax error: ")) == (4, True)


def test_all_unknown_names_of_a_text_are_named() -> None:
    found = at_x(when="inputs.rows > 1 && inputs.row < 2 && steps.nope.status == ''").problems()
    assert [problem.column for problem in found] == [20, 38]


@pytest.mark.parametrize(
    ("fields", "loc", "says"),
    [
        ({"forEach": {"from": "inputs.rows"}}, ("forEach", "from"),
         "what `forEach` goes over must be an array, this gives a number"),
        ({"forEach": {"from": "item"}}, ("forEach", "from"), '"item" is known only in a step that has forEach'),
        ({"forEach": {"matrix": [{"name": "a", "from": "steps.fan.outputs.t"}]}}, ("forEach", "matrix", 0, "from"),
         "files cannot be an axis of a matrix; use forEach.from for them"),
        ({"imageFrom": "inputs.rows"}, ("imageFrom",), "`imageFrom` must be a string, this gives a number"),
        ({"cache": {"key": "inputs.raw"}}, ("cache", "key"), "a file is no key; make it an input, whose digest counts"),
        ({"cache": {"key": "attempt"}}, ("cache", "key"),
         '"attempt" is known only where an attempt is started: in step inputs and imageFrom'),
        ({"inputs": {"v": "timestamp('2020-01-01T00:00:00Z')"}}, ("inputs", 0, "from"),
         "gives a timestamp, which is no JSON value; write string(…) around it"),
        ({"inputs": {"v": "b'a'"}}, ("inputs", 0, "from"),
         "gives a bytes, which is no JSON value; write string(…) around it"),
        ({"inputs": {"v": "{'a': inputs.raw}"}}, ("inputs", 0, "from"),
         "a file can be passed on as it is or in a list, not inside a map"),
        ({"inputs": {"v": "steps.x.attempts"}}, ("inputs", 0, "from"), "a step cannot refer to itself"),
    ],
)  # fmt: skip
def test_other_fields_say_where_and_why(fields: dict[str, Any], loc: tuple[str | int, ...], says: str) -> None:
    (problem,) = at_x(**fields).problems()
    assert (problem.loc, problem.message) == (("spec", "steps", 3, *loc), says)


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("number", "inputs.name", "the output is declared as number, this gives a string"),
        ("file", "inputs.j", "the output is declared as file, this gives a value"),
        ("json", "inputs.raw", "the output is declared as json, this gives a file"),
        ("array", "steps.fan.outputs.t",
         "a list of files cannot be an output of the pipeline; pick one, for example with [0]"),
        ("string", "execution.status", '"execution.status" is known only in `finally` steps'),
        ("number", "steps.clean.attempts",
         '"clean" is a `finally` step: it runs after all others, so they cannot wait for it'),
    ],
)  # fmt: skip
def test_outputs_of_the_pipeline_are_checked_against_their_type(kind: str, text: str, says: str) -> None:
    (problem,) = at_x().output("o", kind, text).problems()
    assert (problem.loc, problem.message) == (("spec", "outputs", 0, "from"), says)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("number", "inputs.rows"), ("string", "inputs.j"), ("json", "steps.fan.outputs.n"), ("json", "inputs.name"),
        ("array", "steps.fan.outputs.n"), ("file", "steps.fan.outputs.t[0]"), ("string", "steps.fan.status"),
        ("string", "steps.prepare.outputs.long_name"), ("boolean", "steps.prepare.exitCode == 0"),
    ],
)  # fmt: skip
def test_outputs_of_fitting_types_are_fine(kind: str, text: str) -> None:
    assert at_x().output("o", kind, text).problems() == ()


@pytest.mark.parametrize(
    "text",
    [
        "execution.status == 'Failed'", "'x' in execution.failedSteps", "steps.x.status == 'Failed'",
        "steps.other.status == 'Failed'", "execution.name != ''",
    ],
)  # fmt: skip
def test_finally_steps_see_every_status(text: str) -> None:
    assert at_x().final("other").final("last", when=text).problems() == ()


@pytest.mark.parametrize("text", ["item + index + attempt", "size(string(item))", "inputs.l.map(v, v)"])
def test_inputs_of_a_fan_out_see_item_index_and_attempt(text: str) -> None:
    assert at_x(forEach={"from": "inputs.l"}, inputs={"v": text}).problems() == ()


def test_the_items_of_collected_numbers_are_numbers() -> None:
    (problem,) = at_x(forEach={"from": "steps.fan.outputs.n"}, when="item == 'a'").problems()
    assert problem.message == '"==" cannot be applied to (int, string)'


def test_a_pipeline_without_inputs_says_so() -> None:
    (problem,) = pipeline().step("a", when="inputs.x").problems()
    assert problem.message == 'unknown input "x": the pipeline declares no inputs; add it under spec.inputs'
