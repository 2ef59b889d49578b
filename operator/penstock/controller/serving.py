"""What a gateway needs of the world to serve endpoints. `local` and `kube` each implement `Backend`.

Objects travel as plain JSON, as `kubectl get -o json` shows them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from penstock.api.deployment import DeploymentSpec
from penstock.api.execution import FINISHED
from penstock.engine.status import from_timestamp

if TYPE_CHECKING:
    from penstock.api.base import PipelineRef
    from penstock.api.pipeline import PipelineSpec
    from penstock.step.values import JsonObject


class Taken(Exception):  # noqa: N818 - a fact
    """There is an execution with this name already."""


class Unavailable(Exception):  # noqa: N818 - a state
    """What is behind the gateway does not answer now; the message is for people."""


class Refused(Exception):  # noqa: N818 - an answer
    """What is behind the gateway does not take an object: a quota, an admission rule; the message is for people."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What is known of a token of an endpoint.

    Attributes:
        sha256: its SHA-256, hexadecimal. Tokens have 256 random bits: a digest tells nothing about them.
        until: when it ends to be valid, in seconds since the epoch; None: never.
    """

    sha256: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A deployment with an endpoint.

    Attributes:
        namespace: where it is.
        name: its name.
        uid: its uid.
        spec: what it says.
        tokens: the tokens that open it.
        problem: why it cannot start executions; empty: it can.
    """

    namespace: str
    name: str
    uid: str
    spec: DeploymentSpec
    tokens: tuple[Digest, ...] = ()
    problem: str = ""


def matches(token: str, digests: Iterable[Digest], now: float) -> bool:
    """Whether a token is one of those of which these are the digests; all of them are compared in any case."""
    given = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
    found = False
    for digest in digests:
        same = hmac.compare_digest(given, digest.sha256)
        found = found or (same and (digest.until is None or now < digest.until))
    return found


def served(body: JsonObject) -> Served:
    """A deployment as a gateway sees it.

    Args:
        body: the object, whose spec is valid.

    Raises:
        pydantic.ValidationError: its spec is not one that this version understands.
    """
    meta, status = body["metadata"], body.get("status") or {}
    digests = (status.get("endpoint") or {}).get("tokens") or ()
    return Served(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        spec=DeploymentSpec.model_validate(body["spec"]),
        tokens=tuple(
            Digest(each["sha256"], from_timestamp(each["until"]) if each.get("until") else None) for each in digests
        ),
        problem=_problem(meta, status),
    )


def _problem(meta: JsonObject, status: JsonObject) -> str:
    ready = next((each for each in status.get("conditions") or () if each["type"] == "Ready"), None)
    if ready is None:
        return "the operator has not read it yet"
    if ready["status"] == "False" and ready.get("observedGeneration", meta.get("generation")) == meta.get("generation"):
        return str(ready.get("message") or ready["reason"])
    return ""


def finished(body: JsonObject) -> bool:
    """Whether an execution is over."""
    return (body.get("status") or {}).get("phase") in FINISHED


@dataclass(frozen=True, slots=True)
class Look:
    """An execution as somebody who waited for it sees it.

    Attributes:
        there: whether there is such an execution.
        body: the object; None where it is known to be under way and nothing more is.
    """

    there: bool
    body: JsonObject | None = None

    @property
    def over(self) -> bool:
        """Whether it has finished, and `body` is how."""
        return self.body is not None and finished(self.body)


class Backend(Protocol):
    """Deployments with endpoints and their executions. Methods raise `Unavailable` besides what they name."""

    def trouble(self) -> str:
        """Why nothing can be served yet; empty: it can."""

    def endpoint(self, namespace: str, path: str) -> Served | None:
        """The deployment whose endpoint has this path; of several, the oldest."""

    def deployment(self, namespace: str, name: str) -> Served | None:
        """The deployment with this name, if it has an endpoint."""

    async def pipeline(self, namespace: str, reference: PipelineRef) -> PipelineSpec | None:
        """A pipeline as it is now, or the revision that is named; None: there is none."""

    async def config(self, namespace: str, keys: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """Values of keys of ConfigMaps, each named by map and key; those that are not there are left out."""

    async def create(self, body: JsonObject) -> JsonObject:
        """Create an execution; gives it as it is stored.

        Raises:
            Taken: there is one with its name.
            Refused: it is not taken.
        """

    async def execution(self, namespace: str, name: str) -> JsonObject | None:
        """An execution as it is now; None: there is none."""

    async def wait(self, namespace: str, name: str, deployment: str | None, seconds: float) -> Look:
        """Wait for the end of an execution.

        Args:
            namespace: where it is.
            name: its name.
            deployment: whose it must be; None: anybody's.
            seconds: how long to wait at most; 0: not at all.
        """

    def release(self) -> None:
        """Let everybody go who waits, and nobody wait from now on: this process is about to end."""
