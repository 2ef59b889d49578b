"""The folder that a pipeline's commands expect around them: copied once for each execution, linked into each attempt.

An image carries its files in its working directory; on a laptop they lie beside the manifest. Steps get a copy, so that
nothing they write can change what the user has written, and so that an execution that was interrupted goes on with the
files that it began with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

MAX_FILES = 5_000
MAX_BYTES = 100 * 1_048_576
"""A larger folder is not copied: it is somebody's home or data, not the files of a pipeline."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What is in a source folder, hidden entries and Penstock's own folder left out.

    Attributes:
        root: the folder.
        folders: relative paths of the folders in it, each after the one that it is in.
        files: relative paths of the files in it.
        links: relative paths of links to folders, with the absolute path of what they lead to.
        digest: of the path, size and time of change of every file; contents are not read.
    """

    root: Path
    folders: tuple[str, ...]
    files: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    digest: str


def scan(root: Path, home: Path) -> Tree | None:
    """What is in a source folder; None if it is too large to be copied, which is found out at `MAX_FILES` files.

    Args:
        root: the folder.
        home: Penstock's own folder, which may be in it.

    Raises:
        OSError: the folder cannot be read.
    """
    folders: list[str] = []
    files: list[str] = []
    links: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    size = 0
    own = home.resolve()
    rest = [""]
    while rest:
        inside = rest.pop()
        with os.scandir(root / inside) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.name.startswith((".", "__pycache__")) or Path(entry.path).resolve() == own:
                continue
            relative = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(relative)
                rest.append(relative)
            elif entry.is_dir():
                links.append((relative, str(Path(entry.path).resolve())))
            elif entry.is_file():  # no sockets and pipes, no dangling links
                status = entry.stat()
                files.append(relative)
                size += status.st_size
                digest.update(f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
            if len(files) + len(folders) + len(links) > MAX_FILES or size > MAX_BYTES:
                return None
    return Tree(root, tuple(folders), tuple(files), tuple(links), digest.hexdigest())


def copy(tree: Tree, target: Path) -> None:
    """Copy a source folder, read-only.

    Raises:
        OSError: something cannot be read or written.
    """
    target.mkdir(parents=True, exist_ok=True)
    for folder in tree.folders:
        (target / folder).mkdir(exist_ok=True)
    for file in tree.files:
        place = target / file
        shutil.copy2(tree.root / file, place)
        place.chmod(stat.S_IMODE(place.stat().st_mode) & ~0o222)
    for link, leads_to in tree.links:
        (target / link).symlink_to(leads_to)


def link(source: Path, work: Path) -> None:
    """Link every entry of an execution's copy into the working directory of an attempt.

    Raises:
        OSError: the copy is gone, or links cannot be made.
    """
    with os.scandir(source) as entries:
        for entry in entries:
            os.symlink(entry.path, work / entry.name)  # noqa: PTH211 - many for each attempt: no Path objects
