"""Where the API server is and who we are: from a pod's service account or from a kubeconfig; makes sessions of it.

What must not live here: requests (`transport`). Reading credentials and opening sessions is all that happens.

Tokens are put into each request as it leaves and read again whenever their file changes, so that a rotated token never
costs a 401, not even on kopf's connections.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import yaml
from yarl import URL

from penstock import __version__
from penstock.kube.errors import Unauthorized
from penstock.kube.transport import Connection
from penstock.step.values import JsonObject

if TYPE_CHECKING:
    import kopf

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's credentials."""

_UNSUPPORTED = {
    "exec": "credential plugins are",
    "auth-provider": "auth providers are",
    "as": "impersonation is",
    "as-uid": "impersonation is",
    "as-groups": "impersonation is",
    "as-user-extra": "impersonation is",
}


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


class Source(Protocol):
    """Where credentials are read."""

    def load(self) -> Access:
        """What it says now.

        Raises:
            CredentialsError: nothing that could be used.
        """


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
        _read(token, str(token))
        namespace = self.folder / "namespace"
        return Access(
            server=f"https://{host}:{self.port}",
            namespace=_read(namespace, str(namespace)).decode().strip() if namespace.exists() else None,
            ca=_read(self.folder / "ca.crt", str(self.folder / "ca.crt")),
            token_file=token,
        )


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """One context of one or more kubeconfig files, merged as kubectl does: the first mention of a name counts.

    Attributes:
        paths: the files; those that are not there are passed over, unless it is all of them.
        context: which context; None: the current one.
    """

    paths: Sequence[Path]
    context: str | None = None

    def load(self) -> Access:
        """What the files say now."""
        merged = _Merged(self.paths)
        name = self.context or merged.current
        if not name:
            raise CredentialsError(
                f"{merged.place}: there is no current-context; name a context, or run `kubectl config use-context NAME`"
            )
        context = merged.get("context", name)
        cluster = merged.get("cluster", context.text("cluster", required=True))
        user = merged.get("user", context.text("user")) if context.text("user") else _Entry({}, "", Path())
        for option, what in _UNSUPPORTED.items():
            if user.content.get(option):
                raise CredentialsError(
                    f"{user.place}.{option}: {what} not supported by the operator; use a token, a tokenFile or a "
                    "client certificate there, or run it in the cluster with a service account"
                )
        token_file = user.text("tokenFile")
        username, password = user.text("username"), user.text("password")
        return Access(
            server=_server(cluster),
            namespace=context.text("namespace") or None,
            ca=cluster.data("certificate-authority"),
            certificate=user.data("client-certificate"),
            key=user.data("client-key"),
            token=user.text("token") or None,
            token_file=user.folder / token_file if token_file else None,
            basic=(username, password) if username and password else None,
            insecure=cluster.content.get("insecure-skip-tls-verify") is True,
            server_name=cluster.text("tls-server-name") or None,
            proxy=cluster.text("proxy-url") or None,
        )


def find_source(environ: Mapping[str, str], *, kubeconfig: Path | None = None, context: str | None = None) -> Source:
    """Where to read credentials: the kubeconfig that was asked for, in a pod its service account, else kubectl's files.

    Args:
        environ: environment variables.
        kubeconfig: a file that was asked for.
        context: a context that was asked for.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if kubeconfig is not None:
        return Kubeconfig([kubeconfig], context)
    if host and context is None and (SERVICE_ACCOUNT / "token").exists():
        return ServiceAccount(host, port)
    paths = [Path(each).expanduser() for each in environ.get("KUBECONFIG", "").split(os.pathsep) if each]
    return Kubeconfig(paths or [Path("~/.kube/config").expanduser()], context)


class Sessions:
    """The session that everything shares, ours and kopf's; a `transport.Provider`, and kopf's login handler.

    kopf closes the session it was given when it gets a 401 and when it ends. Whoever asks next, kopf's login or one of
    our own requests, opens the next one, and the other is given that same one.

    Args:
        source: where credentials are read; again for every new session.
        trust_env: whether `HTTPS_PROXY` and its like count.
    """

    def __init__(self, source: Source, *, trust_env: bool = False) -> None:
        self._source = source
        self._trust_env = trust_env
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
            return connection
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
            headers={"User-Agent": f"penstock/{__version__}"},
            proxy=access.proxy,
            trust_env=self._trust_env,
            middlewares=(_Authorize(access, token),),
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

    def __init__(self, access: Access, token: _Token) -> None:
        self._origin = URL(access.server).origin()
        self._basic = access.basic
        self._server_name = access.server_name
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
        return await handler(request)


@dataclass(frozen=True, slots=True, repr=False)
class _Entry:
    """A context, cluster or user of a kubeconfig.

    Attributes:
        content: what it says.
        place: where that is, for messages.
        folder: what relative paths in it are relative to.
    """

    content: JsonObject
    place: str
    folder: Path

    def text(self, name: str, *, required: bool = False) -> str:
        """A text field; empty where it is missing."""
        value = self.content.get(name) or ""
        if not isinstance(value, str):
            raise CredentialsError(f"{self.place}.{name}: must be text, not {type(value).__name__}")
        if required and not value:
            raise CredentialsError(f"{self.place}.{name}: is missing; name one")
        return value

    def data(self, name: str) -> bytes | None:
        """PEM that stands in the field `<name>-data` in base64, or else in the file that `<name>` names."""
        inline = self.text(f"{name}-data")
        if inline:
            try:
                return base64.b64decode(inline, validate=True)
            except (binascii.Error, ValueError) as error:
                raise CredentialsError(f"{self.place}.{name}-data: is not base64: {error}") from error
        path = self.text(name)
        return _read(self.folder / path, f"{self.place}.{name}") if path else None


class _Merged:
    """The files of a kubeconfig, merged."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.current = ""
        self.place = os.pathsep.join(map(str, paths))
        self._entries: dict[tuple[str, str], _Entry] = {}
        present = [path for path in paths if path.exists()]
        if not present:
            raise CredentialsError(
                f"{self.place}: there is no such kubeconfig; set KUBECONFIG or name a file, or run in a pod that has a "
                "service account token"
            )
        for path in present:
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            content = yaml.safe_load(_read(path, str(path)))
        except yaml.YAMLError as error:
            raise CredentialsError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
        content = content or {}
        if not isinstance(content, dict):
            raise CredentialsError(f"{path}: is not a kubeconfig: it should be a map of clusters, users and contexts")
        self.current = self.current or str(content.get("current-context") or "")
        for kind in ("context", "cluster", "user"):
            entries = content.get(f"{kind}s") or []
            if not isinstance(entries, list):
                raise CredentialsError(f"{path}: {kind}s: must be a list")
            for number, entry in enumerate(entries):
                if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                    raise CredentialsError(f"{path}: {kind}s[{number}]: must have a name")
                name, what = entry["name"], entry.get(kind) or {}
                place = f"{path}: {kind}s[{name}].{kind}"
                if not isinstance(what, dict):
                    raise CredentialsError(f"{place}: must be a map")
                self._entries.setdefault((kind, name), _Entry(what, place, path.absolute().parent))

    def get(self, kind: str, name: str) -> _Entry:
        """The entry with this name."""
        found = self._entries.get((kind, name))
        if found is None:
            known = ", ".join(sorted(each for of, each in self._entries if of == kind)) or "none"
            raise CredentialsError(f"{self.place}: there is no {kind} {name!r}; there is: {known}")
        return found


def _server(cluster: _Entry) -> str:
    server = cluster.text("server", required=True).rstrip("/")
    if not server.startswith(("https://", "http://")) or not URL(server).host:
        raise CredentialsError(f"{cluster.place}.server: must be a URL like https://host:6443, not {server!r}")
    return server


def _read(path: Path, place: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        shown = place if str(path) in place else f"{place}: {path}"
        raise CredentialsError(f"{shown}: cannot be read: {reason}") from error
