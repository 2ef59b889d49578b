"""What the benches on a cluster share: the cluster, namespaces, watches, the operator as a process, and its figures.

Uses the cluster of KUBECONFIG, or the one of tests/e2e: one that runs already stays, one started here ends here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from penstock.kube.client import Client
from penstock.kube.credentials import Sessions, find_source
from penstock.kube.errors import NotFound
from penstock.kube.resources import NAMESPACES, PODS, Resource
from penstock.kube.transport import Call, Settings, Transport

API = "penstock.dev/v1alpha1"
FAKE = "penstock.dev/fake-node"
FOREVER = "penstock.dev/fake-forever"
PORT = 18_098
AT_ONCE = 50
"""Create requests of a bench that are under way at once."""
_CRDS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
_ROOT = Path(__file__).resolve().parents[2]
_WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE"})
_NOT_STORED = re.compile(r',resource="(leases|\w+reviews|)"|subresource="token"')


@dataclass(frozen=True, slots=True)
class Stage:
    """A cluster to measure on."""

    client: Client
    transport: Transport

    async def writes(self) -> float:
        """Successful writes of everybody to this API server so far, without leases."""
        text = (await self.transport.send(Call("get", "GET", "/metrics", "metrics", accept="*/*"))).decode()
        total = 0.0
        for labels, value in re.findall(r"^apiserver_request_total\{(.*?)\} (\S+)$", text, re.MULTILINE):
            verb, code = re.search(r'verb="(\w+)"', labels), re.search(r'code="2', labels)
            if verb and verb[1] in _WRITES and code and not _NOT_STORED.search(labels):
                total += float(value)
        return total

    async def create_all(self, resource: Resource, bodies: list[dict[str, Any]]) -> None:
        """Create objects, many at once."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def create(body: dict[str, Any]) -> None:
            async with gate:
                await self.client.create(resource, body)

        await asyncio.gather(*map(create, bodies))

    async def watch(self, resource: Resource, namespace: str) -> AsyncGenerator[tuple[float, dict[str, Any]], None]:
        """Objects of a namespace as they change from now on, each with the moment at which that was heard."""
        version = (await self.client.list(resource, namespace=namespace, keep=lambda _: None)).resource_version
        path = resource.path(namespace=namespace)
        while True:  # servers end watches whenever they like
            params = {"watch": "true", "resourceVersion": version}
            call = Call("watch", "GET", path, resource.plural, params=params, endless=True)
            rest = b""
            async for data in self.transport.stream(call):
                at = time.monotonic()
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RuntimeError(f"the watch of {resource.plural} broke: {event['object'].get('message')}")
                    version = event["object"]["metadata"]["resourceVersion"]
                    yield at, event["object"]


@asynccontextmanager
async def stage(fake_nodes: int = 0) -> AsyncIterator[Stage]:
    """A cluster with Penstock's CRDs, and with so many fake nodes at least; whoever ends this, it is cleaned up."""
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    started = False
    if not os.environ.get("KUBECONFIG"):
        started = _cluster("status", check=False).returncode != 0
        os.environ["KUBECONFIG"] = _cluster("up").stdout.strip().splitlines()[-1]
    if fake_nodes:
        _cluster("fake-nodes", str(fake_nodes))
    sessions = Sessions(find_source(os.environ))
    try:
        transport = Transport(sessions, settings=Settings(max_writes=AT_ONCE))
        client = Client(transport)
        await _crds(client)
        yield Stage(client, transport)
    finally:
        await sessions.close()
        if started:
            _cluster("down")


def _cluster(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.e2e.cluster", *words]
    return subprocess.run(command, check=check, text=True, stdout=subprocess.PIPE, cwd=_ROOT)


async def _crds(client: Client) -> None:
    for path in sorted((_ROOT / "crds").glob("*.yaml")):
        body = yaml.safe_load(path.read_text())
        await client.apply(_CRDS, body)
        name = body["metadata"]["name"]

        async def established(name: str = name) -> bool:
            found = (await client.get(_CRDS, name)).get("status", {}).get("conditions") or ()
            return any(each["type"] == "Established" and each["status"] == "True" for each in found)

        await wait(established, 30, f"{name} to be served")


@asynccontextmanager
async def namespace(on: Stage) -> AsyncIterator[str]:
    """A namespace that is gone afterwards, with all that is in it."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    await on.client.create(NAMESPACES, {"metadata": {"name": name}})

    async def admits_pods() -> bool:
        try:
            await on.client.get(Resource("", "v1", "serviceaccounts", "ServiceAccount"), "default", name)
        except NotFound:
            return False
        return True

    async def gone() -> bool:
        try:
            await on.client.get(NAMESPACES, name)
        except NotFound:
            return True
        return False

    try:
        await wait(admits_pods, 60, f"the service account of namespace {name}")
        yield name
    finally:
        await on.client.delete(NAMESPACES, name)
        # At once: the namespace's own deletion would give each pod its time to end.
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        await on.transport.send(Call("delete", "DELETE", PODS.path(namespace=name), PODS.plural, body=body))
        await wait(gone, 300, f"namespace {name} to be gone")


async def wait(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.2) -> None:
    """Wait until a condition, which may be a coroutine function, holds.

    Raises:
        TimeoutError: it does not within the time.
    """
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(every)


class Operator:
    """`penstock operator` as a process that looks after one namespace."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; does not wait."""
        settings = {
            "NAMESPACES": self._place,
            "LEASE_NAMESPACE": self._place,
            "HTTP_PORT": str(PORT),
            "LOG_LEVEL": "WARNING",
            "RUN_AS_USER": "65532",
        }
        environ = os.environ | {f"PENSTOCK_{name}": value for name, value in settings.items()}
        self._process = subprocess.Popen([sys.executable, "-m", "penstock.cli", "operator"], env=environ)

    def end(self) -> None:
        """End it as a Deployment would, and wait for that."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def _pid(self) -> int:
        assert self._process is not None  # asked between start and end
        return self._process.pid

    def cpu(self) -> float:
        """CPU seconds, user and system, that it has used so far."""
        return cpu_of(self._pid)

    def mib(self, field: str = "VmHWM") -> float:
        """Its memory: `VmHWM` is the highest so far, `VmRSS` that of now."""
        found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{self._pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0

    async def metrics(self) -> Mapping[str, float]:
        """Its own metrics; nothing while it does not answer."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session,
                session.get(f"http://127.0.0.1:{PORT}/metrics") as answer,
            ):
                text = await answer.text()
        except (aiohttp.ClientError, OSError):
            return {}
        found = re.findall(r"^(\w+(?:\{.*?\})?) ([\d.e+]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    async def reads_pipelines(self) -> bool:
        """Whether it has read the namespace's pipeline."""
        return total(await self.metrics(), "penstock_api_requests_total", "pipelines/status") > 0

    async def writes(self) -> float:
        """Its requests that change something, without those for its Lease."""
        found, name = await self.metrics(), "penstock_api_requests_total"
        verbs = ("create", "apply", "patch", "update", "delete")
        made = {key: value for key, value in found.items() if 'resource="leases"' not in key}
        return sum(total(made, name, f'verb="{verb}"') for verb in verbs)


@asynccontextmanager
async def operator(place: str) -> AsyncIterator[Operator]:
    """An operator that has read the namespace's pipeline."""
    found = Operator(place)
    found.start()
    try:
        await wait(found.reads_pipelines, 60, "the operator to read the pipeline")
        yield found
    finally:
        found.end()


def total(metrics: Mapping[str, float], name: str, *parts: str) -> float:
    """The sum of a metric over all labels that have these parts."""
    return sum(value for key, value in metrics.items() if key.startswith(name) and all(part in key for part in parts))


def cpu_of(pid: int) -> float:
    """CPU seconds, user and system, of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu() -> float:
    """CPU seconds that this machine has spent on anything but waiting."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def pipeline(place: str, name: str, *steps: dict[str, Any]) -> dict[str, Any]:
    """A Pipeline with these steps."""
    metadata = {"name": name, "namespace": place}
    return {"apiVersion": API, "kind": "Pipeline", "metadata": metadata, "spec": {"steps": list(steps)}}


def execution(place: str, name: str, of: str) -> dict[str, Any]:
    """An Execution of a pipeline."""
    metadata = {"name": name, "namespace": place}
    return {"apiVersion": API, "kind": "Execution", "metadata": metadata, "spec": {"pipeline": {"name": of}}}


def on_fake_nodes() -> dict[str, Any]:
    """What a pod's spec needs to get onto a fake node."""
    return {"nodeSelector": {FAKE: "true"}, "tolerations": [{"key": FAKE, "operator": "Exists"}]}


def fake_step(name: str = "only", *, forever: bool = False) -> dict[str, Any]:
    """A step on fake nodes, with a number as its output; its pod ends after half a second, or never."""
    metadata = {"annotations": {FOREVER: "true"}} if forever else {}
    template = {"metadata": metadata, "spec": on_fake_nodes()}
    outputs = [{"name": "value", "type": "number"}]
    return {"name": name, "image": "fake", "command": ["true"], "outputs": outputs, "podTemplate": template}


def ended(pod: Mapping[str, Any]) -> bool:
    """Whether the first container of a Pod has ended."""
    statuses: list[dict[str, Any]] = pod.get("status", {}).get("containerStatuses") or []
    return bool(statuses) and "terminated" in statuses[0]["state"]


def finished(found: Mapping[str, Any]) -> str | None:
    """The phase of an Execution that has finished."""
    phase = found.get("status", {}).get("phase")
    return phase if phase in {"Succeeded", "Failed", "Error", "Cancelled"} else None
