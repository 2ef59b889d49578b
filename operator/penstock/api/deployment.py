"""The Deployment kind: a standing rule that starts executions, on a schedule or on an HTTP call."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from penstock.api.base import (
    API_VERSION,
    MAX_VALUES,
    Condition,
    Count,
    Json,
    Metadata,
    Model,
    ObjectName,
    ObjectPath,
    PipelineRef,
    ReferenceName,
    Seconds,
    ShortText,
    Text,
    Timestamp,
    ValueName,
)
from penstock.api.pipeline import KeyRef

ON_TIME_SECONDS: Final = 120
"""A time of a schedule that is late by no more than this is on time: a restart or a new leader costs no execution."""
MAX_CATCH_UP: Final = 100
"""Executions that one schedule starts at once at most, the newest of those that are due."""


class CatchUp(StrEnum):
    """What to do about times that were missed: that passed more than 120 seconds ago and were not seen to."""

    NONE = "None"
    """Drop them."""
    LAST = "Last"
    """Make up for the newest one, unless a later time is on time."""
    ALL = "All"
    """Make up for all, the newest 100 at most."""


class Skipped(StrEnum):
    """What to do at times that a change of the clocks leaves out."""

    RUN_AFTER = "RunAfter"
    SKIP = "Skip"


class Repeated(StrEnum):
    """What to do at times that a change of the clocks brings twice."""

    ONCE = "Once"
    TWICE = "Twice"


class DaylightSaving(Model):
    """What the changes of the clocks mean for times that the expression names, such as `30 2 * * *`.

    What runs in every hour (`*/5 * * * *`, `@hourly`) follows the clock instead: in real time nothing is left out and
    nothing comes double. So does a minute with `*` in a repeated hour (`*/10 1-4 * * *` runs in both passes).
    """

    skipped: Skipped = Skipped.RUN_AFTER
    """A time that does not exist on this day: `RunAfter` runs once at the end of the skipped hour, `Skip` not at all.
    An expression for every hour needs neither: its next hour comes at once."""
    repeated: Repeated = Repeated.ONCE
    """A time that comes twice on this day: `Once` runs the first time, `Twice` both times."""


class Schedule(Model):
    """Starts executions at times.

    A time that is late by at most 120 seconds is on time: it starts whatever `catchUp` says. Times before the schedule
    was last edited, and times while the deployment was suspended, are not made up for.
    """

    cron: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    """Five cron fields (minute, hour, day of month, month, day of week) with `*`, `*/n`, lists, ranges, ranges with a
    step, `jan`-`dec` and `sun`-`sat`; or `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`,
    `@annually`. Where both fields of days are given, a day that fits one of them is enough."""
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "UTC"
    """Name of an IANA time zone, for example `Europe/Paris`."""
    daylight_saving: DaylightSaving = DaylightSaving()
    """What happens where the clocks change."""
    catch_up: CatchUp = CatchUp.NONE
    """Which missed times are made up for: none, the last, or all (the newest 100)."""
    starting_deadline_seconds: Seconds | None = None
    """A time that is late by more than this many seconds is dropped, whatever `catchUp` says."""


class Endpoint(Model):
    """Starts executions on HTTP calls."""

    path: Annotated[
        str, StringConstraints(min_length=1, max_length=200, pattern=r"^[a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?$")
    ]
    """Last part of the address: `POST …/endpoints/<path>`."""
    token_secret: ReferenceName | None = None
    """A Secret with the key `token`; one is made where it is not given."""


class EndpointValue(Model):
    """A value or file that the caller of an endpoint gives."""

    name: ValueName
    """Its name in the call."""
    required: bool | None = None
    """Whether the caller must give it; by default it must if neither this binding nor the pipeline has a default and
    the pipeline requires the input."""
    default: Json | None = None
    """Value where the caller gives none."""


class DeploymentInput(Model):
    """Binds one input of the pipeline to exactly one source."""

    model_config = ConfigDict(
        json_schema_extra={"x-one-of": ["value", "endpoint", "configMapKeyRef", "object", "void"]}
    )

    name: ValueName
    """Name of the pipeline's input."""
    value: Json | None = None
    """A constant."""
    endpoint: EndpointValue | None = None
    """What the caller gives."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap in the same namespace."""
    object: ObjectPath | None = None
    """An object of the data store."""
    void: Annotated[bool, Field(json_schema_extra={"enum": [True]})] | None = None
    """True: the input is left to its default or to nothing."""


class DeploymentOutput(Model):
    """Binds one output of the pipeline to exactly one destination."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["endpoint", "object", "void"]})

    name: ValueName
    """Name of the pipeline's output."""
    endpoint: ValueName | None = None
    """Name under which the caller gets it."""
    object: ObjectPath | None = None
    """Path in the data store; `{execution_id}`, `{date}` and `{date_time}` are replaced."""
    void: Annotated[bool, Field(json_schema_extra={"enum": [True]})] | None = None
    """True: the output is not handed on."""


class ConcurrencyPolicy(StrEnum):
    """What happens when an execution is due while earlier ones still run."""

    ALLOW = "Allow"
    FORBID = "Forbid"
    REPLACE = "Replace"
    QUEUE = "Queue"


class Concurrency(Model):
    """How executions of one deployment share time."""

    policy: ConcurrencyPolicy = ConcurrencyPolicy.ALLOW
    """What happens to an execution that is due when the limit is reached."""
    limit: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """How many may run at once; 1 where it is not given and the policy is not `Allow`."""


class History(Model):
    """How many finished executions are kept as objects."""

    succeeded: Annotated[int, Field(ge=0, le=10_000)] = 3
    """Succeeded ones."""
    failed: Annotated[int, Field(ge=0, le=10_000)] = 1
    """Others."""


class DeploymentSpec(Model):
    """What starts an execution, and with what."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["schedule", "endpoint"]})

    pipeline: PipelineRef
    """The pipeline to run."""
    schedule: Schedule | None = None
    """Times. Exactly one of `schedule` and `endpoint`."""
    endpoint: Endpoint | None = None
    """An HTTP endpoint."""
    inputs: Annotated[list[DeploymentInput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """Where the pipeline's inputs come from."""
    outputs: Annotated[list[DeploymentOutput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """Where the pipeline's outputs go."""
    suspend: bool = False
    """While true nothing is started."""
    concurrency: Concurrency = Concurrency()
    """How executions share time."""
    history: History = History()
    """How many finished executions are kept."""


class ScheduleMark(Model):
    """How far a schedule has been seen to."""

    key: ShortText
    """Digest of the schedule that this is about; another one means that it was edited."""
    through: Timestamp
    """Every time up to this moment was started or dropped."""


class TokenDigest(Model):
    """What is known of a token that opens an endpoint. The token itself is in a Secret and nowhere else."""

    sha256: Annotated[str, StringConstraints(min_length=64, max_length=64)]
    """Its SHA-256, hexadecimal. A token has 256 random bits, so that this tells nothing about it."""
    until: Timestamp | None = None
    """When it ends to be valid; without it, it does not."""


class EndpointStatus(Model):
    """Who may call an endpoint."""

    token_secret: ReferenceName
    """The Secret whose key `token` holds the token."""
    tokens: Annotated[list[TokenDigest], Field(max_length=16, json_schema_extra={"x-list": "sha256"})] = []
    """The tokens that are valid, the newest first."""
    rotation: ShortText | None = None
    """The value of the annotation `penstock.dev/rotate-token` that was last followed."""


class DeploymentStatus(Model):
    """What the operator knows of a deployment."""

    observed_generation: int | None = None
    """The generation that this status was computed from."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra={"x-list": "type"})] = []
    """`Ready`: whether it can start executions; `Reconciling` while it waits for its pipeline, and `Stalled` while
    somebody has to change something, as kstatus has them."""
    active: Count | None = None
    """Executions that run."""
    waiting: Count | None = None
    """Executions that wait for others to end, with policy `Queue`."""
    last_time: Timestamp | None = None
    """When an execution was last started."""
    next_time: Timestamp | None = None
    """When the next one is due."""
    schedule: ScheduleMark | None = None
    """How far the schedule has been seen to."""
    summary: Text | None = None
    """The rule as a sentence."""
    url: Annotated[str, StringConstraints(max_length=1_024)] | None = None
    """Address of the endpoint."""
    endpoint: EndpointStatus | None = None
    """Who may call the endpoint."""
    last_execution: ObjectName | None = None
    """Name of the execution started last."""


class Deployment(Model):
    """A standing rule that starts executions: `schedule` or `endpoint`."""

    api_version: Literal["penstock.dev/v1alpha1"] = API_VERSION
    """Version of the manifest's format."""
    kind: Literal["Deployment"] = "Deployment"
    """Kind of the manifest."""
    metadata: Metadata = Metadata()
    """Name, namespace, labels and annotations, as of any Kubernetes object."""
    spec: DeploymentSpec
    """What is wanted."""
    status: DeploymentStatus | None = None
    """What the operator knows of it; written by the operator alone."""
