"""Reads manifests and says all that is wrong with them: text, documents, structure, and the rules of `rules`.

What must not live here: what needs the graph or the expressions; the engine checks a document's `partial` for that, and
`Document.judge` gives those problems their places.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from pydantic import BaseModel, ValidationError

from penstock.api.base import API_VERSION, GROUP
from penstock.api.deployment import Deployment
from penstock.api.execution import Execution
from penstock.api.pipeline import Pipeline, Step
from penstock.api.problems import (
    InvalidManifest,
    Loc,
    Problem,
    annotation_at,
    fields_of,
    quoted,
    readable,
    shown,
    step_into,
    structural_problems,
    suggest,
)
from penstock.api.rules import object_problems

Manifest: TypeAlias = "Pipeline | Deployment | Execution"

KINDS: Final[Mapping[str, type[Pipeline] | type[Deployment] | type[Execution]]] = {
    "Pipeline": Pipeline,
    "Deployment": Deployment,
    "Execution": Execution,
}
SUFFIXES: Final = (".yaml", ".yml", ".json")

_SEEN: Final = ("name", "inputs", "outputs", "forEach", "when", "dependsOn")
"""Fields of a step that its graph and expressions are made of."""

_ROUNDS: Final = 5

_DOTTED: Final = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
"""Names of an expression with all that follows their dots."""


# --- YAML and JSON text ---
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


# --- documents and files ---


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a file.

    Attributes:
        kind: its kind; empty where it has none.
        name: `metadata.name`; empty where it has none.
        model: the object, or None if its structure is wrong or it is not one of ours.
        problems: all that is wrong with it so far, in the order of its lines.
        data: the object as it was written.
        file: the file it came from.
        line: line on which it begins, from 1.
        ours: whether it is of this API group; others are kept as they are.
        partial: `model`, or what is left of the object without its wrong parts, so that it can be checked further; None
            where too little is left.
        tainted: names, as expressions write them, whose declaration was wrong and is missing from `partial`:
            `inputs.rows`, `steps.prepare`, `steps.prepare.outputs.table`, or `steps` if a name is not known.
    """

    kind: str
    name: str
    model: Manifest | None = None
    problems: tuple[Problem, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    line: int | None = None
    ours: bool = True
    partial: Manifest | None = None
    tainted: frozenset[str] = frozenset()
    places: Places = field(default_factory=Places, repr=False)
    kept: Mapping[Loc, tuple[int, ...]] = field(default_factory=dict, repr=False)
    """For lists of `partial` that lost elements (by their place in `data`): the indices that are left."""

    @property
    def ok(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return all(problem.severity != "error" for problem in self.problems)

    def place(self, problem: Problem) -> Problem:
        """Gives a problem of `partial` its place in the file: indices as written, readable path, file, line."""
        loc: Loc = ()
        for part in problem.loc:
            left = self.kept.get(loc)
            loc = (*loc, left[part] if left is not None and isinstance(part, int) and part < len(left) else part)
        line = problem.line or self.places.line(self.data, loc) or self.line
        return replace(problem, loc=loc, path=readable(loc, self.data), file=self.file, line=line)

    def judge(self, problems: Iterable[Problem]) -> Document:
        """Adds problems that a further check found in `partial`.

        Those that only follow from parts that are missing from `partial` are left out.
        """
        placed = [self.place(problem) for problem in problems]
        fresh = [problem for problem in placed if not self._follows(problem)]
        return replace(self, problems=_in_order((*self.problems, *fresh)))

    def _follows(self, problem: Problem) -> bool:
        if not self.tainted:
            return False
        text = problem.expression or ""
        here: Any = self.data
        for part in problem.loc:
            here = step_into(here, part)
            if isinstance(part, int) and isinstance(here, dict) and _step_name(here) in self.tainted:
                return True
        if "dependsOn" in problem.loc and isinstance(here, str):
            text = _step_name({"name": here})
        return any(
            ".".join(parts[:size]) in self.tainted
            for parts in (name.split(".") for name in _DOTTED.findall(text))
            for size in range(1, len(parts) + 1)
        )


def load(text: str, *, file: str | None = None) -> list[Document]:
    """Reads all documents of a YAML or JSON text; lists (`kind: List`) are taken apart.

    Args:
        text: the text.
        file: its name, for messages.

    Returns:
        The documents in order; what is wrong, up to the syntax, is in their `problems`. Never raises for bad text.
    """
    documents = [document for source in parse(text) for document in _documents(source, file)]
    if documents:
        return documents
    return [_broken("is empty: wanted at least one object with apiVersion, kind, metadata and spec", file)]


def read(path: str | Path) -> list[Document]:
    """Reads a file, `-` for standard input, or a folder: all its *.yaml, *.yml and *.json in order, not deeper.

    Raises:
        InvalidManifest: if it cannot be read. A file of a folder that cannot be read is a document with that problem.
    """
    if str(path) == "-":
        return load(_decoded(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>"), file="<stdin>")
    here = Path(path)
    try:
        if not here.is_dir():
            return _read_file(here)
        members = sorted(member for member in here.iterdir() if member.suffix in SUFFIXES and not member.is_dir())
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    if not members:
        wanted = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise InvalidManifest([Problem((), f"the folder has no {wanted}", file=str(path))])
    found: list[Document] = []
    for member in members:
        try:
            found += _read_file(member)
        except InvalidManifest as error:
            found.append(Document("", "", problems=error.problems, file=str(member)))
    return found


def require(documents: Iterable[Document]) -> list[Manifest]:
    """The objects of documents that must all be right; objects of other API groups are left out.

    Raises:
        InvalidManifest: with all problems of all documents, if there is an error among them.
    """
    kept = list(documents)
    if not all(document.ok for document in kept):
        raise InvalidManifest(problem for document in kept for problem in document.problems)
    return [document.model for document in kept if document.model is not None]


def _read_file(path: Path) -> list[Document]:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error
    return load(_decoded(content, str(path)), file=str(path))


def _decoded(content: bytes, file: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        message = "is UTF-16: save it as UTF-8"
    elif b"\0" in content[:8192]:
        message = "is not a text file: wanted YAML or JSON"
    elif len(content) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES} bytes"
    else:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise InvalidManifest([Problem((), "is not UTF-8 here: save it as UTF-8", file=file, line=line)]) from None
    raise InvalidManifest([Problem((), message, file=file)])


def _unreadable(file: str, error: Exception) -> InvalidManifest:
    if isinstance(error, FileNotFoundError):
        message = "no such file or folder"
    elif isinstance(error, PermissionError):
        message = "cannot be read: permission denied"
    else:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return InvalidManifest([Problem((), message, file=file)])


# --- documents ---


def _broken(message: str, file: str | None, line: int | None = None) -> Document:
    return Document("", "", problems=(Problem((), message, file=file, line=line),), file=file, line=line)


def _documents(source: Source, file: str | None) -> Iterator[Document]:
    data = source.data
    if source.broken is not None:
        yield _broken(source.broken, file, source.line)
    elif not isinstance(data, dict):
        yield _broken(f"wanted an object (apiVersion, kind, metadata, spec), got {shown(data)}", file, source.line)
    elif _is_list(data):
        for index, item in enumerate(data["items"]):
            line = source.places.line(data, ("items", index))
            inside = [
                replace(found, loc=found.loc[2:]) for found in source.problems if found.loc[:2] == ("items", index)
            ]
            yield from _documents(Source(item, line or source.line, inside, source.places), file)
    else:
        yield _document(data, source, file)


def _is_list(data: dict[str, Any]) -> bool:
    kind, version = data.get("kind"), data.get("apiVersion")
    ours = version == API_VERSION and isinstance(kind, str) and kind.removesuffix("List") in KINDS
    return isinstance(data.get("items"), list) and (kind == "List" or (ours and str(kind).endswith("List")))


def _document(data: dict[str, Any], source: Source, file: str | None) -> Document:
    kind, version = data.get("kind"), data.get("apiVersion")
    name = step_into(data.get("metadata"), "name")
    blank = Document(
        kind if isinstance(kind, str) else "",
        name if isinstance(name, str) else "",
        data=data,
        file=file,
        line=source.line,
        places=source.places,
    )
    head = [Problem((key,), wrong) for key, wrong in _head_problems(kind, version).items()]
    if not head and not str(version).startswith(f"{GROUP}/"):
        return replace(blank, ours=False)
    problems = [blank.place(problem) for problem in (*source.problems, *head)]
    if not isinstance(kind, str) or kind not in KINDS:
        return replace(blank, problems=_in_order(problems))
    return _validated(replace(blank, problems=tuple(problems)), KINDS[kind])


def _head_problems(kind: object, version: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value, example in (("apiVersion", version, API_VERSION), ("kind", kind, ", ".join(KINDS))):
        if value is None:
            found[key] = f"is required: {example}"
        elif not isinstance(value, str):
            found[key] = f"wanted a string ({example}), got {shown(value)}"
    if found or not isinstance(version, str) or not isinstance(kind, str):
        return found
    if version == API_VERSION:
        if kind not in KINDS:
            found["kind"] = f"wanted one of {', '.join(KINDS)}, got {quoted(kind)}{suggest(kind, KINDS)}"
    elif version.startswith(f"{GROUP}/") or version in {GROUP, API_VERSION.split("/")[1]}:
        found["apiVersion"] = f"wanted {API_VERSION}, got {quoted(version)}"
    elif kind in KINDS and suggest(version, [API_VERSION]):
        found["apiVersion"] = f"wanted {API_VERSION}, got {quoted(version)}{suggest(version, [API_VERSION])}"
    return found


def _in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0))


# --- structure ---


def _validated(document: Document, model: type[Pipeline] | type[Deployment] | type[Execution]) -> Document:
    """Checks the structure; what does not fit is cut out until the rest fits, so that the rest is checked as well."""
    data = dict(document.data)
    if "apiVersion" in {problem.loc[0] for problem in document.problems if len(problem.loc) == 1}:
        data["apiVersion"] = API_VERSION  # reported already
    problems = list(document.problems)
    cuts: dict[Loc, bool] = {}
    for attempt in range(_ROUNDS):
        kept: dict[Loc, tuple[int, ...]] = {}
        left = _without(data, cuts, kept)
        document = replace(document, kept=kept)
        try:
            found = model.model_validate_json(json.dumps(left), strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=True, include_input=False)
            sources = document.places.sources(document.data)
            wrong = [document.place(problem) for problem in structural_problems(errors, model, left, sources)]
            if attempt == 0:
                problems += wrong
            more = _cuts(wrong, model, document.data)
            if more is None or more.keys() <= cuts.keys():
                break
            cuts |= more
        else:
            tainted = frozenset(name for cut, unknown in cuts.items() for name in _taints(cut, data, unknown=unknown))
            gaps = _gaps(cuts)
            rules = [problem for problem in object_problems(found) if not _is_gap(document.place(problem).loc, gaps)]
            document = replace(
                document, model=None if cuts else found, partial=found, tainted=tainted, problems=_in_order(problems)
            )
            return replace(document, problems=_in_order((*problems, *map(document.place, rules))))
    return replace(document, problems=_in_order(problems), kept={})


def _without(value: Any, cuts: Iterable[Loc], kept: dict[Loc, tuple[int, ...]]) -> Any:
    """A copy without the places in `cuts`; notes in `kept` what is left of lists that lost elements."""
    tree: dict[str | int, Any] = {}
    for cut in cuts:
        branch = tree
        for part in cut[:-1]:
            branch = branch.setdefault(part, {})
            if branch is _CUT:
                break
        else:
            branch[cut[-1]] = _CUT
    return _prune(value, tree, kept, ())


_CUT: Final[dict[str | int, Any]] = {}
"""Marks, by its identity, a branch that is cut off; never written to."""


def _prune(value: Any, tree: dict[str | int, Any], kept: dict[Loc, tuple[int, ...]], loc: Loc) -> Any:
    if not tree:
        return value
    if isinstance(value, dict):
        left = [key for key in value if tree.get(key) is not _CUT]
        return {key: _prune(value[key], tree.get(key, {}), kept, (*loc, key)) for key in left}
    if isinstance(value, list):
        kept[loc] = tuple(index for index in range(len(value)) if tree.get(index) is not _CUT)
        return [_prune(value[index], tree.get(index, {}), kept, (*loc, index)) for index in kept[loc]]
    return value


def _cuts(problems: Iterable[Problem], model: type[BaseModel], data: object) -> dict[Loc, bool] | None:
    """What to cut out for each problem (true: it is an unknown field); None if something cannot be done without."""
    found: dict[Loc, bool] = {}
    for problem in problems:
        loc = problem.loc
        known = fields_of(annotation_at(model, loc[:-1]))
        if known and isinstance(loc[-1], str) and loc[-1] not in known:
            found[loc] = True
            continue
        part = _smallest_part(loc, model)
        if part is None:
            return None
        found.setdefault(part, False)
    return found


def _smallest_part(loc: Loc, model: type[BaseModel]) -> Loc | None:
    start = _pipeline_at(loc)
    match loc[start:]:
        case ("steps" | "finally", int(), "inputs" | "outputs", int(), *_):
            return loc[: start + 4]
        case ("steps" | "finally", int(), str() as name, *_) if name not in {"name", "forEach"}:
            return loc[: start + 3]
        case ("steps" | "finally" | "inputs" | "outputs", int(), *_):
            return loc[: start + 2]
    for size in range(len(loc), 0, -1):
        parent, last = annotation_at(model, loc[: size - 1]), loc[size - 1]
        if not fields_of(parent):
            return loc[:size]  # an element of a list, an entry of a map
        if any(info.alias == last and not info.is_required() for info in parent.model_fields.values()):
            return loc[:size]
    return None


def _pipeline_at(loc: Loc) -> int:
    return 2 if loc[:2] == ("spec", "pipelineSpec") else 1


def _taints(cut: Loc, data: dict[str, Any], *, unknown: bool) -> Iterator[str]:
    """Names, as expressions write them, that are no longer declared once `cut` is cut out."""
    start = _pipeline_at(cut)
    here = data
    nodes = [here := step_into(here, part) for part in cut]
    match cut[start:]:
        case ("inputs" | "outputs" as group, int()):
            yield _value_name(group, nodes[-1])
        case ("steps" | "finally", int()):
            yield _step_name(nodes[-1])
        case ("steps" | "finally", int(), "inputs" | "outputs" as group, int()):
            yield _value_name(f"{_step_name(nodes[start + 1])}.{group}", nodes[-1])
        case ("steps" | "finally", int(), "outputs"):
            yield f"{_step_name(nodes[start + 1])}.outputs"
        case ("steps" | "finally", int(), str() as name) if unknown and not suggest(name, _UNSEEN):
            yield _step_name(nodes[start + 1])
        case ("inputs" | "outputs" as group,):
            yield group
        case ("finally",):
            yield "steps"
        case (str() as name,) if unknown:
            groups = {"inputs": "inputs", "outputs": "outputs", "steps": "steps", "finally": "steps"}
            yield from (groups[known] for known in groups if suggest(name, [known]))


def _step_name(step: object) -> str:
    return _value_name("steps", step)


def _value_name(group: str, item: object) -> str:
    name = step_into(item, "name")
    return f"{group}.{name.replace('-', '_')}" if isinstance(name, str) and name else group


def _gaps(cuts: Iterable[Loc]) -> frozenset[Loc]:
    """Places at which a rule's problem may only be there because of what was cut out."""
    found: set[Loc] = set()
    for cut in cuts:
        start = _pipeline_at(cut)
        found |= {cut[:-1], (*cut[:-1], "shell"), (*cut[:-1], "limit")}
        if cut[start : start + 1] == ("defaults",) and len(cut) <= start + 2:
            found.add((*cut[:start], "defaults"))
    return frozenset(found)


def _is_gap(loc: Loc, gaps: frozenset[Loc]) -> bool:
    start = _pipeline_at(loc)
    is_step = len(loc) == start + 2 and loc[start] in {"steps", "finally"}
    return loc in gaps or (is_step and (*loc[:start], "defaults") in gaps)


_UNSEEN: Final = tuple(name for name in fields_of(Step) if name not in _SEEN)
