"""The Pipeline kind: a named graph of steps with typed inputs and outputs.

Fields, types, bounds and their descriptions (which become `kubectl explain`). Rules that span fields are in `rules`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from penstock.api.base import (
    API_VERSION,
    MAX_FINALLY,
    MAX_ITEMS,
    MAX_SCRIPT,
    MAX_STEPS,
    MAX_VALUES,
    Argument,
    Condition,
    Count,
    Delay,
    Expression,
    Json,
    Metadata,
    Model,
    ReferenceName,
    Seconds,
    ShortText,
    StepName,
    Text,
    ValueName,
    ValueType,
)

Image = Annotated[str, StringConstraints(min_length=1, max_length=1_024)]
Positive = Annotated[int, Field(ge=1, le=100_000)]
MaxBytes = Annotated[int, Field(ge=1, le=1_048_576)]
Quantity = Annotated[
    int | Annotated[str, StringConstraints(max_length=64)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
EnvName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")]
Command = Annotated[list[Argument], Field(max_length=1_000)]


class RetryReason(StrEnum):
    """Reasons of a failed attempt that a retry policy may name."""

    STEP_FAILED = "StepFailed"
    STEP_ERROR = "StepError"
    TIMED_OUT = "TimedOut"
    INVALID_OUTPUTS = "InvalidOutputs"


RetryReasons = Annotated[list[RetryReason], Field(min_length=1, max_length=4, json_schema_extra={"x-list": "set"})]


class Retry(Model):
    """When and how often a failed step is tried again. Disruptions are retried apart from it."""

    limit: Annotated[int, Field(ge=0, le=1_000)]
    """How many times to try again after the first attempt."""
    delay_seconds: Delay = 0
    """Wait before the first retry, in seconds."""
    factor: Annotated[int, Field(ge=1, le=100)] = 1
    """Each further wait is the one before times this factor."""
    max_delay_seconds: Delay | None = None
    """Upper bound of one wait, in seconds."""
    max_total_seconds: Seconds | None = None
    """No retry is started later than this many seconds after the first attempt was started."""
    reasons: (
        Annotated[list[RetryReason], Field(min_length=1, max_length=4, json_schema_extra={"x-list": "set"})] | None
    ) = None
    """Which reasons to retry on; all of them where it is not given."""


class PipelineInput(Model):
    """Declares one input of a pipeline."""

    name: ValueName
    """Name of the input; `inputs.<name>` in expressions, dashes written as underscores."""
    type: ValueType
    """Type of the input."""
    description: Text | None = None
    """What it is for, shown to callers."""
    required: bool | None = None
    """Whether an execution must give it; by default it must if there is no `default`."""
    default: Json | None = None
    """Value where an execution gives none. Not for files."""
    max_bytes: MaxBytes | None = None
    """For a string: its longest UTF-8 encoding, in bytes."""


class PipelineOutput(Model):
    """Declares one output of a pipeline."""

    name: ValueName
    """Name of the output."""
    type: ValueType
    """Type of the output."""
    description: Text | None = None
    """What it is, shown to callers."""
    from_: Expression = Field(alias="from")
    """CEL expression that gives the output, for example `steps.train.outputs.accuracy`."""
    default: Json | None = None
    """Value for when a step that `from` refers to was skipped; without one the execution fails in that case."""


class StepInput(Model):
    """Binds one input of a step: either a literal `value` or an expression `from`."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["value", "from"]})

    name: ValueName
    """Name under which the step sees it: file `$PENSTOCK_INPUTS/<name>`, variable `INPUT_<NAME>`."""
    value: Json | None = None
    """A literal of any JSON type."""
    from_: Expression | None = Field(default=None, alias="from")
    """CEL expression, for example `inputs.rows` or `steps.prepare.outputs.table`."""
    default: Json | None = None
    """Value for when a step that `from` refers to was skipped; without one this step is skipped too."""


class StepOutput(Model):
    """Declares one output of a step."""

    name: ValueName
    """Name the step writes it under: a line in `$PENSTOCK_OUTPUT`, or for a file `$PENSTOCK_OUTPUTS/<name>`."""
    type: ValueType
    """Type of the output; what the step writes is checked against it."""
    description: Text | None = None
    """What it is."""
    max_bytes: MaxBytes | None = None
    """For a string: its longest UTF-8 encoding, in bytes. Small outputs travel faster."""


class KeyRef(Model):
    """Names one key of a ConfigMap or Secret."""

    name: ReferenceName
    """Name of the object."""
    key: ShortText
    """Key in its data."""
    optional: bool = False
    """Whether the object or key may be missing."""


class EnvSource(Model):
    """Where an environment variable's value comes from; exactly one field."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["secretKeyRef", "configMapKeyRef"]})

    secret_key_ref: KeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""


class EnvVar(Model):
    """One environment variable of a step."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["value", "valueFrom"]})

    name: EnvName
    """Name of the variable."""
    value: Annotated[str, StringConstraints(max_length=131_072)] | None = None
    """Its value."""
    value_from: EnvSource | None = None
    """Where its value comes from."""


class ObjectRef(Model):
    """Names a ConfigMap or Secret."""

    name: ReferenceName
    """Name of the object."""
    optional: bool = False
    """Whether it may be missing."""


class EnvFrom(Model):
    """Environment variables from all keys of a ConfigMap or Secret; exactly one of the two."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["configMapRef", "secretRef"]})

    prefix: ShortText | None = None
    """Put in front of each key."""
    config_map_ref: ObjectRef | None = None
    """The ConfigMap."""
    secret_ref: ObjectRef | None = None
    """The Secret."""


class Resources(Model):
    """Compute resources of a step's container, as Kubernetes has them."""

    requests: Annotated[dict[str, Quantity], Field(max_length=32)] | None = None
    """What the step is guaranteed, for example `{cpu: 500m, memory: 1Gi}`."""
    limits: Annotated[dict[str, Quantity], Field(max_length=32)] | None = None
    """What the step may use at most."""


class MatrixAxis(Model):
    """One axis of a matrix: literal `items`, or a list from an expression."""

    model_config = ConfigDict(json_schema_extra={"x-one-of": ["items", "from"]})

    name: ValueName
    """Name of the axis; `item.<name>` in expressions."""
    items: Annotated[list[Json], Field(max_length=MAX_ITEMS)] | None = None
    """Its values."""
    from_: Expression | None = Field(default=None, alias="from")
    """CEL expression that gives the list of values."""


Combination = Annotated[dict[str, Json], Field(min_length=1, max_length=32)]


class ForEach(Model):
    """Runs a step once for each item. Exactly one of `items`, `from` and `matrix`."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-one-of": ["items", "from", "matrix"],
            "x-needs": {"include": "matrix", "exclude": "matrix"},
        }
    )

    items: Annotated[list[Json], Field(max_length=MAX_ITEMS)] | None = None
    """A literal list."""
    from_: Expression | None = Field(default=None, alias="from")
    """CEL expression that gives the list, for example `inputs.regions`."""
    matrix: (
        Annotated[list[MatrixAxis], Field(min_length=1, max_length=16, json_schema_extra={"x-list": "name"})] | None
    ) = None
    """Axes whose product gives the items, each a map from axis to value."""
    include: Annotated[list[Combination], Field(max_length=MAX_ITEMS)] | None = None
    """Combinations added to the matrix, merged as GitHub Actions does."""
    exclude: Annotated[list[Combination], Field(max_length=MAX_ITEMS)] | None = None
    """Combinations taken out of the matrix; a partial one takes out all that match it."""
    max_parallel: Positive | None = None
    """How many items may run at once."""


class Cache(Model):
    """Reuses the outputs of an earlier success of the same step with the same fingerprint."""

    key: Expression | None = None
    """CEL expression whose value is made part of the fingerprint."""
    ttl_seconds: Seconds | None = None
    """How old a reused success may be, in seconds; for ever where it is not given."""


class OnFailure(StrEnum):
    """What a step's failure means for its execution."""

    FAIL = "Fail"
    CONTINUE = "Continue"


class FailurePolicy(StrEnum):
    """What happens to running steps when a step has failed."""

    FAIL_FAST = "FailFast"
    FINISH_RUNNING = "FinishRunning"


class StepSettings(Model):
    """What a step has and `spec.defaults` may set for all steps."""

    image: Image | None = None
    """Container image."""
    retry: Retry | None = None
    """When to try again."""
    timeout_seconds: Seconds | None = None
    """How long one attempt may take, in seconds."""
    resources: Resources | None = None
    """Compute resources."""
    env: Annotated[list[EnvVar], Field(max_length=500, json_schema_extra={"x-list": "name"})] | None = None
    """Environment variables."""
    env_from: Annotated[list[EnvFrom], Field(max_length=50, json_schema_extra={"x-list": "atomic"})] | None = None
    """Environment variables from ConfigMaps and Secrets."""
    pod_template: dict[str, Any] | None = Field(default=None, json_schema_extra={"x-open": True})
    """A pod template (`metadata` and `spec`) that is merged under what Penstock sets."""


class Step(StepSettings):
    """One container of a pipeline. What runs is `command`/`args`, or `script`, or `function`."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-excludes": {
                "script": ["command", "args", "function"],
                "function": ["command", "args"],
                "imageFrom": ["image"],
            },
            "x-needs": {"shell": "script"},
        }
    )

    name: StepName
    """Name of the step; `steps.<name>` in expressions, dashes written as underscores."""
    description: Text | None = None
    """What the step does."""
    image_from: Expression | None = None
    """CEL expression that gives the image, instead of `image`."""
    command: Command | None = None
    """The command; the image's own where it is not given."""
    args: Command | None = None
    """Arguments of the command. `$(NAME)` is replaced by the variable NAME."""
    script: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SCRIPT)] | None = None
    """Text that is given to `shell`."""
    shell: Command | None = None
    """What runs `script`; by default `[/bin/sh, -ec]`. `[python, -c]` works as well."""
    function: (
        Annotated[
            str,
            StringConstraints(max_length=512, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$"),
        ]
        | None
    ) = None
    """A Python function `package.module:name`, in an image that has penstock installed."""
    inputs: Annotated[list[StepInput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """What the step gets."""
    outputs: Annotated[list[StepOutput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """What the step gives."""
    depends_on: Annotated[list[StepName], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "set"})] = []
    """Steps to wait for where no data says so."""
    when: Expression | None = None
    """CEL expression; the step is skipped if it is false. One that mentions `steps.<name>.status` or `.exitCode` is
    evaluated once all dependencies have finished, whatever became of them."""
    for_each: ForEach | None = None
    """Runs the step once for each item; each output becomes an array in item order."""
    on_failure: OnFailure = OnFailure.FAIL
    """`Continue`: the execution goes on as if the step had succeeded."""
    cache: Cache | None = None
    """Reuses outputs of an earlier success."""


Steps = Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS, json_schema_extra={"x-list": "name"})]


class PipelineSpec(Model):
    """What a pipeline is."""

    description: Text | None = None
    """What the pipeline does."""
    inputs: Annotated[list[PipelineInput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """What an execution gives it."""
    outputs: Annotated[list[PipelineOutput], Field(max_length=MAX_VALUES, json_schema_extra={"x-list": "name"})] = []
    """What an execution gets from it."""
    defaults: StepSettings | None = None
    """Settings for every step that does not say otherwise."""
    steps: Steps
    """The steps, in any order."""
    finally_: Annotated[list[Step], Field(max_length=MAX_FINALLY, json_schema_extra={"x-list": "name"})] = Field(
        default=[], alias="finally"
    )
    """Steps that run after the others, whatever happened."""
    timeout_seconds: Seconds | None = None
    """How long an execution may take, `finally` not counted, in seconds."""
    finally_timeout_seconds: Seconds = 3600
    """How long the `finally` steps may take together, in seconds."""
    failure_policy: FailurePolicy = FailurePolicy.FAIL_FAST
    """`FailFast` stops running steps when one has failed; `FinishRunning` lets them come to their end."""
    max_parallel: Positive | None = None
    """How many attempts of one execution may run at once."""


class PipelineStatus(Model):
    """What the operator knows of a pipeline."""

    observed_generation: int | None = None
    """The generation that this status was computed from."""
    revision: Count | None = None
    """Number of the newest ready revision."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra={"x-list": "type"})] = []
    """`Ready`: whether the pipeline can run; `Stalled` if it cannot until it is changed, as kstatus has it."""


class Pipeline(Model):
    """A named graph of steps with typed inputs and outputs. Each change makes an immutable revision."""

    api_version: Literal["penstock.dev/v1alpha1"] = API_VERSION
    """Version of the manifest's format."""
    kind: Literal["Pipeline"] = "Pipeline"
    """Kind of the manifest."""
    metadata: Metadata = Metadata()
    """Name, namespace, labels and annotations, as of any Kubernetes object."""
    spec: PipelineSpec
    """What is wanted."""
    status: PipelineStatus | None = None
    """What the operator knows of it; written by the operator alone."""
