"""Every execution is in the history once, and none is gone before it is: with a database that dies and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.shell import wait_until
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import Place, execution, local_operator, restricted_namespace, script, steps
from penstock.storage.history.history import History
from penstock.storage.history.records import Recorded
from postgres import Server

pytest_plugins = ["e2e.operator_fixtures"]
pytestmark = pytest.mark.usefixtures("crds")

COUNT = 30
SECONDS = 150
GREETS = steps(
    script(
        "greet",
        'echo "text=Hello, $INPUT_WHO!" > "$PENSTOCK_OUTPUT"',
        inputs=[{"name": "who", "from": "inputs.who"}],
        outputs=[{"name": "text", "type": "string", "maxBytes": 100}],
    ),
    inputs=[{"name": "who", "type": "string"}],
    outputs=[{"name": "text", "type": "string", "from": "steps.greet.outputs.text"}],
)


@pytest.fixture
def database() -> Iterator[Server]:
    """A PostgreSQL of this test's own."""
    server = Server()
    yield server
    server.close()


async def all_of(url: str) -> list[Recorded]:
    """All that a history has, with steps."""
    history = await History.open(url)
    try:
        page = await history.list(limit=1_000)
        found = [await history.get(each.body["metadata"]["namespace"], uid=each.uid) for each in page.items]
        return [each for each in found if each is not None]
    finally:
        await history.close()


def test_a_database_that_is_away_keeps_what_is_not_recorded_and_nothing_else(
    cluster_kubectl: Kubectl, database: Server, tmp_path: Path
) -> None:
    name = database.database()
    url = database.url(name)
    with (
        restricted_namespace(cluster_kubectl, "history") as work,
        local_operator(work, tmp_path, HISTORY_URL=url, EVENTS="none") as operator,
    ):
        place = Place(work, "local")
        pipeline = place.pipeline(GREETS)
        names = [f"e-{number:02d}" for number in range(COUNT)]

        def start(some: list[str]) -> None:
            given = [
                execution(pipeline, name=each, inputs=[{"name": "who", "value": each}], ttlSecondsAfterFinished=0)
                for each in some
            ]
            place.start_all(given)

        def there() -> dict[str, str]:
            listed = work.items("executions")
            return {each["metadata"]["name"]: (each.get("status") or {}).get("phase", "") for each in listed}

        def over() -> set[str]:
            found = database.sql("SELECT name FROM executions WHERE finished", name)
            return set(found.split())

        start(names[:10])
        wait_until(lambda: len(over()) >= 4, timeout=SECONDS, what="some executions to be recorded")
        assert over() | there().keys() == set(names[:10])
        recorded = over()
        database.kill()

        start(names[10:])
        kept = set(names) - recorded

        def all_finished() -> bool:
            found = there()
            # What was written between our question and its end may go.
            return all(phase == "Succeeded" for phase in found.values()) and found.keys() >= set(names[10:])

        wait_until(all_finished, timeout=SECONDS, what="executions to finish without the database")
        assert operator.metrics()["penstock_history_waiting"] >= 20
        assert operator.metrics()["penstock_history_lag"] > 0
        operator.kill()
        operator.start()
        operator.wait()
        found = there()
        assert found.keys() >= set(names[10:]), "one was deleted that is not recorded"

        database.start()
        missing = set(names[:10]) - over() - there().keys()
        assert not missing, f"gone without a trace: {missing & kept}"
        wait_until(lambda: not there(), timeout=SECONDS, what="all executions to be deleted after they were recorded")
        assert over() == set(names)
        wait_until(
            lambda: database.sql("SELECT count(*) FROM executions WHERE deleted_at IS NULL", name) == "0",
            timeout=SECONDS,
            what="all removals to be recorded",
        )
        assert operator.metrics()["penstock_history_waiting"] == 0

    history = asyncio.run(all_of(url))
    assert sorted(each.body["metadata"]["name"] for each in history) == names
    for each in history:
        body = each.body
        status, (step,) = body["status"], body["status"]["steps"]
        assert body["spec"]["inputs"] == [{"name": "who", "value": body["metadata"]["name"]}]
        assert status["outputs"][0]["value"] == f"Hello, {body['metadata']['name']}!"
        assert (status["phase"], step["phase"], step["attempts"]) == ("Succeeded", "Succeeded", 1)
        assert status["startedAt"] <= status["finishedAt"]
        assert step.keys() >= {"queuedAt", "startedAt", "finishedAt"}
        assert each.manifest is not None
        assert each.manifest["steps"][0]["name"] == "greet"
