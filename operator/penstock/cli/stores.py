"""One way to people's objects, wherever they are: the data store of this machine, or that of a namespace of a cluster.

Nothing here prints. Paths are those of the data store, without slashes at their ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from penstock.cli.cluster import NoObject, Refused
from penstock.cli.main import ERROR

if TYPE_CHECKING:
    from penstock.cli.gateway_client import Gateway
    from penstock.engine.types import File
    from penstock.local.objects import Objects

_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object.

    Attributes:
        path: where it is.
        size: bytes of its content; in a listing of a cluster, of what is stored.
        modified: when it was written, seconds since the epoch; None where nobody says.
        folder: whether it is a folder; None where a listing does not know.
        sha256: digest of its content; None where it was not asked for, or is not known.
    """

    path: str
    size: int
    modified: float | None
    folder: bool | None
    sha256: str | None = None


class Data(Protocol):
    """A data store. All methods raise `Refused` or `LocalError` with a sentence for people."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects in a folder and below, in the order of their paths; empty: all."""

    def info(self, path: str) -> Entry:
        """All that is known of an object."""

    def put(self, source: Path, path: str) -> Entry:
        """Store a file or folder as one object; what was there is replaced."""

    def get(self, path: str, target: Path) -> None:
        """Fetch an object to a place where nothing is yet; it appears there whole, checked, or not at all."""

    def delete(self, path: str) -> None:
        """Remove an object."""


class LocalData:
    """The data store of a home.

    Args:
        objects: the home's objects.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Data`."""
        for each in self._objects.list_data(prefix):
            yield Entry(each.path, each.size, each.modified, each.folder)

    def info(self, path: str) -> Entry:
        """See `Data`."""
        file = self._file(path)
        modified = self._objects.path(file).stat().st_mtime
        return Entry(file.key.partition("/")[2], file.size, modified, file.folder, file.sha256)

    def _file(self, path: str) -> File:
        from penstock.local.home import NotFound  # noqa: PLC0415

        try:
            return self._objects.data(path, place="PATH")
        except NotFound:
            raise NoObject(f"there is no object {path!r} in the data store; see `penstock data ls`") from None

    def put(self, source: Path, path: str) -> Entry:
        """See `Data`."""
        file = self._objects.put_data(source, path)
        return Entry(file.key.partition("/")[2], file.size, None, file.folder, file.sha256)

    def get(self, path: str, target: Path) -> None:
        """See `Data`."""
        file = self._file(path)
        with placing(target) as place:
            self._objects.copy_out(file, place)

    def delete(self, path: str) -> None:
        """See `Data`."""
        self._objects.delete_data(path)


class ClusterData:
    """The data store of a namespace of a cluster.

    Args:
        gateway: the cluster's.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Data`."""
        for each in self._gateway.objects(prefix):
            yield Entry(each["path"], each["size"], each["modified"], None)

    def info(self, path: str) -> Entry:
        """See `Data`."""
        found = self._gateway.info(path)
        return Entry(found["path"], found["size"], found["modified"], found["folder"], found.get("sha256"))

    def put(self, source: Path, path: str) -> Entry:
        """See `Data`."""
        from penstock.cli.transfers import upload  # noqa: PLC0415
        from penstock.local.objects import usage  # noqa: PLC0415

        folder = source.is_dir()
        size = usage(source.resolve())[0]
        plan = self._gateway.begin(path, size=size, folder=folder)
        written = upload(plan, source, label=path, size=size, folder=folder)
        found = self._gateway.record(path, written._asdict())
        return Entry(found["path"], found["size"], found["modified"], found["folder"], found["sha256"])

    def add_input(self, source: Path) -> tuple[str, bool]:
        """Store a file or folder by its content, once; gives its path and whether it is new there.

        Raises:
            Refused: it cannot be read or stored.
        """
        from penstock.step.digest import UnsafePath, digest  # noqa: PLC0415

        try:
            known = digest(source)
        except UnsafePath as error:
            raise Refused(str(error)) from None
        except OSError as error:
            raise Refused(f"{error.filename or source}: cannot be read: {error.strerror or error}") from None
        name = source.resolve().name or "folder"
        path = f"uploads/{known.sha256}/{name}"
        try:
            if self.info(path).sha256 == known.sha256:
                return path, False
        except NoObject:
            pass
        if self.put(source, path).sha256 != known.sha256:
            raise Refused(f"{source}: changed while it was read; end what writes to it")
        return path, True

    def get(self, path: str, target: Path) -> None:
        """See `Data`."""
        from penstock.cli.transfers import download  # noqa: PLC0415

        found = self._gateway.info(path, transfers=True)
        with placing(target) as place:
            download(found["transfers"], place.parent, label=path, size=found["size"])
            (place.parent / "object").rename(place)

    def delete(self, path: str) -> None:
        """See `Data`."""
        self._gateway.delete(path)


@contextlib.contextmanager
def placing(target: Path) -> Iterator[Path]:
    """A place beside `target` for a file or folder that gets its name in the end, unless something is there by then.

    Raises:
        Refused: something is there, or nothing can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".penstock-") as scratch:
            place = Path(scratch) / "new"
            yield place
            if place.is_dir():
                target.mkdir()  # fails if anything is there; an empty folder is what a folder may replace
                place.rename(target)
            else:
                _link(place, target)
    except FileExistsError as error:
        raise Refused(f"{error.filename2 or error.filename or target} is there already") from None
    except OSError as error:
        raise Refused(f"{error.filename or target}: {error.strerror or error}", ERROR) from None


def _link(place: Path, target: Path) -> None:
    try:
        os.link(place, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK} or os.path.lexists(target):
            raise
        place.rename(target)  # not every file system has links


def remove(path: Path) -> None:
    """Remove a file or folder that is to be replaced."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_pattern(path: str) -> bool:
    """Whether a path stands for all that fit it."""
    return _WILD.search(path) is not None


def matching(data: Data, pattern: str) -> list[Entry]:
    """The objects whose paths fit a pattern: `*` and `?` stay within a part of the path, `**` does not."""
    fixed = pattern[: _WILD.search(pattern).start()] if is_pattern(pattern) else pattern  # type: ignore[union-attr]
    fits = _compiled(pattern)
    return [entry for entry in data.list(fixed.rpartition("/")[0]) if fits.fullmatch(entry.path)]


def _compiled(pattern: str) -> re.Pattern[str]:
    text, position = "", 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/"):
            text, position = text + "(?:.*/)?", position + 3
        elif rest.startswith("**"):
            text, position = text + ".*", position + 2
        elif rest[0] == "*":
            text, position = text + "[^/]*", position + 1
        elif rest[0] == "?":
            text, position = text + "[^/]", position + 1
        elif rest[0] == "[" and "]" in rest[2:]:
            end = rest.index("]", 2)
            inside = rest[1:end].replace("\\", "\\\\").replace("[", "\\[")
            inside = "^/" + inside[1:] if inside.startswith("!") else inside.replace("^", "\\^")
            text, position = f"{text}[{inside}]", position + end + 1
        else:
            text, position = text + re.escape(rest[0]), position + 1
    try:
        return re.compile(text, re.DOTALL)
    except re.error:
        raise Refused(f"{pattern!r} is not a pattern: check what stands in brackets") from None
