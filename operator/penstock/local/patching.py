"""Patches of JSON objects: merge patches (RFC 7386), JSON patches (RFC 6902), and server-side apply.

Pure. An object has managers; each is known with the fields that it has written: paths to values that are no maps. Lists
are values as a whole.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from penstock.step.values import JsonObject

Path: TypeAlias = "tuple[str, ...]"
Fields: TypeAlias = "frozenset[Path]"
Managers: TypeAlias = "dict[str, Fields]"
"""Fields by manager and way: see `manager_key`."""

APPLY: Final = "Apply"
UPDATE: Final = "Update"
_MISSING: Final = object()


class PatchError(ValueError):
    """A patch that cannot be done; the message says why."""


class TestFailed(PatchError):  # noqa: N818 - what has happened
    """A `test` of a JSON patch does not hold."""

    __test__ = False


def merge(target: Any, patch: Any) -> Any:
    """The result of a merge patch: null takes a field away, lists are replaced as a whole. Neither is changed."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    found = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merge(found.get(key), value)
    return found


# --- JSON patch ---


def json_patch(target: Any, operations: object) -> Any:
    """The result of a JSON patch; the target is not changed.

    Raises:
        PatchError: it is no patch, or a place is not there.
        TestFailed: a `test` does not hold.
    """
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise PatchError("a JSON patch is a list of operations")
    found = copy.deepcopy(target)
    for operation in operations:
        if not isinstance(operation, Mapping) or not isinstance(operation.get("path"), str):
            raise PatchError("an operation of a JSON patch is a map with `op` and `path`")
        found = _operate(found, operation)
    return found


def _operate(target: Any, operation: Mapping[str, Any]) -> Any:
    kind, path = operation.get("op"), _pointer(operation["path"])
    if kind in {"add", "replace", "test"} and "value" not in operation:
        raise PatchError(f"the operation {kind} needs a `value`")
    if kind == "test":
        if not same(_get(target, path), operation["value"]):
            raise TestFailed(f"testing value {operation['path']} failed")
        return target
    if kind == "add":
        return _add(target, path, copy.deepcopy(operation["value"]))
    if kind == "remove":
        return _remove(target, path)
    if kind == "replace":
        _get(target, path)
        return _add(_remove(target, path), path, copy.deepcopy(operation["value"])) if path else operation["value"]
    if kind in {"move", "copy"}:
        source = _pointer(str(operation.get("from", "")))
        value = copy.deepcopy(_get(target, source))
        if kind == "move":
            if path[: len(source)] == source and path != source:
                raise PatchError("a place cannot be moved into itself")
            target = _remove(target, source)
        return _add(target, path, value)
    raise PatchError(f"{kind!r} is no operation: add, remove, replace, move, copy, test")


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same as JSON: for Python, true is 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _pointer(text: str) -> Path:
    if text and not text.startswith("/"):
        raise PatchError(f"{text!r} is no path: it begins with a slash")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def _index(part: str, size: int) -> int:
    if not part.isascii() or not part.isdigit() or int(part) >= size:
        raise PatchError(f"{part!r} is no index here: the list has {size} entries")
    return int(part)


def _get(target: Any, path: Path) -> Any:
    for part in path:
        if isinstance(target, dict) and part in target:
            target = target[part]
        elif isinstance(target, list):
            target = target[_index(part, len(target))]
        else:
            raise PatchError(f"there is nothing at /{'/'.join(path)}")
    return target


def _add(target: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    parent = _get(target, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        place = len(parent) if path[-1] == "-" else _index(path[-1], len(parent) + 1)
        parent.insert(place, value)
    else:
        raise PatchError(f"nothing can be added at /{'/'.join(path)}")
    return target


def _remove(target: Any, path: Path) -> Any:
    if not path:
        return None
    _get(target, path)
    parent = _get(target, path[:-1])
    if isinstance(parent, list):
        del parent[_index(path[-1], len(parent))]
    else:
        del parent[path[-1]]
    return target


# --- managers of fields ---


class Contested(Exception):  # noqa: N818 - a state
    """Other managers own fields that would become others.

    Attributes:
        causes: manager and path of each.
    """

    def __init__(self, causes: Iterable[tuple[str, str]]) -> None:
        self.causes = tuple(dict.fromkeys(causes))
        super().__init__(self.causes)


def manager_key(manager: str, way: str) -> str:
    """How a manager is known: one who applies and one who writes in other ways are two, even of the same name."""
    return f"{way}:{manager}"


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Paths and values of all that is no map, and of empty maps."""
    if isinstance(value, Mapping) and value:
        for key, inside in value.items():
            yield from leaves(inside, (*path, key))
    elif path:
        yield path, value


def updated(managers: Mapping[str, Fields], manager: str, before: JsonObject, after: JsonObject) -> Managers:
    """Who owns which fields after somebody has written an object without applying it."""
    old, new = dict(leaves(before)), dict(leaves(after))
    gone = old.keys() - new.keys()
    written = {path for path, value in new.items() if path not in old or not same(old[path], value)}
    found = {key: fields - gone - written for key, fields in managers.items()}
    key = manager_key(manager, UPDATE)
    found[key] = found.get(key, frozenset()) | written
    return {key: fields for key, fields in found.items() if fields}


def apply(
    live: JsonObject, managers: Mapping[str, Fields], manager: str, wanted: JsonObject, *, force: bool
) -> tuple[JsonObject, Managers]:
    """Server-side apply: the object and its managers afterwards.

    Args:
        live: the object as it is; empty for a new one. Not changed.
        managers: who owns which of its fields.
        manager: who applies.
        wanted: what they apply. What they have applied before and is not in it goes, unless others own it too.
        force: take over fields that others own and that say something else.

    Raises:
        Contested: there are such fields, and `force` is not given.
    """
    key = manager_key(manager, APPLY)
    fields = dict(leaves(wanted))
    others = {other: owned for other, owned in managers.items() if other != key}
    causes: list[tuple[str, str]] = []
    for other, owned in others.items():
        lost = {path for path in owned if _differs(path, live, wanted, fields)}
        causes += [(other.partition(":")[2], "." + ".".join(path)) for path in sorted(lost)]
        others[other] = owned - lost
    if causes and not force:
        raise Contested(causes)
    found = copy.deepcopy(live)
    kept = frozenset().union(*others.values()) if others else frozenset()
    for path in sorted(managers.get(key, frozenset()) - fields.keys(), key=len, reverse=True):
        if not any(_covers(path, each) for each in (*_near(path, kept), *_near(path, fields))):
            _take_out(found, path)
    found = _laid_over(found, wanted)
    after = {**others, key: frozenset(fields)}
    return found, {each: owned for each, owned in after.items() if owned}


def _near(path: Path, fields: Iterable[Path]) -> Iterator[Path]:
    return (each for each in fields if each[:1] == path[:1])


def _covers(path: Path, other: Path) -> bool:
    """Whether a place is another one, or around it."""
    return other[: len(path)] == path


def _differs(path: Path, live: JsonObject, wanted: JsonObject, fields: Mapping[Path, Any]) -> bool:
    """Whether what is applied makes the field of another manager say something else."""
    here = _look(live, path)
    if here is _MISSING:
        return False
    said: Any = _MISSING
    if path in fields:
        said = fields[path]
        if said == {} and isinstance(here, Mapping):
            return False  # an empty map adds nothing
    else:
        for size in range(1, len(path)):
            if path[:size] in fields and fields[path[:size]] != {}:
                return True  # something that is no map stands where there is a map
        there = _look(wanted, path)
        if there is _MISSING or (isinstance(there, Mapping) and here == {}):
            return False
        said = there
    return not same(here, said)


def _look(value: Any, path: Path) -> Any:
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _take_out(value: JsonObject, path: Path) -> None:
    """Remove a field, and the maps around it that are empty then."""
    around: list[JsonObject] = [value]
    for part in path[:-1]:
        inside = around[-1].get(part)
        if not isinstance(inside, dict):
            return
        around.append(inside)
    here = around[-1].get(path[-1], _MISSING)
    if here is _MISSING or (isinstance(here, dict) and here):
        return
    del around[-1][path[-1]]
    for part, outer, inner in zip(path[-2::-1], around[-2::-1], around[:0:-1], strict=True):
        if inner:
            return
        del outer[part]


def _laid_over(live: Any, wanted: Any) -> Any:
    if isinstance(live, Mapping) and isinstance(wanted, Mapping):
        return {
            **live,
            **{key: _laid_over(live.get(key, _MISSING), value) for key, value in wanted.items()},
        }
    return copy.deepcopy(wanted)


def dump_managers(managers: Mapping[str, Fields]) -> JsonObject:
    """Managers as JSON."""
    return {key: sorted(map(list, fields)) for key, fields in managers.items()}


def load_managers(found: Mapping[str, Any]) -> Managers:
    """Managers from what `dump_managers` gave."""
    return {key: frozenset(map(tuple, fields)) for key, fields in found.items()}
