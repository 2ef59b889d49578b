"""Outputs of an execution on this machine that go to the data store, or nowhere."""

from __future__ import annotations

import re

from .support import Cli, execution, pipeline

TABLES = pipeline(
    "tables",
    [
        {
            "name": "write",
            "script": 'echo hello > "$PENSTOCK_OUTPUTS/table"; echo "log=much" > "$PENSTOCK_OUTPUT"',
            "outputs": [{"name": "table", "type": "file"}, {"name": "log", "type": "string"}],
        }
    ],
    outputs=[
        {"name": "table", "type": "file", "from": "steps.write.outputs.table"},
        {"name": "log", "type": "string", "from": "steps.write.outputs.log"},
    ],
)


def test_a_file_is_published_and_what_is_void_is_dropped(cli: Cli) -> None:
    wanted = [{"name": "table", "object": "tables/{date}/{execution_id}"}, {"name": "log", "void": True}]
    path = cli.write("run.yaml", TABLES, execution({"name": "one"}, pipeline={"name": "tables"}, outputs=wanted))
    done = cli("run", path, "--output", "json")
    assert done.code == 0
    (given,) = done.object["status"]["outputs"]
    assert given["name"] == "table"
    assert re.search(r"tables/[0-9]{8}/one$", cli("data", "ls").out.strip())


def test_what_cannot_be_published_is_an_error_with_its_place(cli: Cli) -> None:
    assert cli("data", "put", cli.write("a", "x"), "tables").code == 0
    wanted = [{"name": "table", "object": "tables/below"}]
    path = cli.write("run.yaml", TABLES, execution({"name": "one"}, pipeline={"name": "tables"}, outputs=wanted))
    done = cli("run", path, "--output", "json")
    assert done.code == 3
    assert done.object["status"]["reason"] == "PublishFailed"
    assert "cannot be published to tables/below" in done.object["status"]["message"]


def test_outputs_that_do_not_fit_are_found_before_anything_runs(cli: Cli) -> None:
    wanted = [{"name": "log", "object": "x"}, {"name": "tabel", "void": True}]
    path = cli.write("run.yaml", TABLES, execution({"name": "one"}, pipeline={"name": "tables"}, outputs=wanted))
    done = cli("run", path)
    assert done.code == 2
    assert "only an output of type file" in done.err
    assert 'no output "tabel"' in done.err
