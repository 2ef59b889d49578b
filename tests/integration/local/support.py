"""What the tests of the local adapter share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from penstock.api.execution import Execution
from penstock.api.pipeline import PipelineSpec
from penstock.local.session import LocalSession, Settings


@asynccontextmanager
async def opened(home: Path, *, runner: str = "process") -> AsyncIterator[LocalSession]:
    """A session that is closed at the end of the block."""
    session = LocalSession(Settings(home=home, runner=runner))
    try:
        yield session
    finally:
        await session.close()


def submit(session: LocalSession, execution: Execution, spec: PipelineSpec, source: Path | None = None) -> str:
    """Store an execution of a pipeline `p`."""
    return session.submit(execution, revision=session.revision("p", spec), source=source)


async def taken_up(session: LocalSession, execution: Execution, spec: PipelineSpec) -> str | None:
    """The execution that was interrupted, if nobody runs it."""
    return await session.interrupted(execution, revision=session.revision("p", spec), source=None)
