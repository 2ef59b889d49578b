"""The SQLite file of a home: how it is opened, its tables, its transactions and its errors in words.

What the rows mean is `store`'s; nothing here knows of executions beyond the names of columns.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from penstock.controller.ports import Transient
from penstock.local.home import Home, HomeError, StoreFull, full_disk

SCHEMA_VERSION = 2
"""Version of the tables that this penstock writes; kept in the file as `user_version`."""

_BUSY_SECONDS = 10.0

_FIRST = """
CREATE TABLE revisions (
    pipeline TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL, spec TEXT NOT NULL, created_at REAL NOT NULL,
    PRIMARY KEY (pipeline, number), UNIQUE (pipeline, digest)
);
CREATE TABLE executions (
    uid TEXT PRIMARY KEY, name TEXT NOT NULL, namespace TEXT NOT NULL, metadata TEXT NOT NULL, spec TEXT NOT NULL,
    pipeline TEXT NOT NULL, revision INTEGER, inputs TEXT NOT NULL, source TEXT, code TEXT NOT NULL,
    cancel INTEGER NOT NULL, suspend INTEGER NOT NULL, generation INTEGER NOT NULL,
    head TEXT NOT NULL, phase TEXT NOT NULL, finished INTEGER NOT NULL, created_at REAL NOT NULL,
    UNIQUE (namespace, name)
);
CREATE INDEX executions_unfinished ON executions (created_at) WHERE NOT finished;
CREATE TABLE steps (
    uid TEXT NOT NULL REFERENCES executions ON DELETE CASCADE, position INTEGER NOT NULL, name TEXT NOT NULL,
    status TEXT NOT NULL, PRIMARY KEY (uid, position)
);
CREATE TABLE items (
    uid TEXT NOT NULL REFERENCES executions ON DELETE CASCADE, step TEXT NOT NULL, idx INTEGER NOT NULL,
    status TEXT NOT NULL, PRIMARY KEY (uid, step, idx)
);
CREATE TABLE attempts (
    uid TEXT NOT NULL REFERENCES executions ON DELETE CASCADE, step TEXT NOT NULL, idx INTEGER NOT NULL,
    attempt INTEGER NOT NULL, asked_at REAL NOT NULL, outputs TEXT NOT NULL, ended TEXT,
    PRIMARY KEY (uid, step, idx, attempt)
);
CREATE TABLE cache (
    fingerprint TEXT PRIMARY KEY, outputs TEXT NOT NULL, created_at REAL NOT NULL, execution TEXT NOT NULL
);
"""

# Versions are given by triggers: executions are written in several places, and by penstocks of the version before that
# still run. `floor`: which deletions up to there are forgotten.
_SECOND = """
CREATE TABLE counter (value INTEGER NOT NULL, floor INTEGER NOT NULL);
INSERT INTO counter VALUES (1, 1);
CREATE TABLE tombstones (
    version INTEGER PRIMARY KEY, plural TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, uid TEXT NOT NULL,
    metadata TEXT NOT NULL, content TEXT NOT NULL, status TEXT NOT NULL, generation INTEGER NOT NULL,
    created_at REAL NOT NULL, created_version INTEGER NOT NULL, labels_version INTEGER NOT NULL
);
CREATE TABLE objects (
    uid TEXT PRIMARY KEY, plural TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, metadata TEXT NOT NULL,
    content TEXT NOT NULL, status TEXT NOT NULL DEFAULT '', generation INTEGER NOT NULL, created_at REAL NOT NULL,
    edited_at REAL NOT NULL, owner TEXT NOT NULL, managers TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 0,
    created_version INTEGER NOT NULL DEFAULT 0, labels_version INTEGER NOT NULL DEFAULT 0,
    UNIQUE (plural, namespace, name)
);
CREATE INDEX objects_version ON objects (plural, version);
CREATE INDEX objects_owner ON objects (owner) WHERE owner <> '';
CREATE TRIGGER objects_added AFTER INSERT ON objects BEGIN
    UPDATE counter SET value = value + 1;
    UPDATE objects SET version = (SELECT value FROM counter), created_version = (SELECT value FROM counter),
        labels_version = (SELECT value FROM counter) WHERE uid = NEW.uid;
END;
CREATE TRIGGER objects_changed AFTER UPDATE OF metadata, content, status ON objects BEGIN
    UPDATE counter SET value = value + 1;
    UPDATE objects SET version = (SELECT value FROM counter), labels_version = CASE
        WHEN json_extract(OLD.metadata, '$.labels') IS json_extract(NEW.metadata, '$.labels') THEN labels_version
        ELSE (SELECT value FROM counter) END WHERE uid = NEW.uid;
END;
CREATE TRIGGER objects_removed AFTER DELETE ON objects BEGIN
    UPDATE counter SET value = value + 1;
    INSERT INTO tombstones SELECT value, OLD.plural, OLD.namespace, OLD.name, OLD.uid, OLD.metadata, OLD.content,
        OLD.status, OLD.generation, OLD.created_at, OLD.created_version, OLD.labels_version FROM counter;
END;
ALTER TABLE executions ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE executions ADD COLUMN created_version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE executions ADD COLUMN labels_version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE executions ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN managers TEXT NOT NULL DEFAULT '{}';
ALTER TABLE executions ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
CREATE INDEX executions_version ON executions (version);
CREATE INDEX executions_owner ON executions (owner) WHERE owner <> '';
CREATE INDEX executions_waiting ON executions (pipeline) WHERE waiting;
CREATE TRIGGER executions_added AFTER INSERT ON executions BEGIN
    UPDATE counter SET value = value + 1;
    UPDATE executions SET version = (SELECT value FROM counter), created_version = (SELECT value FROM counter),
        labels_version = (SELECT value FROM counter) WHERE uid = NEW.uid;
END;
CREATE TRIGGER executions_changed
AFTER UPDATE OF metadata, spec, cancel, suspend, head, revision ON executions BEGIN
    UPDATE counter SET value = value + 1;
    UPDATE executions SET version = (SELECT value FROM counter), labels_version = CASE
        WHEN json_extract(OLD.metadata, '$.labels') IS json_extract(NEW.metadata, '$.labels') THEN labels_version
        ELSE (SELECT value FROM counter) END WHERE uid = NEW.uid;
END;
CREATE TRIGGER executions_removed AFTER DELETE ON executions BEGIN
    UPDATE counter SET value = value + 1;
    INSERT INTO tombstones SELECT value, 'executions', OLD.namespace, OLD.name, OLD.uid, OLD.metadata, OLD.spec,
        OLD.head, OLD.generation, OLD.created_at, OLD.created_version, OLD.labels_version FROM counter;
END;
"""

_STEPS = (_FIRST, _SECOND)
"""What makes the tables of each version from those of the one before."""


class Database:
    """One connection to a home's database. Used from one thread.

    Writes are durable against the death of the process as soon as they return, and against the loss of power up to the
    last checkpoint (`synchronous=NORMAL` in WAL mode): then the newest may be missing, but nothing is torn.

    Args:
        home: whose database.

    Attributes:
        home: whose database.

    Raises:
        HomeError: the file cannot be opened, is no database, or was written by a newer penstock.
        StoreFull: the disk is full.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        _keep_private(home.database)
        with self._errors():
            self._connection = sqlite3.connect(home.database, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise
        self._seen = self.data_version()

    def _prepare(self) -> None:
        self._connection.row_factory = sqlite3.Row
        found = self._user_version()
        if found > SCHEMA_VERSION:
            raise HomeError(
                f"{self.home.database}: was written by a newer penstock (its format is {found}, this one knows "
                f"{SCHEMA_VERSION}); update penstock or choose another folder"
            )
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        if found == SCHEMA_VERSION:
            return
        with self.transaction() as connection:
            for script in _STEPS[self._user_version() :]:  # read again: two processes may open a home at once
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _user_version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def rows(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, *parameters: object) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        with self._errors():
            found: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return found

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Run one statement as a transaction of its own; gives the number of rows that it changed."""
        with self._errors():
            return self._connection.execute(sql, parameters).rowcount

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: committed at the end of the block, taken back if it raises."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite has already rolled back where the disk was full
                    self._connection.execute("ROLLBACK")
                raise

    def changed_by_others(self) -> bool:
        """Whether another process wrote since this was last asked. Costs one read of a page that is in memory."""
        version = self.data_version()
        changed, self._seen = version != self._seen, version
        return changed

    def data_version(self) -> int:
        """A number that changes when another process has written; see `changed_by_others`."""
        with self._errors():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # the caller knows which name was taken
        except sqlite3.DatabaseError as error:
            raise self._in_words(error) from error

    def _in_words(self, error: sqlite3.DatabaseError) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        path = self.home.database
        if name == "SQLITE_FULL":
            return full_disk(self.home.root)
        if name.startswith("SQLITE_IOERR"):
            return StoreFull(
                f"{path}: cannot be written ({error}, {name}); nothing that was finished is lost: check the disk and "
                "its free space and start penstock again, the execution goes on where it was"
            )
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Transient(f"{path}: another process has been writing for {_BUSY_SECONDS:.0f} seconds", delay=1.0)
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            return HomeError(f"{path}: cannot be opened for writing ({error}); check who owns the folder")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return HomeError(f"{path}: is not a sound database ({error}); move it away or choose another folder")
        return error


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one; those of a trigger's body are part of the trigger."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _keep_private(path: Path) -> None:
    """Let nobody else read a database: Secrets are in it. The files that SQLite puts beside it take its mode."""
    with suppress(OSError):  # SQLite says what is wrong with it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            if each.exists() and each.stat().st_mode & 0o077:
                each.chmod(0o600)
