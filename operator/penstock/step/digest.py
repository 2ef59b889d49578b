r"""Names content: the SHA-256 of a file or folder, its size and its number of files.

Stores, caches and transports rely on the digest, so its format never changes:

- A file: the SHA-256 of its bytes.
- A folder: the SHA-256 of `penstock-folder-1\0` followed by one record for each thing below it, each folder before its
  content, siblings in the order of their names' bytes. A record is `<kind> <content> <path>\0`, where `<path>` is
  relative to the folder with `/` between parts, and
    - a file is `f`, or `x` if its owner may execute it, with the hexadecimal SHA-256 of its bytes;
    - a link is `l`, with the hexadecimal SHA-256 of its text;
    - a folder is `d`, with `-` for content.

Owners, times and other mode bits do not count. Links are never followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from penstock.step.folders import Entry, UnsafePath, special, walk

__all__ = ["Digest", "FolderDigest", "UnsafePath", "digest"]

_HEADER = b"penstock-folder-1\0"


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file or folder holds, in short.

    Attributes:
        sha256: hexadecimal digest, in the format that this module documents.
        size: bytes of all files in it.
        folder: whether it is a folder.
        count: files and links in it; 1 for a file.
    """

    sha256: str
    size: int
    folder: bool
    count: int


class FolderDigest:
    """The digest of a folder, made from what is in it, in the order of `folders.walk`.

    Attributes:
        size: bytes of the files so far.
        count: files and links so far.
    """

    def __init__(self) -> None:
        self._whole = hashlib.sha256(_HEADER)
        self.size = self.count = 0

    def add(self, entry: Entry, sha256: str = "", size: int = 0) -> None:
        """Count one thing.

        Args:
            entry: what it is.
            sha256: for a file, the hexadecimal digest of its bytes.
            size: for a file, its bytes.
        """
        if entry.kind == "folder":
            kind, content = "d", "-"
        elif entry.kind == "link":
            kind, content = "l", hashlib.sha256(os.fsencode(entry.target)).hexdigest()
        else:
            kind, content = "x" if entry.executable else "f", sha256
        self._whole.update(f"{kind} {content} ".encode() + os.fsencode(entry.path) + b"\0")
        self.size += size
        self.count += entry.kind != "folder"

    def result(self) -> Digest:
        """The digest of all that was counted."""
        return Digest(self._whole.hexdigest(), self.size, folder=True, count=self.count)


def digest(path: Path) -> Digest:
    """The digest of a file or folder; memory does not grow with the size of files.

    `path` itself may be a link, which is followed: whoever calls has chosen it. Links inside a folder have to stay in
    it.

    Raises:
        UnsafePath: not a file or folder, or something in the folder cannot be kept; the message names it.
        OSError: something cannot be read.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        sha256, size = _file(path)
        return Digest(sha256, size, folder=False, count=1)
    if not stat.S_ISDIR(mode):
        raise UnsafePath(path, f"is {special(mode)}: only files and folders can be kept")
    found = FolderDigest()
    for entry in walk(path):
        if entry.kind == "file":
            found.add(entry, *_file(path / entry.path))
        else:
            found.add(entry)
    return found.result()


def _file(path: Path) -> tuple[str, int]:
    with path.open("rb", buffering=0) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        # What was hashed, also if the file grows meanwhile.
        return sha256, file.tell()
