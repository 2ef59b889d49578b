"""What a gateway can be told about endpoints: one model, read from the environment, documented by its own fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from penstock.engine.types import Limits
from penstock.gateway.service import Settings
from penstock.kube.settings import PREFIX, BadSettings


class GatewaySettings(BaseModel):
    """Settings of the gateway; each is the environment variable of the same name in capitals after `PENSTOCK_`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    namespaces: Annotated[tuple[str, ...], Field(max_length=1_000)] = ()
    """Namespaces whose endpoints are served, separated by commas; empty: all. The operator's are the same."""
    input_bytes: Annotated[int, Field(ge=1, le=1_048_576)] = 60_000
    """Bound of the values of a call, in bytes of JSON; files do not count."""
    max_call_bytes: Annotated[int, Field(ge=65_536, le=5 << 40)] = 5 << 30
    """How large a call of an endpoint may be in all, its files included."""
    call_rate: Annotated[float, Field(ge=0, le=100_000)] = 200
    """Calls that each endpoint takes in a second from each replica of the gateway; 0: any number."""
    call_burst: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Calls that each endpoint takes at once, before that rate counts."""
    public_url: Annotated[str, Field(pattern=r"^(https?://[^\s?#]+)?$")] = ""
    """Address of the gateway as callers know it, for links in answers; empty: the one by which they ask."""
    drain_seconds: Annotated[float, Field(ge=0, le=300)] = 5
    """How long the gateway goes on serving after SIGTERM, while it says that it is not ready."""

    def service(self) -> Settings:
        """What the service needs of it."""
        return Settings(
            max_call_bytes=self.max_call_bytes,
            rate=self.call_rate,
            burst=self.call_burst,
            limits=Limits(input_bytes=self.input_bytes),
            public_url=self.public_url.rstrip("/"),
        )


def from_environment(environ: Mapping[str, str]) -> GatewaySettings:
    """The settings that an environment asks for.

    Raises:
        BadSettings: with everything that is wrong.
    """
    given: dict[str, Any] = {}
    for name in GatewaySettings.model_fields:
        text = environ.get(PREFIX + name.upper())
        if text:
            given[name] = tuple(part.strip() for part in text.split(",")) if name == "namespaces" else text
    try:
        return GatewaySettings.model_validate(given)
    except ValidationError as error:
        lines = [
            f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}, got {each['input']!r}" for each in error.errors()
        ]
        raise BadSettings("\n".join(lines)) from None
