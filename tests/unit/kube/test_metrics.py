"""The metrics as Prometheus reads them, and as the reference has them."""

from __future__ import annotations

import re

from penstock.kube.metrics import Metrics


def test_the_reference_has_all_that_prometheus_reads_and_no_more() -> None:
    metrics = Metrics()
    metrics.on_request("get", "pods", 200, 0.01)
    found = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics.text().decode(), re.MULTILINE))
    read = {name: kind for name, kind in found.items() if not name.endswith("_created")}
    assert read == {name: kind for name, kind, _, _ in metrics.described()}


def test_every_metric_has_a_meaning_and_our_name() -> None:
    for name, kind, _, meaning in Metrics().described():
        assert meaning
        assert name.startswith("penstock_")
        assert name.endswith("_total") == (kind == "counter"), name
        assert name.endswith("_seconds") == (kind == "histogram"), name


def test_requests_are_counted_by_verb_resource_and_code() -> None:
    metrics = Metrics()
    metrics.on_request("patch", "executions/status", 409, 0.02)
    lines = metrics.text().decode().splitlines()
    assert 'penstock_api_requests_total{code="409",resource="executions/status",verb="patch"} 1.0' in lines
    assert 'penstock_api_request_seconds_count{verb="patch"} 1.0' in lines
