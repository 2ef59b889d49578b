"""Reads manifests and says all that is wrong with them: text, documents, structure, and the rules of `rules`.

What must not live here: what needs the graph or the expressions; the engine checks a document's `partial` for that, and
`Document.judge` gives those problems their places.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

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
from penstock.api.source import MAX_BYTES, Places, Source, parse

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
        case ("steps" | "finally", int(), "inputs" | "outputs" | "env" | "envFrom", int(), *_):
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
