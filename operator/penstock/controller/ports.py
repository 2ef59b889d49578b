"""What the controller needs of the world. `local` and `kube` each implement these protocols.

Every call may be repeated: a crash between any two of them must change nothing in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.api.pipeline import PipelineSpec
    from penstock.engine.state import ExecutionState
    from penstock.engine.types import (
        AttemptId,
        CacheEntry,
        Identity,
        Observation,
        Plan,
        Request,
        StartAttempt,
        StopAttempt,
    )
    from penstock.step.values import JsonObject


@dataclass(frozen=True, slots=True)
class Loaded:
    """An execution as it is stored.

    Attributes:
        identity: who it is.
        pipeline: the pipeline revision that is run.
        revision: name of that revision, for example `iris-3`.
        request: what its owner asks.
        status: its stored status as the manifest has it (camelCase); empty for a new one.
        code: digest of what the steps run that their image does not name (local sources), part of cache fingerprints.
    """

    identity: Identity
    pipeline: PipelineSpec
    revision: str
    request: Request
    status: JsonObject = field(default_factory=dict)
    code: str = ""


class Executions(Protocol):
    """Where executions are stored."""

    async def load(self, key: str) -> Loaded | None:
        """The execution with this key (its uid), or None if there is none (any more)."""

    async def request(self, key: str) -> Request | None:
        """What its owner asks of it now; None if there is none (any more). Cheap: called in every pass."""

    async def save(self, key: str, plan: Plan, state: ExecutionState) -> None:
        """Write what changed. `plan` holds the changed parts, `state` is the whole after them.

        Raises:
            Conflict: someone else wrote since; the controller forgets what it knew and starts over.
            Transient: could not be written now.
        """

    async def refuse(self, key: str, reason: str, message: str) -> None:
        """End an execution whose pipeline cannot be compiled: phase `Failed`, nothing was started."""


class Attempts(Protocol):
    """What runs attempts."""

    async def start(self, key: str, start: StartAttempt) -> None:
        """Ask for an attempt; returns as soon as the wish is recorded. If it is there already, nothing happens.

        What goes wrong later (no such command, no such image) is an observation, not an error here.
        """

    async def stop(self, key: str, stop: StopAttempt) -> None:
        """Ask that an attempt end; its end is an observation. If there is none or it is over, nothing happens."""

    async def recover(self, key: str, expected: Sequence[AttemptId]) -> Sequence[Observation]:
        """What is known of these attempts, asked once when an execution is (again) taken up after a start or an error.

        From now on what happens to them becomes news. One of which there is no trace is observed as `LOST`.
        """

    def news(self, key: str) -> Sequence[Observation]:
        """What was seen of this execution's attempts since the last call, and takes it out.

        Whoever loses an answer (an error in the same pass) asks `recover` next.
        """

    async def recorded(self, key: str, ended: Sequence[AttemptId]) -> None:
        """The ends of these attempts are in the stored status: what was kept because of them may go."""

    async def forget(self, key: str) -> None:
        """The execution is finished and its status written: nothing more will be asked about it."""


class CacheStore(Protocol):
    """Earlier successes by fingerprint. No namespace gets another's: files are of one."""

    async def lookup(self, namespace: str, fingerprint: str) -> CacheEntry | None:
        """The newest entry, or None."""

    async def remember(self, namespace: str, entry: CacheEntry) -> None:
        """Keep an entry; replaces an older one with the same fingerprint."""


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Seconds since the epoch, rounded to milliseconds."""


class Conflict(Exception):  # noqa: N818
    """Someone else wrote the object since it was read: read again, quietly."""


class Halt(Exception):  # noqa: N818
    """Nothing can go on until a person has done what the message says (a full disk); what was written is safe."""


class Transient(Exception):  # noqa: N818
    """Something that heals by itself: try again after `delay` seconds.

    Attributes:
        delay: seconds to wait; None: the queue's own backoff.
    """

    def __init__(self, message: str, delay: float | None = None) -> None:
        super().__init__(message)
        self.delay = delay
