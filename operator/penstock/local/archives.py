"""Archives of folders, made where somebody fetches a folder and kept for the next one: bounded, and never needed.

An archive is `<digest of the key>-<etag>.tgz` in one folder. Those that were not used for the longest time go first.
Everything here blocks.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from penstock.step.archive import Packing
from penstock.storage.errors import StoreFull

MAX_BYTES = 4 << 30
"""How much disk archives take; a single one that is larger is kept until the next one is made."""
DAY = 86_400.0
"""Seconds after which one that nobody has used goes."""
_SPARE = 1 << 30
_NEW = ".new-"


class Archives:
    """Archives of one store.

    Args:
        folder: where they are; made when it is needed.
        max_bytes: how large they may be in all.
        free: gives the bytes that may still be written to the disk; None: what is free, less 1 GiB or a twentieth.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, free: Callable[[], int] | None = None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._free = free or self._unused

    def find(self, key: str, etag: str) -> BinaryIO | None:
        """An archive to be read, if there is one.

        Args:
            key: which object.
            etag: of the folder: an archive of an older content does not count.
        """
        path = self._path(key, etag)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        with suppress(FileNotFoundError):
            os.utime(path)  # says when it was last used
        return file

    def make(self, key: str, etag: str, source: Path, same: Callable[[], bool]) -> bool:
        """Make an archive, in place of older ones of this object.

        Args:
            key: which object.
            etag: of the folder.
            source: the folder.
            same: whether the folder is still the one with this etag, asked at the end.

        Returns:
            False: it is not the same folder any more; nothing was kept.

        Raises:
            ArchiveError: the folder changed while it was read.
            UnsafePath: something in it cannot be kept.
            StoreFull: the disk has no room for it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=self._folder, prefix=_NEW)
        new = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                for piece in Packing(source):
                    self._make_room(len(piece))
                    file.write(piece)
                file.flush()
                os.fsync(number)
            if not same():
                return False
            self.forget(key)
            path = self._path(key, etag)
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)
        self._hold_bound(path)
        return True

    def forget(self, key: str) -> None:
        """Remove the archives of an object."""
        for path in self._folder.glob(f"{_name(key)}-*"):
            path.unlink(missing_ok=True)

    def clean(self, now: float, *, dry_run: bool) -> int:
        """Remove what nobody has used for a day, also what was never finished; gives its bytes."""
        size = 0
        for used, length, path in self._oldest(everything=True):
            if now - used > DAY:
                size += length
                if not dry_run:
                    path.unlink(missing_ok=True)
        return size

    def _path(self, key: str, etag: str) -> Path:
        return self._folder / f"{_name(key)}-{etag}.tgz"

    def _oldest(self, *, everything: bool = False) -> list[tuple[float, int, Path]]:
        """When each archive was used, its bytes and where it is; those first that were not used for long."""
        found = []
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    if everything or not path.name.startswith(_NEW):
                        found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _hold_bound(self, keep: Path) -> None:
        found = self._oldest()
        size = sum(length for _, length, _ in found)
        for _, length, path in found:
            if size <= self._max_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                size -= length

    def _make_room(self, size: int) -> None:
        """See that so many bytes can be written and the disk is not full afterwards."""
        if self._free() >= size:
            return
        for _, _, path in self._oldest():
            path.unlink(missing_ok=True)
            if self._free() >= size:
                return
        raise StoreFull(
            f"{self._folder}: a folder is fetched as an archive, and there is no room to make it; free some space"
        )

    def _unused(self) -> int:
        found = os.statvfs(self._folder)
        whole = found.f_blocks * found.f_frsize
        return found.f_bavail * found.f_frsize - min(_SPARE, whole // 20)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]
