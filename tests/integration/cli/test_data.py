"""`penstock data`, file inputs and `get outputs` on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from penstock.step.digest import digest

from .support import Cli

OUTPUTS = ({"name": "copy", "type": "file"}, {"name": "n", "type": "number"}, {"name": "t", "type": "string"})
SCRIPT = """
cp -rL "$INPUT_SOURCE" "$PENSTOCK_OUTPUTS/copy"
chmod -R +w "$PENSTOCK_OUTPUTS/copy"
echo n=3 >> "$PENSTOCK_OUTPUT"
echo t=hey >> "$PENSTOCK_OUTPUT"
"""


def copying(cli: Cli) -> str:
    step = {
        "name": "copy",
        "inputs": [{"name": "source", "from": "inputs.source"}],
        "script": SCRIPT,
        "outputs": list(OUTPUTS),
    }
    outputs = [{**each, "from": f"steps.copy.outputs.{each['name']}"} for each in OUTPUTS]
    return cli.pipeline([step], inputs=[{"name": "source", "type": "file"}], outputs=outputs)


def folder(root: Path) -> Path:
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "a é").write_text("a")
    (root / "link").symlink_to("deep/a é")
    return root


def ok(cli: Cli, *arguments: str, stdin: str = "") -> str:
    ended = cli(*arguments, stdin=stdin)
    assert ended.code == 0, ended
    return ended.out


def test_what_is_put_is_listed_known_got_and_removed(cli: Cli) -> None:
    cli.write("a.csv", "1,2\n")
    folder(cli.folder / "model")
    assert ok(cli, "data", "put", "a.csv", "model", "raw") == "raw/a.csv (4 bytes)\nraw/model/ (1 bytes)\n"
    ok(cli, "data", "put", "-", "notes/one", stdin="hello")
    assert ok(cli, "data", "ls", "-o", "name").split() == ["notes/one", "raw/a.csv", "raw/model"]
    info = json.loads(ok(cli, "data", "info", "raw/model", "-o", "json"))
    assert (info["folder"], info["size"], info["sha256"]) == (True, 1, digest(cli.folder / "model").sha256)
    ok(cli, "data", "get", "raw/*", "-o", "got")
    assert digest(cli.folder / "got" / "model") == digest(cli.folder / "model")
    (cli.folder / "got" / "model" / "deep" / "a é").write_text("mine to change")
    assert ok(cli, "data", "get", "notes/one", "-o", "-") == "hello"
    ok(cli, "data", "rm", "raw/**")
    assert ok(cli, "data", "ls", "-o", "name") == "notes/one\n"


def test_an_object_is_replaced_whatever_it_was(cli: Cli) -> None:
    folder(cli.folder / "one")
    cli.write("two", "2")
    for source in ("one", "two", "one", "one"):
        ok(cli, "data", "put", source, "x")
        ok(cli, "data", "get", "x", "-o", "back/", "--force")
        assert digest(cli.folder / "back" / "x") == digest(cli.folder / source)
    assert [path.name for path in (cli.home / "datastore").iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("put", "gone", "x"), "There is no file or folder gone"),
        (("put", "a.csv"), "penstock data put FILE PATH"),
        (("put", "a.csv", "../x"), "it must be without `..`"),
        (("put", "a.csv", "there/is/below"), "'there/is' is an object already"),
        (("put", "a.csv", "there"), "'there' is a folder that holds objects"),
        (("put", "-", "folder/"), "Standard input has no name"),
        (("get", "gone"), "there is no object 'gone' in the data store"),
        (("get", "go?e"), "no object fits go?e"),
        (("get", "there/is", "-o", "a.csv"), "a.csv is there already; --force replaces it"),
        (("rm", "there"), "to remove them all, name there/**"),
        (("ls", "--gateway", "http://x"), "add --cluster"),
        (("ls", "-n", "x"), "add --cluster"),
    ],
)
def test_what_is_wrong_is_told(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    cli.write("a.csv", "1")
    ok(cli, "data", "put", "-", "there/is", stdin="x")
    ended = cli("data", *arguments)
    assert (ended.code, said in ended.err) == (2, True), ended
    assert ok(cli, "data", "ls", "-o", "name") == "there/is\n"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A web server with one file."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "iris é.csv").write_text("from the web")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_input_is_given_by_path_by_upload_and_by_url(cli: Cli, url: str) -> None:
    file = copying(cli)
    cli.write("here", "from here")
    ok(cli, "data", "put", "-", "raw/x", stdin="from the data store")
    for given, content in (
        ("@here", "from here"),
        ("raw/x", "from the data store"),
        (f"{url}/iris%20%C3%A9.csv?signature=secret", "from the web"),
    ):
        ended = cli.run(file, "--input", f"source={given}")
        assert ended.code == 0, ended
        name = ended.object["metadata"]["name"]
        ok(cli, "get", "outputs", name, "--local", "-o", name)
        got = {path.name: path.read_text() for path in (cli.folder / name).iterdir()}
        assert got == {"copy": content, "n.json": "3\n", "t.txt": "hey"}
        assert "secret" not in ended.out
    listed = ok(cli, "data", "ls", "uploads", "-o", "name").split("\n")
    assert sorted(path.rpartition("/")[2] for path in listed if path) == ["here", "iris é.csv"]


def test_a_url_that_leads_nowhere_starts_nothing(cli: Cli, url: str) -> None:
    file = copying(cli)
    ended = cli.run(file, "--input", f"source={url}/gone?signature=secret")
    assert (ended.code, "/gone answered 404" in ended.err, "secret" in ended.err) == (2, True, False)
    assert cli.run(file, "--input", "source=http://127.0.0.1:9/x").code == 3
    assert not (cli.home / "penstock.db").exists()


def test_outputs_are_shown_fetched_and_never_overwritten_unasked(cli: Cli) -> None:
    file = copying(cli)
    folder(cli.folder / "model")
    assert cli.run(file, "--input", "source=@model", "--name", "one").code == 0
    assert "n     3\nt     hey\n" in ok(cli, "get", "outputs", "one", "--local")
    ok(cli, "get", "outputs", "one", "--local", "-o", "out")
    assert (cli.folder / "out" / "copy" / "deep" / "a é").read_text() == "a"
    (cli.folder / "out" / "n.json").write_text("mine")
    ended = cli("get", "outputs", "one", "--local", "-o", "out")
    assert (ended.code, "out/copy is there already; --force" in ended.err) == (2, True)
    assert (cli.folder / "out" / "n.json").read_text() == "mine"
    ok(cli, "get", "outputs", "one", "--local", "-o", "out", "--force")
    assert (cli.folder / "out" / "n.json").read_text() == "3\n"


def test_damaged_outputs_do_not_come(cli: Cli) -> None:
    file = copying(cli)
    cli.write("here", "from here")
    ended = cli.run(file, "--input", "source=@here", "--name", "one")
    (entry,) = [each["file"] for each in ended.object["status"]["outputs"] if "file" in each]
    stored = cli.home / "objects" / entry["key"].removeprefix("executions/")
    stored.chmod(0o644)
    stored.write_text("FROM here")
    ended = cli("get", "outputs", "one", "--local", "-o", "out")
    assert (ended.code, "was changed since it was taken in" in ended.err) == (3, True)
    assert not (cli.folder / "out" / "copy").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("outputs", "gone", "--local"), "there is no execution 'gone'"),
        (("outputs",), "Name one execution"),
        (("outputs", "a", "b"), "Name one execution"),
        (("outputs", "a", "--watch"), "get outputs: takes neither"),
        (("pipelines", "--force"), "--force is for outputs"),
        (("pipelines", "-o", "here"), "is none of table, wide, json, yaml, name"),
    ],
)
def test_get_tells_what_is_wrong(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    cli.home.mkdir()
    ended = cli("get", *arguments)
    assert (ended.code, said in ended.err) == (2, True), ended
