"""The init container's command: what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from penstock.step import fetch
from penstock.step.transfer import Problem
from penstock.step.wire import CONNECTIONS, DEADLINE, PATIENCE

from .support import SECRET, Handler, Store, cut, given, write_plan


def start(tmp_path: Path, **env: str) -> subprocess.Popen[str]:
    contract = fetch.environment(
        plan_file=str(tmp_path / "plan"), inputs_dir=str(tmp_path / "inputs"), message_file=str(tmp_path / "message")
    )
    return subprocess.Popen(
        [sys.executable, "-m", "penstock.step.fetch"],
        env={**os.environ, **contract, **env},
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path: Path, **env: str) -> tuple[int, fetch.Fetched, str]:
    with start(tmp_path, **env) as process:
        _, said = process.communicate(timeout=60)
    return process.returncode, fetch.parse_message((tmp_path / "message").read_text()), said


def test_all_is_there(tmp_path: Path, store: Store) -> None:
    store.path("table").write_bytes(b"hello")
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    assert run(tmp_path) == (0, fetch.Fetched([], transient=False), "")
    assert (tmp_path / "inputs" / "table").read_bytes() == b"hello"


def test_nothing_to_fetch(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan")
    assert run(tmp_path) == (0, fetch.Fetched([], transient=False), "")


def test_an_object_that_is_gone_is_not_the_platforms_trouble(tmp_path: Path, store: Store) -> None:
    store.path("table").write_bytes(b"hello")
    write_plan(tmp_path / "plan", given(store, "table", "gone", store.path("table")))
    code, found, said = run(tmp_path)
    assert (code, found.transient) == (fetch.EXIT_INPUTS, False)
    assert found.problems[0].startswith('input "table": is no longer in the store: ')
    assert said == f"penstock: {found.problems[0]}\n"
    assert SECRET not in said


def test_a_store_that_does_not_answer_is(tmp_path: Path, store: Store) -> None:
    store.path("table").write_bytes(b"hello")
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    store.always = cut
    code, found, said = run(tmp_path, **{PATIENCE: "0.1"})
    assert (code, found.transient) == (fetch.EXIT_TRANSIENT, True)
    assert "cannot be reached: the connection was cut" in found.problems[0]
    assert SECRET not in said
    code, found, _ = run(tmp_path, **{DEADLINE: "1"})
    assert (code, found.transient) == (fetch.EXIT_TRANSIENT, True)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is not a plan as the operator writes it"),
        ('{"version": 1}', "is not a plan as the operator writes it (KeyError)"),
        ('{"version": 2}', "the plan's version is 2, this image of Penstock knows 1: use the image that belongs"),
        ('{"version": 1, "expires": 1, "inputs": [{"name": "../x"}]}', '"../x" cannot be the name of an input'),
        ('{"version": 1, "expires": 1, "inputs": [{"name": "x", "url": "s3cr3t"}]}', "(KeyError)"),
    ],
)
def test_a_plan_that_cannot_be_used(tmp_path: Path, plan: str | None, why: str) -> None:
    if plan is not None:
        (tmp_path / "plan").write_text(plan)
    code, found, said = run(tmp_path)
    assert code == fetch.EXIT_CONFIGURATION
    assert why in found.problems[0]
    assert said == f"penstock: {found.problems[0]}\n"
    assert SECRET not in said


def test_variables_that_are_missing_or_wrong(tmp_path: Path, store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock.step.fetch"], capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == fetch.EXIT_CONFIGURATION
    assert done.stderr.startswith("penstock: PENSTOCK_TRANSFERS, PENSTOCK_INPUTS, PENSTOCK_FETCH_MESSAGE not set")
    store.path("table").write_bytes(b"hello")
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    for name in (PATIENCE, DEADLINE, CONNECTIONS):
        code, found, _ = run(tmp_path, **{name: "soon"})
        assert (code, found.problems) == (fetch.EXIT_CONFIGURATION, [f"{name} is not a number that can be used"])


def test_a_message_is_never_too_long_and_says_the_lasting_first() -> None:
    problems = [Problem(f"input {number}: {'ü' * 1000}", transient=number != 40) for number in range(50)]
    text = fetch.message(problems)
    assert len(text.encode()) <= 4000
    found = fetch.parse_message(text)
    assert found.transient is False
    assert found.problems[0].startswith("input 40: ")
    assert found.problems[-1] == f"and {50 - len(found.problems) + 1} more"
    with pytest.raises(fetch.FetchError, match="cannot be read: 'Killed'"):
        fetch.parse_message("Killed")


def test_it_ends_at_once_when_the_pod_is_deleted(tmp_path: Path, store: Store) -> None:
    store.path("table").write_bytes(b"hello")
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    ended = threading.Event()

    def end(handler: Handler) -> bool:
        process.send_signal(signal.SIGTERM)
        handler.close_connection = ended.wait(timeout=60)
        return True

    store.always = end
    with start(tmp_path) as process:
        process.communicate(timeout=60)
        ended.set()
    assert process.returncode == 143
    assert not (tmp_path / "inputs" / "table").exists()


def test_values_are_put_beside_the_files(tmp_path: Path, store: Store) -> None:
    store.path("table").write_bytes(b"hello")
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    values = tmp_path / "given"
    (values / "..data").mkdir(parents=True)  # as a kubelet makes it
    (values / "text").write_bytes(b"a\r\n\xff")
    assert run(tmp_path, PENSTOCK_GIVEN=str(values)) == (0, fetch.Fetched([], transient=False), "")
    assert sorted(path.name for path in (tmp_path / "inputs").iterdir()) == ["table", "text"]
    assert (tmp_path / "inputs" / "text").read_bytes() == b"a\r\n\xff"


def test_values_that_are_not_there_are_said(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan")
    code, found, _ = run(tmp_path, PENSTOCK_GIVEN=str(tmp_path / "none"))
    assert (code, found.transient) == (fetch.EXIT_INPUTS, False)
    assert found.problems == [
        f"the values among the inputs cannot be copied to {tmp_path / 'inputs'}: No such file or directory"
    ]
