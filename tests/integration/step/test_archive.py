"""Archives: whatever a folder holds comes back with the same digest, and nothing gets out of the folder."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.step.archive import ArchiveError, Packing, unpack
from penstock.step.digest import UnsafePath, digest

MIB = 1024 * 1024


def pack(folder: Path) -> bytes:
    return b"".join(Packing(folder))


def unpacked(data: bytes, folder: Path, max_bytes: int = 100 * MIB, max_files: int = 1000) -> None:
    unpack(io.BytesIO(data).read, folder, max_bytes=max_bytes, max_files=max_files)


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
FILES = st.tuples(st.binary(max_size=2000), st.booleans())
LINKS = NAMES.map(os.fsdecode)
Tree: TypeAlias = "dict[bytes, tuple[bytes, bool] | str | Tree]"
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(NAMES, FILES | LINKS, max_size=4), lambda trees: st.dictionaries(NAMES, trees | FILES, max_size=3)
)


def make(folder: Path, tree: Tree) -> None:
    folder.mkdir()
    for name, content in tree.items():
        path = folder / os.fsdecode(name)
        if isinstance(content, dict):
            make(path, content)
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content[0])
            path.chmod(0o755 if content[1] else 0o600)


@given(TREES)
def test_any_folder_comes_back_with_the_same_digest(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    base = tmp_path_factory.mktemp("trees")
    make(base / "from", tree)
    try:
        wanted = digest(base / "from")
    except UnsafePath:  # links in circles
        return
    packing = Packing(base / "from")
    data = b"".join(packing)
    assert packing.digest == wanted
    assert unpack(io.BytesIO(data).read, base / "to", max_bytes=wanted.size) == wanted
    assert digest(base / "to") == wanted
    assert b"".join(packing) == data


@pytest.mark.parametrize(
    "name",
    ["with spaces ", "ünï ☃", "two\nlines", os.fsdecode(b"\xff\xfe not text"), "x" * 200, "deep/" * 90 + "end", "-rf"],
)
def test_names_that_tar_has_to_work_for(tmp_path: Path, name: str) -> None:
    file = tmp_path / "from" / name
    file.parent.mkdir(parents=True)
    file.write_text("hello")
    (tmp_path / "from" / "link").symlink_to(name)
    unpacked(pack(tmp_path / "from"), tmp_path / "to")
    assert (tmp_path / "to" / name).read_text() == "hello"
    assert str((tmp_path / "to" / "link").readlink()) == name


def test_any_tar_reads_it_and_content_alone_makes_it(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run").write_text("#!")
        (folder / "run").chmod(0o700 if number else 0o755)
        (folder / "a").write_bytes(b"x" * MIB)
        os.utime(folder / "a", (number, number))
    data = pack(tmp_path / "one")
    assert data == pack(tmp_path / "two")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        assert [(m.name, m.mode, m.mtime, m.uid, m.uname, m.size) for m in tar] == [
            ("a", 0o644, 0, 0, "", MIB),
            ("run", 0o755, 0, 0, "", 2),
        ]


def test_what_does_not_shrink_is_stored_and_the_rest_is_compressed(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    noise = os.urandom(3 * MIB + 17)
    (tmp_path / "f" / "noise").write_bytes(noise)
    (tmp_path / "f" / "text").write_bytes(b"all work and no play\n" * 300_000)
    data = pack(tmp_path / "f")
    assert len(noise) < len(data) < len(noise) * 1.05
    unpacked(data, tmp_path / "to")
    assert digest(tmp_path / "to") == digest(tmp_path / "f")


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", target: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def archive(*members: bytes) -> bytes:
    return gzip.compress(b"".join(members) + bytes(1024))


FOLDER = member("d", tarfile.DIRTYPE)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("/etc/passwd", content=b"x")], "not a path within"),
        ([member("../x")], "not a path within"),
        ([FOLDER, member("d/../../x")], "not a path within"),
        ([member("./x")], "not a path within"),
        ([FOLDER, member("d//x")], "not a path within"),
        ([member("x", tarfile.SYMTYPE, target="../outside")], "leads out of its folder"),
        ([member("x", tarfile.SYMTYPE, target="/etc")], "absolute path"),
        ([FOLDER, member("d/x", tarfile.SYMTYPE, target="../../outside")], "leads out of its folder"),
        ([member("a", tarfile.SYMTYPE, target="b/../.."), member("b", tarfile.SYMTYPE, target=".")], "leads out"),
        ([member("x", tarfile.SYMTYPE, target="x")], "in circles"),
        ([member("l", tarfile.SYMTYPE, target="."), member("l/x", content=b"through a link")], "does not hold"),
        ([member("x"), member("x")], "twice"),
        ([FOLDER, FOLDER], "twice"),
        ([member("x"), member("x", tarfile.SYMTYPE, target="y")], "twice"),
        ([member("b"), member("a")], "out of order"),
        ([member("missing/x")], "does not hold"),
        ([FOLDER, member("e"), member("d/x")], "out of order"),
        ([member("x", tarfile.LNKTYPE, target="y")], "neither a file"),
        ([member("x", tarfile.FIFOTYPE)], "neither a file"),
        ([member("x", tarfile.CHRTYPE)], "neither a file"),
        ([member("x", tarfile.BLKTYPE)], "neither a file"),
        ([member("x", b"S")], "neither a file"),
        ([member("x", content=b"1234567890" * 20)], "more than the 100 bytes"),
        ([member("a", content=b"x" * 60), member("b", content=b"x" * 60)], "more than the 100 bytes"),
        ([member(str(number)) for number in range(8)], "more than 5 files"),
    ],
)
def test_evil_members_are_refused(tmp_path: Path, members: list[bytes], why: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ArchiveError, match=why):
        unpacked(archive(*members), tmp_path / "in" / "to", 100, 5)
    # Nothing came to be next to it.
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["to"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_bomb_is_stopped_at_the_size_that_was_declared(tmp_path: Path) -> None:
    # A member of 1 GiB of zeros is 1 MiB of gzip; a tail of zeros behind the end is one as well.
    head = tarfile.TarInfo("x")
    head.size = 1 << 30
    with pytest.raises(ArchiveError, match="more than the 10 bytes"):
        unpacked(gzip.compress(head.tobuf()), tmp_path / "a", max_bytes=10)
    with pytest.raises(ArchiveError, match="behind its end"):
        unpacked(gzip.compress(bytes(50 * MIB)), tmp_path / "b", max_bytes=10)
    head.type = tarfile.XHDTYPE
    with pytest.raises(ArchiveError, match="header of 1,073,741,824 bytes"):
        unpacked(gzip.compress(head.tobuf()), tmp_path / "c", max_bytes=10)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"", "cut short"),
        (lambda data: data[:-8] + b"\0" * 8, "damaged"),
        (lambda data: data + b"more", "behind its end"),
        (gzip.decompress, "not compressed"),
        (lambda data: gzip.compress(b"hello" * 1000), "not an archive"),
    ],
)
def test_what_is_not_whole_is_noticed(tmp_path: Path, spoil: Callable[[bytes], bytes], why: str) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_bytes(os.urandom(10_000))
    with pytest.raises(ArchiveError, match=why):
        unpacked(spoil(pack(tmp_path / "f")), tmp_path / "to")


def test_the_limits_of_an_output(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"12345")
    assert b"".join(Packing(tmp_path, max_bytes=25, max_files=5))
    with pytest.raises(ArchiveError, match="more than the 24 bytes"):
        b"".join(Packing(tmp_path, max_bytes=24))
    with pytest.raises(ArchiveError, match="more than the 4 files"):
        b"".join(Packing(tmp_path, max_files=4))


def test_a_file_that_changes_while_it_is_packed(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(os.urandom(8 * MIB))
    for change in ("ab", "wb", "r+b"):
        stream = iter(Packing(tmp_path))
        next(stream)
        next(stream)
        with (tmp_path / "log").open(change) as file:
            file.write(b"more")
        with pytest.raises(ArchiveError, match='changed while it was read \\("log"\\)'):
            b"".join(stream)
        (tmp_path / "log").write_bytes(os.urandom(8 * MIB))


def test_a_pack_that_is_given_up_leaves_no_threads(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(os.urandom(8 * MIB))
    before = threading.active_count()
    stream = iter(Packing(tmp_path))
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_special_files_are_not_packed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafePath, match="named pipe"):
        pack(tmp_path)
