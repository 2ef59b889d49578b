"""`penstock gateway`: the process that serves the files of a folder store by signed URLs."""

from __future__ import annotations

import os
import signal

import click

from penstock.cli.main import ERROR, OK, USAGE, complain


@click.command("gateway")
@click.option(
    "--host",
    default="0.0.0.0",  # noqa: S104 - a pod is reached by its address
    show_default=True,
    envvar="PENSTOCK_GATEWAY_HOST",
    help="Address to listen on.",
)
@click.option("--port", type=click.IntRange(1, 65_535), default=8080, show_default=True, envvar="PENSTOCK_GATEWAY_PORT")
def command(host: str, port: int) -> int:
    """Serve the files of a folder store until it gets SIGTERM.

    PENSTOCK_STORE_URL=file:///… names the folder, PENSTOCK_SIGNING_KEYS the keys; see docs/object-storage.md.
    """
    try:
        import starlette  # noqa: F401, PLC0415
        import uvicorn  # noqa: PLC0415
    except ImportError as error:
        complain(f"the gateway needs more than is installed ({error.name}); install penstock[gateway]")
        return USAGE
    from penstock.gateway.files import application  # noqa: PLC0415
    from penstock.kube.logs import set_up  # noqa: PLC0415
    from penstock.kube.settings import LogFormat  # noqa: PLC0415
    from penstock.storage.errors import StoreError  # noqa: PLC0415
    from penstock.storage.folder import FolderStore, Writer  # noqa: PLC0415
    from penstock.storage.settings import BadSettings, Kind, from_environment  # noqa: PLC0415

    try:
        settings = from_environment(os.environ)
        if settings.kind is not Kind.FOLDER:
            raise BadSettings(
                f"PENSTOCK_STORE_URL={settings.store_url}: pods reach this store themselves; the gateway serves "
                "folders (file:///path)"
            )
        if settings.signing_keys is None:
            raise BadSettings(
                "PENSTOCK_SIGNING_KEYS is not set: give it name:secret, the secret from openssl rand -hex 32"
            )
        store = FolderStore(settings.folder)
        with Writer(store, "probe") as writer:
            writer.write(b"probe")
        store.sweep()
    except BadSettings as error:
        complain(str(error))
        return USAGE
    except StoreError as error:
        complain(f"PENSTOCK_STORE_URL={settings.store_url}: {error}")
        return ERROR
    log_format = LogFormat.TEXT if os.environ.get("PENSTOCK_LOG_FORMAT") == "text" else LogFormat.JSON
    set_up(log_format, os.environ.get("PENSTOCK_LOG_LEVEL") or "INFO")
    server = uvicorn.Server(
        uvicorn.Config(
            application(store, settings.signing_keys),
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
