"""Names of attempts' objects: the same for the same attempt, legal, and never the same for two."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.types import AttemptId, Identity
from penstock.kube.names import attempt_of, input_annotation, labels, object_name

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

EXECUTIONS = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", fullmatch=True)
STEPS = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
IDS = st.builds(AttemptId, STEPS, st.integers(-1, 999), st.integers(1, 1_011))


def test_people_recognise_an_attempt_by_its_name() -> None:
    iris = Identity("iris-7", "0e4d8f1c")
    assert re.fullmatch(r"iris-7-train-2-[a-z2-7]{10}", object_name(iris, AttemptId("train", -1, 2)))
    assert re.fullmatch(r"iris-7-train-41-2-[a-z2-7]{10}", object_name(iris, AttemptId("train", 41, 2)))
    long = object_name(Identity("e" * 63, "u"), AttemptId("s" * 63, 999, 1_011))
    assert re.fullmatch(r"e{21}-s{21}-999-1011-[a-z2-7]{10}", long)


@given(EXECUTIONS, IDS)
def test_every_name_is_a_dns_label(execution: str, attempt: AttemptId) -> None:
    name = object_name(Identity(execution, "u"), attempt)
    assert LABEL.fullmatch(name)
    assert len(name) <= 63
    assert name == object_name(Identity(execution, "u"), attempt)


@given(EXECUTIONS, IDS, IDS)
def test_no_two_attempts_have_the_same_name(execution: str, one: AttemptId, other: AttemptId) -> None:
    iris = Identity(execution, "u")
    assert (object_name(iris, one) == object_name(iris, other)) == (one == other)
    assert object_name(iris, one) != object_name(Identity(execution, "v"), one)


@given(EXECUTIONS, IDS)
def test_an_attempt_is_found_again_from_its_labels(execution: str, attempt: AttemptId) -> None:
    found = labels(Identity(execution, "u"), attempt, "iris")
    assert attempt_of(found) == attempt
    assert ("penstock.dev/item" in found) == (attempt.index >= 0)
    assert all(len(value) <= 63 for value in found.values())


def test_objects_of_others_belong_to_no_attempt() -> None:
    assert attempt_of({}) is None
    assert attempt_of({"penstock.dev/step": "a", "penstock.dev/attempt": "x"}) is None


@given(st.lists(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,62}", fullmatch=True), unique=True))
def test_every_input_has_an_annotation_of_its_own(inputs: list[str]) -> None:
    keys = [input_annotation(name, position) for position, name in enumerate(inputs)]
    assert len(set(keys)) == len(inputs)
    for key in keys:
        prefix, _, name = key.partition("/")
        assert prefix == "inputs.penstock.dev"
        assert KEY.fullmatch(name)
        assert len(name) <= 63
