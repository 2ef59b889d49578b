"""Executions as a cluster has them, for tests of the history."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

NOON = 1_700_000_000.0
"""When tests begin, seconds since the epoch."""
MANIFEST: dict[str, Any] = {"steps": [{"name": "train", "image": "x", "command": ["true"]}]}


def moment(at: float) -> str:
    """A moment as manifests have it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def a_step(name: str = "train", phase: str = "Succeeded", **fields: Any) -> dict[str, Any]:
    """A step's entry in a status."""
    entry = {"name": name, "phase": phase, "attempts": 1, "queuedAt": moment(NOON + 1), "startedAt": moment(NOON + 2)}
    return entry | fields


def an_execution(
    number: int = 0,
    phase: str = "Succeeded",
    *,
    namespace: str = "default",
    name: str = "",
    pipeline: str = "iris",
    created: float | None = None,
    started: float | None = None,
    finished: float | None = None,
    labels: dict[str, str] | None = None,
    author: str = "",
    steps: list[dict[str, Any]] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """An execution; `number` makes its uid, its name and, in seconds after noon, when it was created."""
    at = NOON + number if created is None else created
    over = phase in {"Succeeded", "Failed", "Error", "Cancelled"}
    begun = at + 1 if started is None and phase != "Pending" else started
    ended = at + 2 if finished is None and over else finished
    meta: dict[str, Any] = {
        "name": name or f"{pipeline}-{number:05d}",
        "namespace": namespace,
        "uid": str(UUID(int=number)),
        "generation": 1,
        "resourceVersion": str(1000 + number),
        "creationTimestamp": moment(at),
    }
    if labels is not None:
        meta["labels"] = labels
    if author:
        meta["annotations"] = {"penstock.dev/created-by": author}
    found: dict[str, Any] = {"phase": phase, "reason": phase, "revision": f"{pipeline}-3"}
    if begun is not None:
        found["startedAt"] = moment(begun)
    if ended is not None:
        found["finishedAt"] = moment(ended)
    found["steps"] = [a_step(phase="Succeeded" if over else "Running")] if steps is None else steps
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Execution",
        "metadata": meta,
        "spec": {"pipeline": {"name": pipeline}, "inputs": [{"name": "rows", "value": 200}]},
        "status": found | status,
    }


def uid(number: int) -> str:
    """The uid of `an_execution(number)`."""
    return str(UUID(int=number))
