"""Names of objects: which paths are allowed, and where things are in a store (docs/object-storage.md has the layout).

A *key* is a path in a store. A *file key* (`engine.types.File.key`) is one relative to a namespace.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from penstock.engine.types import AttemptId
from penstock.storage.errors import BadObjectPath

DATA = "data"
EXECUTIONS = "executions"
CACHE = "cache"
RECORDS = "records"
META = "meta"
"""Where records were before: `meta/<path>.json`, which takes the place of a record about `<path>.json/…`."""

MAX_KEY = 1024
"""Bytes of a whole key; S3's and GCS's bound, and Azure's in characters."""
MAX_PART = 250
"""Bytes between two slashes; what file systems allow (255) less what the name of a record needs."""
MAX_PATH = 800
"""Bytes of a path in the data store: the rest of a key is for prefix and namespace."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]{0,62}")
_FIELD = re.compile(r"\{([^{}]*)\}")


def parts(path: str, limit: int = MAX_PATH) -> tuple[str, ...]:
    """The parts of a path that a person wrote: relative, `/` between parts; empty parts and `.` do not count.

    Args:
        path: the path.
        limit: bytes that it may have.

    Raises:
        BadObjectPath: it names no place inside a store; the message says why, without the path's owner.
    """
    found = tuple(part for part in path.split("/") if part not in ("", "."))
    why = _why_not(path, found, limit)
    if why:
        raise BadObjectPath(f"{path!r} is not a path inside the data store: {why}; write for example raw/iris.csv")
    return found


def _why_not(path: str, found: tuple[str, ...], limit: int) -> str:
    if not found:
        return "it is empty"
    if path.startswith("/"):
        return "it must be relative"
    if ".." in found:
        return "it must be without `..`"
    if "\\" in path:
        return "parts are separated by `/`, not by a backslash"
    if _CONTROL.search(path) or _SURROGATE.search(path):
        return "it has characters that cannot be printed"
    if any(len(part.encode()) > MAX_PART for part in found):
        return f"a part of it is longer than {MAX_PART} bytes"
    if len(path.encode()) > limit:
        return f"it is longer than {limit} bytes"
    return ""


def check_key(key: str) -> str:
    """A key as the program makes them: already in its one right form.

    Raises:
        BadObjectPath: it is not.
    """
    try:
        ok = "/".join(parts(key, MAX_KEY)) == key
    except BadObjectPath:
        ok = False
    if not ok:
        raise BadObjectPath(f"{key!r} is not a key of an object")
    return key


def check_namespace(namespace: str) -> str:
    """A namespace's name: the first part of every key.

    Raises:
        BadObjectPath: it is none.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise BadObjectPath(f"{namespace!r} is not the name of a namespace")
    return namespace


def data_key(namespace: str, path: str) -> str:
    """The key of an object in a namespace's data store.

    Raises:
        BadObjectPath: the path names no place in it.
    """
    return "/".join((check_namespace(namespace), DATA, *parts(path)))


def record_key(namespace: str, path: str) -> str:
    """The key of the record about an object in the data store; no other path has the same, or one below it."""
    name = hashlib.sha256("/".join(parts(path)).encode()).hexdigest()
    return f"{check_namespace(namespace)}/{RECORDS}/{name}.json"


def meta_key(namespace: str, path: str) -> str:
    """Where earlier versions have left the record about an object in the data store; see `META`."""
    return "/".join((check_namespace(namespace), META, *parts(path))) + ".json"


def cache_key(namespace: str, fingerprint: str) -> str:
    """The key of a cache entry."""
    return f"{check_namespace(namespace)}/{CACHE}/{check_part(fingerprint)}.json"


def executions_prefix(namespace: str) -> str:
    """What the keys of all that executions of a namespace gave begin with, without the last slash."""
    return f"{check_namespace(namespace)}/{EXECUTIONS}"


def output_key(uid: str, attempt: AttemptId, output: str) -> str:
    """The file key of what an attempt gives: `executions/<uid>/<step>[/<index>]/<attempt>/<output>`.

    Raises:
        BadObjectPath: a part of it is no name.
    """
    if not _UID.fullmatch(uid):
        raise BadObjectPath(f"{uid!r} is not the uid of an execution")
    item = () if attempt.index < 0 else (str(attempt.index),)
    path = (EXECUTIONS, uid, check_part(attempt.step), *item, str(attempt.attempt), check_part(output))
    return check_key("/".join(path))


def file_key(namespace: str, key: str) -> str:
    """The key of a `File` of a namespace; whoever can write a status gets no further than its own namespace.

    Raises:
        BadObjectPath: the file is neither what an execution gave nor in the data store.
    """
    if key.split("/", 1)[0] not in (EXECUTIONS, DATA):
        raise BadObjectPath(f"{key!r} is not the key of a file: it begins with neither {EXECUTIONS}/ nor {DATA}/")
    return f"{check_namespace(namespace)}/{check_key(key)}"


def check_part(name: str) -> str:
    """A name that is one part of a key.

    Raises:
        BadObjectPath: it is not.
    """
    if "/" in name:
        raise BadObjectPath(f"{name!r} is not a name: it has a slash")
    return check_key(name)


def expand(pattern: str, *, execution_id: str, now: float) -> str:
    """The path that a pattern of a deployment's output stands for.

    Args:
        pattern: a path with `{execution_id}`, `{date}` (20261231) and `{date_time}` (20261231_235959), in UTC.
        execution_id: name of the execution.
        now: seconds since the epoch.

    Raises:
        BadObjectPath: it has other braces, or the result names no place in the data store.
    """
    moment = datetime.fromtimestamp(now, UTC)
    known = {
        "execution_id": execution_id,
        "date": moment.strftime("%Y%m%d"),
        "date_time": moment.strftime("%Y%m%d_%H%M%S"),
    }
    unknown = [name for name in _FIELD.findall(pattern) if name not in known]
    if unknown:
        raise BadObjectPath(
            f"{pattern!r}: there is no {{{unknown[0]}}}; there are {', '.join(f'{{{name}}}' for name in known)}"
        )
    return "/".join(parts(_FIELD.sub(lambda found: known[found[1]], pattern)))
