"""What an operator can be told: one model, read from the environment, documented by its own fields."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "PENSTOCK_"


class Jobs(StrEnum):
    """Who looks after the Jobs of attempts."""

    MANAGED = "managed"
    ORDINARY = "ordinary"


class Collector(StrEnum):
    """How the container that collects outputs learns that the step is over."""

    SHARED_PID = "sharedPid"
    SIDECAR = "sidecar"


class LogFormat(StrEnum):
    """How log lines are written."""

    JSON = "json"
    TEXT = "text"


class Events(StrEnum):
    """Which Events are written for people."""

    ALL = "all"
    WARNINGS = "warnings"
    NONE = "none"


class OperatorSettings(BaseModel):
    """Settings of the operator; each is the environment variable of the same name in capitals after `PENSTOCK_`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    namespaces: Annotated[tuple[str, ...], Field(max_length=1_000)] = ()
    """Namespaces to look after, separated by commas; empty: the whole cluster."""
    lease_namespace: str = "default"
    """Namespace of the Lease that the replicas compete for."""
    lease_name: str = "penstock-operator"
    """Name of that Lease."""
    identity: str = ""
    """Name of this replica in the Lease; the host's name where it is empty."""
    jobs: Jobs = Jobs.MANAGED
    """`managed`: Penstock creates the pods of its Jobs (Kubernetes 1.32 on). `ordinary`: the Job controller does."""
    collector: Collector = Collector.SHARED_PID
    """`sharedPid`: a second container that sees the step's processes. `sidecar`: a native sidecar, about 3 s slower."""
    collector_image: str = ""
    """Image of the collector; needed by steps whose outputs do not fit a termination message."""
    run_as_user: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """User of steps whose `podTemplate` names none; 0: the image's own, or 65532 where that may be root."""
    input_bytes: Annotated[int, Field(ge=1, le=1_048_576)] = 60_000
    """Bound of the values into an execution, in bytes of JSON."""
    output_bytes: Annotated[int, Field(ge=1, le=1_048_576)] = 60_000
    """Bound of the values out of an execution, in bytes of JSON."""
    files_size_limit: Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?([EPTGMk]|[EPTGMK]i)?)?$")] = ""
    """Bound of each volume for the files of a step, such as `20Gi`; empty: only the node's disk bounds it."""
    transfer_patience_seconds: Annotated[int, Field(ge=10, le=86_400)] = 600
    """How long files of a step may wait for an object store that does not answer, before the step fails."""
    sweep_seconds: Annotated[int, Field(ge=5, le=604_800)] = 3_600
    """How often the object store is swept: objects of executions that are gone go."""
    cache_seconds: Annotated[int, Field(ge=86_400, le=315_360_000)] = 2_592_000
    """How long what a step's cache remembers is kept unused."""
    max_parallel_requests: Annotated[int, Field(ge=1, le=1_000)] = 32
    """Writes to the API server that may be under way at once."""
    workers: Annotated[int, Field(ge=1, le=1_000)] = 32
    """Executions that are worked on at once."""
    resync_seconds: Annotated[int, Field(ge=5, le=86_400)] = 300
    """How often everything is listed and compared, for events that never came."""
    revision_limit: Annotated[int, Field(ge=1, le=1_000)] = 10
    """Revisions of each pipeline that are kept besides those in use."""
    history_url: str = ""
    """Where executions are recorded before they go: `postgresql://USER:PASSWORD@HOST/NAME` or `sqlite:////FILE`."""
    events: Events = Events.WARNINGS
    """Kubernetes Events: `warnings` (what goes wrong), `all` (starts and ends of executions too), or `none`."""
    public_url: Annotated[str, Field(max_length=500, pattern=r"^(https?://[^\s/]+(/\S*)?)?$")] = ""
    """Address of the gateway as callers know it, for the addresses of endpoints in statuses; empty: none is shown."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    """Port of /healthz, /readyz and /metrics; 0: none."""
    log_format: LogFormat = LogFormat.JSON
    """`json` or `text`."""
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`."""


class BadSettings(ValueError):  # noqa: N818 - a fact about the environment
    """Environment variables that cannot be used; the message names each and says what is wrong."""


def from_environment(environ: Mapping[str, str]) -> OperatorSettings:
    """The settings that an environment asks for.

    Raises:
        BadSettings: with everything that is wrong.
    """
    given: dict[str, Any] = {}
    for name in OperatorSettings.model_fields:
        text = environ.get(PREFIX + name.upper())
        if text is not None and text != "":
            given[name] = tuple(part.strip() for part in text.split(",")) if name == "namespaces" else text
    try:
        return OperatorSettings.model_validate(given)
    except ValidationError as error:
        lines = [
            f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}, got {each['input']!r}" for each in error.errors()
        ]
        raise BadSettings("\n".join(lines)) from None
