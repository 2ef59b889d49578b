"""Rows as the objects that an API server shows, as JSON text: what is stored as JSON is not read to be written again.

Steps of many executions are read by one query. Nothing here writes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from penstock.api.base import API_VERSION
from penstock.local.database import Database
from penstock.step.values import JsonObject

UNOBSERVED: Final = {"observedGeneration": -1}
"""The status of an object that nobody has looked at; our definitions on a cluster have the same default."""
_FLAGS: Final = ("cancel", "suspend")


def compact(value: object, *, sort: bool = False) -> str:
    """JSON text as it is stored: ASCII, because SQLite cannot hold the lone surrogates that JSON can."""
    return json.dumps(value, separators=(",", ":"), sort_keys=sort, allow_nan=False)


def stamp(at: float) -> str:
    """A moment as API servers write those of metadata: to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def metadata_of(row: sqlite3.Row, version: int | None = None) -> JsonObject:
    """The metadata of a row of `executions`, `objects` or `tombstones`.

    Args:
        row: the row.
        version: its resource version; by default its own.
    """
    ours = {
        "name": row["name"],
        "namespace": row["namespace"],
        "uid": row["uid"],
        "resourceVersion": str(row["version"] if version is None else version),
        "generation": row["generation"],
        "creationTimestamp": stamp(row["created_at"]),
    }
    return {**ours, **json.loads(row["metadata"]), **ours}


def execution_text(row: sqlite3.Row, status: str) -> str:
    """An execution as JSON text.

    Args:
        row: its row.
        status: its status as JSON text; empty if it has none.
    """
    head = f'{{"apiVersion":"{API_VERSION}","kind":"Execution","metadata":{compact(metadata_of(row))}'
    return f'{head},"spec":{_spec_text(row)},"status":{status or compact(UNOBSERVED)}}}'


def _spec_text(row: sqlite3.Row) -> str:
    """The spec as it is now: what is asked for since is in columns of its own."""
    text: str = row["spec"]
    if not row["cancel"] and not row["suspend"] and not any(f'"{flag}"' in text for flag in _FLAGS):
        return text
    spec = json.loads(text)
    for flag in _FLAGS:
        if row[flag] or flag in spec:
            spec[flag] = bool(row[flag])
    return compact(spec)


def status_text(row: sqlite3.Row, steps: Iterable[str]) -> str:
    """The status of an execution as JSON text; empty if it has none.

    Args:
        row: its row.
        steps: its steps as JSON texts.
    """
    head: str = row["head"]
    if not head:
        return ""
    shown = ",".join(steps)
    if shown:
        head = f'{head[:-1]},"steps":[{shown}]}}'
    # What is asked of an execution is read in the pass that follows, so there is no need to keep which was read last.
    first = f'"observedGeneration":{row["generation"]}'
    if row["revision"] is not None:
        revision = f"{row['pipeline']}-{row['revision']}"
        first += f',"revision":{json.dumps(revision)}'
    return f"{{{first},{head[1:]}"


class Views:
    """Executions of one home as JSON text.

    Args:
        database: the home's database.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def texts(self, rows: Sequence[sqlite3.Row], *, steps: bool = True) -> list[str]:
        """Executions, with three queries however many there are.

        Args:
            rows: their rows.
            steps: with the steps of their statuses.
        """
        found = self.steps([row["uid"] for row in rows if row["head"]]) if steps else {}
        return [execution_text(row, status_text(row, found.get(row["uid"], ()))) for row in rows]

    def text(self, uid: str) -> str | None:
        """An execution; None if there is none."""
        row = self._db.row("SELECT * FROM executions WHERE uid = ?", uid)
        return None if row is None else self.texts([row])[0]

    def steps(self, uids: Sequence[str]) -> dict[str, list[str]]:
        """The steps of executions as JSON texts, by uid: in the order of the pipeline, items in theirs."""
        if not uids:
            return {}
        some = f"({', '.join('?' * len(uids))})"
        items: dict[tuple[str, str], list[str]] = {}
        query = f"SELECT uid, step, status FROM items WHERE uid IN {some} ORDER BY uid, step, idx"  # noqa: S608
        for row in self._db.rows(query, *uids):
            items.setdefault((row["uid"], row["step"]), []).append(row["status"])
        found: dict[str, list[str]] = {}
        query = f"SELECT uid, name, status FROM steps WHERE uid IN {some} ORDER BY uid, position"  # noqa: S608
        for row in self._db.rows(query, *uids):
            text: str = row["status"]
            if inside := items.get((row["uid"], row["name"])):
                text = f'{text[:-1]},"items":[{",".join(inside)}]}}'
            found.setdefault(row["uid"], []).append(text)
        return found


def body_of(text: str) -> JsonObject:
    """An object from its text."""
    found: Any = json.loads(text)
    assert isinstance(found, dict)  # noqa: S101 - for mypy
    return found
