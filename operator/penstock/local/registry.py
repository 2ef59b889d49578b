"""Objects other than executions in SQLite, and what has changed about all of them.

Every write gives an object the next resource version; there is one count for all kinds (the database's triggers see to
that, whoever writes). What has changed since a version is asked of the tables themselves, so that no change is missed,
also after a restart and when other processes write: several changes of an object at once are seen as its last state.
What was deleted is remembered for a while.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from penstock.local.apikinds import EXECUTIONS, Kind
from penstock.local.database import Database
from penstock.local.patching import Managers, dump_managers
from penstock.local.store import owner_of
from penstock.local.views import Views, compact, metadata_of, stamp
from penstock.step.values import JsonObject

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]

REMEMBERED: Final = 1_000
"""So many deletions are remembered at least."""

_GONE: Final = (
    "SELECT * FROM tombstones WHERE plural = ? AND version > ? AND version <= ? AND created_version <= ?"
    " ORDER BY version"
)


@dataclass(frozen=True, slots=True)
class Draft:
    """An object that is to be stored.

    Attributes:
        metadata: what its owners say of it: labels, annotations, references to owners.
        content: its fields besides head, metadata and status.
        status: its status; None if it has none.
        managers: who owns which of its fields.
    """

    metadata: JsonObject
    content: JsonObject
    status: JsonObject | None
    managers: Managers


@dataclass(frozen=True, slots=True)
class Change:
    """An object that is new, has changed or is gone.

    Attributes:
        version: its resource version.
        type: what has happened to it since the version that was asked for.
        row: its row; of one that is gone, its tombstone.
        relabelled: whether its labels may be others than at that version.
    """

    version: int
    type: ChangeType
    row: sqlite3.Row
    relabelled: bool


class Registry:
    """The objects of one home.

    Args:
        database: the home's database.
        views: shows executions.
    """

    def __init__(self, database: Database, views: Views) -> None:
        self._db = database
        self._views = views

    # Versions

    def version(self) -> int:
        """The newest resource version."""
        row = self._db.row("SELECT value FROM counter")
        assert row is not None  # noqa: S101 - the table has one row
        return int(row["value"])

    def remembers(self, version: int) -> bool:
        """Whether all that was deleted since a resource version is known."""
        row = self._db.row("SELECT value, floor FROM counter")
        assert row is not None  # noqa: S101 - the table has one row
        return int(row["floor"]) <= version <= int(row["value"])

    def forget(self) -> None:
        """Forget deletions of long ago."""
        row = self._db.row("SELECT version FROM tombstones ORDER BY version DESC LIMIT 1 OFFSET ?", REMEMBERED)
        if row is None:
            return
        with self._db.transaction() as connection:
            connection.execute("UPDATE counter SET floor = ?", (row["version"],))
            connection.execute("DELETE FROM tombstones WHERE version <= ?", (row["version"],))

    def changes(self, kind: Kind, since: int, until: int) -> list[Change]:
        """What has happened to objects of a kind, in the order of versions; of each the last only.

        Args:
            kind: which kind.
            since: after this version.
            until: up to this one, which is or was the newest: of what is written meanwhile the order is not known.
        """
        table = "executions" if kind is EXECUTIONS else "objects"
        chosen = "" if kind is EXECUTIONS else "plural = ? AND "
        given = () if kind is EXECUTIONS else (kind.plural,)
        query = f"SELECT * FROM {table} WHERE {chosen}version > ? AND version <= ? ORDER BY version"  # noqa: S608
        found = [
            Change(
                row["version"],
                "ADDED" if row["created_version"] > since else "MODIFIED",
                row,
                row["labels_version"] > since,
            )
            for row in self._db.rows(query, *given, since, until)
        ]
        gone = self._db.rows(_GONE, kind.plural, since, until, since)
        found += [Change(row["version"], "DELETED", row, row["labels_version"] > since) for row in gone]
        return sorted(found, key=lambda change: change.version) if gone else found

    # Reading

    def row(self, kind: Kind, namespace: str, name: str) -> sqlite3.Row | None:
        """The row of an object; None if there is none."""
        if kind is EXECUTIONS:
            return self._db.row("SELECT * FROM executions WHERE namespace = ? AND name = ?", namespace, name)
        query = "SELECT * FROM objects WHERE plural = ? AND namespace = ? AND name = ?"
        return self._db.row(query, kind.plural, namespace, name)

    def brief(self, kind: Kind, namespace: str, name: str) -> sqlite3.Row | None:
        """Metadata and status of an object that is no execution; None if there is none."""
        query = "SELECT uid, metadata, status FROM objects WHERE plural = ? AND namespace = ? AND name = ?"
        return self._db.row(query, kind.plural, namespace, name)

    def has(self, uid: str) -> bool:
        """Whether there is an object with this uid, of whatever kind."""
        query = "SELECT 1 FROM objects WHERE uid = ? UNION ALL SELECT 1 FROM executions WHERE uid = ?"
        return self._db.row(query, uid, uid) is not None

    def by_uid(self, kind: Kind, uid: str) -> sqlite3.Row | None:
        """The row of an object; None if there is none."""
        table = "executions" if kind is EXECUTIONS else "objects"
        return self._db.row(f"SELECT * FROM {table} WHERE uid = ?", uid)  # noqa: S608

    def rows(self, kind: Kind, namespace: str | None, after: tuple[str, str], size: int) -> Sequence[sqlite3.Row]:
        """Rows of a kind in the order of namespaces and names.

        Args:
            kind: which kind.
            namespace: where; None: everywhere.
            after: begin after this namespace and name.
            size: so many at most.
        """
        table = "executions" if kind is EXECUTIONS else "objects"
        terms, given = ["(namespace, name) > (?, ?)"], [*after]
        if kind is not EXECUTIONS:
            terms.append("plural = ?")
            given.append(kind.plural)
        if namespace is not None:
            terms.append("namespace = ?")
            given.append(namespace)
        query = f"SELECT * FROM {table} WHERE {' AND '.join(terms)} ORDER BY namespace, name LIMIT ?"  # noqa: S608
        return self._db.rows(query, *given, size)

    def owned_by(self, owner: str) -> Sequence[sqlite3.Row]:
        """The rows of objects, other than executions, that go with another one."""
        return self._db.rows("SELECT * FROM objects WHERE owner = ?", owner)

    def orphans(self) -> tuple[list[str], list[sqlite3.Row]]:
        """Executions (by uid) and other objects whose owner is gone."""
        gone = "owner <> '' AND owner NOT IN (SELECT uid FROM objects) AND owner NOT IN (SELECT uid FROM executions)"
        executions = self._db.rows(f"SELECT uid FROM executions WHERE {gone}")  # noqa: S608
        return [row["uid"] for row in executions], self._db.rows(f"SELECT * FROM objects WHERE {gone}")  # noqa: S608

    def texts(self, kind: Kind, rows: Sequence[sqlite3.Row]) -> list[str]:
        """Objects as JSON text."""
        if kind is EXECUTIONS:
            return self._views.texts(rows)
        return [object_text(kind, row) for row in rows]

    # Writing

    def add(self, kind: Kind, *, uid: str, namespace: str, name: str, draft: Draft, now: float) -> sqlite3.Row:
        """Store a new object; gives its row.

        Raises:
            sqlite3.IntegrityError: there is one with its name.
        """
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT INTO objects (uid, plural, namespace, name, metadata, content, status, generation, created_at,"
                " edited_at, owner, managers) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
                (
                    uid,
                    kind.plural,
                    namespace,
                    name,
                    compact(draft.metadata),
                    compact(draft.content),
                    "" if draft.status is None else compact(draft.status),
                    now,
                    now,
                    owner_of(draft.metadata),
                    compact(dump_managers(draft.managers)),
                ),
            )
        return self.there(kind, uid)

    def change(self, kind: Kind, uid: str, draft: Draft, *, now: float) -> sqlite3.Row:
        """Put another state of an object in the place of the one before; gives its row.

        Its generation grows if its content is another one.
        """
        row = self.there(kind, uid)
        content = _kept(row["content"], draft.content)
        status = "" if draft.status is None else _kept(row["status"], draft.status)
        metadata = _kept(row["metadata"], draft.metadata)
        managers = compact(dump_managers(draft.managers))
        if (metadata, content, status) == (row["metadata"], row["content"], row["status"]):
            if managers != row["managers"]:
                self._db.execute("UPDATE objects SET managers = ? WHERE uid = ?", (managers, uid))
            return row
        edited = content != row["content"]
        self._db.execute(
            "UPDATE objects SET metadata = ?, content = ?, status = ?, owner = ?, managers = ?,"
            " generation = generation + ?, edited_at = CASE WHEN ? THEN ? ELSE edited_at END WHERE uid = ?",
            (metadata, content, status, owner_of(draft.metadata), managers, edited, edited, now, uid),
        )
        return self.there(kind, uid)

    def there(self, kind: Kind, uid: str) -> sqlite3.Row:
        """The row of an object that was written a moment ago."""
        row = self.by_uid(kind, uid)
        assert row is not None  # noqa: S101 - nobody else writes between two lines
        return row

    def release(self, owner: str) -> None:
        """Let objects stay whose owner has gone."""
        with self._db.transaction() as connection:
            for table in ("objects", "executions"):
                query = f"SELECT uid, metadata FROM {table} WHERE owner = ?"  # noqa: S608
                for row in connection.execute(query, (owner,)).fetchall():
                    metadata = json.loads(row["metadata"])
                    references = [each for each in metadata.pop("ownerReferences", ()) if each["uid"] != owner]
                    if references:
                        metadata["ownerReferences"] = references
                    change = f"UPDATE {table} SET metadata = ?, owner = ? WHERE uid = ?"  # noqa: S608
                    connection.execute(change, (compact(metadata), owner_of(metadata), row["uid"]))

    def remove(self, uid: str) -> bool:
        """Delete an object that is no execution; whether there was one."""
        return self._db.execute("DELETE FROM objects WHERE uid = ?", (uid,)) == 1


def _kept(before: str, value: JsonObject) -> str:
    """JSON text of a value; the text that is there, if it says the same in another order."""
    text = compact(value)
    if text == before or not before:
        return text
    return before if _ordered(json.loads(before)) == _ordered(value) else text


def _ordered(value: JsonObject) -> str:
    return json.dumps(value, sort_keys=True)


def object_metadata(kind: Kind, row: sqlite3.Row, version: int | None = None) -> JsonObject:
    """The metadata of an object that is no execution; see `views.metadata_of`.

    When the spec came to be as it is stands where API servers have it: who has written which fields is not told.
    """
    found = metadata_of(row, version)
    if kind.model is None:
        found.pop("generation")
    elif row["generation"] > 1 and version is None:
        entry = {"manager": "penstock", "operation": "Update", "apiVersion": kind.api_version}
        found["managedFields"] = [
            {**entry, "time": stamp(row["edited_at"]), "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}
        ]
    return found


def object_text(kind: Kind, row: sqlite3.Row) -> str:
    """An object that is no execution, as JSON text."""
    head = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": object_metadata(kind, row)}
    return "".join(_joined(compact(head), row["content"], row["status"]))


def tombstone_text(kind: Kind, row: sqlite3.Row) -> str:
    """The last state of an object that is gone, as JSON text; executions without their steps."""
    metadata = metadata_of(row) if kind is EXECUTIONS else object_metadata(kind, row, row["version"])
    head = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    content = f'{{"spec":{row["content"]}}}' if kind is EXECUTIONS else row["content"]
    return "".join(_joined(compact(head), content, row["status"]))


def _joined(head: str, content: str, status: str) -> Iterator[str]:
    yield head[:-1]
    if content != "{}":
        yield f",{content[1:-1]}"
    if status:
        yield f',"status":{status}'
    yield "}"


def labels_of(row: sqlite3.Row) -> dict[str, str]:
    """The labels of a row."""
    text: str = row["metadata"]
    if '"labels"' not in text:
        return {}
    found: dict[str, str] = json.loads(text).get("labels") or {}
    return found
