"""Endpoints of `penstock serve`: how long a call takes until its results are there, with few and many callers.

The step is `/bin/true`: what is measured is all that is around it. Callers are tasks of one process beside the server,
on the same cores, so that what they cost is in the figures too.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
import yaml
from yarl import URL

from .cli import cpu
from .stage import cpu_of

CALLERS = {1: 100, 50: 1_000, 500: 2_000}
"""How many calls so many callers make in all."""
PIPELINE = {"defaults": {"image": "any"}, "steps": [{"name": "one", "command": ["/bin/true"]}]}
_SERVING = re.compile(rb"serving (\S+) from")


def _manifests(folder: Path) -> Path:
    head = {"apiVersion": "penstock.dev/v1alpha1"}
    documents = [
        {**head, "kind": "Pipeline", "metadata": {"name": "one"}, "spec": PIPELINE},
        {
            **head,
            "kind": "Deployment",
            "metadata": {"name": "one"},
            "spec": {"pipeline": {"name": "one"}, "endpoint": {"path": "one"}},
        },
    ]
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _next(answer: aiohttp.ClientResponse) -> URL | None:
    place = answer.headers.get("Location")
    return None if place is None else answer.url.join(URL(place))


async def _calls(url: str, token: str, callers: int, calls: int) -> tuple[list[float], list[float], float]:
    """Seconds until each call was taken, seconds until its results were there, and seconds in all."""
    left = iter(range(calls))
    taken: list[float] = []
    ended: list[float] = []
    headers = {"Authorization": f"EndpointToken {token}"}
    connector = aiohttp.TCPConnector(limit=0)

    async def caller(session: aiohttp.ClientSession) -> None:
        for _ in left:
            began = time.perf_counter()
            async with session.post(f"{url}/endpoints/one", json={}, headers=headers, allow_redirects=False) as answer:
                place = _next(answer)
                await answer.read()
            taken.append(time.perf_counter() - began)
            while place is not None:
                async with session.get(place, headers=headers, allow_redirects=False) as answer:
                    place = _next(answer)
                    await answer.read()
                    if answer.status not in {200, 303, 307}:
                        raise RuntimeError(f"{answer.status}: {await answer.text()}")
            ended.append(time.perf_counter() - began)

    async with aiohttp.ClientSession(url, connector=connector) as session:
        began = time.perf_counter()
        await asyncio.gather(*(caller(session) for _ in range(callers)))
        return sorted(taken), sorted(ended), time.perf_counter() - began


def _bare(count: int) -> float:
    """Milliseconds of a process in a folder of its own by a shell: the least that such a step takes."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["/bin/sh", "-c", "/bin/true"], check=True, cwd=folder)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


async def _measure(folder: Path) -> None:
    penstock = [sys.executable, "-m", "penstock.cli"]
    home = folder / "home"
    serve = [*penstock, "serve", str(_manifests(folder)), "--port", "0", "--home", str(home)]
    environ = {"PENSTOCK_CALL_RATE": "0", "PENSTOCK_HOME": str(home), "PATH": "/usr/bin:/bin"}
    process = await asyncio.create_subprocess_exec(
        *serve, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=environ, cwd=folder
    )
    try:
        assert process.stderr is not None
        url, said = "", ""
        while not url:
            line = await process.stderr.readline()
            if not line:
                raise RuntimeError(f"penstock serve has ended: {said}")
            said += line.decode()
            if found := _SERVING.search(line):
                url = found[1].decode()
        token = ""
        while not token:
            show = [*penstock, "token", "show", "one", "--local"]
            done = await asyncio.to_thread(subprocess.run, show, capture_output=True, check=False, env=environ)
            token = done.stdout.decode().strip()
        for callers, calls in CALLERS.items():
            before = cpu_of(process.pid)
            taken, ended, seconds = await _calls(url, token, callers, calls)
            used = (cpu_of(process.pid) - before) / calls * 1e3
            cells = [f"{_quantile(times, share) * 1e3:,.0f}" for times in (taken, ended) for share in (0.5, 0.99)]
            print(f"| {callers} | {calls:,} | {' | '.join(cells)} | {calls / seconds:.0f} | {used:.1f} |", flush=True)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def main() -> None:
    """Print a table."""
    print("\n## Endpoints of `penstock serve`, one step of /bin/true\n")
    print(f"A bare process in a folder of its own: {_bare(50):.1f} ms.\n")
    print("| callers | calls | taken ms, p50 | p99 | results ms, p50 | p99 | calls a second | server CPU ms each |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder)))
    times = cpu([sys.executable, "-c", "import penstock; penstock.Client"])
    print(f"\n`from penstock import Client`: {statistics.median(times) * 1e3:.0f} ms of CPU.")
