"""Local steps a second, against a loop that does nothing but start the same commands and wait for them."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock.api.base import Metadata
from penstock.api.execution import Execution, ExecutionSpec
from penstock.api.pipeline import PipelineSpec
from penstock.local.session import LocalSession, Settings

RUNS = 5
STEPS = 200
HOME = Path(".penstock")


def _chain(size: int) -> PipelineSpec:
    steps: list[dict[str, Any]] = [
        {"name": f"s{i}", "command": ["/bin/true"], "dependsOn": [f"s{i - 1}"] if i else []} for i in range(size)
    ]
    return PipelineSpec.model_validate({"steps": steps})


def _fan(size: int) -> PipelineSpec:
    step = {"name": "s", "command": ["/bin/true"], "forEach": {"items": list(range(size))}}
    return PipelineSpec.model_validate({"steps": [step]})


def _bare_chain() -> None:
    for _ in range(STEPS):
        subprocess.run(["/bin/true"], check=True)


def _bare_pool() -> None:
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(STEPS):
        if len(running) >= (os.cpu_count() or 2):
            running.pop(0).wait()
        running.append(subprocess.Popen(["/bin/true"]))
    for process in running:
        process.wait()


def _shell_chain() -> None:
    for index in range(STEPS):
        with tempfile.TemporaryDirectory(dir=HOME) as folder, Path(folder, "log").open("wb") as log:
            subprocess.run(["/bin/sh", "-c", '"$@"', f"s{index}", "/bin/true"], check=True, cwd=folder, stdout=log)


def _penstock(spec: PipelineSpec) -> None:
    async def run(home: str) -> None:
        session = LocalSession(Settings(home=Path(home)))
        execution = Execution(metadata=Metadata(generate_name="bench-"), spec=ExecutionSpec(pipeline_spec=spec))
        uid = session.submit(execution, revision=None, source=None)
        found = await session.run(uid)
        await session.close()
        if found["status"]["phase"] != "Succeeded":
            raise RuntimeError(found["status"])

    with tempfile.TemporaryDirectory(dir=HOME) as home:
        asyncio.run(run(home))


def _rate(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return STEPS / (time.perf_counter() - began)


def main() -> None:
    """Print a table. All ways use the disk of the working directory, and take turns, for a fair comparison."""
    HOME.mkdir(exist_ok=True)
    ways: dict[str, Callable[[], None]] = {
        "bare loop, one after the other": _bare_chain,
        "the same with a folder, a log and /bin/sh": _shell_chain,
        "penstock, a chain": lambda: _penstock(_chain(STEPS)),
        "bare pool, as many as CPUs": _bare_pool,
        "penstock, a fan-out": lambda: _penstock(_fan(STEPS)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, work in ways.items():
            rates[name].append(_rate(work))
    print(f"\n## Local steps of /bin/true a second, {STEPS} steps, {RUNS} runs in turn\n")
    print("| way | median | min | max |")
    print("|---|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):,.0f} | {min(found):,.0f} | {max(found):,.0f} |")
