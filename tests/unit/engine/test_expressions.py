"""CEL expressions by themselves: references, types, numbers, files, null, and what is said when they fail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_file
from penstock.engine.expressions import (
    ANY,
    ARRAY,
    BOOLEAN,
    FILE,
    JSON,
    NUMBER,
    STRING,
    Expr,
    ExpressionError,
    ExprType,
    Unavailable,
    chains,
    check,
    evaluate,
)

FILES = ExprType("array", FILE)
NUMBERS = ExprType("array", NUMBER)
TYPES = {
    "inputs.n": NUMBER,
    "inputs.m": NUMBER,
    "inputs.s": STRING,
    "inputs.b": BOOLEAN,
    "inputs.j": ANY,
    "inputs.l": ARRAY,
    "inputs.f": FILE,
    "inputs.maybe": NUMBER._replace(nullable=True),
    "steps.fan.outputs.n": NUMBERS,
    "steps.fan.outputs.f": FILES,
}


def checked(text: str) -> Expr:
    expr, problems = check(text, TYPES.get, lambda words: f"unknown {'.'.join(words)}")
    assert expr is not None, problems
    return expr


def value(text: str, **values: Any) -> Any:
    """The value of a text, with inputs by name; one that is not given is not there."""

    def resolve(name: str) -> Any:
        short = name.rsplit(".", 1)[1] if name.startswith("inputs.") else name.split(".")[1]
        if short not in values:
            raise Unavailable(name)
        return values[short]

    return evaluate(checked(text), resolve, {})


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


# --- references -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("inputs.n", [("inputs.n", 1)]),
        ("  inputs . n + inputs.m", [("inputs.n", 3), ("inputs.m", 16)]),
        ("'inputs.n' + \"inputs.n\" + '''inputs.n'''", []),
        ("r'\\' + inputs.s", [("inputs.s", 8)]),
        ("'it\\'s inputs.n' + inputs.s", [("inputs.s", 20)]),
        ("a.inputs.n", []),
        ("inputs.j.inputs.n", [("inputs.j.inputs.n", 1)]),
        ("inputs.s.size()", [("inputs.s.size", 1)]),
        ("1 + 2 // inputs.n", []),
        ("inputs.n // inputs.m\n + inputs.n", [("inputs.n", 1), ("inputs.n", 25)]),
        ("xinputs.n + inputsx.n", []),
        ("[1, 2].map(x, x + inputs.n)", [("inputs.n", 19)]),
        ("{'inputs': inputs.n}", [("inputs.n", 12)]),
    ],
)
def test_references_are_found_and_nothing_else(text: str, found: list[tuple[str, int]]) -> None:
    assert [(".".join(chain.words), chain.column) for chain in chains(text)] == found


def test_the_longest_known_name_is_the_variable_and_the_rest_is_a_field() -> None:
    assert [reference.name for reference in checked("inputs.j.a.b == inputs.s").references] == ["inputs.j", "inputs.s"]
    assert value("inputs.j.a.b", j={"a": {"b": [1]}}) == [1]


def test_a_variable_is_named_once_where_it_stands_first() -> None:
    assert [tuple(each) for each in checked("inputs.n + inputs.m + inputs.n").references] == [
        ("inputs.n", 1),
        ("inputs.m", 12),
    ]


def test_an_unknown_name_is_explained_at_its_column() -> None:
    expr, problems = check("inputs.n > inputs.x", TYPES.get, lambda words: f"unknown {'.'.join(words)}")
    assert (expr, [tuple(problem) for problem in problems]) == (None, [("unknown inputs.x", 12)])


# --- types ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("inputs.n", NUMBER), ("inputs.n + 1", NUMBER), ("inputs.n * 0.5", NUMBER), ("inputs.s + 'x'", STRING),
        ("inputs.n > 1", BOOLEAN), ("inputs.j", ANY), ("inputs.j.a", ANY), ("[inputs.n]", NUMBERS), ("inputs.l", ARRAY),
        ("{'a': 1}", JSON), ("inputs.f", FILE), ("[inputs.f]", FILES), ("steps.fan.outputs.f", FILES),
        ("steps.fan.outputs.f[0]", FILE), ("steps.fan.outputs.n.map(n, n * 2.0)", NUMBERS), ("null", ANY),
        ("inputs.b ? inputs.n : inputs.m", NUMBER), ("string(inputs.n)", STRING), ("size(inputs.l)", NUMBER),
        ("timestamp('2020-01-01T00:00:00Z')", ExprType("timestamp")), ("b'x'", ExprType("bytes")),
        ("type(1)", ANY),
    ],
)  # fmt: skip
def test_the_type_of_a_text_is_known_before_it_runs(text: str, kind: ExprType) -> None:
    assert checked(text).type == kind


@pytest.mark.parametrize(
    ("text", "says", "column"),
    [
        ("inputs.n + 'x'", '"+" cannot be applied to (int, string)', 10),
        ("inputs.f + 1", '"+" cannot be applied to (file, int)', 10),
        ("inputs.b && inputs.s", '"&&" cannot be applied to (bool, string)', 10),
        ("!inputs.n", '"!" cannot be applied to (int)', 1),
        ("inputs.l['a']", '"[ ]" cannot be applied to (list(dyn), string)', 9),
        ("nope(1)", 'there is no variable or function "nope" in an expression', 5),
        ("{'a': inputs.f}", "a file can be passed on as it is or in a list, not inside a map", 1),
        ("inputs.s == null", '"==" cannot be applied to (string, null_type)', 10),
    ],
)
def test_a_type_error_is_told_plainly(text: str, says: str, column: int) -> None:
    expr, problems = check(text, TYPES.get, lambda words: "")
    assert (expr, [tuple(problem) for problem in problems]) == (None, [(says, column)])


# --- numbers: JSON has one kind, CEL has two --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values", "wanted"),
    [
        ("inputs.n", {"n": 5}, 5),
        ("inputs.n", {"n": 5.0}, 5.0),  # passed on as it is
        ("inputs.n + 1", {"n": 5}, 6),
        ("inputs.n + 1", {"n": 5.0}, 6),  # an integral JSON number is an int, however it was written
        ("inputs.n * 0.5", {"n": 5}, 2.5),
        ("inputs.n * 0.5", {"n": 0.5}, 0.25),
        ("0.5 < inputs.n && inputs.m < 2.5", {"n": 1, "m": 2}, True),
        ("inputs.n / inputs.m", {"n": 7, "m": 2}, 3),
        ("inputs.n / inputs.m", {"n": 7.5, "m": 2.5}, 3.0),
        ("inputs.n / 2.0", {"n": 7}, 3.5),
        ("inputs.n % 4", {"n": 7}, 3),
        ("-inputs.n", {"n": 7}, -7),
        ("inputs.n > 1", {"n": 1.5}, True),
        ("inputs.n == 1.0", {"n": 1}, True),
        ("inputs.n == 1", {"n": 1.0}, True),
        ("int(inputs.n)", {"n": 1.75}, 1),
        ("double(inputs.n) * 0.5 + 1.0", {"n": 3}, 2.5),
        ("size(inputs.l) > inputs.n", {"l": [1, 2], "n": 1.5}, True),
        ("inputs.l[inputs.n]", {"l": [1, 2], "n": 1}, 2),
        ("math.greatest(inputs.n, 2)", {"n": 7}, 7),
        ("steps.fan.outputs.n.map(n, n * 0.5)", {"fan": [1, 2.5]}, [0.5, 1.25]),
        ("steps.fan.outputs.n.map(n, n + 1)", {"fan": [1, 2]}, [2, 3]),
        ("steps.fan.outputs.n.exists(n, n > 0.9)", {"fan": [0.5, 1]}, True),
        ("string(inputs.n)", {"n": 5}, "5"),
    ],
)
def test_numbers_mean_what_their_author_means(text: str, values: Mapping[str, Any], wanted: Any) -> None:
    found = value(text, **values)
    assert same(found, wanted), found


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_keep_every_digit(number: int) -> None:
    assert value("inputs.n == inputs.m ? inputs.n : 0", n=number, m=number) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_other_numbers_keep_every_bit(number: float) -> None:
    assert float(value("[inputs.n][0]", n=number)) == number


def test_an_overflow_is_an_error_and_no_other_number() -> None:
    with pytest.raises(ExpressionError, match=r"cannot evaluate 'inputs.n \+ 1'"):
        value("inputs.n + 1", n=2**63 - 1)


def test_what_is_no_json_number_is_an_error() -> None:
    with pytest.raises(ExpressionError, match=r"its value inf is not a JSON number"):
        value("inputs.n / 0.0", n=1)
    with pytest.raises(ExpressionError, match=r"division by zero|divide by zero"):
        value("inputs.n / 0", n=1)
    assert not math.isfinite(1e400)


def test_mixed_numbers_of_unknown_kind_say_what_to_write() -> None:
    with pytest.raises(ExpressionError, match=r"write double\(…\) around the whole number, or its literal as 1.0"):
        value("inputs.j * 0.5", j=3)


# --- null, files and values that are not there --------------------------------------------------------------


@pytest.mark.parametrize(("given_", "wanted"), [(None, True), (0, False), (2.5, False)])
def test_what_may_be_null_can_be_asked_for_it(given_: float | None, *, wanted: bool) -> None:
    assert value("inputs.maybe == null", maybe=given_) is wanted
    assert value("inputs.maybe != null && inputs.maybe >= 0.0 || inputs.maybe == null", maybe=given_) is True


def test_null_equals_no_number() -> None:
    assert value("inputs.maybe == 1", maybe=None) is False
    assert value("inputs.maybe == 1.5", maybe=None) is False
    assert value("inputs.maybe == 1.5", maybe=1.5) is True


def test_a_text_that_does_not_ask_for_null_is_still_checked() -> None:
    expr, problems = check("inputs.maybe == 'a'", TYPES.get, lambda words: "")
    assert (expr, problems[0].message) == (None, '"==" cannot be applied to (int, string)')


def test_files_come_out_as_they_went_in() -> None:
    one, two = a_file("1"), a_file("2", folder=True)
    assert value("inputs.f", f=one) == one
    assert value("[inputs.f]", f=two) == [two]
    assert value("inputs.b ? inputs.f : inputs.f", b=True, f=one) == one
    assert value("steps.fan.outputs.f[1]", fan=[one, two]) == two
    assert value("steps.fan.outputs.f.filter(f, f != null)", fan=[one, None]) == [one]


def test_a_value_that_is_not_there_is_missed_only_where_it_is_needed() -> None:
    with pytest.raises(Unavailable) as caught:
        value("inputs.n + inputs.m", n=1)
    assert caught.value.name == "inputs.m"
    assert value("inputs.b ? inputs.n : inputs.m", b=True, n=1) == 1
    assert value("inputs.b || inputs.n > 1", b=True) is True
    with pytest.raises(Unavailable):
        value("inputs.b ? inputs.n : inputs.m", b=False, n=1)
    with pytest.raises(Unavailable):
        value("inputs.n")


@pytest.mark.parametrize(
    ("text", "values", "says"),
    [
        ("inputs.j.a", {"j": {}}, "cannot evaluate 'inputs.j.a': there is no key"),
        ("inputs.l[3]", {"l": [1]}, "cannot evaluate 'inputs.l[3]': "),
        ("int(inputs.s)", {"s": "x"}, "cannot evaluate 'int(inputs.s)': "),
        ("inputs.j + 1", {"j": "x"}, '"+" cannot be applied to (string, int)'),
        ("{1: 2}", {}, "the keys of a map must be strings, as in JSON"),
        ("inputs.j == 1 ? 'a' : dyn(b'x')", {"j": 2}, "write string(…) around it"),
    ],
)
def test_an_evaluation_that_fails_names_the_text(text: str, values: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value(text, **values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=15,
    )
)
def test_json_goes_through_an_expression_unchanged(content: Any) -> None:
    assert value("[inputs.j][0]", j=content) == content


@pytest.mark.parametrize("content", ["b\0c", {"b\0c": 2}, [["b\0c"]]], ids=["text", "key", "nested"])
def test_text_that_the_cel_library_would_cut_off_is_refused_and_passed_on_as_it_is(content: Any) -> None:
    assert value("inputs.j", j=content) == content
    with pytest.raises(ExpressionError, match="NUL"):
        value("[inputs.j][0]", j=content)


@pytest.mark.parametrize("text", ["[inputs.j][0]", "inputs.j.inner", "inputs.b ? inputs.j : inputs.j"])
def test_data_cannot_pass_for_a_file(text: str) -> None:
    forged: dict[str, Any] = {"penstock.dev/file": "other/secret", "sha256": "0" * 64, "size": 1, "folder": False}
    forged["inner"] = dict(forged)
    with pytest.raises(ExpressionError, match=r"the key 'penstock\.dev/file' is kept for files"):
        value(text, j=forged, b=True)


def test_a_program_is_compiled_once() -> None:
    programs: dict[Any, Any] = {}
    expr = checked("inputs.n + 1")
    assert [evaluate(expr, {"inputs.n": n}.__getitem__, programs) for n in (1, 2)] == [2, 3]
    assert len(programs) == 1
