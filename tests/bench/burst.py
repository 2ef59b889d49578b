"""Many one-step executions at once on fake nodes, against as many bare Pods at once in the same run."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.kube.resources import EXECUTIONS, PIPELINES, PODS

from .observer import observer
from .stage import Stage, execution, fake_step, machine_cpu, namespace, on_fake_nodes, operator, pipeline, stage, wait

COUNTS = tuple(int(count) for count in os.environ.get("PENSTOCK_BENCH_EXECUTIONS", "200,2000").split(","))
NODES = 12
SLOWEST = 10
"""Units a second under which a burst is given up."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Figures of one burst.

    Attributes:
        what: what it consisted of.
        count: how many.
        good: how many ended well.
        seconds: from the first request to create one until the last had ended.
        creating: from the first such request to the last.
        machine: CPU seconds of everything on this machine.
        writes: successful writes of everybody.
        own: of these, the operator's.
        cpu: CPU seconds of the operator.
        mib: its highest memory.
        lags: milliseconds from each container's end to its execution's final status, in order.
    """

    what: str
    count: int
    good: int
    seconds: float
    creating: float
    machine: float
    writes: float
    own: float = 0.0
    cpu: float = 0.0
    mib: float = 0.0
    lags: Sequence[float] = ()

    def row(self) -> str:
        """A row of the table."""
        rate, each = self.count / self.seconds, self.count / 1e3
        cells = [self.what, f"{self.good:,}/{self.count:,}", f"{rate:,.1f}", f"{self.creating:,.0f}"]
        cells += [f"{self.machine / each:,.0f}", f"{self.writes / self.count:,.2f}"]
        if self.lags:
            cells += [f"{self.own / self.count:,.2f}", f"{self.cpu / each:,.1f}", f"{self.mib:,.0f}"]
            cells += [f"{quantile(self.lags, q):,.0f}" for q in (0.5, 0.99, 1)]
        else:
            cells += ["-"] * 6
        return f"| {' | '.join(cells)} |"


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that a share of all values does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _pod(place: str, name: str) -> dict[str, Any]:
    spec = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "fake"}], **on_fake_nodes()}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": place}, "spec": spec}


async def pods(on: Stage, count: int) -> Burst:
    """Bare Pods."""
    async with namespace(on) as place, observer(place) as heard:
        writes, machine, began = await on.writes(), machine_cpu(), time.monotonic()
        await on.create_all(PODS, [_pod(place, f"p{index}") for index in range(count)])
        creating = time.monotonic() - began
        await wait(lambda: len(heard.pods) >= count, 60 + count / SLOWEST, f"{count} pods to end")
        seconds, used = max(heard.pods.values()) - began, machine_cpu() - machine
        return Burst("bare Pods", count, count, seconds, creating, used, await on.writes() - writes)


async def executions(on: Stage, count: int) -> Burst:
    """One-step executions."""
    async with namespace(on) as place:
        await on.client.create(PIPELINES, pipeline(place, "one", fake_step()))
        async with operator(place) as running, observer(place) as heard:
            writes, own, cpu = await on.writes(), await running.writes(), running.cpu()
            machine, began = machine_cpu(), time.monotonic()
            await on.create_all(EXECUTIONS, [execution(place, f"e{index}", "one") for index in range(count)])
            creating = time.monotonic() - began
            await wait(lambda: len(heard.executions) >= count, 60 + count / SLOWEST, f"{count} executions to end")
            seconds, used = max(heard.executions.values()) - began, machine_cpu() - machine
            # The Jobs' ends are written after the executions'.
            await wait(lambda: _still(running), 30, "the operator to come to rest", every=0.5)
            return Burst(
                what="one-step executions",
                count=count,
                good=sum(phase == "Succeeded" for phase in heard.phases.values()),
                seconds=seconds,
                creating=creating,
                machine=used,
                writes=await on.writes() - writes,
                own=await running.writes() - own,
                cpu=running.cpu() - cpu,
                mib=running.mib(),
                lags=heard.lags(),
            )


async def _still(running: Any) -> bool:
    before = await running.writes()
    await asyncio.sleep(1)
    return bool(await running.writes() == before)


async def _main() -> None:
    async with stage(fake_nodes=NODES) as on:
        print("\n## At once on fake nodes, in turns of the same run\n")
        print(
            "| what | succeeded | a second | created within s | machine's CPU ms each | cluster-wide writes each "
            "| our writes each | operator CPU ms each | operator peak MiB "
            "| exit to final write ms, p50 | p99 | slowest |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        for count in COUNTS:
            for way in (pods, executions):
                print((await way(on, count)).row(), flush=True)


def main() -> None:
    """Print a table."""
    asyncio.run(_main())
