"""How SQLite finds the rows of a page: by an index that has the order, so that a page reads no more than it shows."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from penstock.storage.history.filters import (
    Filter,
    LabelOp,
    LabelRule,
    Sort,
    SortKey,
    StepFilter,
    StepSort,
    StepSortKey,
)
from penstock.storage.history.queries import execution_cursor, execution_page, step_page
from penstock.storage.history.schema import executions, metadata

ONE = ("default",)
TEAM = LabelRule("team", LabelOp.EQ, ("a",))
ROW = {column.name: 1 if column.type.python_type is int else "x" for column in executions.c}


def _plan(statement: Select[Any]) -> str:
    dialect = sqlite.dialect()
    connection = sqlite3.connect(":memory:")
    for table in metadata.sorted_tables:
        connection.execute(str(CreateTable(table).compile(dialect=dialect)))
        for index in table.indexes:
            connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
    text = str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    plan = "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}"))
    connection.close()
    return plan


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("paged", [True, False])
@pytest.mark.parametrize(
    ("wanted", "key", "index"),
    [
        (Filter(), SortKey.CREATED, "executions_created_at_uid"),
        *(
            (Filter(namespaces=ONE), key, f"executions_namespace_{column}_uid")
            for key, column in (
                (SortKey.CREATED, "created_at"),
                (SortKey.STARTED, "started_at"),
                (SortKey.ENDED, "finished_at"),
                (SortKey.UPDATED, "updated_at"),
                (SortKey.DURATION, "duration"),
                (SortKey.NAME, "name"),
            )
        ),
        (Filter(namespaces=ONE, pipelines=("x",)), SortKey.CREATED, "namespace_pipeline_created_at_uid"),
        (Filter(namespaces=ONE, deployments=("x",)), SortKey.CREATED, "namespace_deployment_created_at_uid"),
        (Filter(namespaces=ONE, phases=("x",)), SortKey.CREATED, "namespace_phase_created_at_uid"),
        (Filter(namespaces=ONE, triggers=("x",)), SortKey.CREATED, "namespace_trigger_created_at_uid"),
        (Filter(namespaces=ONE, created_by=("x",)), SortKey.CREATED, "namespace_created_by_created_at_uid"),
        (Filter(labels=(TEAM,)), SortKey.CREATED, "labels_key_value_created_at_execution"),
        (Filter(namespaces=(*ONE, "more"), labels=(TEAM,)), SortKey.CREATED, "labels_key_value_created_at_execution"),
        (Filter(namespaces=ONE, labels=(TEAM,)), SortKey.CREATED, "labels_namespace_key_value_created_at_execution"),
        (Filter(namespaces=ONE, name_prefix="iris-"), SortKey.NAME, "executions_namespace_name_uid"),
        (Filter(namespaces=ONE, created_from=1.0, created_to=9.0), SortKey.CREATED, "namespace_created_at_uid"),
    ],
)
def test_pages_that_are_promised_to_be_fast_are_read_in_their_order(
    wanted: Filter, key: SortKey, index: str, paged: bool, descending: bool
) -> None:
    sort = Sort(key, descending)
    plan = _plan(execution_page(wanted, sort, 10, execution_cursor(ROW, sort) if paged else None, 0))
    assert index in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        (StepFilter(executions=("x",)), StepSortKey.POSITION),
        (StepFilter(namespaces=ONE), StepSortKey.CREATED),
        (StepFilter(namespaces=ONE, names=("train",)), StepSortKey.CREATED),
        (StepFilter(namespaces=ONE, phases=("Failed",)), StepSortKey.CREATED),
    ],
)
def test_pages_of_steps_are_read_in_their_order(wanted: StepFilter, key: StepSortKey) -> None:
    plan = _plan(step_page(wanted, StepSort(key), 10, None, 0))
    assert "USING INDEX steps_" in plan
    assert "TEMP B-TREE" not in plan
