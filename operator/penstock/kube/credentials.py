"""Where the API server is and who we are: from a pod's service account or from a kubeconfig; makes sessions of it.

What must not live here: requests (`transport`). Reading credentials and opening sessions is all that happens.

Tokens are put into each request as it leaves and read again whenever their file changes, so that a rotated token never
costs a 401, not even on kopf's connections.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
from yarl import URL

from penstock.kube.access import Access, CredentialsError, Source, read_file
from penstock.kube.kubeconfig import Kubeconfig
from penstock.kube.transport import AGENT, Connection

if TYPE_CHECKING:
    import kopf

__all__ = [
    "SERVICE_ACCOUNT",
    "Access",
    "CredentialsError",
    "Kubeconfig",
    "ServiceAccount",
    "Sessions",
    "Source",
    "find_source",
    "ssl_context",
]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's credentials."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """The credentials that every pod with a service account is given.

    Attributes:
        host: of the API server.
        port: of the API server.
        folder: with `token`, `ca.crt` and `namespace`.
    """

    host: str
    port: str
    folder: Path = SERVICE_ACCOUNT

    def load(self) -> Access:
        """What the files say now."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        token = self.folder / "token"
        read_file(token, str(token))
        namespace = self.folder / "namespace"
        return Access(
            server=f"https://{host}:{self.port}",
            namespace=read_file(namespace, str(namespace)).decode().strip() if namespace.exists() else None,
            ca=read_file(self.folder / "ca.crt", str(self.folder / "ca.crt")),
            token_file=token,
        )


def find_source(
    environ: Mapping[str, str], *, kubeconfig: Path | None = None, context: str | None = None, plugins: bool = False
) -> Source:
    """Where to read credentials: the kubeconfig that was asked for, in a pod its service account, else kubectl's files.

    Args:
        environ: environment variables.
        kubeconfig: a file that was asked for.
        context: a context that was asked for.
        plugins: whether credential plugins may be run: they are made for people at a terminal.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if kubeconfig is not None:
        return Kubeconfig([kubeconfig], context, plugins)
    if host and context is None and (SERVICE_ACCOUNT / "token").exists():
        return ServiceAccount(host, port)
    paths = [Path(each).expanduser() for each in environ.get("KUBECONFIG", "").split(os.pathsep) if each]
    return Kubeconfig(paths or [Path("~/.kube/config").expanduser()], context, plugins)


OTHERS_AGENT = f"{AGENT} kopf"
"""How requests introduce themselves that are made with a session and not by our own client."""

View: TypeAlias = Callable[[aiohttp.ClientRequest, aiohttp.ClientResponse], aiohttp.ClientResponse]


class Sessions:
    """The session that everything shares, ours and kopf's; a `transport.Provider`, and kopf's login handler.

    kopf closes the session it was given when it gets a 401 and when it ends. Whoever asks next, kopf's login or one of
    our own requests, opens the next one, and the other is given that same one.

    Args:
        source: where credentials are read; again for every new session.
        trust_env: whether `HTTPS_PROXY` and its like count.
        near: whether the server is near, so that it need not compress what it sends: for lists of megabytes that costs
            it more than making them, and us a tenth of reading them.

    Attributes:
        view: what kopf gets to read instead of a response; its requests bear the session's own `OTHERS_AGENT`.
    """

    def __init__(self, source: Source, *, trust_env: bool = False, near: bool = False) -> None:
        self.view: View = lambda _, response: response
        self._source = source
        self._trust_env = trust_env
        self._headers = {"User-Agent": OTHERS_AGENT} | ({"Accept-Encoding": "identity"} if near else {})
        self._access: Access | None = None
        self._connection: Connection | None = None
        self._token: _Token | None = None
        self._retired: list[aiohttp.ClientSession] = []
        self._lock = asyncio.Lock()

    async def current(self) -> Connection:
        """A connection whose session is open.

        Raises:
            CredentialsError: there are no credentials that could be used.
        """
        connection = self._connection
        if connection is not None and not connection.session.closed:
            expires = self._access.expires if self._access is not None else None
            if expires is None or time.time() < expires:
                return connection
            await self.renew(connection)
        async with self._lock:
            if self._connection is None or self._connection.session.closed:
                await self._open(await asyncio.to_thread(self._source.load))
            assert self._connection is not None  # noqa: S101  # `_open` has set it
            return self._connection

    async def renew(self, rejected: Connection) -> None:
        """Read the credentials again; a new session is opened only if what is bound to one has changed."""
        async with self._lock:
            if self._connection is not rejected or rejected.session.closed:
                return  # somebody else was faster
            access = await asyncio.to_thread(self._source.load)
            if access == self._access:
                if self._token is not None:
                    self._token.read()
                return
            # Not closed: that would not end kopf's watches on it but freeze them. kopf closes it at its own next 401.
            self._retired.append(rejected.session)
            await self._open(access)

    def _viewed(self, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        return self.view(request, response)

    async def login(self, **_: Any) -> kopf.AiohttpSession:
        """The handler for `kopf.on.login`."""
        import kopf  # noqa: PLC0415  # the command line has these sessions too, and kopf takes long to import

        connection = await self.current()
        return kopf.AiohttpSession(
            aiohttp_session=connection.session, server=connection.server, default_namespace=connection.namespace
        )

    async def close(self) -> None:
        """Close the session."""
        async with self._lock:
            for session in self._retired:
                await session.close()
            self._retired.clear()
            if self._connection is not None:
                await self._connection.session.close()

    async def _open(self, access: Access) -> None:
        tls = await asyncio.to_thread(ssl_context, access)
        token = _Token(access)
        token.read()
        session = aiohttp.ClientSession(
            # kopf's watches and the logs that people follow hold connections for long: a limit would starve the rest.
            # How much is under way at once is bounded where it is started.
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            headers=self._headers,
            proxy=access.proxy,
            trust_env=self._trust_env,
            middlewares=(_Authorize(access, token, self._viewed),),
        )
        self._access, self._token = access, token
        self._connection = Connection(session, access.server, access.namespace)


def ssl_context(access: Access) -> ssl.SSLContext:
    """What to trust and what to show.

    Raises:
        CredentialsError: certificates or keys that are none.
    """
    context = ssl.create_default_context()
    if access.ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts this authority and no other
    # Python 3.13 began to refuse authorities without optional extensions, which many clusters have and Go accepts.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        if access.ca is not None:
            context.load_verify_locations(cadata=access.ca.decode("ascii"))
        if access.certificate is not None:
            _load_pair(context, access.certificate, access.key)
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsError(f"the certificates or the key for {access.server} cannot be used: {error}") from error
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes | None) -> None:
    """Python reads these from files only; these live no longer than the reading, and nobody else may open them."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate + b"\n" + (key or b""))
        file.flush()
        # An encrypted key would make OpenSSL ask on the terminal.
        context.load_cert_chain(file.name, password=lambda: "")


class _Token:
    """The bearer token, read again when its file changes."""

    def __init__(self, access: Access) -> None:
        self._file = access.token_file
        self._value = access.token
        self._seen: tuple[int, int, int] | None = None

    def current(self) -> str | None:
        """The token as it is now. One `stat` a request; the last one that could be read while its file cannot be."""
        if self._file is not None:
            try:
                found = self._file.stat()
            except OSError:
                return self._value
            if (found.st_ino, found.st_mtime_ns, found.st_size) != self._seen:
                self.read()
        return self._value

    def read(self) -> None:
        """Read the file, changed or not."""
        if self._file is None:
            return
        try:
            found = self._file.stat()
            value = self._file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            if self._value is None:
                raise CredentialsError(f"{self._file}: the token cannot be read: {error}") from error
            return
        if value:
            self._value, self._seen = value, (found.st_ino, found.st_mtime_ns, found.st_size)


class _Authorize:
    """Puts the credentials into requests as they leave, and into none that goes anywhere else (by a redirect)."""

    def __init__(self, access: Access, token: _Token, view: View) -> None:
        self._view = view
        self._origin = URL(access.server).origin()
        self._basic = access.basic
        self._server_name = access.server_name
        self._impersonate = access.impersonate
        self._token = token

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.url.origin() == self._origin:
            if self._server_name is not None:
                request.server_hostname = self._server_name
            token = self._token.current()
            if token is not None:
                request.headers["Authorization"] = f"Bearer {token}"
            elif self._basic is not None:
                request.headers["Authorization"] = aiohttp.encode_basic_auth(*self._basic)
            for name, value in self._impersonate:
                request.headers.add(name, value)
        response = await handler(request)
        return self._view(request, response) if request.headers.get("User-Agent") == OTHERS_AGENT else response
