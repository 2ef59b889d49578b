"""The REST API of executions: who may do what, what filters and pages give, with a history and without one."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from history_bodies import NOON, a_step, an_execution, moment, uid
from integration.cli.support import Cli

from .isolated import python
from .rest import Rest, problem, rest
from .support import OWNER, READER, STRANGER, kubeconfig, until
from .test_openapi import CHECKS, VERSION

SPEC = {"spec": {"pipeline": {"name": "iris"}, "inputs": [{"name": "rows", "value": 1}]}}


@pytest.fixture(scope="module", params=["history", "live"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    with rest(tmp_path_factory.mktemp(request.param), history=request.param == "history") as found:
        yield found


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    with rest(tmp_path_factory.mktemp("kept"), history=True) as found:
        yield found


@pytest.fixture
def api(either: Rest) -> Rest:
    """A gateway with a history and one without, which know the same executions: none."""
    either.forget()
    return either


@pytest.fixture
def history(kept: Rest) -> Rest:
    """A gateway with a history that is empty."""
    kept.forget()
    kept.server.put("pipelines", "iris", spec={})
    return kept


ROUTES: list[tuple[str, str, object, str, int]] = [
    ("GET", "executions", None, "read", 200),
    ("GET", "executions/iris-00001", None, "read", 200),
    ("GET", "executions/iris-00001/steps", None, "read", 200),
    ("GET", "executions/iris-00001/steps/train/attempts", None, "read", 200),
    ("GET", "executions/iris-00001/events", None, "read", 200),
    ("GET", "executions/gone-00002", None, "read", 200),
    ("GET", "pipelines", None, "read", 200),
    ("GET", "pipelines/iris", None, "read", 200),
    ("GET", "deployments", None, "read", 200),
    ("GET", "deployments/nightly", None, "read", 200),
    ("POST", "executions", SPEC, "write", 201),
    ("POST", "executions/iris-00001/rerun", {}, "write", 201),
    ("POST", "executions/gone-00002/rerun", None, "write", 201),
    ("POST", "executions/iris-00003/cancel", None, "write", 200),
    ("POST", "executions/iris-00003/suspend", None, "write", 200),
    ("POST", "executions/iris-00003/resume", None, "write", 200),
    ("DELETE", "executions/iris-00001", None, "write", 204),
]


@pytest.mark.parametrize(("method", "path", "body", "needs", "status"), ROUTES)
def test_who_may_do_what(history: Rest, method: str, path: str, body: object, needs: str, status: int) -> None:
    history.live(an_execution(1, namespace="ours"), an_execution(3, "Running", namespace="ours"))
    history.record(an_execution(2, namespace="ours", pipeline="gone"), an_execution(1, namespace="theirs"))
    history.server.put("deployments", "nightly", spec={})
    asked = {} if body is None else {"json": body}

    def answer(token: str | None, namespace: str = "ours") -> int:
        return history.ask(method, path, token, namespace=namespace, **asked).status_code

    before = json.dumps(history.server.executions())
    assert (answer(None), answer("expired")) == (401, 401)
    assert (answer(STRANGER), answer(OWNER, "theirs")) == (403, 403)
    assert answer(READER) == (status if needs == "read" else 403)
    assert json.dumps(history.server.executions()) == before
    assert answer(OWNER) == status


NAMES = {
    "iris-00001": an_execution(1, "Succeeded", namespace="ours", labels={"team": "a", "penstock.dev/trigger": "run"}),
    "iris-00002": an_execution(2, "Failed", namespace="ours", author="ada", labels={"team": "b", "stage": "test"}),
    "iris-00003": an_execution(3, "Running", namespace="ours", labels={"penstock.dev/trigger": "schedule"}),
    "churn-00004": an_execution(
        4,
        "Succeeded",
        namespace="ours",
        pipeline="churn",
        finished=NOON + 50,
        labels={"penstock.dev/deployment": "nightly", "penstock.dev/trigger": "schedule", "team": "a"},
    ),
    "churn-00005": an_execution(5, "Pending", namespace="ours", pipeline="churn", author="bob"),
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [5, 4, 3, 2, 1]),
        ("pipeline=iris", [3, 2, 1]),
        ("pipeline=iris&pipeline=churn", [5, 4, 3, 2, 1]),
        ("deployment=nightly", [4]),
        ("phase=Failed", [2]),
        ("phase=Failed&phase=Pending", [5, 2]),
        ("trigger=schedule", [4, 3]),
        ("trigger=run&pipeline=iris", [2, 1]),
        ("created_by=ada", [2]),
        ("created_by=ada&created_by=bob", [5, 2]),
        ("labels=team=a", [4, 1]),
        ("labels=team%20in%20(a,b),stage!=test", [4, 1]),
        ("labels=!team", [5, 3]),
        ("labels=team", [4, 2, 1]),
        ("labels=team%20notin%20(b)", [5, 4, 3, 1]),
        ("name_prefix=churn", [5, 4]),
        (f"created_since={moment(NOON + 4)}", [5, 4]),
        (f"created_until={moment(NOON + 4)}", [3, 2, 1]),
        ("created_since=1h", []),
        ("created_until=1h", [5, 4, 3, 2, 1]),
        (f"finished_since={moment(NOON + 4)}", [4, 2]),
        (f"finished_until={moment(NOON + 4)}", [1]),
        ("sort=created", [1, 2, 3, 4, 5]),
        ("sort=-name", [3, 2, 1, 5, 4]),
        ("sort=name", [4, 5, 1, 2, 3]),
        ("sort=started", [1, 2, 3, 4, 5]),
        ("sort=finished", [1, 2, 4, 3, 5]),
        ("sort=-duration&phase=Failed&phase=Succeeded", [4, 2, 1]),
        ("limit=2", [5, 4]),
    ],
)
def test_what_is_asked_for_is_found(api: Rest, query: str, found: list[int]) -> None:
    api.there(*NAMES.values(), an_execution(6, namespace="theirs"))
    assert [int(name[-5:]) for name in api.names(query)] == found


@pytest.mark.parametrize("sort", ["created", "-created", "name", "-name"])
def test_pages_have_neither_doubles_nor_gaps_while_others_come(api: Rest, sort: str) -> None:
    api.there(*(an_execution(number, namespace="ours", created=NOON + number // 3) for number in range(100, 120)))
    seen: list[str] = []
    query, number = f"executions?limit=3&sort={sort}&created_until={moment(NOON + 1_000)}", 0
    while True:
        answer = api.ask("GET", query)
        seen += [each["metadata"]["name"] for each in answer.json()["items"]]
        if answer.json()["next"] is None:
            assert "link" not in answer.headers
            break
        link = answer.links["next"]
        assert link["rel"] == "next"
        query = f"executions{link['url']}"
        # One before all, one after all, in every order.
        api.there(
            an_execution(1 + number, namespace="ours", name=f"a{number}", created=NOON - number),
            an_execution(500 + number, namespace="ours", name=f"z{number}", created=NOON + 100 + number),
        )
        number += 1
    assert number == len(range(100, 120)) // 3 or number > 6
    wanted = {f"iris-{each:05d}" for each in range(100, 120)}
    assert sorted(name for name in seen if name in wanted) == sorted(wanted)
    assert len(seen) == len(set(seen))


def test_a_list_leaves_out_what_is_large_and_what_only_managers_read(api: Rest) -> None:
    body = an_execution(1, namespace="ours", outputs=[{"name": "accuracy", "value": 0.9}])
    body["spec"] = {"pipelineSpec": {"steps": [{"name": "train", "image": "x", "command": ["x"]}]}}
    body["metadata"] |= {
        "managedFields": [{}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"},
    }
    api.there(body)
    (listed,) = api.get("executions")["items"]
    assert (listed["apiVersion"], listed["kind"]) == ("penstock.dev/v1alpha1", "Execution")
    assert (listed["spec"], "steps" in listed["status"]) == ({}, False)
    assert listed["status"]["outputs"] == [{"name": "accuracy", "value": 0.9}]
    whole = api.get("executions/iris-00001")
    assert whole["spec"] == body["spec"]
    assert whole["status"]["steps"] == body["status"]["steps"]
    for each in (listed, whole):
        assert ("managedFields" in each["metadata"], each["metadata"]["annotations"]) == (False, {"mine": "1"})


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("phse=Failed", 422, "query.phse: no such parameter; there are: after, created_by,"),
        ("phase=failed", 422, "query.phase.0: Input should be 'Pending', 'Running'"),
        ("trigger=cron", 422, "query.trigger.0: Input should be 'endpoint', 'manual', 'run' or 'schedule'"),
        ("sort=age", 422, "query.sort: Input should be 'created', 'started', 'finished'"),
        ("limit=501", 422, "query.limit: Input should be less than or equal to 500"),
        ("limit=0", 422, "query.limit: "),
        ("created_since=yesterday", 422, "query.created_since: is no moment; write it as RFC 3339"),
        ("finished_until=2026-13-01T00:00:00Z", 422, "query.finished_until: is no moment"),
        ("labels=a%20b", 422, "query.labels: is no label selector; write for example team=vision"),
        ("labels=a%20in%20(%C3%A9)", 422, "query.labels: 'é' is no value of a label"),
        ("after=none", 400, "query.after: is no cursor that a page has given"),
        ("after=W10", 400, "query.after: is no cursor"),
        (f"after={'W1tb' * 1_000}", 400, "query.after: is no cursor"),
    ],
)
def test_what_cannot_be_asked_for_is_named(api: Rest, query: str, status: int, said: str) -> None:
    found, _, detail = problem(api.ask("GET", f"executions?{query}"))
    assert (found, detail[: len(said)]) == (status, said)


def test_a_cursor_is_good_for_its_order_alone(api: Rest) -> None:
    api.there(*(an_execution(number, namespace="ours") for number in range(3)))
    after = api.get("executions?limit=1&sort=name")["next"]
    assert len(api.get(f"executions?sort=name&after={after}")["items"]) == 2
    assert problem(api.ask("GET", f"executions?sort=-name&after={after}"))[:2] == (400, "BadCursor")


def test_who_has_the_newest_version_gets_no_other(history: Rest) -> None:
    history.live(an_execution(1, "Running", namespace="ours"))
    history.record(an_execution(2, namespace="ours"))
    for name in ("iris-00001", "iris-00002"):
        etag = history.ask("GET", f"executions/{name}").headers["etag"]
        for given in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
            same = history.ask("GET", f"executions/{name}", headers={"If-None-Match": given})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    history.server.end("iris-00001")
    history.record(removed={uid(2): NOON + 9})
    for name in ("iris-00001", "iris-00002"):
        assert history.ask("GET", f"executions/{name}", headers={"If-None-Match": etag}).status_code == 200
    assert history.get("executions/iris-00002")["deletedAt"] == moment(NOON + 9)


def test_what_is_there_goes_before_what_was(history: Rest) -> None:
    history.record(an_execution(1, namespace="ours", name="same"))
    history.live(an_execution(2, "Running", namespace="ours", name="same"))
    assert history.get("executions/same")["metadata"]["uid"] == uid(2)
    history.server.remove("executions", "same")
    assert history.get("executions/same")["metadata"]["uid"] == uid(1)
    status, _, detail = problem(history.ask("GET", "executions/other"))
    assert (status, detail) == (404, 'there is no execution "other" in namespace "ours", nor in its history')


def test_steps_and_their_attempts(history: Rest) -> None:
    failed = a_step(phase="Retrying", attempts=1, exitCode=7)
    history.record(an_execution(1, "Running", namespace="ours", steps=[failed]))
    items = [a_step("train", index=4, attempts=2)]
    done = [a_step(attempts=3, exitCode=0), a_step("each", itemCount=9, items=items)]
    history.record(an_execution(1, namespace="ours", steps=done))
    assert [each["name"] for each in history.get("executions/iris-00001/steps")["items"]] == ["train", "each"]
    found = history.get("executions/iris-00001/steps/train/attempts")["items"]
    assert [(each["attempt"], (each["status"] or {}).get("exitCode")) for each in found] == [(1, 7), (2, None), (3, 0)]
    assert found[1]["status"] is None
    found = history.get("executions/iris-00001/steps/each/attempts")["items"]
    assert [(each.get("item"), each["attempt"]) for each in found] == [(None, 1), (4, 1), (4, 2)]
    status, _, detail = problem(history.ask("GET", "executions/iris-00001/steps/tran/attempts"))
    assert (status, detail) == (404, 'execution "iris-00001" has no step "tran"; there are: train, each')


def test_an_execution_is_started_by_who_asks(api: Rest) -> None:
    wanted = {"metadata": {"labels": {"team": "a"}}, **SPEC}
    made = api.ask("POST", "executions", json=wanted)
    name = made.json()["metadata"]["name"]
    assert (made.status_code, made.headers["location"]) == (201, f"executions/{name}")
    assert name.startswith("iris-")
    there = api.server.objects["executions", "ours", name]
    assert there["spec"] == SPEC["spec"]
    assert there["metadata"]["labels"] == {"team": "a", "penstock.dev/trigger": "run"}
    assert there["metadata"]["annotations"] == {"penstock.dev/created-by": OWNER}
    named = {"metadata": {"name": "mine", "annotations": {"penstock.dev/created-by": "somebody"}}, **SPEC}
    assert api.ask("POST", "executions", json=named).status_code == 201
    assert api.server.objects["executions", "ours", "mine"]["metadata"]["annotations"] == {
        "penstock.dev/created-by": OWNER
    }
    assert problem(api.ask("POST", "executions", json=named))[:2] == (409, "Conflict")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"spec": {"pipeline": {"name": "iris"}, "cancle": true}}', 422, 'spec.cancle: unknown field "cancle"'),
        (b'{"spec": {}}', 422, "spec"),
        (b'{"spec": {"pipeline": {"name": "iris"}}, "status": {}}', 422, "body.status: Extra inputs"),
        (b'{"metadata": {"name": "A"}, "spec": {"pipeline": {"name": "iris"}}}', 422, "body.metadata.name: "),
        (b'{"spec": {"pipeline": {"name": "iris"}, "timeoutSeconds": NaN}}', 422, "body: holds NaN"),
        (b'{"spec": {"\\ud800": 1}}', 422, "is not "),
        (b"{", 422, "body"),
        (b"", 422, "body"),
    ],
)
def test_what_cannot_be_started_is_said_and_leaves_nothing(api: Rest, body: bytes, status: int, said: str) -> None:
    answer = api.ask("POST", "executions", content=body, headers={"Content-Type": "application/json"})
    found, _, detail = problem(answer)
    assert (found, detail[: len(said)]) == (status, said)
    assert not api.server.executions()


def test_a_rerun_has_the_same_revision_and_inputs_but_those_that_are_given(history: Rest) -> None:
    history.record(an_execution(1, "Failed", namespace="ours"), removed={uid(1): NOON + 9})
    same = history.ask("POST", "executions/iris-00001/rerun").json()
    assert same["spec"] == {
        "pipeline": {"name": "iris", "revision": 3},
        "inputs": [{"name": "rows", "value": 200}],
    }
    changes = {"inputs": [{"name": "rows", "value": 9}, {"name": "title", "value": "x"}]}
    made = history.ask("POST", "executions/iris-00001/rerun", json=changes)
    other = made.json()
    assert made.headers["location"] == f"../{other['metadata']['name']}"
    assert other["spec"]["inputs"] == changes["inputs"]
    assert other["metadata"]["annotations"] == {
        "penstock.dev/rerun-of": "iris-00001",
        "penstock.dev/created-by": OWNER,
    }
    assert len({same["metadata"]["name"], other["metadata"]["name"], "iris-00001"}) == 3
    twice = {"inputs": [{"name": "rows", "value": 9}] * 2}
    assert problem(history.ask("POST", "executions/iris-00001/rerun", json=twice))[0] == 422


def test_what_runs_is_cancelled_suspended_and_resumed_and_what_is_over_is_not(api: Rest) -> None:
    api.live(an_execution(1, "Running", namespace="ours"), an_execution(2, namespace="ours"))
    spec = api.server.objects["executions", "ours", "iris-00001"]["spec"]
    for what, now in (("suspend", {"suspend": True}), ("resume", {"suspend": False}), ("cancel", {"cancel": True})):
        spec = {**spec, **now}
        answer = api.ask("POST", f"executions/iris-00001/{what}")
        assert (answer.status_code, answer.json()["spec"]) == (200, spec)
        status, _, detail = problem(api.ask("POST", f"executions/iris-00002/{what}"))
        assert (status, detail) == (409, 'execution "iris-00002" has finished already, as Succeeded')
    assert api.ask("DELETE", "executions/iris-00002").status_code == 204
    assert problem(api.ask("DELETE", "executions/iris-00002"))[0] == 404


class Stream:
    """Events as they come, read by a thread."""

    def __init__(self, api: Rest, path: str) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.beats = 0
        self.kind = ""
        self._api, self._path = api, path
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        place = f"{self._api.url}/api/v1/namespaces/ours/{self._path}"
        with self._api.http.stream("GET", place, headers={"Authorization": f"Bearer {READER}"}) as answer:
            self.kind = answer.headers["content-type"]
            event = ""
            for line in answer.iter_lines():
                self.beats += line.startswith(":")
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                if line.startswith("data: "):
                    self.events.append((event, json.loads(line.removeprefix("data: "))))

    def ended(self) -> list[tuple[str, str]]:
        """Kinds and phases of all events."""
        self.thread.join(30)
        assert not self.thread.is_alive()
        return [(kind, data.get("phase", "")) for kind, data in self.events]


def test_changes_are_told_until_the_end(api: Rest) -> None:
    api.live(an_execution(1, "Running", namespace="ours", progress="0/2"))
    stream = Stream(api, "executions/iris-00001/events?heartbeat=0.1")
    until(lambda: len(stream.events) == 1)
    until(lambda: stream.beats > 2)  # nothing happens, and who listens knows it
    api.server.put("executions", "iris-00001", metadata={"labels": {"other": "1"}})  # no news
    api.server.put("executions", "iris-00001", status={"phase": "Running", "progress": "1/2"})
    until(lambda: len(stream.events) == 2)
    api.server.end("iris-00001")
    assert stream.ended() == [("change", "Running"), ("change", "Running"), *[(k, "Succeeded") for k in END]]
    assert [data.get("progress") for _, data in stream.events] == ["0/2", "1/2", None, None]
    assert stream.kind.startswith("text/event-stream")


END = ("change", "finished")


def test_who_listens_is_told_of_a_removal(history: Rest) -> None:
    history.live(an_execution(1, "Running", namespace="ours"))
    stream = Stream(history, "executions/iris-00001/events")
    until(lambda: stream.events)
    history.server.remove("executions", "iris-00001")
    assert stream.ended() == [("change", "Running"), ("deleted", "Running")]
    history.record(an_execution(2, namespace="ours"))
    assert Stream(history, "executions/iris-00002/events").ended() == [(kind, "Succeeded") for kind in END]


def test_without_a_history_a_namespace_with_too_many_is_refused(tmp_path: Path) -> None:
    with rest(tmp_path, history=False) as api:
        one = an_execution(1, namespace="ours")
        for number in range(10_001):
            api.server.objects["executions", "ours", f"e{number}"] = one
        status, reason, detail = problem(api.ask("GET", "executions?limit=1"))
        assert (status, reason, "more than 10000 executions" in detail) == (422, "TooMany", True)
        del api.server.objects["executions", "ours", "e0"]
        assert len(api.get("executions?limit=1")["items"]) == 1


def test_while_the_history_is_away_all_else_is_served(tmp_path: Path) -> None:
    with rest(tmp_path, history=False, url="postgresql://penstock:secret@127.0.0.1:1/history") as api:
        api.live(an_execution(1, namespace="ours"))
        assert api.get("executions/iris-00001")["metadata"]["name"] == "iris-00001"
        assert api.ask("POST", "executions", json=SPEC).status_code == 201
        for path in ("executions", "executions/gone", "executions/iris-00001/steps/train/attempts"):
            answer = api.ask("GET", path)
            assert problem(answer) == (503, "Unavailable", "the history does not answer")
            assert answer.headers["retry-after"] == "5"
        log = (api.folder / "log").read_text()
        assert ("PENSTOCK_HISTORY_URL: postgresql://penstock@127.0.0.1:1" in log, "secret" in log) == (True, False)


def test_a_history_that_cannot_be_used_ends_the_gateway_with_what_to_do(cli: Cli) -> None:
    config = kubeconfig(cli.folder / "k", "http://127.0.0.1:1", token="x")
    for url, said in (("mysql://x/y", "use sqlite:///FILE or postgresql://"), ("sqlite:////none/h.db", "the folder")):
        ended = cli("gateway", "--kubeconfig", str(config), "--port", "1", env={"PENSTOCK_HISTORY_URL": url})
        assert (ended.code, said in ended.err, ended.err.count("\n")) == (2, True, 1), ended


def test_pipelines_and_deployments_come_by_name_and_in_pages(api: Rest) -> None:
    for name in ("b", "a-2", "a-1"):
        api.server.put("pipelines", name, metadata={"labels": {"first": name[0]}}, spec={})
    assert [each["metadata"]["name"] for each in api.get("pipelines?name_prefix=a")["items"]] == ["a-1", "a-2"]
    assert [each["metadata"]["name"] for each in api.get("pipelines?labels=first=b")["items"]] == ["b"]
    first = api.get("pipelines?limit=2")
    assert [each["metadata"]["name"] for each in first["items"]] == ["a-1", "a-2"]
    rest_of = api.get(f"pipelines?limit=2&after={first['next']}")
    assert ([each["metadata"]["name"] for each in rest_of["items"]], rest_of["next"]) == (["b"], None)
    assert api.get("pipelines/b")["metadata"]["name"] == "b"
    assert api.get("deployments") == {"items": [], "next": None}
    assert problem(api.ask("GET", "deployments/none"))[0] == 404
    assert problem(api.ask("GET", "pipelines?sort=name"))[0] == 422


def test_no_server_error_and_no_status_that_is_not_documented(history: Rest, tmp_path: Path) -> None:
    history.live(an_execution(1, namespace="ours"))
    history.record(an_execution(2, namespace="ours"))
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        '[parameters]\n"path.namespace" = "ours"\n"path.name" = "iris-00001"\n"path.step" = "train"\n'
        '"query.heartbeat" = 1\n'
    )
    command = python("schemathesis", VERSION).with_name("schemathesis")
    options = ["--include-path-regex", "/(executions|pipelines|deployments)(/|$)", "--exclude-path-regex", "/outputs"]
    done = subprocess.run(
        [
            *(command, "--config-file", config, "run", f"{history.url}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {OWNER}", *options),
            *("--checks", CHECKS, "--max-examples", "25", "--seed", "1", "--exclude-method", "DELETE"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Tested: 14" in done.stdout
    assert history.server.executions()[1:]  # it got as far as that
