"""The Execution kind: one run of one pipeline revision with given inputs.

`status` is the whole memory of a run: the engine can go on from it and from nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from penstock.api.base import (
    API_VERSION,
    MAX_FINALLY,
    MAX_ITEMS,
    MAX_STEPS,
    MAX_VALUES,
    Condition,
    Count,
    Json,
    Metadata,
    Model,
    ObjectPath,
    PipelineRef,
    Seconds,
    ShortText,
    StepName,
    Text,
    Timestamp,
    ValueName,
)
from penstock.api.pipeline import PipelineSpec


class ExecutionPhase(StrEnum):
    """Where an execution stands. `Failed` is the user's code or input, `Error` the platform."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ERROR = "Error"
    CANCELLED = "Cancelled"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self in FINISHED


class StepPhase(StrEnum):
    """Where a step, or one item of a fan-out, stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    RETRYING = "Retrying"
    SUCCEEDED = "Succeeded"
    CACHED = "Cached"
    SKIPPED = "Skipped"
    OMITTED = "Omitted"
    FAILED = "Failed"
    ERROR = "Error"
    CANCELLED = "Cancelled"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self not in _UNFINISHED_STEP

    @property
    def succeeded(self) -> bool:
        """Whether the step has given all its outputs."""
        return self in {StepPhase.SUCCEEDED, StepPhase.CACHED}

    @property
    def failed(self) -> bool:
        """Whether the step itself went wrong (`Failed` or `Error`)."""
        return self in {StepPhase.FAILED, StepPhase.ERROR}


FINISHED = frozenset({ExecutionPhase.SUCCEEDED, ExecutionPhase.FAILED, ExecutionPhase.ERROR, ExecutionPhase.CANCELLED})
"""Phases to which nothing more will happen; their texts are in it too."""
_UNFINISHED_STEP = frozenset({StepPhase.PENDING, StepPhase.RUNNING, StepPhase.RETRYING})


class ExecutionInput(Model):
    """One input of an execution: a `value`, or for a file an `object` of the data store."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["value", "object"]})

    name: ValueName
    """Name of the pipeline's input."""
    value: Json | None = None
    """A literal of any JSON type."""
    object: ObjectPath | None = None
    """Path of an object in the data store, for an input of type `file`."""


class ExecutionOutput(Model):
    """Where one output of the pipeline goes. An output that is not named is kept in the status."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["endpoint", "object", "void"]})

    name: ValueName
    """Name of the pipeline's output."""
    endpoint: ValueName | None = None
    """Name under which the caller of an endpoint gets it."""
    object: ObjectPath | None = None
    """Path in the data store to which the file is published; `{execution_id}`, `{date}` and `{date_time}` are replaced.
    The date is that of the execution's start, in UTC."""
    void: Annotated[bool, Field(json_schema_extra={"enum": [True]})] | None = None
    """True: the output is dropped."""


class ExecutionSpec(Model):
    """What is to be run."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-one-of": ["pipeline", "pipelineSpec"],
            "x-changeable": ["suspend", "cancel", "ttlSecondsAfterFinished"],
            "x-one-way": ["cancel"],
        }
    )

    pipeline: PipelineRef | None = None
    """The pipeline. Exactly one of `pipeline` and `pipelineSpec`."""
    pipeline_spec: PipelineSpec | None = None
    """A pipeline written in place."""
    inputs: Annotated[list[ExecutionInput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """Values for the pipeline's inputs."""
    outputs: Annotated[list[ExecutionOutput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """Where the pipeline's outputs go."""
    suspend: bool = False
    """While true no new attempt is started; what runs goes on."""
    cancel: bool = False
    """Set to true to cancel; cannot be taken back."""
    timeout_seconds: Seconds | None = None
    """How long the execution may take, in seconds; the pipeline's own limit where it is not given."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_622_400)] | None = None
    """The execution is removed this many seconds after it finished."""


class FileRef(Model):
    """A file or folder in the object store."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=1_024)]
    """Where it is in the store."""
    sha256: Annotated[str, StringConstraints(max_length=64)]
    """Digest of its content, hexadecimal; of a folder, of the sorted digests of its entries."""
    size: Annotated[int, Field(ge=0)]
    """Bytes of content in all."""
    folder: bool = False
    """Whether it is a folder."""


class NamedValue(Model):
    """One output: a `value`, or for a file its reference, or for a fan-out of files a list of references."""

    name: ValueName
    """Name of the output."""
    value: Json | None = None
    """The value, of any JSON type."""
    file: FileRef | None = None
    """The file."""
    files: Annotated[list[FileRef | None], Field(max_length=MAX_ITEMS)] | None = None
    """The files of a fan-out in item order; null for an item that was skipped."""


Values = Annotated[list[NamedValue], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})]


class TaskStatus(Model):
    """What is known of the thing that has attempts: a step, or one item of a fan-out."""

    phase: StepPhase = StepPhase.PENDING
    """Where it stands."""
    reason: ShortText | None = None
    """One CamelCase word for programs; the reference lists them."""
    message: Text | None = None
    """A sentence for people."""
    attempts: Count = 0
    """Attempts that were started so far."""
    failures: Count = 0
    """Attempts that failed for a reason that counts against `retry.limit`."""
    disruptions: Count = 0
    """Attempts that the platform ended; they do not count against `retry.limit`."""
    stopping: ShortText | None = None
    """Why the current attempt is being stopped."""
    queued_at: Timestamp | None = None
    """When the first attempt was asked for."""
    started_at: Timestamp | None = None
    """When the current or last attempt began to run."""
    finished_at: Timestamp | None = None
    """When it was over."""
    retry_at: Timestamp | None = None
    """When the next attempt is due."""
    attempt_at: Timestamp | None = None
    """When the current attempt was asked for."""
    exit_code: int | None = None
    """Exit code of the last attempt's command."""
    outputs: Values = []
    """What it gave."""


class ItemStatus(TaskStatus):
    """One item of a fan-out."""

    index: Annotated[int, Field(ge=0, lt=MAX_ITEMS)]
    """Position of the item, from 0."""


class StepStatus(TaskStatus):
    """One step of an execution."""

    name: StepName
    """Name of the step."""
    item_count: Annotated[int, Field(ge=0, le=MAX_ITEMS)] | None = None
    """For a fan-out: how many items it has, once that is known."""
    items_finished: Annotated[int, Field(ge=0, le=MAX_ITEMS)] | None = None
    """For a fan-out: how many items have finished."""
    items: Annotated[list[ItemStatus], Field(max_length=MAX_ITEMS, json_schema_extra={"x-list": "index"})] = []
    """For a fan-out: its items that were started; once it has finished, those that did not succeed."""


class ExecutionStatus(Model):
    """The whole memory of a run."""

    observed_generation: int | None = None
    """The generation that this status was computed from."""
    phase: ExecutionPhase = ExecutionPhase.PENDING
    """Where the execution stands."""
    reason: ShortText | None = None
    """One CamelCase word for programs."""
    message: Text | None = None
    """A sentence for people."""
    revision: ShortText | None = None
    """The revision of the pipeline that is run, for example `iris-3`."""
    progress: ShortText | None = None
    """Finished and all steps, for example `3/5`."""
    started_at: Timestamp | None = None
    """When it began."""
    finished_at: Timestamp | None = None
    """When it was over."""
    duration: ShortText | None = None
    """How long it took, for people, for example `3m05s`; once it has finished."""
    suspended_at: Timestamp | None = None
    """Since when it is suspended."""
    suspended_milliseconds: Annotated[int, Field(ge=0)] = 0
    """How long it was suspended before; such time does not count towards the timeout."""
    finally_at: Timestamp | None = None
    """When its `finally` steps began."""
    outcome: ShortText | None = None
    """How the main steps ended, which the `finally` steps see as `execution.status`."""
    stopping: ShortText | None = None
    """Why its steps are being ended."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra={"x-list": "type"})] = []
    """`Complete`: whether it is over, and why. `Ready`: whether it succeeded, unknown until it is over; `Reconciling`
    while it is under way, and `Stalled` if it ended in another way, as kstatus has them."""
    steps: Annotated[
        list[StepStatus], Field(max_length=MAX_STEPS + MAX_FINALLY, json_schema_extra={"x-list": "name"})
    ] = []
    """The steps."""
    outputs: Values = []
    """What the pipeline gave."""


class Execution(Model):
    """One run of one pipeline revision with given inputs."""

    api_version: Literal["penstock.dev/v1alpha1"] = API_VERSION
    """Version of the manifest's format."""
    kind: Literal["Execution"] = "Execution"
    """Kind of the manifest."""
    metadata: Metadata = Metadata()
    """Name, namespace, labels and annotations, as of any Kubernetes object."""
    spec: ExecutionSpec
    """What is wanted."""
    status: ExecutionStatus | None = None
    """What the operator knows of it; written by the operator alone."""
