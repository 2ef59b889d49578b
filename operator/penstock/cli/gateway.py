"""`penstock gateway`: the process that serves people's files by an API, and a folder store's by signed URLs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.main import ERROR, OK, USAGE, complain

if TYPE_CHECKING:
    from penstock.gateway.access import Cluster
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
    help="Says which cluster decides who may use the API; in a pod, its own does. Its credentials are not used.",
)
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
def command(host: str, port: int, kubeconfig: Path | None, context: str | None) -> int:
    """Serve the API of the data store and of outputs, and the files of a folder store, until it gets SIGTERM.

    PENSTOCK_STORE_URL names the store, for a folder PENSTOCK_SIGNING_KEYS the keys; see docs/object-storage.md. Outside
    of a cluster and without --kubeconfig there is no API.
    """
    try:
        import aiohttp  # noqa: F401, PLC0415
        import fastapi  # noqa: F401, PLC0415
        import uvicorn  # noqa: PLC0415
    except ImportError as error:
        complain(f'the gateway needs more than is installed ({error.name}); install "penstock[operator,gateway]"')
        return USAGE
    from penstock.gateway.app import application  # noqa: PLC0415
    from penstock.kube.access import CredentialsError  # noqa: PLC0415
    from penstock.kube.logs import set_up  # noqa: PLC0415
    from penstock.kube.settings import LogFormat  # noqa: PLC0415
    from penstock.storage.errors import StoreError  # noqa: PLC0415
    from penstock.storage.settings import BadSettings, from_environment  # noqa: PLC0415

    settings: StoreSettings | None = None
    try:
        settings = from_environment(os.environ)
        store = _open(settings)
        cluster = _cluster(kubeconfig, context)
    except (BadSettings, CredentialsError) as error:
        complain(str(error))
        return USAGE
    except StoreError as error:
        complain(f"PENSTOCK_STORE_URL={settings.store_url if settings else ''}: {error}")
        return ERROR
    log_format = LogFormat.TEXT if os.environ.get("PENSTOCK_LOG_FORMAT") == "text" else LogFormat.JSON
    set_up(log_format, os.environ.get("PENSTOCK_LOG_LEVEL") or "INFO")
    server = uvicorn.Server(
        uvicorn.Config(
            application(store, settings.signing_keys, cluster, max_file_bytes=settings.max_file_bytes),
            host=host,
            port=port,
            access_log=False,  # it would hold signed URLs
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=30,
        )
    )
    # The server sends itself once more what ended it; it has ended in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run()
    return OK if server.started else ERROR


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


def _cluster(kubeconfig: Path | None, context: str | None) -> Cluster | None:
    """The cluster that decides who may use the API, if there is one."""
    if kubeconfig is None and context is None and not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    from penstock.gateway.access import Cluster  # noqa: PLC0415
    from penstock.kube.credentials import find_source  # noqa: PLC0415

    source = find_source(os.environ, kubeconfig=kubeconfig, context=context)
    source.load()
    return Cluster(source)
