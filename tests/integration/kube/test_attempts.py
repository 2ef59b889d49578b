"""The operator's executions and attempts on a server that keeps objects in memory and refuses what it is told to.

What a real server does with the same requests is tested in `tests/e2e`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from kube_objects import second
from penstock.controller.contract import SystemClock
from penstock.controller.loop import Controller
from penstock.controller.queue import Turn
from penstock.engine.types import CacheEntry, Limits
from penstock.kube.attempts import KubeAttempts
from penstock.kube.executions import KubeExecutions
from penstock.kube.revisions import Revisions
from penstock.kube.transports import CollectorMode, PodSettings
from penstock.step.collector import WAITS

from .support import Bench

Json = dict[str, Any]
SHARED = PodSettings(collector_image="penstock:1", collector_mode=CollectorMode.SHARED)
MUCH = 10_000_000
LIMITS = Limits(output_bytes=MUCH, step_output_bytes=MUCH, status_bytes=MUCH, object_bytes=MUCH)
"""With so much room in the engine, what does not fit is noticed by the server."""
UID = "0e4d8f1c"


class Store:
    """Objects by kind and name; the server of these tests.

    Attributes:
        objects: what was created.
        refused: kinds that are not taken, because a quota is used up.
        status_bytes: how large a status may be.
        asked: method and path of each request that is not a look.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = {}
        self.refused: set[str] = set()
        self.status_bytes = 1_500_000
        self.asked: list[str] = []
        self.made = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        kind, name, sub = ([*request.path.partition("/namespaces/n/")[2].split("/"), "", ""])[:3]
        there = self.objects.setdefault(kind, {})
        if request.method != "GET":
            self.asked.append(f"{request.method} {kind}{'/' + sub if sub else ''}")
        if request.method == "POST":
            return self._create(kind, there, await request.json())
        if request.method == "GET" and not name:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": list(there.values())})
        if name not in there:
            return _error(404, "NotFound", f'{kind} "{name}" not found')
        if sub == "log":
            return web.Response(text=f"{WAITS}\n")
        if request.method == "DELETE":
            return web.json_response(there.pop(name))
        if request.method == "PATCH":
            change = await request.json()
            if len(json.dumps(change)) > self.status_bytes:
                return _error(500, "", "etcdserver: request is too large")
            _merge(there[name], change)
        return web.json_response(there[name])

    def _create(self, kind: str, there: dict[str, Json], body: Json) -> web.Response:
        name = body["metadata"]["name"]
        if kind in self.refused:
            return _error(403, "Forbidden", f"exceeded quota: {kind}")
        if name in there:
            return _error(409, "AlreadyExists", "it is there")
        self.made += 1
        body["metadata"] |= {"uid": f"uid-{self.made}", "resourceVersion": "1", "creationTimestamp": second(0)}
        there[name] = body
        return web.json_response(body, status=201)

    def execution(self, spec: Json, name: str = "x") -> Json:
        """An Execution of a pipeline in place."""
        meta = {
            "name": name, "namespace": "n", "uid": UID, "generation": 1, "resourceVersion": "1",
            "creationTimestamp": second(0),
        }  # fmt: skip
        body = {"metadata": meta, "spec": {"pipelineSpec": spec}}
        self.objects.setdefault("executions", {})[name] = body
        return body

    @property
    def status(self) -> Json:
        """The status of the only execution."""
        (found,) = self.objects["executions"].values()
        return dict(found.get("status", {}))

    def step(self, name: str = "s") -> Json:
        """The status of a step."""
        return next((each for each in self.status.get("steps", ()) if each["name"] == name), {})

    def pod(self) -> Json:
        """The only pod, as a watch shows it."""
        (found,) = self.objects["pods"].values()
        return copy.deepcopy(found)


def _error(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code)


def _merge(target: Json, change: Json) -> None:
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


class NoCache:
    """Remembers nothing."""

    async def lookup(self, namespace: str, fingerprint: str) -> CacheEntry | None:
        """Nothing."""

    async def remember(self, namespace: str, entry: CacheEntry) -> None:
        """Nothing."""


@asynccontextmanager
async def working(
    fake: Bench, store: Store, settings: PodSettings = SHARED, limits: Limits = LIMITS
) -> AsyncIterator[KubeAttempts]:
    """An operator at work on what is in the store; leaving is a restart's first half."""
    fake.server.default = store
    client, clock = fake.client(), SystemClock()
    revisions = Revisions(client, clock, lambda _: None)
    executions = KubeExecutions(client, revisions, clock, on_cut=lambda key: attempts.abandon(key))  # noqa: PLW0108

    def mark(key: str, first: bool) -> None:
        controller.mark(key, Turn.FIRST if first else Turn.NEXT)

    attempts = KubeAttempts(client, settings, executions, clock, mark)
    controller = Controller(
        executions=executions, attempts=attempts, cache=NoCache(), clock=clock, limits=limits, quiet_seconds=0.0
    )
    for kind, take in (("executions", executions.observe), ("jobs", attempts.job), ("pods", attempts.pod)):
        for body in copy.deepcopy(list(store.objects.get(kind, {}).values())):
            if take(body):
                controller.mark(body["metadata"]["uid"])
    work = [asyncio.create_task(each()) for each in (controller.run, attempts.conclusions.run)]
    try:
        yield attempts
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await attempts.close()


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.005)


def one_step(**fields: Any) -> Json:
    """A pipeline of one step."""
    return {"steps": [{"name": "s", "image": "i", "command": ["true"], **fields}]}


def reported(store: Store, *, code: int = 0, **collector: Any) -> Json:
    """The pod, long after its step has ended."""
    done = {"exitCode": code, "startedAt": second(1_000), "finishedAt": second(1_001)}
    beside = collector or {"running": {"startedAt": second(1_000)}}
    pod = store.pod()
    pod["spec"]["nodeName"] = "n1"
    pod["status"] = {
        "phase": "Running",
        "containerStatuses": [
            {"name": "step", "state": {"terminated": done}},
            {"name": "collector", "state": beside},
        ],
    }
    return pod


# --- a collector that runs on -----------------------------------------------------------------------


async def test_the_pod_of_a_step_that_is_over_is_ended_once_and_then_its_collector_speaks(fake: Bench) -> None:
    store = Store()
    store.execution(one_step(outputs=[{"name": "text", "type": "string"}]))
    async with working(fake, store) as attempts:
        await until(lambda: store.objects.get("pods"))
        attempts.pod(reported(store))
        await until(lambda: "PATCH pods" in store.asked)
        attempts.pod(reported(store))
    assert store.pod()["spec"]["activeDeadlineSeconds"] == 1
    async with working(fake, store) as attempts:  # the next operator knows that it was
        attempts.pod(reported(store))
        said = {"exitCode": 0, "startedAt": second(1_000), "finishedAt": second(1_002)}
        attempts.pod(reported(store, terminated={**said, "message": '{"outputs":{},"problems":["not written"]}'}))
        await until(lambda: store.step().get("phase") == "Failed")
    assert (store.step()["reason"], store.step()["message"]) == ("InvalidOutputs", "not written")
    assert store.asked.count("PATCH pods") == 1


async def test_a_collector_that_saw_the_end_itself_costs_no_further_write(fake: Bench) -> None:
    store = Store()
    store.execution(one_step(outputs=[{"name": "text", "type": "string"}]))
    async with working(fake, store) as attempts:
        await until(lambda: store.objects.get("pods"))
        said = {"exitCode": 0, "startedAt": second(1_000), "finishedAt": second(1_002)}
        attempts.pod(reported(store, terminated={**said, "message": '{"outputs":{"text":"x"}}'}))
        await until(lambda: store.status.get("phase") == "Succeeded")
    assert "PATCH pods" not in store.asked


# --- what the server does not take ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pods", "jobs"])
async def test_an_attempt_that_was_refused_is_still_waited_for_by_the_next_operator(fake: Bench, kind: str) -> None:
    store = Store()
    store.refused = {kind}
    store.execution(one_step(inputs=[{"name": "n", "value": 7}]))
    async with working(fake, store):
        await until(lambda: store.step().get("reason") == "Refused")
    before = len(store.asked)
    async with working(fake, store):
        await until(lambda: len(store.asked) > before)  # asked for again
    assert store.step()["reason"] == "Refused"
    store.refused = set()
    async with working(fake, store):
        await until(lambda: store.objects.get("pods"))
    step = store.step()
    assert (step["attempts"], step.get("disruptions", 0)) == (1, 0)
    assert store.pod()["metadata"]["annotations"]["inputs.penstock.dev/n"] == "7"


async def test_a_pod_that_went_while_no_operator_looked_is_a_disruption(fake: Bench) -> None:
    store = Store()
    store.execution(one_step())
    async with working(fake, store):
        await until(lambda: store.step().get("attempts") == 1 and store.objects.get("pods"))
    store.objects["pods"].clear()
    async with working(fake, store):
        await until(lambda: store.step().get("disruptions") == 1)


@pytest.mark.parametrize("shown", [True, False])
async def test_a_pod_that_went_without_any_event_is_missed_in_the_next_list(fake: Bench, shown: bool) -> None:
    store = Store()
    store.execution(one_step())
    async with working(fake, store) as attempts:
        await until(lambda: store.step().get("attempts") == 1 and store.objects.get("pods"))
        if shown:
            attempts.pod(store.pod())
        pod = store.pod()["metadata"]["uid"]
        assert pod in attempts.known()
        store.objects["pods"].clear()
        attempts.missed({pod})
        await until(lambda: store.step().get("disruptions") == 1)
        await until(lambda: store.objects.get("pods"))  # of another attempt


async def test_an_object_that_is_too_large_for_the_server_ends_its_attempt(fake: Bench) -> None:
    store = Store()
    store.execution(one_step())
    fake.server.script = []

    async def too_large(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return _error(413, "RequestEntityTooLarge", "limit is 3145728")
        return await store(request)

    async with working(fake, store):
        fake.server.default = too_large
        await until(lambda: store.status.get("phase") == "Error")
    assert "limit is 3145728" in store.step()["message"]


# --- a status that is too large ---------------------------------------------------------------------


async def test_an_execution_whose_status_is_too_large_at_its_end_fails_with_what_fits(fake: Bench) -> None:
    store = Store()
    text = [{"name": "t", "type": "string"}]
    big = one_step(outputs=text) | {"outputs": [{**text[0], "from": "steps.s.outputs.t"}]}
    store.execution(big)
    async with working(fake, store) as attempts:
        await until(lambda: store.objects.get("pods"))
        said = {"exitCode": 0, "startedAt": second(1_000), "finishedAt": second(1_002)}
        message = json.dumps({"outputs": {"t": "x" * 900_000}})
        attempts.pod(reported(store, terminated={**said, "message": message}))
        await until(lambda: store.status.get("phase") == "Failed")
        await until(lambda: len(attempts) == 0)
    assert store.status["reason"] == "OutputsTooLarge"
    assert "outputs of the execution 900,0" in store.status["message"]
    assert 'outputs of step "s" 900,0' in store.status["message"]
    assert ("outputs" in store.step()) is not ("outputs" in store.status)  # one of them fits
    assert "pass large data as files" in store.status["message"]
    assert (next(iter(store.objects["jobs"].values())))["status"]["conditions"]


async def test_an_execution_whose_status_grows_too_large_on_the_way_ends_what_still_runs(fake: Bench) -> None:
    store = Store()
    both = one_step(outputs=[{"name": "t", "type": "string"}])
    both["steps"].append({"name": "other", "image": "i", "command": ["true"], "timeoutSeconds": 600})
    store.execution(both)
    async with working(fake, store) as attempts:
        await until(lambda: len(store.objects.get("pods", {})) == 2)
        pods = {pod["metadata"]["labels"]["penstock.dev/step"]: pod for pod in store.objects["pods"].values()}
        runs = copy.deepcopy(pods["other"])
        runs["spec"]["nodeName"] = "n1"
        runs["status"] = {"phase": "Running", "containerStatuses": [{"name": "step", "state": {"running": {}}}]}
        attempts.pod(runs)
        ended = copy.deepcopy(pods["s"])
        done = {"exitCode": 0, "startedAt": second(1_000), "finishedAt": second(1_001)}
        said = {**done, "message": json.dumps({"outputs": {"t": "x" * 1_700_000}})}
        ended["status"] = {
            "phase": "Running",
            "containerStatuses": [
                {"name": "step", "state": {"terminated": done}},
                {"name": "collector", "state": {"terminated": said}},
            ],
        }
        attempts.pod(ended)
        await until(lambda: store.status.get("phase") == "Failed")
        await until(lambda: len(attempts) == 0)
        await until(lambda: all("status" in job for job in store.objects["jobs"].values()))
    assert store.status["reason"] == "OutputsTooLarge"
    assert (store.step("s")["phase"], store.step("other")["phase"]) == ("Succeeded", "Cancelled")
    assert "outputs" not in store.step("s")
    assert pods["other"]["spec"]["activeDeadlineSeconds"] == 1


# --- images that name no user -----------------------------------------------------------------------


def rootless(store: Store) -> Json:
    """The only pod, of whose image the kubelet says that it would run as root."""
    pod = store.pod()
    message = 'container has runAsNonRoot and image will run as root (pod: "x", container: step)'
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
    pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": "step", "state": waiting}]}
    return pod


def user(store: Store) -> int | None:
    """Whom the pod runs as."""
    found: int | None = store.pod()["spec"]["securityContext"].get("runAsUser")
    return found


async def test_a_step_whose_image_names_root_gets_a_user_in_the_same_attempt(fake: Bench) -> None:
    store = Store()
    store.execution(one_step())
    async with working(fake, store) as attempts:
        await until(lambda: store.objects.get("pods"))
        assert user(store) is None
        first = rootless(store)
        attempts.pod(first)
        await until(lambda: store.objects["pods"] and user(store) == 65_532)
        attempts.pod(first, deleted=True)  # the watch tells of it late
        done = {"exitCode": 0, "startedAt": second(1_000), "finishedAt": second(1_001)}
        pod = store.pod()
        pod["status"] = {"containerStatuses": [{"name": "step", "state": {"terminated": done}}]}
        attempts.pod(pod)
        await until(lambda: store.status.get("phase") == "Succeeded")
        assert (store.step()["attempts"], store.step().get("disruptions", 0)) == (1, 0)


async def test_a_pod_that_still_wants_to_be_root_is_not_made_again_and_again(fake: Bench) -> None:
    store = Store()
    store.execution(one_step())
    async with working(fake, store) as attempts:
        await until(lambda: store.objects.get("pods"))
        attempts.pod(rootless(store))
        await until(lambda: store.objects["pods"] and user(store) == 65_532)
        attempts.pod(rootless(store))
        await until(lambda: store.status.get("phase") == "Error")
    assert "set a numeric USER in the image" in store.step()["message"]


async def test_an_image_of_an_ordinary_job_that_names_root_gets_a_user_in_the_next_attempt(fake: Bench) -> None:
    store = Store()
    store.execution(one_step())
    ordinary = PodSettings(managed=False)

    def jobs() -> list[Json]:
        return list(store.objects.get("jobs", {}).values())

    async with working(fake, store, ordinary) as attempts:
        await until(jobs)
        template = jobs()[0]["spec"]["template"]
        meta = {**template["metadata"], "name": "p", "uid": "p", "namespace": "n"}
        store.objects["pods"] = {"p": {**template, "metadata": meta}}
        attempts.pod(rootless(store))
        await until(lambda: len(jobs()) == 2)
    assert jobs()[1]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 65_532
