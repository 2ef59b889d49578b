"""Operators to test: one that the chart installs, and others as processes of this machine that can be killed.

PYTEST_DONT_REWRITE: there are no assertions in here, and test modules import it before pytest does.

Each looks after a namespace of its own, which enforces Pod Security `restricted`, so that several can share a cluster.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.shell import ClusterError, last_lines, run, wait_until
from e2e.conftest import NAMESPACE_SECONDS, RESTRICTED
from e2e.image import REPOSITORY
from e2e.kubectl import Kubectl
from e2e.manifests import BUSYBOX

CHART = REPOSITORY / "charts" / "penstock"
API = "penstock.dev/v1alpha1"
FINISHED = frozenset({"Succeeded", "Failed", "Error", "Cancelled"})
READY_SECONDS = 90
EXECUTION_SECONDS = 90
# Neither image of the tests names a user, and steps never run as root.
USER = 65532

Status = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A namespace that an operator looks after, and what tests do in it.

    Attributes:
        kubectl: In that namespace.
        operator: Who looks after it.
    """

    kubectl: Kubectl
    operator: str

    def pipeline(self, spec: Mapping[str, Any], *, name: str | None = None) -> str:
        """Apply a Pipeline, and return its name."""
        name = name or f"p-{secrets.token_hex(4)}"
        self.kubectl.apply({"apiVersion": API, "kind": "Pipeline", "metadata": {"name": name}, "spec": dict(spec)})
        return name

    def start(self, pipeline: str | Mapping[str, Any], *, name: str | None = None, **spec: Any) -> str:
        """Start an execution of a pipeline, by its name or written in place; returns the execution's name."""
        (created,) = self.start_all([execution(pipeline, name=name, **spec)])
        return created

    def start_all(self, executions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Start executions with one call; returns their names."""
        self.kubectl.apply(*executions)
        return [each["metadata"]["name"] for each in executions]

    def status(self, name: str) -> Status:
        """The status of an execution as it is now; empty before there is one."""
        found: Status = self.kubectl.get("executions", name).get("status") or {}
        return found

    def wait(self, name: str, *phases: str, seconds: float = EXECUTION_SECONDS) -> Status:
        """Wait until an execution is in one of these phases (has finished, unless told); returns its status."""
        return self.wait_all([name], *phases, seconds=seconds)[name]

    def wait_all(self, names: Sequence[str], *phases: str, seconds: float = EXECUTION_SECONDS) -> dict[str, Status]:
        """The same for many; returns the status of each."""
        wanted = frozenset(phases) or FINISHED
        found: dict[str, Status] = {}

        def all_there() -> bool:
            listed = self.kubectl.items("executions")
            found.update((each["metadata"]["name"], each.get("status") or {}) for each in listed)
            return all(found.get(name, {}).get("phase") in wanted for name in names)

        try:
            wait_until(all_there, timeout=seconds, what=f"{', '.join(names[:5])} to be {sorted(wanted)}", every=0.3)
        except ClusterError as error:
            late = {name: found.get(name) for name in names if found.get(name, {}).get("phase") not in wanted}
            shown = json.dumps(late, indent=1)[:4_000]
            raise ClusterError(f"{error}\n{shown}\n{self.kubectl.explain('jobs', 'pods')}") from None
        return {name: found[name] for name in names}

    def wait_for_step(self, name: str, step: str, *, seconds: float = EXECUTION_SECONDS, **fields: Any) -> Status:
        """Wait until the status of a step has these fields; returns it."""
        seen: list[Status] = []

        def has() -> bool:
            seen[:] = [each for each in self.status(name).get("steps", ()) if each["name"] == step]
            return bool(seen) and all(seen[0].get(key) == value for key, value in fields.items())

        try:
            wait_until(has, timeout=seconds, what=f"{name}, step {step}: {fields}", every=0.2)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{seen}\n{self.kubectl.explain('jobs', 'pods')}") from None
        return seen[0]

    def wait_for_pod(self, name: str, step: str, *, attempt: int = 1, phase: str = "Running") -> str:
        """Wait until the pod of an attempt is in a phase; returns its name."""
        selector = f"penstock.dev/execution={name},penstock.dev/step={step},penstock.dev/attempt={attempt}"
        found: list[str] = []

        def there() -> bool:
            pods = self.kubectl.items("pods", "-l", selector)
            found[:] = [pod["metadata"]["name"] for pod in pods if pod.get("status", {}).get("phase") == phase]
            return bool(found)

        wait_until(there, timeout=EXECUTION_SECONDS, what=f"a pod of {name}, step {step} that is {phase}", every=0.2)
        return found[0]

    def jobs(self, name: str) -> list[dict[str, Any]]:
        """The Jobs of an execution."""
        return self.kubectl.items("jobs", "-l", f"penstock.dev/execution={name}")

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The Pods of an execution."""
        return self.kubectl.items("pods", "-l", f"penstock.dev/execution={name}")


def execution(pipeline: str | Mapping[str, Any], *, name: str | None = None, **spec: Any) -> dict[str, Any]:
    """An Execution of a pipeline, by its name or written in place."""
    what = {"pipeline": {"name": pipeline}} if isinstance(pipeline, str) else {"pipelineSpec": dict(pipeline)}
    metadata = {"name": name or f"e-{secrets.token_hex(4)}"}
    return {"apiVersion": API, "kind": "Execution", "metadata": metadata, "spec": what | spec}


def script(name: str, text: str, **fields: Any) -> dict[str, Any]:
    """A step that runs a shell script in BusyBox."""
    return {"name": name, "image": BUSYBOX, "script": text, **fields}


def steps(*listed: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """The spec of a pipeline with these steps."""
    return {"steps": [dict(step) for step in listed], **fields}


def step_of(status: Status, name: str) -> Status:
    """The status of a step."""
    (found,) = (step for step in status["steps"] if step["name"] == name)
    return dict(found)


def values(status: Status) -> dict[str, Any]:
    """The outputs in a status, of an execution or of a step, by name."""
    return {given["name"]: given["value"] for given in status.get("outputs", ())}


@dataclass
class LocalOperator:
    """`penstock operator` as a process of this machine, for one namespace.

    Attributes:
        kubeconfig: The cluster.
        namespace: What it looks after, and where its Lease is.
        log: The file that it writes its log to.
        identity: Its name in the Lease; started again it keeps it, as a container of a pod does.
        settings: Further environment variables.
    """

    kubeconfig: Path
    namespace: str
    log: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    identity: str = field(default_factory=lambda: f"e2e-{secrets.token_hex(4)}")
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it may not lead yet."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        ours = {
            "PENSTOCK_NAMESPACES": self.namespace,
            "PENSTOCK_LEASE_NAMESPACE": self.namespace,
            "PENSTOCK_IDENTITY": self.identity,
            "PENSTOCK_HTTP_PORT": str(self.port),
            "PENSTOCK_RUN_AS_USER": str(USER),
        }
        command = (sys.executable, "-m", "penstock.cli", "operator", "--kubeconfig", str(self.kubeconfig))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env={**os.environ, **ours, **self.settings}, stderr=log)

    def wait(self) -> None:
        """Wait until it leads and has read everything."""

        def leads() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise ClusterError(f"the operator ended\n{self.tail()}")
            try:
                return self.metrics().get("penstock_leader") == 1 and self._get("readyz") == "ok\n"
            except OSError:
                return False

        wait_until(leads, timeout=READY_SECONDS, what="the operator to lead")

    def follows(self) -> bool:
        """Whether it is there to take over, and does not lead."""
        try:
            return self.metrics().get("penstock_leader") == 0 and self._get("readyz") == "ok\n"
        except OSError:
            return False

    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.process is None or self.process.poll() is not None

    def metrics(self) -> dict[str, float]:
        """Its metrics by their names with labels."""
        found = re.findall(r"^(\w+(?:\{.*?\})?) ([-+.\de]+)$", self._get("metrics"), re.MULTILINE)
        return {name: float(value) for name, value in found}

    def writes(self) -> int:
        """How many writes to the API server it has made, except those of the Lease and of Events."""
        wanted = re.compile(
            r'penstock_api_requests_total\{(?!.*resource="(?:leases|events))(?=.*verb="(?!get|list|watch))'
        )
        return int(sum(value for name, value in self.metrics().items() if wanted.match(name)))

    def kill(self) -> None:
        """End it as a power failure would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)

    def pause(self) -> None:
        """Have its process stand still, as a machine that hangs would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as Kubernetes would."""
        self.go_on()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def tail(self) -> str:
        """The end of its log."""
        return last_lines(self.log.read_text(errors="replace")) if self.log.exists() else ""

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as answer:
            text: str = answer.read().decode()
        return text


@contextmanager
def restricted_namespace(kubectl: Kubectl, prefix: str) -> Iterator[Kubectl]:
    """`kubectl` in a fresh namespace that enforces `restricted` and is deleted at the end."""
    name = f"{prefix}-{secrets.token_hex(3)}"
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    admits = ("get", "serviceaccount", "default", "--namespace", name)
    wait_until(lambda: kubectl.attempt(*admits)[0] == 0, timeout=NAMESPACE_SECONDS, what=f"namespace {name}")
    try:
        yield replace(kubectl, namespace=name)
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def local_operator(kubectl: Kubectl, folder: Path, **settings: str) -> Iterator[LocalOperator]:
    """An operator of this machine for the namespace of `kubectl`; its settings in capitals without the prefix."""
    log = folder / f"operator-{kubectl.namespace}.log"
    given = {f"PENSTOCK_{name}": value for name, value in settings.items()}
    operator = LocalOperator(kubectl.kubeconfig, kubectl.namespace, log, given)
    operator.start()
    try:
        operator.wait()
        yield operator
    finally:
        operator.stop()
        print(f"log of the operator of {kubectl.namespace}:\n{operator.tail()}")


@pytest.fixture(scope="session")
def operator(
    helm: Path, cluster_kubectl: Kubectl, crds: None, image: str, example_images: None, tmp_path_factory: Any
) -> Iterator[Place]:
    """What the chart installs, two replicas, looking after a namespace: where most tests take place."""
    del crds, example_images
    logs = tmp_path_factory.mktemp("operator")
    repository, _, tag = image.rpartition(":")
    with (
        restricted_namespace(cluster_kubectl, "penstock") as home,
        restricted_namespace(cluster_kubectl, "work") as work,
    ):
        given = {
            "namespaces": [work.namespace],
            "image": {"repository": repository, "tag": tag},
            "extraEnv": [{"name": "PENSTOCK_RUN_AS_USER", "value": str(USER)}],
        }
        given_file = logs / "values.json"
        given_file.write_text(json.dumps(given))
        where = ("--namespace", home.namespace)
        install = ("install", "penstock", CHART, *where, "--values", given_file, "--skip-crds")
        run(helm, *install, timeout=120, env=home.environment())
        try:
            rolled_out = home.attempt(
                "rollout", "status", "deploy.apps/penstock", f"--timeout={READY_SECONDS}s", timeout=READY_SECONDS + 10
            )
            if rolled_out[0] != 0:
                raise ClusterError(f"the operator does not get ready: {rolled_out[1]}\n{home.explain('pods')}")
            yield Place(work, home.namespace)
        finally:
            text = home.attempt("logs", "-l", "app.kubernetes.io/name=penstock", "--tail=2000", "--prefix")[1]
            (logs / "operator.log").write_text(text)
            print(f"log of the operator: {logs / 'operator.log'}\n{last_lines(text)}")
            run(helm, "uninstall", "penstock", *where, "--ignore-not-found", timeout=120, env=home.environment())


@pytest.fixture(scope="session")
def sidecar_operator(
    cluster_kubectl: Kubectl, crds: None, image: str, example_images: None, tmp_path_factory: Any
) -> Iterator[Place]:
    """A second operator with a namespace of its own, whose collectors are native sidecars."""
    del crds, example_images
    folder = tmp_path_factory.mktemp("sidecar")
    with (
        restricted_namespace(cluster_kubectl, "sidecar") as work,
        local_operator(work, folder, COLLECTOR="sidecar", COLLECTOR_IMAGE=image),
    ):
        yield Place(work, "local")
