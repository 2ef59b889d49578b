"""Every execution of `penstock serve` is in the history once, and none is gone before it is."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.cli.support import execution, pipeline, until
from penstock.storage.history.history import History
from penstock.storage.history.records import Recorded
from postgres import Server

from .support import Served, deployment

GREET: list[dict[str, Any]] = [
    {
        "name": "greet",
        "inputs": [{"name": "who", "from": "inputs.who"}],
        "outputs": [{"name": "text", "type": "string"}],
        "script": 'echo "text=Hello, $INPUT_WHO!" > "$PENSTOCK_OUTPUT"',
    }
]
WHO: dict[str, Any] = {
    "inputs": [{"name": "who", "type": "string"}],
    "outputs": [{"name": "text", "type": "string", "from": "steps.greet.outputs.text"}],
}
COUNT = 20


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server of these tests' own: they kill it."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def elsewhere(postgres: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[Served, str]:
    """A home whose history is in PostgreSQL, and the URL of that."""
    url = postgres.url(postgres.database())
    monkeypatch.setenv("PENSTOCK_HISTORY_URL", url)
    return request.getfixturevalue("served"), url


def ask(served: Served, method: str, name: str = "", **options: Any) -> httpx.Response:
    """A request about executions, as kubectl makes it."""
    at = f"{served.url}/kubernetes/apis/penstock.dev/v1alpha1/namespaces/default/executions"
    headers = {"Authorization": f"Bearer {served.token}"}
    return served.http.request(method, f"{at}/{name}" if name else at, headers=headers, **options)


def start(served: Served, names: Sequence[str], of: str = "greet") -> None:
    """Start executions of a pipeline."""
    for name in names:
        given = {"pipeline": {"name": of}, "inputs": [{"name": "who", "value": name}]}
        answer = ask(served, "POST", json=execution({"name": name}, **given))
        assert answer.status_code == 201, answer.text


def names(count: int = COUNT) -> list[str]:
    return [f"e-{number:02d}" for number in range(count)]


def phases(served: Served) -> dict[str, str]:
    """Executions that are there, and their phases."""
    items = ask(served, "GET").json()["items"]
    return {each["metadata"]["name"]: (each.get("status") or {}).get("phase", "") for each in items}


def home_url(served: Served) -> str:
    return f"sqlite:///{served.cli.home}/history.db"


def recorded(url: str) -> dict[str, Recorded]:
    """All executions of a history by name; each name is there once."""

    async def read() -> list[Recorded]:
        history = await History.open(url)
        try:
            page = await history.list(limit=1_000)
            found = [await history.get("default", uid=each.uid) for each in page.items]
        finally:
            await history.close()
        return [each for each in found if each is not None]

    listed = asyncio.run(read())
    found = {each.body["metadata"]["name"]: each for each in listed}
    assert len(found) == len(listed)
    return found


def over(url: str) -> set[str]:
    """Names of executions whose end is recorded."""
    return {name for name, each in recorded(url).items() if "finishedAt" in each.body["status"]}


def check(found: Recorded) -> None:
    """That all is recorded of an execution that went well."""
    name, status, (step,) = found.body["metadata"]["name"], found.body["status"], found.body["status"]["steps"]
    assert found.body["spec"]["inputs"] == [{"name": "who", "value": name}]
    assert status["outputs"][0]["value"] == f"Hello, {name}!"
    assert (status["phase"], step["phase"], step["name"]) == ("Succeeded", "Succeeded", "greet")
    assert step["outputs"][0]["value"] == f"Hello, {name}!"
    assert status["startedAt"] <= step["startedAt"] <= step["finishedAt"] <= status["finishedAt"]
    assert found.manifest is not None
    assert found.manifest["outputs"] == WHO["outputs"]


def test_every_execution_is_in_the_history_once_also_when_it_was_deleted(served: Served) -> None:
    served.cli.write("p.yaml", pipeline("greet", GREET, **WHO))
    served.start("p.yaml")
    start(served, names())
    until(lambda: set(phases(served).values()) == {"Succeeded"}, "all are over")
    for name in names()[:5]:
        assert ask(served, "DELETE", name).status_code == 200
    # By other doors of the same server: the command for people deletes too.
    served.local("delete", f"execution/{names()[5]}")
    until(lambda: sum(each.deleted_at is not None for each in recorded(home_url(served)).values()) == 6)
    served.stop()

    found = recorded(home_url(served))
    assert sorted(found) == names()
    assert {name for name, each in found.items() if each.deleted_at is not None} == set(names()[:6])
    for each in found.values():
        check(each)

    before = {name: each.body for name, each in found.items()}
    served.start()
    start(served, ["new"])
    until(lambda: "new" in over(home_url(served)), "the new one is recorded")
    assert served.stop().code == 0
    after = recorded(home_url(served))
    assert sorted(after) == [*names(), "new"]
    assert {name: each.body for name, each in after.items() if name != "new"} == before


def test_one_that_runs_is_in_the_history_and_ends_there_when_it_is_deleted(served: Served, tmp_path: Path) -> None:
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    served.cli.write(
        "p.yaml", pipeline("wait", [{"name": "first", "script": "exit 0"}, {"name": "w", "script": script}])
    )
    served.start("p.yaml")
    for name in ("kept", "gone"):
        assert ask(served, "POST", json=execution({"name": name}, pipeline={"name": "wait"})).status_code == 201
    until(lambda: set(phases(served).values()) == {"Running"} and recorded(home_url(served)).keys() == {"kept", "gone"})
    until(lambda: {each.body["status"].get("phase") for each in recorded(home_url(served)).values()} == {"Running"})
    manifests = [each.manifest for each in recorded(home_url(served)).values()]
    assert all(each is not None for each in manifests)

    def runs() -> bool:
        steps = served.get("execution", "gone")["status"].get("steps", [])
        return [each["phase"] for each in steps] == ["Succeeded", "Running"]

    until(runs, "its second step runs")
    assert ask(served, "DELETE", "gone").status_code == 200
    until(lambda: recorded(home_url(served))["gone"].deleted_at is not None)
    status = recorded(home_url(served))["gone"].body["status"]
    assert (status["phase"], status["reason"]) == ("Cancelled", "Deleted")
    assert status["steps"][0]["phase"] == "Succeeded", "what was done until then is recorded"
    (tmp_path / "go").touch()
    until(lambda: recorded(home_url(served))["kept"].body["status"]["phase"] == "Succeeded")


def test_executions_go_with_their_deployment_after_they_were_recorded(served: Served) -> None:
    served.cli.write("d.yaml", pipeline("greet", GREET, **WHO), deployment("greeter", "greet"))
    served.start("d.yaml")
    token = served.endpoint_token("greeter")
    called = [served.call("greeter", token, {"who": str(n)}).json()["execution_id"] for n in range(5)]
    served.local("delete", "deployment/greeter")
    until(lambda: not phases(served))
    until(lambda: sum(each.deleted_at is not None for each in recorded(home_url(served)).values()) == 5)
    found = recorded(home_url(served))
    assert found.keys() == set(called)
    assert {each.body["status"]["phase"] for each in found.values()} == {"Succeeded"}


@pytest.mark.parametrize("seen", [0, 8, 16])
def test_after_a_crash_in_the_middle_each_is_in_the_history_once(served: Served, seen: int) -> None:
    served.cli.write("p.yaml", pipeline("greet", GREET, **WHO))
    served.start("p.yaml", "--parallel", "4")
    start(served, names())
    if seen:
        until(lambda: len(over(home_url(served))) >= seen, "some are recorded")
    served.process.kill()
    served.start()
    until(lambda: over(home_url(served)) == set(names()), "all are recorded")
    assert set(phases(served)) == set(names())
    for each in recorded(home_url(served)).values():
        check(each)


def test_what_was_deleted_while_nobody_looked_on_is_known_to_be_gone(served: Served) -> None:
    served.cli.write("p.yaml", pipeline("greet", GREET, **WHO))
    served.start("p.yaml")
    start(served, names(3))
    until(lambda: over(home_url(served)) == set(names(3)))
    served.stop()
    with closing(sqlite3.connect(served.cli.home / "penstock.db")) as database, database:
        database.execute("DELETE FROM executions WHERE name = ?", (names(3)[1],))
    served.start()
    until(lambda: recorded(home_url(served))[names(3)[1]].deleted_at is not None)
    assert [each.deleted_at for name, each in recorded(home_url(served)).items() if name != names(3)[1]] == [None, None]


def test_a_database_that_is_away_keeps_what_is_not_recorded_and_nothing_else(
    elsewhere: tuple[Served, str], postgres: Server
) -> None:
    served, url = elsewhere
    keeps_none = deployment("greeter", "greet", history={"succeeded": 1, "failed": 1})
    served.cli.write("d.yaml", pipeline("greet", GREET, **WHO), keeps_none)
    served.start("d.yaml")
    token = served.endpoint_token("greeter")
    start(served, ["early"])
    until(lambda: "early" in over(url))
    postgres.kill()
    try:
        start(served, names(10))
        assert served.call("greeter", token, {"who": "Ada"}).json()["outputs"] == {"text": "Hello, Ada!"}
        until(lambda: set(phases(served).values()) == {"Succeeded"}, "all are over without the database")
        refused = ask(served, "DELETE", names()[0])
        assert refused.status_code == 503
        assert "nothing is removed before it is in the history" in refused.json()["message"]
        assert refused.headers["Retry-After"]
        owner = f"{served.url}/kubernetes/apis/penstock.dev/v1alpha1/namespaces/default/deployments/greeter"
        goes_with_it = served.http.delete(owner, headers={"Authorization": f"Bearer {served.token}"})
        assert goes_with_it.status_code == 503, "its executions would go with it"
        assert ask(served, "DELETE", "early").status_code == 200, "it is recorded"
        assert names()[0] in phases(served)
        # It also starts without: what is over and not recorded is still not removed.
        served.process.kill()
        served.start()
        assert served.call("greeter", token, {"who": "Bob"}).json()["outputs"] == {"text": "Hello, Bob!"}
        assert ask(served, "DELETE", names()[0]).status_code == 503
    finally:
        postgres.start()
    until(lambda: ask(served, "DELETE", names()[0]).status_code == 200, "it goes when it is recorded")
    until(lambda: len(over(url)) == 13, "it catches up")
    found = recorded(url)
    assert found.keys() >= {"early", *names(10)}
    until(lambda: {n for n, e in recorded(url).items() if e.deleted_at is not None} >= {"early", names()[0]})
    for name in ("early", *names(10)):
        check(found[name])


def test_a_history_that_cannot_be_is_a_mistake_of_whoever_starts_it(served: Served) -> None:
    served.cli.home.mkdir()
    (served.cli.home / "history.db").write_text("no database at all, and long enough to be sure of that" * 20)
    done = served.cli("serve", "--port", "0")
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert "history.db: " in done.err
    assert "name another file, or move this one away" in done.err
    for bad in ("mysql://h/n", "sqlite://"):
        done = served.cli("serve", "--port", "0", env={"PENSTOCK_HISTORY_URL": bad})
        assert (done.code, done.err.count("\n")) == (2, 1), done
        assert "PENSTOCK_HISTORY_URL" in done.err
