"""The database of a home: one of the version before is taken over with all that is in it, also while it is in use."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from integration.local.api_support import Served, a_pipeline, an_execution
from penstock.kube.resources import EXECUTIONS, PIPELINES
from penstock.local.database import SCHEMA_VERSION, Database
from penstock.local.home import Home, HomeError

VERSION_1 = """
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
"""The tables that Penstock 0.1 made."""

ADD = (
    "INSERT INTO executions (uid, name, namespace, metadata, spec, pipeline, revision, inputs, source, code, cancel,"
    " suspend, generation, head, phase, finished, created_at) VALUES (?, ?, 'default', ?, ?, 'iris', 1, '[]', NULL, '',"
    " 0, 0, 1, ?, ?, ?, 1700000000.0)"
)
"""How it adds an execution."""


def _add(old: sqlite3.Connection, uid: str, name: str, phase: str = "") -> None:
    head = json.dumps({"phase": phase, "progress": "1/1"}) if phase else ""
    metadata = json.dumps({"name": name, "labels": {"app": "iris"}})
    values = (uid, name, metadata, json.dumps(an_execution()["spec"]), head, phase or "Pending", bool(phase))
    old.execute(ADD, values)
    entry = json.dumps({"name": "train", "phase": "Succeeded"})
    old.execute("INSERT INTO steps VALUES (?, ?, ?, ?)", (uid, 0, "train", entry))


@pytest.fixture
def before(tmp_path: Path) -> Home:
    """A home as Penstock 0.1 has left it."""
    home = Home(tmp_path / "home")
    with closing(sqlite3.connect(home.database, isolation_level=None)) as old:
        old.executescript(VERSION_1)
        old.execute("PRAGMA user_version=1")
        spec = json.dumps(a_pipeline()["spec"])
        old.execute("INSERT INTO revisions VALUES ('iris', 1, 'digest', ?, 1700000000.0)", (spec,))
        _add(old, "u1", "over", "Succeeded")
        _add(old, "u2", "under-way")
        old.execute("INSERT INTO attempts VALUES ('u1', 'train', -1, 1, 1700000000.0, '[]', NULL)")
        old.execute("INSERT INTO cache VALUES ('f', '[]', 1700000000.0, 'over')")
    return home


async def test_a_home_of_the_version_before_keeps_working(before: Home) -> None:
    served = Served(before.root)
    await served.server.start()
    listing = await served.client.list(EXECUTIONS, labels="app=iris", keep=lambda body: body)
    assert [body["metadata"]["name"] for body in listing.items] == ["over", "under-way"]
    status = listing.items[0]["status"]
    assert (status["phase"], status["revision"], status["steps"][0]["phase"]) == ("Succeeded", "iris-1", "Succeeded")
    assert served.store.unfinished() == ["u2"]
    assert served.store.revision("iris").number == 1
    cancelled = await served.client.patch(EXECUTIONS, "under-way", "default", {"spec": {"cancel": True}})
    assert int(cancelled["metadata"]["resourceVersion"]) > int(listing.resource_version)
    assert (await served.client.create(PIPELINES, a_pipeline()))["status"]["revision"] == 2
    assert served.database.row("SELECT 1 FROM cache WHERE fingerprint = 'f'")
    served.close()
    again = Database(before)
    assert again.row("PRAGMA user_version")["user_version"] == SCHEMA_VERSION  # type: ignore[index]
    again.close()


async def test_what_a_process_of_the_version_before_writes_meanwhile_is_seen(before: Home) -> None:
    with closing(sqlite3.connect(before.database, isolation_level=None)) as old:
        assert old.execute("SELECT count(*) FROM executions").fetchone()[0] == 2
        served = Served(before.root)
        told: list[tuple[str, str]] = []
        served.server.subscribe(lambda plural, kind, body: told.append((kind, body["metadata"]["name"])))
        _add(old, "u3", "new")
        old.execute(
            "UPDATE executions SET head = ?, phase = 'Failed', finished = 1 WHERE uid = 'u2'",
            (json.dumps({"phase": "Failed"}),),
        )
        old.execute("DELETE FROM executions WHERE uid = 'u1'")
        served.server.execution_changed("")
        assert told == [("ADDED", "new"), ("MODIFIED", "under-way"), ("DELETED", "over")]
        served.close()


def test_two_processes_may_take_it_over_at_once(before: Home) -> None:
    one, other = Database(before), Database(before)
    assert one.row("SELECT count(*) AS n FROM executions")["n"] == 2  # type: ignore[index]
    one.close()
    other.close()


def test_a_home_of_a_version_to_come_is_left_alone(before: Home) -> None:
    with closing(sqlite3.connect(before.database)) as new:
        new.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    with pytest.raises(HomeError, match="newer penstock"):
        Database(before)
