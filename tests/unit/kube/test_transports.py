"""Which way values travel: chosen by declarations and sizes, on both sides of every bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_objects import SETTINGS, start
from penstock.controller.contract import CannotStart
from penstock.engine.types import File
from penstock.kube.transports import CollectorMode, PodSettings, Transport, WayIn, WayOut, choose, written_bytes
from penstock.step.values import Declared, compact_json, format_output

SHARED = PodSettings(collector_image="penstock:1", collector_mode=CollectorMode.SHARED)


def chosen(settings: PodSettings = SETTINGS, **fields: Any) -> Transport:
    told = start(**fields)
    return choose(told.step.spec, told.inputs, settings)


def test_a_step_without_values_needs_no_transport() -> None:
    assert chosen() == Transport(WayIn.NONE, WayOut.NONE)


@pytest.mark.parametrize(
    ("outputs", "way"),
    [
        ({"n": "number"}, WayOut.TERMINATION),
        ({"n": "number", "b": "boolean", "s": {"type": "string", "maxBytes": 300}}, WayOut.TERMINATION),
        ({"s": {"type": "string", "maxBytes": 670}}, WayOut.TERMINATION),
        ({"s": {"type": "string", "maxBytes": 690}}, WayOut.COLLECTOR),
        ({"s": {"type": "string", "maxBytes": 4_000}}, WayOut.COLLECTOR),
        ({"s": "string"}, WayOut.COLLECTOR),
        ({"j": "json"}, WayOut.COLLECTOR),
        ({"n": "number", "a": "array"}, WayOut.COLLECTOR),
        ({f"n{i}": "number" for i in range(24)}, WayOut.TERMINATION),
        ({f"n{i}": "number" for i in range(30)}, WayOut.COLLECTOR),
    ],
)
def test_outputs_bounded_by_their_types_are_the_termination_message(outputs: dict[str, Any], way: WayOut) -> None:
    assert chosen(outputs=outputs).way_out is way


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True)
VALUES = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(max_size=300))


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_no_form_of_writing_is_longer_than_was_reckoned_with(values: dict[str, Any]) -> None:
    values = {
        name: "".join(c for c in value if c != "\0" and not "\ud800" <= c <= "\udfff")
        if isinstance(value, str)
        else value
        for name, value in values.items()
    }
    declared = tuple(
        Declared(name, "string", max(1, len(value.encode())))
        if isinstance(value, str)
        else Declared(name, "boolean" if isinstance(value, bool) else "number")
        for name, value in values.items()
    )
    bound = written_bytes(declared)
    assert bound is not None
    texts = {name: value if isinstance(value, str) else compact_json(value) for name, value in values.items()}
    forms = [
        "".join(format_output(name, text) for name, text in texts.items()),
        "".join(f"{n}<<ghadelimiter_{'0' * 36}\n{t}\nghadelimiter_{'0' * 36}\n" for n, t in texts.items()),
        json.dumps(values),
        json.dumps(values, indent=8) + "\n",
        json.dumps(values, ensure_ascii=False),
    ]
    assert max(len(form.encode()) for form in forms) <= bound


def test_inputs_go_through_annotations_until_they_are_too_many() -> None:
    key = len("inputs.penstock.dev/text")
    assert chosen(inputs={"text": "x" * (32_768 - key)}).way_in is WayIn.ANNOTATIONS
    assert chosen(inputs={"text": "x" * (32_769 - key)}).way_in is WayIn.CONFIG_MAP
    assert chosen(inputs={"text": "ä" * 16_384}).way_in is WayIn.CONFIG_MAP


def test_what_no_config_map_can_hold_is_refused_by_size() -> None:
    assert chosen(inputs={"a": "x" * 1_000_000, "b": "y" * 48_576}).way_in is WayIn.CONFIG_MAP
    with pytest.raises(CannotStart) as refused:
        chosen(inputs={"a": "x" * 1_000_000, "b": "y" * 48_577})
    assert str(refused.value) == (
        "spec.steps[train].inputs: the values are 1,048,577 bytes, a ConfigMap holds 1,048,576 "
        '(largest: "a" 1,000,000); pass large data as files'
    )


FILE = File("k", "0" * 64, 3)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"inputs": {"table": FILE}}, "inputs[table]"),
        ({"inputs": {"parts": [None, FILE]}}, "inputs[parts]"),
        ({"outputs": {"model": "file"}}, "outputs[model].type"),
    ],
)
def test_without_an_object_store_files_are_refused_with_their_place(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(
        CannotStart, match="files need an object store, and this operator has none; name one"
    ) as refused:
        chosen(**fields)
    assert str(refused.value).startswith(f"spec.steps[train].{place}: ")


STORE = PodSettings(collector_image="penstock:1", collector_mode=CollectorMode.SHARED, files=True)


@pytest.mark.parametrize(
    ("fields", "transport"),
    [
        ({"inputs": {"table": FILE}}, Transport(WayIn.NONE, WayOut.NONE, files_in=True)),
        ({"inputs": {"parts": [None, FILE]}}, Transport(WayIn.NONE, WayOut.NONE, files_in=True)),
        ({"inputs": {"parts": [None, None]}}, Transport(WayIn.ANNOTATIONS, WayOut.NONE)),
        (
            {"inputs": {"table": FILE, "rows": 3}, "outputs": {"n": "number"}},
            Transport(WayIn.ANNOTATIONS, WayOut.TERMINATION, files_in=True),
        ),
        (
            {"inputs": {"table": FILE, "text": "x" * 40_000}},
            Transport(WayIn.CONFIG_MAP, WayOut.NONE, files_in=True),
        ),
        (
            {"outputs": {"n": "number", "model": "file"}},
            Transport(WayIn.NONE, WayOut.COLLECTOR, CollectorMode.SHARED, files_out=True),
        ),
        (
            {"inputs": {"table": FILE}, "outputs": {"j": "json"}},
            Transport(WayIn.NONE, WayOut.COLLECTOR, CollectorMode.SHARED, files_in=True),
        ),
    ],
)
def test_files_are_fetched_before_a_step_and_uploaded_after_it(fields: dict[str, Any], transport: Transport) -> None:
    assert chosen(STORE, **fields) == transport
    assert transport.files == (transport.files_in or transport.files_out)


SIDECAR = {"name": "proxy", "image": "proxy:1"}


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        ({}, CollectorMode.SHARED),
        ({"initContainers": [{"name": "fetch", "image": "f:1"}]}, CollectorMode.SHARED),
        ({"containers": [{"name": "step"}]}, CollectorMode.SHARED),
        ({"containers": [SIDECAR]}, CollectorMode.SIDECAR),
        ({"initContainers": [{**SIDECAR, "restartPolicy": "Always"}]}, CollectorMode.SIDECAR),
    ],
)
def test_containers_that_a_template_runs_beside_the_step_make_it_a_sidecar(
    spec: dict[str, Any], mode: CollectorMode
) -> None:
    assert chosen(SHARED, outputs={"j": "json"}, podTemplate={"spec": spec}).collector is mode
    assert chosen(outputs={"j": "json"}, podTemplate={"spec": spec}).collector is CollectorMode.SIDECAR


def test_many_containers_share_what_a_pod_may_say() -> None:
    many = {"spec": {"containers": [{"name": f"c{i}", "image": "c:1"} for i in range(5)]}}
    small: dict[str, Any] = {"outputs": {"s": {"type": "string", "maxBytes": 300}}}
    assert chosen(podTemplate=many, **small) == Transport(WayIn.NONE, WayOut.TERMINATION, None, 2_048)
    large: dict[str, Any] = {"outputs": {"s": {"type": "string", "maxBytes": 400}}}
    assert chosen(podTemplate=many, **large) == Transport(WayIn.NONE, WayOut.COLLECTOR, CollectorMode.SIDECAR, 1_755)
