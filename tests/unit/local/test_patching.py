"""Patches, and who owns which field after them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.local.patching import (
    Contested,
    Managers,
    PatchError,
    TestFailed,
    apply,
    dump_managers,
    json_patch,
    leaves,
    load_managers,
    merge,
    updated,
)

# --- merge patches ---


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # the examples of RFC 7386
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_does_what_the_standard_says(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(target)
    assert merge(target, patch) == result
    assert target == before


# --- JSON patches ---


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [  # the examples of RFC 6902
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["a", "c"]}, [{"op": "add", "path": "/foo/1", "value": "b"}], {"foo": ["a", "b", "c"]}),
        ({"baz": 1, "foo": 2}, [{"op": "remove", "path": "/baz"}], {"foo": 2}),
        ({"foo": ["a", "b", "c"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["a", "c"]}),
        ({"baz": 1}, [{"op": "replace", "path": "/baz", "value": 2}], {"baz": 2}),
        ({"a": {"x": 1}, "b": {}}, [{"op": "move", "from": "/a/x", "path": "/b/y"}], {"a": {}, "b": {"y": 1}}),
        ({"foo": [1, 2, 3]}, [{"op": "move", "from": "/foo/0", "path": "/foo/2"}], {"foo": [2, 3, 1]}),
        ({"foo": [1]}, [{"op": "add", "path": "/foo/-", "value": [2]}], {"foo": [1, [2]]}),
        ({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"foo": [1, 2]}, [{"op": "replace", "path": "/foo/0", "value": 3}], {"foo": [3, 2]}),
    ],
)
def test_a_json_patch_does_what_the_standard_says(target: Any, operations: Any, result: Any) -> None:
    before = copy.deepcopy(target)
    assert json_patch(target, operations) == result
    assert target == before


@pytest.mark.parametrize(
    "operations",
    [
        [{"op": "remove", "path": "/nothing"}],
        [{"op": "add", "path": "/no/where", "value": 1}],
        [{"op": "add", "path": "/list/9", "value": 1}],
        [{"op": "add", "path": "list", "value": 1}],
        [{"op": "replace", "path": "/nothing", "value": 1}],
        [{"op": "add", "path": "/x"}],
        [{"op": "jump", "path": "/x"}],
        [{"path": 3}],
        {"op": "remove"},
        [{"op": "move", "from": "/map", "path": "/map/inside"}],
        [{"op": "add", "path": "/text/x", "value": 1}],
    ],
)
def test_a_json_patch_that_cannot_be_done_is_told(operations: Any) -> None:
    with pytest.raises(PatchError):
        json_patch({"list": [1], "map": {"x": 1}, "text": "t"}, operations)


def test_a_test_that_does_not_hold_is_told_apart() -> None:
    with pytest.raises(TestFailed):
        json_patch({"a": True}, [{"op": "test", "path": "/a", "value": 1}])


# --- server-side apply ---


def test_what_was_applied_and_is_not_any_more_goes_with_the_maps_around_it() -> None:
    live, managers = apply({}, {}, "cli", {"spec": {"schedule": {"cron": "@daily"}, "suspend": True}}, force=False)
    live, managers = apply(live, managers, "cli", {"spec": {"endpoint": {"path": "x"}}}, force=False)
    assert live == {"spec": {"endpoint": {"path": "x"}}}


def test_what_others_have_written_stays() -> None:
    live, managers = apply({}, {}, "cli", {"labels": {"a": "1"}, "x": {}}, force=False)
    more = {**live, "labels": {"a": "1", "b": "2"}, "x": {"y": 1}}
    managers = updated(managers, "kubectl", live, more)
    live, managers = apply(more, managers, "cli", {}, force=False)
    assert live == {"labels": {"b": "2"}, "x": {"y": 1}}


def test_a_field_that_another_has_changed_is_a_conflict_until_it_is_taken_over() -> None:
    live, managers = apply({}, {}, "cli", {"spec": {"suspend": False, "x": 1}}, force=False)
    after = {"spec": {"suspend": True, "x": 1}}
    managers = updated(managers, "penstock", live, after)
    with pytest.raises(Contested) as caught:
        apply(after, managers, "cli", {"spec": {"suspend": False, "x": 2}}, force=False)
    assert caught.value.causes == (("penstock", ".spec.suspend"),)
    with pytest.raises(Contested) as caught:  # who wrote it first does not own it any more
        apply(after, managers, "third", {"spec": {"suspend": False}}, force=False)
    assert caught.value.causes == (("penstock", ".spec.suspend"),)
    live, managers = apply(after, managers, "cli", {"spec": {"suspend": False}}, force=True)
    assert live == {"spec": {"suspend": False}}
    assert apply(live, managers, "cli", {}, force=False)[0] == {}


def test_two_who_apply_the_same_share_it() -> None:
    live, managers = apply({}, {}, "one", {"a": [1, 2]}, force=False)
    live, managers = apply(live, managers, "two", {"a": [1, 2]}, force=False)
    live, managers = apply(live, managers, "one", {}, force=False)
    assert live == {"a": [1, 2]}
    live, managers = apply(live, managers, "two", {}, force=False)
    assert (live, managers) == ({}, {})


VALUES = st.one_of(st.booleans(), st.integers(0, 2), st.lists(st.integers(0, 1), max_size=2))
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "a": VALUES,
        "m": st.fixed_dictionaries({}, optional={"x": VALUES, "y": VALUES, "n": st.dictionaries(st.just("z"), VALUES)}),
        "p": st.dictionaries(st.sampled_from("qr"), VALUES),
    },
)
ANY = st.recursive(VALUES, lambda inside: st.dictionaries(st.sampled_from("abc"), inside, max_size=3), max_leaves=8)
OBJECTS = st.dictionaries(st.sampled_from("abc"), ANY, max_size=3)


def _full(value: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    return {path: leaf for path, leaf in leaves(value) if leaf != {}}


@given(st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), SHAPED), max_size=8))
def test_each_field_is_there_for_as_long_as_somebody_applies_it(steps: list[tuple[str, dict[str, Any]]]) -> None:
    """Against a model that keeps each leaf by itself: its value, and who says so."""
    live: dict[str, Any] = {}
    managers: Managers = {}
    model: dict[tuple[str, ...], tuple[str, set[str]]] = {}
    for who, wanted in steps:
        live, managers = apply(live, managers, who, wanted, force=True)
        managers = load_managers(dump_managers(managers))
        fields = _full(wanted)
        for path in list(model):
            value, owners = model[path]
            if path not in fields and who in owners:
                owners.discard(who)
                if not owners:
                    del model[path]
        for path, value in fields.items():
            before = model.get(path)
            same = before is not None and before[0] == repr(value)
            model[path] = (repr(value), (before[1] if before and same else set()) | {who})
        assert {path: repr(value) for path, value in _full(live).items()} == {
            path: value for path, (value, _) in model.items()
        }


@given(OBJECTS, OBJECTS, OBJECTS)
def test_applying_again_changes_nothing(start: dict[str, Any], one: dict[str, Any], two: dict[str, Any]) -> None:
    live, managers = apply(start, updated({}, "maker", {}, start), "a", one, force=True)
    live, managers = apply(live, managers, "b", two, force=True)
    again, after = apply(live, managers, "b", two, force=False)
    assert (again, after) == (live, managers)
    for path, value in _full(two).items():
        here: Any = live
        for part in path:
            here = here[part]
        assert repr(here) == repr(value)


@given(OBJECTS, OBJECTS)
def test_without_a_conflict_nobody_else_loses_a_field(start: dict[str, Any], wanted: dict[str, Any]) -> None:
    managers = updated({}, "maker", {}, start)
    try:
        live, after = apply(start, managers, "other", wanted, force=False)
    except Contested as error:
        assert error.causes
        forced, _ = apply(start, managers, "other", wanted, force=True)
        assert repr(sorted(_full(forced).items())) != repr(sorted(_full(start).items()))
    else:
        assert after.get("Update:maker", frozenset()) == managers.get("Update:maker", frozenset())
        assert {path: repr(value) for path, value in _full(start).items()}.items() <= {
            path: repr(value) for path, value in _full(live).items()
        }.items()
