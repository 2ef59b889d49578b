"""Files that executions gave, published to the data store of this machine: the controller's `Publisher`."""

from __future__ import annotations

import asyncio

from penstock.controller.ports import Refused
from penstock.engine.types import File, Identity
from penstock.local.home import BadObjectPath, NotFound
from penstock.local.objects import Objects
from penstock.storage import errors
from penstock.storage.paths import expand


class LocalPublisher:
    """Copies files into the data store.

    Args:
        objects: the files of this machine.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def publish(self, identity: Identity, file: File, pattern: str, at: float) -> None:
        """See `controller.ports.Publisher`."""
        try:
            path = expand(pattern, execution_id=identity.name, now=at)
            if not self._objects.exists(file):
                raise Refused("the file that the execution gave is not there any more")
            await asyncio.to_thread(self._objects.put_data, self._objects.path(file), path)
        except (errors.BadObjectPath, BadObjectPath, NotFound) as error:
            raise Refused(str(error)) from error
