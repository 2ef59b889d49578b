"""Text to data: YAML and JSON as Kubernetes' tools read them, with the line of everything, and bounds on all of it.

What must not live here: what the data means (`manifest`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from penstock.api.problems import Loc, Problem, quoted, shown

#
# PyYAML's own loaders are not used: they turn dates into objects and `12:30` into 750, keep the last of two equal keys,
# let a few aliases grow without bound, and end the process (a fault in the C stack) on deep nesting.

MAX_BYTES: Final = 33_554_432
"""Size of the largest text that is read."""
MAX_DEPTH: Final = 100
"""How deep maps and lists may be nested."""
MAX_EXPANDED: Final = 10_000_000
"""Characters and nodes that the aliases of one text may stand for."""

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset(case for word in ("true", "yes", "on") for case in (word, word.title(), word.upper()))
_FALSE: Final = frozenset(case for word in ("false", "no", "off") for case in (word, word.title(), word.upper()))
_INTEGER: Final = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o[0-7_]+|0[0-7_]*|[1-9][0-9_]*)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TAG: Final = "tag:yaml.org,2002:"


class Places:
    """Where maps and lists of the data were written: lines, and the text of scalars that are not text."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[str | int, int]] = {}
        self._sources: dict[int, dict[str | int, str]] = {}

    def add(self, container: object, lines: dict[str | int, int], sources: dict[str | int, str]) -> None:
        """Notes a container, which must live as long as this object."""
        self._lines[id(container)] = lines
        if sources:
            self._sources[id(container)] = sources

    def of(self, container: object) -> tuple[dict[str | int, int], dict[str | int, str]]:
        """Lines and sources of what is directly in a container."""
        return self._lines.get(id(container), {}), self._sources.get(id(container), {})

    def line(self, data: object, loc: Loc) -> int | None:
        """Line of the place `loc` in `data`, or of the nearest place around it that was written."""
        found: int | None = None
        here: Any = data
        for part in loc:
            lines = self._lines.get(id(here), {})
            if part not in lines:
                break
            found, here = lines[part], here[part]
        return found

    def sources(self, data: object) -> dict[Loc, str]:
        """How the numbers, booleans and nulls of `data` were written, by their place."""
        found: dict[Loc, str] = {}
        rest: list[tuple[Loc, Any]] = [((), data)]
        while rest:
            loc, here = rest.pop()
            found.update({(*loc, part): text for part, text in self._sources.get(id(here), {}).items()})
            pairs = here.items() if isinstance(here, dict) else enumerate(here)
            rest += [((*loc, part), inner) for part, inner in pairs if isinstance(inner, dict | list)]
        return found


@dataclass(frozen=True, slots=True)
class Source:
    """One document of a text.

    Attributes:
        data: JSON data.
        line: line on which it begins, from 1.
        problems: what its YAML says that JSON cannot, or says in a way that is easily misread.
        places: where its parts were written.
        broken: why there is no data, where the text could not be read on.
    """

    data: Any
    line: int | None
    problems: list[Problem] = field(default_factory=list)
    places: Places = field(default_factory=Places)
    broken: str | None = None


class _RefusedError(Exception):
    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(message)
        self.line: int = mark.line + 1


def parse(text: str) -> list[Source]:
    """Reads all documents of a text, empty ones left out; the last one is `broken` if the text cannot be read on."""
    if len(text) > MAX_BYTES:
        return [Source(None, None, broken=f"is larger than {MAX_BYTES} bytes")]
    text = text.removeprefix("\ufeff")
    return list(_yaml(_json_as_yaml(text) if text.lstrip()[:1] in {"{", "["} else text))


def _json_as_yaml(text: str) -> str:
    """JSON written so that YAML reads it the same; other text as it is."""
    try:
        json.loads(text, parse_int=str)
    except (ValueError, RecursionError):
        return text
    # JSON allows tabs between tokens (inside strings it does not), writes rare characters as two escapes, and has in
    # its strings what YAML takes for line breaks or refuses.
    text = _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return _PAIR.sub(lambda found: found[1] + json.loads(f'"{found[2]}"'), text.replace("\t", " "))


_ODD: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_PAIR: Final = re.compile(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")


def _yaml(text: str) -> Iterator[Source]:
    try:
        text.encode()
        events = yaml.parse(text, Loader=_PARSER)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                source = _Builder(events).document()
                if source.data is not None or source.problems:
                    yield source
    except UnicodeEncodeError:
        yield Source(None, None, broken="has half of a surrogate pair in it: write the character itself, in UTF-8")
    except _RefusedError as error:
        yield Source(None, error.line, broken=str(error))
    except yaml.MarkedYAMLError as error:
        yield _syntax_error(error, text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        yield Source(None, line, broken="is not YAML: control characters are not allowed in it; is it a text file?")
    except yaml.YAMLError as error:
        yield Source(None, None, broken=f"is not YAML: {' '.join(str(error).split())}")


class _Builder:
    """Makes JSON data from the parser's events, one document at a time."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._places = Places()
        self._problems: list[Problem] = []
        self._loc: list[str | int] = []
        self._anchors: dict[str, tuple[Any, int, str | None] | None] = {}  # None while it is being read
        self._expanded = 0

    def document(self) -> Source:
        first = next(self._events)
        data, _, _ = self._node(first)
        return Source(data, first.start_mark.line + 1, self._problems, self._places)

    def _say(self, message: str, event: Any) -> None:
        self._problems.append(Problem(tuple(self._loc), message, line=event.start_mark.line + 1))

    def _node(self, event: Any) -> tuple[Any, int, str | None]:
        """A node's data, its size with all aliases written out, and its text if it is a scalar but no string."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.tag is not None and event.tag not in {"!"} and not event.tag.startswith(_TAG):
            self._say(f"the YAML tag {quoted(event.tag)} has no meaning here: remove it", event)
        if isinstance(event, yaml.ScalarEvent):
            result = self._scalar(event)
        else:
            if len(self._loc) >= MAX_DEPTH:
                raise _RefusedError(f"is nested more than {MAX_DEPTH} levels deep", event.start_mark)
            is_map = isinstance(event, yaml.MappingStartEvent)
            result = (*(self._mapping() if is_map else self._sequence()), None)
        if event.anchor is not None:
            self._anchors[event.anchor] = result
        return result

    def _alias(self, event: Any) -> tuple[Any, int, str | None]:
        if event.anchor not in self._anchors:
            name = event.anchor
            message = f"there is no anchor &{name} for the alias *{name}: text with a leading * needs quotes"
            raise _RefusedError(message, event.start_mark)
        known = self._anchors[event.anchor]
        if known is None:
            raise _RefusedError(f"the alias *{event.anchor} stands for what it is part of", event.start_mark)
        self._expanded += known[1]
        if self._expanded > MAX_EXPANDED:
            message = f"its aliases stand for more than {MAX_EXPANDED} characters: write less in this file"
            raise _RefusedError(message, event.start_mark)
        return known

    def _sequence(self) -> tuple[list[Any], int]:
        data: list[Any] = []
        lines: dict[str | int, int] = {}
        sources: dict[str | int, str] = {}
        total = 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._loc.append(len(data))
            value, size, text = self._node(event)
            self._loc.pop()
            lines[len(data)] = event.start_mark.line + 1
            if text is not None:
                sources[len(data)] = text
            data.append(value)
            total += size
        self._places.add(data, lines, sources)
        return data, total

    def _mapping(self) -> tuple[dict[str, Any], int]:
        data: dict[str, Any] = {}
        lines: dict[str | int, int] = {}
        sources: dict[str | int, str] = {}
        merged: list[Any] = []
        total = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            is_merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
            key, key_size = self._key(event)
            inner = next(self._events)
            self._loc.append(key)
            value, size, text = self._node(inner)
            total += size + key_size
            if is_merge:
                merged += self._merged(value, inner)
            elif key in data:
                self._say(f"is given twice, first on line {lines[key]}: remove one of the two", event)
            else:
                data[key], lines[key] = value, event.start_mark.line + 1
                if text is not None:
                    sources[key] = text
            self._loc.pop()
        for other in merged:
            other_lines, other_sources = self._places.of(other)
            for key in other.keys() - data.keys():
                data[key] = other[key]
                lines[key] = other_lines[key]
                if key in other_sources:
                    sources[key] = other_sources[key]
        self._places.add(data, lines, sources)
        return data, total

    def _merged(self, value: Any, event: Any) -> list[dict[str, Any]]:
        maps = value if isinstance(value, list) else [value]
        if all(isinstance(one, dict) for one in maps):
            return maps
        self._say(f"`<<` wants a map or a list of maps to merge, got {shown(value)}", event)
        return []

    def _key(self, event: Any) -> tuple[str, int]:
        value, size, text = self._node(event)
        if isinstance(value, str):
            return value, size
        if isinstance(value, dict | list):
            self._say(f"a key must be text, got {shown(value)}: text that starts with {{ or [ needs quotes", event)
            return "?", size
        source = text or ""
        self._loc.append(source)
        meaning = "nothing" if value is None else "a number" if not isinstance(value, bool) else str(value).lower()
        self._say(f'YAML reads the key `{source}` as {meaning}: put it in quotes, "{source}"', event)
        self._loc.pop()
        return source, size

    def _scalar(self, event: Any) -> tuple[Any, int, str | None]:
        text: str = event.value
        tag = (event.tag or "").removeprefix(_TAG) if event.tag != "!" else "str"
        size = 1 + len(text)
        if tag == "binary":
            self._say("`!!binary` has no meaning in JSON: write text", event)
        if tag in {"null", "bool", "int", "float"} or (not tag and event.implicit[0]):
            value = self._plain(text, event)
            if not isinstance(value, str):
                return value, size, text
        if "\0" in text:
            self._say("must not contain the character NUL (\\0)", event)
            text = text.replace("\0", "")
        return text, size, None

    def _plain(self, text: str, event: Any) -> Any:
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
            return self._number(text, event)
        if _NOT_FINITE.fullmatch(text):
            self._say(f"{text} is not a number in JSON: leave it out, or put it in quotes", event)
            return 0.0
        return text

    def _number(self, text: str, event: Any) -> int | float | str:
        if _INTEGER.fullmatch(text):
            digits = text.replace("_", "")
            sign, body = (digits[0], digits[1:]) if digits[0] in "+-" else ("", digits)
            try:
                octal = len(body) > 1 and body[0] == "0" and body.isdecimal()
                number = int(sign + body, 8 if octal else 0) if len(body) <= 70 else 1 << 64
            except ValueError:  # `0x_`: no digits
                return text
            if -(1 << 63) <= number < 1 << 63:
                return number
        elif math.isfinite(real := float(text)):
            return real
        self._say(f"the number {text[:40]} is too large: put it in quotes", event)
        return 0


_REMEDIES: Final = (
    ("found character '\\t'", "YAML does not allow tabs here: use spaces"),
    ("escape", "YAML has no such escape in double quotes: write the character itself, \\\\ for one backslash"),
    ("quoted scalar", "is a quote left open?"),
    ("mapping values are not allowed", "text with `: ` in it needs quotes; or the line is indented too far"),
    ("could not find expected ':'", "is a colon missing, or the text of a block not indented?"),
    ("that cannot start any token", "text that starts with @, ` or % needs quotes"),
    ("block", "is the line indented like its neighbours?"),
    ("flow", "is a bracket or a comma missing?"),
)


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> Source:
    mark = error.problem_mark or error.context_mark
    said = f"{error.context or ''} {error.problem or ''}".strip()
    if mark is None:
        return Source(None, None, broken=f"is not YAML: {said}")
    lines = text.splitlines()
    here = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        remedy = "YAML does not allow tabs for indentation: use spaces"
    elif "{{" in text:
        remedy = "it looks like a Helm template: run `helm template` on it first"
    else:
        remedy = next((words for part, words in _REMEDIES if part in said), "look at this line and the one before")
    if error.context_mark is not None and "quoted scalar" in said:
        remedy += f" The text began on line {error.context_mark.line + 1}."
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    return Source(None, mark.line + 1, broken=f"is not YAML: {said} ({place}): {remedy}")
