"""Databases that can be used, that cannot, and that come from other versions."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from history_bodies import an_execution, uid
from penstock.storage.history import connecting
from penstock.storage.history.errors import BadHistory, HistoryUnavailable
from penstock.storage.history.history import History
from penstock.storage.history.schema import metadata
from postgres import Server

PASSWORD = "tell-nobody"


async def _run(url: str, statement: str) -> None:
    engine = connecting.connect(connecting.parse(url))
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def test_the_migrations_make_the_tables_that_are_used(url: str) -> None:
    await (await History.open(url)).close()
    engine = connecting.connect(connecting.parse(url))

    def differences(connection: Connection) -> list[Any]:
        options = {"version_table": connecting.VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_a_history_outlives_its_process(url: str) -> None:
    for number in range(2):
        history = await History.open(url)
        await history.record(an_execution(number), sequence=1)
        await history.close()
    again = await History.open(url)
    assert await again.count() == 2
    await again.close()


async def test_many_may_open_an_empty_database_at_once(url: str) -> None:
    for opened in await asyncio.gather(*(History.open(url) for _ in range(4))):
        await opened.record(an_execution(), sequence=1)
        assert await opened.count() == 1
        await opened.close()


async def test_a_database_of_a_newer_version_is_refused_and_not_touched(url: str) -> None:
    await (await History.open(url)).close()
    await _run(url, f"UPDATE {connecting.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(BadHistory, match=r"newer penstock \(its tables are of version 9999, this one knows 0001\)"):
        await History.open(url)
    await _run(url, f"UPDATE {connecting.VERSION_TABLE} SET version_num = '0001'")
    await (await History.open(url)).close()


async def test_tables_of_somebody_else_are_not_touched(url: str) -> None:
    await _run(url, "CREATE TABLE steps (mine integer)")
    with pytest.raises(BadHistory, match="database of its own"):
        await History.open(url)
    await _run(url, "INSERT INTO steps VALUES (1)")
    await _run(url, "CREATE TABLE executions (mine integer)")  # nothing was half made


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no URL"),
        ("history.db", "no URL"),
        (f"postgresql://user:{PASSWORD}@host:port/x", "no URL"),
        (f"mysql://user:{PASSWORD}@host/x", "'mysql' is no kind of database"),
        (f"postgresql+psycopg://user:{PASSWORD}@host/x", "is no kind of database"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:///x?mode=ro", "'mode' is not known"),
        (f"postgresql://user@host/x?password={PASSWORD}", "'password' is not known"),
        ("postgresql://user@host/x?sslmode=often", "sslmode is none of disable, allow, prefer, require, verify-ca"),
    ],
)
async def test_a_url_that_names_no_database_is_refused_in_words(url: str, message: str) -> None:
    with pytest.raises(BadHistory, match=message) as caught:
        await History.open(url)
    assert PASSWORD not in _all_words(caught.value)


def _all_words(error: BaseException | None) -> str:
    words = ""
    while error is not None:
        words += f"{error!r} {error}\n"
        error = error.__cause__ or error.__context__
    return words


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadHistory, match="folder must be there"):
        await History.open(f"sqlite:///{tmp_path}/none/history.db")


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"no database" * 1000)
    with pytest.raises(BadHistory, match="name another file"):
        await History.open(f"sqlite:///{tmp_path}/history.db")


async def test_a_file_that_may_not_be_written_is_named(without_root: None) -> None:
    with pytest.raises(BadHistory, match="folder must be there and be writable"):
        await History.open("sqlite:////proc/history.db")


async def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    for where in (f"user:{PASSWORD}@localhost:1/x", f"user:{PASSWORD}@/x?host={tmp_path}"):
        with pytest.raises(HistoryUnavailable, match=r"^postgresql://user@.*cannot be reached") as caught:
            await History.open(f"postgresql://{where}")
        assert PASSWORD not in _all_words(caught.value)


async def test_a_database_user_or_right_that_is_missing_is_named(postgres: Server) -> None:
    with pytest.raises(BadHistory, match=r"CREATE DATABASE"):
        await History.open(postgres.url("nowhere"))
    database = postgres.database()
    postgres.sql(f"CREATE ROLE guarded LOGIN PASSWORD 'other-{PASSWORD}'; CREATE ROLE powerless LOGIN")
    with pytest.raises(BadHistory, match=r"password authentication failed.*; check user, password") as caught:
        await History.open(postgres.url(database, f"guarded:{PASSWORD}"))
    assert PASSWORD not in _all_words(caught.value)
    with pytest.raises(BadHistory, match=r"permission denied.*GRANT CREATE ON SCHEMA"):
        await History.open(postgres.url(database, "powerless"))
    options = "&sslmode=prefer&application_name=of-tests"
    good = await History.open(postgres.url(database, f"postgres:{PASSWORD}") + options)
    assert await good.count() == 0
    names = postgres.sql(f"SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = '{database}'")
    assert names == "of-tests"
    assert PASSWORD not in good.place
    await good.close()


async def test_a_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/history.db?timeout=0.05"
    history = await History.open(url)
    other = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryUnavailable, match="locked"):
        await history.record(an_execution(), sequence=1)
    assert await history.count() == 0, "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    await history.record(an_execution(), sequence=1)
    assert await history.get("default", uid=uid(0)) is not None
    await history.close()


async def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "50 % of é"
    folder.mkdir()
    history = await History.open(f"sqlite:///{folder}/history.db")
    assert await history.count() == 0
    await history.close()
