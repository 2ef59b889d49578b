"""Inputs: they are there, whole and as recorded, whatever connections and stores do; or it is clear why not."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from penstock.step.archive import Packing
from penstock.step.digest import digest
from penstock.step.transfer import Problem, fetch_inputs

from .support import QUICK, SECRET, CutAfter, Store, cut, given, pass_on, refuse, running, write_plan

MIB = 1024 * 1024


@pytest.fixture
def table(store: Store) -> Path:
    """An object of 1 MB, at the key `table`."""
    store.path("table").write_bytes(os.urandom(MIB))
    return store.path("table")


@pytest.fixture(params=["file", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path, table: Path) -> Path:
    """What the object at the key `table` was made of: a file, or a folder whose packed form it is."""
    if request.param == "file":
        return table
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "x").write_bytes(os.urandom(MIB))
    table.write_bytes(b"".join(Packing(folder)))
    return folder


def only(problems: list[Problem]) -> Problem:
    (problem,) = problems
    assert SECRET not in problem.text
    return problem


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_folders_and_elements_of_lists(tmp_path: Path, store: Store, table: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub dir").mkdir(parents=True)
    (tree / "sub dir" / "ünï\n").write_text("x")
    (tree / "run").write_text("#!")
    (tree / "run").chmod(0o755)
    (tree / "link").symlink_to("sub dir/ünï\n")
    store.path("tree").write_bytes(b"".join(Packing(tree)))
    store.path("empty").write_bytes(b"")
    plan = write_plan(
        tmp_path / "plan",
        given(store, "table", "table", table),
        given(store, "tree", "tree", tree),
        given(store, "empty", "empty", store.path("empty")),
        given(store, "many", "table", table, index=0),
        given(store, "many", "tree", tree, index=2),
    )
    inputs = tmp_path / "inputs"
    assert fetch_inputs(plan, inputs, QUICK) == []
    assert names(inputs) == ["empty", "many", "table", "tree"]
    assert names(inputs / "many") == ["0", "2"]
    assert (inputs / "table").read_bytes() == table.read_bytes() == (inputs / "many" / "0").read_bytes()
    assert (inputs / "empty").read_bytes() == b""
    assert digest(inputs / "tree") == digest(tree) == digest(inputs / "many" / "2")
    # Once more, in the same folder: what is there is replaced.
    assert fetch_inputs(plan, inputs, QUICK) == []
    assert names(inputs) == ["empty", "many", "table", "tree"]


def test_a_large_file_comes_in_ranges_side_by_side_and_resumes(tmp_path: Path, store: Store) -> None:
    size = 150 * MIB
    with store.path("big").open("wb") as file:
        file.truncate(size)
        for position in range(0, size, 10 * MIB):
            file.seek(position)
            file.write(os.urandom(1000))
    store.faults.extend([CutAfter(5 * MIB), pass_on, CutAfter(2 * MIB), cut, refuse(503, "SlowDown")])
    plan = write_plan(tmp_path / "plan", given(store, "big", "big", store.path("big")))
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
    assert digest(tmp_path / "inputs" / "big") == digest(store.path("big"))
    assert all("Range" in headers for _, _, headers in store.log)
    starts = {int(headers["Range"][6:].partition("-")[0]) for _, _, headers in store.log}
    # What was cut goes on where it broke.
    assert {start for start in starts if start % (16 * MIB) == 0} == set(range(0, size, 16 * MIB))
    assert len(starts) == 10 + 2


def test_a_cut_connection_is_resumed_where_it_broke(tmp_path: Path, store: Store, source: Path) -> None:
    store.faults.extend([CutAfter(300_000), CutAfter(200_000), cut, CutAfter(100_000)])
    plan = write_plan(tmp_path / "plan", given(store, "table", "table", source))
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
    assert digest(tmp_path / "inputs" / "table") == digest(source)
    ranges = [headers.get("Range", "") for _, _, headers in store.log]
    assert ranges[0] == ""
    starts = [int(text[6:].partition("-")[0]) for text in ranges[1:]]
    assert starts == sorted(starts)
    assert starts[0] > 0
    assert all(headers["If-Range"] == store.etag("table") for _, _, headers in store.log[1:])


def test_a_store_without_ranges_begins_anew(tmp_path: Path, store: Store, source: Path) -> None:
    store.ranges = False
    store.faults.append(CutAfter(300_000))
    plan = write_plan(tmp_path / "plan", given(store, "table", "table", source))
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
    assert digest(tmp_path / "inputs" / "table") == digest(source)


def test_an_object_that_changes_under_way_is_never_stitched(tmp_path: Path, store: Store, table: Path) -> None:
    old, new = table.read_bytes(), os.urandom(MIB)
    first = CutAfter(300_000)

    def replaced(_: object) -> bool:
        table.write_bytes(new)
        return False

    store.faults.extend([first, replaced])
    entry = given(store, "table", "table", table)
    table.write_bytes(new)
    wanted = given(store, "table", "table", table)
    table.write_bytes(old)
    assert fetch_inputs(write_plan(tmp_path / "plan", wanted), tmp_path / "inputs", QUICK) == []
    assert (tmp_path / "inputs" / "table").read_bytes() == new
    problem = only(fetch_inputs(write_plan(tmp_path / "plan", entry), tmp_path / "inputs2", QUICK))
    assert problem.text.startswith('input "table": is not what was recorded: its SHA-256 is ')
    assert not problem.transient
    assert names(tmp_path / "inputs2") == []


def test_an_object_that_nobody_digested_is_known_by_its_etag(tmp_path: Path, store: Store, table: Path) -> None:
    etag = "etag-" + store.etag("table").strip('"')
    plan = write_plan(tmp_path / "plan", given(store, "table", "table", table, sha256=etag))
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
    table.write_bytes(os.urandom(MIB))
    problem = only(fetch_inputs(plan, tmp_path / "inputs", QUICK))
    assert problem == Problem('input "table": was replaced in the store since this execution chose it', transient=False)


@pytest.mark.parametrize("change", [-1, 1, -MIB])
def test_another_size_than_recorded(tmp_path: Path, store: Store, table: Path, change: int) -> None:
    entry = given(store, "table", "table", table)
    table.write_bytes(bytes(MIB + change))
    problem = only(fetch_inputs(write_plan(tmp_path / "plan", entry), tmp_path / "inputs", QUICK))
    assert problem.text == f'input "table": holds {MIB + change:,} bytes in the store, {MIB:,} were recorded'
    assert not problem.transient
    assert names(tmp_path / "inputs") == []


def test_an_object_that_is_gone_fails_at_once_and_the_others_come(tmp_path: Path, store: Store, table: Path) -> None:
    entries = [given(store, "table", "table", table), given(store, "gone", "gone", table)]
    problem = only(fetch_inputs(write_plan(tmp_path / "plan", *entries), tmp_path / "inputs", QUICK))
    assert problem.text == (
        'input "gone": is no longer in the store: run again what made it, or give it anew '
        f"(the store 127.0.0.1:{store.port} answered 404 NoSuchKey)"
    )
    assert not problem.transient
    assert names(tmp_path / "inputs") == ["table"]
    assert len(store.log) == 2


def test_a_folder_that_is_no_archive(tmp_path: Path, store: Store, table: Path) -> None:
    (tmp_path / "tree").mkdir()
    plan = write_plan(tmp_path / "plan", given(store, "tree", "table", tmp_path / "tree"))
    problem = only(fetch_inputs(plan, tmp_path / "inputs", QUICK))
    assert problem.text == 'input "tree": cannot be unpacked: it is not compressed with gzip, or was damaged'
    assert names(tmp_path / "inputs") == []


def test_a_busy_store_is_asked_again(tmp_path: Path, store: Store, table: Path) -> None:
    late = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - 10))
    store.faults.extend(
        [
            refuse(503, "SlowDown", Retry_After="0"),
            refuse(500, "InternalError"),
            refuse(429, "TooManyRequests", Retry_After=late),
            refuse(502, "", Retry_After="what"),
            cut,
            refuse(400, "RequestTimeout"),
        ]
    )
    plan = write_plan(tmp_path / "plan", given(store, "table", "table", table))
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
    assert len(store.log) == 7


def test_a_store_that_is_down_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path / "store") as store:
        store.path("table").write_bytes(b"hello")
        entry, port = given(store, "table", "table", store.path("table")), store.port
    found: list[Store] = []
    timer = threading.Timer(0.5, lambda: found.append(Store(tmp_path / "store", port)))
    timer.start()
    try:
        plan = write_plan(tmp_path / "plan", entry)
        assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
        assert (tmp_path / "inputs" / "table").read_bytes() == b"hello"
    finally:
        timer.join()
        found[0].close()


def test_a_store_that_stays_away_is_the_platforms_trouble(tmp_path: Path) -> None:
    with running(tmp_path / "store") as store:
        store.path("table").write_bytes(b"hello")
        entry, port = given(store, "table", "table", store.path("table")), store.port
    plan = write_plan(tmp_path / "plan", entry)
    problem = only(fetch_inputs(plan, tmp_path / "inputs", QUICK._replace(patience=0.2)))
    assert problem.transient
    assert problem.text.startswith(f'input "table": the store 127.0.0.1:{port} cannot be reached: connection refused (')
    problem = only(fetch_inputs(plan, tmp_path / "inputs", QUICK._replace(deadline=time.time() + 0.2)))
    assert problem.transient
    assert problem.text.endswith("connection refused (the time for it is over)")
    assert names(tmp_path / "inputs") == []


def test_a_name_that_does_not_resolve_is_waited_for_too(tmp_path: Path, store: Store, table: Path) -> None:
    entry = given(store, "table", "table", table, url=f"http://store.invalid/table?sig={SECRET}")
    problem = only(
        fetch_inputs(write_plan(tmp_path / "plan", entry), tmp_path / "inputs", QUICK._replace(patience=0.1))
    )
    assert problem.transient
    assert "the store store.invalid cannot be reached: " in problem.text


def test_urls_are_renewed_from_the_plan(tmp_path: Path, store: Store, table: Path) -> None:
    entry = given(store, "table", "table", table)
    plan = write_plan(tmp_path / "plan", entry, expires=time.time() - 1)
    store.signature = "new"

    def renewed(handler: object) -> bool:
        if len(store.log) == 3:
            write_plan(tmp_path / "plan", given(store, "table", "table", table))
        return False

    store.always = renewed
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
    assert [path.rpartition("=")[2] for _, path, _ in store.log] == [SECRET, SECRET, SECRET, "new"]


def test_a_refusal_ends_soon_while_urls_should_be_good_and_waits_when_they_are_not(
    tmp_path: Path, store: Store, table: Path
) -> None:
    entry = given(store, "table", "table", table)
    store.signature = "other"
    plan = write_plan(tmp_path / "plan", entry)
    problem = only(fetch_inputs(plan, tmp_path / "inputs", QUICK))
    assert problem == Problem(
        f'input "table": the store 127.0.0.1:{store.port} answered 403 AccessDenied', transient=True
    )
    plan = write_plan(tmp_path / "plan", entry, expires=time.time() - 1)
    problem = only(fetch_inputs(plan, tmp_path / "inputs", QUICK._replace(patience=0.5)))
    assert problem.transient
    assert "answered 403 AccessDenied: its URL has expired and was not renewed (" in problem.text


def test_a_plan_that_is_half_written_is_ignored(tmp_path: Path, store: Store, table: Path) -> None:
    plan = write_plan(tmp_path / "plan", given(store, "table", "table", table), expires=0)
    store.signature = "new"
    written = ['{"version": 1', '{"version": 1, "expires": 0, "inputs": [], "outputs": []}']

    def spoiled(handler: object) -> bool:
        if written:
            (tmp_path / "plan").write_text(written.pop())
        elif len(store.log) > 4:
            write_plan(tmp_path / "plan", given(store, "table", "table", table))
        return False

    store.always = spoiled
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []


def test_there_is_no_room(tmp_path: Path, store: Store, table: Path) -> None:
    entries = [given(store, name, "table", table, size=1 << 60) for name in ("one", "two")]
    problem = only(fetch_inputs(write_plan(tmp_path / "plan", *entries), tmp_path / "inputs", QUICK))
    assert problem.text.startswith(f"the inputs hold {2 << 60:,} bytes, and {tmp_path / 'inputs'} has room for ")
    assert not problem.transient
    assert store.log == []


def test_redirects_are_followed_but_not_in_circles(tmp_path: Path, store: Store, table: Path) -> None:
    plan = write_plan(tmp_path / "plan", given(store, "table", "elsewhere", table))
    store.faults.append(refuse(307, "TemporaryRedirect", Location=f"/table?sig={SECRET}"))
    assert fetch_inputs(plan, tmp_path / "inputs", QUICK) == []
    store.always = refuse(307, "TemporaryRedirect", Location=f"/elsewhere?sig={SECRET}")
    assert "redirects in circles" in only(fetch_inputs(plan, tmp_path / "inputs", QUICK)).text


def test_what_is_not_http_or_not_a_url(tmp_path: Path, store: Store, table: Path) -> None:
    for url in ("file:///etc/passwd", f"http://:x/?sig={SECRET}", "nothing"):
        plan = write_plan(tmp_path / "plan", given(store, "table", "table", table, url=url))
        problem = only(fetch_inputs(plan, tmp_path / "inputs", QUICK))
        assert problem == Problem('input "table": its URL in the plan is not one of HTTP', transient=False)


def test_many_small_files_share_few_connections(tmp_path: Path, store: Store) -> None:
    store.path("x").write_bytes(b"hello")
    entries = [given(store, f"n{number}", "x", store.path("x")) for number in range(50)]
    opened = set()

    def seen(handler: object) -> bool:
        opened.add(handler.client_address)  # type: ignore[attr-defined]
        return False

    store.always = seen
    assert fetch_inputs(write_plan(tmp_path / "plan", *entries), tmp_path / "inputs", QUICK) == []
    assert len(names(tmp_path / "inputs")) == 50
    assert len(opened) <= QUICK.connections
