"""A gateway as a process that serves endpoints of a `ClusterServer`, and what callers send it. No tests."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from .cluster import TOKEN, ClusterServer
from .support import SECONDS, start_gateway

PIPELINE: dict[str, Any] = {
    "inputs": [
        {"name": "rows", "type": "number", "default": 150},
        {"name": "title", "type": "string", "required": False},
        {"name": "table", "type": "file", "required": False},
        {"name": "more", "type": "file", "required": False},
        {"name": "flags", "type": "array", "required": False},
    ],
    "outputs": [
        {"name": "accuracy", "type": "number", "from": "steps.train.outputs.accuracy"},
    ],
    "steps": [{"name": "train", "image": "x", "command": ["x"], "outputs": [{"name": "accuracy", "type": "number"}]}],
}


class Endpoints:
    """A gateway, and a caller who has the token of the endpoint `iris`.

    Attributes:
        url: of the gateway.
        environment: URL of the environment `ours`.
        process: the gateway.
    """

    def __init__(self, folder: Path, server: ClusterServer, **environ: str) -> None:
        self.folder, self.server = folder, server
        self._environ = environ
        self.start()

    def start(self) -> None:
        self.process, self.url = start_gateway(self.folder, self.server.url, **self._environ)
        self.environment = f"{self.url}/environments/ours"
        self.http = httpx.Client(timeout=SECONDS, trust_env=False)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()

    # What callers do

    def call(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        path: str = "endpoints/iris",
        token: str | None = TOKEN,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """POST to an endpoint, without following redirects."""
        given = ({} if token is None else {"Authorization": f"EndpointToken {token}"}) | dict(headers or {})
        if inputs is not None:
            options["json"] = inputs
        return self.http.post(f"{self.environment}/{path}", headers=given, **options)

    def get(self, path: str, *, token: str | None = TOKEN, **options: Any) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"EndpointToken {token}"}
        return self.http.get(f"{self.environment}/{path}", headers=headers, **options)

    def results(self, execution: str, **options: Any) -> httpx.Response:
        return self.get(f"endpoints/iris/executions/{execution}", **options)

    def stored(self) -> list[str]:
        """Uploaded objects."""
        top = self.folder / "store"
        return sorted(str(each.relative_to(top)) for each in top.glob("ours/**/*") if each.is_file())


def value(name: str, content: Any) -> dict[str, Any]:
    return {"name": name, "value": content}


def stored_file(endpoints: Endpoints, key: str, content: bytes) -> dict[str, Any]:
    """Puts the content of a file output into the store, as the operator would find it."""
    import hashlib

    path = endpoints.folder / "store" / "ours" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"key": key, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def problem(response: httpx.Response) -> tuple[int, str, str]:
    """Status, word and sentence of an error."""
    body = json.loads(response.content)
    assert set(body) >= {"message", "name", "request_id"}, body
    assert response.headers["x-request-id"] == body["request_id"]
    return response.status_code, body["name"], body["message"]
