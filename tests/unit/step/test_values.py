"""Values: the syntax of `$PENSTOCK_OUTPUT`, what text becomes for each type, and the messages where it does not fit."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.step.outputs import read_output_file
from penstock.step.values import (
    INT_MAX,
    INT_MIN,
    Declared,
    OutputSyntaxError,
    OutputTypeError,
    RawText,
    check_value,
    coerce,
    compact_json,
    format_output,
    json_bytes,
    parse_output,
    quote,
)

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))
NAMES = st.from_regex(r"\A[a-zA-Z_][a-zA-Z0-9_-]{0,20}\Z")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(INT_MIN, INT_MAX) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


# --- syntax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("\n \n\r\n", {}, id="blank lines only"),
        pytest.param("a=1\nb=two\n", {"a": "1", "b": "two"}, id="one line each"),
        pytest.param("a=1", {"a": "1"}, id="no line end at the end"),
        pytest.param("a=1\na=2\n", {"a": "2"}, id="later lines override"),
        pytest.param("a=x=y==\n", {"a": "x=y=="}, id="equals signs in the value"),
        pytest.param("a=x<<EOF\n", {"a": "x<<EOF"}, id="<< after the equals sign is text"),
        pytest.param("a=  padded \n", {"a": "  padded "}, id="spaces in the value are kept"),
        pytest.param("a=\n", {"a": ""}, id="empty value"),
        pytest.param("a=1\r\nb=2\r\n", {"a": "1", "b": "2"}, id="Windows line ends"),
        pytest.param("\ufeffa=1\n", {"a": "1"}, id="byte order mark"),
        pytest.param("a<<END\none\ntwo\nEND\nb=1\n", {"a": "one\ntwo", "b": "1"}, id="block"),
        pytest.param("a<<END\nEND\n", {"a": ""}, id="empty block"),
        pytest.param("a<<END\n\nEND\n", {"a": ""}, id="block of one empty line"),
        pytest.param("a<<END\nEND of it\n END\nEND", {"a": "END of it\n END"}, id="only the exact delimiter closes"),
        pytest.param("a<<x=y\nb=1\nx=y\n", {"a": "b=1"}, id="delimiter with an equals sign"),
        pytest.param("a<<END\r\none\r\ntwo\r\nEND\r\n", {"a": "one\r\ntwo"}, id="block with Windows line ends"),
        pytest.param("a<<END\none\r\nEND\n", {"a": "one\r"}, id="a \\r in a block of a plain file is data"),
        pytest.param("a<<END\n{\n\n}\nEND\n", {"a": "{\n\n}"}, id="blank lines in a block are kept"),
        pytest.param("a=one\u2028two\x0bthree\n", {"a": "one\u2028two\x0bthree"}, id="only \\n ends a line"),
        pytest.param('{"a": 1, "b": [true]}', {"a": 1, "b": [True]}, id="one JSON object"),
        pytest.param('\n  {\n"a": {"b": null}\n}\n\n', {"a": {"b": None}}, id="indented JSON object"),
    ],
)
def test_output_file_is_read(text: str, expected: dict[str, object]) -> None:
    assert parse_output(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("a=1\nhello world\n", 2, '"hello world" is neither name=value nor name<<END', id="garbage"),
        pytest.param("a = 1\n", 1, "write a=value", id="spaces around the equals sign"),
        pytest.param("export A=1\n", 1, '"export A" cannot be the name of an output', id="shell habit"),
        pytest.param("1a=1\n", 1, "do not start with a digit", id="name that starts with a digit"),
        pytest.param("=1\n", 1, '"" cannot be the name', id="no name"),
        pytest.param("é=1\n", 1, '"é" cannot be the name', id="name beyond ASCII"),
        pytest.param("\na<<END\nb=1\n", 2, 'never closed: end the value with "END"', id="block never closed"),
        pytest.param("a<<\n1\n", 1, "names no delimiter: write a<<END", id="no delimiter"),
        pytest.param("a=1\nb=\0\n", 2, "NUL byte", id="NUL"),
        pytest.param(
            '{"a": 1}\n{"b": 2}\n', None, "one JSON object, but it is not one: extra data at line 2", id="two"
        ),
        pytest.param('{"a": NaN}', None, "NaN is not JSON", id="NaN"),
        pytest.param("{a: 1}", None, "property name enclosed in double quotes at column 2", id="not quite JSON"),
        pytest.param('{"a b": 1}', None, '"a b" cannot be the name', id="bad name in JSON"),
        pytest.param('{"a":' + "[" * 100_000, None, "nested deeper than", id="nested without end"),
        pytest.param('{"a":' + "9" * 5_000 + "}", None, "beyond 64 bits", id="number without end"),
        pytest.param("x" * 5_000, 1, "…", id="long garbage is shortened"),
    ],
)
def test_output_file_that_cannot_be_read_names_line_and_remedy(text: str, line: int | None, says: str) -> None:
    with pytest.raises(OutputSyntaxError) as caught:
        parse_output(text)
    assert caught.value.line == line
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"$PENSTOCK_OUTPUT line {line}: " if line else "$PENSTOCK_OUTPUT: ")
    assert len(str(caught.value)) < 300


def test_values_from_lines_are_known_to_be_text() -> None:
    assert type(parse_output("a=1")["a"]) is RawText
    assert type(parse_output("a<<E\n1\nE")["a"]) is RawText
    assert type(parse_output('{"a": "1"}')["a"]) is str


@given(st.dictionaries(NAMES, TEXT, max_size=5))
def test_whatever_is_written_is_read_back(values: dict[str, str]) -> None:
    assert parse_output("".join(format_output(name, text) for name, text in values.items())) == values


@given(NAMES, TEXT, st.sampled_from(["END", "EOF", "x=y", "<<"]))
def test_a_block_holds_any_text_without_its_delimiter(name: str, text: str, delimiter: str) -> None:
    if delimiter not in text.replace("\r", "").split("\n"):
        assert parse_output(f"{name}<<{delimiter}\n{text}\n{delimiter}\n") == {name: text}


@given(st.dictionaries(NAMES, JSON, max_size=5))
def test_an_object_is_read_back(values: dict[str, Any]) -> None:
    assert parse_output(compact_json(values)) == values
    assert json_bytes(values) == len(compact_json(values).encode())


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert all(isinstance(name, str) for name in parse_output(text))
    except OutputSyntaxError as error:
        assert len(str(error)) < 400


# --- the file -------------------------------------------------------------------------------------


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_output_file(tmp_path / "none", 100) == ""


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "output"
    file.write_bytes("é".encode() * 50)
    assert read_output_file(file, 100) == "é" * 50
    with pytest.raises(OutputSyntaxError, match="holds 100 bytes, more than the 99"):
        read_output_file(file, 99)


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "output"
    file.write_bytes(b"a=1\nb=caf\xe9\n")
    with pytest.raises(OutputSyntaxError, match=r"line 2: is not UTF-8 text \(byte 0xe9\)"):
        read_output_file(file, 100)


def test_a_link_a_pipe_or_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a=secret")
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(OutputSyntaxError, match="not a regular file"):
            read_output_file(tmp_path / name, 100)


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "raw", "expected"),
    [
        ("string", RawText("12"), "12"),
        ("string", RawText(" true "), " true "),
        ("string", "12", "12"),
        ("number", RawText("12"), 12),
        ("number", RawText(" -1.5e3\t"), -1500.0),
        ("number", 0.25, 0.25),
        ("number", RawText(str(INT_MIN)), INT_MIN),
        ("boolean", RawText(" true"), True),
        ("boolean", False, False),
        ("json", RawText('{"a": null}'), {"a": None}),
        ("json", RawText("null"), None),
        ("json", "text", "text"),
        ("array", RawText('[1, "a"]'), [1, "a"]),
        ("array", [], []),
    ],
)
def test_values_become_their_declared_type(type_: str, raw: object, expected: object) -> None:
    value = coerce(Declared("x", type_), raw)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("type_", "raw", "message"),
    [
        ("number", RawText("abc"), 'output "x": wanted a number, got the string "abc"'),
        ("number", RawText(""), 'output "x": wanted a number, got the string ""'),
        ("number", RawText("NaN"), 'output "x": wanted a number, got the string "NaN"'),
        ("number", RawText("true"), 'output "x": wanted a number, got the string "true"'),
        ("number", RawText("007"), 'output "x": wanted a number, got the string "007"'),
        ("number", True, 'output "x": wanted a number, got the boolean true'),
        ("number", "1", 'output "x": wanted a number, got the string "1"'),
        ("number", None, 'output "x": wanted a number, got null'),
        ("boolean", RawText("True"), 'output "x": wanted true or false, got the string "True"'),
        ("boolean", 1, 'output "x": wanted true or false, got the number 1'),
        ("string", 1.5, 'output "x": wanted a string, got the number 1.5'),
        ("string", ["a"], 'output "x": wanted a string, got an array of 1 item'),
        ("array", RawText("{}"), 'output "x": wanted a JSON array, got the string "{}"'),
        ("array", {"a": 1, "b": 2}, 'output "x": wanted a JSON array, got an object with 2 keys'),
        ("json", RawText("abc"), "which is not JSON: expecting value at column 1"),
        ("json", b"abc", "got a Python object of type bytes"),
        (
            "json",
            {"a": [0, float("nan")]},
            'wanted finite numbers (JSON has no NaN or infinity), got the number nan at ["a"][1]',
        ),
        ("json", [{1: 2}], "wanted strings as the keys of an object, got the number 1 at [0]"),
        ("number", RawText("1e999"), "wanted finite numbers"),
        (
            "number",
            RawText(str(INT_MAX + 1)),
            f"integers that fit in 64 bits (write larger ones as strings), got the number {2**63}",
        ),
        ("number", RawText("9" * 5_000), "wanted a number, got the string"),
        ("number", 10**1_000, "got a number of 3322 bits"),
        ("json", json.loads('"\\ud800"'), "half a surrogate pair"),
        ("string", "a\0b", "without NUL characters"),
        ("file", "model.bin", 'output "x": wanted a file, got the string "model.bin"'),
        ("file", RawText("model.bin"), 'output "x": wanted a file, got the string "model.bin"'),
    ],
)
def test_what_does_not_fit_is_named_with_wanted_and_got(type_: str, raw: object, message: str) -> None:
    with pytest.raises(OutputTypeError) as caught:
        coerce(Declared("x", type_), raw)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250
    str(caught.value).encode()  # printable anywhere


def test_an_input_is_called_an_input() -> None:
    with pytest.raises(OutputTypeError, match=r'^input "rows": wanted a number, got the string "many"$'):
        check_value("rows", "number", "many", what="input")


def test_a_string_is_bounded_in_bytes() -> None:
    check_value("x", "string", "éé", 4)
    with pytest.raises(OutputTypeError, match="at most 4 bytes in UTF-8, got 6 bytes"):
        check_value("x", "string", "ééé", 4)


def test_nesting_is_bounded_also_for_circles() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(OutputTypeError, match="nested at most 100 levels"):
        check_value("x", "json", circle)
    deep: object = 1
    for _ in range(100):
        deep = [deep]
    check_value("x", "json", deep)
    with pytest.raises(OutputTypeError, match="nested at most 100 levels"):
        check_value("x", "json", [deep])


@given(JSON)
def test_json_text_means_the_same_as_the_value(value: Any) -> None:
    declared = Declared("x", "json")
    assert coerce(declared, RawText(f" {compact_json(value)}\n")) == coerce(declared, value) == value


@given(st.text())
def test_a_string_is_never_changed(text: str) -> None:
    try:
        assert coerce(Declared("x", "string"), RawText(text)) == text
    except OutputTypeError:
        assert "\0" in text or any(0xD800 <= ord(character) < 0xE000 for character in text)


@given(st.text())
def test_a_number_is_what_json_says_or_an_error(text: str) -> None:
    try:
        value = coerce(Declared("x", "number"), RawText(text))
    except OutputTypeError:
        return
    assert type(value) in (int, float)
    assert math.isfinite(value)
    assert value == json.loads(text)


def test_compact_json_keeps_order_and_letters() -> None:
    assert compact_json({"b": "é", "a": [1, 2.0, None]}) == '{"b":"é","a":[1,2.0,null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        compact_json(float("inf"))


@given(st.text())
def test_quoted_text_is_one_short_printable_line(text: str) -> None:
    quoted = quote(text, 20)
    quoted.encode()
    assert "\n" not in quoted
    assert len(quoted) <= 2 + 20 * 6
