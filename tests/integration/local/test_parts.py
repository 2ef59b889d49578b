"""Objects, logs, the state file and ownership, each by itself on a real file system."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock.engine.types import AttemptId, AttemptPhase, Observation
from penstock.local.database import Database
from penstock.local.home import BadObjectPath, Busy, Home, NotFound, Ownership, StoreFull
from penstock.local.logs import last_line
from penstock.local.objects import Objects, remove_tree
from penstock.local.session import LocalSession, Settings
from penstock.local.spawn import Command, is_alive, read_state, spawn


@asynccontextmanager
async def opened(home: Path, *, runner: str = "process") -> AsyncIterator[LocalSession]:
    """A session that is closed at the end of the block."""
    session = LocalSession(Settings(home=home, runner=runner))
    try:
        yield session
    finally:
        await session.close()


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(Home(tmp_path / "home"))


def test_a_folder_is_moved_in_can_be_taken_back_and_moved_in_again(tmp_path: Path, objects: Objects) -> None:
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "x").write_text("content")
    first = objects.put(made, "u/s/1/made")
    assert not made.exists()
    assert objects.verify(first)
    objects.take_back("u/s/1/made", made)
    assert (made / "sub" / "x").read_text() == "content"
    assert objects.put(made, "u/s/1/made") == first
    remove_tree(tmp_path / "home")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a\\b"])
def test_object_paths_cannot_leave_the_data_store(objects: Objects, path: str) -> None:
    with pytest.raises(BadObjectPath):
        objects.data(path)


def test_links_cannot_leave_the_data_store(tmp_path: Path, objects: Objects) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "home" / "datastore" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(BadObjectPath, match="leads out"):
        objects.data("link")


def test_a_given_file_is_stored_once_and_read_only(tmp_path: Path, objects: Objects) -> None:
    given = tmp_path / "iris.csv"
    given.write_text("1,2\n")
    path = objects.add_input(given)
    assert path == objects.add_input(given)
    given.write_text("changed\n")
    file = objects.data(path)
    assert objects.path(file).read_text() == "1,2\n"
    assert objects.path(file).stat().st_mode & 0o222 == 0
    assert objects.add_input(given) != path
    with pytest.raises(NotFound, match="no such file"):
        objects.add_input(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("a\nb\n\n", "b"),
        ("10%\r50%\r100%", "100%"),
        ("\x1b[31mred\x1b[0m\n", "red"),
        ("x" * 10_000, "x" * 499 + "…"),
    ],
)
def test_the_last_line_of_a_log(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "log").write_text(text)
    assert last_line(tmp_path / "log") == line
    assert last_line(tmp_path / "none") == ""


async def test_the_state_file_tells_what_became_of_a_command(tmp_path: Path) -> None:
    command = Command(["/bin/sh", "-c", "read x || exit 9"], {"PATH": "/bin:/usr/bin"}, tmp_path)
    process = spawn(command, state=tmp_path / "state", log=tmp_path / "log", now=5.0)
    gone = asyncio.Event()
    process.watch(gone.set)
    await asyncio.wait_for(gone.wait(), 10)
    assert process.reap() == 9
    assert not is_alive(tmp_path / "state")
    state = read_state(tmp_path / "state")
    assert (state.started_at, state.pid, state.exit_code) == (5.0, process.pid, 9)


async def test_an_attempt_that_was_asked_for_and_never_run_is_lost_and_can_be_asked_for_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as session:
        attempt = AttemptId("s", -1, 1)
        assert await session.attempts.recover("u", [attempt]) == [Observation(attempt, AttemptPhase.LOST)]


def test_one_process_owns_an_execution(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with Ownership(home, "u"), pytest.raises(Busy, match="another penstock process"):
        Ownership(home, "u")
    Ownership(home, "u").release()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_named_with_the_remedy_and_nothing_written_before_is_lost(small_disk: Path) -> None:
    database = Database(Home(small_disk))
    database.execute("INSERT INTO cache VALUES ('first', '[]', 0, 'e')")
    with pytest.raises(StoreFull, match=r"no space left.*free some space") as caught:
        for number in range(1_000):
            database.execute("INSERT INTO cache VALUES (?, ?, 0, 'e')", (str(number), "x" * 10_000))
    assert str(small_disk) in str(caught.value)
    database.close()
    again = Database(Home(small_disk))
    assert again.row("SELECT 1 FROM cache WHERE fingerprint = 'first'") is not None
    again.close()
