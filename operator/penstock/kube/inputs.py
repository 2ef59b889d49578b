"""Inputs of executions that are objects of the data store: looked up once, when an execution begins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from penstock.api.execution import ExecutionInput
from penstock.engine.status import dump_values, load_values
from penstock.engine.types import Identity, Value
from penstock.kube.objectstore import in_cluster_words
from penstock.kube.transports import NAME_A_STORE
from penstock.storage import errors
from penstock.storage.datastore import DataStore
from penstock.storage.objects import Store
from penstock.storage.paths import EXECUTIONS, file_key

_RECORD = ".inputs"
"""Name of the record of what an execution chose, beside what its steps give; no step can have it."""


class NoSuchObject(Exception):  # noqa: N818 - a fact about an execution
    """An input cannot be had; the text names it and its path, for people."""


class ObjectInputs:
    """Looks up objects.

    Args:
        store: the object store; None where there is none.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def find(self, identity: Identity, given: Sequence[ExecutionInput], *, begun: bool) -> dict[str, Value]:
        """The files that an execution's inputs name, by name of the input: the same ones from its beginning to its end.

        Args:
            identity: the execution.
            given: its inputs; those that are values do not count.
            begun: whether it has begun, so that it has chosen already.

        Raises:
            NoSuchObject: one is not there.
            Transient: the store does not answer, refuses or is full.
        """
        wanted = {each.name: each.object for each in given if each.object is not None}
        if not wanted:
            return {}
        if self._store is None:
            raise NoSuchObject(
                f"spec.inputs[{next(iter(wanted))}].object: objects need an object store, and this operator has none; "
                f"{NAME_A_STORE}"
            )
        record = file_key(identity.namespace, f"{EXECUTIONS}/{identity.uid}/{_RECORD}")
        with in_cluster_words():
            if begun and (chosen := await self._chosen(self._store, record)) is not None:
                return chosen
            data = DataStore(self._store, identity.namespace)
            files = await asyncio.gather(*(self._file(data, name, path) for name, path in wanted.items()))
            found: dict[str, Value] = dict(zip(wanted, files, strict=True))
            await self._store.put(record, json.dumps(dump_values(found)).encode())
        return found

    async def _file(self, data: DataStore, name: str, path: str) -> Value:
        try:
            return await data.file(path)
        except (errors.NotFound, errors.BadObjectPath) as error:
            raise NoSuchObject(f"spec.inputs[{name}].object: {error}") from None

    async def _chosen(self, store: Store, record: str) -> dict[str, Value] | None:
        try:
            return load_values(json.loads(await store.read(record)))
        except errors.NotFound:
            return None
