"""From a URL to an engine whose database was checked: it answers, and its tables are those of this version.

Tables are made and changed by the migrations that the package brings, one caller at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from penstock.storage.history.errors import BadHistory, in_words, shown

VERSION_TABLE: Final = "penstock_history_version"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x70656E73746F636B
"""The advisory lock that is held while tables are changed: `penstock` in ASCII."""
_CONNECT_SECONDS: Final = 5.0
_STATEMENT_SECONDS: Final = 60.0
_BUSY_SECONDS: Final = 10.0
_OPTIONS: Final = {
    "sqlite": {"timeout"},
    "postgresql": {"host", "port", "ssl", "sslmode", "application_name"},
}
_SECURITY: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_USE: Final = "use sqlite:///FILE or postgresql://USER@HOST/NAME"
_KINDS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def parse(url: str) -> URL:
    """The database that a text names.

    Raises:
        BadHistory: it names none that a history can be kept in.
    """
    try:
        found = make_url(url)
    except (ArgumentError, ValueError):  # whose words may hold the password
        raise BadHistory(f"history: is no URL of a database; {_USE}") from None
    driver = _KINDS.get(found.drivername)
    if driver is None:
        raise BadHistory(f"history: {found.drivername!r} is no kind of database for a history; {_USE}")
    found = found.set(drivername=driver)
    file = found.database or ""
    if found.get_backend_name() == "sqlite" and (file in {"", ":memory:"} or file.startswith("file:")):
        raise BadHistory("history: a SQLite database needs a file: sqlite:///FILE")
    known = _OPTIONS[found.get_backend_name()]
    unknown = sorted(set(found.query) - known)
    if unknown:
        raise BadHistory(
            f"history: {shown(found)}: the option {unknown[0]!r} is not known; there are: {', '.join(sorted(known))}"
        )
    security = _security(found)
    if security not in {None, *_SECURITY}:
        raise BadHistory(f"history: {shown(found)}: sslmode is none of {', '.join(_SECURITY)}")
    return found


def _security(url: URL) -> object:
    return url.query.get("sslmode", url.query.get("ssl"))


def connect(url: URL, statement_seconds: float | None = _STATEMENT_SECONDS) -> AsyncEngine:
    """An engine, which has not connected yet.

    Args:
        url: from `parse`.
        statement_seconds: how long one statement may take on a server; None: as long as it takes.
    """
    # Fan-outs have up to 1,000 items, and values may hold what only ASCII escapes can say.
    shared: dict[str, Any] = {"json_serializer": partial(json.dumps, separators=(",", ":"), allow_nan=False)}
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(
            url, connect_args={} if "timeout" in url.query else {"timeout": _BUSY_SECONDS}, **shared
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    arguments: dict[str, Any] = {"timeout": _CONNECT_SECONDS, "command_timeout": statement_seconds}
    security = _security(url)
    if security is not None:
        arguments["ssl"] = security
    name = url.query.get("application_name", "penstock")
    arguments["server_settings"] = {"application_name": name, "jit": "off"}
    bare = url.difference_update_query(["ssl", "sslmode", "application_name"])
    return create_async_engine(bare, connect_args=arguments, pool_pre_ping=True, **shared)


def _probe(file: str) -> None:
    """Open a file and read what it is. When aiosqlite cannot, its thread complains to a loop that may be closed."""
    with contextlib.closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, also before reading
    try:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()  # nobody else does, and it has a thread
        raise


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def writer(engine: AsyncEngine) -> AsyncEngine:
    """The same engine, whose transactions are to write: SQLite's then wait for each other at their beginning."""
    return engine.execution_options(writes=True)


def reader(engine: AsyncEngine) -> AsyncEngine:
    """The same engine, whose transactions see one moment throughout."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


async def check(url: URL) -> None:
    """Bring the tables to this version, however long it takes.

    Raises:
        HistoryUnavailable: the database does not answer.
        BadHistory: it was written by a newer penstock, or cannot be used otherwise.
    """
    place = shown(url)
    engine = connect(url, statement_seconds=None)
    try:
        with in_words(place):
            if url.get_backend_name() == "sqlite":
                await asyncio.to_thread(_probe, str(url.database))
            async with writer(engine).begin() as connection:
                await connection.run_sync(_migrate, place)
    finally:
        await engine.dispose()


def _migrate(connection: Connection, place: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    newest = scripts.get_current_head()
    if found == newest:
        return
    if found is not None and found not in {each.revision for each in scripts.walk_revisions()}:
        raise BadHistory(
            f"{place}: was written by a newer penstock (its tables are of version {found}, this one knows {newest}); "
            "update penstock or name another database"
        )
    command.upgrade(config, "head")
