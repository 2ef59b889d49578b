"""Names that objects of attempts bear, and the places in their pods. Nothing here builds or reads a whole object.

Whoever selects, reads or writes attempts' Jobs and Pods takes the words from here.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from penstock.api import labels as known
from penstock.engine.types import AttemptId, Identity

EXECUTION: Final = known.EXECUTION
EXECUTION_UID: Final = known.EXECUTION_UID
PIPELINE: Final = known.PIPELINE
STEP: Final = known.STEP
ITEM: Final = known.ITEM
ATTEMPT: Final = known.ATTEMPT
MANAGED_BY: Final = known.MANAGED_BY

MANAGER: Final = "penstock.dev/operator"
"""What `spec.managedBy` of a Job says."""
INPUT_ANNOTATION: Final = "inputs.penstock.dev/"
"""Prefix of the annotations that carry inputs."""
ENDED: Final = "penstock.dev/ended"
"""Annotation of a pod whose attempt is over for the operator, and which the operator had ended after that."""

STEP_CONTAINER: Final = known.STEP_CONTAINER
COLLECTOR_CONTAINER: Final = "collector"
FETCH_CONTAINER: Final = "penstock-fetch"
INPUTS_VOLUME: Final = "penstock-inputs"
VALUES_VOLUME: Final = "penstock-values"
OUTPUTS_VOLUME: Final = "penstock-outputs"
GIVEN_VOLUME: Final = "penstock-given"
"""The values among inputs of which some are files: copied from here to where the files are."""
TRANSFERS_VOLUME: Final = "penstock-transfers"
SCRATCH_VOLUME: Final = "penstock-scratch"

INPUTS_DIR: Final = "/penstock/inputs"
FETCHED_DIR: Final = "/penstock/fetched"
"""The same folder where a supervisor may write to it."""
OUTPUTS_DIR: Final = "/penstock/outputs"
NOWHERE_DIR: Final = "/dev/shm"  # noqa: S108 - every container has one of its own
"""`$PENSTOCK_OUTPUTS` where nobody looks into it: a folder that is there, may be written to and costs no volume."""
VALUES_DIR: Final = "/penstock/values"
GIVEN_DIR: Final = "/penstock/given"
TRANSFERS_DIR: Final = "/penstock/transfers"
PLAN_ENTRY: Final = "plan.json"
"""The plan of transfers: the entry of the Secret, and so the name of the file."""
AUTHORITY_ENTRY: Final = "ca.crt"
"""Beside it the certificates of the store's authority, where it has one of its own."""
SCRATCH_DIR: Final = "/tmp"  # noqa: S108 - of a container whose root is read-only
OUTPUT_FILE: Final = "/penstock/output"
"""`$PENSTOCK_OUTPUT` where it is the termination message."""
COLLECTED_FILE: Final = "/penstock/values/output"
"""`$PENSTOCK_OUTPUT` where a collector reads it."""
MESSAGE_FILE: Final = "/dev/termination-log"
"""The termination message of a container that writes no outputs into it; Kubernetes' own default."""

_LONGEST: Final = 63
_HASH: Final = 10


def object_name(identity: Identity, attempt: AttemptId) -> str:
    """The name of an attempt's Job, Pod, ConfigMap and Secret: the same for the same attempt, another for any other.

    A DNS label of at most 63 characters: execution, step, item and attempt, the long ones shortened, and 50 bits of a
    digest of all of them with the execution's uid.
    """
    whole = f"{identity.uid}/{attempt.step}/{attempt.index}/{attempt.attempt}"
    digest = base64.b32encode(hashlib.sha256(whole.encode()).digest()).decode().lower()[:_HASH]
    item = f"-{attempt.index}" if attempt.index >= 0 else ""
    tail = f"{item}-{attempt.attempt}-{digest}"
    room = _LONGEST - len(tail) - 1
    # Each of the two gets half, and what the other leaves.
    step = attempt.step[: max(room // 2, room - len(identity.name))].rstrip("-")
    execution = identity.name[: room - len(step)].replace(".", "-").strip("-")
    return f"{execution}-{step}{tail}"


def labels(identity: Identity, attempt: AttemptId, pipeline: str) -> dict[str, str]:
    """The labels of everything that belongs to an attempt.

    Args:
        identity: the execution.
        attempt: which attempt.
        pipeline: name of the pipeline; empty for an execution with a pipeline of its own.
    """
    found = {
        MANAGED_BY: "penstock",
        EXECUTION: identity.name,
        EXECUTION_UID: identity.uid,
        STEP: attempt.step,
        ATTEMPT: str(attempt.attempt),
    }
    if attempt.index >= 0:
        found[ITEM] = str(attempt.index)
    if pipeline:
        found[PIPELINE] = pipeline
    return found


def attempt_of(found: dict[str, str]) -> AttemptId | None:
    """The attempt that an object with these labels belongs to; None if it is not one of ours."""
    try:
        return AttemptId(found[STEP], int(found.get(ITEM, "-1")), int(found[ATTEMPT]))
    except (KeyError, ValueError):
        return None


def input_annotation(name: str, position: int) -> str:
    """The annotation that carries an input.

    Names of inputs may begin and end in ways that keys of annotations may not; those are named by their position, with
    a dot, which no input's name has.
    """
    usable = name[0].isalnum() and name[-1].isalnum()
    return INPUT_ANNOTATION + (name if usable else f"input.{position}")
