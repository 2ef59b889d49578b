"""Replicas compete for a Lease over HTTP, in a time of their own: a day of outages takes no longer than its requests.

The server keeps one Lease with resource versions as an API server does; `tests/e2e` uses a real one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.kube.credentials import Access, Sessions
from penstock.kube.errors import Fenced
from penstock.kube.leader import Leader, LeaderSettings, election_client

from .support import FakeServer, answer, refuse, reset, serving

LEASE = "/apis/coordination.k8s.io/v1/namespaces/n/leases"


class World:
    """Time that passes only when everybody sleeps, and then at once."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.actors: set[str] = set()
        self._sleeping: list[tuple[float, int, asyncio.Future[None], str]] = []
        self._order = itertools.count()
        self._quiet = asyncio.Condition()

    async def sleep(self, actor: str, seconds: float) -> None:
        """Sleep in this world, or have somebody wait for an answer."""
        entry = (self.now + seconds, next(self._order), asyncio.get_running_loop().create_future(), actor)
        async with self._quiet:
            self._sleeping.append(entry)
            self._quiet.notify_all()
        try:
            await entry[2]
        finally:
            if entry in self._sleeping:
                self._sleeping.remove(entry)

    def leave(self, actor: str) -> None:
        """Somebody is gone, and nobody waits for them."""
        self.actors.discard(actor)
        for entry in [each for each in self._sleeping if each[3] == actor]:
            self._sleeping.remove(entry)
            entry[2].cancel()

    async def settle(self) -> None:
        """Wait until everybody sleeps."""
        async with asyncio.timeout(20), self._quiet:
            await self._quiet.wait_for(lambda: {each[3] for each in self._sleeping} >= self.actors)

    async def pass_(self, seconds: float, watch: Callable[[], None] = lambda: None) -> None:
        """Let time pass; `watch` is called at every moment at which something happened."""
        end = self.now + seconds
        while True:
            await self.settle()
            watch()
            due = min(self._sleeping, default=None)
            if due is None or due[0] > end:
                self.now = end
                watch()
                return
            self.now = max(self.now, due[0])
            watch()
            self._sleeping.remove(due)
            due[2].set_result(None)

    async def until(self, condition: Callable[[], bool], limit: float) -> float:
        """Let time pass until something is so; gives how long that took."""
        start = self.now
        while not condition():
            assert self.now - start <= limit, f"not so within {limit} s"
            await self.pass_(0.05)
        return self.now - start


@dataclass
class Leases:
    """The server's side: one Lease, and the troubles between it and each replica."""

    world: World
    lease: dict[str, Any] | None = None
    version: int = 0
    down: bool = False
    partitioned: set[str] = field(default_factory=set)
    lose_answers_of: set[str] = field(default_factory=set)
    latency: float = 0.0
    writes: list[tuple[float, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Get, create, replace."""
        who = request.headers["Authorization"].removeprefix("Bearer ")
        if self.down or who in self.partitioned:
            return await reset(request)
        if self.latency:
            await self.world.sleep(who, self.latency)
        response = await self._do(request, who)
        return await (reset if who in self.lose_answers_of and request.method != "GET" else response)(request)

    async def _do(self, request: web.Request, who: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        if request.method == "GET":
            return refuse(404, "NotFound") if self.lease is None else answer(self.lease)
        body = await request.json()
        if request.method == "POST":
            if self.lease is not None:
                return refuse(409, "AlreadyExists")
        elif self.lease is None:
            return refuse(404, "NotFound")
        elif body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return refuse(409, "Conflict")
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.lease = body
        self.writes.append((self.world.now, who))
        return answer(body)

    def edit(self, **annotations: str) -> None:
        """Somebody annotates it by hand."""
        assert self.lease is not None
        self.version += 1
        metadata = {**self.lease["metadata"], "annotations": annotations, "resourceVersion": str(self.version)}
        self.lease = {**self.lease, "metadata": metadata}

    @property
    def holder(self) -> str:
        """Who has it."""
        return "" if self.lease is None else str(self.lease["spec"]["holderIdentity"])


@dataclass(frozen=True)
class _As:
    """Credentials of one replica: its name is its token."""

    url: str
    name: str

    def load(self) -> Access:
        return Access(server=self.url, token=self.name)


@dataclass
class Replica:
    """A process that competes."""

    leader: Leader
    sessions: Sessions
    task: asyncio.Task[None] | None = None


class Cluster:
    """A world with a server in it and any number of replicas."""

    def __init__(self, url: str, world: World, leases: Leases) -> None:
        self.url, self.world, self.leases = url, world, leases
        self.replicas: dict[str, Replica] = {}

    async def start(self, name: str, *, offset: float = 0.0, rate: float = 1.0) -> Leader:
        """Start a replica whose clock has an offset and runs at a rate."""
        sessions = Sessions(_As(self.url, name))
        chosen = LeaderSettings(namespace="n", name="l", identity=name)
        world = self.world
        leader = Leader(
            election_client(sessions, chosen),
            chosen,
            now=lambda: world.now + offset,
            clock=lambda: offset + world.now * rate,
            sleep=lambda seconds: world.sleep(name, seconds / rate),
        )
        world.actors.add(name)
        self.replicas[name] = Replica(leader, sessions, asyncio.create_task(leader.run()))
        await world.settle()
        return leader

    async def kill(self, name: str) -> None:
        """`kill -9`: nothing is given back."""
        self.leases.partitioned.add(name)
        await self.stop(name)
        self.leases.partitioned.discard(name)

    async def stop(self, name: str) -> None:
        """Stop a replica in order."""
        replica = self.replicas.pop(name)
        assert replica.task is not None
        latency, self.leases.latency = self.leases.latency, 0.0  # time stands still while it is waited for
        replica.task.cancel()
        with suppress(asyncio.CancelledError):
            await replica.task
        await replica.sessions.close()
        self.world.leave(name)
        self.leases.latency = latency

    def leading(self) -> list[str]:
        """Who may write at this moment."""
        return [name for name, each in self.replicas.items() if each.leader.is_leader()]


@asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    world = World()
    leases = Leases(world)
    async with serving(FakeServer(default=leases.handle)) as server:
        found = Cluster(server.url, world, leases)
        try:
            yield found
        finally:
            for name in list(found.replicas):
                await found.stop(name)


async def test_the_first_leads_and_the_second_follows() -> None:
    async with cluster() as found:
        first, second = await found.start("a"), await found.start("b")
        await asyncio.wait_for(first.elected(), 5)
        await found.world.pass_(600, lambda: _only(found, "a"))
        assert (first.holds(), second.holds()) == (True, False)
        spec = found.leases.lease["spec"] if found.leases.lease else {}
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 14, 0)
        with pytest.raises(Fenced, match="b does not lead"):
            second.fence()
        first.fence()


def _only(found: Cluster, name: str) -> None:
    assert found.leading() == [name]


@pytest.mark.parametrize("after", [0.0, 0.3, 1.0, 1.9, 2.0, 7.7])
@pytest.mark.parametrize("latency", [0.0, 0.2])
async def test_a_killed_leader_is_succeeded_within_fifteen_seconds(after: float, latency: float) -> None:
    async with cluster() as found:
        await found.start("a")
        await found.world.pass_(0.7)
        second = await found.start("b")
        found.leases.latency = latency
        await found.world.pass_(20 + after)
        await found.kill("a")
        took = await found.world.until(second.is_leader, 20)
        assert took <= 15.0 + 2 * latency + 0.1, "the look and the write that take it travel too"
        assert took > 10.0, "a leader that was only cut off is fenced before"


async def test_a_leader_that_stops_in_order_is_succeeded_at_the_next_look() -> None:
    async with cluster() as found:
        await found.start("a")
        second = await found.start("b")
        await found.world.pass_(20)
        await found.stop("a")
        assert found.leases.holder == ""
        assert await found.world.until(second.is_leader, 5) <= 2.1


async def test_a_lease_that_was_written_just_before_the_end_is_given_back_all_the_same() -> None:
    async with cluster() as found:
        await found.start("a")
        await found.world.pass_(5)
        found.leases.edit(note="as a renewal would that was cut off after it was made")
        await found.stop("a")
        assert found.leases.holder == ""


async def test_a_lease_whose_return_was_lost_on_the_way_is_given_back_once_more() -> None:
    async with cluster() as found:
        await found.start("a")
        await found.world.pass_(5)
        found.leases.lose_answers_of.add("a")
        await found.stop("a")
        assert found.leases.holder == ""


async def test_a_follower_that_stops_leaves_the_lease_alone() -> None:
    async with cluster() as found:
        await found.start("a")
        await found.start("b")
        await found.world.pass_(20)
        await found.stop("b")
        assert found.leases.holder == "a"


async def test_a_leader_that_was_killed_and_started_again_in_its_pod_goes_on_at_once() -> None:
    async with cluster() as found:
        await found.start("a")
        await found.start("b")
        await found.world.pass_(20)
        await found.kill("a")
        again = await found.start("a")
        assert again.is_leader()


@pytest.mark.parametrize("outage", [7.0, 14.0, 16.0, 30.0, 300.0])
@pytest.mark.parametrize("after", [0.0, 1.3, 1.9])
async def test_an_outage_of_the_server_changes_no_leader(outage: float, after: float) -> None:
    async with cluster() as found:
        first, second = await found.start("a"), await found.start("b")
        await found.world.pass_(20 + after)
        deposed = asyncio.create_task(first.deposed())
        found.leases.down = True
        await found.world.pass_(outage)
        assert first.holds(), "nobody else can have taken it"
        assert first.is_leader() == (outage == 7.0)
        found.leases.down = False
        await found.world.until(first.is_leader, 3)
        await found.world.pass_(60)
        assert (found.leading(), second.holds(), deposed.done()) == (["a"], False, False)
        assert {who for _, who in found.leases.writes} == {"a"}
        deposed.cancel()


async def test_a_leader_that_dies_in_an_outage_is_succeeded_after_it() -> None:
    async with cluster() as found:
        await found.start("a")
        second = await found.start("b")
        await found.world.pass_(20)
        found.leases.down = True
        await found.world.pass_(10)
        await found.kill("a")
        await found.world.pass_(20)
        found.leases.down = False
        assert await found.world.until(second.is_leader, 20) <= 17.0


async def test_a_leader_that_is_cut_off_is_fenced_before_another_leads_and_gives_way() -> None:
    async with cluster() as found:
        first, second = await found.start("a"), await found.start("b")
        await found.world.pass_(20)
        found.leases.partitioned.add("a")
        fenced = await found.world.until(lambda: not first.is_leader(), 20)
        assert fenced <= 10.1
        with pytest.raises(Fenced, match="a could not renew its Lease in time"):
            first.fence()
        taken = await found.world.until(second.is_leader, 20)
        assert taken >= 2.0
        assert first.holds(), "it cannot know yet"
        found.leases.partitioned.discard("a")
        await asyncio.wait_for(asyncio.gather(first.deposed(), found.world.pass_(3)), 5)
        await found.world.pass_(600, lambda: _only(found, "b"))


async def test_renewals_whose_answers_are_lost_end_no_term() -> None:
    async with cluster() as found:
        first, second = await found.start("a"), await found.start("b")
        await found.world.pass_(20)
        deposed = asyncio.create_task(first.deposed())
        found.leases.lose_answers_of.add("a")
        await found.world.pass_(12)
        assert not first.is_leader()
        assert not second.holds()
        found.leases.lose_answers_of.clear()
        await found.world.until(first.is_leader, 3)
        assert not deposed.done()
        deposed.cancel()


async def test_a_first_claim_whose_answer_is_lost_is_found_again() -> None:
    async with cluster() as found:
        found.leases.lose_answers_of.add("a")
        first = await found.start("a")
        await found.world.pass_(5)
        assert (found.leases.holder, first.holds()) == ("a", False)
        found.leases.lose_answers_of.clear()
        await found.world.until(first.is_leader, 3)


async def test_edits_of_the_lease_by_hand_are_kept_and_end_no_term() -> None:
    async with cluster() as found:
        first = await found.start("a")
        await found.world.pass_(5)
        found.leases.edit(note="hands off")
        await found.world.pass_(20, lambda: _only(found, "a"))
        assert first.is_leader()
        assert found.leases.lease is not None
        assert found.leases.lease["metadata"]["annotations"] == {"note": "hands off"}


async def test_a_lease_that_is_deleted_ends_the_term_and_is_made_anew() -> None:
    async with cluster() as found:
        first = await found.start("a")
        await found.world.pass_(5)
        found.leases.lease = None
        await asyncio.wait_for(asyncio.gather(first.deposed(), found.world.pass_(2.1)), 5)
        await found.world.until(first.is_leader, 5)
        assert found.leases.holder == "a"


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["down", "up", "cut", "join", "lossy", "clear", "kill", "start", "stop", "slow", "fast"]),
        st.sampled_from(["a", "b", "c"]),
        st.floats(0.0, 20.0),
    ),
    max_size=10,
)


@settings(max_examples=20, deadline=None)
@given(events=EVENTS, drift=st.floats(0.97, 1.03), offset=st.floats(-1e6, 1e6))
def test_whatever_happens_two_never_lead_and_in_the_end_one_does(
    events: list[tuple[str, str, float]], drift: float, offset: float
) -> None:
    async def story() -> None:
        async with cluster() as found:
            clocks = {"a": (0.0, 1.0), "b": (offset, drift), "c": (-offset, 1.0)}

            async def start(name: str) -> None:
                if name not in found.replicas:
                    await found.start(name, offset=clocks[name][0], rate=clocks[name][1])

            def at_most_one() -> None:
                assert len(found.leading()) <= 1, found.leading()

            for name in clocks:
                await start(name)
            for what, name, seconds in events:
                await _happen(found, what, name, start)
                await found.world.pass_(seconds, at_most_one)
            await start("a")
            leases = found.leases
            leases.down, leases.latency = False, 0.0
            leases.partitioned.clear()
            leases.lose_answers_of.clear()
            await found.world.pass_(40, at_most_one)
            assert found.leading() == [leases.holder]

    asyncio.run(story())


async def _happen(found: Cluster, what: str, name: str, start: Callable[[str], Awaitable[None]]) -> None:
    leases = found.leases
    match what:
        case "down" | "up":
            leases.down = what == "down"
        case "slow" | "fast":
            leases.latency = 1.5 if what == "slow" else 0.0
        case "cut":
            leases.partitioned.add(name)
        case "join":
            leases.partitioned.discard(name)
        case "lossy":
            leases.lose_answers_of.add(name)
        case "clear":
            leases.lose_answers_of.discard(name)
        case "start":
            await start(name)
        case "kill" | "stop" if name in found.replicas:
            cut = name in leases.partitioned
            await (found.kill if what == "kill" else found.stop)(name)
            if cut:
                leases.partitioned.add(name)
        case _:
            pass
