"""Compares one listing of everything with what is known: finds what has gone unseen, and Jobs that were left over.

Who lists is not said here: kopf when it starts (`listed`), the operator itself from time to time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from penstock.kube import leftovers, names
from penstock.kube.attempts import KubeAttempts
from penstock.kube.deployments import KubeDeployments
from penstock.kube.executions import KubeExecutions
from penstock.step.values import JsonObject

if TYPE_CHECKING:
    from penstock.kube.recording import Recording


class Sink(Protocol):
    """Takes note of objects. `deleted`: it is there no more. Never blocks and never raises."""

    def execution(self, body: JsonObject, *, deleted: bool = False) -> None:
        """An Execution was seen."""

    def pipeline(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Pipeline was seen."""

    def deployment(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Deployment was seen."""

    def pod(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Pod of an attempt was seen."""

    def job(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Job of an attempt was seen."""


class Comparison:
    """One listing. Executions have to be handed over before their Jobs, and those before their Pods.

    Args:
        sink: takes note of what is there.
        executions: executions that are known.
        attempts: attempts that are known.
        deployments: deployments that are known, and their executions.
        recording: executions on their way into the history; None: there is none.
    """

    def __init__(
        self,
        sink: Sink,
        executions: KubeExecutions,
        attempts: KubeAttempts,
        deployments: KubeDeployments,
        recording: Recording | None = None,
    ) -> None:
        self._sink = sink
        self._executions = executions
        self._attempts = attempts
        self._deployments = deployments
        self._unlisted, self._unlisted_executions = deployments.known()
        self._recording = recording
        self._unlisted_recorded = set() if recording is None else recording.known()
        self._expected = executions.live()
        self._unseen = set(attempts.known())
        self._statuses: dict[str, JsonObject] = {}
        self._left: dict[tuple[str, str], tuple[JsonObject, leftovers.End]] = {}
        self._pods: dict[tuple[str, str], JsonObject] = {}

    def execution(self, body: JsonObject) -> None:
        """An Execution is there."""
        self._statuses[body["metadata"]["uid"]] = body.get("status") or {}
        self._unlisted_executions.discard(body["metadata"]["uid"])
        self._unlisted_recorded.discard(body["metadata"]["uid"])
        self._sink.execution(body)

    def deployment(self, body: JsonObject) -> None:
        """A Deployment is there."""
        self._unlisted.discard(body["metadata"]["uid"])
        self._sink.deployment(body)

    def job(self, body: JsonObject) -> None:
        """A Job of an attempt is there."""
        self._unseen.discard(body["metadata"]["uid"])
        self._sink.job(body)
        if (end := self._left_over(body)) is not None:
            self._left[_place(body)] = (body, end)

    def pod(self, body: JsonObject) -> None:
        """A Pod of an attempt is there."""
        self._unseen.discard(body["metadata"]["uid"])
        self._sink.pod(body)
        if _place(body) in self._left:
            self._pods[_place(body)] = body

    def gone(self) -> list[str]:
        """After the listing: forget executions that were known and are not there, and tell of attempts' objects.

        Returns:
            Uids of those executions.
        """
        gone = [key for key in self._expected if key not in self._statuses]
        for key in gone:
            self._executions.forget(key)
        self._deployments.gone(self._unlisted, self._unlisted_executions)
        self._attempts.missed(self._unseen)
        if self._recording is not None:
            for key in self._unlisted_recorded:
                self._recording.gone(key)
        self._statuses.clear()
        return gone

    async def end_leftovers(self, now: float) -> None:
        """End the Jobs of attempts that are recorded as over without a word of it in the Job.

        Args:
            now: seconds since the epoch.
        """
        ends = [leftovers.conclusion(body, self._pods.get(at), end, now) for at, (body, end) in self._left.items()]
        await asyncio.gather(*(self._attempts.conclusions.write(end) for end in ends))

    def _left_over(self, job: JsonObject) -> leftovers.End | None:
        labels = job["metadata"]["labels"]
        key, attempt = labels[names.EXECUTION_UID], names.attempt_of(labels)
        if attempt is None or key not in self._statuses:
            return None
        if self._attempts.has(key, attempt) or not leftovers.unfinished(job):
            return None
        return leftovers.end_of(self._statuses[key], attempt)


def _place(body: JsonObject) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"]["name"]
