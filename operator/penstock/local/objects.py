"""Files and folders on this machine: what steps gave (`objects/`) and the user's own data (`datastore/`).

A key is that of `storage.paths`: `data/<path>` for the user's objects, `executions/<uid>/…/<name>` for what an attempt
gave. What steps gave cannot be written any more. Nothing here knows of executions or of SQL.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.engine.types import File
from penstock.local.home import BadObjectPath, Home, NotFound, full_disk, is_full
from penstock.step.digest import digest
from penstock.storage import errors, paths

_DATA = f"{paths.DATA}/"
_EXECUTIONS = f"{paths.EXECUTIONS}/"
_UPLOADS = "uploads"
NEW = ".new-"
"""What the names of unfinished copies begin with, and of folders in which files are made."""


@dataclass(frozen=True, slots=True)
class DataEntry:
    """An object in the data store, as a listing has it.

    Attributes:
        path: where it is.
        size: bytes of its content.
        modified: when it was written, seconds since the epoch.
        folder: whether it is a folder.
    """

    path: str
    size: int
    modified: float
    folder: bool


class Objects:
    """The object store of one home.

    Args:
        home: the home.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def path(self, file: File) -> Path:
        """Where a file or folder is. It may not be there: see `exists`."""
        return self._place(file.key)

    def exists(self, file: File) -> bool:
        """Whether it is there, of the right kind and, for a file, of the right size; its content is not read."""
        try:
            found = self._place(file.key)
            return found.is_dir() if file.folder else found.is_file() and found.stat().st_size == file.size
        except (OSError, BadObjectPath):
            return False

    def verify(self, file: File) -> bool:
        """Whether it is there with the content that its digest names; reads all of it."""
        if not self.exists(file):
            return False
        return _describe(self._place(file.key), file.key).sha256 == file.sha256

    def put(self, path: Path, key: str) -> File:
        """Take a file or folder into the store: moved if possible, else copied. Visible as a whole or not at all.

        Args:
            path: what to take; gone afterwards. A symbolic link stands for what it points to, which stays.
            key: where it is to be; what was there is replaced.

        Raises:
            OSError: it cannot be read.
            StoreFull: there is no space left.
        """
        target = self._place(key)
        with self._full_in_words():
            target.parent.mkdir(parents=True, exist_ok=True)
            remove(target)
            if path.is_symlink():
                self._copy(path.resolve(strict=True), target)
                path.unlink()
            elif not _rename(path, target):
                self._copy(path, target)
                remove(path)
            freeze(target)
        return _describe(target, key)

    def take_back(self, key: str, path: Path) -> None:
        """Undo a `put` that was not recorded: moves the object back to `path` if it is there and `path` is not."""
        target = self._place(key)
        if path.exists() or path.is_symlink() or not target.exists():
            return
        if target.is_dir():
            target.chmod(0o755)  # moving a folder writes to it: its `..`
        target.rename(path)

    def data(self, path: str, *, place: str = "object") -> File:
        """The user's object with this path in the data store.

        Args:
            path: its path, parts separated by `/`.
            place: what names the object, for the message.

        Raises:
            NotFound: it is not there.
            BadObjectPath: the path does not name a place inside the data store.
        """
        found = self._data_path(path, place)
        if not found.exists():
            raise NotFound(
                f"{place}: there is no object {path!r} in the data store; put the file at {found}, or give a file "
                "with --input <name>=@<file>"
            )
        return _describe(found, _DATA + "/".join(_parts(path, place)))

    def list_data(self, prefix: str = "") -> Iterator[DataEntry]:
        """The objects in a folder of the data store and below, in the order of their paths.

        A folder that cannot be written is one object: what is put and uploaded here is. One that can be written holds
        objects.

        Args:
            prefix: path of the folder; empty: all.

        Raises:
            BadObjectPath: the path does not name a place inside the data store.
        """
        top = self._home.datastore
        at = self._data_path(prefix, "PATH") if prefix.strip("/") else top
        if at.is_dir() and (at == top or not is_object(at)):
            yield from _entries(at, top)

    def put_data(self, source: Path, path: str) -> File:
        """Copy a file or folder into the data store, as one object; what was at the path is replaced.

        Args:
            source: what to copy.
            path: where to.

        Raises:
            BadObjectPath: no object can be at the path.
            NotFound: there is no such file or folder, or it cannot be read.
            StoreFull: there is no space left.
        """
        target = self._data_path(path, "PATH")
        key = "/".join(_parts(path, "PATH"))
        for part in [*target.relative_to(self._home.datastore).parents][:-1]:
            above = self._home.datastore / part
            if above.exists() and (not above.is_dir() or is_object(above)):
                raise BadObjectPath(f"{path!r}: {part.as_posix()!r} is an object already, so nothing can be below it")
        if target.is_dir() and not is_object(target):
            raise BadObjectPath(f"{path!r} is a folder that holds objects; name a path in it, or remove them first")
        try:
            with tempfile.TemporaryDirectory(dir=self._home.datastore, prefix=NEW) as scratch:
                copy = Path(scratch) / "new"
                copy_tree(source, copy)
                found = _describe(copy, _DATA + key)
                freeze(copy)
                target.parent.mkdir(parents=True, exist_ok=True)
                install(copy, target)
        except OSError as error:
            if is_full(error):
                raise full_disk(self._home.root) from error
            raise NotFound(f"{error.filename or source}: {error.strerror or error}; check its permissions") from error
        return found

    def delete_data(self, path: str) -> None:
        """Remove an object from the data store, and folders that become empty.

        Raises:
            NotFound: it is not there.
            BadObjectPath: the path does not name an object.
        """
        found = self._data_path(path, "PATH")
        if not found.exists():
            raise NotFound(f"there is no object {path!r} in the data store")
        if found.is_dir() and not is_object(found):
            raise BadObjectPath(
                f"{path!r} is a folder that holds objects; to remove them all, name {path.rstrip('/')}/**"
            )
        take_out(found, self._home.datastore)

    def copy_out(self, file: File, target: Path) -> None:
        """Copy a file or folder out of the store, once it is certain that it is what was recorded.

        Args:
            file: what to copy.
            target: where to; must not exist.

        Raises:
            NotFound: it is gone, or is something else by now.
            OSError: it cannot be written.
        """
        if not self.verify(file):
            raise NotFound(f"{self.path(file)}: is gone, or was changed since it was taken in")
        copy_tree(self.path(file), target)
        _thaw(target)

    def add_input(self, path: Path) -> str:
        """Copy a user's file or folder into the data store, by content: the same content is stored once.

        Returns:
            Its object path, `uploads/<sha256>/<name>`.

        Raises:
            NotFound: there is no such file or folder, or it cannot be read.
            StoreFull: there is no space left.
        """
        if not path.exists():
            raise NotFound(f"{path}: there is no such file or folder")
        try:
            return self._upload(path.resolve())
        except OSError as error:
            if is_full(error):
                raise full_disk(self._home.root) from error
            raise NotFound(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error

    def _upload(self, path: Path) -> str:
        name = path.name or "folder"
        uploads = self._home.datastore / _UPLOADS
        known = _describe(path, name).sha256
        if not (uploads / known / name).exists():
            uploads.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=uploads, prefix=NEW) as scratch:
                copy = Path(scratch) / name
                copy_tree(path, copy)
                known = _describe(copy, name).sha256  # of what was copied: the original may have changed meanwhile
                (uploads / known).mkdir(exist_ok=True)
                _rename(copy, uploads / known / name)
                freeze(uploads / known / name)
        return f"{_UPLOADS}/{known}/{name}"

    def _place(self, key: str) -> Path:
        if key.startswith(_DATA):
            return self._data_path(key.removeprefix(_DATA), "object")
        return self._home.objects.joinpath(*_parts(below_objects(key), "object"))

    def _data_path(self, path: str, place: str) -> Path:
        found = self._home.datastore.joinpath(*_parts(path, place))
        # A link inside the data store must not lead out of it either.
        if not found.resolve().is_relative_to(self._home.datastore.resolve()):
            raise BadObjectPath(f"{place}: {path!r} leads out of the data store; copy the data into it")
        return found

    def _copy(self, source: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=NEW) as scratch:
            copy = Path(scratch) / target.name
            copy_tree(source, copy)
            _rename(copy, target)

    @contextmanager
    def _full_in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_full(error):
                raise full_disk(self._home.root) from error
            raise


def below_objects(key: str) -> str:
    """Where in `objects/` the file with this key is: `<uid>/…`, which was the whole key in earlier versions."""
    return key.removeprefix(_EXECUTIONS)


def _describe(path: Path, key: str) -> File:
    found = digest(path)
    return File(key=key, sha256=found.sha256, size=found.size, folder=found.folder)


def _parts(path: str, place: str) -> tuple[str, ...]:
    try:
        return paths.parts(path)
    except errors.BadObjectPath as error:
        raise BadObjectPath(f"{place}: {error}") from None


def _rename(source: Path, target: Path) -> bool:
    """Move within one disk; False where that is not possible. A target that is there already is as good."""
    if os.lstat(source).st_dev != os.lstat(target.parent).st_dev:
        return False
    try:
        source.rename(target)
    except OSError:
        if not target.exists():
            raise
        remove(source)
    return True


def is_object(folder: Path) -> bool:
    """Whether a folder of the data store is one object, and not one that holds objects."""
    return not folder.stat().st_mode & stat.S_IWUSR


def install(copy: Path, target: Path) -> None:
    """Put a finished file or folder where an object is to be; what was there is replaced.

    A folder that cannot be written can be renamed, but not moved to another folder. So the last step is always a
    change of a name in one folder: nobody ever sees an object that could be written, and would be a folder of objects.

    Args:
        copy: what to put there, on the same disk; gone afterwards.
        target: where, in a folder that is there.

    Raises:
        IsADirectoryError: a folder that holds objects is there.
    """
    if not copy.is_dir() and not target.is_dir():
        copy.replace(target)
        return
    if target.is_dir() and not target.is_symlink() and not is_object(target):
        raise IsADirectoryError(errno.EISDIR, "is a folder that holds objects", str(target))
    near = _beside(target)
    _move(copy, near)
    old = _hide(target) if target.is_symlink() or target.exists() else None
    try:
        near.rename(target)
    except OSError:
        if old is not None:
            old.rename(target)
        remove(near)
        raise
    if old is not None:
        remove(old)


def take_out(path: Path, top: Path) -> None:
    """Remove an object, at once for whoever looks, and the folders below `top` that become empty."""
    remove(_hide(path))
    for folder in path.parents:
        if folder == top:
            break
        try:
            folder.rmdir()
        except OSError:
            break


def leftovers(datastore: Path) -> Iterator[Path]:
    """What unfinished copies have left in the data store, and those that are under way."""
    pending = [datastore]
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as found:
            for entry in found:
                if entry.name.startswith(NEW):
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False) and not is_object(Path(entry.path)):
                    pending.append(Path(entry.path))


def _beside(path: Path) -> Path:
    return path.parent / f"{NEW}{secrets.token_hex(8)}"


def _hide(path: Path) -> Path:
    """Take something out of sight; returns where it is now."""
    return path.rename(_beside(path))


def _entries(folder: Path, top: Path) -> Iterator[DataEntry]:
    with os.scandir(folder) as found:
        # A folder's objects come where its name with a slash belongs, as in an object store.
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name + ("/" if entry.is_dir() else "")))
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(NEW) or not path.resolve().is_relative_to(top.resolve()) or not path.exists():
            continue
        if path.is_dir() and not is_object(path):
            yield from _entries(path, top)
        elif path.is_dir() or path.is_file():
            size, _ = usage(path)
            yield DataEntry(path.relative_to(top).as_posix(), size, path.stat().st_mtime, path.is_dir())


def usage(path: Path) -> tuple[int, int]:
    """Bytes and number of the files and links in a folder, or of a file. What cannot be read does not count."""
    if not path.is_dir() or path.is_symlink():
        return path.lstat().st_size, 1
    size = count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - there may be very many
            except FileNotFoundError:
                continue
            count += 1
    return size, count


def _move(path: Path, target: Path) -> None:
    """Rename; a folder that cannot be written can only be moved while it can: its `..` changes."""
    if path.is_dir() and not path.is_symlink():
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWUSR)
        path.rename(target)
        target.chmod(mode)
    else:
        path.replace(target)


def _thaw(path: Path) -> None:
    """Give the right to write back."""
    for folder, _, names in os.walk(path):
        for name in ("", *names):
            place = Path(folder) / name
            if not place.is_symlink():
                place.chmod(place.stat().st_mode | stat.S_IWUSR)
    if not path.is_dir():
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a file or folder; links in a folder stay links."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)


def freeze(path: Path) -> None:
    """Take away the right to write; the right to execute stays as it is."""
    for folder, _, names in os.walk(path):
        for name in names:
            _forbid_writing(Path(folder) / name)
        _forbid_writing(Path(folder))
    if not path.is_dir():
        _forbid_writing(path)


def _forbid_writing(path: Path) -> None:
    if not path.is_symlink():
        path.chmod(path.stat().st_mode & 0o555 | 0o400)


def remove(path: Path) -> None:
    """Remove a file, link or folder; what is not there is as good as removed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, also where it or folders in it cannot be written."""
    for folder, _, _ in os.walk(path):
        if not os.access(folder, os.W_OK | os.X_OK):
            Path(folder).chmod(0o755)
    shutil.rmtree(path)
