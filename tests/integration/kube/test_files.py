"""Plans of transfers, inputs from the data store and the sweeper: on a folder store and a server kept in memory.

The same on a real S3 server and a real cluster is tested in `tests/e2e`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kube_objects import IDENTITY, an_attempt
from penstock.api.execution import ExecutionInput
from penstock.controller.contract import CannotStart, SystemClock
from penstock.controller.ports import Transient
from penstock.engine.types import File
from penstock.kube import files
from penstock.kube.files import Transfers
from penstock.kube.inputs import NoSuchObject, ObjectInputs
from penstock.kube.objectstore import opened
from penstock.kube.sweeping import Sweeper
from penstock.kube.transports import PodSettings
from penstock.storage.errors import StoreFull, StoreUnavailable
from penstock.storage.folder import FolderStore
from penstock.storage.settings import BadSettings, from_environment
from penstock.storage.signing import SigningKeys

from .support import Bench

Json = dict[str, Any]
KEYS = SigningKeys({"k": b"s" * 32})
STORE = PodSettings(collector_image="penstock:1", files=True)
TABLE = File("executions/u0/prepare/1/table", "ab" * 32, 123)
RECORD = f"science/executions/{IDENTITY.uid}/train/1/.transfers"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store", keys=KEYS, gateway_url="http://gateway:8080")


class Secrets:
    """A server that takes Secrets, and shows none; an update that it takes puts a whole one in the place of another.

    Attributes:
        written: all that were written, the newest last.
        away: whether it answers with an error.
    """

    def __init__(self, fake: Bench) -> None:
        self.written: list[Json] = []
        self.there = False
        self.away = False
        fake.server.default = self

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        assert request.method in ("POST", "PUT")
        assert "/namespaces/science/secrets" in request.path
        if self.away:
            return _error(403, "Forbidden")
        if request.method == "POST" and self.there:
            return _error(409, "AlreadyExists")
        if request.method == "PUT" and not self.there:
            return _error(404, "NotFound")
        self.there = True
        self.written.append(await request.json())
        return web.json_response({"metadata": {}}, status=201)

    @property
    def plans(self) -> list[Json]:
        """The plans in them."""
        return [json.loads(each["stringData"]["plan.json"]) for each in self.written]

    def alike(self) -> bool:
        """Whether all that were written are the same but for the plan."""
        shells = [
            each | {"stringData": {name: text for name, text in each["stringData"].items() if name != "plan.json"}}
            for each in self.written
        ]
        return all(each == shells[0] for each in shells)


def _error(code: int, reason: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}
    return web.json_response(body, status=code)


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.005)


@pytest.fixture
async def transfers(fake: Bench, store: FolderStore) -> AsyncIterator[Callable[[], Transfers]]:
    """Makes what an operator has; each call is a restart."""
    made: list[Transfers] = []

    def make() -> Transfers:
        made.append(Transfers(fake.client(), store, SystemClock(), authority="PEM"))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def both(**fields: Any) -> Any:
    return an_attempt(STORE, inputs={"table": TABLE, "rows": 3}, outputs={"model": "file", "n": "number"}, **fields)


async def test_a_pod_gets_a_plan_of_its_files_that_outlives_its_timeout(
    fake: Bench, transfers: Callable[[], Transfers], store: FolderStore
) -> None:
    server = Secrets(fake)
    await transfers().begin(both(timeout=5_000), job_uid="j", again=False)
    (plan,) = server.plans
    assert [each["name"] for each in plan["inputs"]] == ["table"]
    assert [each["name"] for each in plan["outputs"]] == ["model"]
    assert plan["expires"] > time.time() + 5_000
    # What is kept to sign it again gives nobody any right.
    kept = (await store.read(RECORD)).decode()
    assert "http" not in kept
    assert "signature" not in kept
    assert TABLE.key in kept


async def test_a_plan_is_renewed_before_it_expires(
    fake: Bench, transfers: Callable[[], Transfers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SOONEST_SECONDS", 0.01)
    monkeypatch.setattr(files, "LEAST_SECONDS", 0)
    server = Secrets(fake)
    await transfers().begin(both(timeout=0), job_uid="j", again=False)
    await until(lambda: len(server.plans) > 3)
    first, last = server.plans[0], server.plans[-1]
    assert last["expires"] >= first["expires"]
    assert [each["key"] for each in last["outputs"]] == [each["key"] for each in first["outputs"]]
    # Nothing is left of a Secret that is replaced: each says whose it is, and whom to trust.
    assert server.alike()
    meta = server.written[-1]["metadata"]
    assert [(owner["kind"], owner["uid"]) for owner in meta["ownerReferences"]] == [("Job", "j")]
    assert meta["labels"]["penstock.dev/step"] == "train"
    assert server.written[-1]["stringData"]["ca.crt"] == "PEM"


async def test_the_next_operator_renews_what_it_cannot_read_until_it_is_written(
    fake: Bench, transfers: Callable[[], Transfers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SOONEST_SECONDS", 0.01)
    server = Secrets(fake)
    attempt = both()
    old = transfers()
    await old.begin(attempt, job_uid="j", again=False)
    await old.close()
    server.away = True
    new = transfers()
    new.take_up(attempt.identity, attempt.start.id, pipeline=attempt.pipeline, job_uid="j")
    await until(lambda: len(fake.server.seen) > 3)
    server.away = False
    await until(lambda: len(server.plans) > 1)
    assert server.plans[1]["inputs"][0]["key"] == TABLE.key
    assert server.plans[1]["inputs"][0]["url"] != ""
    assert server.alike()


async def test_an_attempt_that_was_begun_already_keeps_its_plan(
    fake: Bench, transfers: Callable[[], Transfers], store: FolderStore
) -> None:
    server = Secrets(fake)
    await transfers().begin(both(), job_uid="j", again=False)
    before = await store.read(RECORD)
    await transfers().begin(both(), job_uid="j", again=True)
    assert len(server.plans) == 2
    assert await store.read(RECORD) == before


async def test_a_secret_that_was_left_by_a_job_that_is_gone_becomes_the_next_ones(
    fake: Bench, transfers: Callable[[], Transfers]
) -> None:
    server = Secrets(fake)
    await transfers().begin(both(), job_uid="gone", again=False)
    await transfers().begin(both(), job_uid="new", again=False)
    assert [each["metadata"]["ownerReferences"][0]["uid"] for each in server.written] == ["gone", "new"]


async def test_a_secret_that_has_gone_with_its_job_is_not_made_again(
    fake: Bench, transfers: Callable[[], Transfers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SOONEST_SECONDS", 0.01)
    monkeypatch.setattr(files, "LEAST_SECONDS", 0)
    server = Secrets(fake)
    await transfers().begin(both(timeout=0), job_uid="j", again=False)
    server.there = False
    asked = len(fake.server.seen)
    await until(lambda: len(fake.server.seen) > asked)
    assert len(server.plans) == 1


async def test_the_end_of_an_attempt_leaves_nothing(
    fake: Bench, transfers: Callable[[], Transfers], store: FolderStore
) -> None:
    server = Secrets(fake)
    found = transfers()
    attempt = both()
    await found.begin(attempt, job_uid="j", again=False)
    found.end(attempt.identity, attempt.start.id)
    await until(lambda: not (store.root / RECORD).exists())
    found.end(attempt.identity, attempt.start.id)
    assert len(server.plans) == 1


async def test_more_files_than_a_secret_holds_are_refused_with_the_remedy(
    fake: Bench, transfers: Callable[[], Transfers]
) -> None:
    Secrets(fake)
    with pytest.raises(CannotStart, match=r"spec\.steps\[train\]\.inputs: signed requests for 6,000 files are") as told:
        await transfers().begin(an_attempt(STORE, inputs={"parts": [TABLE] * 6_000}), job_uid="j", again=False)
    assert str(told.value).endswith("a Secret holds 1,048,576: hand fewer files on, or folders")


# --- the store --------------------------------------------------------------------------------------


async def test_a_store_that_works_is_opened_with_its_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("PEM")
    folder = {"PENSTOCK_GATEWAY_URL": "http://gateway:8080", "PENSTOCK_SIGNING_KEYS": f"k:{'5' * 64}"}
    given = {**folder, "PENSTOCK_STORE_URL": f"file://{tmp_path}/s", "PENSTOCK_STORE_CA_FILE": f"{tmp_path}/ca.crt"}
    async with opened(from_environment(given)) as objects:
        assert objects.authority == "PEM"
        await objects.store.put("ns/data/a", b"x")


async def test_a_folder_that_no_pod_could_reach_is_refused(tmp_path: Path) -> None:
    settings = from_environment({"PENSTOCK_STORE_URL": f"file://{tmp_path}/s"})
    with pytest.raises(BadSettings, match="set PENSTOCK_GATEWAY_URL and PENSTOCK_SIGNING_KEYS"):
        async with opened(settings):
            pass


async def test_an_operator_starts_while_its_store_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    given = {"PENSTOCK_STORE_URL": "s3://bucket", "PENSTOCK_STORE_ENDPOINT": "http://127.0.0.1:9"}
    async with opened(from_environment(given)):
        assert "the object store does not answer, steps with files wait for it" in caplog.text


# --- inputs -----------------------------------------------------------------------------------------

GIVEN = [ExecutionInput(name="rows", value=3), ExecutionInput(name="table", object="raw/a.csv")]


async def test_an_execution_keeps_the_object_that_it_began_with(store: FolderStore) -> None:
    inputs = ObjectInputs(store)
    await store.put("science/data/raw/a.csv", b"old")
    found = await inputs.find(IDENTITY, GIVEN, begun=False)
    assert isinstance(found["table"], File)
    assert (found["table"].key, found["table"].size) == ("data/raw/a.csv", 3)
    await store.put("science/data/raw/a.csv", b"newer")
    assert await inputs.find(IDENTITY, GIVEN, begun=True) == found
    other = await inputs.find(IDENTITY, GIVEN, begun=False)
    assert other != found


async def test_an_object_that_is_not_there_is_named(store: FolderStore) -> None:
    with pytest.raises(NoSuchObject, match=r"spec\.inputs\[table\]\.object: there is no object 'raw/a\.csv'"):
        await ObjectInputs(store).find(IDENTITY, GIVEN, begun=False)
    # As it was stored before the definition refused it.
    outside = [ExecutionInput.model_construct(name="table", value=None, object="a/../../b")]
    with pytest.raises(NoSuchObject, match=r"spec\.inputs\[table\]\.object: .* must be without `\.\.`"):
        await ObjectInputs(store).find(IDENTITY, outside, begun=False)
    with pytest.raises(NoSuchObject, match="this operator has none; name one in its settings"):
        await ObjectInputs(None).find(IDENTITY, GIVEN, begun=False)
    assert await ObjectInputs(None).find(IDENTITY, GIVEN[:1], begun=False) == {}


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreFull("full")])
async def test_a_store_that_does_not_do_it_now_is_asked_again(store: FolderStore, error: Exception) -> None:
    class Away(FolderStore):
        async def head(self, key: str) -> Any:
            raise error

    with pytest.raises(Transient, match=str(error)):
        await ObjectInputs(Away(store.root)).find(IDENTITY, GIVEN, begun=False)


# --- the sweeper ------------------------------------------------------------------------------------


def execution(uid: str, *keys: str) -> Json:
    outputs = [{"name": "t", "file": {"key": key, "sha256": "ab", "size": 1}} for key in keys]
    items = [{"index": 0, "phase": "Succeeded", "outputs": outputs}]
    status = {"phase": "Succeeded", "steps": [{"name": "s", "phase": "Cached", "items": items}]}
    return {"metadata": {"uid": uid, "name": uid, "namespace": "ns"}, "status": status}


async def test_what_belongs_to_nobody_goes_and_what_others_hold_stays(
    fake: Bench, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("executions/lives/s/1/t", "executions/gone/s/1/t", "executions/gone/s/1/held", "data/kept"):
        await store.put(f"ns/{key}", b"x")

    async def listed(request: web.Request) -> web.StreamResponse:
        assert request.path == "/apis/penstock.dev/v1alpha1/namespaces/ns/executions"
        items = [execution("lives", "executions/lives/s/1/t", "executions/gone/s/1/held")]
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    fake.server.default = listed
    sweeper = Sweeper(fake.client(), store, SystemClock(), namespaces=(), every=3_600, cache_seconds=86_400)
    work = asyncio.create_task(sweeper.run())
    try:
        await until(lambda: not (store.root / "ns/executions/gone/s/1/t").exists())
        # And soon after one has gone.
        await store.put("ns/executions/late/s/1/t", b"x")
        monkeypatch.setattr("penstock.kube.sweeping.DELAY_SECONDS", 0.01)
        sweeper.gone("ns")
        await until(lambda: not (store.root / "ns/executions/late/s/1/t").exists())
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    for key in ("executions/lives/s/1/t", "executions/gone/s/1/held", "data/kept"):
        assert await store.read(f"ns/{key}") == b"x"


async def test_if_nobody_says_which_executions_there_are_nothing_goes(fake: Bench, store: FolderStore) -> None:
    await store.put("ns/executions/u/s/1/t", b"x")
    asked: list[str] = []

    async def refuse(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return _error(403, "Forbidden")

    fake.server.default = refuse
    sweeper = Sweeper(fake.client(), store, SystemClock(), namespaces=("ns",), every=3_600, cache_seconds=86_400)
    work = asyncio.create_task(sweeper.run())
    await until(lambda: asked)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert await store.read("ns/executions/u/s/1/t") == b"x"
