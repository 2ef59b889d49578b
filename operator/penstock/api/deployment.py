"""The Deployment kind: a standing rule that starts executions, on a schedule or on an HTTP call."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

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


class CatchUp(StrEnum):
    """What to do about times that were missed."""

    NONE = "None"
    LAST = "Last"
    ALL = "All"


class Schedule(Model):
    """Starts executions at times."""

    cron: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    """Five cron fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`."""
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "UTC"
    """Name of an IANA time zone, for example `Europe/Paris`."""
    catch_up: CatchUp = CatchUp.NONE
    """Which missed times are made up for."""
    starting_deadline_seconds: Seconds | None = None
    """A time that was missed by more than this many seconds is not made up for."""


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
    required: bool = True
    """Whether the caller must give it."""
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


class DeploymentStatus(Model):
    """What the operator knows of a deployment."""

    observed_generation: int | None = None
    """The generation that this status was computed from."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra={"x-list": "type"})] = []
    """`Ready`: whether it can start executions."""
    active: Count | None = None
    """Executions that run."""
    last_time: Timestamp | None = None
    """When an execution was last started."""
    next_time: Timestamp | None = None
    """When the next one is due."""
    summary: Text | None = None
    """The rule as a sentence."""
    url: ShortText | None = None
    """Address of the endpoint."""
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
