"""Rows out of tables, inside the transaction of the caller."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.step.values import JsonObject
from penstock.storage.history.rows import Row
from penstock.storage.history.schema import manifests, steps


async def fetched(connection: AsyncConnection, wanted: Select[Any]) -> list[Row]:
    """All rows of a query."""
    return [row._asdict() for row in await connection.execute(wanted)]


async def manifest_of(connection: AsyncConnection, row: Row) -> JsonObject | None:
    """The spec of an execution's pipeline, or None."""
    if row["manifest"] is None:
        return None
    mine = select(manifests.c.manifest).where(manifests.c.digest == row["manifest"])
    found: JsonObject | None = await connection.scalar(mine)
    return found


async def steps_of(connection: AsyncConnection, uid: str) -> list[Row]:
    """Rows of an execution's steps, in their order."""
    return await fetched(connection, select(steps).where(steps.c.execution == uid).order_by(steps.c.position))
