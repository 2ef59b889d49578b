from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.engine.types import AttemptId
from penstock.storage.errors import BadObjectPath
from penstock.storage.paths import (
    check_key,
    data_key,
    expand,
    file_key,
    meta_key,
    output_key,
    parts,
    record_key,
)

NOON = 1_798_720_496.0  # 2026-12-31 12:34:56 UTC
_PIECES = st.sampled_from(
    ["a", "..", ".", "/", "\\", "\0", " ", "é", "..a", "\n", "data", "executions", "%2e", "\ud800"]
)


@given(st.lists(_PIECES).map("".join) | st.text())
@example("../secret")
@example("/etc/passwd")
@example("a/../../b")
def test_whatever_the_path_its_key_stays_below_the_data_store(path: str) -> None:
    try:
        key = data_key("default", path)
    except BadObjectPath:
        return
    first, second, *rest = key.split("/")
    assert (first, second) == ("default", "data")
    assert rest
    assert not {"", ".", ".."} & set(rest)
    assert not any(ord(letter) < 32 or letter == "\\" for letter in key)
    assert check_key(key) == key


@given(st.lists(_PIECES).map("".join) | st.text())
def test_whatever_a_status_says_its_file_is_in_its_own_namespace(key: str) -> None:
    try:
        found = file_key("default", key)
    except BadObjectPath:
        return
    assert found == f"default/{key}"
    assert found.split("/")[1] in ("executions", "data")
    assert ".." not in found.split("/")


@given(st.text())
def test_the_path_of_a_path_is_the_same_path(path: str) -> None:
    try:
        once = parts(path)
    except BadObjectPath:
        return
    assert parts("/".join(once)) == once


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("raw/iris.csv", "raw/iris.csv"),
        ("./raw//iris.csv", "raw/iris.csv"),
        ("a folder/", "a folder"),
        ("été/日本.csv", "été/日本.csv"),
        ("100%/a+b?c#d", "100%/a+b?c#d"),
    ],
)
def test_paths_that_people_write(path: str, key: str) -> None:
    assert data_key("default", path) == f"default/data/{key}"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "it is empty"),
        ("./.", "it is empty"),
        ("/raw/a", "it must be relative"),
        ("../a", "without `..`"),
        ("a\\b", "not by a backslash"),
        ("a\nb", "cannot be printed"),
        ("a/" + "x" * 251, "a part of it is longer than 250 bytes"),
        ("/".join(["x" * 200] * 5), "longer than 800 bytes"),
    ],
)
def test_a_path_that_is_none_is_told_why(path: str, why: str) -> None:
    with pytest.raises(BadObjectPath, match=why):
        data_key("default", path)


def test_the_longest_path_has_room_in_a_key_with_all_that_stands_around_it() -> None:
    path = "/".join(["x" * 199] * 4)
    assert len(("p" * 128 + "/" + meta_key("n" * 63, path)).encode()) <= 1024
    assert check_key(data_key("n" * 63, path))
    assert len(("p" * 128 + "/" + record_key("n" * 63, path)).encode()) <= 1024


@pytest.mark.parametrize("namespace", ["", "..", "a/b", ".penstock", "Default", "a" * 64])
def test_a_namespace_that_is_none_is_no_part_of_a_key(namespace: str) -> None:
    with pytest.raises(BadObjectPath, match="not the name of a namespace"):
        data_key(namespace, "a")


def test_an_attempt_has_a_place_for_each_output() -> None:
    assert output_key("uid-1", AttemptId("train", -1, 2), "model") == "executions/uid-1/train/2/model"
    assert output_key("uid-1", AttemptId("train", 7, 2), "model") == "executions/uid-1/train/7/2/model"


@pytest.mark.parametrize(("uid", "output"), [("..", "model"), ("a/b", "model"), ("uid-1", ".."), ("uid-1", "a/b")])
def test_an_attempt_has_no_place_elsewhere(uid: str, output: str) -> None:
    with pytest.raises(BadObjectPath):
        output_key(uid, AttemptId("train", -1, 1), output)


def test_patterns_hold_the_execution_and_the_time_in_utc() -> None:
    assert expand("m/{execution_id}/{date}.bin", execution_id="iris-x7k2p", now=NOON) == "m/iris-x7k2p/20261231.bin"
    assert expand("{date_time}", execution_id="iris", now=NOON) == "20261231_123456"
    assert expand("plain/path", execution_id="iris", now=NOON) == "plain/path"


def test_a_pattern_with_other_braces_is_told_which_there_are() -> None:
    with pytest.raises(
        BadObjectPath, match=r"there is no \{time\}; there are \{execution_id\}, \{date\}, \{date_time\}"
    ):
        expand("m/{time}", execution_id="iris", now=NOON)


def test_a_pattern_leads_nowhere_else_whatever_the_execution_is_called() -> None:
    with pytest.raises(BadObjectPath):
        expand("{execution_id}/a", execution_id="..", now=NOON)
