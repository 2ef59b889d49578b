"""`penstock data`, `get outputs` and file inputs against a gateway and its store."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from integration.cli.support import Cli
from penstock.step.digest import digest

from .support import READER, Gateway, OnGateway, kubeconfig
from .test_api import execution, file

LARGE = 9_000_001


def folder(root: Path) -> Path:
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "a é.txt").write_text("a")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("deep/a é.txt")
    return root


def test_files_come_back_as_they_were_put(penstock: OnGateway) -> None:
    content = os.urandom(LARGE)
    here = penstock.cli.folder
    (here / "in put.bin").write_bytes(content)
    assert penstock("data", "put", "in put.bin", "raw/", "--cluster").out == f"raw/in put.bin ({LARGE:,} bytes)\n"
    info = json.loads(penstock("data", "info", "raw/in put.bin", "-o", "json", "--cluster").out)
    assert (info["sha256"], info["size"], info["folder"]) == (hashlib.sha256(content).hexdigest(), LARGE, False)
    assert penstock("data", "get", "raw/in put.bin", "-o", "got/", "--cluster").out == "got/in put.bin\n"
    assert (here / "got" / "in put.bin").read_bytes() == content
    assert sorted(path.name for path in (here / "got").iterdir()) == ["in put.bin"]


def test_folders_come_back_as_they_were_put(penstock: OnGateway) -> None:
    here = penstock.cli.folder
    folder(here / "model")
    penstock("data", "put", "model", "models/m1", "--cluster")
    penstock("data", "get", "models/m1", "-o", "back", "--cluster")
    assert digest(here / "back") == digest(here / "model")
    assert (here / "back" / "link").readlink() == Path("deep/a é.txt")
    assert penstock("data", "get", "models/m1", "-o", "-", "--cluster", code=2).out == ""


def test_standard_input_and_output(penstock: OnGateway) -> None:
    penstock("data", "put", "-", "notes/one", "--cluster", stdin="hello\n")
    assert penstock("data", "get", "notes/one", "-o", "-", "--cluster").out == "hello\n"


def test_patterns_list_fetch_and_remove(penstock: OnGateway) -> None:
    for path in ("raw/a.csv", "raw/b.csv", "raw/deep/c.csv", "raw/d.txt", "other"):
        penstock("data", "put", "-", path, "--cluster", stdin=path)
    assert penstock("data", "ls", "raw/*.csv", "-o", "name", "--cluster").out.split() == ["raw/a.csv", "raw/b.csv"]
    assert len(penstock("data", "ls", "raw", "-o", "name", "--cluster").out.split()) == 4
    penstock("data", "get", "raw/**/*.csv", "-o", "got", "--cluster")
    got = penstock.cli.folder / "got"
    assert sorted(str(path.relative_to(got)) for path in got.rglob("*.csv")) == ["a.csv", "b.csv", "deep/c.csv"]
    penstock("data", "rm", "raw/**", "--cluster")
    assert penstock("data", "ls", "-o", "name", "--cluster").out == "other\n"
    assert "no object fits raw/**" in penstock("data", "rm", "raw/**", "--cluster", code=2).err


def test_nothing_is_overwritten_unless_it_is_said(penstock: OnGateway) -> None:
    penstock("data", "put", "-", "x", "--cluster", stdin="new")
    mine = penstock.cli.folder / "x"
    mine.write_text("mine")
    assert "--force" in penstock("data", "get", "x", "--cluster", code=2).err
    assert mine.read_text() == "mine"
    penstock("data", "get", "x", "--force", "--cluster")
    assert mine.read_text() == "new"


def test_what_was_changed_behind_our_back_is_noticed(penstock: OnGateway, gateway: Gateway) -> None:
    penstock("data", "put", "-", "x", "--cluster", stdin="abc")
    (meta,) = (gateway.store / "ours" / "records").iterdir()
    record = json.loads(meta.read_text())
    meta.write_text(json.dumps(record | {"sha256": "0" * 64}))
    ended = penstock("data", "get", "x", "--cluster", code=2)
    assert "is not what was recorded" in ended.err
    assert not (penstock.cli.folder / "x").exists()


def test_outputs_come_into_a_folder(penstock: OnGateway, gateway: Gateway) -> None:
    key = "executions/u-1/train/1/model"
    (gateway.store / "ours" / key).parent.mkdir(parents=True)
    (gateway.store / "ours" / key).write_bytes(b"weights")
    execution(
        gateway,
        "iris",
        {"name": "accuracy", "value": 0.97},
        {"name": "note", "value": "fine\nindeed"},
        {"name": "model", "file": file(key, b"weights")},
        {"name": "parts", "files": [file(key, b"weights"), None, file(key, b"weights")]},
    )
    shown = penstock("get", "outputs", "iris").out
    assert "accuracy  0.97\n" in shown
    assert f"model     {key} (7 bytes)" in shown
    penstock("get", "outputs", "iris", "-o", "out")
    out = penstock.cli.folder / "out"
    assert {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()} == {
        "accuracy.json": "0.97\n",
        "note.txt": "fine\nindeed",
        "model": "weights",
        "parts/0": "weights",
        "parts/2": "weights",
    }
    (out / "model").write_text("mine")
    assert "--force" in penstock("get", "outputs", "iris", "-o", "out", code=2).err
    assert (out / "model").read_text() == "mine"
    penstock("get", "outputs", "iris", "-o", "out", "--force")
    assert (out / "model").read_text() == "weights"


def test_damaged_outputs_do_not_come(penstock: OnGateway, gateway: Gateway) -> None:
    key = "executions/u-1/train/1/model"
    (gateway.store / "ours" / key).parent.mkdir(parents=True)
    (gateway.store / "ours" / key).write_bytes(b"wejghts")
    execution(gateway, "iris", {"name": "model", "file": file(key, b"weights")})
    ended = penstock("get", "outputs", "iris", "-o", "out", code=2)
    assert "is not what was recorded" in ended.err
    assert list((penstock.cli.folder / "out").iterdir()) == []


def test_outputs_that_are_not_there_yet(penstock: OnGateway, gateway: Gateway) -> None:
    execution(gateway, "slow", phase="Running")
    assert "has no outputs so far: it is Running" in penstock("get", "outputs", "slow", "-o", "out", code=2).err
    assert not (penstock.cli.folder / "out").exists()


class TestWhatIsWrong:
    def test_no_gateway_is_named(self, cli: Cli, gateway: Gateway) -> None:
        config = kubeconfig(cli.folder / "k", gateway.server.url, token=READER)
        ended = cli("data", "ls", "--cluster", "--kubeconfig", str(config))
        assert ended.code == 2
        assert "kubectl port-forward" in ended.err

    def test_a_certificate_is_no_token(self, cli: Cli, gateway: Gateway) -> None:
        user = {"client-certificate-data": "eA==", "client-key-data": "eA=="}
        config = kubeconfig(cli.folder / "k", gateway.server.url, **user)
        call = ("data", "ls", "--cluster", "--kubeconfig", str(config), "--gateway", gateway.url)
        ended = cli(*call)
        assert ended.code == 2
        assert "client certificate" in ended.err
        assert "kubectl create token" in ended.err
        assert cli(*call, "--token", READER).code == 0

    def test_no_right(self, cli: Cli, gateway: Gateway) -> None:
        ended = OnGateway(cli, gateway, READER)("data", "put", "-", "x", "--cluster", stdin="x", code=2)
        assert "you are not allowed to do this" in ended.err
        assert OnGateway(cli, gateway, "wrong")("data", "ls", "--cluster", code=2).err.startswith(
            "penstock: the gateway does not know you"
        )

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nowhere", "ftp://x"])
    def test_no_gateway_there(self, penstock: OnGateway, url: str) -> None:
        code = 3 if url.startswith("http:") else 2
        assert "gateway" in penstock("data", "ls", "--cluster", "--gateway", url, code=code).err

    def test_something_else_is_there(self, penstock: OnGateway, gateway: Gateway) -> None:
        assert (
            "is that the gateway"
            in penstock("data", "ls", "--cluster", "--gateway", f"{gateway.url}/healthz", code=2).err
        )
