"""Locks between processes, on files that stay: the kernel takes a lock back from whoever ends, however that happens."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold a lock; waits for it. Gives the file's descriptor.

    Args:
        path: The file, made if it is not there.
        shared: Together with all who share it; else alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield file.fileno()


def only_holder(descriptor: int) -> bool:
    """Whether nobody else holds the lock that `held` gave as shared; then it is ours alone, and else no more at all."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Use what a folder is of: together with others, or alone, once they are through and before any others begin.

    Args:
        folder: The lock's files are beside it.
        alone: Whether nobody else may use it meanwhile.
    """
    with contextlib.ExitStack() as stack:
        # Whoever waits to be alone keeps this one, so that others queue behind instead of passing by for ever.
        with held(Path(f"{folder}.queue")):
            stack.enter_context(held(Path(f"{folder}.turn"), shared=not alone))
        yield
