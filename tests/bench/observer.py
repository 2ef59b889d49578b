"""`python -m tests.bench.observer NAMESPACE`: a process of its own that tells when containers and executions ended.

Prints `ready`, then `pod NAME OWNER SECONDS` and `execution NAME PHASE SECONDS` as it hears of them, in seconds of the
machine's monotonic clock. Its CPU time is nobody else's, and both ends of what is measured reach it in the same way.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from penstock.kube.client import Client
from penstock.kube.credentials import Sessions, find_source
from penstock.kube.names import EXECUTION
from penstock.kube.resources import EXECUTIONS, PODS, Resource
from penstock.kube.transport import Transport

from .stage import Stage, ended, finished


@dataclass(slots=True)
class Heard:
    """What an observer has told so far.

    Attributes:
        pods: when the container of each pod ended, by the pod's name.
        containers: the same by the name of the execution that the pod belongs to.
        executions: when each execution had its final status.
        phases: those statuses.
    """

    pods: dict[str, float] = field(default_factory=dict)
    containers: dict[str, float] = field(default_factory=dict)
    executions: dict[str, float] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)

    def take(self, line: str) -> None:
        """Take note of a line."""
        what, name, more, at = line.split()
        if what == "pod":
            self.pods[name] = self.containers[more] = float(at)
        else:
            self.executions[name], self.phases[name] = float(at), more

    def lags(self) -> list[float]:
        """Milliseconds from the end of each execution's container to its final status, in order."""
        return sorted(
            (at - self.containers[name]) * 1e3 for name, at in self.executions.items() if name in self.containers
        )


@asynccontextmanager
async def observer(place: str) -> AsyncIterator[Heard]:
    """An observer of a namespace from now on."""
    command = (sys.executable, "-m", "tests.bench.observer", place)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    heard = Heard()
    assert process.stdout is not None
    lines = process.stdout

    async def listen() -> None:
        async for line in lines:
            heard.take(line.decode())
        if not over:
            raise RuntimeError("the observer ended")

    if (await lines.readline()).strip() != b"ready":
        raise RuntimeError("the observer did not start")
    over = False
    async with asyncio.TaskGroup() as group:
        group.create_task(listen())
        try:
            yield heard
        finally:
            over = True
            process.terminate()
            await process.wait()


def _pod(body: dict[str, Any]) -> str | None:
    return body["metadata"].get("labels", {}).get(EXECUTION, "-") if ended(body) else None


async def _tell(on: Stage, place: str, what: str, resource: Resource, look: Callable[[Any], str | None]) -> None:
    told: set[str] = set()
    async for at, body in on.watch(resource, place):
        name = body["metadata"]["name"]
        if name not in told and (said := look(body)) is not None:
            told.add(name)
            print(what, name, said, at, flush=True)


async def _main(place: str) -> None:
    sessions = Sessions(find_source(os.environ))
    transport = Transport(sessions)
    on = Stage(Client(transport), transport)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_tell(on, place, "pod", PODS, _pod))
            group.create_task(_tell(on, place, "execution", EXECUTIONS, finished))
            began = time.monotonic()
            await on.client.list(PODS, namespace=place, keep=lambda _: None)
            await asyncio.sleep(1 + time.monotonic() - began)  # both watches have begun by then
            print("ready", flush=True)
    finally:
        await sessions.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
