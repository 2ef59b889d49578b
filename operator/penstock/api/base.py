"""The building blocks of all three kinds: names, bounds, metadata, conditions, and the model base class.

Nothing here knows of a particular kind.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

GROUP: Final = "penstock.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "penstock.dev/v1alpha1"

MAX_STEPS = 10_000
"""Steps of one pipeline, `finally` steps not counted."""
MAX_FINALLY = 100
MAX_VALUES = 200
"""Inputs or outputs of one pipeline, step or deployment."""
MAX_ITEMS = 1_000
"""Items of one fan-out."""
MAX_EXPRESSION = 4_096
"""Characters of one CEL expression."""
MAX_SCRIPT = 131_072
"""Characters of one script: the kernel's own limit for one argument (MAX_ARG_STRLEN)."""
MAX_SECONDS = 31_622_400
"""A leap year: the longest that any timeout, delay or time to live may be, in seconds."""
MAX_MESSAGE = 4_096

STEP_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
VALUE_NAME = r"^[a-zA-Z_][a-zA-Z0-9_-]*$"
_PATH_PART = r"(\.|\.{3,}|\.*[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*)"
"""Anything but `..`, in words of RE2."""
OBJECT_PATH = rf"^{_PATH_PART}(/{_PATH_PART}?)*$"

StepName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=STEP_NAME)]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=OBJECT_NAME)]
ReferenceName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=OBJECT_NAME)]
ValueName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=VALUE_NAME)]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION)]
Text = Annotated[str, StringConstraints(max_length=MAX_MESSAGE)]
ShortText = Annotated[str, StringConstraints(max_length=253)]
Argument = Annotated[str, StringConstraints(max_length=32_768)]
ObjectPath = Annotated[str, StringConstraints(min_length=1, max_length=1_024, pattern=OBJECT_PATH)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
Delay = Annotated[int, Field(ge=0, le=MAX_SECONDS)]
Count = Annotated[int, Field(ge=0, le=2_147_483_647)]
Timestamp = Annotated[str, StringConstraints(max_length=40), Field(json_schema_extra={"format": "date-time"})]
"""A moment as RFC 3339 text in UTC, as the API server keeps it."""


class ValueType(StrEnum):
    """What a declared input or output holds. All but `file` are values that travel with the objects as JSON."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    JSON = "json"
    ARRAY = "array"
    FILE = "file"


class Model(BaseModel):
    """Base of every manifest model: camelCase in manifests, snake_case in Python, unknown fields refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        alias_generator=to_camel,
        use_attribute_docstrings=True,
        # An attribute called `json` or `schema` never appears; `model_`-prefixed fields do not either.
        ser_json_inf_nan="null",
        defer_build=True,  # a command pays for the kinds that it meets, not for all three
    )

    def manifest(self) -> dict[str, Any]:
        """This object as a manifest writes it: camelCase, fields that were not given left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Metadata(BaseModel):
    """The part of Kubernetes' ObjectMeta that Penstock reads; other fields are kept as they are."""

    model_config = ConfigDict(
        extra="allow", frozen=True, populate_by_name=True, alias_generator=to_camel, use_attribute_docstrings=True
    )

    name: ObjectName | None = None
    """Name, unique in the namespace for the kind."""
    generate_name: Annotated[str, StringConstraints(max_length=58)] | None = None
    """Prefix from which a unique name is made where `name` is not given."""
    namespace: ReferenceName | None = None
    """Namespace; the one of the current context where it is not given."""
    uid: ShortText | None = None
    """Set by the system."""
    generation: int | None = None
    """Set by the system: counts changes of the spec."""
    creation_timestamp: ShortText | None = None
    """Set by the system."""
    labels: Annotated[dict[str, str], Field(max_length=256)] | None = None
    """Labels."""
    annotations: Annotated[dict[str, str], Field(max_length=256)] | None = None
    """Annotations."""


class Condition(Model):
    """One aspect of an object's state, as Kubernetes' own `metav1.Condition`."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=316)]
    """Name of the condition, for example `Ready`."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: Annotated[str, StringConstraints(max_length=1_024)]
    """One CamelCase word for programs."""
    message: Annotated[str, StringConstraints(max_length=32_768)] = ""
    """A sentence for people."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: int | None = None
    """The generation of the spec that this condition was computed from."""


class PipelineRef(Model):
    """Names a pipeline, and one of its revisions where the newest ready one is not meant."""

    name: ObjectName
    """Name of the Pipeline, in the same namespace."""
    revision: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    """Revision number; the newest ready one where it is not given."""


Json = JsonValue
"""Any JSON value: null, boolean, number, string, array or object."""
