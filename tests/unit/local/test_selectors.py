"""Selectors: what they select, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.local.selectors import BadSelector, fields_selector, labels_selector

LABELS = {"app": "iris", "tier": "back", "penstock.dev/step": "train", "empty": ""}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app=iris", True),
        ("app == iris , tier=back", True),
        ("app=iris,tier=front", False),
        ("app!=iris", False),
        ("app!=mnist", True),
        ("other!=iris", True),
        ("app", True),
        ("other", False),
        ("!other", True),
        ("!app", False),
        ("app in (iris, mnist)", True),
        ("app in (mnist)", False),
        ("app notin (mnist),penstock.dev/step=train", True),
        ("app notin (iris)", False),
        ("other notin (iris)", True),
        ("empty=", True),
        ("empty", True),
        ("app=", False),
        ("penstock.dev/step in (train,score),!other,app", True),
    ],
)
def test_what_a_label_selector_selects(text: str, selected: bool) -> None:
    assert labels_selector(text).matches(LABELS) is selected


@pytest.mark.parametrize("text", ["=x", "a=b=c", "a in b", "a in (b", "a,,b", "a=b,", "a=-b", "a in (-b)", "a b", "!"])
def test_what_is_no_label_selector_is_told(text: str) -> None:
    with pytest.raises(BadSelector, match="unable to parse requirement"):
        labels_selector(text)


def test_fields_that_nobody_can_select_by_are_told() -> None:
    assert fields_selector("metadata.name=x", lambda name: True).exactly("metadata.name") == "x"
    assert not fields_selector("metadata.name!=x", lambda name: True).matches({"metadata.name": "x"})
    with pytest.raises(BadSelector, match=r"not supported: spec\.x"):
        fields_selector("spec.x=1", lambda name: name == "metadata.name")
    with pytest.raises(BadSelector, match="can't understand"):
        fields_selector("metadata.name", lambda name: True)


NAMES = st.sampled_from(["a", "b-c", "x.y/z", "0"])
VALUES = st.sampled_from(["", "v", "w-1", "X_y.z"])


@given(st.dictionaries(NAMES, VALUES), NAMES, st.lists(VALUES, min_size=1))
def test_each_form_is_the_opposite_of_its_negation(labels: dict[str, str], key: str, values: list[str]) -> None:
    some = ", ".join(values)
    for one, other in (
        (f"{key}={values[0]}", f"{key}!={values[0]}"),
        (key, f"!{key}"),
        (f"{key} in ({some})", f"{key} notin ({some})"),
    ):
        assert labels_selector(one).matches(labels) is not labels_selector(other).matches(labels)
    assert labels_selector(f"{key} in ({some})").matches(labels) is (labels.get(key, "none of these") in values)
    both = f"{key}={values[0]},{key} in ({some})"
    assert labels_selector(both).matches(labels) is (labels.get(key, "none of these") == values[0])
