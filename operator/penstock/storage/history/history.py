"""The history: executions, their steps, attempts and metrics, written and asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from penstock.step.values import JsonObject
from penstock.storage.history import connecting, pruning, queries, reading, rows, writing
from penstock.storage.history.errors import in_words, shown
from penstock.storage.history.filters import Filter, MetricFilter, Sort, StepFilter, StepSort
from penstock.storage.history.records import Attempt, Metric, Page, Recorded, RecordedStep, Version
from penstock.storage.history.schema import attempts, executions, steps

_NEWEST: Final = Sort()
_IN_ORDER: Final = StepSort()
_ALL: Final = Filter()
_ALL_STEPS: Final = StepFilter()
_ALL_METRICS: Final = MetricFilter()
_PRUNED_AT_ONCE: Final = 500


class History:
    """A history in a database. Made by `open`; used in one event loop, by many tasks at once.

    All methods raise `HistoryUnavailable` while the database is down or full, and `BadHistory` where a person has to do
    something; nothing is half written then. Those that take filters, orders or cursors raise `BadQuery`.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = connecting.writer(engine)
        self._reader = connecting.reader(engine)
        self._turn = asyncio.Lock()
        self.place: Final = shown(engine.url)
        """The database for people: without password."""

    @classmethod
    async def open(cls, url: str) -> History:
        """Open a history, and make its tables or bring them to this version.

        Args:
            url: `sqlite:///FILE` with the option `timeout` (seconds to wait for another process, 10 by default), or
                `postgresql://USER:PASSWORD@HOST:PORT/NAME` with the options `sslmode`, `application_name`, and `host`
                and `port` for a socket.

        Raises:
            HistoryUnavailable: the database does not answer now.
            BadHistory: it cannot be used, or was written by a newer penstock; the message says what to do.
        """
        parsed = connecting.parse(url)
        await connecting.check(parsed)
        return cls(connecting.connect(parsed))

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes. SQLite has one at a time: those of one process wait here, in their order."""
        with in_words(self.place):
            if self._engine.dialect.name != "sqlite":
                async with self._writer.begin() as connection:
                    yield connection
                return
            async with self._turn, self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one moment."""
        with in_words(self.place):
            async with self._reader.connect() as connection:
                yield connection

    # Executions are recorded

    async def record(
        self,
        body: JsonObject,
        *,
        sequence: int,
        revision_manifest: JsonObject | None = None,
        step_inputs: Mapping[str, JsonObject] | None = None,
    ) -> bool:
        """Record an execution as it is; see `record_many`.

        Args:
            body: the object as `kubectl get -o json` shows it.
            sequence: see `Version`.
            revision_manifest: spec of the revision that it runs, if it is known.
            step_inputs: what its steps were given, by step, where that is known.

        Returns:
            Whether this is now what the history has; not if it had a newer one.

        Raises:
            NotAnExecution: the body lacks what every execution has.
        """
        return await self.record_many([Version(body, sequence, revision_manifest, step_inputs or {})]) == 1

    async def record_many(self, versions: Iterable[Version], removed: Mapping[str, float] | None = None) -> int:
        """Record executions, and then that some were removed, in one transaction; doing it twice changes nothing.

        Of two versions of an execution a finished one beats one that is live; else that with the higher sequence
        counts. In what order they are recorded is all the same. One that is recorded after its removal stays removed.

        Args:
            versions: the executions as they are; several of one are as if each were recorded.
            removed: when objects were removed, by uid, in seconds since the epoch; see `deleted`.

        Returns:
            How many executions changed, or were recorded as they are for another time.

        Raises:
            NotAnExecution: one of them lacks what every execution has; nothing is recorded.
        """
        found = writing.newest(versions)
        if not found and not removed:
            return 0
        async with self._write() as connection:
            written = await writing.write(connection, found)
            await writing.write_removals(connection, removed or {})
        return written

    async def deleted(self, uid: str, at: float) -> bool:
        """Note that an execution's object was removed. It stays in the history.

        One that had not finished is `Cancelled` from then on, reason `Deleted`: nothing runs it any more.

        Args:
            uid: its uid.
            at: when, in seconds since the epoch.

        Returns:
            Whether it was there and not removed before.
        """
        async with self._write() as connection:
            return await writing.write_removals(connection, {uid: at}) == 1

    # Executions are asked for

    async def get(self, namespace: str, name: str = "", *, uid: str = "") -> Recorded | None:
        """An execution as it was recorded, with its steps.

        Args:
            namespace: its namespace.
            name: its name; of several with that name, which were there one after the other, the newest is meant.
            uid: its uid, instead of its name.
        """
        table = executions.c
        which = table.uid == rows.storable(uid) if uid else table.name == rows.storable(name)
        wanted = select(executions).where(table.namespace == rows.storable(namespace), which)
        async with self._read() as connection:
            newest = wanted.order_by(table.created_at.desc(), table.uid.desc()).limit(1)
            for row in await reading.fetched(connection, newest):
                manifest = await reading.manifest_of(connection, row)
                return rows.whole(row, manifest, await reading.steps_of(connection, row["uid"]))
        return None

    async def list(
        self,
        wanted: Filter = _ALL,
        sort: Sort = _NEWEST,
        *,
        limit: int = 100,
        after: str | None = None,
        offset: int = 0,
    ) -> Page[Recorded]:
        """A page of executions, without their steps.

        Args:
            wanted: which; see `Filter` for what is asked for fast.
            sort: in which order; see `SortKey` for what may change between two pages.
            limit: how many at most. One more is read, to know whether there is more.
            after: `Page.after` of the page before, which was of the same order.
            offset: how many to pass over, for callers that count pages; costs what it passes over.
        """
        found = await self._page(queries.execution_page(wanted, sort, limit, after, offset))
        more = queries.execution_cursor(found[limit - 1], sort) if len(found) > limit else None
        return Page([rows.brief(row) for row in found[:limit]], more)

    async def count(self, wanted: Filter = _ALL, *, at_most: int | None = None) -> int:
        """How many executions there are.

        Args:
            wanted: which.
            at_most: where to stop counting: what is counted costs, what is not does not.
        """
        return await self._count(select(executions.c.uid).where(*queries.execution_conditions(wanted)), at_most)

    # Steps, attempts and metrics

    async def steps(
        self,
        wanted: StepFilter = _ALL_STEPS,
        sort: StepSort = _IN_ORDER,
        *,
        limit: int = 100,
        after: str | None = None,
        offset: int = 0,
    ) -> Page[RecordedStep]:
        """A page of steps, of one execution or of many; see `list`."""
        found = await self._page(queries.step_page(wanted, sort, limit, after, offset))
        more = queries.step_cursor(found[limit - 1], sort) if len(found) > limit else None
        return Page([rows.step_of(row) for row in found[:limit]], more)

    async def count_steps(self, wanted: StepFilter = _ALL_STEPS, *, at_most: int | None = None) -> int:
        """How many steps there are; see `count`."""
        return await self._count(select(steps.c.id).where(*queries.step_conditions(wanted)), at_most)

    async def attempts(self, uid: str, step: str) -> Sequence[Attempt]:
        """All attempts of a step, and of the items that stand in its status, as far as they were seen.

        Args:
            uid: of the execution.
            step: name of the step.
        """
        mine = select(steps).where(steps.c.id == rows.step_id(uid, step))
        key = attempts.c
        earlier = select(attempts).where(key.execution == rows.storable(uid), key.step == rows.storable(step))
        async with self._read() as connection:
            found = await reading.fetched(connection, mine)
            seen = {(each.item, each.attempt): each.entry for each in await connection.execute(earlier)}
        return rows.attempts_of(rows.step_of(found[0]).status, seen) if found else []

    async def record_metrics(self, found: Iterable[Metric]) -> None:
        """Record numbers. The same one (execution, step, item, name, number and time) twice is one."""
        stored = {tuple(row[key] for key in row if key != "value"): row for row in map(rows.metric_row, found)}
        if stored:
            async with self._write() as connection:
                await writing.write_metrics(connection, [stored[key] for key in sorted(stored)])

    async def metrics(
        self, wanted: MetricFilter = _ALL_METRICS, *, limit: int = 1_000, after: str | None = None
    ) -> Page[Metric]:
        """A page of metrics by execution, step, item, name, number and time; see `list`."""
        found = await self._page(queries.metric_page(wanted, limit, after))
        more = queries.metric_cursor(found[limit - 1]) if len(found) > limit else None
        return Page([rows.metric_of(row) for row in found[:limit]], more)

    async def _page(self, wanted: Select[Any]) -> Sequence[rows.Row]:
        async with self._read() as connection:
            return await reading.fetched(connection, wanted)

    async def _count(self, wanted: Select[Any], at_most: int | None) -> int:
        some = wanted if at_most is None else wanted.limit(at_most)
        async with self._read() as connection:
            return await connection.scalar(select(func.count()).select_from(some.subquery())) or 0

    # What goes

    async def prune(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        namespaces: Sequence[str] | None = None,
    ) -> int:
        """Remove finished executions with all that belongs to them. Those that are live always stay.

        One whose object is still there is recorded again as soon as somebody notes it again.

        Args:
            older_than: those that were over before this moment, in seconds since the epoch; None: whenever.
            keep: but the newest of each pipeline, so many; None: none of them are spared.
            namespaces: where; None: everywhere.

        Returns:
            How many were removed. What could not be is there for the next call.

        Raises:
            ValueError: neither is given: that would be all.
        """
        if older_than is None and keep is None:
            raise ValueError("prune: neither `older_than` nor `keep` says what is to go")
        conditions = [] if older_than is None else pruning.old(rows.milliseconds(older_than))
        if namespaces is not None:
            conditions.append(executions.c.namespace.in_(namespaces))
        removed = 0
        if keep is None:
            removed = await self._remove(conditions)
        else:
            async with self._read() as connection:
                found = await pruning.pipelines(connection, namespaces)
            for namespace, pipeline in found:
                async with self._read() as connection:
                    beyond = await pruning.beyond(connection, namespace, pipeline, keep)
                if beyond is not None:
                    removed += await self._remove([*conditions, *beyond])
        if removed:
            async with self._write() as connection:
                await pruning.remove_unused_manifests(connection)
        return removed

    async def _remove(self, conditions: Sequence[Any]) -> int:
        removed = 0
        while True:
            async with self._write() as connection:
                some = await pruning.remove(connection, conditions, _PRUNED_AT_ONCE)
            removed += some
            if some < _PRUNED_AT_ONCE:
                return removed
