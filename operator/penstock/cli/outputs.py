"""`penstock get outputs`: the outputs of a finished execution in a folder, of this machine or of a cluster."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Refused, Where, lacking, targets
from penstock.cli.main import ERROR, OK, complain, emit
from penstock.cli.stores import placing, remove
from penstock.engine.types import File
from penstock.kube.resources import EXECUTIONS

if TYPE_CHECKING:
    from penstock.engine.types import Value

Fetch = Callable[[str, File, str, Path], None]
"""Given the name of an output, a file of it, its index (empty where there is but one) and where to put it."""


def get_outputs(
    where: Where,
    words: Sequence[str],
    output: str | None,
    *,
    force: bool,
    home: Path,
    gateway: str | None,
    token: str | None,
) -> int:
    """Fetch or print the outputs of an execution; gives the exit code.

    Args:
        where: which cluster and namespace.
        words: the execution.
        output: the folder; None: print them.
        force: replace what is there.
        home: where this machine keeps executions.
        gateway: where the cluster's gateway is.
        token: who we are there.
    """
    named = targets(words, EXECUTIONS)
    if len(named) != 1 or named[0][0] is not EXECUTIONS:
        raise click.UsageError("Name one execution: penstock get outputs EXECUTION -o FOLDER.")
    name = named[0][1]
    folder = None if output is None else Path(output)
    chosen = click.get_current_context().get_parameter_source("home") is click.core.ParameterSource.COMMANDLINE
    try:
        if where.local or chosen:
            if where not in {Where(), Where(local=True)}:
                raise click.UsageError("--local means this machine: leave out the options that name a cluster.")
            return _local(home, name, folder, force)
        if (code := lacking()) is not None:
            return code
        return _cluster(where, name, folder, force, gateway, token)
    except Refused as error:
        complain(str(error))
        return error.code


def _local(home: Path, name: str, folder: Path | None, force: bool) -> int:
    from penstock.controller.contract import SystemClock  # noqa: PLC0415
    from penstock.engine.status import load_values  # noqa: PLC0415
    from penstock.local.database import Database  # noqa: PLC0415
    from penstock.local.home import Home, NotFound, RandomIds  # noqa: PLC0415
    from penstock.local.objects import Objects  # noqa: PLC0415
    from penstock.local.store import Store  # noqa: PLC0415

    if not home.is_dir():
        raise click.UsageError(f"There is no folder {home}; name the one of your runs with --home.")
    found_home = Home(home)
    objects = Objects(found_home)
    database = Database(found_home)
    try:
        store = Store(database, objects, clock=SystemClock(), ids=RandomIds())
        body = store.get(store.find(name))
    finally:
        database.close()

    def fetch(_: str, file: File, __: str, target: Path) -> None:
        try:
            objects.copy_out(file, target)
        except NotFound as error:
            raise Refused(str(error), ERROR) from None

    status = body.get("status") or {}
    values = load_values(status.get("outputs") or [])
    _check_finished(name, status)
    return _deliver(values, folder, force, fetch, objects.path)


def _cluster(where: Where, name: str, folder: Path | None, force: bool, gateway: str | None, token: str | None) -> int:
    from penstock.cli.cluster import fetch as fetch_object  # noqa: PLC0415
    from penstock.cli.cluster import on_cluster  # noqa: PLC0415
    from penstock.cli.gateway_client import find_gateway  # noqa: PLC0415
    from penstock.cli.transfers import download  # noqa: PLC0415
    from penstock.engine.status import load_values  # noqa: PLC0415
    from penstock.storage.cache import files_of  # noqa: PLC0415

    found: list[tuple[str, dict[str, Any]]] = []

    async def work(cluster: Any) -> int:
        body = await fetch_object(cluster, EXECUTIONS, name)
        found.append((cluster.namespace, body.get("status") or {}))
        return OK

    if code := on_cluster(where, work):
        return code
    namespace, status = found[0]
    _check_finished(name, status)
    values = load_values(status.get("outputs") or [])
    plan: dict[str, Any] = {}
    # Values alone need no gateway.
    if folder is not None and any(files_of(values.values())):
        plan = find_gateway(where, gateway, token, namespace=namespace).outputs(name)["transfers"]

    def fetch(output: str, file: File, index: str, target: Path) -> None:
        wanted = [entry for entry in plan["inputs"] if (entry["name"], str(entry.get("index", ""))) == (output, index)]
        if not wanted:
            raise Refused(f'execution "{name}" was replaced while its outputs were fetched; try again')
        one = {key: value for key, value in wanted[0].items() if key != "index"} | {"name": "object"}
        download(plan | {"inputs": [one]}, target.parent, label=f"{output}{index and '/' + index}", size=file.size)
        (target.parent / "object").rename(target)

    return _deliver(values, folder, force, fetch, lambda file: Path(file.key))


def _check_finished(name: str, status: Mapping[str, Any]) -> None:
    phase = status.get("phase") or "Pending"
    if status.get("outputs"):
        return
    if phase in {"Succeeded", "Failed", "Error", "Cancelled"}:
        raise Refused(f'execution "{name}" has no outputs: it is {phase}')
    raise Refused(f'execution "{name}" has no outputs so far: it is {phase}')


def _deliver(
    values: Mapping[str, Value], folder: Path | None, force: bool, fetch: Fetch, place_of: Callable[[File], Path]
) -> int:
    if folder is None:
        from penstock.cli.result import shown  # noqa: PLC0415

        width = max(len(name) for name in values)
        for name, value in values.items():
            emit(f"{name:<{width}}  {shown(value, place_of)}")
        return OK
    targets_of = {name: folder / _file_name(name, value) for name, value in values.items()}
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"{folder} is a file; name a folder.")
    if not force and (there := [target for target in targets_of.values() if os.path.lexists(target)]):
        raise click.UsageError(f"{there[0]} is there already; --force replaces it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}", ERROR) from None
    for name, value in values.items():
        target = targets_of[name]
        with tempfile.TemporaryDirectory(dir=folder, prefix=".penstock-") as scratch:
            made = Path(scratch) / "made"
            _write(name, value, made, fetch)
            if os.path.lexists(target):
                if not force:
                    raise Refused(f"{target} is there already; --force replaces it")
                remove(target)
            with placing(target) as place:
                made.rename(place)
        emit(str(target))
    return OK


def _file_name(name: str, value: Value) -> str:
    if isinstance(value, File) or _is_files(value):
        return name
    return f"{name}.txt" if isinstance(value, str) else f"{name}.json"


def _is_files(value: Value) -> bool:
    return isinstance(value, list) and any(isinstance(item, File) for item in value)


def _write(name: str, value: Value, target: Path, fetch: Fetch) -> None:
    if isinstance(value, File):
        fetch(name, value, "", target)
    elif isinstance(value, list) and _is_files(value):
        target.mkdir()
        for index, item in enumerate(value):
            if isinstance(item, File):
                with placing(target / str(index)) as place:
                    fetch(name, item, str(index), place)
    elif isinstance(value, str):
        target.write_text(value, encoding="utf-8", errors="surrogatepass", newline="")
    else:
        target.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
