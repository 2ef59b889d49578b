from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from penstock.engine.types import AttemptId, File
from penstock.storage.errors import BadObjectPath
from penstock.storage.folder import FolderStore
from penstock.storage.plans import Output, Plan, close_plan, make_plan, renew_plan
from penstock.storage.signing import Grant, SigningKeys

KEYS = SigningKeys({"k": b"s" * 32})
ATTEMPT = AttemptId("train", 3, 2)
TABLE = File("executions/u0/prepare/1/table", "ab" * 32, 123)
FOLDER = File("data/raw/all", "etag-1", 5, folder=True)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path, keys=KEYS, gateway_url="http://gateway:8080/base/")


def granted(url: str) -> Grant:
    split = urlsplit(url)
    query = dict(parse_qsl(split.query))
    assert split.path.startswith("/base/files/")
    return KEYS.verify(query["method"], unquote(split.path.removeprefix("/base/files/")), query, 0)


async def make(store: FolderStore, **more: object) -> Plan:
    given: dict[str, object] = {"inputs": {"table": TABLE}, "outputs": [Output("model", max_bytes=10)], "seconds": 60}
    return await make_plan(store, namespace="ns", uid="u1", attempt=ATTEMPT, **(given | more))  # type: ignore[arg-type]


async def test_a_plan_gives_the_right_to_its_files_and_no_other(store: FolderStore) -> None:
    before = int(time.time())
    plan = await make(store, inputs={"table": TABLE, "all": [FOLDER, None, TABLE]})
    document = json.loads(plan.to_json())
    assert document["version"] == 1
    assert before + 60 <= plan.expires <= int(time.time()) + 60
    inputs = [(each["name"], each.get("index"), each["key"], each["folder"]) for each in document["inputs"]]
    assert inputs == [
        ("table", None, TABLE.key, False),
        ("all", 0, FOLDER.key, True),
        ("all", 2, TABLE.key, False),
    ]
    first = document["inputs"][0]
    assert (first["sha256"], first["size"], first["headers"]) == ("ab" * 32, 123, {})
    assert granted(first["url"]) == Grant("GET", f"ns/{TABLE.key}", plan.expires)
    (output,) = document["outputs"]
    assert (output["name"], output["key"]) == ("model", "executions/u1/train/3/2/model")
    assert (output["max_bytes"], output["max_files"]) == (10, None)
    # What is bounded is the content: a folder of many small files is larger as an object.
    stored = 10 + 1_000_000 * 2048
    assert granted(output["put"]["url"]) == Grant("PUT", "ns/executions/u1/train/3/2/model", plan.expires, stored)
    assert "multipart" not in output


async def test_a_plan_is_read_again_and_renewed_for_the_same_files(store: FolderStore) -> None:
    plan = Plan.from_json((await make(store, inputs={"all": [None, FOLDER]})).to_json())
    renewed = await renew_plan(store, "ns", plan, 600)
    assert renewed.expires > plan.expires
    assert granted(renewed.document["inputs"][0]["url"]).expires == renewed.expires
    for document in (plan.document, renewed.document):
        document["expires"] = 0  # type: ignore[index]
        document["inputs"][0]["url"] = document["outputs"][0]["put"]["url"] = ""
    assert plan.document == renewed.document
    await close_plan(store, "ns", plan)


async def test_a_plan_is_no_longer_valid_than_the_store_can_sign(store: FolderStore) -> None:
    plan = await make(store, seconds=10**9)
    assert plan.expires <= time.time() + store.max_signed_seconds
    assert granted(plan.document["inputs"][0]["url"]).expires <= plan.expires


@pytest.mark.parametrize(
    "key", ["../other/data/a", "cache/f.json", "meta/a.json", "data/../../other/data/a", "/data/a"]
)
async def test_a_status_that_someone_wrote_gives_no_right_to_other_objects(store: FolderStore, key: str) -> None:
    with pytest.raises(BadObjectPath):
        await make(store, inputs={"table": File(key, "ab" * 32, 1)})


async def test_a_plan_is_in_no_representation(store: FolderStore) -> None:
    assert "signature" not in repr(await make(store))
    assert "signature" not in repr(await store.sign("GET", ["ns/data/a"], 60))
