"""Two replicas and one Lease: who writes, whatever happens to the one that leads, and to the API server."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import ClusterError, wait_until
from e2e.journal import Journal
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import LocalOperator, Place, execution, restricted_namespace, script, steps

pytest_plugins = ["e2e.operator_fixtures"]

TAKEOVER_SECONDS = 15
LEASE = "penstock-operator"
EXECUTIONS = 12
STEPS = ("first", "second", "third")
# A follower looks every two seconds: so many failed looks are an outage of half a minute.
FAILED_LOOKS = 15


@dataclass(frozen=True)
class Replicas:
    """Two operators that compete.

    Attributes:
        place: what they look after.
        leader: the one that led first.
        follower: the other one.
    """

    place: Place
    leader: LocalOperator
    follower: LocalOperator

    def lease(self) -> dict[str, Any]:
        """What the Lease says."""
        spec: dict[str, Any] = self.place.kubectl.get("lease", LEASE)["spec"]
        return spec

    def wait_for_takeover(self) -> float:
        """Wait until the follower has the Lease; returns the moment at which it took it."""
        wait_until(
            lambda: self.lease()["holderIdentity"] == self.follower.identity,
            timeout=2 * TAKEOVER_SECONDS,
            what="the other replica to take over",
        )
        return datetime.fromisoformat(self.lease()["acquireTime"]).timestamp()


@contextmanager
def competing(work: Kubectl, folder: Path, leaders_kubeconfig: Path) -> Iterator[Replicas]:
    """Two operators for a namespace, the first of which leads."""
    leader = LocalOperator(leaders_kubeconfig, work.namespace, folder / "leader.log", identity="replica-1")
    follower = LocalOperator(work.kubeconfig, work.namespace, folder / "follower.log", identity="replica-2")
    leader.start()
    try:
        leader.wait()
        follower.start()
        wait_until(follower.follows, timeout=60, what="the second replica to be ready")
        yield Replicas(Place(work, "local"), leader, follower)
    finally:
        for each in (leader, follower):
            each.stop()
            print(f"log of {each.identity}:\n{each.tail()}")


@pytest.fixture
def replicas(cluster_kubectl: Kubectl, crds: None, tmp_path: Path) -> Iterator[Replicas]:
    """Two operators that compete."""
    del crds
    with (
        restricted_namespace(cluster_kubectl, "replicas") as work,
        competing(work, tmp_path, work.kubeconfig) as both,
    ):
        yield both


def start_chains(place: Place, journal: Journal) -> list[str]:
    """Executions of a few steps each, the first of which have begun to run."""
    chain = [script(name, f"{journal.write}; sleep 1") for name in STEPS]
    for before, step in zip(STEPS, chain[1:], strict=False):
        step["dependsOn"] = [before]
    names = place.start_all([execution(steps(*chain)) for _ in range(EXECUTIONS)])
    wait_until(lambda: len(journal.entries) >= EXECUTIONS // 2, timeout=60, what="steps to run")
    return names


def assert_each_step_ran_once(place: Place, journal: Journal, names: Sequence[str]) -> None:
    """The executions succeed, by one start of each of their steps."""
    ended = place.wait_all(names, seconds=120)
    assert Counter(status["phase"] for status in ended.values()) == {"Succeeded": len(names)}
    for name in names:
        assert journal.of(name) == [(step, 1) for step in STEPS]
    assert len(place.kubectl.items("jobs")) == len(place.kubectl.items("pods")) == len(names) * len(STEPS)


def test_the_other_replica_takes_over_from_one_that_was_killed(replicas: Replicas, journal: Journal) -> None:
    names = start_chains(replicas.place, journal)
    before = replicas.lease()
    killed_at = time.time()
    replicas.leader.kill()

    assert replicas.wait_for_takeover() - killed_at <= TAKEOVER_SECONDS
    assert replicas.lease()["leaseTransitions"] == before["leaseTransitions"] + 1
    assert_each_step_ran_once(replicas.place, journal, names)
    replicas.leader.start()
    wait_until(replicas.leader.follows, timeout=60, what="the replica that was killed to follow")
    assert replicas.lease()["holderIdentity"] == replicas.follower.identity


def test_the_other_replica_takes_over_at_once_from_one_that_is_told_to_end(
    replicas: Replicas, journal: Journal
) -> None:
    names = start_chains(replicas.place, journal)
    replicas.leader.stop()
    assert replicas.leader.process is not None
    assert replicas.leader.process.returncode == 0
    # kopf, which takes signals for itself, did not get this one: it waits for 5 s before it ends.
    assert "SIGTERM" not in replicas.leader.tail()
    # It gave the Lease back: nobody waits for the end of it.
    assert replicas.lease()["holderIdentity"] in ("", replicas.follower.identity)
    replicas.wait_for_takeover()
    assert_each_step_ran_once(replicas.place, journal, names)


@contextmanager
def recorded(kubectl: Kubectl, folder: Path) -> Iterator[tuple[Path, Path]]:
    """A way to the API server that keeps a log of all requests; its kubeconfig and that log."""
    log = folder / "requests.log"
    command = (kubectl.program, "--kubeconfig", kubectl.kubeconfig, "proxy", "--port=0", "-v=6")
    with log.open("wb") as into:
        proxy = subprocess.Popen(command, stdout=into, stderr=into)
    try:
        wait_until(lambda: "Starting to serve" in log.read_text(), timeout=30, what="`kubectl proxy`")
        found = re.search(r"Starting to serve on (\S+)", log.read_text())
        if found is None:
            raise ClusterError(f"`kubectl proxy` does not say where it serves\n{log.read_text()}")
        way = folder / "recorded-kubeconfig"
        way.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: c, cluster: {{server: 'http://{found[1]}'}}}}]\n"
            "users: [{name: c, user: {}}]\ncontexts: [{name: c, context: {cluster: c, user: c}}]\n"
        )
        yield way, log
    finally:
        proxy.terminate()
        proxy.wait(30)


def writes_in(text: str) -> list[tuple[str, str, int]]:
    """The verb, path and status of all writes in a log of `kubectl proxy`."""
    found = re.findall(r'verb="(POST|PUT|PATCH|DELETE)" url="https?://[^/]+([^"?]*)[^"]*" status="(\d+)', text)
    return [(verb, path, int(status)) for verb, path, status in found]


def test_a_leader_that_stood_still_writes_nothing_once_the_other_leads(
    cluster_kubectl: Kubectl, crds: None, journal: Journal, tmp_path: Path
) -> None:
    del crds
    with (
        restricted_namespace(cluster_kubectl, "paused") as work,
        recorded(cluster_kubectl, tmp_path) as (way, log),
        competing(work, tmp_path, way) as replicas,
    ):
        names = start_chains(replicas.place, journal)
        replicas.leader.pause()
        before = log.read_text()
        assert any("/jobs" in path and status == 201 for _, path, status in writes_in(before)), before[-2_000:]
        replicas.wait_for_takeover()
        at_takeover = len(log.read_text())
        seen = len(journal.entries)
        wait_until(lambda: len(journal.entries) > seen, timeout=60, what="the new leader to start steps")
        replicas.leader.go_on()
        wait_until(replicas.leader.ended, timeout=60, what="the old leader to see that it is none")
        assert_each_step_ran_once(replicas.place, journal, names)

        # Its only attempt is to renew the Lease, of which it has an old version.
        late = writes_in(log.read_text()[at_takeover:])
        assert [(verb, path.rsplit("/", 1)[-1], status) for verb, path, status in late] == [("PUT", LEASE, 409)]
        assert "has the Lease" in replicas.leader.tail()
        assert replicas.lease()["holderIdentity"] == replicas.follower.identity


@pytest.mark.disruptive
def test_nobody_takes_over_while_the_api_server_is_away(replicas: Replicas, journal: Journal, cluster: Cluster) -> None:
    names = start_chains(replicas.place, journal)
    before = replicas.lease()
    cluster.processes.kill("apiserver", signal.SIGKILL)
    wait_until(lambda: not cluster.processes.get("apiserver").alive(), timeout=10, what="the API server to be gone")
    try:
        looks = 'penstock_api_requests_total{code="0",resource="leases",verb="get"}'
        wait_until(
            lambda: replicas.follower.metrics().get(looks, 0) >= FAILED_LOOKS,
            timeout=90,
            what="the follower to look in vain for half a minute",
        )
    finally:
        cluster.processes.start_again("apiserver")
        cluster.wait_until_ready()

    assert_each_step_ran_once(replicas.place, journal, names)
    after = replicas.lease()
    assert after["renewTime"] > before["renewTime"]
    same = ("holderIdentity", "acquireTime", "leaseTransitions")
    assert [after[each] for each in same] == [before[each] for each in same]
    assert not replicas.leader.ended()
    assert replicas.follower.follows()
