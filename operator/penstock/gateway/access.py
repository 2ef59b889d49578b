"""Who asks, and what they may do: the cluster decides, by the bearer token of each request.

The gateway has no rights of its own: it asks the API server with the caller's token whether the caller may do to
executions what a request amounts to (`SelfSubjectAccessReview`), and reads executions as the caller. So nobody gets
further than with `kubectl`, no ClusterRole is needed, and whoever takes the gateway over gains nothing but its store.
Tokens are kept nowhere; answers are remembered for seconds, under a digest of the token.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from starlette.requests import Request

from penstock.gateway.problems import Problem, unauthorized
from penstock.kube.access import Access, CredentialsError, Source, impersonation
from penstock.kube.client import Client
from penstock.kube.credentials import Sessions
from penstock.kube.resources import EXECUTIONS, Resource
from penstock.kube.sweeping import living
from penstock.kube.transport import Call, Settings, Transport
from penstock.step.values import JsonObject
from penstock.storage.retention import Living

T = TypeVar("T")

CACHE_SECONDS = 10.0
"""How long an answer is remembered; so long a right that was taken away may still count."""
_CACHED = 4096
_TRIES = 2
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")
_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
_SELF = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Attributes:
        token: the bearer token.
        impersonate: headers that ask to act as somebody else; the API server checks the right to.
    """

    token: str = field(repr=False)
    impersonate: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Stands for the caller where a token has no place."""
        return hashlib.sha256(json.dumps([self.token, self.impersonate]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Person:
    """Who somebody is.

    Attributes:
        name: name of the user, for a service account `system:serviceaccount:<namespace>:<name>`.
        uid: what tells users of the same name apart; may be empty.
    """

    name: str
    uid: str = ""


def is_token(text: str) -> bool:
    """Whether this may be a bearer token at all."""
    return bool(_TOKEN.fullmatch(text))


def caller(request: Request) -> Caller:
    """Who makes a request, by a bearer token of the cluster.

    Raises:
        Problem: it does not say.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not _TOKEN.fullmatch(token.strip()):
        raise unauthorized(
            "send a token of the cluster as `Authorization: Bearer …`; `kubectl create token NAME` makes one for a "
            "service account"
        )
    headers = request.headers
    if not any(name.startswith("impersonate-") for name in headers):
        return Caller(token.strip())
    try:
        who = impersonation(
            headers.get("impersonate-user", ""),
            uid=headers.get("impersonate-uid", ""),
            groups=headers.getlist("impersonate-group"),
        )
    except CredentialsError as error:
        raise Problem(400, "BadImpersonation", error.message) from None
    return Caller(token.strip(), who)


class _As:
    """The way to the API server, with the credentials of a caller and no others."""

    def __init__(self, source: Source, who: Caller) -> None:
        self._source, self._who = source, who

    def load(self) -> Access:
        """Read where the server is."""
        return replace(
            self._source.load(),
            certificate=None,
            key=None,
            token=self._who.token,
            token_file=None,
            basic=None,
            impersonate=self._who.impersonate,
            expires=None,
        )


Connect = Callable[[Caller], AbstractAsyncContextManager[Transport]]
"""Opens a way to the API server with the credentials of a caller and no others."""


def connecting(source: Source) -> Connect:
    """Connects to the API server that a source names; its credentials are not used."""

    @asynccontextmanager
    async def connect(who: Caller) -> AsyncIterator[Transport]:
        sessions = Sessions(_As(source, who))
        try:
            yield Transport(sessions, settings=Settings(tries=_TRIES))
        finally:
            await sessions.close()

    return connect


class Cluster:
    """The API server, as callers may use it.

    Args:
        connect: opens a way to it.
        clock: gives seconds from any fixed moment.
    """

    def __init__(self, connect: Connect, clock: Callable[[], float] = time.monotonic) -> None:
        self._connect = connect
        self._clock = clock
        self._answers: OrderedDict[tuple[str, ...], tuple[float, str | None]] = OrderedDict()

    async def require(self, who: Caller, verb: str, namespace: str) -> None:
        """Make sure that a caller may do something to executions of a namespace.

        Args:
            who: the caller.
            verb: `get`, `list` or `create`.
            namespace: where.

        Raises:
            Problem: they may not.
            ApiError: the API server does not know the caller, or does not answer.
        """
        asked = (who.fingerprint, verb, namespace)
        until, denied = self._answers.get(asked, (0.0, None))
        if self._clock() >= until:
            denied = await self._as(who, lambda transport: _review(transport, verb, namespace))
            self._answers.pop(asked, None)
            self._answers[asked] = self._clock() + CACHE_SECONDS, denied
            while len(self._answers) > _CACHED:
                self._answers.popitem(last=False)
        if denied is not None:
            raise Problem(403, "Forbidden", denied)

    async def execution(self, who: Caller, namespace: str, name: str) -> JsonObject:
        """An execution, if the caller may see it.

        Raises:
            ApiError: there is none, the caller may not see it, or the API server does not answer.
        """
        return await self.acting(who, lambda client, _: client.get(EXECUTIONS, name, namespace))

    async def person(self, who: Caller) -> Person:
        """Who a caller is.

        Raises:
            ApiError: the API server does not know them, or does not answer.
        """
        return await self._as(who, _whoami)

    async def acting(self, who: Caller, work: Callable[[Client, Transport], Awaitable[T]]) -> T:
        """Do something in the name of a caller.

        Raises:
            ApiError: they may not, or the API server does not answer.
        """
        return await self._as(who, lambda transport: work(Client(transport), transport))

    @asynccontextmanager
    async def connected(self, who: Caller) -> AsyncIterator[tuple[Client, Transport]]:
        """A way to the API server in the name of a caller, for as long as it is needed."""
        async with self._connect(who) as transport:
            yield Client(transport), transport

    async def living(self, who: Caller, namespace: str, uids: Sequence[str]) -> Living:
        """Which executions there are, as far as the caller may see them; see `retention.Ask`.

        Raises:
            ApiError: the caller may not see them, or the API server does not answer.
        """
        return await self._as(who, lambda transport: living(Client(transport), namespace, uids))

    async def _as(self, who: Caller, work: Callable[[Transport], Awaitable[T]]) -> T:
        async with self._connect(who) as transport:
            return await work(transport)


async def _whoami(transport: Transport) -> Person:
    body = {"apiVersion": _SELF.api_version, "kind": _SELF.kind}
    answer = json.loads(await transport.send(Call("create", "POST", _SELF.path(), _SELF.plural, body=body)))
    found = answer.get("status", {}).get("userInfo", {})
    return Person(str(found.get("username", "")), str(found.get("uid", "")))


async def _review(transport: Transport, verb: str, namespace: str) -> str | None:
    """None if it is allowed, else a sentence."""
    attributes = {"namespace": namespace, "verb": verb, "group": EXECUTIONS.group, "resource": EXECUTIONS.plural}
    body = {
        "apiVersion": _REVIEWS.api_version,
        "kind": _REVIEWS.kind,
        "spec": {"resourceAttributes": attributes},
    }
    answer = json.loads(await transport.send(Call("create", "POST", _REVIEWS.path(), _REVIEWS.plural, body=body)))
    if answer.get("status", {}).get("allowed") is True:
        return None
    return (
        f'this needs the right to {verb} executions.penstock.dev in namespace "{namespace}"; '
        f"ask for it, and see what you may do with `kubectl auth can-i {verb} executions.penstock.dev "
        f"--namespace {namespace}`"
    )
