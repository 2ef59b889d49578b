"""The process that serves: one that ends without losing a request.

After SIGTERM it says for some seconds that it is not ready, while it serves as before: whoever sends requests here
learns it. Then it lets go who waits (they are redirected, to whoever serves then), takes no new connections, and ends
when the last answer is given.
"""

from __future__ import annotations

import asyncio
from types import FrameType

import uvicorn

from penstock.gateway.service import Service

DRAIN_SECONDS = 5.0
"""How long it takes until a Service sends nothing more to a pod that is not ready, with some to spare."""


class Server(uvicorn.Server):
    """Like uvicorn's, and drains first.

    Args:
        config: how to serve.
        service: what is told to drain; None: there is nobody who waits.
        drain_seconds: how long it goes on serving.
    """

    def __init__(self, config: uvicorn.Config, service: Service | None, drain_seconds: float = DRAIN_SECONDS) -> None:
        super().__init__(config)
        self._service = service
        self._seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first one drains, any further ends at once."""
        if self._service is None or self._loop is None or self._service.draining:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self._service.drain()
        self._loop.call_soon_threadsafe(self._loop.call_later, self._seconds, self._end)

    def _end(self) -> None:
        if self._service is not None:
            self._service.close()
        self.should_exit = True
