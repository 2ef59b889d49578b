"""`kubectl` for tests: one cluster, one way to call it, errors that show what it said."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cluster.shell import last_lines, run


@dataclass(frozen=True)
class Kubectl:
    """Runs `kubectl` against one cluster: `kubectl("get", "pods", "-o", "json")` returns what it prints.

    Attributes:
        program: The command.
        kubeconfig: The cluster and who we are there.
        namespace: Used where a call names none.
    """

    program: Path
    kubeconfig: Path
    namespace: str = "default"

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
        found: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json"))
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

    def _command(self, arguments: Sequence[str | Path]) -> list[str]:
        where = ("--kubeconfig", self.kubeconfig, "--namespace", self.namespace)
        return [str(word) for word in (self.program, *where, *arguments)]
