"""A gateway as a process with a folder store, and what stands for the API server that it asks. No tests.

This server knows executions to look at and nothing to watch; `cluster` has one for endpoints.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from integration.cli.support import Cli, Ended

SECONDS = 60
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
OWNER, READER, STRANGER = "owner-token", "reader-token", "stranger-token"
OWN = "the-gateways-own"
RIGHTS: Mapping[str, set[str]] = {OWNER: {"get", "list", "create"}, READER: {"get", "list"}, STRANGER: set()}


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


class ApiServer:
    """Answers as an API server does to what the gateway asks: reviews by the token, and executions.

    Attributes:
        executions: by namespace and name.
        seen: method, path and token of each request, with the user to impersonate.
        down: whether it fails at everything.
    """

    def __init__(self) -> None:
        self.executions: dict[tuple[str, str], dict[str, Any]] = {}
        self.seen: list[tuple[str, str, str, str]] = []
        self.down = False
        self._closed = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                outer.answer(self, {})

            def do_POST(self) -> None:
                outer.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == OWN and "watch=true" in request.path:
            request.send_response(200)
            request.end_headers()
            self._closed.wait()
            return
        self.seen.append((request.command, request.path, token, request.headers.get("Impersonate-User", "")))
        status, reply = self._reply(request.path.partition("?")[0], token, body)
        content = json.dumps(reply).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _reply(self, path: str, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.down:
            return 503, _status(503, "ServiceUnavailable", "not now")
        if token == OWN:
            return 200, {"items": [], "metadata": {"resourceVersion": "1"}}
        if token not in RIGHTS:
            return 401, _status(401, "Unauthorized", "Unauthorized")
        if path == REVIEWS:
            asked = body["spec"]["resourceAttributes"]
            assert (asked["group"], asked["resource"]) == ("penstock.dev", "executions")
            return 201, {"status": {"allowed": asked["namespace"] == "ours" and asked["verb"] in RIGHTS[token]}}
        parts = path.split("/")
        if "get" not in RIGHTS[token] or parts[5] != "ours":
            return 403, _status(403, "Forbidden", "executions.penstock.dev is forbidden")
        if len(parts) == 7:
            listed = [found for (namespace, _), found in self.executions.items() if namespace == parts[5]]
            return 200, {"metadata": {"resourceVersion": "1"}, "items": listed}
        found = self.executions.get((parts[5], parts[7]))
        if found is None:
            return 404, _status(404, "NotFound", f'executions.penstock.dev "{parts[7]}" not found', name=parts[7])
        return 200, found

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


def _status(code: int, reason: str, message: str, **details: str) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


def kubeconfig(path: Path, server: str, **user: object) -> Path:
    """A kubeconfig whose namespace is `ours`."""
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ours"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(content))
    return path


def start_gateway(folder: Path, server: str, **environ: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a gateway with a folder store, and wait until it is ready.

    Args:
        folder: where its store and its log are.
        server: URL of its API server.
        environ: further environment variables.

    Returns:
        Its process and its URL.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = kubeconfig(folder / "gateway.kubeconfig", server, token=OWN)
    given = os.environ | {
        "PENSTOCK_STORE_URL": f"file://{folder / 'store'}",
        "PENSTOCK_SIGNING_KEYS": f"test:{(b'k' * 32).hex()}",
        "PENSTOCK_LOG_LEVEL": "DEBUG",
        "PENSTOCK_DRAIN_SECONDS": "0",
        **environ,
    }
    command = [sys.executable, "-m", "penstock.cli", "gateway", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen([*command, "--kubeconfig", str(config)], env=given, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(OSError):
            return ask("GET", f"{url}/readyz").status == 200
        return False

    try:
        until(ready)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, url


def ask(
    method: str, url: str, token: str | None = None, body: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Make a request, without following redirects; bytes are sent as they are, all else as JSON."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None and not isinstance(body, bytes):
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    try:
        with opener.open(request, timeout=SECONDS) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> tuple[int, str]:
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        return self.status, self.json["detail"]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None: ...


@dataclass
class Gateway:
    """A gateway that runs."""

    folder: Path
    server: ApiServer
    process: subprocess.Popen[bytes] = field(init=False)
    url: str = field(init=False)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        self.process, self.url = start_gateway(self.folder, self.server.url)

    def ask(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return ask(method, self.url + path, token, body, headers)

    def api(
        self, method: str, path: str, token: str | None = OWNER, body: object = None, namespace: str = "ours"
    ) -> Answer:
        return self.ask(method, f"/api/v1/namespaces/{namespace}/{urllib.parse.quote(path, safe='/?=&')}", token, body)

    def put(self, path: str, content: bytes) -> Answer:
        """Store an object as a client without our code does: a signed URL, and then what was written."""
        import hashlib

        begun = self.api("POST", "uploads", body={"path": path, "size": len(content)})
        assert begun.status == 201, begun
        put = begun.json["transfers"]["outputs"][0]["put"]
        written = self.ask("PUT", put["url"], body=content, headers=put["headers"])
        assert written.status == 201, written
        record = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "etag": written.headers["etag"].strip('"'),
        }
        return self.api("PUT", f"meta/{path}", body=record)

    def stored(self) -> list[str]:
        return sorted(str(path.relative_to(self.store)) for path in self.store.rglob("*") if path.is_file())


class OnGateway:
    """`penstock` with a gateway, as somebody."""

    def __init__(self, cli: Cli, gateway: Gateway, token: str = OWNER) -> None:
        self.cli = cli
        self._gateway = gateway
        self._config = kubeconfig(cli.folder / "kubeconfig", gateway.server.url, token=token)

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> Ended:
        """Run `penstock … --cluster`; it must end with this code."""
        env = {"PENSTOCK_GATEWAY": self._gateway.url, "KUBECONFIG": str(self._config)}
        ended = self.cli(*arguments, stdin=stdin, env=env)
        assert ended.code == code, f"{arguments}: {ended}"
        return ended
