"""What is needed to reach an API server as somebody: the words that all sources of credentials share.

What must not live here: where credentials are found (`credentials`, `kubeconfig`, `exec_plugin`), and sessions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from penstock.kube.errors import Unauthorized

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HEADER_SAFE = "!#$&'*+-.^_`|~"


class CredentialsError(Unauthorized):
    """There are no credentials, or they cannot be used; the message names the place and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="Credentials")


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """How to reach an API server, as it was read at one moment. Has no `repr`: secrets do not belong into logs.

    Attributes:
        server: base URL without a slash at its end.
        namespace: the namespace of who does not name one; None where the source does not say.
        ca: certificates to trust, PEM; None: those the system trusts.
        certificate: the client's certificate, PEM.
        key: its private key, PEM.
        token: bearer token.
        token_file: file with a bearer token, read again when it changes; goes before `token`.
        basic: user name and password.
        insecure: whether the server's certificate is not verified.
        server_name: the name to expect in its certificate; None: the one in the URL.
        proxy: URL of the proxy to go through.
        impersonate: headers that ask to act as somebody else; see `impersonation`.
        expires: when the token or certificate ends, in seconds since the epoch; None where nobody says.
    """

    server: str
    namespace: str | None = None
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None
    token_file: Path | None = None
    basic: tuple[str, str] | None = None
    insecure: bool = False
    server_name: str | None = None
    proxy: str | None = None
    impersonate: tuple[tuple[str, str], ...] = ()
    expires: float | None = None


class Source(Protocol):
    """Where credentials are read."""

    def load(self) -> Access:
        """What it says now.

        Raises:
            CredentialsError: nothing that could be used.
        """


def impersonation(
    user: str, *, uid: str = "", groups: Sequence[str] = (), extra: Mapping[str, Sequence[str]] | None = None
) -> tuple[tuple[str, str], ...]:
    """The headers that ask an API server to treat a request as if somebody else had made it.

    Args:
        user: who.
        uid: their uid.
        groups: their groups.
        extra: what else an authenticator would say of them.

    Raises:
        CredentialsError: there is no user, or a text cannot stand in a header.
    """
    if not user:
        raise CredentialsError("groups, uids and extras can only be taken on together with a user; name one with --as")
    found = [("Impersonate-User", user)]
    found += [("Impersonate-Uid", uid)] if uid else []
    found += [("Impersonate-Group", group) for group in groups]
    found += [
        (f"Impersonate-Extra-{quote(key, safe=_HEADER_SAFE)}", text)
        for key, texts in (extra or {}).items()
        for text in texts
    ]
    for _, text in found:
        if _CONTROL.search(text):
            raise CredentialsError(f"{text!r} cannot be the name of anybody: it has control characters")
    return tuple(found)


def read_file(path: Path, place: str) -> bytes:
    """The content of a file.

    Raises:
        CredentialsError: it cannot be read; the message begins with the place.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        shown = place if str(path) in place else f"{place}: {path}"
        raise CredentialsError(f"{shown}: cannot be read: {reason}") from error
