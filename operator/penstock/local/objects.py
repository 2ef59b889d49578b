"""Files and folders on this machine: what steps gave (`objects/`) and the user's own data (`datastore/`).

A key is `data/<path>` for the user's objects, and `<uid>/<step>[/<index>]/<attempt>/<name>` for what an attempt gave.
What steps gave cannot be written any more. Nothing here knows of executions or of SQL.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.engine.types import File
from penstock.local.home import BadObjectPath, Home, NotFound, full_disk, is_full
from penstock.step.digest import digest
from penstock.storage import errors, paths

_DATA = "data/"
_UPLOADS = "uploads"


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
            _remove(target)
            if path.is_symlink():
                self._copy(path.resolve(strict=True), target)
                path.unlink()
            elif not _rename(path, target):
                self._copy(path, target)
                _remove(path)
            _freeze(target)
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
            with tempfile.TemporaryDirectory(dir=uploads, prefix=".new-") as scratch:
                copy = Path(scratch) / name
                _copy_tree(path, copy)
                known = _describe(copy, name).sha256  # of what was copied: the original may have changed meanwhile
                (uploads / known).mkdir(exist_ok=True)
                _rename(copy, uploads / known / name)
                _freeze(uploads / known / name)
        return f"{_UPLOADS}/{known}/{name}"

    def _place(self, key: str) -> Path:
        if key.startswith(_DATA):
            return self._data_path(key.removeprefix(_DATA), "object")
        return self._home.objects.joinpath(*_parts(key, "object"))

    def _data_path(self, path: str, place: str) -> Path:
        found = self._home.datastore.joinpath(*_parts(path, place))
        # A link inside the data store must not lead out of it either.
        if not found.resolve().is_relative_to(self._home.datastore.resolve()):
            raise BadObjectPath(f"{place}: {path!r} leads out of the data store; copy the data into it")
        return found

    def _copy(self, source: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
            copy = Path(scratch) / target.name
            _copy_tree(source, copy)
            _rename(copy, target)

    @contextmanager
    def _full_in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_full(error):
                raise full_disk(self._home.root) from error
            raise


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
        _remove(source)
    return True


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)


def _freeze(path: Path) -> None:
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


def _remove(path: Path) -> None:
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
