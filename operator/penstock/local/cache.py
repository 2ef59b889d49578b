"""Earlier successes of one home in SQLite: the controller's `CacheStore` on one machine."""

from __future__ import annotations

import json

from penstock.engine.status import dump_values, load_values
from penstock.engine.types import CacheEntry
from penstock.local.database import Database
from penstock.local.objects import Objects
from penstock.local.views import compact
from penstock.storage.cache import files_of


class Cache:
    """Earlier successes in SQLite; implements the controller's `CacheStore`.

    Args:
        database: the home's database.
        objects: the home's objects: an entry whose files are gone is of no use.
    """

    def __init__(self, database: Database, objects: Objects) -> None:
        self._db = database
        self._objects = objects

    async def lookup(self, namespace: str, fingerprint: str) -> CacheEntry | None:
        """See `controller.ports.CacheStore`. A home is one namespace."""
        del namespace
        row = self._db.row("SELECT * FROM cache WHERE fingerprint = ?", fingerprint)
        if row is None:
            return None
        outputs = load_values(json.loads(row["outputs"]))
        if not all(self._objects.exists(file) for file in files_of(outputs.values())):
            return None
        return CacheEntry(fingerprint, outputs, row["created_at"], row["execution"])

    async def remember(self, namespace: str, entry: CacheEntry) -> None:
        """See `controller.ports.CacheStore`."""
        del namespace
        outputs = compact(dump_values(entry.outputs))
        self._db.execute(
            "INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?)",
            (entry.fingerprint, outputs, entry.created_at, entry.execution),
        )
