"""Walks what a step left, without ever leaving it: the one place that judges links and special files.

Nothing is read or copied here; only names, types and links are looked at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path  # not at run time: function steps import this module, and start-up time matters there

_MAX_LINKS = 40
"""Links followed before a chain counts as a loop; Linux's own number."""

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnsafePath(ValueError):  # noqa: N818 - the name says what it is about
    """A file, link or device that cannot be kept as content; the message names it and says why.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{printable(str(path))} {why}")
        self.path = path


class Entry(NamedTuple):
    """One thing in a folder.

    Attributes:
        path: its path in the folder, parts joined with `/`.
        kind: `file`, `folder` or `link`.
        executable: for a file, whether its owner may execute it.
        target: for a link, its text.
    """

    path: str
    kind: str
    executable: bool = False
    target: str = ""


def printable(name: str) -> str:
    """A path for a message: names that are no text are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def walk(folder: Path) -> Iterator[Entry]:
    """Everything below `folder`, each folder before its content, siblings in the order of their names' bytes.

    The order depends on names only, so it is the same wherever the folder is. Memory grows with the largest folder, not
    with the tree.

    Raises:
        UnsafePath: a device, socket or pipe, or a link that is absolute, leaves the folder or runs in circles.
        OSError: something cannot be listed.
    """
    # Each element is the path of something below the folder; a stack and no recursion, as trees may be deep.
    pending = _names(folder, "")
    while pending:
        path = pending.pop()
        full = folder / path
        mode = full.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield Entry(path, "folder")
            pending.extend(_names(full, path + "/"))
        elif stat.S_ISLNK(mode):
            target = os.readlink(full)  # noqa: PTH115 - Path would tidy up the text of the link
            follow(folder, path)
            yield Entry(path, "link", target=target)
        elif stat.S_ISREG(mode):
            yield Entry(path, "file", executable=bool(mode & stat.S_IXUSR))
        else:
            raise UnsafePath(full, f"is {special(mode)}: only files, folders and links within them can be kept")


def _names(folder: Path, prefix: str) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries), key=os.fsencode, reverse=True)
    return [prefix + name for name in names]


def special(mode: int) -> str:
    """What a thing that is neither file, folder nor link is, from its `st_mode`."""
    return _SPECIAL.get(stat.S_IFMT(mode), "not a file")


def follow(folder: Path, path: str) -> str:
    """Where `path` (relative to `folder`) leads after all links, again relative to `folder`; it need not exist.

    Links are judged by what they say, not only by where they end: one that goes out of the folder and back in would
    break as soon as the folder is somewhere else.

    Raises:
        UnsafePath: a link on the way is absolute, leaves the folder, or runs in circles.
    """
    current: list[str] = []
    pending = path.split("/")[::-1]
    links = 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not current:
                raise UnsafePath(folder / path, "is a link that leads out of its folder: copy what it points to")
            current.pop()
            continue
        candidate = folder.joinpath(*current, part)
        if not candidate.is_symlink():
            current.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise UnsafePath(folder / path, "is a link that leads in circles: remove it")
        target = os.readlink(candidate)  # noqa: PTH115 - Path would tidy up the text of the link
        if target.startswith("/"):
            raise UnsafePath(
                folder / path, f"is a link to the absolute path {printable(target)}: copy what it points to"
            )
        pending.extend(target.split("/")[::-1])
    return "/".join(current)
