"""The SDK against a gateway: both clients do the same, in the words of the mission's page."""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    Denied,
    ExecutionFailed,
    InputSource,
    InvalidInputs,
    NotFound,
    OutputDestination,
    PenstockError,
    Progress,
    Retry,
    Suspended,
    TimedOut,
    TooLarge,
    Unavailable,
)

from .cluster import TOKEN
from .endpoints_fixtures import Endpoints, stored_file, value
from .support import OWNER, until


class Waited:
    """The asynchronous client, each of whose methods is waited for."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *given, **named: self._runner.run(method(*given, **named))

    def finish(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(endpoints: Endpoints, kind: str) -> Iterator[Any]:
    options = {"token": OWNER, "retry": Retry(base_seconds=0.01)}
    if kind == "sync":
        with Client(endpoints.environment, **options) as found:  # type: ignore[arg-type]
            yield found
        return
    waited = Waited(endpoints.environment, **options)
    yield waited
    waited.finish()


def succeeding(endpoints: Endpoints, *outputs: dict[str, Any]) -> None:
    """Every execution ends soon, and gives the rows that it got unless told."""

    def soon(body: dict[str, Any]) -> None:
        rows = {each["name"]: each.get("value") for each in body["spec"]["inputs"]}.get("rows")
        given = list(outputs) or [value("accuracy", rows)]
        name = body["metadata"]["name"]
        threading.Thread(target=endpoints.server.end, args=[name], kwargs={"outputs": given}).start()

    endpoints.server.on_create = soon


def inputs_of(endpoints: Endpoints) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in endpoints.server.executions()[-1]["spec"]["inputs"]}


def content_of(endpoints: Endpoints, given: dict[str, Any]) -> bytes:
    path: Path = endpoints.folder / "store" / "ours" / "data" / given["object"]
    return path.read_bytes()


class TestEndpoints:
    def test_a_call_waits_for_its_results(self, endpoints: Endpoints, client: Any) -> None:
        succeeding(endpoints)
        found = client.trigger_endpoint("iris", TOKEN, {"rows": 3, "flags": [1]})
        assert found["outputs"] == {"accuracy": 3}
        again = client.retrieve_endpoint_results("iris", found["execution_id"], TOKEN)
        assert again == found

    @pytest.mark.parametrize("word", ["wait_for_results", "wait_for_completion"])
    def test_a_call_that_does_not_wait(self, endpoints: Endpoints, client: Any, word: str) -> None:
        found = client.trigger_endpoint("iris", TOKEN, {}, **{word: False})
        assert set(found) == {"execution_id"}
        endpoints.server.end(found["execution_id"], outputs=[value("accuracy", 1)])
        assert client.retrieve_endpoint_results("iris", found["execution_id"], TOKEN)["outputs"] == {"accuracy": 1}

    def test_without_the_endpoints_token_the_clients_own_counts(self, endpoints: Endpoints, client: Any) -> None:
        succeeding(endpoints)
        assert client.trigger_endpoint("iris", inputs={"rows": 4})["outputs"] == {"accuracy": 4}

    def test_files_are_paths_bytes_and_open_files(self, endpoints: Endpoints, client: Any, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_bytes(b"1,2\n" * 1_000)
        for given in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
            client.trigger_endpoint("iris", TOKEN, {"table": given, "title": '"t"'}, wait_for_results=False)
            sent = inputs_of(endpoints)
            assert content_of(endpoints, sent["table"]) == path.read_bytes()
            assert sent["title"]["value"] == '"t"'
        assert inputs_of(endpoints)["table"]["object"].startswith("uploads/")

    def test_files_come_back_as_their_content(self, endpoints: Endpoints, client: Any) -> None:
        content = bytes(range(256)) * 1_000
        file = {"name": "model", "file": stored_file(endpoints, "executions/u/m", content)}
        succeeding(endpoints, file, value("accuracy", 1))
        assert client.trigger_endpoint("iris", TOKEN)["outputs"] == {"model": content, "accuracy": 1}

    def test_who_waits_is_told_how_long(self, endpoints: Endpoints, client: Any) -> None:
        told: list[Progress] = []
        with pytest.raises(TimedOut) as caught:
            client.trigger_endpoint("iris", TOKEN, timeout=0.05, on_progress=told.append)
        (body,) = endpoints.server.executions()
        assert caught.value.execution_id == told[-1].execution_id == body["metadata"]["name"]

    @pytest.mark.parametrize(("phase", "status"), [("Failed", 500), ("Error", 500), ("Cancelled", 409)])
    def test_an_execution_that_fails(self, endpoints: Endpoints, client: Any, phase: str, status: int) -> None:
        name = client.trigger_endpoint("iris", TOKEN, wait_for_results=False)["execution_id"]
        endpoints.server.end(name, phase, message="it ended with 3")
        with pytest.raises(ExecutionFailed, match="it ended with 3") as caught:
            client.retrieve_endpoint_results("iris", name, TOKEN)
        assert (caught.value.status, caught.value.execution_id) == (status, name)

    def test_each_refusal_has_a_class(self, endpoints: Endpoints, client: Any) -> None:
        for kind, inputs, token in (
            (Denied, {}, "w" * 43),
            (InvalidInputs, {"row": 1}, TOKEN),
            (TooLarge, {"title": "x" * 70_000}, TOKEN),
        ):
            with pytest.raises(kind) as caught:
                client.trigger_endpoint("iris", token, inputs)
            assert caught.value.request_id
        with pytest.raises(NotFound):
            client.retrieve_endpoint_results("iris", "nothing", TOKEN)
        endpoints.server.deployment("iris", suspend=True)
        until(lambda: endpoints.call({}).status_code == 423)
        with pytest.raises(Suspended):
            client.trigger_endpoint("iris", TOKEN)


class TestPipelines:
    def test_a_run_waits_for_its_outputs(self, endpoints: Endpoints, client: Any, tmp_path: Path) -> None:
        succeeding(endpoints)
        path = tmp_path / "table.csv"
        path.write_bytes(b"1,2\n")
        found = client.run_pipeline("iris", {"rows": 3, "table": str(path), "title": str(path)})
        assert found["outputs"] == {"accuracy": 3}
        sent = inputs_of(endpoints)
        assert content_of(endpoints, sent["table"]) == b"1,2\n"
        assert sent["title"]["value"] == str(path)
        assert client.list_pipelines()[0]["pipeline_name"] == "iris"
        assert [each["execution_id"] for each in client.list_executions("iris")] == [found["execution_id"]]
        assert client.get_execution(found["execution_id"])["status"] == "Succeeded"

    def test_mappings(self, endpoints: Endpoints, client: Any) -> None:
        client.run_pipeline(
            "iris",
            inputs_mapping=[
                InputSource(pipeline_input_name="rows", constant_value=7),
                InputSource(pipeline_input_name="table", datastore_path="raw/x.csv"),
            ],
            outputs_mapping=[OutputDestination(pipeline_output_name="accuracy", is_null=True)],
            wait_for_results=False,
        )
        assert inputs_of(endpoints)["rows"]["value"] == 7
        assert inputs_of(endpoints)["table"]["object"] == "raw/x.csv"
        assert endpoints.server.executions()[-1]["spec"]["outputs"] == [{"name": "accuracy", "void": True}]

    def test_an_unknown_pipeline(self, endpoints: Endpoints, client: Any) -> None:
        with pytest.raises(NotFound):
            client.run_pipeline("nothing")


class TestDataStore:
    def test_objects_go_and_come(self, endpoints: Endpoints, client: Any, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_bytes(b"1,2\n" * 100_000)
        for given in (path, b"bytes", io.BytesIO(b"open")):
            stored = client.upload_object(given, "raw/é x.csv")
            content = given.read_bytes() if isinstance(given, Path) else given if isinstance(given, bytes) else b"open"
            assert stored["size"] == len(content)
            assert client.download_object("raw/é x.csv") == content
        assert [each["path"] for each in client.list_objects("raw")] == ["raw/é x.csv"]
        client.delete_object("raw/é x.csv")
        assert client.list_objects("raw") == []
        with pytest.raises(NotFound):
            client.download_object("raw/é x.csv")


class TestPatience:
    def test_what_the_gateway_cannot_do_now_is_tried_again(self, endpoints: Endpoints, kind: str) -> None:
        endpoints.server.refuse["POST", "executions"] = 500
        options: dict[str, Any] = {"retry": Retry(tries=2, base_seconds=0.01, longest_asked_seconds=0)}
        found = Client(endpoints.environment, **options) if kind == "sync" else Waited(endpoints.environment, **options)
        with pytest.raises(Unavailable):
            found.trigger_endpoint("iris", TOKEN)
        found.close()
        if isinstance(found, Waited):
            found.finish()

    def test_nobody_there(self, kind: str) -> None:
        options: dict[str, Any] = {"retry": Retry(tries=2, base_seconds=0.01)}
        url = "http://127.0.0.1:9/environments/ours"
        found = Client(url, **options) if kind == "sync" else Waited(url, **options)
        with pytest.raises(ConnectionFailed, match=r"POST http://127\.0\.0\.1:9"):
            found.trigger_endpoint("iris", TOKEN)
        found.close()
        if isinstance(found, Waited):
            found.finish()


def test_a_client_needs_an_address_and_a_token_for_more_than_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PENSTOCK_URL", "PENSTOCK_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PenstockError, match="PENSTOCK_URL"):
        Client()
    with Client("http://127.0.0.1:9/environments/x") as client, pytest.raises(Denied, match="PENSTOCK_TOKEN"):
        client.list_pipelines()


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, str]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: str(inspect.signature(each)) for name, each in found if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)
    assert "trigger_endpoint" in methods(Client)


def test_importing_it_is_cheap() -> None:
    script = "import sys, penstock; penstock.Client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"httpx", "pydantic", "yaml", "aiohttp", "penstock.kube", "penstock.api"} & set(done.stdout.split())
