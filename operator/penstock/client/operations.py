"""What the SDK can do, once for both clients: each operation says what to ask and what to make of the answers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from penstock.client.errors import Denied, InvalidInputs, TimedOut
from penstock.client.types import (
    DataObject,
    Digest,
    ExecutionInfo,
    FileInput,
    Inputs,
    InputSource,
    OnProgress,
    OutputDestination,
    PipelineInfo,
    Progress,
    Result,
    Retry,
    is_file,
)
from penstock.client.wire import Request, Steps, send

_WAIT_SECONDS = 20.0
"""How long one request waits for an execution: what is between us and the gateway may end what is silent for longer."""


@dataclass(frozen=True, slots=True)
class Operations:
    """All operations of one environment.

    Attributes:
        url: base URL of the environment, without a slash at its end.
        token: a token of the cluster; None: endpoints can be called with their own tokens, and nothing else.
        retry: how patient to be.
        clock: seconds from any fixed moment.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    retry: Retry = field(default_factory=Retry)
    clock: Callable[[], float] = time.monotonic

    # Endpoints

    def trigger_endpoint(
        self,
        endpoint: str,
        token: str | None,
        inputs: Inputs | None,
        wait: bool,
        *,
        key: str | None,
        timeout: float | None,
        on_progress: OnProgress | None,
    ) -> Steps[Result]:
        """Call an endpoint."""
        values, files = _split(inputs or {}, lambda _, value: is_file(value))
        url = (
            f"{self._endpoint(endpoint)}"
            if token is not None
            else self._api(f"deployments/{_quoted(endpoint)}/executions")
        )
        request = Request(
            "POST",
            url,
            # One execution, however often it is sent.
            headers=self._auth(token) | {"Idempotency-Key": key or uuid.uuid4().hex},
            params={"wait": "0"} if token is not None else {},
            json=None if files else dict(values),
            form={name: _json(value) for name, value in values.items()} if files else None,
            files=files,
        )
        name = str((yield from send(request, self.retry)).json()["execution_id"])
        if not wait:
            return {"execution_id": name}
        return (yield from self.endpoint_results(endpoint, name, token, timeout=timeout, on_progress=on_progress))

    def endpoint_results(
        self, endpoint: str, execution: str, token: str | None, *, timeout: float | None, on_progress: OnProgress | None
    ) -> Steps[Result]:
        """Wait for the results of a call."""
        if token is None:
            return (yield from self.execution_outputs(execution, timeout=timeout, on_progress=on_progress))
        url = f"{self.url}/endpoints/v1/{_quoted(endpoint)}/executions/{_quoted(execution)}"
        began = self.clock()
        while True:
            wait = _next_wait(began, self.clock(), timeout)
            request = Request("GET", url, headers=self._auth(token), params={"wait": f"{wait:g}"}, seconds=wait)
            answer = yield from send(request, self.retry)
            if answer.status == 200:
                break
            _tell(on_progress, execution, began, self.clock(), timeout)
        outputs: dict[str, Any] = {}
        for name, shown in answer.json()["outputs"].items():
            if "url" not in shown:
                outputs[name] = shown["value"]
                continue
            # At the address that we know: the gateway may be known by another name elsewhere.
            place = f"{self._endpoint(endpoint)}/executions/{_quoted(execution)}/outputs/{_quoted(name)}"
            outputs[name] = (yield from send(Request("GET", place, headers=self._auth(token)), self.retry)).content
        return {"execution_id": execution, "outputs": outputs}

    # Pipelines

    def run_pipeline(
        self,
        pipeline: str,
        inputs: Inputs | None,
        inputs_mapping: Sequence[InputSource] | None,
        outputs_mapping: Sequence[OutputDestination] | None,
        wait: bool,
        *,
        timeout: float | None,
        on_progress: OnProgress | None,
    ) -> Steps[Result]:
        """Run a pipeline."""
        place = self._api(f"pipelines/{_quoted(pipeline)}")
        found = (yield from self._get(place))["parameters"]["inputs"]
        wanted = {each["name"] for each in found if each["data_type"] == "file"}
        values, files = _split(inputs or {}, lambda name, value: name in wanted or is_file(value))
        form = {"json_inputs": _json(dict(values))}
        if inputs_mapping:
            form["inputs_mapping"] = _json([_given(each) for each in inputs_mapping])
        if outputs_mapping:
            form["outputs_mapping"] = _json([_given(each) for each in outputs_mapping])
        request = Request("POST", f"{place}/run", headers=self._auth(None), form=form, files=files, idempotent=False)
        name = str((yield from send(request, self.retry)).json()["execution_id"])
        if not wait:
            return {"execution_id": name}
        return (yield from self.execution_outputs(name, timeout=timeout, on_progress=on_progress))

    def execution_outputs(
        self, execution: str, *, timeout: float | None, on_progress: OnProgress | None
    ) -> Steps[Result]:
        """Wait for the outputs of an execution."""
        place = self._api(f"executions/{_quoted(execution)}/outputs")
        began = self.clock()
        while True:
            wait = _next_wait(began, self.clock(), timeout)
            params = {"wait_for_completion": "true", "wait": f"{wait:g}"}
            request = Request("GET", place, headers=self._auth(None), params=params, seconds=wait)
            answer = yield from send(request, self.retry)
            if answer.status == 200:
                break
            _tell(on_progress, execution, began, self.clock(), timeout)
        outputs: dict[str, Any] = {}
        for item in answer.json()["outputs"]:
            name = item["pipeline_output_name"]
            outputs[name] = item.get("value")
            if item["data_type"] == "file" and item["mapping_type"] not in {"is_null", "datastore"}:
                content = yield from send(
                    Request("GET", f"{place}/{_quoted(name)}", headers=self._auth(None)), self.retry
                )
                outputs[name] = content.content
        return {"execution_id": execution, "outputs": outputs}

    def list_pipelines(self) -> Steps[list[PipelineInfo]]:
        """All pipelines."""
        found: list[PipelineInfo] = yield from self._get(self._api("pipelines"))
        return found

    def list_executions(self, pipeline: str | None, deployment: str | None) -> Steps[list[ExecutionInfo]]:
        """Executions of a pipeline or a deployment, the newest first."""
        if (pipeline is None) == (deployment is None):
            raise ValueError("name a pipeline or a deployment, one of the two")
        of = f"pipelines/{_quoted(pipeline)}" if pipeline is not None else f"deployments/{_quoted(deployment or '')}"
        found: list[ExecutionInfo] = yield from self._get(self._api(f"{of}/executions"))
        return found

    def get_execution(self, execution: str) -> Steps[ExecutionInfo]:
        """An execution."""
        found: ExecutionInfo = yield from self._get(self._api(f"executions/{_quoted(execution)}"))
        return found

    # Data store

    def list_objects(self, folder: str) -> Steps[list[DataObject]]:
        """Objects of the data store."""
        found: list[DataObject] = []
        params = {"prefix": folder}
        while True:
            page = yield from self._get(self._data("data"), params)
            found += [
                {"path": each["path"], "size": each["size"], "modified": each["modified"]} for each in page["objects"]
            ]
            if page["after"] is None:
                return found
            params["after"] = page["after"]

    def upload_object(self, file: FileInput, known: Digest, path: str) -> Steps[DataObject]:
        """Put a file into the data store: to where the gateway says, and then say what it was."""
        wanted = {"path": path, "size": known.size}
        begun = (
            yield from send(Request("POST", self._data("uploads"), self._auth(None), json=wanted), self.retry)
        ).json()
        put = begun["transfers"]["outputs"][0]["put"]
        place = urljoin(self._data("uploads"), put["url"])
        # The signed URL is its own credential: the token stays here.
        headers = {**put.get("headers", {}), "Content-Length": str(known.size)}
        written = yield from send(Request("PUT", place, headers, content=file), self.retry)
        record = {"sha256": known.sha256, "size": known.size}
        if etag := written.headers.get("etag"):
            record["etag"] = etag.strip('"')
        meta = self._data(f"meta/{quote(begun['path'], safe='/')}")
        found = (yield from send(Request("PUT", meta, self._auth(None), json=record), self.retry)).json()
        return {"path": found["path"], "size": found["size"], "modified": found["modified"]}

    def download_object(self, path: str) -> Steps[bytes]:
        """The content of an object."""
        place = self._data(f"data/{quote(path, safe='/')}")
        answer = yield from send(Request("GET", place, headers=self._auth(None)), self.retry)
        # The signed URL is its own credential: the token stays here.
        link = urljoin(place, answer.headers["location"])
        return (yield from send(Request("GET", link), self.retry)).content

    def delete_object(self, path: str) -> Steps[None]:
        """Remove an object."""
        place = self._data(f"data/{quote(path, safe='/')}")
        yield from send(Request("DELETE", place, headers=self._auth(None)), self.retry)

    # Addresses and credentials

    def _get(self, url: str, params: Mapping[str, str] | None = None) -> Steps[Any]:
        request = Request("GET", url, headers=self._auth(None), params=dict(params or {}))
        return (yield from send(request, self.retry)).json()

    def _endpoint(self, endpoint: str) -> str:
        return f"{self.url}/endpoints/{_quoted(endpoint)}"

    def _api(self, path: str) -> str:
        return f"{self.url}/api/v1/{path}"

    def _data(self, path: str) -> str:
        split = urlsplit(self.url)
        base, _, namespace = split.path.partition("/environments/")
        # At the root of `penstock serve` there is one environment.
        return f"{split.scheme}://{split.netloc}{base}/api/v1/namespaces/{namespace or 'default'}/{path}"

    def _auth(self, endpoint_token: str | None) -> dict[str, str]:
        if endpoint_token is not None:
            return {"Authorization": f"EndpointToken {endpoint_token}"}
        if self.token is None:
            raise Denied(
                "this needs a token of the cluster: give `token`, or set PENSTOCK_TOKEN; `kubectl create token NAME` "
                "makes one for a service account"
            )
        return {"Authorization": f"Bearer {self.token}"}


def _split(inputs: Inputs, file: Callable[[str, Any], bool]) -> tuple[dict[str, Any], dict[str, FileInput]]:
    values = {name: value for name, value in inputs.items() if not file(name, value)}
    files: dict[str, FileInput] = {}
    for name in inputs:
        if name in values:
            continue
        value = inputs[name]
        if not isinstance(value, str) and not is_file(value):
            raise InvalidInputs(f'input "{name}" is a file: give a path, bytes, or an open binary file')
        files[name] = FileInput(value)
    return values, files


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _given(each: InputSource | OutputDestination) -> dict[str, Any]:
    return {name: value for name, value in asdict(each).items() if value is not None}


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _next_wait(began: float, now: float, timeout: float | None) -> float:
    left = _WAIT_SECONDS if timeout is None else timeout - (now - began)
    return max(0.0, min(_WAIT_SECONDS, left))


def _tell(on_progress: OnProgress | None, execution: str, began: float, now: float, timeout: float | None) -> None:
    if on_progress is not None:
        on_progress(Progress(execution, now - began))
    if timeout is not None and now - began >= timeout:
        raise TimedOut(
            f"execution {execution} has not ended within {timeout:g} s; it goes on, ask for its results later",
            execution_id=execution,
        )
