"""Digests: the same content has the same name wherever and however it was made; nothing outside is ever reached."""

from __future__ import annotations

import hashlib
import os
import socket
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.step.digest import Digest, UnsafePath, digest


def test_a_file_is_named_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"hello")
    assert digest(file) == Digest(hashlib.sha256(b"hello").hexdigest(), 5, folder=False, count=1)
    (tmp_path / "link").symlink_to(file)
    assert digest(tmp_path / "link") == digest(file)


def test_the_format_of_a_folder_never_changes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "run").write_bytes(b"#!")
    (tmp_path / "sub" / "run").chmod(0o755)
    (tmp_path / "a b").write_bytes(b"x")
    (tmp_path / "link").symlink_to("sub/run")
    sha = {text: hashlib.sha256(text).hexdigest().encode() for text in (b"#!", b"x", b"sub/run")}
    records = [
        b"penstock-folder-1",
        b"f " + sha[b"x"] + b" a b",
        b"l " + sha[b"sub/run"] + b" link",
        b"d - sub",
        b"x " + sha[b"#!"] + b" sub/run",
    ]
    expected = hashlib.sha256(b"".join(record + b"\0" for record in records)).hexdigest()
    assert digest(tmp_path) == Digest(expected, size=3, folder=True, count=3)


def test_an_empty_folder_has_a_digest_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert digest(tmp_path / "empty").sha256 != digest(tmp_path / "file").sha256
    assert digest(tmp_path / "empty") == Digest(hashlib.sha256(b"penstock-folder-1\0").hexdigest(), 0, True, 0)


NAMES = st.text(st.sampled_from("abé -.0"), min_size=1, max_size=4).filter(lambda name: name.strip(".") != "")
TREES = st.dictionaries(
    NAMES, st.binary(max_size=5) | st.dictionaries(NAMES, st.binary(max_size=5), max_size=3), max_size=4
)


def _make(folder: Path, tree: dict[str, bytes | dict[str, bytes]], backwards: bool) -> None:
    folder.mkdir()
    for name, content in sorted(tree.items(), reverse=backwards):
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            _make(folder / name, {**content}, backwards)


@given(TREES, TREES)
def test_only_content_counts_and_all_of_it(
    tmp_path_factory: pytest.TempPathFactory,
    tree: dict[str, bytes | dict[str, bytes]],
    other: dict[str, bytes | dict[str, bytes]],
) -> None:
    base = tmp_path_factory.mktemp("trees")
    _make(base / "one", tree, backwards=False)
    _make(base / "two", tree, backwards=True)
    _make(base / "other", other, backwards=False)
    assert digest(base / "one") == digest(base / "two")
    assert (digest(base / "one").sha256 == digest(base / "other").sha256) is (tree == other)


def test_the_executable_bit_counts_and_other_modes_and_times_do_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    before = digest(tmp_path)
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / "a").chmod(0o600)
    assert digest(tmp_path) == before
    (tmp_path / "a").chmod(0o700)
    assert digest(tmp_path) != before


def test_names_that_are_no_text_have_a_digest(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"x")
    assert digest(tmp_path).count == 1


def test_links_may_stay_inside_and_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "up").symlink_to("../../c")
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "through").symlink_to("here/a/b/up")
    assert digest(tmp_path).count == 3


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("a/link", "../../secret", "leads out of its folder"),
        ("link", "/etc/passwd", "absolute path /etc/passwd"),
        ("link", "../content/a", "leads out of its folder"),
        ("link", "sneaky/../../secret", "leads out of its folder"),
        ("link", "link", "leads in circles"),
    ],
    ids=["out", "absolute", "out and in again", "out through another link", "circle"],
)
def test_links_that_escape_are_refused_by_name(tmp_path: Path, name: str, target: str, says: str) -> None:
    folder = tmp_path / "content"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "sneaky").symlink_to("a")
    (tmp_path / "secret").write_text("secret")
    (folder / name).symlink_to(target)
    with pytest.raises(UnsafePath, match=says) as caught:
        digest(folder)
    assert str(folder / name) in str(caught.value)


def test_devices_pipes_and_sockets_are_refused_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafePath, match="pipe is a named pipe"):
        digest(tmp_path)
    with pytest.raises(UnsafePath, match="pipe is a named pipe"):
        digest(tmp_path / "pipe")
    with pytest.raises(UnsafePath, match="is a device"):
        digest(Path("/dev/null"))
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the path of a socket has to be short
        server.bind("s")
        with pytest.raises(UnsafePath, match="s is a socket"):
            digest(tmp_path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(50_000_000)
    tracemalloc.start()
    try:
        assert digest(tmp_path).size == 50_000_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
