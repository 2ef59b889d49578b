"""Deployments to test, in a namespace with an operator of its own that may be killed.

PYTEST_DONT_REWRITE: there are no assertions in here.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.cluster.shell import ClusterError, wait_until
from e2e.image import REPOSITORY
from e2e.kubectl import Kubectl
from e2e.manifests import BUSYBOX
from e2e.operator_fixtures import API, LocalOperator, Place, local_operator, restricted_namespace

MINUTE = 60
TICK_SECONDS = 45
SECONDS = 60

Json = dict[str, Any]


def pipeline(script: str = 'echo "said=$INPUT_WHO" > $PENSTOCK_OUTPUT') -> Json:
    return {
        "inputs": [{"name": "who", "type": "string", "default": "nobody"}],
        "outputs": [{"name": "said", "type": "string", "from": "steps.say.outputs.said"}],
        "steps": [
            {
                "name": "say",
                "image": BUSYBOX,
                "script": script,
                "inputs": [{"name": "who", "from": "inputs.who"}],
                "outputs": [{"name": "said", "type": "string", "maxBytes": 200}],
            }
        ],
    }


LONG = pipeline('echo "said=$INPUT_WHO" > $PENSTOCK_OUTPUT; sleep 600')


def each_minute(pipeline: str, **fields: Any) -> Json:
    return {
        "pipeline": {"name": pipeline},
        "schedule": {"cron": "* * * * *"},
        "inputs": [{"name": "who", "value": "world"}],
        "outputs": [{"name": "said", "void": True}],
        "history": {"succeeded": 100, "failed": 100},
        **fields,
    }


class Deployments:
    """What tests do with deployments of a namespace."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.kubectl = place.kubectl

    def apply(self, name: str, spec: Json, **metadata: Any) -> None:
        """Apply a deployment."""
        body = {"apiVersion": API, "kind": "Deployment", "metadata": {"name": name, **metadata}, "spec": spec}
        self.kubectl.apply(body)

    def get(self, name: str) -> Json:
        """A deployment as it is now."""
        found: Json = self.kubectl.get("deployments.penstock.dev", name)
        return found

    def ready(self, name: str, status: str, reason: str) -> Json:
        """Wait for its condition Ready of its newest generation; returns its status."""

        def said() -> bool:
            body = self.get(name)
            conditions = body.get("status", {}).get("conditions", ())
            found = [each for each in conditions if each["type"] == "Ready"]
            return bool(found) and (found[0]["status"], found[0]["reason"], found[0]["observedGeneration"]) == (
                status,
                reason,
                body["metadata"]["generation"],
            )

        wait_until(said, timeout=SECONDS, what=f"deployment {name} to be {status} for {reason}")
        return dict(self.get(name)["status"])

    def message(self, name: str) -> str:
        """What its condition Ready says."""
        return str(next(each["message"] for each in self.get(name)["status"]["conditions"] if each["type"] == "Ready"))

    def executions(self, name: str) -> list[Json]:
        """Its executions, the oldest first."""
        found = self.kubectl.items("executions", "-l", f"penstock.dev/deployment={name}")
        return sorted(found, key=lambda each: str(each["metadata"]["name"]))

    def wait_for(self, name: str, count: int, seconds: float) -> list[Json]:
        """Wait until there have been so many executions."""
        wait_until(
            lambda: len(self.executions(name)) >= count,
            timeout=seconds,
            what=f"{count} executions of {name}",
            every=0.3,
        )
        return self.executions(name)


def times(executions: list[Json]) -> list[str]:
    return [each["metadata"]["annotations"]["penstock.dev/scheduled-at"] for each in executions]


def minute(at: float) -> str:
    return datetime.fromtimestamp(at // MINUTE * MINUTE, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def wait_for_time(at: float) -> None:
    wait_until(lambda: time.time() >= at, timeout=2 * MINUTE, what=f"{minute(at)}", every=0.05)


@pytest.fixture
def own(
    cluster_kubectl: Kubectl, crds: None, example_images: None, tmp_path: Any
) -> Iterator[tuple[Deployments, LocalOperator]]:
    """A namespace with an operator of its own, which may be killed."""
    del crds, example_images
    settings = {"PUBLIC_URL": "https://penstock.example"}
    with (
        restricted_namespace(cluster_kubectl, "deploy") as work,
        local_operator(work, tmp_path, **settings) as operator,
    ):
        yield Deployments(Place(work, "local")), operator


def penstock(kubectl: Kubectl, *arguments: str, code: int = 0) -> str:
    """What the command line says on the test's cluster and namespace."""
    where = ("--kubeconfig", str(kubectl.kubeconfig), "--namespace", kubectl.namespace or "")
    command = (sys.executable, "-m", "penstock.cli", *arguments, *where)
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=REPOSITORY)
    if done.returncode != code:
        raise ClusterError(f"penstock {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return (done.stdout + done.stderr).strip()
