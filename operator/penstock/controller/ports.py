"""What the controller needs of the world. `local` and `kube` each implement these protocols.

Every call may be repeated: a crash between any two of them must change nothing in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.api.pipeline import PipelineSpec
    from penstock.engine.mapping import Bound, ConfigKey
    from penstock.engine.state import ExecutionState
    from penstock.engine.types import (
        AttemptId,
        CacheEntry,
        File,
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


class Publisher(Protocol):
    """Takes files that executions gave to the data store of their namespace."""

    async def publish(self, identity: Identity, file: File, pattern: str, at: float) -> None:
        """Publish a file; doing it twice is the same as doing it once.

        Args:
            identity: the execution that gave it.
            file: the file.
            pattern: the path, see `storage.paths.expand`.
            at: when the execution began, seconds since the epoch.

        Raises:
            Refused: it cannot be done; the message says why.
            Transient, Halt: it cannot be done now.
        """


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


# --- deployments ---


@dataclass(frozen=True, slots=True)
class PipelineState:
    """The pipeline that a deployment names, as it is now.

    Attributes:
        spec: the revision to run; None: there is none that can be run.
        revision: its number; None where pipelines have none.
        problem: why there is none, for people.
        broken: whether somebody has to change something before there is one.
        reading: whether it is being read: the deployment is marked once that is done.
    """

    spec: PipelineSpec | None = None
    revision: int | None = None
    problem: str = ""
    broken: bool = False
    reading: bool = False


@dataclass(frozen=True, slots=True)
class Brief:
    """As much of an execution of a deployment as it takes to decide what becomes of it.

    Attributes:
        name: its name.
        created_at: when it was made, seconds since the epoch.
        trigger: what has started it: `schedule`, `endpoint` or `manual`.
        queued: whether it waits to be let go.
        stopping: whether it was told to stop.
        finished_at: when it was over; None: it is not.
        succeeded: whether it succeeded.
    """

    name: str
    created_at: float
    trigger: str = ""
    queued: bool = False
    stopping: bool = False
    finished_at: float | None = None
    succeeded: bool = False


@dataclass(frozen=True, slots=True)
class StoredDeployment:
    """A deployment as it is stored, and what there is of its executions.

    Attributes:
        namespace: where it is.
        name: its name.
        generation: counts changes of its spec.
        spec: its spec as the manifest has it.
        annotations: its annotations.
        status: its stored status as the manifest has it (camelCase).
        edited_at: when its spec came to be as it is, seconds since the epoch; None where that is not known.
        pipeline: its pipeline.
        executions: those that are there, in any order.
        url: address of its endpoint; empty where nobody knows it.
        rival: name of an older deployment with an endpoint of the same path; empty: there is none.
    """

    namespace: str
    name: str
    generation: int
    spec: JsonObject
    annotations: Mapping[str, str]
    status: JsonObject
    edited_at: float | None
    pipeline: PipelineState
    executions: Sequence[Brief] = ()
    url: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An execution that a deployment starts.

    Attributes:
        name: its name.
        pipeline: name of the pipeline that it runs.
        revision: number of the revision; None for the newest.
        bound: its inputs and outputs.
        queued: whether it waits to be let go.
        scheduled_at: the time of the schedule that it is for, seconds since the epoch.
    """

    name: str
    pipeline: str
    revision: int | None
    bound: Bound
    queued: bool = False
    scheduled_at: int | None = None


class Deployments(Protocol):
    """Where deployments and their executions are stored. Keys are uids of deployments.

    What is created and changed here is seen in `load` at once. Methods raise Conflict and Transient as `Executions` do.
    """

    async def load(self, key: str) -> StoredDeployment | None:
        """The deployment with this key, or None if there is none (any more)."""

    async def config(self, key: str, keys: Sequence[ConfigKey]) -> Mapping[ConfigKey, str]:
        """Values of keys of ConfigMaps of its namespace; those that are not there are left out."""

    async def create(self, key: str, new: NewExecution) -> bool:
        """Create an execution. If the deployment has one with this name already, nothing happens.

        Returns:
            Whether it is there; not if somebody else has one with this name.

        Raises:
            Refused: it is not taken.
        """

    async def release(self, key: str, name: str) -> None:
        """Let an execution go that is queued. If there is none, nothing happens."""

    async def cancel(self, key: str, name: str, why: str) -> None:
        """Cancel an execution. If there is none, or it is over, nothing happens."""

    async def delete(self, key: str, name: str) -> None:
        """Delete an execution. If there is none, nothing happens."""

    async def save(self, key: str, status: JsonObject) -> None:
        """Write fields of its status; null takes one away."""

    async def store_token(self, key: str, secret: str, token: str) -> None:
        """Put a token where its owner finds it; replaces the one before.

        Raises:
            Refused: it is not taken.
        """

    async def brought_token(self, key: str, secret: str) -> str:
        """The token that somebody has put into a Secret.

        Raises:
            Refused: there is none, or it may not be read; the message says what to do.
        """


class Refused(Exception):  # noqa: N818
    """What was asked for is not taken, and nobody but a person can change that; the message is for people."""
