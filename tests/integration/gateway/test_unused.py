"""What the operator's next sweep would remove, asked of a gateway: the API and `penstock gc --cluster --dry-run`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from integration.cli.support import Cli

from .support import READER, STRANGER, Gateway, OnGateway

LIVES, GONE = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


def stored(gateway: Gateway, key: str, content: bytes) -> Path:
    path = gateway.store / "ours" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def objects(gateway: Gateway) -> list[Path]:
    """Objects of an execution that there is, of one that is gone, of the data store, and an old entry of the cache.

    The one that there is has a file of the other from the cache.
    """
    taken = {"name": "a", "file": {"key": f"executions/{GONE}/make/1/taken", "sha256": "0" * 64, "size": 5}}
    step = {"name": "make", "phase": "Cached", "outputs": [taken]}
    gateway.server.executions["ours", "lives"] = {
        "metadata": {"name": "lives", "namespace": "ours", "uid": LIVES},
        "status": {"phase": "Running", "steps": [step]},
    }
    cached = stored(gateway, "cache/0123abcd.json", b"{}")
    os.utime(cached, (time.time() - 3 * 86_400,) * 2)
    return [
        stored(gateway, f"executions/{LIVES}/make/1/a", b"12345"),
        stored(gateway, f"executions/{GONE}/make/1/taken", b"12345"),
        stored(gateway, f"executions/{GONE}/make/1/a", b"123"),
        stored(gateway, f"executions/{GONE}/make/2/b", b"1234"),
        stored(gateway, "data/mine", b"12345"),
        cached,
    ]


def test_it_is_told_what_would_go_and_nothing_goes(gateway: Gateway, objects: list[Path]) -> None:
    found = gateway.api("GET", "unused", READER)
    assert found.status == 200, found
    keys = [f"ours/executions/{GONE}/make/1/a", f"ours/executions/{GONE}/make/2/b"]
    expected = {"executions": [GONE], "objects": 2, "bytes": 7, "cache_entries": 0, "uploads": 0, "keys": keys}
    assert found.json == expected
    older = gateway.api("GET", f"unused?cache_seconds={2 * 86_400}", READER).json
    assert (older["cache_entries"], older["keys"]) == (1, ["ours/cache/0123abcd.json", *keys])
    assert all(path.exists() for path in objects)


def test_only_who_may_list_executions_is_told(gateway: Gateway, objects: list[Path]) -> None:
    del objects
    assert gateway.api("GET", "unused", STRANGER).problem[0] == 403
    assert gateway.api("GET", "unused", READER, namespace="theirs").problem[0] == 403
    assert gateway.api("GET", "unused", None).problem[0] == 401


def test_nobody_is_told_anything_while_it_is_not_known_which_executions_there_are(
    gateway: Gateway, objects: list[Path]
) -> None:
    assert gateway.api("GET", "unused", READER).status == 200
    gateway.server.down = True
    assert gateway.api("GET", "unused", READER).problem[0] == 503
    assert all(path.exists() for path in objects)


def test_the_command_says_it(penstock: OnGateway, objects: list[Path]) -> None:
    told = penstock("gc", "--cluster", "--dry-run", "--cache-days", "2")
    assert told.out.split() == [
        "ours/cache/0123abcd.json",
        f"ours/executions/{GONE}/make/1/a",
        f"ours/executions/{GONE}/make/2/b",
    ]
    assert told.err == "2 objects, 7 bytes, 1 cache entry would go\n"
    assert penstock("gc", "--cluster", "--dry-run", "--namespace", "theirs", code=2).out == ""
    assert all(path.exists() for path in objects)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cluster",), "--cluster does not go without --dry-run: there the operator removes"),
        (("--cluster", "--dry-run", "--keep", "3"), "--cluster does not go with --keep"),
        (("--dry-run", "--gateway", "http://x"), "add --cluster"),
        (("--dry-run", "--namespace", "x"), "add --cluster"),
    ],
)
def test_options_that_do_not_go_together_are_told(cli: Cli, options: tuple[str, ...], said: str) -> None:
    refused = cli("gc", *options)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
