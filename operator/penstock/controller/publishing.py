"""What becomes of the outputs of an execution that has succeeded: published to the data store, kept or dropped.

It is done before the final status is written: whoever reads `Succeeded` finds what was promised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from penstock.api.execution import ExecutionOutput, ExecutionPhase
from penstock.controller.ports import Publisher, Refused
from penstock.controller.stores import in_ports_words
from penstock.engine.reasons import Reason
from penstock.engine.types import File, Head, Identity
from penstock.storage import errors
from penstock.storage.datastore import DataStore
from penstock.storage.objects import Store


class StorePublisher:
    """`ports.Publisher` on an object store.

    Args:
        store: the object store.
        words: turns the store's errors into those of `ports`.
    """

    def __init__(self, store: Store, words: Callable[[], AbstractContextManager[None]] = in_ports_words) -> None:
        self._store = store
        self._words = words

    async def publish(self, identity: Identity, file: File, pattern: str, at: float) -> None:
        """See `ports.Publisher`."""
        data = DataStore(self._store, identity.namespace)
        with self._words():
            try:
                await data.publish(file, pattern, execution_id=identity.name, now=at)
            except (errors.StoreRefused, errors.NotFound, errors.BadObjectPath) as error:
                raise Refused(str(error)) from error


async def handed_on(
    publisher: Publisher | None, identity: Identity, head: Head, wanted: Sequence[ExecutionOutput]
) -> Head:
    """The end of an execution once its outputs are where they are to go: `Error` if one cannot get there.

    Args:
        publisher: takes files to the data store; None: nobody does.
        identity: the execution.
        head: how it has ended.
        wanted: where its outputs go.

    Raises:
        Transient, Halt: as `ports` says; nothing was lost, try again.
    """
    if head.phase is not ExecutionPhase.SUCCEEDED:
        return head
    outputs = dict(head.outputs or {})
    for each in wanted:
        value = outputs.get(each.name)
        if each.object is not None and value is not None:
            try:
                if publisher is None:
                    raise Refused("there is no object store")
                if not isinstance(value, File):
                    raise Refused("it is not a file")
                await publisher.publish(identity, value, each.object, head.started_at or 0.0)
            except Refused as error:
                message = f'output "{each.name}" cannot be published to {each.object}: {error}'
                return replace(head, phase=ExecutionPhase.ERROR, reason=str(Reason.PUBLISH_FAILED), message=message)
        if each.void:
            outputs.pop(each.name, None)
    return replace(head, outputs=outputs) if wanted else head
