"""`penstock serve` as a process, and those who use it: over HTTP, with the SDK and with `--local`. No tests."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from typing import Any

import httpx

from integration.cli.support import Cli, Ended, Running, until

SERVING = re.compile(r"serving (http://\S+) from")
SECONDS = 60


def deployment(name: str, pipeline: str, **spec: Any) -> dict[str, Any]:
    """A Deployment as a dict; behind an endpoint of its own name unless it says otherwise."""
    how = {} if "schedule" in spec or "endpoint" in spec else {"endpoint": {"path": name}}
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"pipeline": {"name": pipeline}, **how, **spec},
    }


class Served:
    """A home that is served, and a caller.

    Attributes:
        cli: `penstock` in the same folder.
        url: where it is served.
    """

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.url = ""
        self._process: Running | None = None
        self.http = httpx.Client(timeout=SECONDS, trust_env=False, follow_redirects=True)

    @property
    def process(self) -> Running:
        """The server."""
        assert self._process is not None
        return self._process

    def start(self, *arguments: str) -> None:
        """Start it, and wait until it answers."""
        process = self._process = self.cli.start("serve", "--port", "0", *arguments)
        until(lambda: SERVING.search(process.err) or not process.alive, "it serves")
        found = SERVING.search(process.err)
        assert found is not None, process.ended()
        self.url = found[1]
        until(self._ready, "it is ready")

    def _ready(self) -> bool:
        try:
            return self.http.get(f"{self.url}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> Ended:
        """Ctrl-C."""
        self.process.signal(signal.SIGINT)
        return self.process.ended()

    def close(self) -> None:
        """End whatever still runs."""
        self.http.close()
        if self._process is not None and self._process.alive:
            self._process.signal(signal.SIGINT)
            self._process.ended()

    @property
    def token(self) -> str:
        """What opens the API."""
        return (self.cli.home / "token").read_text().strip()

    def local(self, *arguments: str) -> Ended:
        """A command for clusters, with `--local`; it must succeed."""
        done = self.cli(*arguments, "--local")
        assert done.code == 0, done
        return done

    def endpoint_token(self, name: str) -> str:
        """The token of an endpoint, as its owner finds it."""

        def there() -> bool:
            return self.cli("token", "show", name, "--local").code == 0

        until(there, "the token is made")
        return self.local("token", "show", name).out.strip()

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self.local("get", kind, name, "-o", "json").out)
        return found

    def executions(self) -> dict[str, dict[str, Any]]:
        """All executions, by name."""
        listed = json.loads(self.local("get", "executions", "-o", "json").out)
        items = listed["items"] if listed.get("kind", "").endswith("List") else [listed]
        return {each["metadata"]["name"]: each for each in items}

    def phase(self, name: str) -> str:
        """How far an execution is."""
        return str((self.get("execution", name).get("status") or {}).get("phase", ""))

    def call(self, path: str, token: str, body: Mapping[str, Any] | None = None, **options: Any) -> httpx.Response:
        """Call an endpoint; redirects are followed."""
        headers = {"Authorization": f"EndpointToken {token}", **options.pop("headers", {})}
        if body is not None:
            options["json"] = body
        return self.http.post(f"{self.url}/endpoints/{path}", headers=headers, **options)
