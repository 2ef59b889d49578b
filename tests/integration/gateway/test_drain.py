"""The end of a gateway: nobody who waits is cut off, and nothing that was taken is lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .cluster import TOKEN, ClusterServer
from .endpoints_fixtures import PIPELINE, Endpoints, value
from .support import SECONDS, until


@pytest.fixture
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Endpoints, Endpoints]]:
    """Two replicas."""
    server = ClusterServer()
    server.put("pipelines", "iris", spec=PIPELINE)
    server.deployment("iris")
    environ = {"PENSTOCK_DRAIN_SECONDS": "1"}
    both = [Endpoints(tmp_path_factory.mktemp(name), server, **environ) for name in ("first", "second")]
    yield both[0], both[1]
    for each in both:
        each.kill()
    server.close()


def test_who_waits_is_sent_on_and_another_replica_answers(gateways: tuple[Endpoints, Endpoints]) -> None:
    first, second = gateways
    with ThreadPoolExecutor(3) as pool:
        name = first.call({}).json()["execution_id"]
        redirected = pool.submit(first.results, name)
        whole = pool.submit(first.results, name, params={"wait": "60"})
        until(lambda: "callers_waiting 2.0" in first.http.get(f"{first.url}/metrics").text)
        first.terminate()
        until(lambda: first.http.get(f"{first.url}/readyz").status_code == 503)
        late = first.call({})  # it serves as before until nobody sends it requests
        assert late.status_code == 303

        answer = redirected.result(SECONDS)
        assert (answer.status_code, answer.json()) == (303, {"execution_id": name})
        assert answer.headers["location"].startswith(f"{name}?")
        assert (whole.result(SECONDS).status_code, whole.result().json()) == (202, {"execution_id": name})
        assert first.process.wait(SECONDS) == 0

    for each in (name, late.json()["execution_id"]):
        first.server.end(each, outputs=[value("accuracy", 1)])
        assert second.results(each).json()["outputs"] == {"accuracy": 1}


def test_a_second_replica_answers_for_the_first(gateways: tuple[Endpoints, Endpoints]) -> None:
    first, second = gateways
    name = first.call({}).json()["execution_id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.results, name, params={"wait": "60"})
        until(lambda: "callers_waiting 1.0" in second.http.get(f"{second.url}/metrics").text)
        first.server.end(name, outputs=[value("accuracy", 2)])
        assert waiting.result(SECONDS).json()["outputs"] == {"accuracy": 2}


def test_calls_over_the_rate_are_told_when_to_come_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = ClusterServer()
    server.put("pipelines", "iris", spec=PIPELINE)
    server.deployment("iris")
    slow = Endpoints(tmp_path_factory.mktemp("slow"), server, PENSTOCK_CALL_RATE="0.01", PENSTOCK_CALL_BURST="2")
    try:
        answers = [slow.call({}) for _ in range(3)]
        assert [each.status_code for each in answers] == [303, 303, 429]
        assert 90 <= int(answers[-1].headers["retry-after"]) <= 100
        assert answers[-1].json()["name"] == "TooManyRequests"
        assert slow.call({}, token="w" * 43).status_code == 403  # strangers use up nothing
    finally:
        slow.kill()
        server.close()
    assert TOKEN not in slow.log
