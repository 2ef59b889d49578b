"""`penstock logs --follow` against a server whose connections break off in the middle of lines and between them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from integration.cli.support import Cli

LABELS = {
    "penstock.dev/execution": "one",
    "penstock.dev/execution-uid": "u1",
    "penstock.dev/step": "count",
    "penstock.dev/attempt": "1",
}
# Two lines were printed at the same moment, and three within one second: the server cannot be asked for less.
LOG = (
    "2026-01-01T10:00:00.100000000Z one",
    "2026-01-01T10:00:01.200000000Z two",
    "2026-01-01T10:00:01.200000000Z two again",
    "2026-01-01T10:00:01.900000000Z three",
    "2026-01-01T10:00:02.000000000Z four",
)


@dataclass
class Script:
    """What the server does.

    Attributes:
        cuts: for each connection that reads the log, after how many bytes it breaks off; then they last.
        ends: whether such a connection ends in peace, as that of a server that is shut down does.
        since: what each of them asked for.
        whole: set once the log was read to its end.
    """

    cuts: list[int]
    ends: bool
    since: list[str] = field(default_factory=list)
    whole: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    """An API server with one execution of one step."""

    script: Script
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path.endswith("/log"):
            self._log({name: values[0] for name, values in parse_qs(address.query).items()})
        elif address.path.endswith("/executions/one"):
            phase = "Succeeded" if self.script.whole.is_set() else "Running"
            steps = [{"name": "count", "phase": phase, "attempts": 1}]
            meta = {"name": "one", "namespace": "default", "uid": "u1"}
            self._json({"metadata": meta, "spec": {}, "status": {"phase": phase, "steps": steps}})
        elif address.path.endswith("/pods"):
            self._json({"metadata": {"resourceVersion": "1"}, "items": [self._pod()]})
        else:
            self._json(self._pod())

    def _pod(self) -> dict[str, Any]:
        state = "terminated" if self.script.whole.is_set() else "running"
        status = {"containerStatuses": [{"name": "step", "state": {state: {}}}]}
        return {"metadata": {"name": "pod", "namespace": "default", "labels": LABELS}, "status": status}

    def _json(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _log(self, asked: dict[str, str]) -> None:
        since = asked.get("sinceTime", "")
        self.script.since.append(since)
        # As the kubelet does: from this second on.
        text = "".join(f"{line}\n" for line in LOG if line[:19] >= since[:19]).encode()
        if cut := self.script.cuts.pop(0) if self.script.cuts else 0:
            text = text[:cut]
        else:
            self.script.whole.set()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
        if not cut or self.script.ends:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


@pytest.fixture
def script() -> Script:
    """Connections that break off after some bytes."""
    return Script([], ends=False)


@pytest.fixture
def config(script: Script, tmp_path: Path) -> Iterator[str]:
    """A kubeconfig for a server that does so."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(content), encoding="utf-8")
    yield str(path)
    server.shutdown()
    server.server_close()
    thread.join()


END = len(LOG[0]) + 1
"""Bytes of the first line."""


@pytest.mark.parametrize("ends", [False, True], ids=["broken", "ended"])
@pytest.mark.parametrize("cuts", [[END], [END + len(LOG[1]) + 1], [END + len(LOG[1]) + 1, len(LOG[1]) + 1, END]])
def test_no_line_is_lost_or_printed_twice(
    tmp_path: Path, script: Script, config: str, cuts: list[int], ends: bool
) -> None:
    script.cuts, script.ends = list(cuts), ends
    ended = Cli(tmp_path)("logs", "-f", "one", "--kubeconfig", config)
    assert ended.code == 0, ended
    assert ended.out.splitlines() == ["one", "two", "two again", "three", "four"]
    assert script.since[0] == "" and script.since[1].startswith("2026-01-01T10:00:0")
    assert ("trouble, trying again" in ended.err) is not ends
