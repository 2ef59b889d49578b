"""The REST client, credentials and leader election on a real API server: what it takes, refuses and answers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf
import pytest

from e2e.cluster.cluster import Cluster
from e2e.kubectl import Kubectl
from penstock.kube import errors
from penstock.kube.client import Client
from penstock.kube.credentials import Access, Kubeconfig, Sessions
from penstock.kube.leader import Leader, LeaderSettings, election_client
from penstock.kube.resources import CONFIG_MAPS, EXECUTIONS, JOBS, LEASES, NAMESPACES, PODS
from penstock.kube.transport import Transport

SECONDS = 60.0


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, not for a time."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"never came true: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture
async def sessions(cluster: Cluster) -> AsyncIterator[Sessions]:
    found = Sessions(Kubeconfig([Path(cluster.kubeconfig)]))
    yield found
    await found.close()


@pytest.fixture
def client(sessions: Sessions) -> Client:
    return Client(Transport(sessions))


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {"test": "client"}},
        "data": data,
    }


def pod(namespace: str, name: str, script: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "docker.io/local/busybox:1",
        "command": ["sh", "-c", script],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def name_of(body: dict[str, Any]) -> str:
    return str(body["metadata"]["name"])


async def test_the_version(client: Client) -> None:
    assert (await client.version()).at_least(1, 29)


async def test_an_object_from_its_creation_to_its_end(client: Client, namespace: str) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace, "x", a="1"))
    with pytest.raises(errors.AlreadyExists, match='configmaps "x" already exists'):
        await client.create(CONFIG_MAPS, config_map(namespace, "x"))
    assert (await client.get(CONFIG_MAPS, "x", namespace))["data"] == {"a": "1"}
    only = await client.get(CONFIG_MAPS, "x", namespace, metadata_only=True)
    assert (only["kind"], "data" in only) == ("PartialObjectMetadata", False)

    patched = await client.patch(CONFIG_MAPS, "x", namespace, {"data": {"a": None, "b": "2"}})
    assert patched["data"] == {"b": "2"}
    patched = await client.patch(CONFIG_MAPS, "x", namespace, [{"op": "add", "path": "/data/c", "value": "3"}])
    assert patched["data"] == {"b": "2", "c": "3"}
    with pytest.raises(errors.Conflict):
        await client.replace(CONFIG_MAPS, made)
    replaced = await client.replace(CONFIG_MAPS, {**patched, "data": {"d": "4"}})
    assert replaced["data"] == {"d": "4"}

    with pytest.raises(errors.Conflict, match="the UID in the precondition"):
        await client.delete(CONFIG_MAPS, "x", namespace, uid="another")
    assert await client.delete(CONFIG_MAPS, "x", namespace, uid=made["metadata"]["uid"])
    assert not await client.delete(CONFIG_MAPS, "x", namespace)
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, "x", namespace)


async def test_apply_owns_what_it_says_and_takes_back_what_it_says_no_more(client: Client, namespace: str) -> None:
    await client.apply(CONFIG_MAPS, config_map(namespace, "x", a="1", b="2"))
    await client.patch(CONFIG_MAPS, "x", namespace, {"data": {"theirs": "3"}})
    found = await client.apply(CONFIG_MAPS, config_map(namespace, "x", a="4"))
    assert found["data"] == {"a": "4", "theirs": "3"}
    managers = {each["manager"] for each in found["metadata"]["managedFields"] if each["operation"] == "Apply"}
    assert managers == {"penstock"}


async def test_a_status_is_patched_only_if_the_object_is_still_the_same(
    client: Client, namespace: str, crds: None
) -> None:
    del crds
    body = {
        "apiVersion": EXECUTIONS.api_version,
        "kind": EXECUTIONS.kind,
        "metadata": {"name": "x", "namespace": namespace},
        "spec": {"pipeline": {"name": "p"}},
    }
    made = await client.create(EXECUTIONS, body)
    version = made["metadata"]["resourceVersion"]
    first = await client.patch_status(EXECUTIONS, "x", namespace, {"phase": "Running"}, resource_version=version)
    assert first["status"]["phase"] == "Running"
    with pytest.raises(errors.Conflict):
        await client.patch_status(EXECUTIONS, "x", namespace, {"phase": "Failed"}, resource_version=version)
    first["status"] = {"phase": "Succeeded"}
    assert (await client.replace_status(EXECUTIONS, first))["status"]["phase"] == "Succeeded"
    with pytest.raises(errors.Invalid):
        await client.patch_status(EXECUTIONS, "x", namespace, {"phase": "Perhaps"})


async def test_what_does_not_fit_is_invalid(client: Client, namespace: str) -> None:
    with pytest.raises(errors.Invalid, match=r"metadata\.name"):
        await client.create(CONFIG_MAPS, config_map(namespace, "Not A Name"))
    bad = {"metadata": {"name": "x", "namespace": namespace}, "spec": {"template": {"spec": {"containers": []}}}}
    with pytest.raises(errors.Invalid):
        await client.create(JOBS, bad)


async def test_a_namespace_that_is_not_there(client: Client) -> None:
    with pytest.raises(errors.NotFound, match="namespaces"):
        await client.create(CONFIG_MAPS, config_map("there-is-none", "x"))
    assert not await client.delete(NAMESPACES, "there-is-none")


async def test_pods_that_break_the_namespace_s_rules_are_forbidden(client: Client, namespace: str) -> None:
    body = pod(namespace, "x", "true")
    body["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(errors.Forbidden, match="violates PodSecurity"):
        await client.create(PODS, body)


async def test_a_list_comes_in_chunks_and_only_what_was_selected(client: Client, namespace: str) -> None:
    names = [f"x{number:02}" for number in range(25)]
    await asyncio.gather(*(client.create(CONFIG_MAPS, config_map(namespace, name)) for name in names))
    found = await client.list(CONFIG_MAPS, namespace=namespace, labels="test=client", chunk=4, keep=name_of)
    assert sorted(found.items) == names
    assert found.resource_version.isdigit()
    one = await client.list(CONFIG_MAPS, namespace=namespace, fields="metadata.name=x07", keep=name_of)
    assert one.items == ["x07"]
    everywhere = await client.list(CONFIG_MAPS, labels="test=client", keep=lambda body: body, metadata_only=True)
    assert {name_of(each) for each in everywhere.items} >= set(names)
    assert all("data" not in each for each in everywhere.items)


async def test_logs(client: Client, namespace: str) -> None:
    script = "for n in 1 2 3 4 5; do echo line $n; done; printf 'no end'"
    await client.create(PODS, pod(namespace, "x", script))
    end = time.monotonic() + SECONDS
    while (await client.get(PODS, "x", namespace))["status"]["phase"] != "Succeeded":
        assert time.monotonic() < end, "the pod never ended"
        await asyncio.sleep(0.1)
    whole = await client.log("x", namespace=namespace, container="main")
    assert whole == b"line 1\nline 2\nline 3\nline 4\nline 5\nno end"
    assert await client.log("x", namespace=namespace, container="main", tail=2) == b"line 5\nno end"
    assert await client.log("x", namespace=namespace, container="main", limit_bytes=8) == b"line 1\nl"
    async with aclosing(client.follow_log("x", namespace=namespace, container="main")) as lines:
        assert [line async for line in lines] == [*(f"line {n}".encode() for n in range(1, 6)), b"no end"]
    with pytest.raises(errors.ApiError, match="container nobody is not valid"):
        await client.log("x", namespace=namespace, container="nobody")


async def test_a_session_that_was_closed_is_opened_again(client: Client, sessions: Sessions) -> None:
    before = await sessions.current()
    await before.session.close()
    assert (await client.version()).major == 1
    assert (await sessions.current()).session is not before.session


async def test_one_leads_and_the_next_takes_over_when_it_stops(
    client: Client, sessions: Sessions, namespace: str
) -> None:
    def compete(identity: str) -> tuple[Leader, asyncio.Task[None]]:
        settings = LeaderSettings(
            namespace=namespace,
            name="penstock",
            identity=identity,
            lease_seconds=6,
            renew_deadline_seconds=4.0,
            retry_seconds=0.5,
        )
        leader = Leader(election_client(sessions, settings), settings)
        return leader, asyncio.create_task(leader.run())

    async def stop(task: asyncio.Task[None]) -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    first, first_task = compete("first")
    await until(first.is_leader, "the first leads")
    second, second_task = compete("second")
    third, third_task = compete(f"third-{secrets.token_hex(2)}")
    try:
        lease = await client.get(LEASES, "penstock", namespace)
        assert lease["spec"]["holderIdentity"] == "first"
        await stop(first_task)
        await until(lambda: second.is_leader() or third.is_leader(), "another one leads")
        assert not (second.is_leader() and third.is_leader())
        lease = await client.get(LEASES, "penstock", namespace)
        assert lease["spec"]["leaseTransitions"] == 1
    finally:
        await stop(first_task)
        await stop(second_task)
        await stop(third_task)


@dataclass(frozen=True)
class WithToken:
    """The cluster's address and authority, with the token in a file in place of who the kubeconfig says we are."""

    cluster: Access
    token: Path

    def load(self) -> Access:
        return Access(server=self.cluster.server, ca=self.cluster.ca, token_file=self.token)


async def test_a_token_that_the_server_refuses_is_replaced_when_its_file_is(
    cluster: Cluster, kubectl: Kubectl, tmp_path: Path, namespace: str
) -> None:
    token = tmp_path / "token"
    token.write_text("of nobody")
    sessions = Sessions(WithToken(Kubeconfig([Path(cluster.kubeconfig)]).load(), token))
    client = Client(Transport(sessions))
    try:
        with pytest.raises(errors.Unauthorized):
            await client.get(NAMESPACES, namespace)
        kubectl("create", "serviceaccount", "somebody")
        token.write_text(kubectl("create", "token", "somebody"))
        with pytest.raises(errors.Forbidden, match="somebody"):
            await client.get(NAMESPACES, namespace)
    finally:
        await sessions.close()


async def test_kopf_watches_on_our_session_and_goes_on_after_it_was_closed(
    client: Client, sessions: Sessions, namespace: str
) -> None:
    registry = kopf.OperatorRegistry()
    seen: set[str] = set()
    kopf.on.login(registry=registry)(sessions.login)

    async def note(name: str | None, **_: Any) -> None:
        seen.add(str(name))

    kopf.on.event("configmaps", registry=registry)(note)
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.inactivity_timeout = 2  # a closed session does not end a watch, it freezes
    stop = asyncio.Event()
    operator = asyncio.create_task(
        kopf.operator(registry=registry, settings=settings, standalone=True, namespaces=[namespace], stop_flag=stop)
    )
    try:
        await client.create(CONFIG_MAPS, config_map(namespace, "before"))
        await until(lambda: "before" in seen, "kopf sees an object")
        await (await sessions.current()).session.close()
        await client.create(CONFIG_MAPS, config_map(namespace, "after"))
        await until(lambda: "after" in seen, "kopf sees the next one, on a new session")
    finally:
        stop.set()
        await operator
    assert (await client.version()).major == 1, "kopf closes the session when it ends; ours goes on"
    after = await client.get(CONFIG_MAPS, "after", namespace)
    assert "annotations" not in after["metadata"], "an operator that only watches writes nothing"
