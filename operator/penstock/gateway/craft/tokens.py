"""The exchange of tokens that the `craft-ai-sdk` makes: a token of the cluster for one of the shape that it reads.

What it gets is no credential of its own: it is the token it has come with, wrapped into what looks like a JWT, because
the client reads `iat` and `exp` of one. The API server judges what is inside at each request, so nothing is kept here,
any replica understands it, and a token that the cluster does not accept any more is of no use wrapped.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from penstock.gateway.problems import unauthorized

SECONDS = 3600
"""How long a wrapped token is good at most; the client exchanges again by itself."""
_TYPE = "penstock+wrapped"


def wrap(token: str, subject: str, now: float) -> str:
    """A token of the shape of a JWT with this one inside.

    Args:
        token: the token of the cluster.
        subject: whose it is.
        now: the time, in seconds since the epoch.
    """
    end = _expiry(token)
    until = int(now) + SECONDS if end is None else min(int(now) + SECONDS, end)
    header = {"alg": "none", "typ": _TYPE}
    claims = {"iss": "penstock", "sub": subject, "iat": int(now), "exp": until}
    return ".".join((_pack(json.dumps(header)), _pack(json.dumps(claims)), _pack(token)))


def unwrap(token: str, now: float) -> str:
    """The token of the cluster that is in a wrapped one; any other token is given back.

    Raises:
        Problem: it is wrapped, and its time is over.
    """
    parts = token.split(".")
    if len(parts) != 3 or (_claims(parts[0]) or {}).get("typ") != _TYPE:
        return token
    until = (_claims(parts[1]) or {}).get("exp")
    inside = _unpack(parts[2])
    if not isinstance(until, int) or now >= until or inside is None:
        raise unauthorized("the access token has expired; exchange the SDK token again")
    return inside.decode("ascii", "replace")


def _expiry(token: str) -> int | None:
    """When a token of the cluster ends, if it says so: those of service accounts are JWTs."""
    parts = token.split(".")
    found = (_claims(parts[1]) or {}).get("exp") if len(parts) == 3 else None
    return found if isinstance(found, int) else None


def _claims(part: str) -> dict[str, Any] | None:
    try:
        found = json.loads(_unpack(part) or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _pack(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _unpack(text: str) -> bytes | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
