"""The tooling under the end-to-end tests, without any cluster: processes, caches, and errors that say what to do."""

from __future__ import annotations

import fcntl
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.cluster import cluster as clusters
from e2e.cluster import packages
from e2e.cluster.builds import cached
from e2e.cluster.locks import held, only_holder, turn
from e2e.cluster.processes import Processes, start_time
from e2e.cluster.settings import Layout
from e2e.cluster.shell import ClusterError, run, wait_until
from e2e.image import context_files


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path / "processes", tmp_path / "logs")


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return Layout(state=tmp_path / "state", cache=tmp_path / "cache")


def test_a_process_lives_until_its_last_thread_has_ended(processes: Processes) -> None:
    leave = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(1000,)).start(); "
    started = processes.start("headless", sys.executable, "-c", leave + "ctypes.CDLL(None).pthread_exit(0)")
    first = Path(f"/proc/{started.pid}/stat")
    wait_until(lambda: first.read_text().rsplit(")", 1)[1].split()[0] == "Z", timeout=10, what="its first thread's end")
    assert started.alive()
    processes.stop("headless")
    assert not started.alive()


def test_a_process_is_found_again_by_id_and_start_time_stopped_and_started_again(processes: Processes) -> None:
    started = processes.start("sleeper", "sleep", 1000)
    assert processes.get("sleeper") == started
    assert started.alive()

    processes.stop("sleeper")
    assert not started.alive()

    again = processes.start_again("sleeper")
    assert (again.alive(), again.command) == (True, started.command)
    processes.stop("sleeper")


def test_a_stranger_that_got_the_process_id_of_ours_is_left_alone(processes: Processes, tmp_path: Path) -> None:
    ours = processes.start("ours", "sleep", 1000)
    path = tmp_path / "processes" / "ours.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": ours.started - 1}))

    processes.stop("ours")

    assert start_time(ours.pid) == ours.started
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": ours.started}))
    processes.stop("ours")


def test_a_process_that_does_not_end_when_asked_is_killed(processes: Processes) -> None:
    stubborn = processes.start("stubborn", "sh", "-c", "trap '' TERM; echo ready; exec sleep 1000")
    wait_until(lambda: "ready" in processes.log("stubborn").read_text(), timeout=10, what="the trap")

    processes.stop("stubborn", seconds=0.5)

    assert not stubborn.alive()


def test_a_dead_process_is_reported_with_the_end_of_its_log(processes: Processes) -> None:
    process = processes.start("short", "sh", "-c", "echo it broke; exec sleep 1000")
    wait_until(lambda: "broke" in processes.log("short").read_text(), timeout=10, what="its last words")
    processes.kill("short")
    wait_until(lambda: not process.alive(), timeout=10, what="it to end")

    with pytest.raises(ClusterError, match=r"short has ended; the end of .*short\.log:\n +it broke"):
        processes.require("short")


def test_a_name_is_taken_while_its_process_lives(processes: Processes) -> None:
    processes.start("one", "sleep", 1000)

    with pytest.raises(ClusterError, match="'one' runs already"):
        processes.start("one", "sleep", 1000)

    processes.stop("one")


def test_a_command_that_fails_or_takes_too_long_shows_what_it_printed() -> None:
    with pytest.raises(ClusterError, match=r"`sh -c echo no; exit 4` ended with 4\n +no"):
        run("sh", "-c", "echo no; exit 4", timeout=10)
    with pytest.raises(ClusterError, match=r"took longer than 3 s\n +so far"):
        run("sh", "-c", "echo so far; exec sleep 1000", timeout=3)
    with pytest.raises(ClusterError, match="no command 'no-such-command'"):
        run("no-such-command", timeout=1)


def test_the_cache_makes_a_thing_once_for_each_content_and_keeps_nothing_of_a_failure(tmp_path: Path) -> None:
    made: list[str] = []

    def make(path: Path) -> None:
        made.append(path.name)
        path.write_text("half")
        if len(made) == 1:
            raise ClusterError("no")

    with pytest.raises(ClusterError):
        cached(tmp_path, "thing", b"one", make)
    assert [path.name for path in tmp_path.iterdir()] == [".thing.lock"]

    first = cached(tmp_path, "thing", b"one", make)
    assert cached(tmp_path, "thing", b"one", make) == first
    assert cached(tmp_path, "thing", b"two", make) != first
    assert len(made) == 3


def test_the_cache_makes_a_thing_once_when_many_want_it_at_once(tmp_path: Path) -> None:
    wanted = 4
    all_there = threading.Barrier(wanted)
    made: list[str] = []

    def make(path: Path) -> None:
        made.append(path.name)
        path.write_text("whole")

    def want(_: int) -> str:
        all_there.wait(10)
        return cached(tmp_path, "thing", b"one", make).read_text()

    with ThreadPoolExecutor(wanted) as pool:
        assert list(pool.map(want, range(wanted))) == ["whole"] * wanted
    assert made == ["thing"]


def test_of_those_who_share_a_lock_the_last_one_knows_it(tmp_path: Path) -> None:
    lock = tmp_path / "users"
    with held(lock, shared=True) as first:
        with held(lock, shared=True) as second:
            assert not only_holder(second)
        assert only_holder(first)


def test_whoever_is_to_be_alone_waits_for_those_who_began_and_is_not_passed_by_later_ones(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    both_there = threading.Barrier(3)
    leave = threading.Event()
    order: list[str] = []

    def early() -> None:
        with turn(folder, alone=False):
            both_there.wait(10)
            leave.wait(10)
            order.append("early")

    def other(name: str, *, alone: bool) -> None:
        with turn(folder, alone=alone):
            order.append(name)

    def queues() -> bool:
        with Path(f"{folder}.queue").open("w") as queue:
            try:
                fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            pool.submit(early)
        both_there.wait(10)
        pool.submit(other, "alone", alone=True)
        wait_until(queues, timeout=10, what="it to queue")
        pool.submit(other, "late", alone=False)
        leave.set()
    assert order == ["early", "early", "alone", "late"]


def test_without_root_it_says_what_to_do(layout: Layout, monkeypatch: pytest.MonkeyPatch, without_root: None) -> None:
    with pytest.raises(ClusterError, match="run as root, or set KUBECONFIG"):
        clusters.up(layout)
    monkeypatch.setattr("shutil.which", lambda name, **_: "/usr/bin/apt-get" if name == "apt-get" else None)
    with pytest.raises(ClusterError, match="as root: apt-get install --no-install-recommends a b"):
        packages.install({"x": "b", "y": "a"})


def test_with_kubeconfig_set_nothing_is_started(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    monkeypatch.setenv("KUBECONFIG", str(theirs))
    with pytest.raises(ClusterError, match="there is no such file"):
        clusters.up(layout)
    theirs.write_text("{}")

    used = clusters.up(layout)

    assert (used.kubeconfig, layout.state.exists()) == (theirs, False)
    with pytest.raises(ClusterError, match="unset KUBECONFIG"):
        _ = used.processes


def test_a_folder_that_is_no_clusters_is_never_removed(layout: Layout) -> None:
    layout.state.mkdir()
    (layout.state / "thesis").write_text("mine")

    clusters.down(layout)

    assert (layout.state / "thesis").read_text() == "mine"


def test_a_build_reads_what_the_dockerfile_copies_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE\nFROM $BASE AS build\nCOPY a.txt \\\n  src ./\nFROM $BASE\nCOPY --from=build /x /x\n"
    )
    for name in ("a.txt", "b.txt", "src/c.py", "src/__pycache__/c.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    assert [str(p.relative_to(tmp_path)) for p in context_files(tmp_path)] == ["Dockerfile", "a.txt", "src/c.py"]

    (tmp_path / "a.txt").unlink()
    with pytest.raises(ClusterError, match=r"copies a\.txt, which is not there"):
        context_files(tmp_path)
