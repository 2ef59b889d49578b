"""Run by Alembic, on the connection that `connecting` gives; its transaction is that of the whole migration."""

from __future__ import annotations

from alembic import context

from penstock.storage.history.connecting import VERSION_TABLE
from penstock.storage.history.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
