"""`penstock operator`: the process that brings executions forward on a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import click

from penstock.cli.main import ERROR, OK, USAGE, complain


@click.command("operator")
@click.option("--kubeconfig", type=click.Path(dir_okay=False, path_type=Path), help="Instead of the service account.")
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
def command(kubeconfig: Path | None, context: str | None) -> int:
    """Run the operator until it gets SIGTERM. All other settings are environment variables, see
    docs/reference/operator.md and, for the object store, docs/reference/storage.md.
    """
    try:
        import aiohttp  # noqa: F401, PLC0415
        import uvloop  # noqa: F401, PLC0415

        from penstock.kube.clients import import_kopf  # noqa: PLC0415

        import_kopf()
    except ImportError as error:
        complain(f"the operator needs more than is installed ({error.name}); install penstock[operator]")
        return USAGE
    import asyncio  # noqa: PLC0415
    import signal  # noqa: PLC0415

    from penstock.cli import longlived  # noqa: PLC0415
    from penstock.kube.credentials import CredentialsError, Sessions, find_source  # noqa: PLC0415
    from penstock.kube.logs import set_up  # noqa: PLC0415
    from penstock.kube.objectstore import opened  # noqa: PLC0415
    from penstock.kube.replica import LeaseLost, run  # noqa: PLC0415
    from penstock.kube.settings import BadSettings, from_environment  # noqa: PLC0415
    from penstock.storage import errors  # noqa: PLC0415
    from penstock.storage import settings as storage  # noqa: PLC0415

    try:
        settings = from_environment(os.environ)
        # Without one there are no files; that is said where a step has some.
        store = storage.from_environment(os.environ) if os.environ.get("PENSTOCK_STORE_URL") else None
    except (BadSettings, storage.BadSettings) as error:
        complain(str(error))
        return USAGE
    if settings.history_url:
        try:
            import penstock.kube.recording  # noqa: F401, PLC0415 - only what is used
        except ImportError as error:
            complain(f"PENSTOCK_HISTORY_URL needs more than is installed ({error.name}); install penstock[history]")
            return USAGE
    set_up(settings.log_format, settings.log_level)

    async def work() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def take_signals() -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)

        take_signals()
        sessions = Sessions(find_source(os.environ, kubeconfig=kubeconfig, context=context), near=True)
        if store is None:
            await run(settings, sessions, stop, take_signals=take_signals)
            return
        async with opened(store) as objects:
            await run(settings, sessions, stop, objects, take_signals=take_signals)

    try:
        longlived.run(work())
    except (BadSettings, storage.BadSettings) as error:
        complain(str(error))
        return USAGE
    except (LeaseLost, CredentialsError, errors.StoreError) as error:
        complain(str(error))
        return ERROR
    return OK
