"""How the operator's CPU time and memory grow with executions that run, and how fast it is back after a restart."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from penstock.kube.resources import EXECUTIONS, PIPELINES, PODS

from .burst import NODES
from .observer import Heard, observer
from .stage import Operator, Stage, execution, fake_step, namespace, operator, pipeline, stage, total, wait

COUNTS = tuple(int(count) for count in os.environ.get("PENSTOCK_BENCH_LIVE", "100,1000,10000").split(","))
SLOWEST = 10
"""Executions a second under which a start of many is given up."""
IDLE: Final = 10.0
"""Seconds of rest over which the CPU time of mere waiting is taken."""


async def _grow(on: Stage, place: str, running: Operator, first: int, count: int) -> float:
    """Have so many executions that run; CPU milliseconds of the operator for each that was added."""
    cpu = running.cpu()
    await on.create_all(EXECUTIONS, [execution(place, f"e{index}", "forever") for index in range(first, count)])

    async def all_run() -> bool:
        found = await running.metrics()
        steps = found.get("penstock_attempts_live", 0.0)
        return steps >= count and await _pods_running(on, place, count)

    await wait(all_run, 60 + (count - first) / SLOWEST, f"{count} executions to run", every=2)
    return (running.cpu() - cpu) / (count - first) * 1e3


async def _pods_running(on: Stage, place: str, count: int) -> bool:
    found = await on.client.list(
        PODS, namespace=place, fields="status.phase=Running", keep=lambda _: None, metadata_only=True
    )
    return len(found.items) >= count


async def _restart(on: Stage, place: str, running: Operator, heard: Heard, count: int) -> tuple[float, float, float]:
    """Seconds from a new process's start until a new execution was through and until it knew all, and its CPU then."""
    running.end()
    probe = f"probe-{count}"
    began = time.monotonic()
    running.start()
    await on.client.create(EXECUTIONS, execution(place, probe, "one"))
    await wait(lambda: probe in heard.executions, 120, "a new execution to come through", every=0.05)
    works = heard.executions[probe] - began

    async def knows_all() -> bool:
        return total(await running.metrics(), "penstock_attempts_live") >= count

    await wait(knows_all, 120, "the operator to know all executions", every=0.1)
    return works, time.monotonic() - began, running.cpu()


async def _main() -> None:
    async with stage(fake_nodes=NODES) as on, namespace(on) as place:
        await on.client.create(PIPELINES, pipeline(place, "one", fake_step()))
        await on.client.create(PIPELINES, pipeline(place, "forever", fake_step(forever=True)))
        print("\n## Executions that run, on fake nodes\n")
        print(
            "| running | CPU ms to start each | resident MiB | peak | CPU % while nothing happens "
            "| after a restart: a new execution is through, s | all are known, s | CPU s | peak MiB |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        async with operator(place) as running, observer(place) as heard:
            first = 0
            for count in COUNTS:
                each = await _grow(on, place, running, first, count)
                first = count
                cpu = running.cpu()
                await asyncio.sleep(IDLE)
                rest = (running.cpu() - cpu) / IDLE * 100
                resident, peak = running.mib("VmRSS"), running.mib()
                works, known, used = await _restart(on, place, running, heard, count)
                cells = [f"{count:,}", f"{each:.1f}", f"{resident:,.0f}", f"{peak:,.0f}", f"{rest:.1f}"]
                cells += [f"{works:.1f}", f"{known:.1f}", f"{used:.1f}", f"{running.mib():,.0f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print a table."""
    asyncio.run(_main())
