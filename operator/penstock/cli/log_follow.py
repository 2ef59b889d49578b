"""`penstock logs --follow`: what is printed and what comes, of attempts to come too, through lost connections."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from penstock.cli.cluster import Cluster, fetch
from penstock.cli.cluster_follow import HEALS, PATIENCE_SECONDS, PAUSE_SECONDS
from penstock.cli.logs import Choice, Printed, check, find, steps_of, title_of, write
from penstock.cli.main import complain
from penstock.engine.types import AttemptId, TaskId
from penstock.kube import names
from penstock.kube.errors import NotFound
from penstock.kube.resources import EXECUTIONS, PODS

T = TypeVar("T")

POLL_SECONDS = 1.0
"""How often it looks for further attempts."""
CONNECTED_SECONDS = 30.0
"""A request that fails after more than this was under way till then: connecting takes less, all tries together."""

_STAMPED = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ")


async def follow(cluster: Cluster, body: Mapping[str, Any], choice: Choice) -> None:
    """Print what is there and what comes until the execution, or the step that is wanted, has finished.

    A cluster that is away for up to two minutes is waited for; no line is lost or printed twice.
    """
    await _Follower(cluster, body, choice).run()


class _Follower:
    """Reads the logs of one execution."""

    def __init__(self, cluster: Cluster, body: Mapping[str, Any], choice: Choice) -> None:
        self._cluster = cluster
        self._body = body
        self._choice = choice
        self._first: dict[TaskId, int] | None = None
        self._readers: dict[AttemptId, asyncio.Task[None]] = {}
        self._told: dict[AttemptId, str] = {}
        self._prefixed = _is_many(body, choice)
        self._away = False

    async def run(self) -> None:
        """Look for attempts and read their logs until it is over."""
        name = self._body["metadata"]["name"]
        try:
            while True:
                over = _is_over(self._body, self._choice)
                self._take_up(await self._patiently(lambda: find(self._cluster, self._body, self._choice)))
                if over:
                    await asyncio.gather(*self._readers.values())
                    return
                for reader in self._readers.values():
                    if reader.done():
                        reader.result()
                await asyncio.sleep(POLL_SECONDS)
                self._body = await self._patiently(lambda: fetch(self._cluster, EXECUTIONS, name))
                check(self._body, self._choice)
                self._prefixed = self._prefixed or _is_many(self._body, self._choice)
        finally:
            for reader in self._readers.values():
                reader.cancel()
            await asyncio.gather(*self._readers.values(), return_exceptions=True)

    def _take_up(self, found: list[Printed]) -> None:
        if self._first is None:  # of attempts that are over only the last one is wanted
            self._first = {each.attempt.task: each.attempt.attempt for each in found}
        for each in found:
            if each.attempt in self._readers or each.attempt.attempt < self._first.get(each.attempt.task, 0):
                continue
            if not each.waiting:
                self._readers[each.attempt] = asyncio.create_task(self._read(each))
            elif self._told.get(each.attempt) != each.waiting:
                self._told[each.attempt] = each.waiting
                complain(f"{title_of(each.attempt)} is waiting: {each.waiting}")

    async def _read(self, one: Printed) -> None:
        """Print the log of an attempt until its container has ended, however often the connection is lost."""
        seen = _Seen()
        while True:
            try:
                await self._patiently(lambda: self._read_on(one, seen))
                # A server that is ended in peace ends the log as if the container had ended.
                if not await self._patiently(lambda: self._runs(one)):
                    return
            except NotFound:
                complain(f"{title_of(one.attempt)}: its Pod is gone, and its log with it")
                return
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read_on(self, one: Printed, seen: _Seen) -> None:
        lines = self._cluster.client.follow_log(
            one.pod,
            namespace=self._body["metadata"]["namespace"],
            container=names.STEP_CONTAINER,
            tail=None if seen.since else self._choice.tail,
            timestamps=True,
            since=seen.since,
        )
        seen.begin()
        async with aclosing(lines):
            async for line in lines:
                if (text := seen.fresh(line)) is not None:
                    write([text], one.attempt, self._prefixed)

    async def _runs(self, one: Printed) -> bool:
        pod = await self._cluster.client.get(PODS, one.pod, self._body["metadata"]["namespace"])
        found = (pod.get("status") or {}).get("containerStatuses") or ()
        return any(each["name"] == names.STEP_CONTAINER and "running" in (each.get("state") or {}) for each in found)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it again while the cluster is away; people are told once each time."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            began = loop.time()
            try:
                found = await work()
            except HEALS as error:
                now = loop.time()
                if now - began > CONNECTED_SECONDS:
                    since = now
                if now - since > PATIENCE_SECONDS:
                    raise
                if not self._away:
                    self._away = True
                    complain(f"trouble, trying again: {error.message.partition(chr(10))[0]}")
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self._away = False
                return found


class _Seen:
    """What of a log was printed already: the timestamps of the last second, because a log is asked for by the second.

    Attributes:
        since: the second from which on the log is to be read again; empty for all of it.
    """

    def __init__(self) -> None:
        self.since = ""
        self._printed: Counter[bytes] = Counter()
        self._again: Counter[bytes] = Counter()
        self._skips = False

    def begin(self) -> None:
        """The log is read from `since` on."""
        self._again = self._printed.copy()
        self._skips = False

    def fresh(self, line: bytes) -> bytes | None:
        """The line without its timestamp; None if it was printed before."""
        stamp = _STAMPED.match(line)
        if stamp is None:  # a further piece of the line before
            return None if self._skips else line
        self._skips = self._again[stamp[0]] > 0
        if self._skips:
            self._again[stamp[0]] -= 1
            return None
        second = (stamp[1] + stamp[2]).decode("ascii")
        if second > self.since:
            self.since = second
            self._printed.clear()
        if second == self.since:
            self._printed[stamp[0]] += 1
        return line[stamp.end() :]


def _is_over(body: Mapping[str, Any], choice: Choice) -> bool:
    from penstock.cli.columns import finished  # noqa: PLC0415

    entry = steps_of(body).get(choice.step, {})
    if entry.get("phase", "Pending") not in {"Pending", "Running", "Retrying"}:
        return True
    return finished((body.get("status") or {}).get("phase", ""))


def _is_many(body: Mapping[str, Any], choice: Choice) -> bool:
    steps = steps_of(body)
    if choice.step:
        return choice.item is None and "itemCount" in steps.get(choice.step, {})
    return len(steps) != 1 or any("itemCount" in step for step in steps.values())
