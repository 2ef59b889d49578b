"""The `craft-ai-sdk` as PyPI has it, unchanged, against our gateway."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from . import craft_sdk
from .cluster import TOKEN
from .endpoints_fixtures import Endpoints, value
from .support import OWNER


@pytest.fixture
def running(endpoints: Endpoints) -> Endpoints:
    """A gateway behind which every execution succeeds soon."""

    def soon(body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        inputs = {each["name"]: each.get("value") for each in body["spec"]["inputs"]}
        outputs = [value("accuracy", inputs.get("rows"))]
        threading.Thread(
            target=endpoints.server.end, args=[name], kwargs={"outputs": outputs, "finishedAt": "2026-01-01T00:00:01Z"}
        ).start()

    endpoints.server.on_create = soon
    return endpoints


@pytest.mark.parametrize("version", craft_sdk.VERSIONS)
def test_its_users_need_to_change_nothing(running: Endpoints, tmp_path: Path, version: str) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"1,2\n")
    found = craft_sdk.use(version, running.environment, OWNER, TOKEN, file)

    assert found["who"] == {"id": "ada", "name": "ada", "email": ""}
    assert [(each["pipeline_name"], each["status"]) for each in found["pipelines"]] == [("iris", "ready")]
    run, with_file = found["run"], found["run with a file"]
    assert (run["outputs"], with_file["outputs"]) == ({"accuracy": 3}, {"accuracy": 4})
    assert [each["execution_id"] for each in found["executions"]] == [run["execution_id"]]
    execution = found["execution"]
    assert (execution["status"], execution["pipeline_name"]) == ("Succeeded", "iris")
    given = {each["pipeline_input_name"]: each for each in execution["inputs"]}
    assert {name: each["source"] for name, each in given.items()} == {"rows": "run", "table": "run"}
    assert (given["rows"]["value"], given["table"]["value"]) == (4, {"bytes": 4})
    assert (found["output"]["value"], found["output"]["destination"]) == (3, "run")
    assert [each["name"] for each in found["deployments"]] == ["iris"]
    assert (found["deployment"]["status"], found["deployment"]["execution_rule"]) == ("up", "endpoint")
    assert found["endpoint"]["outputs"] == found["results"]["outputs"] == {"accuracy": 5}
    assert found["results"]["execution_id"] == found["endpoint"]["execution_id"]
    assert (found["file"]["outputs"], found["array"]["outputs"]) == ({"accuracy": None}, {"accuracy": 6})

    assert found["unknown"] == [404, "NotFound"]
    assert found["wrong"] == [422, "WrongType"]
    assert found["token"] == [403, "WrongToken"]
    assert found["unsupported"] == [501, "NotSupported"]


def test_a_token_that_the_cluster_does_not_know_is_not_exchanged(endpoints: Endpoints) -> None:
    answer = endpoints.http.post(f"{endpoints.environment}/api/v1/auth/refresh", json={"refresh_token": "wrong"})
    assert (answer.status_code, answer.json()["name"]) == (401, "Unauthorized")
    assert endpoints.http.get(f"{endpoints.environment}/api/v1/pipelines").status_code == 401
