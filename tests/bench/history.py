"""Executions a second that a history takes, and how long it takes to answer, on both databases.

With 1,000 and 1,000,000 executions, or as many as PENSTOCK_BENCH_SIZES says (`1000 100000`). The server is Debian's, on
the same machine, with its own settings but 256 MB of buffers and without fsync; SQLite with fsync.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from history_bodies import MANIFEST, NOON, a_step, an_execution, uid
from penstock.storage.history.filters import (
    Filter,
    LabelOp,
    LabelRule,
    Sort,
    SortKey,
    StepFilter,
    StepSort,
    StepSortKey,
)
from penstock.storage.history.history import History
from penstock.storage.history.records import Version
from postgres import Server

SIZES = (1_000, 1_000_000)
BATCH = 500
ROUNDS = 15
PHASES = ("Succeeded",) * 94 + ("Failed",) * 4 + ("Error", "Cancelled")
LIMIT = 100


def _versions(size: int) -> Iterator[Version]:
    """Two steps each, 50 pipelines in 4 namespaces, the newest hundred still running; few have the rare label."""
    chance = random.Random(7)
    for number in range(size):
        phase = "Running" if number >= size - 100 else chance.choice(PHASES)
        pipeline = f"p{chance.randrange(50)}"
        labels = {
            "penstock.dev/trigger": chance.choice(("schedule", "endpoint", "manual")),
            "penstock.dev/deployment": f"d{chance.randrange(200)}",
            "team": f"t{chance.randrange(10)}",
        }
        if number % 5_000 == 0:
            labels["rare"] = "yes"
        body = an_execution(
            number,
            phase,
            namespace=f"n{chance.randrange(4)}",
            name=f"{pipeline}-{number:07d}",
            pipeline=pipeline,
            created=NOON + number,
            finished=NOON + number + chance.randrange(1, 5_000),
            labels=labels,
            author=f"user{chance.randrange(30)}",
            steps=[a_step("prepare", outputs=[{"name": "rows", "value": number}]), a_step("train", phase)],
            outputs=[{"name": "accuracy", "value": chance.random()}],
        )
        yield Version(body, 1, MANIFEST)


def _questions(size: int) -> dict[str, Callable[[History], Awaitable[object]]]:
    one = ("n1",)
    middle = _namespace(size)

    def listed(
        wanted: Filter, sort: Sort | None = None, after: str | None = None
    ) -> Callable[[History], Awaitable[object]]:
        return lambda history: history.list(wanted, sort or Sort(), limit=LIMIT, after=after)

    rare = LabelRule("rare", LabelOp.EQ, ("yes",))
    team = LabelRule("team", LabelOp.EQ, ("t3",))
    return {
        "get one with its steps": lambda history: history.get(middle, uid=uid(size // 2)),
        "newest of all": listed(Filter()),
        "newest of a namespace": listed(Filter(namespaces=one)),
        "pipeline": listed(Filter(namespaces=one, pipelines=("p7",))),
        "deployment": listed(Filter(namespaces=one, deployments=("d7",))),
        "running": listed(Filter(namespaces=one, phases=("Running",))),
        "failed or error": listed(Filter(namespaces=one, phases=("Failed", "Error"))),
        "failed of a pipeline": listed(Filter(namespaces=one, pipelines=("p7",), phases=("Failed",))),
        "trigger, one day in the middle": listed(
            Filter(
                namespaces=one,
                triggers=("schedule",),
                created_from=NOON + size / 2,
                created_to=NOON + size / 2 + 86_400,
            )
        ),
        "common label": listed(Filter(namespaces=one, labels=(team,))),
        "rare label": listed(Filter(namespaces=one, labels=(rare,))),
        "rare label, all namespaces": listed(Filter(labels=(rare,))),
        "common label of a pipeline": listed(Filter(namespaces=one, pipelines=("p7",), labels=(team,))),
        "by duration": listed(Filter(namespaces=one), Sort(SortKey.DURATION)),
        "by end, ascending": listed(Filter(namespaces=one), Sort(SortKey.ENDED, descending=False)),
        "name prefix": listed(Filter(namespaces=one, name_prefix="p7-"), Sort(SortKey.NAME)),
        "steps that failed": lambda history: history.steps(
            StepFilter(namespaces=one, phases=("Failed",)), StepSort(StepSortKey.CREATED, descending=True), limit=LIMIT
        ),
        "count a namespace": lambda history: history.count(Filter(namespaces=one)),
        "count to 10,000": lambda history: history.count(Filter(namespaces=one), at_most=10_000),
    }


def _namespace(size: int) -> str:
    middle = next(version for number, version in enumerate(_versions(size)) if number == size // 2)
    return str(middle.body["metadata"]["namespace"])


async def _fill(history: History, size: int) -> float:
    spent = 0.0
    waiting: list[Version] = []
    for version in _versions(size):
        waiting.append(version)
        if len(waiting) == BATCH:
            began = time.perf_counter()
            await history.record_many(waiting)
            spent += time.perf_counter() - began
            waiting = []
    began = time.perf_counter()
    await history.record_many(waiting)
    return size / (spent + time.perf_counter() - began)


async def _one_by_one(history: History) -> float:
    began = time.perf_counter()
    for number in range(200):
        await history.record(an_execution(number, "Running", namespace="single", created=NOON - number), sequence=2)
    return 200 / (time.perf_counter() - began)


async def _deep_page(history: History) -> float:
    """Milliseconds of a page in the middle of a namespace, by its cursor."""
    page = await history.list(Filter(namespaces=("n1",)), limit=LIMIT)
    for _ in range(50):
        page = await history.list(Filter(namespaces=("n1",)), limit=LIMIT, after=page.after)
        if page.after is None:
            break
    cursor = page.after
    return await _milliseconds(lambda: history.list(Filter(namespaces=("n1",)), limit=LIMIT, after=cursor))


async def _milliseconds(ask: Callable[[], Awaitable[object]]) -> float:
    await ask()
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await ask()
        found.append(time.perf_counter() - began)
    return statistics.median(found) * 1000


async def _measure(url: str, size: int) -> dict[str, str]:
    history = await History.open(url)
    found = {"recorded in batches of 500, 1/s": f"{await _fill(history, size):,.0f}"}
    for name, ask in _questions(size).items():
        found[f"{name}, ms"] = f"{await _milliseconds(lambda ask=ask: ask(history)):.1f}"  # type: ignore[misc]
    found["51st page, ms"] = f"{await _deep_page(history):.1f}"
    found["recorded one by one, 1/s"] = f"{await _one_by_one(history):,.0f}"
    await history.close()
    return found


def main() -> None:
    """Print a table of medians."""
    sizes = [int(each) for each in os.environ.get("PENSTOCK_BENCH_SIZES", "").split()] or SIZES
    columns: dict[str, dict[str, str]] = {}
    server = Server()
    try:
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "history.db")
                columns[f"SQLite {size:,}"] = asyncio.run(_measure(f"sqlite:///{file}", size))
                columns[f"SQLite {size:,}"]["bytes an execution"] = f"{file.stat().st_size / size:,.0f}"
            database = server.database()
            columns[f"PostgreSQL {size:,}"] = asyncio.run(_measure(server.url(database), size))
            stored = int(server.sql(f"SELECT pg_database_size('{database}')"))
            columns[f"PostgreSQL {size:,}"]["bytes an execution"] = f"{stored / size:,.0f}"
    finally:
        server.close()
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(column[name] for column in columns.values()) + " |")
