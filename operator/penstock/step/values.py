"""The rules for values: their types, how text becomes one, how large they are, and the syntax of `$PENSTOCK_OUTPUT`.

Every layer checks values here and nowhere else, the engine as well: nothing here touches files or the environment.
Files are not values: see `outputs` and `digest`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
"""Any JSON value."""
JsonObject: TypeAlias = dict[str, Any]
"""A JSON object whose content is looked at piece by piece."""

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]*", re.ASCII)
"""What a name of an input or output matches, in full."""
MAX_DEPTH = 100
"""How deep arrays and objects may be nested: what every reader down the line can take without a stack of its own."""
EXIT_OUTPUTS = 65
"""Exit code of a function step whose outputs do not fit their declarations (EX_DATAERR of sysexits.h)."""
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
"""Bounds of integers: those of CEL and of Kubernetes' own JSON."""

_WANTED = {
    "string": "a string",
    "number": "a number",
    "boolean": "true or false",
    "json": "JSON",
    "array": "a JSON array",
    "file": "a file",
}
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Declared(NamedTuple):
    """The declaration of an output.

    Attributes:
        name: its name.
        type: `string`, `number`, `boolean`, `json`, `array` or `file`.
        max_bytes: for a string, its longest UTF-8 encoding in bytes; None: not bounded by itself.
    """

    name: str
    type: str
    max_bytes: int | None = None


class RawText(str):
    """Text that a step wrote for a value, before its declared type is known; any other `str` is a JSON string."""

    __slots__ = ()


class OutputError(ValueError):
    """Something that a step wrote cannot be used; the message is meant for the step's author."""


class OutputSyntaxError(OutputError):
    """`$PENSTOCK_OUTPUT` is not written as it should be.

    Attributes:
        line: number of the line, from 1; None where the whole file is meant.
    """

    def __init__(self, problem: str, *, line: int | None = None) -> None:
        super().__init__(f"$PENSTOCK_OUTPUT{f' line {line}' if line else ''}: {problem}")
        self.line = line


class OutputTypeError(OutputError):
    """A value does not fit its declaration.

    Attributes:
        name: of the output or input.
        wanted: what was declared, in words.
        got: what there was, in words.
    """

    def __init__(self, name: str, wanted: str, got: str, what: str = "output") -> None:
        super().__init__(f"{what} {quote(name)}: wanted {wanted}, got {got}")
        self.name = name
        self.wanted = wanted
        self.got = got


# --- words for messages ---------------------------------------------------------------------------


def quote(text: str, limit: int = 60) -> str:
    """`text` for a message: in double quotes, shortened to `limit` characters, control characters escaped."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    # A lone surrogate cannot be printed; everything else that JSON leaves as it is can.
    return json.dumps(short, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def describe(value: object) -> str:
    """What `value` is, in the words of the contract: `the string "abc"`, `an array of 3 items`, `null`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return _describe_number(value)
    if isinstance(value, str):
        return f"the string {quote(value)}"
    if isinstance(value, list | tuple):
        return f"an array of {len(value)} {'item' if len(value) == 1 else 'items'}"
    if isinstance(value, dict):
        return f"an object with {len(value)} {'key' if len(value) == 1 else 'keys'}"
    return _describe_kind(type(value))


def _describe_number(value: float) -> str:
    # Python refuses to print integers of thousands of digits, and nobody would read them.
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return f"the number {value!r}"


def _describe_kind(kind: type) -> str:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a Python object of type {name}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "accuracy"?` where one of the known names is near, else the empty text."""
    import difflib  # noqa: PLC0415 - only errors need it, and every step pays for imports

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {quote(near[0])}?" if near else ""


# --- sizes ----------------------------------------------------------------------------------------


def compact_json(value: object) -> str:
    """`value` as JSON without spaces, nothing escaped that need not be, keys in their own order.

    Raises:
        ValueError: NaN, infinity or a reference to itself.
        TypeError: something that JSON does not have.
    """
    return _ENCODER.encode(value)


def json_bytes(value: object) -> int:
    """Size of `value` in bytes, as compact JSON in UTF-8: the measure of every limit on values."""
    text = compact_json(value)
    return len(text) if text.isascii() else len(text.encode())


# --- types ----------------------------------------------------------------------------------------


def coerce(declared: Declared, raw: object, *, what: str = "output") -> Any:
    """The JSON value that `raw` stands for: text is read by the declared type, a JSON value has to have it already.

    Args:
        declared: the declaration.
        raw: `RawText` as a step wrote it, or a JSON value.
        what: `output` or `input`, for the message.

    Raises:
        OutputTypeError: it does not fit the declaration.
    """
    value: object = raw
    if isinstance(raw, RawText):
        value = str(raw) if declared.type == "string" else _read_text(declared, raw, what)
    check_value(declared.name, declared.type, value, declared.max_bytes, what)
    return value


def _read_text(declared: Declared, raw: str, what: str) -> object:
    wanted = _wanted(declared.type)
    if declared.type == "file":
        raise OutputTypeError(declared.name, wanted, describe(str(raw)), what)
    try:
        value: object = load_json(raw)
    except ValueError as error:
        why = f", which is not JSON: {error}" if declared.type in ("json", "array") else ""
        raise OutputTypeError(declared.name, wanted, describe(str(raw)) + why, what) from None
    if not _has_type(declared.type, value):
        # What the author wrote says more than what it was read as.
        raise OutputTypeError(declared.name, wanted, describe(str(raw)), what)
    return value


def load_json(text: str) -> Any:
    """Parse JSON strictly: no NaN or infinity.

    Raises:
        ValueError: the message says what is wrong and where.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise ValueError(f"{error.msg[:1].lower()}{error.msg[1:]} at {place}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except _NotJsonError:
        raise
    except ValueError:
        # Python's own guard against integers of more than 4,300 digits.
        raise ValueError("a number is beyond 64 bits") from None


class _NotJsonError(ValueError):
    pass


def _refuse_constant(name: str) -> Any:
    raise _NotJsonError(f"{name} is not JSON")


def _wanted(type_: str) -> str:
    return _WANTED.get(type_, f"a value of type {quote(type_)}")


def _has_type(type_: str, value: object) -> bool:
    match type_:
        case "string":
            return isinstance(value, str)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "json":
            return True
    return False


def check_value(name: str, type_: str, value: object, max_bytes: int | None = None, what: str = "output") -> None:
    """Check a JSON value against a declaration. What is not a file never passes as one.

    Args:
        name: of the output or input.
        type_: its declared type.
        value: the JSON value.
        max_bytes: for a string, its longest UTF-8 encoding in bytes.
        what: `output` or `input`, for the message.

    Raises:
        OutputTypeError: it does not fit; also where it holds what JSON, CEL or an environment variable cannot carry.
    """
    if not _has_type(type_, value):
        raise OutputTypeError(name, _wanted(type_), describe(value), what)
    problem = _unusable(value, 0)
    if problem is not None:
        place = f" at {problem.path}" if problem.path else ""
        raise OutputTypeError(name, problem.wanted, problem.got + place, what)
    if type_ == "string" and max_bytes is not None:
        size = len(str(value).encode())
        if size > max_bytes:
            raise OutputTypeError(name, f"a string of at most {max_bytes:,} bytes in UTF-8", f"{size:,} bytes", what)


class _Unusable(NamedTuple):
    wanted: str
    got: str
    path: str = ""


def _unusable(value: object, depth: int) -> _Unusable | None:
    """The first thing in `value` that cannot travel, with its path (`[3]["a"]`)."""
    if isinstance(value, str):
        return _unusable_text(value)
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _unusable_number(value)
    if isinstance(value, list | dict):
        return _unusable_inside(value, depth)
    return _Unusable("what JSON can hold", describe(value))


def _unusable_number(value: float) -> _Unusable | None:
    if isinstance(value, int):
        if INT_MIN <= value <= INT_MAX:
            return None
        return _Unusable("integers that fit in 64 bits (write larger ones as strings)", describe(value))
    if value - value == 0:  # neither NaN nor infinite; math.isfinite would be one more import
        return None
    return _Unusable("finite numbers (JSON has no NaN or infinity)", describe(value))


def _unusable_inside(value: list[object] | dict[object, object], depth: int) -> _Unusable | None:
    if depth >= MAX_DEPTH:
        return _Unusable(f"arrays and objects nested at most {MAX_DEPTH} levels deep", "more")
    if isinstance(value, list):
        for index, item in enumerate(value):
            problem = _unusable(item, depth + 1)
            if problem is not None:
                return problem._replace(path=f"[{index}]{problem.path}")
        return None
    for key, item in value.items():
        if not isinstance(key, str):
            return _Unusable("strings as the keys of an object", describe(key))
        problem = _unusable_text(key) or _unusable(item, depth + 1)
        if problem is not None:
            return problem._replace(path=f"[{quote(key)}]{problem.path}")
    return None


def _unusable_text(text: str) -> _Unusable | None:
    if "\0" in text:
        return _Unusable("text without NUL characters", describe(text))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return _Unusable("text that UTF-8 can hold", f"{describe(text)} with half a surrogate pair")
    return None


# --- $PENSTOCK_OUTPUT -----------------------------------------------------------------------------


def format_output(name: str, text: str) -> str:
    """The lines to append to `$PENSTOCK_OUTPUT` so that output `name` becomes exactly `text`."""
    if "\n" not in text and not text.endswith("\r"):
        return f"{name}={text}\n"
    number, delimiter = 0, "END"
    while delimiter in text:
        number += 1
        delimiter = f"END{number}"
    return f"{name}<<{delimiter}\n{text}\n{delimiter}\n"


def parse_output(text: str) -> dict[str, object]:
    r"""Read the text of `$PENSTOCK_OUTPUT`.

    It is either one JSON object, or lines as GitHub Actions has them: `name=value`, or `name<<END`, any number of
    lines, and `END` on a line of its own. Blank lines are ignored, later lines override earlier ones. Line ends are
    `\n` or `\r\n`; what is between the two ends of a `<<` block is kept as it is.

    Returns:
        Values by name: `RawText` from lines, JSON values from an object.

    Raises:
        OutputSyntaxError: names the line, what is there, and what to write instead.
    """
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise OutputSyntaxError(
            "holds a NUL byte: write plain UTF-8 text, and leave binary data in a file output",
            line=text.count("\n", 0, text.index("\0")) + 1,
        )
    if text.lstrip(" \t\r\n").startswith("{"):
        return _parse_object(text)
    return dict(_parse_lines(text.split("\n")))


def _parse_object(text: str) -> dict[str, object]:
    try:
        values: dict[str, object] = load_json(text)
    except ValueError as error:
        raise OutputSyntaxError(
            f"starts with {{ and so is read as one JSON object, but it is not one: {error}. "
            "Write the object once and nothing else, or name=value lines"
        ) from None
    for name in values:
        if not NAME.fullmatch(name):
            raise OutputSyntaxError(f"{quote(name)} cannot be the name of an output: {_NAME_RULE}")
    return values


_NAME_RULE = "names are letters, digits, - and _, and do not start with a digit or -"


def _parse_lines(lines: list[str]) -> Iterable[tuple[str, RawText]]:
    position = 0
    while position < len(lines):
        number, line = position + 1, lines[position].removesuffix("\r")
        crlf = lines[position].endswith("\r")
        position += 1
        if not line.strip():
            continue
        name, sign, rest = _split(line)
        if not sign:
            raise OutputSyntaxError(f"{quote(line)} is neither name=value nor name<<END", line=number)
        _check_line_name(name, number)
        if sign == "=":
            yield name, RawText(rest)
            continue
        if not rest:
            raise OutputSyntaxError(f"{quote(line)} names no delimiter: write {name}<<END", line=number)
        end = _find_delimiter(lines, position, rest)
        if end is None:
            raise OutputSyntaxError(
                f"{quote(line)} is never closed: end the value with {quote(rest)} on a line of its own, "
                "without spaces around it",
                line=number,
            )
        body = "\n".join(lines[position:end])
        # The line end before the delimiter belongs to the syntax; a lone \r elsewhere belongs to the value.
        yield name, RawText(body.removesuffix("\r") if crlf else body)
        position = end + 1


def _split(line: str) -> tuple[str, str, str]:
    """Name, `=` or `<<` (whichever comes first; empty if neither does), and what follows."""
    equals, block = line.find("="), line.find("<<")
    if block >= 0 and (equals < 0 or block < equals):
        return line[:block], "<<", line[block + 2 :]
    if equals >= 0:
        return line[:equals], "=", line[equals + 1 :]
    return line, "", ""


def _check_line_name(name: str, number: int) -> None:
    if NAME.fullmatch(name):
        return
    if NAME.fullmatch(name.strip()):
        raise OutputSyntaxError(f"{quote(name)} has spaces around the name: write {name.strip()}=value", line=number)
    raise OutputSyntaxError(f"{quote(name)} cannot be the name of an output: {_NAME_RULE}", line=number)


def _find_delimiter(lines: list[str], start: int, delimiter: str) -> int | None:
    for position in range(start, len(lines)):
        line = lines[position]
        if line == delimiter or (line.endswith("\r") and line[:-1] == delimiter):
            return position
    return None
