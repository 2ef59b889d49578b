"""What is known of an attempt between being asked for and the record of its end, and who tells of its execution."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.engine.types import AttemptId, Identity, Observation, StartAttempt
from penstock.kube import names
from penstock.step.values import Declared, JsonObject


class Owner(Protocol):
    """Tells of executions."""

    def identity(self, key: str) -> Identity | None:
        """Who an execution is; None if it is not known (any more)."""

    def pipeline_name(self, key: str) -> str:
        """Name of its pipeline; empty where it has a pipeline of its own."""

    def declared(self, key: str, step: str) -> Sequence[Declared]:
        """The outputs that a step of it declares."""

    def awaits(self, key: str, attempt: AttemptId) -> bool:
        """Whether its stored status says that the server had not taken an attempt yet."""


@dataclass(slots=True)
class Run:
    """An attempt between being asked for and the record of its end."""

    key: str
    id: AttemptId
    identity: Identity
    declared: Sequence[Declared]
    asked_at: float
    start: StartAttempt | None = None
    pod: JsonObject | None = None
    job: JsonObject | None = None
    gone: bool = False
    log: str | None = None
    seen: Observation | None = None
    timer: asyncio.TimerHandle | None = None
    busy: bool = False
    replaced: str = ""

    @property
    def name(self) -> str:
        """Name of its Job, and of a Pod that we make."""
        return names.object_name(self.identity, self.id)

    @property
    def pod_name(self) -> str:
        """Name of its Pod; those of ordinary Jobs are named by the Job controller."""
        return self.name if self.pod is None else str(self.pod["metadata"]["name"])


@dataclass(slots=True)
class Found:
    """What a list has of an attempt that nobody has asked about yet."""

    pod: JsonObject | None = None
    job: JsonObject | None = None
