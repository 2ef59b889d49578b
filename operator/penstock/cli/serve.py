"""`penstock serve`: deployments, schedules, endpoints and the API on this machine, without a cluster."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.main import ERROR, OK, USAGE, complain, emit
from penstock.cli.options import home_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.api.manifest import Document
    from penstock.gateway.settings import GatewaySettings
    from penstock.gateway.standalone import Standalone
    from penstock.local.home import Home
    from penstock.local.session import Settings

NEEDS = '`penstock serve` needs more than is installed ({name}); run: pip install "penstock[operator,gateway,history]"'
_TOKEN_BYTES = 32


@click.command("serve")
@click.argument("files", nargs=-1, metavar="[FILE…]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8700, show_default=True, help="0: one that is free.")
@home_option
@click.option(
    "--runner",
    type=click.Choice(["process", "docker", "podman"]),
    default="process",
    help="Run steps as processes of this machine, or in containers.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 1_000), metavar="N", help="Attempts at once; the number of CPUs by default."
)
def command(files: tuple[str, ...], host: str, port: int, home: Path, runner: str, parallel: int | None) -> int:
    """Keep deployments on this machine: schedules, endpoints, the REST API and what the SDK needs.

    FILE is a manifest or a folder of them (Pipeline, Deployment, Execution, and ConfigMap or Secret for their values);
    all are applied at the start, what was applied before stays. In another terminal, `--local` makes the commands for
    clusters mean this: `penstock apply --local`, `penstock get executions --local`, `penstock trigger NAME --local`.

    Ctrl-C ends it. What runs goes on, and is taken up at the next start, as are schedules: times that were missed count
    as `catchUp` says. Everything is in the home: SQLite, logs, files, and the token that opens the API.
    """
    try:
        import aiohttp  # noqa: F401, PLC0415
        import aiosqlite  # noqa: F401, PLC0415
        import alembic  # noqa: F401, PLC0415
        import fastapi  # noqa: F401, PLC0415
        import obstore  # noqa: F401, PLC0415
        import python_multipart  # noqa: F401, PLC0415
        import uvicorn  # noqa: F401, PLC0415
        import uvloop  # noqa: F401, PLC0415
    except ImportError as error:
        complain(NEEDS.format(name=error.name))
        return USAGE
    from penstock.cli import longlived  # noqa: PLC0415
    from penstock.gateway.settings import from_environment  # noqa: PLC0415
    from penstock.kube.settings import BadSettings  # noqa: PLC0415
    from penstock.local.home import Home, Lock  # noqa: PLC0415
    from penstock.local.session import Settings  # noqa: PLC0415

    documents = _documents(files)
    try:
        settings = from_environment(os.environ)
    except BadSettings as error:
        complain(str(error))
        return USAGE
    with ExitStack() as held:
        place = Home(home)
        held.enter_context(Lock(place.root / ".serve.lock", place, f"{place.root} is served"))
        try:
            listening = held.enter_context(socket.create_server((host, port), backlog=2048))
        except OSError as error:
            why = error.strerror or str(error)
            complain(f"--port {port}: cannot listen on {host} ({why}); choose another one, 0 for any that is free")
            return USAGE
        at = _url(host, listening.getsockname()[1])
        session = Settings(home=home, runner=runner, parallel=parallel, limits=settings.service().limits)
        return longlived.run(_serve(session, settings, place, listening, at, documents))


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _documents(files: Sequence[str]) -> list[Document]:
    """What is to be applied.

    Raises:
        InvalidManifest: something is not right.
    """
    if not files:
        return []
    from penstock.cli.local_run import read  # noqa: PLC0415

    return read(files)


async def _serve(
    session: Settings,
    settings: GatewaySettings,
    home: Home,
    listening: socket.socket,
    at: str,
    documents: Sequence[Document],
) -> int:
    import asyncio  # noqa: PLC0415

    import uvicorn  # noqa: PLC0415

    from penstock.cli.cluster import Cluster, Refused, explained  # noqa: PLC0415
    from penstock.controller.loop import until_one_ends  # noqa: PLC0415
    from penstock.controller.ports import Halt  # noqa: PLC0415
    from penstock.gateway.server import Server  # noqa: PLC0415
    from penstock.gateway.standalone import API_BASE, Standalone, prepared_history  # noqa: PLC0415
    from penstock.kube.errors import ApiError  # noqa: PLC0415
    from penstock.kube.settings import BadSettings  # noqa: PLC0415

    token = _token(home)
    try:
        history = await prepared_history(session.home, os.environ.get("PENSTOCK_HISTORY_URL", ""))
        machine = Standalone(
            session,
            token=token,
            url=settings.public_url or at,
            service=settings.service(),
            on_trouble=complain,
            history_url=history,
        )
    except BadSettings as error:
        complain(str(error))
        return USAGE
    try:
        cluster = Cluster(client=machine.client, transport=machine.transport, namespace="default", chosen=False)
        try:
            await _apply(cluster, documents)
        except Refused as error:
            complain(str(error))
            return error.code
        except ApiError as error:
            complain(str(explained(error)))
            return USAGE
        _write_kubeconfig(home, at + API_BASE, token)
        await _greet(machine, at, home)
        config = uvicorn.Config(
            machine.app,
            access_log=False,  # it would hold tokens that came in queries
            log_config=None,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        server = Server(config, machine.service, drain_seconds=0.0)
        # The server sends itself once more what ended it; it has ended in order.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        tasks = [asyncio.create_task(machine.run()), asyncio.create_task(server.serve(sockets=[listening]))]
        await until_one_ends(tasks)
    except Halt as error:
        complain(str(error))
        return ERROR
    finally:
        await machine.close()
    return OK


def _token(home: Home) -> str:
    """The token that opens the API of a home; made at the first start, and nobody else may read it."""
    path = home.root / "token"
    if not path.exists():
        _write_privately(path, secrets.token_urlsafe(_TOKEN_BYTES))
    return path.read_text("ascii").strip()


def _write_privately(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    fresh.replace(path)


def _write_kubeconfig(home: Home, server: str, token: str) -> None:
    """What `--local` reads to find this."""
    import yaml  # noqa: PLC0415

    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server}}],
        "users": [{"name": "local", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "local", "namespace": "default"}}],
        "current-context": "local",
    }
    _write_privately(home.root / "kubeconfig", yaml.safe_dump(found))


async def _apply(cluster: Any, documents: Sequence[Document]) -> None:
    """Apply manifests as `penstock apply --local` does.

    Raises:
        Refused, ApiError: something is not taken.
    """
    from penstock.cli.apply import apply_all, to_apply  # noqa: PLC0415

    for line in await apply_all(cluster, to_apply(documents, local=True), local=True):
        emit(line)


async def _greet(machine: Standalone, at: str, home: Home) -> None:
    """Say what there is and how to go on."""
    from penstock.kube.resources import DEPLOYMENTS  # noqa: PLC0415

    complain(f"serving {at} from {home.root}; Ctrl-C ends it")
    found = await machine.client.list(DEPLOYMENTS, namespace="default", keep=lambda body: body)
    for body in found.items:
        name, spec = body["metadata"]["name"], body["spec"]
        if "endpoint" in spec:
            complain(f"endpoint {name}: POST {at}/endpoints/{spec['endpoint']['path']}")
            complain(f"    its token: penstock token show {name} --local")
        else:
            complain(f"schedule {name}: {spec['schedule']['cron']}; see penstock describe deployment/{name} --local")
    if not found.items:
        complain("there are no deployments yet: penstock apply --local FILE")
