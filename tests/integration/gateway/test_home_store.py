"""The files of one machine behind the gateway: its API, signed URLs, and `penstock data` on both sides."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn

from integration.cli.support import Cli
from penstock.cli.transfers import download
from penstock.engine.types import AttemptId
from penstock.gateway.access import Cluster, connecting
from penstock.gateway.app import application
from penstock.kube.credentials import find_source
from penstock.local.filestore import HomeStore
from penstock.local.home import Home
from penstock.local.objects import Objects
from penstock.step.archive import Packing
from penstock.step.digest import digest
from penstock.storage.paths import output_key

from .support import ApiServer, Gateway, OnGateway, kubeconfig, until


@dataclass
class HomeGateway(Gateway):
    """A gateway over a home, whose namespace is `ours`, in a thread."""

    home: Home = field(init=False)
    objects: Objects = field(init=False)

    def start(self) -> None:
        self.home = Home(self.folder / ".penstock")
        self.objects = Objects(self.home)
        self._files = HomeStore(self.home, namespace="ours")
        source = find_source({}, kubeconfig=kubeconfig(self.folder / "config", self.server.url))
        app = application(self._files, self._files.keys, Cluster(connecting(source)))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        asyncio.run(self._files.close())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HomeGateway]:
    server = ApiServer()
    found = HomeGateway(tmp_path, server)
    found.start()
    yield found
    found.stop()
    server.close()


@pytest.fixture
def penstock(tmp_path: Path, home: HomeGateway) -> OnGateway:
    return OnGateway(Cli(tmp_path), home)


def tree(folder: Path) -> Path:
    (folder / "sub é").mkdir(parents=True)
    (folder / "sub é" / "a b").write_text("content\n" * 1_000)
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("run")
    return folder


def test_it_is_ready(home: HomeGateway) -> None:
    assert home.ask("GET", "/readyz").status == 200


def test_what_is_put_through_the_api_is_on_the_machine_and_the_other_way_round(
    home: HomeGateway, tmp_path: Path
) -> None:
    content = b"sepal,petal\n1,2\n"
    put = home.put("raw/iris é 1.csv", content)
    assert (put.status, put.json["sha256"]) == (200, hashlib.sha256(content).hexdigest())
    assert home.objects.path(home.objects.data("raw/iris é 1.csv")).read_bytes() == content

    (tmp_path / "local").write_bytes(b"0123456789")
    here = home.objects.put_data(tmp_path / "local", "raw/local")
    assert [(each["path"], each["size"]) for each in home.api("GET", "data").json["objects"]] == [
        ("raw/iris é 1.csv", len(content)),
        ("raw/local", 10),
    ]
    info = home.api("GET", "meta/raw/local").json
    assert (info["sha256"], info["size"], info["folder"]) == (here.sha256, 10, False)
    link = home.api("GET", "data/raw/local").headers["location"]
    part = home.ask("GET", link, headers={"Range": "bytes=2-4"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")

    assert home.api("DELETE", "data/raw/local").status == 204
    assert [each.path for each in home.objects.list_data()] == ["raw/iris é 1.csv"]
    assert home.api("DELETE", "data/raw/local").problem[0] == 404


def test_a_folder_comes_as_an_archive_and_its_parts_are_those_of_the_whole(home: HomeGateway, tmp_path: Path) -> None:
    archive = b"".join(Packing(tree(tmp_path / "tree")))
    home.objects.put_data(tmp_path / "tree", "tree")
    link = home.api("GET", "data/tree").headers["location"]
    whole = home.ask("GET", link)
    assert (whole.body, whole.headers["content-length"]) == (archive, str(len(archive)))
    part = home.ask("GET", link, headers={"Range": f"bytes={len(archive) // 2}-", "If-Match": whole.headers["etag"]})
    assert (part.status, part.body) == (206, archive[len(archive) // 2 :])
    assert home.ask("HEAD", link).headers["etag"] == whole.headers["etag"]


def test_outputs_of_steps_are_fetched_and_nobody_gets_a_url_to_write_them(home: HomeGateway, tmp_path: Path) -> None:
    model = home.objects.put(tree(tmp_path / "made"), output_key("0b1c", AttemptId("fit", -1, 1), "model"))
    entry = {"key": model.key, "sha256": model.sha256, "size": model.size, "folder": True}
    home.server.executions["ours", "iris-1"] = {
        "metadata": {"name": "iris-1", "namespace": "ours"},
        "status": {"phase": "Succeeded", "outputs": [{"name": "model", "file": entry}]},
    }
    found = home.api("GET", "executions/iris-1/outputs?transfers=true").json
    (one,) = found["transfers"]["inputs"]
    one["url"] = home.url + one["url"]
    (tmp_path / "out").mkdir()
    download(found["transfers"], tmp_path / "out", label="model", size=model.size)
    assert digest(tmp_path / "out" / "model").sha256 == model.sha256
    assert home.api("GET", "executions/iris-1/outputs/model").status == 307
    wanted = {"path": "../executions/0b1c/fit/1/model", "size": 1}
    assert home.api("POST", "uploads", body=wanted).problem[0] == 400


def test_folders_and_files_go_there_and_back_by_the_command_line(penstock: OnGateway, home: HomeGateway) -> None:
    folder = penstock.cli.folder
    named = digest(tree(folder / "model"))
    penstock("data", "put", "--cluster", "model", "models/a é")
    kept = home.objects.data("models/a é")
    assert (kept.sha256, kept.folder) == (named.sha256, True)
    penstock("data", "put", "--cluster", "-", "models/text", stdin="hey")
    assert home.objects.path(home.objects.data("models/text")).read_text() == "hey"

    home.objects.put_data(folder / "model", "models/b")
    penstock("data", "get", "--cluster", "models/a é", "models/b", "-o", "back")
    assert [digest(folder / "back" / name).sha256 for name in ("a é", "b")] == [named.sha256] * 2
    listed = penstock("data", "ls", "--cluster", "-o", "name").out.split("\n")
    assert listed == ["models/a é", "models/b", "models/text", ""]
    penstock("data", "rm", "--cluster", "models/**")
    assert list(home.objects.list_data()) == []
