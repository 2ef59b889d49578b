"""Tokens of endpoints: made, brought along and rotated. A token is in a Secret; what is kept of it is its digest.

A rotation first announces the digest of the new token, then puts the token where its owner finds it, and then gives the
old one its end: at no moment is a token refused that somebody has been given.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.api.deployment import DeploymentSpec
from penstock.controller.ports import Deployments, Refused, StoredDeployment
from penstock.engine.status import from_timestamp, to_timestamp
from penstock.step.values import JsonObject

ROTATE_ANNOTATION: Final = "penstock.dev/rotate-token"
"""A new value of it asks for a new token."""
OVERLAP_ANNOTATION: Final = "penstock.dev/rotation-overlap"
"""How long the old token is valid then: `90s`, `30m`, `1h`, `2d`, or seconds."""
DEFAULT_OVERLAP: Final = 3_600
LEAST_CHARACTERS: Final = 43
"""Of a token that is brought along: 256 bits as URL-safe base64."""
_BYTES: Final = 32
_KEPT: Final = 16
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_OVERLAP: Final = re.compile(r"([0-9]{1,8})([smhd]?)")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call an endpoint.

    Attributes:
        status: what the deployment's status says of it; None: nothing yet.
        problem: why nobody may call it; empty: those with a token may.
        note: what people should know all the same.
        wake_at: when a token ends.
    """

    status: JsonObject | None
    problem: str = ""
    note: str = ""
    wake_at: float | None = None


def overlap_seconds(text: str) -> int:
    """How long an old token stays valid.

    Raises:
        ValueError: the message names what is wanted.
    """
    found = _OVERLAP.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no length of time: write for example 30m, 1h, 2d, or 0")
    return int(found[1]) * _UNITS[found[2]]


def token_secret(deployment: str) -> str:
    """Name of the Secret that is made for a deployment's token."""
    return f"{deployment}-endpoint-token"


class Tokens:
    """Looks after the tokens of endpoints.

    Args:
        deployments: where they are stored.
    """

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._read: set[str] = set()

    async def access(self, key: str, stored: StoredDeployment, spec: DeploymentSpec, now: float) -> Access:
        """Make, read or rotate the token of a deployment with an endpoint, if that is due.

        Raises:
            Conflict, Transient: as the ports say.
        """
        assert spec.endpoint is not None  # noqa: S101 - for mypy
        told: Mapping[str, Any] = stored.status.get("endpoint") or {}
        brought = spec.endpoint.token_secret
        secret = brought or token_secret(stored.name)
        asked = stored.annotations.get(ROTATE_ANNOTATION)
        rotate = asked is not None and asked != told.get("rotation")
        valid = _valid(told.get("tokens") or (), now)
        moved = told.get("tokenSecret") != secret
        if not rotate and not moved and valid and (brought is None or key in self._read):
            return _access(told, valid)
        try:
            overlap = overlap_seconds(stored.annotations.get(OVERLAP_ANNOTATION, str(DEFAULT_OVERLAP)))
        except ValueError as error:
            note = f"the token was not rotated, {OVERLAP_ANNOTATION}: {error}"
            return _access(told, valid, note) if valid else Access(None, note)
        said: dict[str, Any] = {**told, "tokenSecret": secret}
        if asked is not None:
            said["rotation"] = asked
        try:
            if brought is not None:
                digest = _digest(await self._brought(key, brought))
            else:
                token = secrets.token_urlsafe(_BYTES)
                digest = _digest(token)
                if valid:
                    announced = [{"sha256": digest}, *valid]
                    await self._deployments.save(key, {"endpoint": {**told, "tokens": announced[:_KEPT]}})
                await self._deployments.store_token(key, secret, token)
        except Refused as error:
            return Access(dict(told) or None, str(error))
        self._read.add(key)
        old = [_ending(each, now + overlap) for each in valid if each["sha256"] != digest]
        return _access(said, _valid([{"sha256": digest}, *old], now))

    def forget(self, key: str) -> None:
        """A deployment is gone."""
        self._read.discard(key)

    async def _brought(self, key: str, secret: str) -> str:
        token = (await self._deployments.brought_token(key, secret)).strip()
        if len(token) < LEAST_CHARACTERS:
            raise Refused(
                f'the token in Secret "{secret}" has {len(token)} characters, and fewer than {LEAST_CHARACTERS} can be '
                "guessed; make one with `openssl rand -base64 32`"
            )
        return token


def _access(told: Mapping[str, Any], tokens: Sequence[JsonObject], note: str = "") -> Access:
    ends = [from_timestamp(each["until"]) for each in tokens if "until" in each]
    return Access({**told, "tokens": list(tokens)}, note=note, wake_at=min(ends, default=None))


def _valid(tokens: Sequence[JsonObject], now: float) -> list[JsonObject]:
    kept = [dict(each) for each in tokens if "until" not in each or from_timestamp(each["until"]) > now]
    return kept[:_KEPT]


def _ending(token: JsonObject, at: float) -> JsonObject:
    """A token that is valid until then at most."""
    known = token.get("until")
    return token | {"until": to_timestamp(min(at, from_timestamp(known)) if known else at)}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
