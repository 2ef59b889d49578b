"""Our own signed URLs, for the folder store: who has one may do one thing with one object until it expires.

A URL is `<base>/files/<key>?method=…&expires=…[&max=…]&by=<name of the key>&signature=<HMAC-SHA256>`. Keys have names,
so that a new one can sign while URLs of the old one are still accepted.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, urlencode

from penstock.storage.errors import BadObjectPath
from penstock.storage.paths import check_key

ROUTE = "/files/"
"""What stands between the gateway's address and the key."""

_MIN_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_FIELDS = {"method", "expires", "max", "by", "signature"}
_ALSO = {"HEAD": "GET"}


class BadKeys(ValueError):  # noqa: N818 - a fact about a setting
    """Signing keys that cannot be used; the message does not show them."""


class BadSignature(Exception):  # noqa: N818
    """A URL that gives no right to what was asked; the message says why, and nothing about keys."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a signed URL gives a right to.

    Attributes:
        method: `GET` (also for HEAD) or `PUT`.
        key: the object.
        expires: until when, in seconds since the epoch.
        max_bytes: how large an upload may be; None: not bounded.
    """

    method: str
    key: str
    expires: int
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Secrets by name; the first one signs, all are accepted.

    Args:
        secrets: at least one, each of 32 bytes or more.

    Raises:
        BadKeys: there is none, or one is too short.
    """

    secrets: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secrets:
            raise BadKeys("there is no signing key")
        for name, secret in self.secrets.items():
            if not _NAME.fullmatch(name):
                raise BadKeys("the name of a signing key is 1 to 32 letters, digits, `-` or `_`")
            if len(secret) < _MIN_BYTES:
                raise BadKeys(
                    f"signing key {name} is shorter than {_MIN_BYTES} bytes: make one with openssl rand -hex 32"
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Keys from `name:secret,…`, secrets in hexadecimal or base64.

        Raises:
            BadKeys: they cannot be read; the message does not show them.
        """
        secrets: dict[str, bytes] = {}
        for position, entry in enumerate(text.split(","), 1):
            name, colon, secret = entry.strip().partition(":")
            if not colon:
                raise BadKeys(f"signing key {position} is not name:secret")
            if name in secrets:
                raise BadKeys(f"there are two signing keys named {name}")
            secrets[name] = _decode(name, secret)
        return cls(secrets)

    def sign(self, base: str, grant: Grant) -> str:
        """The URL that gives the right.

        Args:
            base: where the gateway is, for example `http://penstock-gateway:8080`.
            grant: the right.

        Raises:
            BadObjectPath: the key is none.
        """
        check_key(grant.key)
        name, secret = next(iter(self.secrets.items()))
        query = {"method": grant.method, "expires": str(grant.expires)}
        if grant.max_bytes is not None:
            query["max"] = str(grant.max_bytes)
        query |= {"by": name, "signature": _signature(secret, name, grant)}
        return f"{base.rstrip('/')}{ROUTE}{quote(grant.key, safe='/')}?{urlencode(query)}"

    def verify(self, method: str, key: str, query: Mapping[str, str], now: float) -> Grant:
        """What the URL of a request gives a right to.

        Args:
            method: the request's method.
            key: the path after `/files/`, decoded.
            query: the request's parameters, decoded, each once.
            now: seconds since the epoch.

        Raises:
            BadSignature: it does not give the right to do this.
        """
        if query.keys() - _FIELDS or not _FIELDS - {"max"} <= query.keys():
            raise BadSignature("this is not a signed URL")
        expires, most = query["expires"], query.get("max", "0")
        if not (_NUMBER.fullmatch(expires) and _NUMBER.fullmatch(most)):
            raise BadSignature("this is not a signed URL")
        try:
            check_key(key)
        except BadObjectPath:
            raise BadSignature("the path names no object") from None
        grant = Grant(query["method"], key, int(expires), int(most) if "max" in query else None)
        name = query["by"]
        # A key that is not known takes as long as one that is.
        ours = _signature(self.secrets.get(name, b""), name, grant).encode()
        theirs = query["signature"].encode("utf-8", "replace")
        if not hmac.compare_digest(ours, theirs) or name not in self.secrets:
            raise BadSignature("the signature is not right for this URL")
        if now >= grant.expires:
            raise BadSignature("the URL has expired")
        if _ALSO.get(method, method) != grant.method:
            raise BadSignature(f"the URL is for {grant.method}, not for {method}")
        return grant


def _signature(secret: bytes, name: str, grant: Grant) -> str:
    # JSON, so that no two grants have the same text.
    text = json.dumps(["penstock-url-1", name, grant.method, grant.key, grant.expires, grant.max_bytes])
    return hmac.digest(secret, text.encode(), "sha256").hex()


def _decode(name: str, secret: str) -> bytes:
    try:
        return bytes.fromhex(secret)
    except ValueError:
        pass
    try:
        return base64.b64decode(secret.translate(str.maketrans("-_", "+/")) + "=" * (-len(secret) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadKeys(f"signing key {name} is neither hexadecimal nor base64") from None
