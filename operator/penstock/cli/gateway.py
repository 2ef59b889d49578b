"""`penstock gateway`: the process that serves endpoints, the API, and a folder store's files by signed URLs."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.cluster import Refused
from penstock.cli.main import ERROR, OK, USAGE, complain

if TYPE_CHECKING:
    from penstock.gateway.app import Lifespan
    from penstock.gateway.service import Service
    from penstock.gateway.settings import GatewaySettings
    from penstock.kube.access import Source
    from penstock.storage.history.history import History
    from penstock.storage.objects import Store
    from penstock.storage.settings import StoreSettings


@click.command("gateway")
@click.option(
    "--host",
    default="0.0.0.0",  # noqa: S104 - a pod is reached by its address
    show_default=True,
    envvar="PENSTOCK_GATEWAY_HOST",
    help="Address to listen on.",
)
@click.option("--port", type=click.IntRange(1, 65_535), default=8080, show_default=True, envvar="PENSTOCK_GATEWAY_PORT")
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Says which cluster is served; in a pod, its own is. Its credentials are for endpoints; the API asks with "
    "those of whoever uses it.",
)
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
def command(host: str, port: int, kubeconfig: Path | None, context: str | None) -> int:
    """Serve endpoints, the API of executions and files, and files of a folder store, until it gets SIGTERM.

    PENSTOCK_STORE_URL names the store, for a folder PENSTOCK_SIGNING_KEYS the keys; see docs/object-storage.md.
    PENSTOCK_HISTORY_URL names the history that the operator keeps, where executions are that are gone; see
    docs/history.md. All other settings are environment variables too, see docs/endpoints.md. Outside of a cluster and
    without --kubeconfig there are no endpoints and no API.
    """
    try:
        import aiohttp  # noqa: F401, PLC0415
        import fastapi  # noqa: F401, PLC0415
        import python_multipart  # noqa: F401, PLC0415
        import uvicorn  # noqa: PLC0415
    except ImportError as error:
        complain(f'the gateway needs more than is installed ({error.name}); install "penstock[operator,gateway]"')
        return USAGE
    from penstock.gateway.access import Cluster, connecting  # noqa: PLC0415
    from penstock.gateway.app import application  # noqa: PLC0415
    from penstock.gateway.server import Server  # noqa: PLC0415
    from penstock.gateway.settings import from_environment  # noqa: PLC0415
    from penstock.kube.access import CredentialsError  # noqa: PLC0415
    from penstock.kube.logs import set_up  # noqa: PLC0415
    from penstock.kube.settings import BadSettings, LogFormat  # noqa: PLC0415
    from penstock.storage import settings as storage  # noqa: PLC0415
    from penstock.storage.errors import StoreError  # noqa: PLC0415
    from penstock.storage.plans import MAX_FILE_BYTES  # noqa: PLC0415

    files: StoreSettings | None = None
    try:
        settings = from_environment(os.environ)
        source = _source(kubeconfig, context)
        # Without a store there are endpoints, and no files.
        if os.environ.get("PENSTOCK_STORE_URL") or source is None:
            files = storage.from_environment(os.environ)
        store = None if files is None else _open(files)
    except (BadSettings, storage.BadSettings, CredentialsError) as error:
        complain(str(error))
        return USAGE
    except StoreError as error:
        complain(f"PENSTOCK_STORE_URL={files.store_url if files else ''}: {error}")
        return ERROR
    log_format = LogFormat.TEXT if os.environ.get("PENSTOCK_LOG_FORMAT") == "text" else LogFormat.JSON
    set_up(log_format, os.environ.get("PENSTOCK_LOG_LEVEL") or "INFO")
    try:
        history = _history(os.environ.get("PENSTOCK_HISTORY_URL", "")) if source is not None else None
    except Refused as error:
        complain(str(error))
        return error.code
    service, lifespan = (None, None) if source is None else _endpoints(source, store, settings, history)
    served = application(
        store,
        None if files is None else files.signing_keys,
        None if source is None else Cluster(connecting(source)),
        service=service,
        history=history,
        lifespan=lifespan,
        max_file_bytes=MAX_FILE_BYTES if files is None else files.max_file_bytes,
    )
    server = Server(
        uvicorn.Config(
            served,
            host=host,
            port=port,
            access_log=False,  # it would hold signed URLs, and tokens that came in queries
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=30,
        ),
        service,
        settings.drain_seconds,
    )
    # The server sends itself once more what ended it; it has ended in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run()
    return OK if server.started else ERROR


def _history(url: str) -> History | None:
    """The history, which was tried; None where none is named.

    Raises:
        Refused: a person has to do something before it works.
    """
    if not url:
        return None
    import asyncio  # noqa: PLC0415

    try:
        from penstock.storage.history.connecting import connect, parse  # noqa: PLC0415
        from penstock.storage.history.errors import BadHistory, HistoryUnavailable  # noqa: PLC0415
        from penstock.storage.history.history import History  # noqa: PLC0415
    except ImportError as error:
        raise Refused(
            f'PENSTOCK_HISTORY_URL: a history needs more than is installed ({error.name}); install "penstock[history]"'
        ) from None
    try:
        return asyncio.run(History.open(url))  # it has no connection yet, and so belongs to no loop
    except BadHistory as error:
        raise Refused(f"PENSTOCK_HISTORY_URL: {error}") from None
    except HistoryUnavailable as error:
        # Endpoints do not wait for it; who asks for the history is told until it is there.
        complain(f"PENSTOCK_HISTORY_URL: {error}; all else is served")
        return History(connect(parse(url)))


def _endpoints(
    source: Source, store: Store | None, settings: GatewaySettings, history: History | None
) -> tuple[Service, Lifespan]:
    """The endpoints of a cluster, and what has to run beside them."""
    import asyncio  # noqa: PLC0415

    from penstock.gateway.service import Service  # noqa: PLC0415
    from penstock.kube.backend import KubeBackend  # noqa: PLC0415
    from penstock.kube.credentials import Sessions  # noqa: PLC0415
    from penstock.kube.transport import Transport  # noqa: PLC0415

    sessions = Sessions(source)
    backend = KubeBackend(Transport(sessions), settings.namespaces)

    @asynccontextmanager
    async def beside() -> AsyncIterator[None]:
        following = asyncio.create_task(backend.run())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await sessions.close()
            if history is not None:
                await history.close()

    return Service(backend, store, settings=settings.service()), beside


def _open(settings: StoreSettings) -> Store:
    """The store, which was tried.

    Raises:
        BadSettings: it cannot be used like this.
        StoreError: it does not work.
    """
    from penstock.storage.folder import FolderStore, Writer  # noqa: PLC0415
    from penstock.storage.objects import open_store  # noqa: PLC0415
    from penstock.storage.settings import BadSettings, Kind  # noqa: PLC0415

    if settings.kind is not Kind.FOLDER:
        import asyncio  # noqa: PLC0415

        asyncio.run(_check(settings))
        return open_store(settings)
    if settings.signing_keys is None:
        raise BadSettings("PENSTOCK_SIGNING_KEYS is not set: give it name:secret, the secret from openssl rand -hex 32")
    # URLs for people have no host: whoever asks knows under which name the gateway is reached.
    store = FolderStore(settings.folder, keys=settings.signing_keys, gateway_url="/")
    with Writer(store, "probe") as writer:
        writer.write(b"probe")
    store.sweep()
    return store


async def _check(settings: StoreSettings) -> None:
    from penstock.storage.objects import check, open_store  # noqa: PLC0415

    store = open_store(settings)
    try:
        await check(store, settings)
    finally:
        await store.close()


def _source(kubeconfig: Path | None, context: str | None) -> Source | None:
    """Where the cluster is, if there is one.

    Raises:
        CredentialsError: it cannot be read.
    """
    if kubeconfig is None and context is None and not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    from penstock.kube.credentials import find_source  # noqa: PLC0415

    source = find_source(os.environ, kubeconfig=kubeconfig, context=context)
    source.load()
    return source
