"""Rows into tables, inside the transaction of the caller: what is older than what is there changes nothing.

Rows are written in the order of their keys, so that two writers wait for each other and never for themselves.
Executions are written before manifests: see `pruning`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.storage.history.reading import fetched, manifest_of, steps_of
from penstock.storage.history.records import Version
from penstock.storage.history.rows import Row, Rows, ended_by_removal, milliseconds, rows_of, whole
from penstock.storage.history.schema import attempts, executions, labels, manifests, metrics, steps

_CHUNK: Final = 500
"""Executions whose rows are written together."""


def newest(versions: Iterable[Version]) -> list[Rows]:
    """Rows of versions, of each execution those that count, in the order of uids.

    Raises:
        NotAnExecution: one of them is none.
    """
    found: dict[str, Rows] = {}
    for version in versions:
        rows = rows_of(version)
        before = found.get(rows.execution["uid"])
        if before is None or _age(before) <= _age(rows):
            found[rows.execution["uid"]] = rows
    return [found[uid] for uid in sorted(found)]


def _age(rows: Rows) -> tuple[bool, int]:
    return rows.execution["finished"], rows.execution["sequence"]


async def write(connection: AsyncConnection, found: Sequence[Rows]) -> int:
    """Write rows of executions, each of another one.

    Returns:
        How many were not older than what was there.
    """
    written = 0
    for begin in range(0, len(found), _CHUNK):
        written += await _write(connection, found[begin : begin + _CHUNK])
    return written


async def _write(connection: AsyncConnection, found: Sequence[Rows]) -> int:
    taken = await connection.execute(_upsert_execution(connection), [rows.execution for rows in found])
    uids = set(taken.scalars())
    current = [rows for rows in found if rows.execution["uid"] in uids]
    if not current:
        return 0
    known = {rows.manifest["digest"]: rows.manifest for rows in current if rows.manifest is not None}
    if known:
        statement = _insert(connection, manifests).on_conflict_do_nothing()
        await connection.execute(statement, [known[digest] for digest in sorted(known)])
    await _write_labels(connection, sorted(uids), [row for rows in current for row in rows.labels])
    await _write_steps(connection, sorted(uids), [row for rows in current for row in rows.steps])
    seen = [row for rows in current for row in rows.attempts]
    if seen:
        statement = _insert(connection, attempts)
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(attempts.primary_key), set_={"entry": statement.excluded.entry}
            ),
            seen,
        )
    return len(current)


def _insert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _upsert_execution(connection: AsyncConnection) -> Any:
    statement = _insert(connection, executions)
    new, old = statement.excluded, executions.c
    changed: dict[str, ColumnElement[Any]] = {
        column.name: new[column.name] for column in executions.c if column.name not in {"uid", "deleted_at"}
    }
    changed["manifest"] = func.coalesce(new.manifest, old.manifest)
    newer = or_(
        and_(new.finished, old.finished.is_(False)),
        and_(new.finished == old.finished, new.sequence >= old.sequence),
    )
    return statement.on_conflict_do_update(index_elements=[old.uid], set_=changed, where=newer).returning(old.uid)


async def _write_labels(connection: AsyncConnection, uids: Sequence[str], wanted: Sequence[Row]) -> None:
    there = await connection.execute(
        select(labels.c.execution, labels.c.key, labels.c.value).where(labels.c.execution.in_(uids))
    )
    stored = {(row.execution, row.key): row.value for row in there}
    gone = stored.keys() - {(row["execution"], row["key"]) for row in wanted}
    if gone:
        statement = delete(labels).where(labels.c.execution == bindparam("of"), labels.c.key == bindparam("named"))
        await connection.execute(statement, [{"of": uid, "named": key} for uid, key in sorted(gone)])
    new = [row for row in wanted if stored.get((row["execution"], row["key"])) != row["value"]]
    if new:
        insert = _insert(connection, labels)
        await connection.execute(
            insert.on_conflict_do_update(
                index_elements=[labels.c.execution, labels.c.key], set_={"value": insert.excluded.value}
            ),
            new,
        )


async def _write_steps(connection: AsyncConnection, uids: Sequence[str], wanted: Sequence[Row]) -> None:
    """Write the steps that changed: of an execution with thousands, few do at a time."""
    there = await connection.execute(select(steps.c.id, steps.c.mark).where(steps.c.execution.in_(uids)))
    marks = {row.id: row.mark for row in there}
    gone = marks.keys() - {row["id"] for row in wanted}
    if gone:
        statement = delete(steps).where(steps.c.id == bindparam("gone"))
        await connection.execute(statement, [{"gone": each} for each in sorted(gone)])
    new = [row for row in wanted if marks.get(row["id"]) != row["mark"]]
    if new:
        insert = _insert(connection, steps)
        changed: dict[str, ColumnElement[Any]] = {
            column.name: insert.excluded[column.name] for column in steps.c if column.name not in {"id", "execution"}
        }
        changed["inputs"] = func.coalesce(insert.excluded.inputs, steps.c.inputs)
        await connection.execute(insert.on_conflict_do_update(index_elements=[steps.c.id], set_=changed), new)


async def write_removals(connection: AsyncConnection, removed: Mapping[str, float]) -> int:
    """Note that objects were removed. One that had not finished is cancelled by that.

    Args:
        connection: of the transaction.
        removed: when, by uid.

    Returns:
        How many of them were there and not removed before.
    """
    found = 0
    for uid, at in sorted(removed.items()):
        mine = select(executions).where(executions.c.uid == uid).with_for_update()
        row = next(iter(await fetched(connection, mine)), None)
        if row is None or row["deleted_at"] is not None:
            continue
        if not row["finished"]:
            await _write(connection, [await _ended(connection, row, at)])
        change = update(executions).where(executions.c.uid == uid).values(deleted_at=milliseconds(at))
        await connection.execute(change)
        found += 1
    return found


async def _ended(connection: AsyncConnection, row: Row, at: float) -> Rows:
    recorded = whole(row, await manifest_of(connection, row), await steps_of(connection, row["uid"]))
    return rows_of(Version(ended_by_removal(recorded.body, at), recorded.sequence, recorded.manifest))


async def write_metrics(connection: AsyncConnection, found: Sequence[Row]) -> None:
    """Write rows of metrics."""
    insert = _insert(connection, metrics)
    statement = insert.on_conflict_do_update(
        index_elements=list(metrics.primary_key), set_={"value": insert.excluded.value}
    )
    await connection.execute(statement, found)
