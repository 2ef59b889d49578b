"""CEL expressions: references found, types checked when a pipeline is read, evaluated in a pass.

This is the only module that knows the CEL library (Google's C++ runtime, https://github.com/cel-expr/cel-python). What
names exist and what they stand for is decided by `compile` (scopes) and `wiring` (values).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from penstock.engine.types import File, Value

if TYPE_CHECKING:
    from cel_expr_python import cel

ROOTS = frozenset({"inputs", "steps", "item", "index", "attempt", "execution"})
"""First words of references; everything else in an expression is CEL's own or a variable of a comprehension."""

_INT64 = 2**63
_FILE_MARK = "penstock.dev/file"

_TOKENS = re.compile(
    r"""(?P<skip>//[^\n]*
        | [bB]?[rR][bB]?(?:'''.*?'''|\"{3}.*?\"{3}|'[^'\n]*'|"[^"\n]*")
        | [bB]?(?:'''(?:\\.|.)*?'''|\"{3}(?:\\.|.)*?\"{3}|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")
        | \.\s*[A-Za-z_]\w*
        | \d[\w.]*)
      | (?P<chain>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)""",
    re.VERBOSE | re.DOTALL,
)
_NULL = re.compile(r"\bnull\b")
_CEL_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*?)(?=\n \||\nERROR|\Z)", re.DOTALL)


class ExprType(NamedTuple):
    """The type of an expression or a variable.

    Attributes:
        kind: `string number boolean json array file any`.
        item: for an array, the type of its items, if known.
        nullable: whether a variable of this type may hold null as well: an exit code, an optional input.
    """

    kind: str
    item: ExprType | None = None
    nullable: bool = False

    @property
    def is_files(self) -> bool:
        """Whether this is a list of files, as a fan-out of files gives."""
        return self.kind == "array" and self.item is not None and self.item.kind == "file"

    def __str__(self) -> str:
        if self.is_files:
            return "list of files"
        return {"any": "value", "json": "JSON object"}.get(self.kind, self.kind)


ANY = ExprType("any")
STRING = ExprType("string")
NUMBER = ExprType("number")
BOOLEAN = ExprType("boolean")
ARRAY = ExprType("array")
JSON = ExprType("json")
FILE = ExprType("file")


class Reference(NamedTuple):
    """A name that an expression mentions, resolved to the longest variable that exists.

    Attributes:
        name: the variable, dotted, dashes as underscores: `steps.prepare.outputs.rows`.
        column: where it starts in the text, from 1.
    """

    name: str
    column: int


class Chain(NamedTuple):
    """A dotted chain of words as it stands in the text: a reference, perhaps followed by fields or a method."""

    words: tuple[str, ...]
    column: int


class ExpressionProblem(NamedTuple):
    """What is wrong with an expression's text, and where (column from 1)."""

    message: str
    column: int


class Unavailable(Exception):  # noqa: N818 - a fact about a value, not a fault
    """A value that an expression needs does not exist and never will: its producer did not give it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ExpressionError(Exception):
    """An expression could not be evaluated; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Expr:
    """A checked expression.

    Attributes:
        text: as written.
        references: the variables it mentions, each once, in order.
        type: what it gives.
        bare: whether it is nothing but one reference, which needs no CEL to be evaluated.
        doubles: whether numbers are given to it as doubles, because its literals say so (`inputs.rows * 0.5`).
        variables: types of the variables it mentions.
    """

    text: str
    references: tuple[Reference, ...]
    type: ExprType
    bare: bool
    doubles: bool
    variables: Mapping[str, ExprType]

    def mentions(self, predicate: Callable[[str], bool]) -> bool:
        """Whether it has a reference whose name fits."""
        return any(predicate(reference.name) for reference in self.references)


def chains(text: str) -> Iterator[Chain]:
    """The dotted chains of a text that start with one of our roots; strings and comments are passed over."""
    for match in _TOKENS.finditer(text):
        chain = match.group("chain")
        if chain is None:
            continue
        words = tuple(word.strip() for word in chain.split("."))
        if words[0] in ROOTS:
            yield Chain(words, match.start() + 1)


def check(
    text: str, lookup: Callable[[str], ExprType | None], explain: Callable[[tuple[str, ...]], str]
) -> tuple[Expr | None, list[ExpressionProblem]]:
    """Check a text against the variables that exist.

    Args:
        text: the expression.
        lookup: type of the variable with a dotted name, or None if there is none.
        explain: what to tell about a chain of words that no variable fits.

    Returns:
        The expression, or None and all its problems.
    """
    variables: dict[str, ExprType] = {}
    references: list[Reference] = []
    problems: list[ExpressionProblem] = []
    found = list(chains(text))
    asks_null = _NULL.search(text) is not None
    for chain in found:
        name = next((n for n in _prefixes(chain.words) if lookup(n) is not None), None)
        if name is None:
            problems.append(ExpressionProblem(explain(chain.words), chain.column))
        elif name not in variables:
            kind = lookup(name) or ANY
            # CEL knows no "number or null" here: where a text asks for null, what may be null is left to run time.
            variables[name] = ANY if kind.nullable and asks_null else kind
            references.append(Reference(name, chain.column))
    if problems:
        return None, problems
    stripped = text.strip()
    if stripped in variables:
        return Expr(text, tuple(references), variables[stripped], True, False, variables), []
    doubles, kind, problems = _check_types(text, variables)
    if problems:
        return None, problems
    return Expr(text, tuple(references), kind, False, doubles, variables), []


def _prefixes(words: tuple[str, ...]) -> Iterator[str]:
    for length in range(len(words), 0, -1):
        yield ".".join(words[:length])


def _check_types(text: str, variables: Mapping[str, ExprType]) -> tuple[bool, ExprType, list[ExpressionProblem]]:
    """Type-check with numbers as ints, then as doubles: CEL has two number types, JSON and its authors have one.

    What is wrong under both readings at the same place is wrong. What only fits doubles is evaluated with doubles. What
    fits neither as a whole (ints in one half, doubles in the other) is left to CEL's dynamic types.
    """
    expression, as_int = _try(text, _static_environment(variables, doubles=False))
    if expression is not None:
        return False, _type_of(expression), []
    if not any(_has_number(kind) for kind in variables.values()):
        return False, ANY, as_int
    expression, as_double = _try(text, _static_environment(variables, doubles=True))
    if expression is not None:
        return True, _type_of(expression), []
    places = {problem.column for problem in as_double}
    both = [problem for problem in as_int if problem.column in places]
    if both:
        return False, ANY, both
    expression, dynamic = _try(text, _runtime_environment(variables, doubles=False))
    return False, _type_of(expression) if expression is not None else ANY, dynamic


def _has_number(kind: ExprType) -> bool:
    return kind.kind == "number" or (kind.item is not None and _has_number(kind.item))


def _try(text: str, environment: cel.Env) -> tuple[cel.Expression | None, list[ExpressionProblem]]:
    try:
        expression = environment.compile(text)
    except RuntimeError as error:
        return None, _problems(text, str(error))
    if "penstock.File" in (shown := repr(expression.return_type())) and shown not in {
        "penstock.File",
        "LIST<penstock.File>",
    }:
        return None, [ExpressionProblem("a file can be passed on as it is or in a list, not inside a map", 1)]
    return expression, []


def _problems(text: str, message: str) -> list[ExpressionProblem]:
    lines = text.split("\n")
    problems = []
    for line, column, words in _CEL_ERROR.findall(message):
        offset = sum(len(earlier) + 1 for earlier in lines[: int(line) - 1])
        problems.append(ExpressionProblem(_plain(words), offset + int(column)))
    return problems or [ExpressionProblem(message.split("[", maxsplit=1)[0].strip(), 1)]


_OPERATORS = {"_?_:_": "? :", "_[_]": "[ ]", "!_": "!", "-_": "-", "@in": "in"}


def _plain(message: str) -> str:
    """CEL's own message in the words of a manifest's author."""
    message = " ".join(message.split())
    if match := re.match(r"found no matching overload for '(.+?)' applied to '\((.*)\)'", message):
        operator, types = match.groups()
        shown = _OPERATORS.get(operator, operator.strip("_"))
        types = types.replace("penstock.File", "file")
        return f'"{shown}" cannot be applied to ({types})'
    if match := re.match(r"Syntax error: (.*)", message):
        detail = re.sub(r" expecting .*", "", match.group(1)).replace("'<EOF>'", "the end of the expression")
        return f"syntax error: {detail}"
    if match := re.match(r"undeclared reference to '(.+?)'", message):
        return f'there is no variable or function "{match.group(1)}" in an expression'
    return message


def _type_of(expression: cel.Expression) -> ExprType:
    return _parse_type(repr(expression.return_type()))


def _parse_type(shown: str) -> ExprType:
    if shown.startswith("LIST<"):
        return ExprType("array", _parse_type(shown[5:-1]))
    if shown.startswith("MAP"):
        return JSON
    return {
        "STRING": STRING,
        "INT": NUMBER,
        "UINT": NUMBER,
        "DOUBLE": NUMBER,
        "BOOL": BOOLEAN,
        "LIST": ARRAY,
        "penstock.File": FILE,
        "BYTES": ExprType("bytes"),
        "TIMESTAMP": ExprType("timestamp"),
        "DURATION": ExprType("duration"),
    }.get(shown, ANY)


def _static_environment(variables: Mapping[str, ExprType], *, doubles: bool) -> cel.Env:
    from cel_expr_python import cel  # noqa: PLC0415 - only pipelines with real expressions pay for it

    number = cel.Type.DOUBLE if doubles else cel.Type.INT
    simple = {
        "string": cel.Type.STRING,
        "number": number,
        "boolean": cel.Type.BOOL,
        "file": cel.Type.AbstractType("penstock.File"),
    }

    def of(kind: ExprType) -> cel.Type:
        if kind.kind == "array":
            return cel.Type.List(of(kind.item) if kind.item else cel.Type.DYN)
        return simple.get(kind.kind, cel.Type.DYN)

    return cel.NewEnv(variables={name: of(kind) for name, kind in variables.items()}, extensions=list(_extensions()))


def _runtime_environment(variables: Mapping[str, ExprType], *, doubles: bool) -> cel.Env:
    from cel_expr_python import cel  # noqa: PLC0415

    kinds = {
        name: cel.Type.DOUBLE if doubles and kind.kind == "number" and not kind.nullable else cel.Type.DYN
        for name, kind in variables.items()
    }
    return cel.NewEnv(variables=kinds, extensions=list(_extensions()))


@cache
def _extensions() -> tuple[Any, ...]:
    """CEL's own `math` and `strings` extensions, which Kubernetes and most users of CEL have on."""
    from cel_expr_python.ext import ext_math, ext_strings  # noqa: PLC0415

    return (ext_math.ExtMath(), ext_strings.ExtStrings())


def evaluate(expr: Expr, resolve: Callable[[str], Value], programs: dict[tuple[str, bool], Any]) -> Value:
    """The value of an expression.

    Args:
        expr: the expression.
        resolve: value of a variable by its dotted name; raises `Unavailable`.
        programs: compiled programs by text and kind of numbers, kept by the caller for as long as the pipeline revision
            is in use.

    Raises:
        Unavailable: a value that it needs does not exist.
        ExpressionError: it could not be evaluated.
    """
    if expr.bare:
        return resolve(expr.references[0].name)
    data: dict[str, Any] = {}
    files: dict[str, File] = {}
    missing: Unavailable | None = None
    for reference in expr.references:
        try:
            known = resolve(reference.name)
            files |= {each.key: each for each in (known if isinstance(known, list) else [known]) if _is_file(each)}
            data[reference.name] = _to_cel(known, double=expr.doubles and _has_number(expr.variables[reference.name]))
        except Unavailable as error:
            missing = missing or error
    key = (expr.text, expr.doubles)  # the same text may be read with doubles at one place and with ints at another
    program = programs.get(key)
    if program is None:
        program = programs[key] = _runtime_environment(expr.variables, doubles=expr.doubles).compile(expr.text)
    try:
        result = program.eval(data=data)
    except RuntimeError as error:
        raise ExpressionError(_runtime_message(expr.text, str(error))) from None
    if repr(result.type()) == "ERROR":
        if missing is not None:
            raise missing
        raise ExpressionError(_runtime_message(expr.text, str(result.value())))
    value: Value = _from_cel(result.plain_value(), expr.text, files)
    return value


def _runtime_message(text: str, message: str) -> str:
    message = message.split(": ", 1)[-1].removesuffix(" [INTERNAL]").strip()
    if match := re.search(r"No matching overloads found : (\S+?)(\(.*\))?$", message):
        operator = _OPERATORS.get(match.group(1), match.group(1).strip("_"))
        kinds = (match.group(2) or "").replace("int64", "int")
        message = f'"{operator}" cannot be applied to {kinds or "these values"}'
        if "double" in kinds and "int" in kinds:
            message += "; write double(…) around the whole number, or its literal as 1.0"
    elif "budget" in message:
        message = "it goes round too many times; make its lists shorter"
    elif message.startswith("Key not found"):
        message = message.replace("Key not found in map :", "there is no key")
    return f"cannot evaluate {text!r}: {message}"


def _to_cel(value: Any, *, double: bool = False) -> Any:
    if isinstance(value, File):
        return {_FILE_MARK: value.key, "sha256": value.sha256, "size": value.size, "folder": value.folder}
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if double:
            return float(value)
        # An integral JSON number is an int, however it was written (5 and 5.0 are the same JSON number).
        if isinstance(value, float) and value.is_integer() and abs(value) < _INT64:
            return int(value)
        return value
    if isinstance(value, list):
        return [_to_cel(item, double=double) for item in value]
    if isinstance(value, dict):
        return {_to_cel(key): _to_cel(item) for key, item in value.items()}
    if isinstance(value, str) and "\0" in value:  # the CEL library would cut it off there
        raise ExpressionError("an expression cannot work on text with a NUL character; pass it on as it is")
    return value


def _is_file(value: Value) -> TypeGuard[File]:
    return isinstance(value, File)


def _from_cel(value: Any, text: str, files: Mapping[str, File]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError(f"cannot use {text!r}: its value {value} is not a JSON number")
        return value
    if isinstance(value, list):
        return [_from_cel(item, text, files) for item in value]
    if isinstance(value, dict):
        if _FILE_MARK in value:
            # Only a file that came in goes out: no data may pass for a file of its own making.
            if value[_FILE_MARK] not in files:
                raise ExpressionError(f"cannot use {text!r}: the key {_FILE_MARK!r} is kept for files")
            return files[value[_FILE_MARK]]
        if not all(isinstance(key, str) for key in value):
            raise ExpressionError(f"cannot use {text!r}: the keys of a map must be strings, as in JSON")
        return {key: _from_cel(item, text, files) for key, item in value.items()}
    raise ExpressionError(f"cannot use {text!r}: it gives a {type(value).__name__}; write string(…) around it")
