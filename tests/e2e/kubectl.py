"""`kubectl` for tests: one cluster, one way to call it, errors that show what it said.

PYTEST_DONT_REWRITE: there are no assertions in here.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cluster.shell import ClusterError, last_lines, run, wait_until

ANSWER_SECONDS = 60
# What tests ask for again and again: an own program each time would take most of the machine.
RESOURCES = {
    "pods": "api/v1/namespaces/{}/pods",
    "jobs": "apis/batch/v1/namespaces/{}/jobs",
    "executions": "apis/penstock.dev/v1alpha1/namespaces/{}/executions",
    "pipelines": "apis/penstock.dev/v1alpha1/namespaces/{}/pipelines",
    "events.v1.events.k8s.io": "apis/events.k8s.io/v1/namespaces/{}/events",
    "lease": "apis/coordination.k8s.io/v1/namespaces/{}/leases",
}
ALIASES = {"pod": "pods", "job": "jobs", "exec.penstock.dev": "executions", "executions.penstock.dev": "executions"}


class InitializingError(ClusterError):
    """The server answers and does not know its objects yet."""


@dataclass(frozen=True)
class Kubectl:
    """Runs `kubectl` against one cluster: `kubectl("get", "pods", "-o", "json")` returns what it prints.

    Attributes:
        program: The command.
        kubeconfig: The cluster and who we are there.
        namespace: Used where a call names none.
        proxy: Where `kubectl proxy` serves, for `get` and `items` of what is asked for often; none if empty.
    """

    program: Path
    kubeconfig: Path
    namespace: str = "default"
    proxy: str = ""

    def __call__(self, *arguments: str | Path, stdin: str | None = None, timeout: float = 60) -> str:
        """Run `kubectl` and return its stdout.

        Args:
            arguments: As on the command line.
            stdin: Text for its stdin.
            timeout: Seconds that it may take.

        Raises:
            ClusterError: It failed or took too long; with the end of what it printed.
        """
        return run(*self._command(arguments), timeout=timeout, stdin=stdin)

    def attempt(self, *arguments: str | Path, stdin: str | None = None, timeout: float = 60) -> tuple[int, str]:
        """Run `kubectl` where its failure is a possible answer; returns its exit code, and stdout and stderr in one."""
        done = subprocess.run(
            self._command(arguments),
            input=stdin or "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object or list: `get("pod", "mine")`."""
        path = self._path(*arguments) if self.proxy else None
        found: dict[str, Any] = self._read(path) if path else json.loads(self("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a list: `items("pods", "-l", "app=x")`."""
        found: list[dict[str, Any]] = self.get(*arguments)["items"]
        return found

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects on the server's side, as GitOps tools do."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self("apply", "--server-side", "-f", "-", stdin=json.dumps(listed))

    def environment(self) -> dict[str, str]:
        """Our environment, for other programs that shall use this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def explain(self, *kinds: str) -> str:
        """What there is of some kinds in the namespace, and its events, for the message of a failed test."""
        parts = [self.attempt("get", kind, "-o", "wide")[1] for kind in (*kinds, "events")]
        return "\n".join(last_lines(part) for part in parts)

    def _path(self, kind: str, *more: str) -> str | None:
        """Where the API server has what `get` is asked for; None where `kubectl` had better find out."""
        base = RESOURCES.get(ALIASES.get(kind, kind), "").format(self.namespace)
        match more:
            case _ if not base:
                return None
            case ():
                return base
            case ("-l", selector):
                return f"{base}?{urllib.parse.urlencode({'labelSelector': selector})}"
            case (name,) if not name.startswith("-"):
                return f"{base}/{name}"
        return None

    def _read(self, path: str) -> Any:
        """An object or a list as `kubectl get -o json` gives it; a server that has just begun is asked again."""
        try:
            return self._read_once(path)
        except InitializingError:
            found: list[Any] = []

            def answered() -> bool:
                with suppress(InitializingError):
                    found.append(self._read_once(path))
                return bool(found)

            wait_until(answered, timeout=ANSWER_SECONDS, what=f"{path} to be served")
            return found[0]

    def _read_once(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.proxy}/{path}", timeout=ANSWER_SECONDS) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                kind = InitializingError if error.code == 429 else ClusterError
                raise kind(f"{path}: {error.code}\n{last_lines(error.read().decode())}") from None
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"{path}: {error}") from None
        for item in found.get("items", ()):
            item |= {"kind": found["kind"].removesuffix("List"), "apiVersion": found["apiVersion"]}
        for each in found.get("items", [found]):
            each["metadata"].pop("managedFields", None)
        return found

    def _command(self, arguments: Sequence[str | Path]) -> list[str]:
        where = ("--kubeconfig", self.kubeconfig, "--namespace", self.namespace)
        return [str(word) for word in (self.program, *where, *arguments)]


@contextmanager
def proxy(program: Path, kubeconfig: Path) -> Iterator[str]:
    """`kubectl proxy`: gives the address at which it serves, with the rights of the kubeconfig.

    Args:
        program: The command.
        kubeconfig: The cluster.
    """
    with tempfile.TemporaryFile() as log:
        command = (str(program), "--kubeconfig", str(kubeconfig), "proxy", "--port=0")
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

        def said() -> str:
            return os.pread(log.fileno(), 4_000, 0).decode()

        try:
            wait_until(lambda: "Starting to serve on" in said(), timeout=ANSWER_SECONDS, what="`kubectl proxy`")
            yield "http://" + re.findall(r"Starting to serve on (\S+)", said())[0]
        finally:
            process.terminate()
            process.wait(ANSWER_SECONDS)
