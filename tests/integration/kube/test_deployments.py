"""Deployments of a cluster, on a server that keeps objects in memory, by a clock that tests set.

What a real server does with the same requests is tested in `tests/e2e`.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from penstock.controller.deployments import RESULT_SECONDS, RETRY_SECONDS, DeploymentController
from penstock.controller.ports import Transient
from penstock.engine.status import from_timestamp
from penstock.kube.deployments import KubeDeployments, on_gateway
from penstock.kube.revisions import Revisions

from .support import Bench

Json = dict[str, Any]

NINE = from_timestamp("2026-03-02T09:00:00Z")
UID = "deployment-1"
EACH_MINUTE: Json = {
    "pipeline": {"name": "p"},
    "schedule": {"cron": "* * * * *"},
    "inputs": [{"name": "rows", "value": 3}],
    "outputs": [{"name": "score", "void": True}],
}
CALLED: Json = {"pipeline": {"name": "p"}, "endpoint": {"path": "score"}}
PIPELINE: Json = {
    "inputs": [{"name": "rows", "type": "number"}],
    "outputs": [{"name": "score", "type": "number", "from": "steps.s.outputs.score"}],
    "steps": [{"name": "s", "image": "i", "outputs": [{"name": "score", "type": "number"}]}],
}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        """Where it stands."""
        return self.at


def text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Server:
    """Objects by kind and name.

    Attributes:
        objects: what is there.
        asked: what was asked for, except looks at what was just changed.
        sent: bodies of all that was sent with PATCH.
        refused: kinds that are not taken.
        down: whether it answers nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.objects: dict[str, dict[str, Json]] = {}
        self.asked: list[str] = []
        self.sent: list[Json] = []
        self.refused: set[str] = set()
        self.down = False
        self.made = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        kind, name, sub = ([*request.path.partition("/namespaces/n/")[2].split("/"), "", ""])[:3]
        there = self.objects.setdefault(kind, {})
        self.asked.append(f"{request.method} {kind}{'/' + sub if sub else ''}")
        sent = await request.text()
        body = json.loads(sent) if sent else {}
        name = name or body.get("metadata", {}).get("name", "")
        if self.down:
            return _error(503, "ServiceUnavailable")
        if kind in self.refused:
            return _error(403, "Forbidden")
        if request.method == "POST":
            if name in there:
                return _error(409, "AlreadyExists")
            return web.json_response(self.put(kind, name, body), status=201)
        if name not in there:
            return _error(404, "NotFound")
        if request.method == "PUT":
            return web.json_response(self.put(kind, name, body))
        if request.method == "DELETE":
            return web.json_response(there.pop(name))
        if request.method == "PATCH":
            self.sent.append(copy.deepcopy(body))
            before = copy.deepcopy(there[name].get("spec"))
            _merge(there[name], body)
            there[name]["metadata"]["generation"] += there[name].get("spec") != before
        return web.json_response(there[name])

    def put(self, kind: str, name: str, body: Json, **metadata: Any) -> Json:
        """Have an object there."""
        self.made += 1
        body["metadata"] = {
            "uid": f"uid-{self.made}",
            "generation": 1,
            "namespace": "n",
            "name": name,
            "creationTimestamp": text(self.clock.at),
            **body.get("metadata", {}),
            **metadata,
        }
        self.objects.setdefault(kind, {})[name] = body
        return body

    def writes(self) -> list[str]:
        """What was asked for that changes something, and is not asked for again."""
        found = [each for each in self.asked if not each.startswith("GET")]
        self.asked.clear()
        return found


def _error(code: int, reason: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "the server says no"}
    return web.json_response(body, status=code)


def _merge(target: Json, change: Json) -> None:
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


@dataclass
class World:
    """A server with a pipeline and a deployment, and an operator that is restarted at will."""

    fake: Bench
    clock: Clock
    server: Server
    told: list[tuple[bool, str]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    marked: list[tuple[str, bool]] = field(default_factory=list)

    async def start(self) -> None:
        """A new operator lists what is there."""
        client = self.fake.client()
        self.revisions = Revisions(client, self.clock, lambda _: None)
        self.deployments = KubeDeployments(
            client,
            self.revisions,
            lambda key, urgent: self.marked.append((key, urgent)),
            on_gateway("http://gateway"),
        )
        self.controller = DeploymentController(
            deployments=self.deployments,
            clock=self.clock,
            on_told=lambda _, ready, message: self.told.append((ready, message)),
            on_fired=self.late.append,
            on_dropped=lambda _, name, why: self.dropped.append(f"{name}: {why}"),
        )
        for body in self.there("controllerrevisions").values():
            self.revisions.observe_revision(body)
        for body in self.there("executions").values():
            self.deployments.execution(copy.deepcopy(body))
        for body in self.there("deployments").values():
            self.deployments.observe(copy.deepcopy(body))
        for body in self.there("pipelines").values():
            self.revisions.observe(copy.deepcopy(body))
            await self.revisions.reconcile("n", body["metadata"]["name"])

    def there(self, kind: str) -> dict[str, Json]:
        """Objects of a kind, by name."""
        return self.server.objects.setdefault(kind, {})

    def deploy(self, spec: Json, name: str = "d", uid: str = UID, **metadata: Any) -> None:
        """Somebody applies a deployment, for the first time or again."""
        before = self.there("deployments").get(name)
        body: Json = {"spec": copy.deepcopy(spec), "metadata": {"uid": uid, **metadata}}
        if before is not None:
            edited = before["spec"] != spec
            body["metadata"] |= {"generation": before["metadata"]["generation"] + edited}
            body["metadata"]["creationTimestamp"] = before["metadata"]["creationTimestamp"]
            written = {"manager": "kubectl", "time": text(self.clock.at), "fieldsV1": {"f:spec": {}}}
            body["metadata"]["managedFields"] = [written]
            body["status"] = before.get("status", {})
        self.server.put("deployments", name, body)
        if hasattr(self, "deployments"):
            self.deployments.observe(copy.deepcopy(body))

    async def change_pipeline(self, spec: Json | None) -> None:
        """Somebody changes or deletes the pipeline."""
        before = self.there("pipelines").pop("p", {"metadata": {"generation": 0}})
        if spec is None:
            self.revisions.observe(before, deleted=True)
            return
        generation = before["metadata"]["generation"] + 1
        body = self.server.put("pipelines", "p", {"spec": spec, "metadata": {"generation": generation}})
        self.revisions.observe(copy.deepcopy(body))
        await self.revisions.reconcile("n", "p")

    async def look(self, at: float | None = None, key: str = UID) -> None:
        """A pass at a time."""
        self.clock.at = self.clock.at if at is None else at
        await self.controller.reconcile(key)

    def names(self) -> list[str]:
        """Names of all executions that are there."""
        return sorted(self.there("executions"))

    def execution(self, name: str) -> Json:
        """An execution as it is stored."""
        return self.there("executions")[name]

    def call(self, name: str, *, queued: bool) -> None:
        """The gateway makes an execution."""
        owner = {"apiVersion": "penstock.dev/v1alpha1", "kind": "Deployment", "name": "d", "uid": UID}
        body: Json = {"metadata": {"ownerReferences": [owner | {"controller": True}]}, "spec": {"suspend": queued}}
        body["metadata"]["labels"] = {"penstock.dev/trigger": "endpoint"}
        body["metadata"]["annotations"] = {"penstock.dev/queued": "true"} if queued else {}
        self.deployments.execution(copy.deepcopy(self.server.put("executions", name, body)))

    def end(self, name: str, phase: str = "Succeeded") -> None:
        """An execution comes to its end, by the hand of this operator."""
        body = self.execution(name)
        body["status"] = {"phase": phase, "finishedAt": text(self.clock.at)}
        self.deployments.finished(body["metadata"]["uid"], body["status"])

    def status(self, name: str = "d") -> Json:
        """The status of the deployment."""
        found: Json = self.there("deployments")[name].get("status", {})
        return found

    def conditions(self, name: str = "d") -> dict[str, tuple[str, str]]:
        """Status and reason of its conditions."""
        return {each["type"]: (each["status"], each["reason"]) for each in self.status(name)["conditions"]}

    def message(self) -> str:
        """What its condition Ready says."""
        return str(next(each["message"] for each in self.status()["conditions"] if each["type"] == "Ready"))


@pytest.fixture
async def world(fake: Bench) -> World:
    """A cluster with a pipeline, just before nine."""
    clock = Clock(NINE - 30)
    server = Server(clock)
    fake.server.default = server
    server.put("pipelines", "p", {"spec": PIPELINE})
    return World(fake, clock, server)


async def scheduled(world: World, **fields: Any) -> World:
    """With a deployment for each minute that has been looked at once."""
    world.deploy(EACH_MINUTE | fields)
    await world.start()
    await world.look()
    world.server.asked.clear()
    return world


# --- schedules --------------------------------------------------------------------------------------


async def test_a_tick_costs_one_create_and_one_write_of_the_status(world: World) -> None:
    await scheduled(world)
    assert world.conditions() == {"Ready": ("True", "Scheduled")}
    assert world.status()["nextTime"] == "2026-03-02T09:00:00Z"
    assert world.status()["summary"] == "Every minute, UTC"
    await world.look(NINE + 0.2)
    assert world.server.writes() == ["POST executions", "PATCH deployments/status"]
    assert world.names() == ["d-20260302-0900"]
    made = world.execution("d-20260302-0900")
    assert made["spec"] == {
        "pipeline": {"name": "p", "revision": 1},
        "inputs": [{"name": "rows", "value": 3}],
        "outputs": [{"name": "score", "void": True}],
    }
    assert made["metadata"]["labels"] == {"penstock.dev/deployment": "d", "penstock.dev/trigger": "schedule"}
    assert made["metadata"]["annotations"] == {"penstock.dev/scheduled-at": "2026-03-02T09:00:00Z"}
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (UID, True, False)
    status = world.status()
    assert (status["active"], status["lastExecution"]) == (1, "d-20260302-0900")
    assert (status["lastTime"], status["nextTime"]) == ("2026-03-02T09:00:00Z", "2026-03-02T09:01:00Z")
    assert world.late == [pytest.approx(0.2, abs=0.001)]


async def test_looking_again_writes_nothing(world: World) -> None:
    await scheduled(world)
    for later in (1, 5, 20):
        await world.look(NINE - 30 + later)
    await world.look(NINE + 1)
    world.server.asked.clear()
    for later in (2, 20, 50):
        await world.look(NINE + later)
    await world.start()
    world.server.asked.clear()
    await world.look(NINE + 55)
    assert world.server.asked == []


@pytest.mark.parametrize("saved", [True, False], ids=["after its status", "before its status"])
async def test_a_tick_fires_once_though_the_operator_dies_at_it(world: World, saved: bool) -> None:
    await scheduled(world)
    before = copy.deepcopy(world.status())
    await world.look(NINE + 0.1)
    if not saved:
        world.there("deployments")["d"]["status"] = before
    world.server.asked.clear()
    await world.start()
    await world.look(NINE + 3)
    assert world.server.writes() == ([] if saved else ["PATCH deployments/status"])
    assert world.names() == ["d-20260302-0900"]
    assert world.status()["nextTime"] == "2026-03-02T09:01:00Z"


async def test_a_tick_fires_once_though_its_creation_was_not_seen(world: World) -> None:
    await scheduled(world)
    other = World(world.fake, world.clock, world.server)
    await other.start()
    await world.look(NINE + 0.1)
    world.there("deployments")["d"]["status"].pop("schedule")
    await other.look(NINE + 0.2)
    assert world.names() == ["d-20260302-0900"]
    assert other.status()["active"] == 1


async def test_a_name_that_somebody_else_has_taken_is_passed_over_and_told_of(world: World) -> None:
    await scheduled(world)
    world.server.put("executions", "d-20260302-0900", {"spec": {}})
    await world.look(NINE + 1)
    assert world.dropped == ["d-20260302-0900: it was not started: somebody else has an execution of this name"]
    await world.look(NINE + 60)
    assert world.names() == ["d-20260302-0900", "d-20260302-0901"]


async def test_times_of_the_operators_absence_are_dropped_but_for_two_minutes(world: World) -> None:
    await scheduled(world)
    await world.start()
    await world.look(NINE + 3_600)
    assert world.names() == ["d-20260302-0958", "d-20260302-0959", "d-20260302-1000"]


async def test_after_an_edit_no_time_before_it_is_made_up_for(world: World) -> None:
    await scheduled(world)
    world.clock.at = NINE + 90
    hourly = {"cron": "*/2 * * * *", "catchUp": "All"}
    world.deploy(EACH_MINUTE | {"schedule": hourly})
    await world.look(NINE + 600)
    assert world.names() == [f"d-20260302-09{minute:02}" for minute in (2, 4, 6, 8, 10)]


async def test_a_clock_that_is_set_back_starts_nothing_twice_and_says_why_it_waits(world: World) -> None:
    await scheduled(world)
    await world.look(NINE + 60)
    assert world.names() == ["d-20260302-0900", "d-20260302-0901"]
    world.there("executions").clear()
    await world.start()
    await world.look(NINE - 3_600)
    assert world.names() == []
    assert world.message() == "the clock was set back: nothing starts before 2026-03-02T09:01:00.000Z"
    await world.look(NINE + 120)
    assert world.names() == ["d-20260302-0902"]
    assert world.message() == "executions are started when they are due"


async def test_a_suspended_deployment_starts_nothing_and_makes_up_for_nothing(world: World) -> None:
    await scheduled(world, suspend=True)
    assert world.conditions() == {"Ready": ("True", "Suspended")}
    assert "nextTime" not in world.status()
    await world.look(NINE + 60)
    assert world.names() == []
    world.clock.at = NINE + 90
    world.deploy(EACH_MINUTE)
    await world.look(NINE + 121)
    assert world.names() == ["d-20260302-0902"]


# --- what is wrong ----------------------------------------------------------------------------------


async def test_a_deployment_waits_for_its_pipeline_and_then_starts(world: World) -> None:
    spec = world.there("pipelines").pop("p")["spec"]
    await scheduled(world)
    assert world.conditions() == {"Ready": ("False", "PipelineNotReady"), "Reconciling": ("True", "PipelineNotReady")}
    await world.look(NINE)
    assert world.names() == []
    await world.change_pipeline(spec)
    await world.look(NINE + 20)
    assert world.conditions() == {"Ready": ("True", "Scheduled")}
    assert world.names() == ["d-20260302-0900"]


async def test_a_broken_pipeline_starts_nothing_until_it_is_mended(world: World) -> None:
    await scheduled(world)
    await world.change_pipeline(PIPELINE | {"steps": [{"name": "s", "image": "i", "dependsOn": ["t"]}]})
    await world.look(NINE + 1)
    assert world.conditions() == {"Ready": ("False", "PipelineNotReady"), "Stalled": ("True", "PipelineNotReady")}
    assert '"t"' in world.message()
    await world.change_pipeline(PIPELINE)
    await world.look(NINE + 30)
    assert world.conditions() == {"Ready": ("True", "Scheduled")}
    assert world.names() == ["d-20260302-0900"]
    assert world.told[-2:] == [(False, world.told[-2][1]), (True, "executions are started when they are due")]


async def test_a_pipeline_that_is_being_read_is_waited_for_without_a_word(world: World) -> None:
    world.deploy(EACH_MINUTE)
    await world.start()
    body = world.there("pipelines")["p"]
    body["metadata"]["generation"] = 2
    world.revisions.observe(copy.deepcopy(body))
    world.server.asked.clear()
    await world.look()
    assert world.server.asked == []


async def test_what_does_not_fit_the_pipeline_is_all_in_the_condition(world: World) -> None:
    await scheduled(world, inputs=[{"name": "row", "value": 3}], outputs=[{"name": "score", "object": "{day}"}])
    assert world.conditions() == {"Ready": ("False", "InvalidDeployment"), "Stalled": ("True", "InvalidDeployment")}
    for said in ('no input "row"', 'bind "rows"', "only an output of type file", "there is no {day}"):
        assert said in world.message()
    await world.look(NINE)
    assert world.names() == []


async def test_a_time_zone_that_does_not_exist_is_a_condition(world: World) -> None:
    await scheduled(world, schedule={"cron": "* * * * *", "timeZone": "Europe/Atlantis"})
    assert world.conditions()["Ready"] == ("False", "InvalidDeployment")
    assert "spec.schedule.timeZone" in world.message()


async def test_config_maps_are_read_when_an_execution_starts(world: World) -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "rows"}}
    await scheduled(world, inputs=[{"name": "rows", **reference}])
    assert world.conditions()["Ready"] == ("True", "Scheduled")
    await world.look(NINE + 1)
    assert world.conditions()["Ready"] == ("False", "InputsUnavailable")
    assert 'no key "rows" in a ConfigMap "settings"' in world.message()
    world.server.put("configmaps", "settings", {"data": {"rows": "12"}})
    await world.look(NINE + 1 + RETRY_SECONDS)
    assert world.execution("d-20260302-0900")["spec"]["inputs"] == [{"name": "rows", "value": 12}]
    assert world.conditions() == {"Ready": ("True", "Scheduled")}


async def test_what_could_not_be_started_stays_in_the_condition_when_its_time_is_over(world: World) -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "rows"}}
    daily = {"cron": "0 9 * * *"}
    await scheduled(world, schedule=daily, inputs=[{"name": "rows", **reference}])
    await world.look(NINE + 1)
    await world.look(NINE + 300)
    assert world.names() == []
    assert world.conditions()["Ready"] == ("False", "InputsUnavailable")
    assert world.status()["nextTime"] == "2026-03-03T09:00:00Z"


async def test_a_quota_is_a_condition_and_the_tick_is_tried_again(world: World) -> None:
    await scheduled(world)
    world.server.refused = {"executions"}
    await world.look(NINE + 1)
    assert world.conditions()["Ready"] == ("False", "ExecutionRefused")
    world.server.refused = set()
    await world.look(NINE + 40)
    assert world.names() == ["d-20260302-0900"]
    assert world.conditions()["Ready"] == ("True", "Scheduled")


async def test_a_server_that_does_not_answer_is_asked_again(world: World) -> None:
    await scheduled(world)
    world.server.down = True
    with pytest.raises(Transient):
        await world.look(NINE + 1)
    world.server.down = False
    await world.look(NINE + 2)
    assert world.names() == ["d-20260302-0900"]


# --- concurrency and history ------------------------------------------------------------------------


async def test_forbid_leaves_out_what_is_due_while_one_runs(world: World) -> None:
    await scheduled(world, concurrency={"policy": "Forbid"})
    await world.look(NINE)
    await world.look(NINE + 60)
    assert world.names() == ["d-20260302-0900"]
    assert world.dropped == [
        "d-20260302-0901: it was not started: 1 execution runs and the limit is 1 (concurrency Forbid)"
    ]
    world.end("d-20260302-0900")
    await world.look(NINE + 90)
    assert world.names() == ["d-20260302-0900"]
    await world.look(NINE + 120)
    assert world.names() == ["d-20260302-0900", "d-20260302-0902"]


async def test_replace_cancels_the_older_one_first(world: World) -> None:
    await scheduled(world, concurrency={"policy": "Replace"})
    await world.look(NINE)
    world.server.asked.clear()
    await world.look(NINE + 60)
    assert world.server.writes() == ["PATCH executions", "POST executions", "PATCH deployments/status"]
    cancelled = world.execution("d-20260302-0900")
    assert cancelled["spec"]["cancel"] is True
    assert "a newer execution" in cancelled["metadata"]["annotations"]["penstock.dev/cancelled-because"]
    assert not world.execution("d-20260302-0901")["spec"].get("cancel")


async def test_a_queue_lets_them_go_one_after_the_other_also_over_a_restart(world: World) -> None:
    await scheduled(world, concurrency={"policy": "Queue"})
    for minute in range(3):
        await world.look(NINE + 60 * minute)
    first, second, third = (f"d-20260302-090{minute}" for minute in range(3))
    assert [bool(world.execution(name)["spec"].get("suspend")) for name in (first, second, third)] == [
        False,
        True,
        True,
    ]
    assert (world.status()["active"], world.status()["waiting"]) == (1, 2)
    await world.start()
    world.end(first)
    await world.look(NINE + 150)
    assert [bool(world.execution(name)["spec"].get("suspend")) for name in (second, third)] == [False, True]
    assert "penstock.dev/queued" not in world.execution(second)["metadata"]["annotations"]
    assert "penstock.dev/queued" in world.execution(third)["metadata"]["annotations"]


async def test_calls_are_let_go_or_cancelled_by_the_one_who_counts(world: World) -> None:
    world.deploy(CALLED | {"concurrency": {"policy": "Forbid"}})
    await world.start()
    world.call("one", queued=True)
    await world.look()
    assert world.execution("one")["spec"]["suspend"] is False
    world.call("two", queued=True)
    await world.look()
    assert world.execution("two")["spec"]["cancel"] is True
    world.end("one")
    world.end("two", "Cancelled")
    world.call("three", queued=True)
    await world.look()
    assert world.execution("three")["spec"] == {"suspend": False}


async def test_an_event_that_is_older_than_what_was_written_here_changes_nothing(world: World) -> None:
    world.deploy(CALLED | {"concurrency": {"policy": "Queue"}})
    await world.start()
    world.call("one", queued=True)
    older = copy.deepcopy(world.execution("one"))
    await world.look()
    world.deployments.execution(older)
    world.server.asked.clear()
    await world.look()
    assert "PATCH executions" not in world.server.asked
    world.end("one")
    world.deployments.execution(copy.deepcopy(world.execution("one")) | {"status": {"phase": "Running"}})
    await world.look(NINE)
    assert world.status()["active"] == 0


async def test_the_history_keeps_the_newest_of_each_end(world: World) -> None:
    await scheduled(world, history={"succeeded": 1, "failed": 1})
    for minute, phase in enumerate(["Succeeded", "Failed", "Succeeded", "Error", "Succeeded"]):
        await world.look(NINE + 60 * minute)
        world.end(f"d-20260302-090{minute}", phase)
    await world.look(NINE + 290)
    assert world.names() == ["d-20260302-0903", "d-20260302-0904"]


async def test_results_of_calls_are_kept_for_an_hour_whatever_the_history_says(world: World) -> None:
    world.deploy(CALLED | {"history": {"succeeded": 0}})
    await world.start()
    world.call("one", queued=False)
    world.end("one")
    await world.look()
    assert world.names() == ["one"]
    await world.look(world.clock.at + RESULT_SECONDS)
    assert world.names() == []


async def test_what_a_listing_does_not_show_is_forgotten_and_what_is_gone_leaves_nothing(world: World) -> None:
    await scheduled(world, concurrency={"policy": "Forbid"})
    await world.look(NINE)
    uid = world.execution("d-20260302-0900")["metadata"]["uid"]
    assert world.deployments.known() == ({UID}, {uid})
    world.there("executions").clear()
    world.deployments.gone([], [uid])
    assert world.marked[-1] == (UID, True)
    await world.look(NINE + 60)
    assert world.names() == ["d-20260302-0901"]
    body = world.execution("d-20260302-0901")
    world.deployments.gone([UID], [])
    world.deployments.execution(body)  # the last events of what goes with it
    world.deployments.execution(body, deleted=True)
    assert world.deployments.known() == (set(), set())
    world.server.asked.clear()
    await world.look(NINE + 120)
    assert world.server.asked == []


async def test_only_what_something_depends_on_is_looked_at_at_once(world: World) -> None:
    world.deploy(CALLED)
    await world.start()
    world.marked.clear()
    world.call("one", queued=False)
    world.end("one")
    assert world.marked == [(UID, False), (UID, False)]
    world.call("two", queued=True)
    assert world.marked[-1] == (UID, True)


async def test_how_many_run_is_written_at_most_every_ten_seconds(world: World) -> None:
    await scheduled(world)
    await world.look(NINE)
    world.server.asked.clear()
    world.end("d-20260302-0900")
    await world.look(NINE + 3)
    assert world.server.writes() == []
    await world.look(NINE + 10)
    assert world.server.writes() == ["PATCH deployments/status"]
    assert world.status()["active"] == 0


# --- endpoints --------------------------------------------------------------------------------------


def token(world: World, secret: str = "d-endpoint-token") -> str:
    return str(world.there("secrets")[secret]["stringData"]["token"])


def digests(world: World) -> list[str]:
    return [each["sha256"] for each in world.status()["endpoint"]["tokens"]]


def digest(of: str) -> str:
    return hashlib.sha256(of.encode()).hexdigest()


async def test_an_endpoint_gets_a_token_in_a_secret_and_its_digest_in_the_status(world: World) -> None:
    world.deploy(CALLED)
    await world.start()
    await world.look()
    secret = world.there("secrets")["d-endpoint-token"]
    assert re.fullmatch(r"[-_A-Za-z0-9]{43}", token(world))
    assert secret["metadata"]["ownerReferences"][0]["uid"] == UID
    assert world.status()["endpoint"] == {
        "tokenSecret": "d-endpoint-token",
        "tokens": [{"sha256": digest(token(world))}],
    }
    assert token(world) not in str(world.there("deployments"))
    assert world.status()["url"] == "http://gateway/environments/n/endpoints/score"
    assert world.conditions() == {"Ready": ("True", "Serving")}
    await world.start()
    world.server.asked.clear()
    await world.look()
    assert world.server.asked == []


async def test_a_token_whose_digest_was_not_written_is_replaced(world: World) -> None:
    world.deploy(CALLED)
    await world.start()
    await world.look()
    lost = token(world)
    del world.there("deployments")["d"]["status"]
    await world.start()
    await world.look()
    assert token(world) != lost
    assert digests(world) == [digest(token(world))]


async def test_a_rotation_announces_the_new_token_before_anybody_has_it(world: World) -> None:
    world.deploy(CALLED)
    await world.start()
    await world.look()
    old = token(world)
    asked = {"penstock.dev/rotate-token": "1", "penstock.dev/rotation-overlap": "30m"}
    world.deploy(CALLED, annotations=asked)
    world.server.asked.clear()
    await world.look(NINE)
    assert world.server.writes() == [
        "PATCH deployments/status",
        "POST secrets",
        "PUT secrets",
        "PATCH deployments/status",
    ]
    announced = world.server.sent[-2]["status"]["endpoint"]
    assert [each["sha256"] for each in announced["tokens"]] == [digest(token(world)), digest(old)]
    assert "rotation" not in announced
    assert digests(world) == [digest(token(world)), digest(old)]
    assert world.status()["endpoint"]["tokens"][1]["until"] == "2026-03-02T09:30:00.000Z"
    await world.look(NINE + 60)
    assert world.server.writes() == []
    await world.look(NINE + 1_801)
    assert digests(world) == [digest(token(world))]


async def test_a_rotation_that_was_cut_short_is_done_again_and_the_old_token_stays(world: World) -> None:
    world.deploy(CALLED)
    await world.start()
    await world.look()
    old = token(world)
    world.deploy(CALLED, annotations={"penstock.dev/rotate-token": "1"})
    world.server.refused = {"secrets"}
    await world.look(NINE)
    assert digest(old) in digests(world)
    assert world.conditions()["Ready"] == ("False", "TokenUnavailable")
    world.server.refused = set()
    await world.start()
    await world.look(NINE + 10)
    assert digests(world)[0] == digest(token(world))
    assert digest(old) in digests(world)
    assert world.conditions()["Ready"] == ("True", "Serving")


async def test_an_overlap_that_is_no_length_of_time_rotates_nothing_and_says_so(world: World) -> None:
    world.deploy(CALLED)
    await world.start()
    await world.look()
    before = digests(world)
    asked = {"penstock.dev/rotate-token": "1", "penstock.dev/rotation-overlap": "soon"}
    world.deploy(CALLED, annotations=asked)
    await world.look(NINE)
    assert digests(world) == before
    assert world.conditions()["Ready"] == ("True", "Serving")
    assert "'soon' is no length of time" in world.message()


def bring(world: World, of: str) -> None:
    data = {"token": base64.b64encode(of.encode()).decode()}
    world.server.put("secrets", "mine", {"data": data})


async def test_a_token_that_is_brought_along_must_be_long_and_readable(world: World) -> None:
    world.deploy(CALLED | {"endpoint": {"path": "score", "tokenSecret": "mine"}})
    await world.start()
    await world.look()
    assert 'no Secret "mine"' in world.message()
    bring(world, "secret")
    await world.look(NINE)
    assert world.conditions() == {"Ready": ("False", "TokenUnavailable"), "Stalled": ("True", "TokenUnavailable")}
    assert "6 characters" in world.message()
    assert "secret" not in str(world.status()).replace("Secret", "").replace("tokenSecret", "")
    world.server.refused = {"secrets"}
    await world.look(NINE + 30)
    assert "endpoints.tokenSecrets" in world.message()
    world.server.refused = set()
    bring(world, "x" * 43)
    await world.look(NINE + 60)
    assert digests(world) == [digest("x" * 43)]
    assert world.conditions() == {"Ready": ("True", "Serving")}


async def test_of_two_endpoints_of_one_path_the_older_one_is_served(world: World) -> None:
    world.deploy(CALLED)
    world.clock.at += 1
    world.deploy(CALLED, "e", "deployment-2")
    await world.start()
    await world.look()
    await world.look(key="deployment-2")
    assert world.conditions() == {"Ready": ("True", "Serving")}
    assert world.conditions("e")["Ready"] == ("False", "PathTaken")
    world.marked.clear()
    world.deployments.observe(world.there("deployments").pop("d"), deleted=True)
    assert ("deployment-2", True) in world.marked
    await world.look(key="deployment-2")
    assert world.conditions("e") == {"Ready": ("True", "Serving")}
