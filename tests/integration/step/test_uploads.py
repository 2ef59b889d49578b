"""Outputs: in the store whole or not at all, with the digest of what is there; or it is clear why not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.step import upload
from penstock.step.archive import unpack
from penstock.step.digest import digest
from penstock.step.transfer import Problem, upload_outputs

from .support import QUICK, SECRET, Handler, Store, cut, pass_on, refuse, wanted, write_plan

MIB = 1024 * 1024
PARTS = [[2, 16 * MIB], [100, 64 * MIB]]


def only(found: tuple[dict[str, dict[str, object]], list[Problem]]) -> Problem:
    done, problems = found
    assert done == {}
    (problem,) = problems
    assert SECRET not in problem.text
    return problem


def sparse(path: Path, size: int) -> Path:
    """A file with some noise in it; most of it is holes."""
    with path.open("wb") as file:
        file.truncate(size)
        for position in range(0, size - 1000, 7 * MIB):
            file.seek(position)
            file.write(os.urandom(1000))
    return path


def test_files_and_folders(tmp_path: Path, store: Store) -> None:
    (tmp_path / "model").write_bytes(os.urandom(MIB))
    (tmp_path / "empty").write_bytes(b"")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "x").write_bytes(b"x" * 1000)
    (tree / "link").symlink_to("sub/x")
    names = ("model", "empty", "tree")
    plan = write_plan(tmp_path / "plan", *(wanted(store, name, key=f"executions/{name}") for name in names))
    done, problems = upload_outputs(plan, {name: tmp_path / name for name in names}, QUICK)
    assert problems == []
    for name in names:
        found = digest(tmp_path / name)
        assert done[name] == {
            "key": f"executions/{name}",
            "sha256": found.sha256,
            "size": found.size,
            "folder": found.folder,
        }
    assert store.path("model").read_bytes() == (tmp_path / "model").read_bytes()
    assert store.path("empty").read_bytes() == b""
    with store.path("tree").open("rb") as stream:
        assert unpack(stream.read, tmp_path / "back", max_bytes=1000) == digest(tree)


def test_a_large_file_goes_in_parts_each_tried_by_itself(tmp_path: Path, store: Store) -> None:
    source = sparse(tmp_path / "big", 150 * MIB + 12345)
    plan = write_plan(tmp_path / "plan", wanted(store, "big", PARTS))
    store.faults.extend([pass_on, cut, refuse(503, "SlowDown"), refuse(400, "BadDigest"), pass_on])
    done, problems = upload_outputs(plan, {"big": source}, QUICK)
    assert problems == []
    assert done["big"]["sha256"] == digest(source).sha256 == digest(store.path("big")).sha256
    # Four parts, three of them twice, and the end.
    assert store.methods() == ["PUT"] * 7 + ["POST"]


def test_a_small_file_goes_in_one_piece_and_the_begun_upload_is_dropped(tmp_path: Path, store: Store) -> None:
    (tmp_path / "small").write_bytes(b"hello")
    plan = write_plan(tmp_path / "plan", wanted(store, "small", PARTS))
    done, problems = upload_outputs(plan, {"small": tmp_path / "small"}, QUICK)
    assert (list(done), problems) == (["small"], [])
    assert store.methods() == ["PUT", "DELETE"]
    assert store.uploads == {}


@pytest.mark.parametrize("parts", [True, False])
def test_the_stream_of_a_large_folder(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """In parts where the store has them; else made twice, so that no disk is filled."""
    monkeypatch.setattr(upload, "_SPOOL", 5 * MIB)
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / str(number)).write_bytes(os.urandom(MIB + number))
    plan = write_plan(tmp_path / "plan", wanted(store, "tree", [[3, 5 * MIB], [9, 7 * MIB]] if parts else None))
    store.faults.extend([pass_on, cut] if parts else [cut, refuse(503, "SlowDown")])
    done, problems = upload_outputs(plan, {"tree": tree}, QUICK)
    assert problems == []
    assert done["tree"]["sha256"] == digest(tree).sha256
    with store.path("tree").open("rb") as stream:
        assert unpack(stream.read, tmp_path / "back", max_bytes=100 * MIB) == digest(tree)
    assert store.methods() == (["PUT"] * 5 + ["POST"] if parts else ["PUT"] * 3)


def test_little_of_a_folder_waits_on_the_disk(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are no larger than they have to be, although the plan has larger ones, and few wait at a time."""
    monkeypatch.setattr(upload, "_SPOOL", 3 * MIB)
    monkeypatch.setattr(upload, "_LEAST_PART", MIB)
    tree, spools = tmp_path / "tree", tmp_path / "spools"
    tree.mkdir()
    spools.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spools))
    for number in range(20):
        (tree / str(number)).write_bytes(os.urandom(MIB))
    most = 0

    def look(handler: Handler) -> bool:
        nonlocal most
        most = max(most, sum(_size(name) for name in _descriptors() if _target(name).startswith(f"{spools}/")))
        return False

    store.always = look
    plan = write_plan(tmp_path / "plan", wanted(store, "tree", [[2, MIB], [10, 64 * MIB], [10, 512 * MIB]]))
    done, problems = upload_outputs(plan, {"tree": tree}, QUICK)
    assert problems == []
    assert MIB < most <= 3 * MIB
    with store.path("tree").open("rb") as stream:
        assert unpack(stream.read, tmp_path / "back", max_bytes=100 * MIB).sha256 == done["tree"]["sha256"]


def test_an_upload_cut_in_half_is_not_there(tmp_path: Path, store: Store) -> None:
    def half(handler: Handler) -> bool:
        handler.rfile.read(1000)
        return cut(handler)

    (tmp_path / "model").write_bytes(os.urandom(MIB))
    plan = write_plan(tmp_path / "plan", wanted(store, "model"))
    store.always = half
    problem = only(upload_outputs(plan, {"model": tmp_path / "model"}, QUICK._replace(patience=0.2)))
    assert problem.transient
    assert "cannot be reached: " in problem.text
    assert not store.path("model").exists()


@pytest.mark.parametrize(
    ("answer", "transient", "why"),
    [
        (refuse(200, "AccessDenied"), False, "the store could not put its parts together: AccessDenied"),
        (refuse(200, "SlowDown"), True, "the store could not put its parts together: SlowDown (tried again for"),
        (refuse(404, "NoSuchUpload"), True, "has no place in the store (the store"),
        (refuse(400, "InvalidPart"), False, "answered 400 InvalidPart"),
    ],
)
def test_parts_that_cannot_be_put_together(
    tmp_path: Path, store: Store, answer: Callable[[Handler], bool], transient: bool, why: str
) -> None:
    def fault(handler: Handler) -> bool:
        return handler.command == "POST" and answer(handler)

    store.always = fault
    source = sparse(tmp_path / "big", 65 * MIB)
    plan = write_plan(tmp_path / "plan", wanted(store, "big", PARTS))
    problem = only(upload_outputs(plan, {"big": source}, QUICK._replace(patience=0.5)))
    assert why in problem.text
    assert problem.transient is transient
    assert not store.path("big").exists()
    assert store.methods()[-1] == "DELETE"
    assert store.uploads == {}


def test_an_answer_of_success_may_hold_an_error_that_passes(tmp_path: Path, store: Store) -> None:
    errors = [refuse(200, "InternalError")]

    def fault(handler: Handler) -> bool:
        return handler.command == "POST" and bool(errors) and errors.pop()(handler)

    store.always = fault
    source = sparse(tmp_path / "big", 65 * MIB)
    plan = write_plan(tmp_path / "plan", wanted(store, "big", PARTS))
    done, problems = upload_outputs(plan, {"big": source}, QUICK)
    assert problems == []
    assert digest(store.path("big")).sha256 == done["big"]["sha256"]


def test_urls_are_renewed_in_the_middle_of_an_upload(tmp_path: Path, store: Store) -> None:
    source = sparse(tmp_path / "big", 150 * MIB)
    plan = write_plan(tmp_path / "plan", wanted(store, "big", PARTS))

    def expire(handler: Handler) -> bool:
        if len(store.log) == 2:
            store.signature = "new"
        if len(store.log) == 6:
            write_plan(tmp_path / "plan", wanted(store, "big", PARTS))
        return False

    store.always = expire
    done, problems = upload_outputs(plan, {"big": source}, QUICK)
    assert problems == []
    assert digest(store.path("big")).sha256 == done["big"]["sha256"]


@pytest.mark.parametrize("size", [MIB, 70 * MIB])
def test_a_file_that_changes_while_it_is_given(tmp_path: Path, store: Store, size: int) -> None:
    source = sparse(tmp_path / "log", size)

    def written(handler: Handler) -> bool:
        if handler.command == "PUT":
            with source.open("ab") as file:
                file.write(b"more")
        return False

    store.always = written
    plan = write_plan(tmp_path / "plan", wanted(store, "log", PARTS))
    problem = only(upload_outputs(plan, {"log": source}, QUICK))
    assert problem == Problem(
        'output "log": changed while it was read: end what writes to it before the step ends', transient=False
    )


def test_limits_name_the_output(tmp_path: Path, store: Store) -> None:
    (tmp_path / "file").write_bytes(bytes(1001))
    for name in ("folder", "files"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / str(number)).write_bytes(bytes(400))
    plan = write_plan(
        tmp_path / "plan",
        wanted(store, "file", max_bytes=1000),
        wanted(store, "folder", max_bytes=1000),
        wanted(store, "files", max_files=2),
    )
    done, problems = upload_outputs(plan, {name: tmp_path / name for name in plan.outputs}, QUICK)
    assert done == {}
    assert problems == [
        Problem('output "file": holds 1,001 bytes, more than the 1,000 that it may have', transient=False),
        Problem('output "folder": holds more than the 1,000 bytes that it may have', transient=False),
        Problem('output "files": holds more than the 2 files that it may have', transient=False),
    ]
    assert store.log == []


def test_what_cannot_be_kept_and_what_is_not_planned(tmp_path: Path, store: Store) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "out").symlink_to("/etc")
    plan = write_plan(tmp_path / "plan", wanted(store, "tree"), wanted(store, "gone"))
    paths = {name: tmp_path / name for name in ("tree", "gone", "other")}
    done, problems = upload_outputs(plan, paths, QUICK)
    assert done == {}
    assert [problem.text for problem in problems] == [
        'output "other" is not in the plan of transfers',
        f'output "tree": {tmp_path}/tree/out is a link to the absolute path /etc: copy what it points to',
        'output "gone": cannot be read: No such file or directory',
    ]


def test_a_full_or_missing_folder_for_temporary_files(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    plan = write_plan(tmp_path / "plan", wanted(store, "tree"))
    problem = only(upload_outputs(plan, {"tree": tmp_path / "tree"}, QUICK))
    assert problem.text.startswith('output "tree": cannot be packed in the folder for temporary files ($TMPDIR): ')


def test_a_refused_upload_says_why_although_the_store_does_not_read_it(tmp_path: Path, store: Store) -> None:
    source = sparse(tmp_path / "big", 40 * MIB)
    store.always = refuse(413, "EntityTooLarge")
    problem = only(upload_outputs(write_plan(tmp_path / "plan", wanted(store, "big")), {"big": source}, QUICK))
    assert problem.text == f'output "big": the store 127.0.0.1:{store.port} answered 413 EntityTooLarge'
    assert not problem.transient


def test_no_thread_and_no_descriptor_is_left(tmp_path: Path, store: Store) -> None:
    before = _deleted()
    store.always = refuse(413, "EntityTooLarge")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "x").write_bytes(os.urandom(MIB))
    plan = write_plan(tmp_path / "plan", wanted(store, "tree", [[1, MIB // 2], [9, MIB]]))
    only(upload_outputs(plan, {"tree": tmp_path / "tree"}, QUICK))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock")]
    assert _deleted() == before


def _deleted() -> list[str]:
    """Open files that have no name."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir() if _target(path).endswith(" (deleted)"))


def _descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def _size(descriptor: Path) -> int:
    try:
        return descriptor.stat().st_size
    except FileNotFoundError:
        return 0


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""


MEASURED = """
import sys, time
from pathlib import Path
from penstock.step.plan import Plan
from penstock.step.transfer import fetch_inputs, upload_outputs
plan = Plan(Path(sys.argv[1]))
if plan.inputs:
    problems = fetch_inputs(plan, Path(sys.argv[2]))
else:
    problems = upload_outputs(plan, {"big": Path(sys.argv[2])})[1]
if problems:
    sys.exit(str(problems))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(*arguments: str) -> int:
    """The most KiB that a process had in memory that did a transfer."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, store: Store, kind: str) -> None:
    source = sparse(tmp_path / "big", 600 * MIB)
    if kind == "folder":
        (tmp_path / "tree").mkdir()
        source = source.rename(tmp_path / "tree" / "big").parent
    write_plan(tmp_path / "plan", wanted(store, "big", PARTS))
    assert peak(str(tmp_path / "plan"), str(source)) < 64 * 1024
    found = digest(source)
    entry = {"name": "big", "key": "big", "url": store.url("big"), "sha256": found.sha256, "size": found.size}
    write_plan(tmp_path / "plan2", entry | {"headers": {}, "folder": found.folder}, expires=time.time() + 60)
    assert peak(str(tmp_path / "plan2"), str(tmp_path / "inputs")) < 64 * 1024
