r"""The tables of a history, as the newest migration leaves them.

Moments are whole milliseconds since the epoch, in UTC, which both databases compare, sort and subtract alike. One that
has not come yet is `NOT_YET`: it sorts after all others, and an index serves it like them. What is given back as it was
is `JSON`, which PostgreSQL keeps as the text that it got: `JSONB` takes neither `\u0000` nor lone surrogates, which
JSON has. Labels, which are looked into, are `JSONB` and have a table of their own.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(naming_convention={"ix": "%(table_name)s_%(column_0_N_name)s", "pk": "%(table_name)s_pkey"})

_KEY = String().with_variant(String(collation="C"), "postgresql")
"""Text that is sorted by code point, on both databases."""
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_DOCUMENT = JSON(none_as_null=True)
_LOOKED_INTO = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

manifests = Table(
    "manifests",
    metadata,
    Column("digest", _KEY, primary_key=True),
    Column("manifest", _DOCUMENT, nullable=False),
)
"""Specs of pipelines, once each."""

executions = Table(
    "executions",
    metadata,
    Column("uid", _KEY, primary_key=True),
    Column("namespace", _KEY, nullable=False),
    Column("name", _KEY, nullable=False),
    Column("pipeline", _KEY, nullable=False),
    Column("revision", _KEY, nullable=False),
    Column("revision_number", Integer),
    Column("manifest", _KEY),
    Column("deployment", _KEY, nullable=False),
    Column("trigger", _KEY, nullable=False),
    Column("created_by", _KEY, nullable=False),
    Column("phase", _KEY, nullable=False),
    Column("reason", _KEY, nullable=False),
    Column("message", _TEXT, nullable=False),
    Column("finished", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("duration", BigInteger, nullable=False),
    Column("timeout_seconds", BigInteger),
    Column("labels", _LOOKED_INTO),
    Column("annotations", _DOCUMENT),
    Column("inputs", _DOCUMENT),
    Column("outputs", _DOCUMENT),
    Column("body", _DOCUMENT, nullable=False),
    Column("deleted_at", BigInteger),
    Column("sequence", BigInteger, nullable=False),
    Index(None, "created_at", "uid"),
    Index(None, "namespace", "created_at", "uid"),
    Index(None, "namespace", "pipeline", "created_at", "uid"),
    Index(None, "namespace", "deployment", "created_at", "uid"),
    Index(None, "namespace", "phase", "created_at", "uid"),
    Index(None, "namespace", "trigger", "created_at", "uid"),
    Index(None, "namespace", "created_by", "created_at", "uid"),
    Index(None, "namespace", "name", "uid"),
    Index(None, "namespace", "started_at", "uid"),
    Index(None, "namespace", "finished_at", "uid"),
    Index(None, "namespace", "updated_at", "uid"),
    Index(None, "namespace", "duration", "uid"),
    Index(None, "manifest"),
)
"""Executions. `body` is the object without what has columns of its own here; `rows.whole` puts it together again."""


def _execution(*, primary_key: bool = False) -> Column[str]:
    return Column(
        "execution", _KEY, ForeignKey("executions.uid", ondelete="CASCADE"), nullable=False, primary_key=primary_key
    )


labels = Table(
    "labels",
    metadata,
    _execution(primary_key=True),
    Column("key", _KEY, primary_key=True),
    Column("value", _KEY, nullable=False),
    Column("namespace", _KEY, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "key", "value", "created_at", "execution"),
    Index(None, "namespace", "key", "value", "created_at", "execution"),
)
"""Labels of executions. The last two columns are the execution's: an index finds and sorts."""

steps = Table(
    "steps",
    metadata,
    Column("id", _KEY, primary_key=True),
    _execution(),
    Column("namespace", _KEY, nullable=False),
    Column("position", Integer, nullable=False),
    Column("name", _KEY, nullable=False),
    Column("phase", _KEY, nullable=False),
    Column("reason", _KEY, nullable=False),
    Column("message", _TEXT, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("exit_code", BigInteger),
    Column("cached", Boolean, nullable=False),
    Column("item_count", Integer),
    Column("items_finished", Integer),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Column("duration", BigInteger, nullable=False),
    Column("inputs", _DOCUMENT),
    Column("outputs", _DOCUMENT),
    Column("entry", _DOCUMENT, nullable=False),
    Column("mark", _KEY, nullable=False),
    Index(None, "execution", "position"),
    Index(None, "namespace", "created_at", "id"),
    Index(None, "namespace", "name", "created_at", "id"),
    Index(None, "namespace", "phase", "created_at", "id"),
)
"""Steps. `entry` is the step's status without its outputs; `mark` tells whether it, its inputs or outputs changed."""

attempts = Table(
    "attempts",
    metadata,
    _execution(),
    Column("step", _KEY, nullable=False),
    Column("item", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("entry", _DOCUMENT, nullable=False),
    PrimaryKeyConstraint("execution", "step", "item", "attempt"),
)
"""Attempts of steps and items that had more than one, as each was last seen. Of all others the step's row says all."""

metrics = Table(
    "metrics",
    metadata,
    Column("execution", _KEY, nullable=False),
    Column("step", _KEY, nullable=False),
    Column("item", Integer, nullable=False),
    Column("name", _KEY, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("value", Double),
    PrimaryKeyConstraint("execution", "step", "item", "name", "number", "at"),
    Index(None, "name", "execution"),
)
"""Numbers that steps recorded. They may come before their execution. A value that is no number (NaN) is NULL."""
