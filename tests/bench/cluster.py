"""Many one-step executions at once on fake nodes: rate, operator CPU and memory, API writes.

Needs KUBECONFIG of a cluster with fake nodes (`python -m tests.e2e.cluster fake-nodes 10`) and the CRDs of crds/.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

from penstock.kube.client import Client
from penstock.kube.credentials import Sessions, find_source
from penstock.kube.resources import EXECUTIONS, NAMESPACES, PIPELINES
from penstock.kube.transport import Transport

COUNTS = tuple(int(count) for count in os.environ.get("PENSTOCK_BENCH_EXECUTIONS", "100,500").split(","))
PORT = 18_098
FAKE = "penstock.dev/fake-node"
API = "penstock.dev/v1alpha1"


def _pipeline(namespace: str) -> dict[str, object]:
    pod = {"nodeSelector": {FAKE: "true"}, "tolerations": [{"key": FAKE, "operator": "Exists"}]}
    step = {
        "name": "only",
        "image": "fake",
        "command": ["true"],
        "outputs": [{"name": "value", "type": "number"}],
        "podTemplate": {"spec": pod},
    }
    return {
        "apiVersion": API,
        "kind": "Pipeline",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": {"steps": [step]},
    }


def _metrics() -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*?\})?) ([\d.e+]+)$", text, re.MULTILINE)}


def _total(metrics: dict[str, float], name: str, *parts: str) -> float:
    return sum(value for key, value in metrics.items() if key.startswith(name) and all(part in key for part in parts))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _operator(environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "penstock.cli", "operator"], env=environ)


async def _wait(condition: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():  # type: ignore[operator]
                return
        except OSError:
            pass
        await asyncio.sleep(0.5)
    raise TimeoutError(f"not within {seconds:.0f} s")


async def _measure(client: Client, count: int) -> None:
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    await client.create(NAMESPACES, {"metadata": {"name": namespace}})
    await client.create(PIPELINES, _pipeline(namespace))
    environ = os.environ | {
        "PENSTOCK_NAMESPACES": namespace,
        "PENSTOCK_LEASE_NAMESPACE": namespace,
        "PENSTOCK_HTTP_PORT": str(PORT),
        "PENSTOCK_LOG_LEVEL": "WARNING",
    }
    operator = _operator(environ)
    try:
        await _wait(lambda: _total(_metrics(), "penstock_api_requests_total", "pipelines/status") > 0, 30)
        gate = asyncio.Semaphore(50)

        async def submit(index: int) -> None:
            async with gate:
                body = {
                    "apiVersion": API,
                    "kind": "Execution",
                    "metadata": {"name": f"e{index}", "namespace": namespace},
                    "spec": {"pipeline": {"name": "one"}},
                }
                await client.create(EXECUTIONS, body)

        cpu, began = _cpu(operator.pid), time.perf_counter()
        await asyncio.gather(*(submit(index) for index in range(count)))
        done = "penstock_executions_finished_total"
        await _wait(lambda: _total(_metrics(), done) >= count, 60 + count / 5)
        took, metrics = time.perf_counter() - began, _metrics()
        verbs = ("create", "patch", "update", "delete")
        writes = sum(_total(metrics, "penstock_api_requests_total", f'verb="{verb}"') for verb in verbs)
        writes -= _total(metrics, "penstock_api_requests_total", 'resource="leases"')
        good = _total(metrics, done, "Succeeded")
        print(
            f"| {count:,} | {good:,.0f} | {count / took:,.0f} | {(_cpu(operator.pid) - cpu) / count * 1e3:,.1f} "
            f"| {_peak_mib(operator.pid):,.0f} | {writes / count:,.2f} |"
        )
    finally:
        operator.terminate()
        operator.wait(30)
        await client.delete(NAMESPACES, namespace)


async def _all() -> None:
    sessions = Sessions(find_source(os.environ))
    try:
        client = Client(Transport(sessions))
        for count in COUNTS:
            await _measure(client, count)
    finally:
        await sessions.close()


def main() -> None:
    """Print a table."""
    print("\n## One-step executions submitted at once, on fake nodes\n")
    print("| executions | succeeded | a second | operator CPU ms each | operator peak MiB | our writes each |")
    print("|---|---|---|---|---|---|")
    asyncio.run(_all())
