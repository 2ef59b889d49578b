"""`penstock data`: people's own objects, on this machine or on a cluster."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from penstock.cli.cluster import NoObject, Refused, Where, lacking, where_options
from penstock.cli.main import ERROR, OK, complain, emit
from penstock.cli.options import gateway_options, home_option

if TYPE_CHECKING:
    from penstock.cli.stores import Data, Entry

F = TypeVar("F", bound=Callable[..., Any])

STREAM = "-"


def data_options(command: F) -> F:
    """Adds the options that say whose data store is meant; the command gets one `data`."""

    @functools.wraps(command)
    def wrapped(where: Where, cluster: bool, home: Path, gateway: str | None, token: str | None, **options: Any) -> int:
        if not cluster:
            sources = click.get_current_context().get_parameter_source
            given = [name for name in ("gateway", "token") if sources(name) is click.core.ParameterSource.COMMANDLINE]
            if given or where != Where():
                raise click.UsageError(
                    "--gateway, --token, --kubeconfig, --context, --namespace and --as say which cluster is meant and "
                    "who we are there; add --cluster."
                )
        elif (code := lacking()) is not None:
            return code
        try:
            return int(command(data=open_data(where, cluster, home, gateway, token), **options))
        except Refused as error:
            complain(str(error))
            return error.code

    found: Any = wrapped
    for option in (
        click.option("--cluster", is_flag=True, help="The data store of a namespace of a Kubernetes cluster."),
        home_option,
        gateway_options,
        where_options,
    ):
        found = option(found)
    return found  # type: ignore[no-any-return]  # click's options keep what they are given


def open_data(where: Where, cluster: bool, home: Path, gateway: str | None, token: str | None) -> Data:
    """The data store that is meant.

    Raises:
        Refused: there is no way to it.
        LocalError: the home cannot be used.
    """
    from penstock.cli.stores import ClusterData, LocalData  # noqa: PLC0415

    if cluster:
        from penstock.cli.gateway_client import find_gateway  # noqa: PLC0415

        return ClusterData(find_gateway(where, gateway, token))
    from penstock.local.home import Home  # noqa: PLC0415
    from penstock.local.objects import Objects  # noqa: PLC0415

    return LocalData(Objects(Home(home)))


@click.group("data", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Your own objects: files and folders by path, for `object:` in manifests and --input NAME=PATH.

    They are on this machine (--home), or with --cluster in the data store of a namespace, which its gateway leads to.
    """


@command.command("put")
@click.argument("files", nargs=-1, required=True, metavar="FILE… PATH")
@data_options
def put(data: Data, files: tuple[str, ...]) -> int:
    """Store FILE, a file or folder, at PATH; several, or where PATH ends with a slash, each by its name in PATH.

    A folder is one object. FILE - is standard input. What was at PATH is replaced, and whoever reads it meanwhile gets
    the old one whole.
    """
    *sources, target = files
    if not sources:
        raise click.UsageError("Say what to store and where: penstock data put FILE PATH.")
    into = target.endswith("/") or len(sources) > 1
    if STREAM in sources and into:
        raise click.UsageError("Standard input has no name: give the whole PATH, and no other FILE with it.")
    if missing := [source for source in sources if source != STREAM and not Path(source).exists()]:
        raise click.UsageError(f"There is no file or folder {missing[0]}.")
    names = [Path(source).resolve().name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise click.UsageError(f"Several of them are named {min(twice)}; store them one by one.")
    for source, name in zip(sources, names, strict=True):
        path = f"{target.rstrip('/')}/{name}" if into else target
        if source == STREAM:
            with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
                found = data.put(_spooled(Path(scratch)), path)
        else:
            found = data.put(Path(source), path)
        emit(_line(found))
    return OK


@command.command("get")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@click.option(
    "--output",
    "-o",
    metavar="FILE|FOLDER|-",
    help="Where to; - is standard output. By default each has its own name in the current folder.",
)
@click.option("--force", is_flag=True, help="Replace what is there already.")
@data_options
def get(data: Data, paths: tuple[str, ...], output: str | None, force: bool) -> int:
    """Fetch the objects at PATH….

    In PATH `*` and `?` stand for anything within a part of a path and `**` for any parts; what follows the part before
    the first of them is kept: `get 'raw/**' -o here` makes here/2026/a.csv of raw/2026/a.csv. Several objects, or
    one into a folder that is there, go into that folder. What comes is checked against its digest before it appears.
    """
    from penstock.cli.stores import placing, remove  # noqa: PLC0415

    wanted = _expanded(data, paths)
    if output == STREAM:
        if len(wanted) > 1:
            raise click.UsageError(f"{len(wanted)} objects fit; standard output takes one.")
        return _to_stdout(data, next(iter(wanted)))
    folder = Path(output or ".")
    into = output is None or output.endswith("/") or folder.is_dir() or len(wanted) > 1
    targets = {path: folder / name if into else folder for path, name in wanted.items()}
    if len(set(targets.values())) < len(targets):
        raise click.UsageError("Some of them would get the same name; fetch them one by one with --output.")
    if not force and (there := [target for target in targets.values() if os.path.lexists(target)]):
        raise click.UsageError(f"{there[0]} is there already; --force replaces it.")
    for path, target in targets.items():
        if os.path.lexists(target):
            # Fetched first: what is there stays until there is something to replace it with.
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".penstock-") as scratch:
                data.get(path, Path(scratch) / "new")
                remove(target)
                with placing(target) as place:
                    (Path(scratch) / "new").rename(place)
        else:
            data.get(path, target)
        emit(str(target))
    return OK


@command.command("ls")
@click.argument("path", default="", metavar="[PATH]")
@click.option(
    "--output", "-o", type=click.Choice(["table", "json", "name"]), default="table", help="How to print them."
)
@data_options
def ls(data: Data, path: str, output: str) -> int:
    """List the objects in the folder PATH and below, or those that fit a pattern; all by default."""
    from penstock.cli.stores import is_pattern, matching  # noqa: PLC0415

    entries: Iterable[Entry] = matching(data, path) if is_pattern(path) else data.list(path.strip("/"))
    if output == "name":
        for each in entries:
            emit(each.path)
        return OK
    if output == "json":
        emit(json.dumps([_object(each) for each in entries], indent=2, ensure_ascii=False))
        return OK
    from penstock.cli.columns import age, table  # noqa: PLC0415

    rows = [["BYTES", "AGE", "PATH"]]
    rows += [[f"{each.size:,}", age(_time(each), time.time()), _shown(each)] for each in entries]
    if len(rows) == 1:
        emit(f"no objects{f' in {path}' if path else ''}", err=True)
        return OK
    emit("\n".join(table(rows)))
    return OK


@command.command("rm")
@click.argument("paths", nargs=-1, required=True, metavar="PATH…")
@data_options
def rm(data: Data, paths: tuple[str, ...]) -> int:
    """Remove the objects at PATH…; in quotes, PATH may be a pattern: 'raw/*.csv', 'raw/**'."""
    for path in _expanded(data, paths):
        data.delete(path)
        emit(f"{path} removed")
    return OK


@command.command("info")
@click.argument("path", metavar="PATH")
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@data_options
def info(data: Data, path: str, output: str) -> int:
    """Show what is known of the object at PATH."""
    found = data.info(path)
    if output == "json":
        emit(json.dumps(_object(found), indent=2, ensure_ascii=False))
        return OK
    emit(f"path      {found.path}{' (folder)' if found.folder else ''}")
    emit(f"bytes     {found.size:,}")
    emit(f"modified  {_time(found)}")
    emit(f"sha256    {found.sha256 or 'not known: it was not put by penstock'}")
    return OK


def _expanded(data: Data, paths: Sequence[str]) -> dict[str, str]:
    """The objects that are meant, each with the name that it gets beside others.

    Raises:
        Refused: nothing fits a pattern.
    """
    from penstock.cli.stores import is_pattern, matching  # noqa: PLC0415

    found: dict[str, str] = {}
    for path in paths:
        if not is_pattern(path):
            found[path] = path.rstrip("/").rpartition("/")[2]
            continue
        entries = matching(data, path)
        if not entries:
            try:
                found[data.info(path).path] = path.rpartition("/")[2]  # a path may have such signs itself
            except NoObject:
                raise NoObject(f"no object fits {path}; see `penstock data ls`") from None
            continue
        before = min(path.index(sign) for sign in "*?[" if sign in path)
        fixed = path[:before].rpartition("/")[0]
        for each in entries:
            found[each.path] = each.path.removeprefix(f"{fixed}/") if fixed else each.path
    return found


def _spooled(folder: Path) -> Path:
    """Standard input as a file: stores want to know beforehand how large something is."""
    path = folder / "stdin"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    except OSError as error:
        raise Refused(f"standard input cannot be kept in {folder.parent}: {error.strerror}", ERROR) from None
    return path


def _to_stdout(data: Data, path: str) -> int:
    """Print an object, once all of it is here and is what it should be."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as scratch:
        place = Path(scratch) / "object"
        data.get(path, place)
        if place.is_dir():
            raise Refused(f"{path} is a folder, which cannot be printed; name a folder with --output")
        try:
            with place.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python has buffered would fail once more when it exits
            if not isinstance(error, BrokenPipeError):
                raise Refused(f"standard output cannot be written: {error.strerror}", ERROR) from None
    return OK


def _line(found: Entry) -> str:
    return f"{_shown(found)} ({found.size:,} bytes)"


def _shown(found: Entry) -> str:
    return f"{found.path}/" if found.folder else found.path


def _time(found: Entry) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    return "" if found.modified is None else datetime.fromtimestamp(found.modified, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _object(found: Entry) -> dict[str, Any]:
    shown = {"path": found.path, "size": found.size, "modified": _time(found)}
    shown |= {} if found.folder is None else {"folder": found.folder}
    return shown if found.sha256 is None else {**shown, "sha256": found.sha256}
