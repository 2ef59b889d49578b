"""The SDKs against `penstock serve`: ours, sync and async, and the `craft-ai-sdk` of PyPI unchanged."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import penstock
from integration.cli.support import pipeline
from integration.gateway import craft_sdk

from .support import Served, deployment

STEPS: list[dict[str, Any]] = [
    {
        "name": "train",
        "inputs": [{"name": "rows", "from": "inputs.rows"}],
        "outputs": [{"name": "accuracy", "type": "number"}],
        "script": 'echo "accuracy=$INPUT_ROWS" > "$PENSTOCK_OUTPUT"',
    }
]
SPEC: dict[str, Any] = {
    "inputs": [
        {"name": "rows", "type": "number", "default": 150},
        {"name": "title", "type": "string", "required": False},
        {"name": "table", "type": "file", "required": False},
        {"name": "flags", "type": "array", "required": False},
    ],
    "outputs": [{"name": "accuracy", "type": "number", "from": "steps.train.outputs.accuracy"}],
}


@pytest.fixture
def iris(served: Served) -> Served:
    """A pipeline `iris` behind an endpoint of that name."""
    served.cli.write("d.yaml", pipeline("iris", STEPS, **SPEC), deployment("iris", "iris"))
    served.start("d.yaml")
    return served


@pytest.mark.parametrize("version", craft_sdk.VERSIONS)
def test_users_of_the_craft_ai_sdk_need_to_change_nothing(iris: Served, tmp_path: Path, version: str) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"1,2\n")
    found = craft_sdk.use(version, iris.url, iris.token, iris.endpoint_token("iris"), file)

    assert found["who"]["name"] == "penstock"
    assert [(each["pipeline_name"], each["status"]) for each in found["pipelines"]] == [("iris", "ready")]
    run, with_file = found["run"], found["run with a file"]
    assert (run["outputs"], with_file["outputs"]) == ({"accuracy": 3}, {"accuracy": 4})
    assert [each["execution_id"] for each in found["executions"]] == [run["execution_id"]]
    assert (found["execution"]["status"], found["execution"]["pipeline_name"]) == ("Succeeded", "iris")
    given = {each["pipeline_input_name"]: each["value"] for each in found["execution"]["inputs"]}
    assert given == {"rows": 4, "table": {"bytes": 4}}
    assert found["output"]["value"] == 3
    assert (found["deployment"]["status"], found["deployment"]["execution_rule"]) == ("up", "endpoint")
    assert found["endpoint"]["outputs"] == found["results"]["outputs"] == {"accuracy": 5}
    assert (found["file"]["outputs"], found["array"]["outputs"]) == ({"accuracy": 150}, {"accuracy": 6})
    assert found["unknown"] == [404, "NotFound"]
    assert found["wrong"] == [422, "WrongType"]
    assert found["token"] == [403, "WrongToken"]
    assert found["unsupported"] == [501, "NotSupported"]


@pytest.mark.parametrize("version", craft_sdk.VERSIONS)
def test_users_of_the_craft_ai_sdk_make_and_change_deployments(iris: Served, version: str) -> None:
    found = craft_sdk.deploy(version, iris.url, iris.token)

    shown = found["shown"]
    assert (shown["status"], shown["execution_rule"], shown["is_enabled"]) == ("up", "endpoint", True)
    assert found["called"] == {"score": 9}
    assert found["tokens differ"]
    assert (found["old token"], found["new token"]) == ([403, "WrongToken"], {"score": 2})
    if "off" in found:
        assert (found["off"], found["while off"], found["on"]) == (False, [423, "Suspended"], True)
    assert (found["nightly"]["execution_rule"], found["nightly"]["schedule"]) == ("periodic", "0 3 * * *")
    assert found["listed"] == ["iris", "made", "nightly"]
    assert found["taken"] == [409, "Conflict"]
    assert found["no pipeline"] == [404, "NotFound"]
    assert [each["name"] for each in found["deleted"]] == ["made", "nightly"]
    assert found["gone"] == [404, "NotFound"]


def test_our_sdk_runs_triggers_and_keeps_files(iris: Served, tmp_path: Path) -> None:
    token = iris.endpoint_token("iris")
    with penstock.Client(iris.url, token=iris.token) as client:
        assert client.run_pipeline("iris", {"rows": 7})["outputs"] == {"accuracy": 7}
        started = client.trigger_endpoint("iris", token, {"rows": 8}, wait_for_results=False)
        results = client.retrieve_endpoint_results("iris", started["execution_id"], token)
        assert results["outputs"] == {"accuracy": 8}
        assert [each["status"] for each in client.list_executions("iris")] == ["Succeeded"] * 2
        file = tmp_path / "räw data.csv"
        file.write_bytes(b"1,2\n" * 1_000)
        client.upload_object(file, "raw/räw data.csv")
    assert iris.cli("data", "get", "raw/räw data.csv", "-o", "copy.csv").code == 0
    assert (iris.cli.folder / "copy.csv").read_bytes() == file.read_bytes()


def test_our_async_sdk_runs_many_at_once(iris: Served) -> None:
    token = iris.endpoint_token("iris")

    async def work() -> list[Any]:
        async with penstock.AsyncClient(iris.url) as client:
            calls = [client.trigger_endpoint("iris", token, {"rows": rows}) for rows in range(40)]
            return [each["outputs"]["accuracy"] for each in await asyncio.gather(*calls)]

    assert asyncio.run(work()) == list(range(40))
