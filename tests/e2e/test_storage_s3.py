"""The object store on a real S3 server (versitygw): what the folder store does too, and what only S3 does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import builds
from e2e.cluster.settings import default_cache
from e2e.cluster.shell import wait_until
from penstock.engine.types import AttemptId, File
from penstock.storage.datastore import DataStore
from penstock.storage.errors import NotFound, StoreUnavailable
from penstock.storage.multipart import MIN_PART, S3
from penstock.storage.objects import Store, check, open_store
from penstock.storage.plans import Output, Plan, close_plan, make_plan, renew_plan
from penstock.storage.retention import Retention
from penstock.storage.settings import BadSettings, from_environment
from store_contract import DataStoreContract, RetentionContract, StoreContract, answer, blocks, keys_of

REGION = "eu-test-1"
ACCESS, SECRET = "penstock", "not-a-secret-but-long"
START_SECONDS = 60
ATTEMPT = AttemptId("train", -1, 1)


@dataclass(frozen=True)
class Server:
    endpoint: str
    root: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = builds.versitygw(default_cache())
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environ = os.environ | {"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
    command = [
        str(program),
        "--quiet",
        "--port",
        address,
        "--region",
        REGION,
        "--health",
        "/health",
        "posix",
        str(root),
    ]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _answers(f"http://{address}/health"), timeout=START_SECONDS, what="versitygw to answer")
            yield Server(f"http://{address}", root)
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture
def environ(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return {
        "PENSTOCK_STORE_URL": f"s3://bucket/{secrets.token_hex(6)}/a b",
        "PENSTOCK_STORE_ENDPOINT": server.endpoint,
        "PENSTOCK_STORE_REGION": REGION,
    }


@pytest.fixture
async def store(environ: dict[str, str]) -> AsyncIterator[Store]:
    opened = open_store(from_environment(environ))
    yield opened
    await opened.close()


class TestObjects(StoreContract):
    pass


class TestDataStore(DataStoreContract):
    pass


class TestRetention(RetentionContract):
    pass


async def test_a_store_that_works_passes_its_check(store: Store, environ: dict[str, str]) -> None:
    await check(store, from_environment(environ))
    assert await keys_of(store) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"PENSTOCK_STORE_URL": "s3://no-such-bucket"}, "there is no such bucket; make it, or correct the name"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "the access key is not known; check the credentials"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret key is wrong; check the credentials"),
        ({"PENSTOCK_STORE_REGION": "us-west-2"}, "the region is wrong; set PENSTOCK_STORE_REGION"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "there are no credentials for S3: set AWS_ACCESS_KEY_ID",
        ),
    ],
)
async def test_what_is_wrong_with_a_store_is_told_with_the_remedy(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], message: str
) -> None:
    for name, value in changed.items():
        if name.startswith("AWS_") and value:
            monkeypatch.setenv(name, value)
        elif name.startswith("AWS_"):
            monkeypatch.delenv(name)
    settings = from_environment(environ | changed)
    opened = open_store(settings)
    with pytest.raises(BadSettings, match=message) as caught:
        await check(opened, settings)
    assert settings.store_url in str(caught.value)
    assert SECRET not in str(caught.value)
    await opened.close()


async def test_a_store_that_does_not_answer_is_told_to_be_away(environ: dict[str, str]) -> None:
    settings = from_environment(environ | {"PENSTOCK_STORE_ENDPOINT": "http://127.0.0.1:9"})
    opened = open_store(settings)
    with pytest.raises(StoreUnavailable, match="cannot be reached; check PENSTOCK_STORE_ENDPOINT"):
        await check(opened, settings)
    await opened.close()


def ask(
    method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


async def plan_of(store: Store, *, seconds: int = 600, **inputs: File) -> Plan:
    return await make_plan(
        store,
        namespace="ns",
        uid="u1",
        attempt=ATTEMPT,
        inputs=inputs,
        outputs=[Output("model"), Output("small", max_bytes=1000)],
        seconds=seconds,
    )


async def under_way(store: Store) -> list[str]:
    assert isinstance(store.s3, S3)
    return [upload.key.removeprefix(store.at("x")[:-1]) async for upload in store.s3.uploads(store.at("ns") + "/")]


def send_part(multipart: dict[str, Any], number: int, content: bytes) -> str:
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    url = f"{multipart['url']}&{multipart['parts'][number - 1]}"
    status, headers, body = ask("PUT", url, content, {"Content-MD5": md5})
    assert status == 200, body
    return str(headers["ETag"])


def complete(multipart: dict[str, Any], etags: list[str]) -> int:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in enumerate(etags, 1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    return ask("POST", multipart["complete"], body)[0]


async def test_a_plan_lets_an_attempt_read_its_inputs_and_write_its_outputs(store: Store) -> None:
    await store.put("ns/data/raw/a b é", b"0123456789")
    plan = await plan_of(store, table=await DataStore(store, "ns").file("raw/a b é"))
    (source,) = plan.document["inputs"]
    assert ask("GET", source["url"])[2] == b"0123456789"
    assert ask("GET", source["url"], headers={"Range": "bytes=4-"})[::2] == (206, b"456789")
    model, small = plan.document["outputs"]
    assert "multipart" not in small
    assert ask("PUT", small["put"]["url"], b"small")[0] == 200
    assert await store.read("ns/executions/u1/train/1/small") == b"small"
    first, second = secrets.token_bytes(MIN_PART), b"the end"
    etags = [send_part(model["multipart"], number, part) for number, part in enumerate((first, second), 1)]
    with pytest.raises(NotFound):
        await store.head("ns/executions/u1/train/1/model")
    assert complete(model["multipart"], etags) == 200
    assert await store.read("ns/executions/u1/train/1/model") == first + second
    await close_plan(store, "ns", plan)
    assert (await store.head("ns/executions/u1/train/1/model")).size == MIN_PART + 7


async def test_a_signed_url_is_good_for_nothing_else(store: Store) -> None:
    await store.put("ns/data/a", b"1")
    await store.put("ns/data/b", b"1")
    plan = await plan_of(store, a=File("data/a", "etag-x", 1))
    read = plan.document["inputs"][0]["url"]
    write = plan.document["outputs"][0]["put"]["url"]
    assert ask("GET", read.replace("/ns/data/a?", "/ns/data/b?"))[0] == 403
    assert ask("PUT", read, b"x")[0] == 403
    assert ask("DELETE", read)[0] == 403
    assert ask("GET", write)[0] == 403
    part = plan.document["outputs"][0]["multipart"]
    assert ask("PUT", f"{part['url']}&{part['parts'][0].replace('partNumber=1', 'partNumber=2')}", b"x")[0] == 403
    await close_plan(store, "ns", plan)


async def test_an_expired_url_is_refused(store: Store) -> None:
    await store.put("ns/data/a", b"1")
    assert isinstance(store.s3, S3)
    signer = await store.s3.signer(60)
    past = type(signer)(signer.base, signer.region, signer.credentials, signer.now - 61, 60)
    assert ask("GET", signer.url("GET", store.at("ns/data/a")))[0] == 200
    assert ask("GET", past.url("GET", store.at("ns/data/a")))[0] == 403


async def test_uploads_that_were_not_used_are_forgotten_when_the_plan_is_closed(store: Store) -> None:
    plan = await plan_of(store)
    assert await under_way(store) == ["ns/executions/u1/train/1/model"]
    send_part(plan.document["outputs"][0]["multipart"], 1, b"half")
    await close_plan(store, "ns", Plan.from_json(plan.to_json()))
    await close_plan(store, "ns", plan)
    assert await under_way(store) == []
    assert await keys_of(store) == []


async def test_an_upload_goes_on_under_a_renewed_plan(store: Store) -> None:
    plan = await plan_of(store)
    first = send_part(plan.document["outputs"][0]["multipart"], 1, bytes(MIN_PART))
    renewed = await renew_plan(store, "ns", plan, 1200)
    assert renewed.expires > plan.expires
    second = send_part(renewed.document["outputs"][0]["multipart"], 2, b"end")
    assert complete(renewed.document["outputs"][0]["multipart"], [first, second]) == 200
    assert (await store.head("ns/executions/u1/train/1/model")).size == MIN_PART + 3


async def test_the_sweep_forgets_uploads_of_executions_that_are_gone_and_old_ones(store: Store) -> None:
    assert isinstance(store.s3, S3)
    for uid in ("gone", "lives"):
        await store.put(f"ns/executions/{uid}/s/1/x", b"1")
        await store.s3.create(store.at(f"ns/executions/{uid}/s/1/y"))
    await store.s3.create(store.at("ns/data/theirs"))
    retention = Retention(store, answer({"lives"}), cache_seconds=60)
    assert (await retention.sweep("ns", now=0.0, dry_run=True)).uploads == 1
    assert len(await under_way(store)) == 3
    assert (await retention.sweep("ns", now=0.0)).uploads == 1
    assert await under_way(store) == ["ns/data/theirs", "ns/executions/lives/s/1/y"]
    # Also what people or their tools began; what they completed stays.
    await store.put("ns/data/done", b"1")
    assert (await retention.sweep("ns", now=1e11)).uploads == 2
    assert await under_way(store) == []
    assert await store.read("ns/data/done") == b"1"


async def test_a_copy_in_parts_is_the_same_object(store: Store) -> None:
    content = secrets.token_bytes(2 * MIN_PART + 100)
    source, target = "ns/executions/u/s/1/a b é+", "ns/data/copy"
    await store.put(source, content)
    assert isinstance(store.s3, S3)
    await store.s3.copy_in_parts(store.at(source), store.at(target), len(content), MIN_PART)
    assert await store.read(target) == content
    with pytest.raises(NotFound):
        await store.s3.copy_in_parts(store.at("ns/data/no"), store.at(target), len(content), MIN_PART)
    assert await under_way(store) == []


async def test_requests_wait_for_a_server_that_is_away_for_a_moment(environ: dict[str, str], server: Server) -> None:
    """A proxy that refuses the first connections, as a server does that starts again."""
    refused = 0
    target = server.endpoint.removeprefix("http://").split(":")

    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        serving.append(asyncio.current_task())
        if refused < 2:
            refused += 1
            writer.close()
            await writer.wait_closed()
            return
        there, back = await asyncio.open_connection(target[0], int(target[1]))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while block := await source.read(65536):
                sink.write(block)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))
        await asyncio.gather(back.wait_closed(), writer.wait_closed())

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        opened = open_store(from_environment(environ | {"PENSTOCK_STORE_ENDPOINT": f"http://127.0.0.1:{port}"}))
        assert isinstance(opened.s3, S3)
        upload = await opened.s3.create(opened.at("ns/data/a"))
        await opened.s3.abort(opened.at("ns/data/a"), upload)
        await opened.close()
        await asyncio.gather(*(task for task in serving if task is not None))
    assert refused == 2


async def test_a_plan_of_many_outputs_still_fits_into_a_secret(store: Store) -> None:
    outputs = [Output(f"output-{number}") for number in range(50)]
    plan = await make_plan(store, namespace="ns", uid="u", attempt=ATTEMPT, inputs={}, outputs=outputs, seconds=60)
    assert len(plan.to_json().encode()) < 1_000_000
    for output in plan.document["outputs"]:
        sizes = output["multipart"]["sizes"]
        assert sum(count for count, _ in sizes) == len(output["multipart"]["parts"])
        assert sum(count * size for count, size in sizes) >= output["max_bytes"] > 10**10
    await close_plan(store, "ns", plan)
    assert await under_way(store) == []


async def test_temporary_credentials_are_renewed_in_the_middle_of_an_upload(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    script = tmp_path / "credentials.py"
    # So near to their end that each request asks anew.
    script.write_text(
        "import datetime, json, pathlib\n"
        f"pathlib.Path({str(asked)!r}).open('a').write('x')\n"
        "end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=200)\n"
        f"print(json.dumps({{'Version': 1, 'AccessKeyId': {ACCESS!r}, 'SecretAccessKey': {SECRET!r}, "
        "'Expiration': end.isoformat()}))\n"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    opened = open_store(from_environment(environ))
    assert (await opened.put("ns/data/a", blocks(20_000_000))).size == 20_000_000
    assert len(asked.read_text()) > 2
    plan = await plan_of(opened, seconds=3600)
    assert plan.expires <= time.time() + 200
    await close_plan(opened, "ns", plan)
    await opened.close()


async def test_an_upload_that_breaks_leaves_no_parts(store: Store) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for block in blocks(30_000_000):
            yield block
        raise RuntimeError("the sender went")

    with pytest.raises(RuntimeError, match="the sender went"):
        await store.put("ns/data/a", broken())
    # The parts that were under way when it broke are ended one after the other.
    for _ in range(300):
        left = await under_way(store)
        if not left:
            break
        await asyncio.sleep(0.1)
    assert left == []
    assert await keys_of(store) == []
