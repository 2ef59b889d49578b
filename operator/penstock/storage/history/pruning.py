"""What is taken out of a history: finished executions that are old or many, some at a time.

Manifests that nobody runs go in a transaction of their own, which begins by waiting for all writers of executions:
those write executions first, so none of them can count on a manifest that goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.storage.history.schema import executions, manifests, metrics

_TABLE = executions.c


async def pipelines(connection: AsyncConnection, namespaces: Sequence[str] | None) -> list[tuple[str, str]]:
    """Namespaces and names of all pipelines that were run."""
    found = select(_TABLE.namespace, _TABLE.pipeline).distinct()
    if namespaces is not None:
        found = found.where(_TABLE.namespace.in_(namespaces))
    return [(row.namespace, row.pipeline) for row in await connection.execute(found)]


async def beyond(
    connection: AsyncConnection, namespace: str, pipeline: str, keep: int
) -> list[ColumnElement[bool]] | None:
    """What holds for the executions of a pipeline but the newest ones; None: there are not so many.

    Args:
        connection: a connection.
        namespace: the pipeline's.
        pipeline: its name.
        keep: how many are left out.
    """
    mine = [_TABLE.namespace == namespace, _TABLE.pipeline == pipeline]
    if keep == 0:
        return mine
    order = (_TABLE.created_at.desc(), _TABLE.uid.desc())
    last = (
        await connection.execute(
            select(_TABLE.created_at, _TABLE.uid).where(*mine).order_by(*order).offset(keep - 1).limit(1)
        )
    ).first()
    return None if last is None else [*mine, tuple_(_TABLE.created_at, _TABLE.uid) < tuple_(last.created_at, last.uid)]


def old(before: int) -> list[ColumnElement[bool]]:
    """What holds for executions that were over before a moment. What was created later is not looked at."""
    return [_TABLE.created_at < before, _TABLE.finished_at < before]


async def remove(connection: AsyncConnection, conditions: Sequence[ColumnElement[bool]], most: int) -> int:
    """Remove some finished executions with all that belongs to them; gives how many."""
    found: Any = await connection.scalars(
        select(_TABLE.uid).where(_TABLE.finished, *conditions).order_by(_TABLE.created_at, _TABLE.uid).limit(most)
    )
    uids = found.all()
    if uids:
        await connection.execute(delete(metrics).where(metrics.c.execution.in_(uids)))
        await connection.execute(delete(executions).where(_TABLE.uid.in_(uids)))
    return len(uids)


async def remove_unused_manifests(connection: AsyncConnection) -> None:
    """Remove the manifests that no execution runs."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("LOCK TABLE executions IN SHARE ROW EXCLUSIVE MODE"))
    await connection.execute(delete(manifests).where(~exists().where(_TABLE.manifest == manifests.c.digest)))
