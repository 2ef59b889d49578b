"""Rows from objects and back: nothing is lost, whatever JSON holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from history_bodies import NOON, a_step, an_execution, uid
from penstock.storage.history import rows
from penstock.storage.history.records import NOT_YET, NotAnExecution, Version

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MAPS = st.dictionaries(st.text(min_size=1), st.text(), max_size=3)


def _rows(body: dict[str, Any]) -> dict[str, Any]:
    return rows.rows_of(Version(body, 1)).execution


@given(
    st.none() | MAPS,
    st.none() | MAPS,
    st.none() | st.lists(JSON, max_size=2),
    st.none() | st.lists(JSON, max_size=2),
    st.sampled_from([None, [], [a_step("a", outputs=[]), a_step("b", "Pending")], [a_step(outputs=[{"name": "x"}])]]),
    st.none() | st.dictionaries(st.text(), JSON, max_size=2),
)
def test_an_object_is_put_together_as_it_was(
    labels: Any, annotations: Any, inputs: Any, outputs: Any, steps: Any, pipeline: Any
) -> None:
    body = an_execution()
    for part, key, value in (
        ("metadata", "labels", labels),
        ("metadata", "annotations", annotations),
        ("spec", "inputs", inputs),
        ("spec", "pipelineSpec", pipeline),
        ("status", "outputs", outputs),
        ("status", "steps", steps),
    ):
        body[part].pop(key, None)
        if value is not None:
            body[part][key] = value
    made = rows.rows_of(Version(body, 1))
    manifest = None if made.manifest is None else made.manifest["manifest"]
    assert rows.whole(made.execution, manifest, made.steps).body == body


def test_the_same_object_makes_the_same_rows_and_stays_as_it_is() -> None:
    body, same = an_execution(labels={"a": "b"}), an_execution(labels={"a": "b"})
    assert rows.rows_of(Version(body, 1)) == rows.rows_of(Version(same, 1))
    assert body == same


def test_an_object_without_a_status_is_pending() -> None:
    body = an_execution()
    del body["status"]
    row = _rows(body)
    assert (row["phase"], row["finished"], row["revision"], row["started_at"]) == ("Pending", False, "", NOT_YET)
    assert rows.whole(row | {"deleted_at": None}, None, ()).body == body


@pytest.mark.parametrize(
    ("pipeline", "revision", "number"),
    [("iris", "iris-3", 3), ("a-1", "a-1-12", 12), ("iris", "", None), ("iris", "other-3", None), ("", "x", None)],
)
def test_the_number_of_a_revision_is_at_the_end_of_its_name(pipeline: str, revision: str, number: int | None) -> None:
    assert _rows(an_execution(pipeline=pipeline, revision=revision))["revision_number"] == number


def test_moments_are_whole_milliseconds_whatever_the_zone() -> None:
    body = an_execution(startedAt="2023-11-14T23:13:20.5+01:00", finishedAt="2023-11-14T22:13:21.001Z")
    row = _rows(body)
    assert (row["started_at"], row["finished_at"], row["duration"]) == (1_700_000_000_500, 1_700_000_001_001, 501)


def test_an_end_before_its_beginning_takes_no_time() -> None:
    assert _rows(an_execution(started=NOON + 5, finished=NOON + 4))["duration"] == 0


def test_the_newest_moment_that_is_told_of_is_when_it_was_updated() -> None:
    items = [{"index": 0, "finishedAt": "2033-01-01T00:00:00Z"}]
    row = _rows(an_execution(steps=[a_step(items=items)]))
    assert row["updated_at"] == 1_988_150_400_000


def test_ids_of_steps_never_change() -> None:
    assert rows.step_id(uid(1), "train") == "5a526e9c-3d08-51d6-ac30-2cb88751247d"


def test_keys_are_short_enough_for_an_index() -> None:
    row = _rows(an_execution(author="\U0001f600" * 100_000, labels={"penstock.dev/trigger": "x" * 100_000}))
    assert len(row["created_by"].encode()) <= 1_280
    assert len(row["trigger"]) <= 320


@pytest.mark.parametrize("body", [{}, {"metadata": {}}, {"metadata": {"uid": "x"}, "spec": {}}])
def test_what_is_no_execution_is_named(body: dict[str, Any]) -> None:
    with pytest.raises(NotAnExecution, match="is missing"):
        rows.rows_of(Version(body, 1))
