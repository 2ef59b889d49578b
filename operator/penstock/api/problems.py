"""What is wrong with a manifest, in words: the problem type, readable field paths, and pydantic's errors made plain.

What must not live here: reading YAML (`manifest`) and the rules themselves (`rules`, the models).
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

from penstock.api.base import OBJECT_NAME, OBJECT_PATH, STEP_NAME, VALUE_NAME

Loc: TypeAlias = "tuple[str | int, ...]"
"""Where in a manifest: keys as the manifest writes them (camelCase) and list indices from 0."""

_SHOWN: Final = 60
"""Characters of a bad value that a message repeats."""

PATTERNS: Final[Mapping[str, str]] = {
    STEP_NAME: "lower case letters, digits and dashes, starting with a letter and not ending with a dash, at most 63",
    OBJECT_NAME: "lower case letters, digits, dashes and dots, starting and ending with a letter or digit",
    VALUE_NAME: "letters, digits, underscores and dashes, starting with a letter or underscore, at most 63",
    OBJECT_PATH: "a path inside the data store, for example `raw/iris.csv`: relative, without `..` and backslashes",
    r"^[-._a-zA-Z][-._a-zA-Z0-9]*$": "letters, digits, underscores, dashes and dots, not starting with a digit",
    r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$": "`package.module:name`, for example `iris.train:run`",
    r"^[a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?$": (
        "letters, digits, dashes, underscores and dots, starting and ending with a letter or digit, no slashes"
    ),
}
"""Every pattern of the models, in words."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or (severity `warning`) worth knowing.

    Attributes:
        loc: where, as keys and indices of the manifest as it was written.
        message: what is wrong and what to do, without the place.
        expression: the CEL expression that it is about.
        column: where in the expression, from 1.
        severity: an `error` keeps the manifest from running, a `warning` does not.
        path: `loc` for people, list elements by their names: `spec.steps[train].when`.
        file: the file it was read from.
        line: line in that file, from 1.
    """

    loc: Loc
    message: str
    expression: str | None = None
    column: int | None = None
    severity: Literal["error", "warning"] = "error"
    path: str = ""
    file: str | None = None
    line: int | None = None

    def sentence(self) -> str:
        """The problem as one line, without file and line number."""
        place = self.path or readable(self.loc, None)
        text = f"{place}: {self.message}" if place else self.message
        if self.expression is None:
            return text
        column = "in" if self.column is None else f"column {self.column} of"
        return f"{text} ({column}: {' '.join(self.expression.split())})"

    def to_json(self) -> dict[str, Any]:
        """The problem as JSON; what is not known is left out."""
        found: dict[str, Any] = {
            "severity": self.severity,
            "path": self.path or readable(self.loc, None),
            "loc": list(self.loc),
            "message": self.message,
            "expression": self.expression,
            "column": self.column,
            "file": self.file,
            "line": self.line,
        }
        return {key: value for key, value in found.items() if value is not None}

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        if self.file is None and self.line is not None:
            place = f"line {self.line}"
        warning = "warning: " if self.severity == "warning" else ""
        return f"{place}: {warning}{self.sentence()}" if place else f"{warning}{self.sentence()}"


class InvalidManifest(Exception):  # noqa: N818 (reads as what it is, and is part of the public words)
    """A manifest that cannot be used.

    Attributes:
        problems: all that is wrong with it.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def suggest(word: str, candidates: Iterable[str]) -> str:
    """The end of a sentence that offers the nearest candidate: `; did you mean "x"?`, or nothing if none is near."""
    known = [candidate for candidate in candidates if candidate != word]
    near = difflib.get_close_matches(word, known, n=1)
    if not near:
        folded = {_fold(candidate): candidate for candidate in known}
        near = [folded[_fold(word)]] if _fold(word) in folded else []
    return f'; did you mean "{near[0]}"?' if near else ""


def _fold(word: str) -> str:
    return word.replace("-", "").replace("_", "").casefold()


def readable(loc: Loc, document: object) -> str:
    """Writes a place for people.

    Args:
        loc: the place.
        document: the manifest's data, from which list elements are named; None shows indices.

    Returns:
        For example `spec.steps[train].inputs[table].from`.
    """
    text, here = "", document
    for part in loc:
        below = step_into(here, part)
        if isinstance(part, int):
            name = below.get("name") if isinstance(below, dict) else None
            text += f"[{name}]" if isinstance(name, str) and 0 < len(name) <= 63 and name.isprintable() else f"[{part}]"
        elif part and all(character.isalnum() or character in "_-" for character in part):
            text += f".{part}" if text else part
        else:
            text += f"[{quoted(part)}]"
        here = below
    return text


def step_into(container: object, part: str | int) -> Any:
    """What is under a key or index of JSON data; None where there is nothing."""
    if isinstance(container, dict):
        return container.get(part)
    if isinstance(container, list) and isinstance(part, int) and 0 <= part < len(container):
        return container[part]
    return None


def quoted(text: str) -> str:
    """Text in double quotes, cut to what a message can hold, control characters escaped."""
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut) + '"'


def shown(value: object) -> str:
    """A JSON value in words, for after "got": `the number 3`, `a map`, `nothing (null)`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {str(value)[:_SHOWN]}"
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    return "a list" if isinstance(value, list) else "a map"


# --- pydantic's errors ---


def structural_problems(
    errors: Sequence[Mapping[str, Any]], model: type[BaseModel], data: dict[str, Any], source: Mapping[Loc, str]
) -> list[Problem]:
    """Turns the errors of a failed validation into problems with plain messages.

    Args:
        errors: what `ValidationError.errors()` gave, from a validation by alias.
        model: the model that was validated.
        data: the data that did not fit it.
        source: how a place that holds no text was written in the file, where that is known (`yes` for true).

    Returns:
        One problem for each place and message; the branches of a union are one.
    """
    found: dict[tuple[Loc, str], Problem] = {}
    for error in errors:
        loc = _real(tuple(error["loc"]), data, missing=error["type"] == "missing")
        message = _message(error, loc, model, data, source.get(loc))
        found.setdefault((loc, message), Problem(loc, message, path=readable(loc, data)))
    return list(found.values())


def _real(loc: Loc, data: object, *, missing: bool) -> Loc:
    """Leaves out what pydantic adds to places: the branch of a union, `[key]`."""
    kept: list[str | int] = []
    here: Any = data
    for position, part in enumerate(loc):
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
        if inside or (missing and position == len(loc) - 1):
            kept.append(part)
            here = step_into(here, part)
    return tuple(kept)


def _message(
    error: Mapping[str, Any], loc: Loc, model: type[BaseModel], data: dict[str, Any], source: str | None
) -> str:
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx") or {}
    value: Any = data
    for part in loc:
        value = step_into(value, part)
    if kind == "extra_forbidden":
        known = fields_of(annotation_at(model, loc[:-1]))
        near = suggest(str(loc[-1]), known)
        return f"unknown field {quoted(str(loc[-1]))}" + (near or f"; known here: {', '.join(sorted(known))}")
    if kind == "string_pattern_mismatch":
        words = PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
        return f"{quoted(str(value))} is not allowed: wanted {words}"
    if kind in {"enum", "literal_error"}:
        allowed = _allowed(annotation_at(model, loc))
        near = suggest(value, allowed) if isinstance(value, str) else ""
        return f"wanted {_one_of(allowed)}, got {_got(value, source)}{near}"
    if kind == "missing":
        return "is required"
    return _bound(kind, context, value) or _wrong_type(annotation_at(model, loc), value, source)


def _bound(kind: str, context: Mapping[str, Any], value: Any) -> str | None:
    size = len(value) if isinstance(value, str | list | dict) else 0
    texts = {
        "string_too_long": f"is too long: {size} characters, at most {context.get('max_length')}",
        "too_long": f"has too many entries: {size}, at most {context.get('max_length')}",
        "string_too_short": "must not be empty",
        "too_short": "must not be empty",
        "greater_than_equal": f"must be at least {context.get('ge')}, got {value}",
        "less_than_equal": f"must be at most {context.get('le')}, got {value}",
        "less_than": f"must be less than {context.get('lt')}, got {value}",
    }
    return texts.get(kind)


def _wrong_type(annotation: Any, value: Any, source: str | None) -> str:
    bare = unwrap(annotation)
    text = f"wanted {_wanted(bare)}, got {_got(value, source)}"
    wants_text = _is_text(bare)
    if wants_text and isinstance(value, bool | int | float):
        return f'{text}: put it in quotes, "{source or value}"'
    if value is None:
        return f"{text}: leave the field out or give it a value"
    if wants_text and isinstance(value, dict):
        return f"{text}: text with `: ` or `{{` in it needs quotes"
    if get_origin(bare) is list and "name" in fields_of(unwrap(get_args(bare)[0])) and isinstance(value, dict):
        return f"{text}: write each entry as `- name: …`"
    if bare is int and isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return f"{text}: write it without quotes"
    return text


def _got(value: Any, source: str | None) -> str:
    if isinstance(value, bool) and source is not None and source.lower() not in {"true", "false"}:
        return f"`{source}`, which YAML reads as {str(value).lower()}"
    if source is not None and isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {source[:_SHOWN]}"
    return shown(value)


# --- what the models say of a place ---


def unwrap(annotation: Any) -> Any:
    """The type inside `Annotated[…]` and `… | None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in {Union, types.UnionType}:
            inner = [part for part in get_args(annotation) if part is not type(None)]
            if len(inner) != 1:
                return annotation
            annotation = inner[0]
        else:
            return annotation


def annotation_at(model: type[BaseModel], loc: Loc) -> Any:
    """The type that a model gives the place `loc`; None where it says nothing."""
    here: Any = model
    for part in loc:
        here = unwrap(here)
        if get_origin(here) in {list, dict}:
            here = get_args(here)[-1]
        elif isinstance(here, type) and issubclass(here, BaseModel):
            here = next((field.annotation for field in here.model_fields.values() if field.alias == part), None)
        else:
            return None
    return unwrap(here)


def fields_of(annotation: Any) -> list[str]:
    """Names of a model's fields as manifests write them; nothing for other types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [field.alias or name for name, field in annotation.model_fields.items()]
    return []


def _allowed(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    return []


def _one_of(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"


def _is_text(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, str) and not issubclass(annotation, Enum)


def _wanted(annotation: Any) -> str:
    if get_origin(annotation) is list:
        return f"a list of {_plural(unwrap(get_args(annotation)[0]))}"
    if get_origin(annotation) in {Union, types.UnionType}:
        return " or ".join(_wanted(unwrap(part)) for part in get_args(annotation) if part is not type(None))
    if allowed := _allowed(annotation):
        return _one_of(allowed)
    if fields := fields_of(annotation):
        return f"a map with {', '.join(fields)}" if len(fields) <= 8 else "a map"
    names = {str: "a string", int: "a whole number", bool: "true or false", float: "a number"}
    return names.get(annotation, "a map")


def _plural(annotation: Any) -> str:
    names = {str: "strings", int: "whole numbers", bool: "booleans"}
    if annotation in names:
        return names[annotation]
    return (
        "maps"
        if fields_of(annotation) or get_origin(annotation) is dict
        else "words"
        if _allowed(annotation)
        else ("values")
    )
