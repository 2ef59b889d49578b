"""What all commands against a cluster share: options, a client, objects by kind and name, and errors for people.

Cheap to import: the parts that need more than the light installation are loaded when a command runs.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from penstock.cli.main import ERROR, USAGE, complain
from penstock.kube.resources import DEPLOYMENTS, EXECUTIONS, PIPELINES, Resource

if TYPE_CHECKING:
    from penstock.kube.access import Access, Source
    from penstock.kube.client import Client
    from penstock.kube.errors import ApiError
    from penstock.kube.transport import Transport

F = TypeVar("F", bound=Callable[..., Any])

KINDS: Mapping[str, Resource] = {
    **dict.fromkeys(("pipelines", "pipeline", "pipe"), PIPELINES),
    **dict.fromkeys(("deployments", "deployment", "pdep"), DEPLOYMENTS),
    **dict.fromkeys(("executions", "execution", "exec"), EXECUTIONS),
}
"""The words for kinds; `kubectl` knows the same."""

NEEDS = 'commands against a cluster need more than is installed ({name}); run: pip install "penstock[cluster]"'
NO_SUCH_KIND = (
    "this cluster does not know the kind {kind} of penstock.dev/v1alpha1; install Penstock there (charts/penstock), "
    "or say which cluster is meant with --context"
)
NO_NAMESPACE = (
    'there is no namespace "{name}" in this cluster; name another with --namespace, or make it with '
    "`kubectl create namespace {name}`"
)
TRIES = 3
"""How often a request is made: people do not wait as patiently as an operator."""


class Refused(Exception):  # noqa: N818 - an answer
    """A command cannot be done; the message is for people, the code is that of the process."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


class NoObject(Refused):
    """There is no such object in a data store."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which cluster and namespace are meant, as a command line says it.

    Attributes:
        kubeconfig: file to read; None: as kubectl finds it.
        context: context of it; None: the current one.
        namespace: None: the context's own, or `default`.
        user: whom requests are made for; None: who the credentials say.
        groups: of that user.
        uid: of that user.
        local: whether `penstock serve` of this machine is meant.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    user: str | None = None
    groups: tuple[str, ...] = ()
    uid: str | None = None
    local: bool = False


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """An API server and the namespace that is meant.

    Attributes:
        client: requests about objects.
        transport: all other requests.
        namespace: the namespace that is meant.
        chosen: whether the command line names it.
    """

    client: Client
    transport: Transport
    namespace: str
    chosen: bool


def where_options(command: F) -> F:
    """Adds the options that say which cluster and namespace are meant; the command gets one `where`."""
    import functools  # noqa: PLC0415

    @functools.wraps(command)
    def wrapped(**options: Any) -> Any:
        where = Where(**{name: options.pop(name) for name in Where.__dataclass_fields__})
        if where.local and where != Where(local=True, namespace=where.namespace):
            raise click.UsageError("--local is this machine: leave out --kubeconfig, --context and --as, or --local.")
        return command(where=where, **options)

    for option in (
        click.option("--as-uid", "uid", metavar="UID", help="Uid of --as."),
        click.option("--as-group", "groups", multiple=True, metavar="NAME", help="A group of --as; may be repeated."),
        click.option("--as", "user", metavar="NAME", help="User to impersonate, if you are allowed to."),
        click.option("--namespace", "-n", metavar="NAME", help="Namespace; the context's own by default."),
        click.option("--context", metavar="NAME", help="Context of the kubeconfig; the current one by default."),
        click.option(
            "--kubeconfig",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Kubeconfig file; by default those of KUBECONFIG, or ~/.kube/config.",
        ),
        click.option("--local", is_flag=True, help="What `penstock serve` keeps on this machine (PENSTOCK_HOME)."),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # click's options keep what they are given


def located(where: Where) -> Where:
    """The same; with `--local`, by the kubeconfig of `penstock serve` that keeps this folder's home, or PENSTOCK_HOME.

    Raises:
        Refused: nothing is served there.
    """
    if not where.local:
        return where
    found = Path(os.environ.get("PENSTOCK_HOME") or ".penstock") / "kubeconfig"
    if not found.exists():
        raise Refused(
            f"--local: {found} is not there, so nothing is served here; run `penstock serve`, or say with "
            "PENSTOCK_HOME which home is meant"
        )
    return replace(where, kubeconfig=found)


def lacking() -> int | None:
    """The exit code if more is needed than is installed, after people were told; None if all is there."""
    try:
        import aiohttp  # noqa: F401, PLC0415
    except ImportError as error:
        complain(NEEDS.format(name=error.name))
        return USAGE
    return None


def on_cluster(where: Where, work: Callable[[Cluster], Awaitable[int]]) -> int:
    """Do something on the cluster that is meant; gives the exit code. What goes wrong becomes one paragraph."""
    if (code := lacking()) is not None:
        return code
    import asyncio  # noqa: PLC0415

    from penstock.kube.errors import ApiError  # noqa: PLC0415

    try:
        return asyncio.run(_connected(where, work))
    except Refused as error:
        complain(str(error))
        return error.code
    except ApiError as error:
        refused = explained(error)
        complain(str(refused))
        return refused.code


async def _connected(where: Where, work: Callable[[Cluster], Awaitable[int]]) -> int:
    from penstock.kube.client import Client  # noqa: PLC0415
    from penstock.kube.credentials import Sessions, find_source  # noqa: PLC0415
    from penstock.kube.transport import Settings, Transport  # noqa: PLC0415

    where = located(where)
    source = find_source(environment(), kubeconfig=where.kubeconfig, context=where.context, plugins=True)
    if where.user is not None or where.groups or where.uid is not None:
        source = _Impersonating(source, where)
    sessions = Sessions(source, trust_env=True)
    try:
        connection = await sessions.current()
        transport = Transport(sessions, settings=Settings(tries=TRIES))
        cluster = Cluster(
            client=Client(transport),
            transport=transport,
            namespace=where.namespace or connection.namespace or "default",
            chosen=where.namespace is not None,
        )
        return await work(cluster)
    finally:
        await sessions.close()


class _Impersonating:
    """Credentials with the user that a command line wants to be, instead of the one that a kubeconfig names."""

    def __init__(self, source: Source, where: Where) -> None:
        self._source, self._where = source, where

    def load(self) -> Access:
        """What the source says now, with that user."""
        from penstock.kube.access import impersonation  # noqa: PLC0415

        who = impersonation(self._where.user or "", uid=self._where.uid or "", groups=self._where.groups)
        return replace(self._source.load(), impersonate=who)


def environment() -> dict[str, str]:
    """The environment for finding credentials: as for kubectl, a kubeconfig goes before a pod's service account."""
    found = dict(os.environ)
    if found.get("KUBECONFIG") or Path("~/.kube/config").expanduser().exists():
        found.pop("KUBERNETES_SERVICE_HOST", None)
    return found


def explained(error: ApiError) -> Refused:
    """An error of the API server as people want to read it."""
    from penstock.kube import errors  # noqa: PLC0415
    from penstock.kube.credentials import CredentialsError  # noqa: PLC0415

    said = _server_said(error)
    match error:
        case CredentialsError():
            return Refused(error.message)
        case errors.Unauthorized():
            return Refused(f"the cluster does not accept your credentials: {said}; log in again, or name a --context")
        case errors.Forbidden():
            return Refused(f"you are not allowed to do this: {said}")
        case errors.NotFound() if error.details.get("kind") == "namespaces":
            return Refused(NO_NAMESPACE.format(name=error.details.get("name")))
        case errors.NotFound() if not error.details.get("name"):
            kind = next((one.kind for one in KINDS.values() if f"/{one.plural}" in error.message), "asked for")
            return Refused(NO_SUCH_KIND.format(kind=kind))
        case errors.NotFound() | errors.AlreadyExists() | errors.Invalid():
            return Refused(said)
        case errors.Unreachable():
            what = error.message.partition(": ")[2] or error.message
            return Refused(f"the cluster cannot be reached: {what}; does it run, and is it the right --context?", ERROR)
    return Refused(f"the cluster refused: {said}", ERROR)


def _server_said(error: ApiError) -> str:
    """The server's own sentence, without the request in front of it."""
    text = error.message
    for mark in (f"{error.status} {error.reason}: ", f"{error.status} "):
        if error.status and mark in text:
            return text.partition(mark)[2]
    return text


def kind_of(word: str) -> Resource:
    """The kind that a word stands for; upper and lower case are the same, a group may follow.

    Raises:
        click.UsageError: there is none.
    """
    found = KINDS.get(word.lower().removesuffix(".penstock.dev"))
    if found is None:
        from penstock.api.problems import suggest  # noqa: PLC0415 - only for this message

        hint = suggest(word.lower(), KINDS) or "; there are pipelines (pipe), deployments (pdep) and executions (exec)"
        raise click.UsageError(f'There is no kind "{word}"{hint}{"" if hint.endswith("?") else "."}')
    return found


def targets(words: Iterable[str], default: Resource | None = None) -> list[tuple[Resource, str]]:
    """The objects that `KIND NAME…`, `KIND/NAME…` or, with a default kind, `NAME…` stand for.

    Raises:
        click.UsageError: they stand for none.
    """
    given = list(words)
    kind = default
    if given and kind is None and "/" not in given[0]:
        kind = kind_of(given.pop(0))
        if not given:
            raise click.UsageError(f"Say which {kind.kind}: give its name.")
    found: list[tuple[Resource, str]] = []
    for word in given:
        before, slash, name = word.partition("/")
        resource = kind_of(before) if slash else kind
        if resource is None or not (name if slash else before):
            raise click.UsageError(f'"{word}": write KIND NAME or KIND/NAME.')
        found.append((resource, name if slash else before))
    return found


async def fetch(cluster: Cluster, resource: Resource, name: str) -> dict[str, Any]:
    """An object.

    Raises:
        Refused: there is none; says what it might have been called.
    """
    from penstock.kube.errors import NotFound  # noqa: PLC0415

    try:
        found = await cluster.client.get(resource, name, cluster.namespace)
    except NotFound as error:
        raise await not_found(cluster, resource, name, error) from None
    return cleaned(dict(found), resource)


async def not_found(cluster: Cluster, resource: Resource, name: str, error: ApiError) -> Refused:
    """What to say of an object that is not there."""
    from penstock.api.problems import suggest  # noqa: PLC0415
    from penstock.kube.errors import ApiError  # noqa: PLC0415

    if not error.details.get("name"):
        return explained(error)  # the kind itself is not there
    word = resource.kind.lower()
    text = f'there is no {word} "{name}" in namespace "{cluster.namespace}"'
    try:
        listed = await cluster.client.list(
            resource, namespace=cluster.namespace, keep=lambda body: str(body["metadata"]["name"]), metadata_only=True
        )
    except ApiError:
        return Refused(text)  # who may get but not list has no use for another complaint
    if not listed.items:
        await check_namespace(cluster)
    near = suggest(name, listed.items)
    return Refused(text + (near or ("" if listed.items else f"; it has no {resource.plural}")))


async def check_namespace(cluster: Cluster) -> None:
    """Tell an empty namespace from one that is not there; who may not look is taken to know its name.

    Raises:
        Refused: there is no such namespace.
    """
    from penstock.kube.errors import ApiError, NotFound  # noqa: PLC0415
    from penstock.kube.resources import NAMESPACES  # noqa: PLC0415

    try:
        await cluster.client.get(NAMESPACES, cluster.namespace, metadata_only=True)
    except NotFound:
        raise Refused(NO_NAMESPACE.format(name=cluster.namespace)) from None
    except ApiError:
        return


def cleaned(body: dict[str, Any], resource: Resource) -> dict[str, Any]:
    """An object as people want to see it: with its kind, and without the record of who wrote which field."""
    metadata = {key: value for key, value in body["metadata"].items() if key != "managedFields"}
    return {"apiVersion": resource.api_version, "kind": resource.kind, **body, "metadata": metadata}


def reference(resource: Resource, name: str) -> str:
    """An object as `kubectl -o name` writes it: `execution.penstock.dev/iris-x`."""
    return f"{resource.kind.lower()}.{resource.group}/{name}"
