"""Which watch events tell nothing that the operator did not do itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.kube.echoes import is_echo


def line(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode()


def execution(*, generation: int = 1, observed: int | None = None, **metadata: Any) -> dict[str, Any]:
    status = {} if observed is None else {"status": {"phase": "Running", "observedGeneration": observed}}
    return {"kind": "Execution", "metadata": {"generation": generation, **metadata}, "spec": {}} | status


def job(*, generation: int = 1, **spec: Any) -> dict[str, Any]:
    ours = {"managedBy": "penstock.dev/operator", "suspend": False}
    return {"kind": "Job", "metadata": {"generation": generation}, "spec": ours | spec, "status": {}}


def pod(*, scheduled: bool = False, **metadata: Any) -> dict[str, Any]:
    spec = {"nodeName": "node"} if scheduled else {}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}


@pytest.mark.parametrize(
    ("kind", "body", "echo"),
    [
        pytest.param("MODIFIED", execution(observed=1), True, id="a status that we wrote"),
        pytest.param("ADDED", execution(), False, id="an execution that is new"),
        pytest.param("ADDED", execution(observed=1), False, id="one that was not known here"),
        pytest.param("MODIFIED", execution(), False, id="one that nobody has written a status of"),
        pytest.param("MODIFIED", execution(generation=2, observed=1), False, id="one that was just cancelled"),
        pytest.param("MODIFIED", execution(generation=2, observed=2), True, id="our answer to that"),
        pytest.param("DELETED", execution(observed=1), False, id="one that is gone"),
        pytest.param("MODIFIED", execution(observed=1, deletionTimestamp="…"), False, id="one that is about to go"),
        pytest.param("ADDED", job(), True, id="a Job that we made"),
        pytest.param("MODIFIED", job(), True, id="a Job whose status we wrote"),
        pytest.param("ADDED", job(suspend=True), False, id="a Job that somebody holds back"),
        pytest.param("MODIFIED", job(generation=2), False, id="a Job that was admitted"),
        pytest.param("DELETED", job(), False, id="a Job that is gone"),
        pytest.param("MODIFIED", job(managedBy=None), False, id="a Job that the Job controller looks after"),
        pytest.param("ADDED", pod(), True, id="a Pod that we made"),
        pytest.param("MODIFIED", pod(), False, id="a Pod to which something happened"),
        pytest.param("ADDED", pod(scheduled=True), False, id="a Pod that was not known here"),
        pytest.param("ADDED", pod(finalizers=["batch.kubernetes.io/job-tracking"]), False, id="one of an ordinary Job"),
        pytest.param("DELETED", pod(), False, id="a Pod that is gone"),
        pytest.param("BOOKMARK", {"kind": "Execution", "metadata": {"resourceVersion": "7"}}, False, id="a bookmark"),
        pytest.param("ERROR", {"kind": "Status", "code": 410}, False, id="the end of a watch"),
    ],
)
def test_events_are_echoes_or_news(kind: str, body: dict[str, Any], echo: bool) -> None:
    assert is_echo(line(kind, body)) is echo


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'"text"', b'{"type": "ADDED"}', b'{"type": 1, "object": null}'])
def test_what_is_not_an_event_is_left_to_whoever_reads_it(broken: bytes) -> None:
    assert not is_echo(broken)
