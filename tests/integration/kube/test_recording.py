"""Executions on their way into the history: what is noted when, what it asks the API server, what must stay until then.

The operator as a whole is tested in `tests/e2e`, that of one machine in `tests/integration/serve`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from history_bodies import MANIFEST, a_step, an_execution, uid
from penstock.controller.contract import SystemClock
from penstock.controller.ports import Transient
from penstock.kube import finished, recording
from penstock.kube.executions import KubeExecutions
from penstock.kube.finished import Finished
from penstock.kube.recording import Recording, check
from penstock.kube.revisions import Revisions
from penstock.kube.settings import BadSettings
from penstock.storage.history.filters import Filter
from penstock.storage.history.history import History
from penstock.storage.history.records import Recorded
from postgres import Server as Postgres

from .support import Bench, refuse
from .test_deployments import NINE, World, scheduled, world

__all__ = ["world"]

Json = dict[str, Any]


class Objects:
    """Executions and revisions of a cluster, and what was asked for.

    Attributes:
        executions: by name.
        revisions: by name.
        asked: method and the last part of the path.
        accepted: what each write said that it wants to read.
        down: whether nothing is answered.
        go: answers wait for it.
    """

    def __init__(self) -> None:
        self.executions: dict[str, Json] = {}
        self.revisions: dict[str, Json] = {"penstock-iris-3": {"data": MANIFEST}}
        self.asked: list[str] = []
        self.accepted: list[str] = []
        self.down = False
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removesuffix("/status").rpartition("/")[2]
        self.asked.append(f"{request.method} {name}")
        await self.go.wait()
        if self.down:
            return await refuse(400, "BadRequest")(request)
        found = (self.revisions if "controllerrevisions" in request.path else self.executions).get(name)
        if found is None:
            return await refuse(404, "NotFound")(request)
        if request.method == "PATCH":
            self.accepted.append(request.headers["Accept"])
            found["status"] = (await request.json())["status"]
        if request.method == "DELETE":
            del self.executions[name]
        return web.json_response(found)

    def put(self, body: Json) -> Json:
        """Have an execution there."""
        self.executions[body["metadata"]["name"]] = body
        return body


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what changes is inside of what is tested
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server of these tests' own: they kill it."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/history.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.database())


@pytest.fixture
def objects(fake: Bench) -> Objects:
    """What the server has."""
    found = Objects()
    fake.server.default = found
    return found


@asynccontextmanager
async def recorder(fake: Bench, url: str) -> AsyncIterator[Recording]:
    """A recording at work."""
    made = Recording(url, fake.client(), SystemClock())
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        await made.close(task)


async def history_of(url: str) -> dict[str, Recorded]:
    """All that a history has, by uid."""
    history = await History.open(url)
    try:
        page = await history.list()
        found = [await history.get("default", uid=each.uid) for each in page.items]
    finally:
        await history.close()
    return {each.uid: each for each in found if each is not None}


async def test_each_phase_is_recorded_once_with_the_manifest_and_only_an_end_lets_go(
    fake: Bench, objects: Objects, url: str
) -> None:
    async with recorder(fake, url) as made:
        assert made.wants(uid(0), "Pending")
        made.see(an_execution(phase="Pending"))
        for phase in ("Running", "Suspended", "Running"):
            assert made.wants(uid(0), phase)
            made.see(an_execution(phase=phase))
            assert not made.wants(uid(0), phase)
            await until(lambda: made.lag().waiting == 0 and objects.asked)
            assert not made.kept(uid(0)), "it is not over"
        made.observe(an_execution(phase="Pending"))  # a list that was older
        assert not made.wants(uid(0), "Running")
        made.see(an_execution())
        assert not made.kept(uid(0)), "its end is noted and not recorded"
        await until(lambda: made.kept(uid(0)))
        made.observe(an_execution(phase="Running"))  # a list that was older
        assert made.kept(uid(0))
    (found,) = (await history_of(url)).values()
    assert (found.body["status"]["phase"], found.manifest) == ("Succeeded", MANIFEST)


async def test_a_manifest_is_read_once_for_all_executions_of_its_revision(
    fake: Bench, objects: Objects, url: str
) -> None:
    async with recorder(fake, url) as made:
        for number in range(20):
            made.observe(an_execution(number))
        await until(lambda: all(made.kept(uid(number)) for number in range(20)))
    assert objects.asked == ["GET penstock-iris-3"]
    assert [each.manifest for each in (await history_of(url)).values()] == [MANIFEST] * 20


async def test_what_is_not_known_yet_of_an_older_state_does_not_let_go(fake: Bench, objects: Objects, url: str) -> None:
    async with recorder(fake, url) as made:
        made.see(an_execution(phase="Running"))
        await until(lambda: made.lag().waiting == 0 and objects.asked)
        other = an_execution()
        other["status"]["revision"] = "iris-4"
        objects.revisions["penstock-iris-4"] = {"data": {"steps": []}}
        objects.down = True
        made.see(other)
        await until(lambda: objects.asked[-1] == "GET penstock-iris-4")
        assert not made.kept(uid(0)), "the end waits for its manifest"
        objects.down = False
        await until(lambda: made.kept(uid(0)))
    assert (await history_of(url))[uid(0)].manifest == {"steps": []}


async def test_what_is_older_is_not_noted_after_what_is_newer(fake: Bench, objects: Objects, url: str) -> None:
    async with recorder(fake, url) as made:
        made.see(an_execution(phase="Running"))  # its manifest is read first
        late = an_execution()
        del late["status"]["revision"]
        made.see(late)
        await until(lambda: made.kept(uid(0)))
        objects.go.clear()
        made.see(an_execution(1, phase="Running"))
        await until(lambda: objects.asked)
        late = an_execution(1)
        del late["status"]["revision"]
        made.see(late)  # while that is under way
        objects.go.set()
        made.see(an_execution(2))  # it is read after that
        await until(lambda: made.kept(uid(2)))
        await until(lambda: made.kept(uid(1)))
    assert [each.body["status"]["phase"] for each in (await history_of(url)).values()] == ["Succeeded"] * 3


async def test_a_revision_that_is_gone_keeps_nothing_from_being_recorded(
    fake: Bench, objects: Objects, url: str
) -> None:
    objects.revisions.clear()
    async with recorder(fake, url) as made:
        made.see(an_execution())
        await until(lambda: made.kept(uid(0)))


async def test_one_that_came_without_its_steps_is_read_as_a_whole(fake: Bench, objects: Objects, url: str) -> None:
    body = objects.put(an_execution())
    async with recorder(fake, url) as made:
        brief = an_execution(phase="Running")
        del brief["status"]["steps"]
        made.changed(brief)
        made.changed(brief)
        await until(lambda: made.kept(uid(0)))
    assert objects.asked == ["GET iris-00000", "GET penstock-iris-3"]
    assert (await history_of(url))[uid(0)].body["status"]["steps"] == body["status"]["steps"]


async def test_what_was_deleted_is_recorded_as_it_was_last(fake: Bench, objects: Objects, url: str) -> None:
    async with recorder(fake, url) as made:
        made.gone(uid(0), an_execution(0))  # never seen before
        made.see(an_execution(1, phase="Running", steps=[]))
        made.gone(uid(1), an_execution(1, phase="Running", steps=[a_step("done")]))
        made.see(an_execution(2))
        made.gone(uid(2))  # while its manifest is read
        objects.down = True
        other = an_execution(3, phase="Pending")
        other["status"]["revision"] = "iris-4"
        made.see(other)
        await until(lambda: "GET penstock-iris-4" in objects.asked)
        made.gone(uid(3))  # while that is read again and again
    found = await history_of(url)
    phases = [found[uid(number)].body["status"]["phase"] for number in range(4)]
    assert phases == ["Succeeded", "Cancelled", "Succeeded", "Cancelled"]
    assert all(each.deleted_at is not None for each in found.values())
    assert [each["name"] for each in found[uid(1)].body["status"]["steps"]] == ["done"]


async def test_what_went_while_nobody_looked_on_is_found_out(fake: Bench, objects: Objects, url: str) -> None:
    history = await History.open(url)
    for number, phase in enumerate(["Running", "Succeeded", "Succeeded", "Running", "Succeeded"]):
        namespace = "other" if number == 4 else "default"
        await history.record(an_execution(number, phase=phase, namespace=namespace), sequence=1)
    await history.close()
    objects.put(an_execution(2))  # not told of, and there
    remade = objects.put(an_execution(3, phase="Running"))
    remade["metadata"]["uid"] = "another one"
    async with recorder(fake, url) as made:
        made.see(an_execution(1))
        made.listed(["default"])
        until_gone = Filter(deleted=True)
        async with asyncio.timeout(30):
            while await made.history.count(until_gone) < 2:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.01)
    found = await history_of(url)
    assert {each for each in found if found[each].deleted_at is not None} == {uid(0), uid(3)}
    history = await History.open(url)
    assert await history.count(until_gone) == 2, "other namespaces are others'"
    await history.close()
    assert found[uid(0)].body["status"]["phase"] == "Cancelled"


async def test_a_database_that_is_away_holds_back_removals_and_catches_up(
    fake: Bench, objects: Objects, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "REMOVAL_SECONDS", 0.2)
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(recording, "DRAIN_SECONDS", 0.1)
    url = postgres.url(postgres.database())
    objects.put(an_execution(1))
    postgres.kill()
    try:
        await check(url)  # tells, and goes on
        async with recorder(fake, url) as made:
            made.see(an_execution(0))
            with pytest.raises(Transient, match="nothing is removed before it is in the history"):
                await made.keep([(uid(0), "default", "iris-00000"), (uid(1), "default", "iris-00001")])
            assert not made.kept(uid(0))
            assert (made.lag().waiting, made.lag().seconds > 0) == (2, True)
        async with recorder(fake, url) as made:
            made.see(an_execution(0))  # the next one has to be told again
            await until(lambda: objects.asked)
            await asyncio.to_thread(postgres.start)
            await until(lambda: made.kept(uid(0)))
            await made.keep([(uid(1), "default", "iris-00001")])
            assert made.kept(uid(1))
    finally:
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
    assert (await history_of(url)).keys() == {uid(0), uid(1)}


async def test_what_cannot_be_read_is_not_removed(fake: Bench, objects: Objects, url: str) -> None:
    objects.down = True
    async with recorder(fake, url) as made:
        with pytest.raises(Transient, match="nothing is removed"):
            await made.keep([(uid(0), "default", "iris-00000")])
        objects.down = False
        await made.keep([(uid(0), "default", "iris-00000")])  # it is gone by itself


async def test_those_for_which_there_was_no_room_are_noted_again(
    fake: Bench, objects: Objects, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0.05)
    items = [{"index": index, "phase": "Succeeded", "attempts": 1} for index in range(60_000)]
    objects.put(an_execution(0))
    made = Recording(url, fake.client(), SystemClock())
    made.gone("nobody", None)
    made.see(an_execution(0, phase="Pending"))
    big = an_execution(0, steps=[a_step(items=items)])
    del big["status"]["revision"]
    made.see(big)
    bigger = an_execution(1, steps=[a_step(items=items[:50_000])])
    del bigger["status"]["revision"]
    made.see(bigger)
    assert made.lag().missing == 1
    bigger["status"]["steps"][0]["items"] = []  # what is to be tested is not how long that takes
    task = asyncio.create_task(made.run())
    await until(lambda: made.kept(uid(0)) and made.kept(uid(1)))
    await made.close(task)
    assert (await history_of(url)).keys() == {uid(0), uid(1)}


async def test_an_end_waits_for_what_is_not_written_yet(fake: Bench, objects: Objects, url: str) -> None:
    async with recorder(fake, url) as made:
        made.see(an_execution(phase="Pending"))
        for number in range(1, 50):
            body = an_execution(number, phase="Pending")
            del body["status"]["revision"]
            made.see(body)
    assert len(await history_of(url)) >= 49


@pytest.mark.parametrize("bad", ["mysql://h/n", "sqlite://", "postgresql://u:geheim@h/n?color=red", "nonsense"])
async def test_a_url_that_cannot_be_is_told_without_its_password(bad: str) -> None:
    with pytest.raises(BadSettings, match=r"^history \(PENSTOCK_HISTORY_URL\): ") as caught:
        await check(bad)
    assert "geheim" not in str(caught.value)


# --- who writes and who removes ---------------------------------------------------------------------


async def test_the_write_of_a_new_phase_brings_the_whole_object_and_others_do_not(
    fake: Bench, objects: Objects
) -> None:
    client, clock, seen = fake.client(), SystemClock(), list[Json]()
    body = an_execution(phase="Pending", steps=[])
    objects.put(body)
    wants = {"Failed"}
    for number in range(2):
        made = KubeExecutions(
            client,
            Revisions(client, clock, lambda _: None),
            clock,
            wants=lambda key, phase: key == uid(0) and phase in wants,
            on_wanted=seen.append,
        )
        made.observe(body | {"status": {}})
        await made.refuse(uid(0), "InvalidInputs", f"no {number}")
        wants.clear()
    assert [each["metadata"]["uid"] for each in seen] == [uid(0)]
    assert seen[0]["spec"] == body["spec"]
    assert ["PartialObjectMetadata" in each for each in objects.accepted] == [False, True]
    assert objects.asked == ["PATCH iris-00000"] * 2, "no request more than without a history"


async def test_the_end_of_the_time_to_live_waits_for_the_record(
    fake: Bench, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "KEEP_SECONDS", 0.02)
    client, clock, kept, asked = fake.client(), SystemClock(), set[str](), list[str]()

    def may_go(key: str) -> bool:
        asked.append(key)
        return key in kept

    made = Finished(client, KubeExecutions(client, Revisions(client, clock, lambda _: None), clock), clock, may_go)
    body = objects.put(an_execution())
    body["spec"]["ttlSecondsAfterFinished"] = 0
    body["status"]["observedGeneration"] = 1
    work = asyncio.create_task(made.delete_expired())
    made.observe(body)
    await until(lambda: len(asked) > 3)
    assert objects.asked == []
    kept.add(uid(0))
    await until(lambda: objects.asked == ["DELETE iris-00000"])
    work.cancel()
    made.close()


async def test_the_history_limit_of_a_deployment_waits_for_the_record(world: World) -> None:
    await scheduled(world, history={"succeeded": 1})
    may_go = False
    world.deployments._kept = lambda _: may_go
    for minute in range(3):
        await world.look(NINE + 60 * minute)
        world.end(f"d-20260302-090{minute}")
    world.marked.clear()
    await world.look(NINE + 170)
    assert len(world.names()) == 3
    assert ("deployment-1", False) in world.marked, "it is looked at again"
    await world.look(NINE + 180)
    assert "d-20260302-0903" in world.names(), "schedules go on"
    may_go = True
    await world.look(NINE + 190)
    assert world.names() == ["d-20260302-0902", "d-20260302-0903"]


# --- the command ------------------------------------------------------------------------------------


def operator(folder: Path, url: str) -> subprocess.Popen[str]:
    """`penstock operator` of a cluster that does not answer."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], "
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {token: t}}]}"
    )
    settings = {"PENSTOCK_HISTORY_URL": url, "PENSTOCK_HTTP_PORT": "0", "PENSTOCK_LOG_FORMAT": "text"}
    command = [sys.executable, "-m", "penstock.cli", "operator", "--kubeconfig", str(kubeconfig)]
    return subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.PIPE, text=True)


def test_the_operator_does_not_start_with_a_history_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "no.db").write_text("no database at all, and long enough to be sure of that" * 20)
    for url, says in (("mysql://h/n", "no kind of database"), (f"sqlite:///{tmp_path}/no.db", "move this one away")):
        process = operator(tmp_path, url)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2, err
        lines = [line for line in err.splitlines() if "WARNING" not in line]
        assert len(lines) == 1
        assert "PENSTOCK_HISTORY_URL" in lines[0]
        assert says in lines[0]


def test_the_operator_starts_without_its_database(tmp_path: Path) -> None:
    process = operator(tmp_path, f"postgresql://postgres@/none?host={tmp_path}")
    assert process.stderr is not None
    try:
        told = next(line for line in process.stderr if "the history cannot be reached, it is tried again" in line)
        assert "WARNING" in told
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_without_a_history_nothing_of_it_is_loaded() -> None:
    program = "import sys, penstock.cli.operator, penstock.kube.replica; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
