"""Filters, orders and cursors as SQL. Knows the tables; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Select, Table, and_, exists, false, func, or_, select, true, tuple_

from penstock.storage.history.cursors import cursor, no_cursor, read_cursor
from penstock.storage.history.filters import (
    AllOf,
    AnyOf,
    BadQuery,
    Clause,
    Compare,
    Filter,
    LabelOp,
    LabelRule,
    MetricFilter,
    Op,
    Sort,
    SortKey,
    StepFilter,
    StepSort,
    StepSortKey,
)
from penstock.storage.history.records import NOT_YET
from penstock.storage.history.rows import milliseconds, seconds, storable
from penstock.storage.history.schema import executions, labels, metrics, steps

Condition = ColumnElement[bool]
_Columns = Mapping[str, Column[Any]]

_MOST_VALUES: Final = 10_000
"""Values that one filter names: databases take about 32,000 parameters in a statement."""


def _columns(table: Table, names: str, **moments: str) -> dict[str, Column[Any]]:
    return {name: table.c[name] for name in names.split()} | {name: table.c[at] for name, at in moments.items()}


_MOMENTS = {"created": "created_at", "started": "started_at", "ended": "finished_at", "duration": "duration"}
_EXECUTION: _Columns = _columns(
    executions,
    "uid namespace name pipeline revision revision_number deployment trigger created_by phase reason message finished "
    "timeout_seconds",
    updated="updated_at",
    **_MOMENTS,
)
_STEP: _Columns = _columns(
    steps, "id execution namespace name phase reason message attempts exit_code cached position", **_MOMENTS
)
_PYTHON: Final = {Op.EQ: eq, Op.NE: ne, Op.LT: lt, Op.LE: le, Op.GT: gt, Op.GE: ge}
_AHEAD: Final = frozenset(_MOMENTS.values())
"""Columns that may be `NOT_YET`."""
_TIMED: Final = frozenset({*_MOMENTS, "updated"})


# Conditions


def _among(column: Column[Any], values: Sequence[str] | None) -> list[Condition]:
    if values is None:
        return []
    if not values:
        return [false()]
    if len(values) > _MOST_VALUES:
        raise BadQuery(f"{column.name}: {len(values)} values; one filter takes {_MOST_VALUES}")
    found = [storable(each) for each in values]
    return [column == found[0] if len(found) == 1 else column.in_(found)]


def _between(column: Column[Any], begin: float | None, end: float | None) -> list[Condition]:
    found: list[Condition] = []
    if begin is not None:
        found += [column >= _moment(column.name, begin), column < NOT_YET]
    if end is not None:
        found.append(column < _moment(column.name, end))
    return found


def _moment(field: str, at: float) -> int:
    if not abs(at) < seconds(NOT_YET):
        raise BadQuery(f"{field}: {at} is no moment")
    return milliseconds(at)


def _prefix(column: Column[Any], prefix: str) -> Condition:
    """Text that begins with something, as a range, which an index serves."""
    if not prefix:
        return true()
    stem = prefix.rstrip(chr(0x10FFFF))
    if not stem:
        return column >= prefix
    after = ord(stem[-1]) + 1
    return and_(column >= prefix, column < stem[:-1] + chr(0xE000 if 0xD800 <= after <= 0xDFFF else after))


def _like(column: Column[Any], before: str, text: str, after: str) -> Condition:
    plain = "".join(each.lower() if each.isascii() else each for each in text)  # as databases do it
    plain = plain.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return func.lower(column).like(f"{before}{plain}{after}", escape="\\")


def _compare(columns: _Columns, clause: Compare) -> Condition:
    column = columns.get(clause.field)
    if column is None:
        raise BadQuery(f"no field {clause.field!r}; there are: {', '.join(sorted(columns))}")
    if clause.op in {Op.CONTAINS, Op.STARTS, Op.ENDS}:
        if not isinstance(clause.value, str) or column.type.python_type is not str:
            raise BadQuery(f"{clause.field}: {clause.op.value!r} compares text with text")
        before, after = "" if clause.op is Op.STARTS else "%", "" if clause.op is Op.ENDS else "%"
        return _like(column, before, storable(clause.value), after)
    several = isinstance(clause.value, tuple)
    if several != (clause.op in {Op.IN, Op.NOT_IN}):
        raise BadQuery(f"{clause.field}: {clause.op.value!r} takes {'one value' if several else 'several values'}")
    values = [_stored(clause.field, column, each) for each in _several(clause.value)]
    return _operator(column, clause.op, values)


def _several(value: str | float | bool | tuple[str | float, ...]) -> tuple[str | float | bool, ...]:
    return value if isinstance(value, tuple) else (value,)


def _stored(field: str, column: Column[Any], value: str | float | bool) -> Any:
    if field in _TIMED:
        if isinstance(value, str):
            raise BadQuery(f"{field}: is compared with seconds, not with {value!r}")
        return _moment(field, value)
    wanted = column.type.python_type
    if isinstance(value, str) and wanted is str:
        return storable(value)
    if type(value) is wanted and (wanted is bool or abs(float(value)) < 2**31):
        return value
    raise BadQuery(f"{field}: {value!r} is not of its type, which is {wanted.__name__}")


def _operator(column: Column[Any], op: Op, values: Sequence[Any]) -> Condition:
    if op is Op.IN:
        return column.in_(values) if values else false()
    if op is Op.NOT_IN:
        return column.not_in(values) if values else true()
    found: Condition = _PYTHON[op](column, values[0])
    ahead = op in {Op.GT, Op.GE} and column.name in _AHEAD
    return and_(found, column < NOT_YET) if ahead else found  # which is later than no moment that anybody names


def _label(rule: LabelRule) -> Condition:
    other = labels.alias()  # the query may look for a label itself
    mine = [other.c.execution == executions.c.uid, other.c.key == storable(rule.key)]
    takes = {LabelOp.EXISTS: 0, LabelOp.MISSING: 0, LabelOp.EQ: 1, LabelOp.NE: 1}.get(rule.op)
    if takes is not None and len(rule.values) != takes:
        raise BadQuery(f"label {rule.key}: {rule.op.value!r} takes {takes or 'no'} value{'s' if not takes else ''}")
    if rule.op in {LabelOp.EXISTS, LabelOp.MISSING}:
        found = exists().where(*mine)
    else:
        found = exists().where(*mine, *_among(other.c.value, rule.values))
    return ~found if rule.op in {LabelOp.NE, LabelOp.NOT_IN, LabelOp.MISSING} else found


def _clause(columns: _Columns, clause: Clause) -> Condition:
    match clause:
        case Compare():
            return _compare(columns, clause)
        case LabelRule():
            if columns is not _EXECUTION:
                raise BadQuery(f"label {clause.key}: steps have no labels")
            return _label(clause)
        case AllOf():
            return and_(true(), *(_clause(columns, part) for part in clause.parts))
        case AnyOf():
            return or_(false(), *(_clause(columns, part) for part in clause.parts))


def execution_conditions(wanted: Filter) -> list[Condition]:
    """What a filter says of executions.

    Raises:
        BadQuery: it cannot be.
    """
    table = executions.c
    found = [
        *_among(table.namespace, wanted.namespaces),
        *_among(table.uid, wanted.uids),
        *_among(table.pipeline, wanted.pipelines),
        *_among(table.revision, wanted.revisions),
        *_among(table.deployment, wanted.deployments),
        *_among(table.trigger, wanted.triggers),
        *_among(table.phase, wanted.phases),
        *_among(table.created_by, wanted.created_by),
        *_between(table.created_at, wanted.created_from, wanted.created_to),
        *_between(table.finished_at, wanted.finished_from, wanted.finished_to),
        *(_label(rule) for rule in wanted.labels),
    ]
    if wanted.name_prefix is not None:
        found.append(_prefix(table.name, storable(wanted.name_prefix)))
    if wanted.deleted is not None:
        found.append(table.deleted_at.is_not(None) if wanted.deleted else table.deleted_at.is_(None))
    if wanted.where is not None:
        found.append(_clause(_EXECUTION, wanted.where))
    return found


def step_conditions(wanted: StepFilter) -> list[Condition]:
    """What a filter says of steps.

    Raises:
        BadQuery: it cannot be.
    """
    table = steps.c
    found = [
        *_among(table.namespace, wanted.namespaces),
        *_among(table.execution, wanted.executions),
        *_among(table.id, wanted.ids),
        *_among(table.name, wanted.names),
        *_among(table.phase, wanted.phases),
        *_between(table.created_at, wanted.created_from, wanted.created_to),
    ]
    if wanted.cached is not None:
        found.append(table.cached.is_(wanted.cached))
    if wanted.where is not None:
        found.append(_clause(_STEP, wanted.where))
    return found


# Pages


def execution_page(wanted: Filter, sort: Sort, limit: int, after: str | None, offset: int) -> Select[Any]:
    """Rows of a page of executions, and one more if there is more.

    Raises:
        BadQuery: it cannot be.
    """
    rule = _driving_label(wanted, sort)
    if rule is None:
        key: tuple[Column[Any], Column[Any]] = (_EXECUTION[sort.key.value], executions.c.uid)
        found = select(executions).where(*execution_conditions(wanted))
    else:
        # The index of labels has the order: what it finds is not sorted again, however much that is.
        key = (labels.c.created_at, labels.c.execution)
        found = (
            select(executions)
            .join_from(labels, executions, labels.c.execution == executions.c.uid)
            .where(labels.c.key == storable(rule.key), *_among(labels.c.value, rule.values))
            .where(*_among(labels.c.namespace, wanted.namespaces), *execution_conditions(_without(wanted, rule)))
        )
    return _page(found, key, sort.descending, f"e.{sort.key.value}", limit, after, offset)


def _driving_label(wanted: Filter, sort: Sort) -> LabelRule | None:
    """The label by which executions are looked for: where nothing that is named beside it has an index."""
    named = (wanted.uids, wanted.pipelines, wanted.deployments, wanted.created_by)
    if sort.key is not SortKey.CREATED or any(each is not None for each in named):
        return None
    return next((rule for rule in wanted.labels if rule.op is LabelOp.EQ and len(rule.values) == 1), None)


def _without(wanted: Filter, rule: LabelRule) -> Filter:
    fields = {name: getattr(wanted, name) for name in Filter.__slots__}
    left = list(wanted.labels)
    left.remove(rule)
    return Filter(**fields | {"labels": tuple(left)})


def step_page(wanted: StepFilter, sort: StepSort, limit: int, after: str | None, offset: int) -> Select[Any]:
    """Rows of a page of steps, and one more if there is more.

    Raises:
        BadQuery: it cannot be.
    """
    first = (steps.c.execution, steps.c.position) if sort.key is StepSortKey.POSITION else (_STEP[sort.key.value],)
    key = first if sort.key is StepSortKey.POSITION else (*first, steps.c.id)
    found = select(steps).where(*step_conditions(wanted))
    return _page(found, key, sort.descending, f"s.{sort.key.value}", limit, after, offset)


def metric_page(wanted: MetricFilter, limit: int, after: str | None) -> Select[Any]:
    """Rows of a page of metrics in the order of execution, step, item, name, number and time, and one more.

    Raises:
        BadQuery: it cannot be.
    """
    table = metrics.c
    conditions = [
        *_among(table.execution, wanted.executions),
        *_among(table.name, wanted.names),
        *_among(table.step, wanted.steps),
    ]
    if wanted.last:
        later = metrics.alias("later")
        same = [later.c[name] == table[name] for name in ("execution", "step", "item", "name")]
        ahead = tuple_(later.c.number, later.c.at) > tuple_(table.number, table.at)
        conditions.append(~exists().where(*same, ahead))
    key = tuple(table[name] for name in ("execution", "step", "item", "name", "number", "at"))
    return _page(select(metrics).where(*conditions), key, False, "m", limit, after, 0)


def _page(
    found: Select[Any],
    key: Sequence[Column[Any]],
    descending: bool,
    order: str,
    limit: int,
    after: str | None,
    offset: int,
) -> Select[Any]:
    if limit < 1:
        raise BadQuery(f"limit: {limit}; the least is 1")
    if after is not None:
        place = tuple_(*_place(after, order, descending, key))
        mine = tuple_(*key)
        found = found.where(mine < place if descending else mine > place)
    if offset:
        found = found.offset(offset)
    return found.order_by(*(each.desc() if descending else each.asc() for each in key)).limit(limit + 1)


# Cursors: the key of the last row that was shown, and the order that it is a key of


def cursor_of(row: Mapping[str, Any], names: Sequence[str], order: str, descending: bool) -> str:
    """The cursor after a row."""
    return cursor(order, descending, *(row[name] for name in names))


def _place(after: str, order: str, descending: bool, key: Sequence[Column[Any]]) -> list[Any]:
    """The key of a cursor, which is one that rows may have."""
    values = read_cursor(after, order, descending, [each.type.python_type for each in key])
    if any(abs(each) > NOT_YET if isinstance(each, int) else each != storable(each) for each in values):
        raise no_cursor()
    return values


def execution_cursor(row: Mapping[str, Any], sort: Sort) -> str:
    """The cursor after a row of `execution_page`."""
    return cursor_of(row, (_EXECUTION[sort.key.value].name, "uid"), f"e.{sort.key.value}", sort.descending)


def step_cursor(row: Mapping[str, Any], sort: StepSort) -> str:
    """The cursor after a row of `step_page`."""
    column: str = _STEP[sort.key.value].name
    names = ("execution", "position") if sort.key is StepSortKey.POSITION else (column, "id")
    return cursor_of(row, names, f"s.{sort.key.value}", sort.descending)


def metric_cursor(row: Mapping[str, Any]) -> str:
    """The cursor after a row of `metric_page`."""
    return cursor_of(row, ("execution", "step", "item", "name", "number", "at"), "m", False)
