"""How long a chain of five steps takes on a real node, against plain Jobs and Pods that somebody starts in turn."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from penstock.kube.resources import EXECUTIONS, JOBS, PIPELINES, PODS, Resource

from .stage import Stage, ended, execution, finished, namespace, operator, pipeline, stage

STEPS = 5
ROUNDS = int(os.environ.get("PENSTOCK_BENCH_ROUNDS", "7"))
IMAGE = os.environ.get("PENSTOCK_BENCH_IMAGE", "docker.io/library/busybox:1.37")
LONGEST = 120.0
"""Seconds that one chain may take."""


def _pod_spec() -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "image": IMAGE, "command": ["/bin/true"], "securityContext": security}],
    }


def _pod(place: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": place, "labels": {"bench": name}},
        "spec": _pod_spec(),
    }


def _job(place: str, name: str) -> dict[str, Any]:
    template = {"metadata": {"labels": {"bench": name}}, "spec": _pod_spec()}
    metadata = {"name": name, "namespace": place, "labels": {"bench": name}}
    spec = {"backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _complete(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)


async def _until(watch: AsyncIterator[tuple[float, dict[str, Any]]], condition: Callable[[Any], bool]) -> float:
    async for at, body in watch:
        if condition(body):
            return at
    raise TimeoutError("the watch ended")


def _in_turn(
    make: Callable[[str, str], dict[str, Any]], made: Resource, looked_at: Resource, over: Callable[[Any], bool]
) -> Callable[[Stage, str, str], Awaitable[float]]:
    """A loop that creates an object as soon as the watch says that the one before is over."""

    async def run(on: Stage, place: str, run: str) -> float:
        async with aclosing(on.watch(looked_at, place)) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.5)  # the watch is there before the clock starts
            began = time.monotonic()
            for index in range(STEPS):
                name = f"{run}-{index}"
                await on.client.create(made, make(place, name))
                while True:
                    at, body = await waiting
                    waiting = asyncio.ensure_future(anext(watch))
                    if body["metadata"].get("labels", {}).get("bench") == name and over(body):
                        break
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return at - began

    return run


async def _penstock(on: Stage, place: str, run: str) -> float:
    async with aclosing(on.watch(EXECUTIONS, place)) as watch:
        waiting = asyncio.ensure_future(
            _until(watch, lambda body: body["metadata"]["name"] == run and finished(body) is not None)
        )
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await on.client.create(EXECUTIONS, execution(place, run, "chain"))
        return await waiting - began


_WAYS: dict[str, Callable[[Stage, str, str], Awaitable[float]]] = {
    "plain Jobs, each when the container before has ended": _in_turn(_job, JOBS, PODS, ended),
    "Penstock, to the execution's final status": _penstock,
    "bare Pods, each when the container before has ended": _in_turn(_pod, PODS, PODS, ended),
    "plain Jobs, each when the Job before is Complete": _in_turn(_job, JOBS, JOBS, _complete),
}


async def measure(on: Stage) -> dict[str, list[float]]:
    """Seconds of each way, one for each round; the ways take turns."""
    took: dict[str, list[float]] = {way: [] for way in _WAYS}
    steps = [
        {"name": f"s{i}", "image": IMAGE, "command": ["/bin/true"], "dependsOn": [f"s{i - 1}"] if i else []}
        for i in range(STEPS)
    ]
    async with namespace(on) as place:
        await on.client.create(PIPELINES, pipeline(place, "chain", *steps))
        async with operator(place):
            for number in range(ROUNDS + 1):
                for index, (way, run) in enumerate(_WAYS.items()):
                    async with asyncio.timeout(LONGEST):
                        seconds = await run(on, place, f"r{number}-{index}")
                    if number:  # the first round warms up
                        took[way].append(seconds)
    return took


async def _main() -> None:
    async with stage() as on:
        took = await measure(on)
    first = statistics.median(took[next(iter(_WAYS))])
    print(f"\n## {STEPS} steps of `/bin/true` in turn on a real node, {ROUNDS} rounds\n")
    print("| way | median s | fastest | slowest | against the first |")
    print("|---|---|---|---|---|")
    for way, seconds in took.items():
        median = statistics.median(seconds)
        print(f"| {way} | {median:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {median / first:.2f} |")


def main() -> None:
    """Print a table."""
    asyncio.run(_main())
