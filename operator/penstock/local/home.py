"""Where everything of one machine is kept, who owns what of it, and the errors that people see.

No SQL and no processes here. Layout of a home:

    penstock.db                                   executions, attempts, cache
    objects/<uid>/<step>[/<index>]/<attempt>/…    files and folders that steps gave
    datastore/…                                   the user's own objects; `uploads/` holds files given on a command line
    store/…                                       what the files are served with: see `filestore`
    runs/<uid>/.lock                              held by the process that runs the execution
    runs/<uid>/.source/…                          the execution's copy of the files beside the manifest
    runs/<uid>/<step>[/<index>]/<attempt>/        one attempt: see `folders`
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import uuid
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from penstock.controller.ports import Halt
from penstock.engine.types import AttemptId

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own for generateName: no vowels, nothing that looks alike


class LocalError(Exception):
    """Something that the user must know or mend; its text is one paragraph that says what and how."""


class HomeError(LocalError, Halt):
    """The home folder cannot be used."""


class StoreFull(LocalError, Halt):  # noqa: N818 - these names say what is the matter
    """The disk under the home is full, or cannot be written; what was stored before is intact."""


class Busy(LocalError):  # noqa: N818
    """Another penstock process runs the execution."""


class NameTaken(LocalError):  # noqa: N818
    """There is an execution with this name already."""


class NotFound(LocalError):  # noqa: N818
    """There is no such execution, revision or object."""


class BadObjectPath(LocalError):  # noqa: N818
    """A path that does not name a place inside the data store."""


class Ids(Protocol):
    """Where names that must be unique come from."""

    def uid(self) -> str:
        """A new uid for an object."""

    def suffix(self) -> str:
        """Five characters to append to a `generateName`."""


class RandomIds:
    """Random ids, as an API server makes them."""

    def uid(self) -> str:
        """A random UUID."""
        return str(uuid.uuid4())

    def suffix(self) -> str:
        """Five random lower-case characters."""
        return "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))


class Home:
    """The folder that holds all of Penstock's data on this machine.

    Args:
        root: the folder; made with all its parents where it is missing.

    Raises:
        HomeError: the folder cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self.database = self.root / "penstock.db"
        self.runs = self.root / "runs"
        self.objects = self.root / "objects"
        self.datastore = self.root / "datastore"
        try:
            for folder in (self.runs, self.objects, self.datastore):
                folder.mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="ascii")
        except OSError as error:
            if is_full(error):
                raise full_disk(self.root) from error
            raise HomeError(
                f"{self.root}: cannot be used as Penstock's folder ({error.strerror or error}); "
                "choose another one that can be written"
            ) from error

    def run(self, uid: str) -> Path:
        """Folder of one execution."""
        return self.runs / uid

    def source(self, uid: str) -> Path:
        """The copy of the source folder that one execution's steps see."""
        return self.runs / uid / ".source"

    def attempt(self, uid: str, attempt: AttemptId) -> Path:
        """Folder of one attempt."""
        return self.runs / uid / attempt_path(attempt)


def attempt_path(attempt: AttemptId) -> str:
    """The part of a path that names an attempt within its execution: `<step>[/<index>]/<attempt>`."""
    item = "" if attempt.index < 0 else f"/{attempt.index}"
    return f"{attempt.step}{item}/{attempt.attempt}"


class Lock:
    """A lock of the kernel on a file: whatever becomes of its holder (`kill -9`), it is released.

    Args:
        path: the file, whose folder is there.
        home: the home that it is in.
        what: what the holder does, for the message.

    Raises:
        Busy: another process holds it.
        HomeError: the file cannot be opened.
    """

    def __init__(self, path: Path, home: Home, what: str) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if is_full(error):
                raise full_disk(home.root) from error
            raise HomeError(
                f"{path}: cannot be opened ({error.strerror or error}); check who owns the folder"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise Busy(f"{what} by another penstock process (pid {holder}); wait for it or end it") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Give it up; doing it twice is the same as doing it once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Ownership(Lock):
    """The right to run one execution, held by one process at a time.

    Args:
        home: the home.
        uid: the execution.

    Raises:
        Busy: another process holds it.
    """

    def __init__(self, home: Home, uid: str) -> None:
        super().__init__(home.run(uid) / ".lock", home, f"execution {uid} is run")


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no room: on the disk, or in the user's share of it."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def full_disk(folder: Path) -> StoreFull:
    """The error for a disk that is full."""
    return StoreFull(
        f"{folder}: there is no space left on its disk; nothing that was finished is lost: free some space and start "
        "penstock again, the execution goes on where it was"
    )
