"""The REST API of executions on one machine: started, followed and looked up, by HTTP and `penstock history`."""

from __future__ import annotations

import json
import signal
from typing import Any

import httpx
import pytest

from integration.cli.support import pipeline, until

from .support import Served, deployment

STEPS: list[dict[str, Any]] = [
    {
        "name": "train",
        "inputs": [{"name": "rows", "from": "inputs.rows"}],
        "outputs": [{"name": "accuracy", "type": "number"}],
        "script": 'while [ ! -e "$INPUT_ROWS" ]; do sleep 0.05; done; echo "accuracy=0.9" > "$PENSTOCK_OUTPUT"',
    }
]
FAILS = [{"name": "fail", "script": "exit 3"}]
SPEC: dict[str, Any] = {
    "inputs": [{"name": "rows", "type": "string"}],
    "outputs": [{"name": "accuracy", "type": "number", "from": "steps.train.outputs.accuracy"}],
}


class Api:
    """The API of a home that is served."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._base = f"{served.url}/api/v1/namespaces/default"
        self._headers = {"Authorization": f"Bearer {served.token}"}

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._served.http.request(method, f"{self._base}/{path}", headers=self._headers, **options)

    def start(self, of: str, **inputs: Any) -> str:
        given = [{"name": name, "value": value} for name, value in inputs.items()]
        wanted = {"spec": {"pipeline": {"name": of}, "inputs": given}}
        made = self.ask("POST", "executions", json=wanted)
        assert made.status_code == 201, made.text
        return str(made.json()["metadata"]["name"])

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """Kind, phase and progress of all events until the stream ends."""
        found: list[tuple[str, str, str]] = []
        kind = ""
        place = f"{self._base}/executions/{name}/events"
        with self._served.http.stream("GET", place, headers=self._headers) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                if line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    found.append((kind, data["phase"], data.get("progress", "")))
        return found

    def listed(self, query: str = "") -> dict[str, str]:
        """Phases of executions by name."""
        answer = self.ask("GET", f"executions?{query}")
        assert answer.status_code == 200, answer.text
        return {
            each["metadata"]["name"]: str((each.get("status") or {}).get("phase")) for each in answer.json()["items"]
        }


@pytest.fixture
def api(served: Served) -> Api:
    """A home with a pipeline that ends when a file is there, one that fails, and a deployment."""
    served.cli.write(
        "d.yaml", pipeline("iris", STEPS, **SPEC), pipeline("broken", FAILS), deployment("nightly", "broken")
    )
    served.start("d.yaml")
    return Api(served)


def test_an_execution_is_started_followed_and_looked_up_also_when_it_is_gone(api: Api, served: Served) -> None:
    go = served.cli.folder / "go"
    name = api.start("iris", rows=str(go))
    running = api.ask("GET", f"executions/{name}")
    go.touch()
    events = api.events(name)
    assert events[-2:] == [("change", "Succeeded", "1/1"), ("finished", "Succeeded", "1/1")]
    whole = api.ask("GET", f"executions/{name}")
    assert whole.json()["status"]["outputs"] == [{"name": "accuracy", "value": 0.9}]
    assert whole.headers["etag"] != running.headers["etag"]
    (step,) = api.ask("GET", f"executions/{name}/steps").json()["items"]
    assert (step["name"], step["phase"]) == ("train", "Succeeded")
    (attempt,) = api.ask("GET", f"executions/{name}/steps/train/attempts").json()["items"]
    assert (attempt["attempt"], attempt["status"]["exitCode"]) == (1, 0)

    again = api.ask("POST", f"executions/{name}/rerun").json()
    assert (again["spec"]["pipeline"], again["spec"]["inputs"]) == (
        {"name": "iris", "revision": 1},
        [{"name": "rows", "value": str(go)}],
    )
    assert api.events(again["metadata"]["name"])[-1][:2] == ("finished", "Succeeded")

    assert api.ask("DELETE", f"executions/{name}").status_code == 204
    until(lambda: "deletedAt" in api.ask("GET", f"executions/{name}").json(), "it is in the history alone")
    assert api.events(name)[-1][0] == "deleted"
    until(lambda: api.listed("pipeline=iris") == dict.fromkeys((name, again["metadata"]["name"]), "Succeeded"), "both")


def test_what_runs_is_suspended_and_cancelled(api: Api, served: Served) -> None:
    name = api.start("iris", rows=str(served.cli.folder / "never"))
    suspended = api.ask("POST", f"executions/{name}/suspend")
    assert (suspended.status_code, suspended.json()["spec"]["suspend"]) == (200, True)
    assert api.ask("POST", f"executions/{name}/resume").json()["spec"]["suspend"] is False
    assert api.ask("POST", f"executions/{name}/cancel").status_code == 200
    assert api.events(name)[-1][:2] == ("finished", "Cancelled")
    assert api.ask("POST", f"executions/{name}/cancel").status_code == 409


def test_a_stream_does_not_hold_up_the_end_of_the_server(api: Api, served: Served) -> None:
    name = api.start("iris", rows=str(served.cli.folder / "never"))
    with served.http.stream(
        "GET",
        f"{served.url}/api/v1/namespaces/default/executions/{name}/events",
        headers={"Authorization": f"Bearer {served.token}"},
    ) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("id: ")
        served.process.signal(signal.SIGINT)
        assert not [line for line in lines if line.startswith("event: deleted")]
    ended = served.process.ended()
    (served.cli.folder / "never").touch()  # the step goes on without the server
    assert (ended.code, "shutdown exceeded" in ended.err) == (0, False)


def test_the_history_on_the_command_line(api: Api, served: Served) -> None:
    served.cli.folder.joinpath("go").touch()
    good = api.start("iris", rows=str(served.cli.folder / "go"))
    bad = [api.start("broken") for _ in range(3)]
    for name in (good, *bad):
        api.events(name)
    until(lambda: sorted(api.listed().values()) == ["Failed"] * 3 + ["Succeeded"], "all are recorded")
    head, *rows = served.local("history").out.splitlines()
    assert head.split() == [
        *("NAME", "PIPELINE", "PHASE", "PROGRESS", "AGE", "DURATION", "TRIGGER", "BY", "REMOVED"),
    ]
    assert sorted(row.split()[0] for row in rows) == sorted([good, *bad])
    failed = json.loads(served.local("history", "--failed", "-o", "json").out)["items"]
    assert sorted(each["metadata"]["name"] for each in failed) == sorted(bad)
    few = served.local("history", "--pipeline", "broken", "--since", "1h", "--limit", "2")
    assert len(few.out.splitlines()) == 3
    assert "there are more than these 2" in few.err
    none = served.local("history", "--deployment", "nightly", "--trigger", "endpoint")
    assert (none.out, none.err) == ("", 'no such executions in namespace "default"\n')
    wrong = served.cli("history", "--local", "--phase", "failed")
    assert (wrong.code, "Input should be 'Pending', 'Running'" in wrong.err) == (2, True)
    assert served.cli("history", "--local", "--phase", "Failed", "--failed").code == 2
