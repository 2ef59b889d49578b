"""`penstock gc`: what goes, what stays, and what a kill leaves."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from penstock.local.home import Home, Ownership

from .support import Cli, until

MAKE = {
    "name": "make",
    "script": 'echo content > "$PENSTOCK_OUTPUTS/made"',
    "outputs": [{"name": "made", "type": "file"}],
}
OUTPUTS = [{"name": "made", "type": "file", "from": "steps.make.outputs.made"}]
ALL = ("--keep", "0", "--days", "0")


def run(cli: Cli, file: str, name: str) -> str:
    """Run it under this name; gives its uid."""
    ended = cli.run(file, "--name", name)
    assert ended.code == 0, ended
    return str(ended.object["metadata"]["uid"])


def files(home: Path) -> set[str]:
    return {
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and "penstock.db" not in path.name
    }


def folders(home: Path) -> set[str]:
    """The uids of which there are folders."""
    return {path.name for top in ("runs", "objects") for path in (home / top).iterdir()}


def test_the_newest_of_each_pipeline_and_the_young_stay(cli: Cli) -> None:
    first, second = cli.pipeline([MAKE], "one", outputs=OUTPUTS), cli.pipeline([MAKE], "two", outputs=OUTPUTS)
    uids = {name: run(cli, first, name) for name in ("a", "b", "c")} | {"d": run(cli, second, "d")}
    before = files(cli.home)

    young = cli("gc", "--keep", "0")
    assert (young.code, young.out, young.err) == (0, "", "0 executions, 0 bytes removed\n")
    dry = cli("gc", "--keep", "1", "--days", "0", "--dry-run")
    assert [line.split()[:2] for line in dry.out.splitlines()] == [
        ["NAME", "PHASE"],
        ["a", "Succeeded"],
        ["b", "Succeeded"],
    ]
    assert files(cli.home) == before

    done = cli("gc", "--keep", "1", "--days", "0")
    assert done.code == 0
    assert done.err.startswith("2 executions, ")
    assert folders(cli.home) == {uids["c"], uids["d"]}
    assert cli("get", "outputs", "c", "--local", "-o", "out").code == 0
    assert cli("get", "outputs", "a", "--local", "-o", "out").code == 2


def test_the_data_store_stays(cli: Cli) -> None:
    file = cli.pipeline(
        [{**MAKE, "inputs": [{"name": "s", "from": "inputs.s"}]}], inputs=[{"name": "s", "type": "file"}]
    )
    cli.write("given", "x")
    assert cli.run(file, "--input", "s=@given").code == 0
    cli("data", "put", "given", "mine")
    before = cli("data", "ls", "-o", "name").out
    assert "1 execution," in cli("gc", *ALL).err
    assert cli("data", "ls", "-o", "name").out == before
    assert folders(cli.home) == set()


def test_cached_outputs_stay_as_long_as_they_are_young_or_somebody_has_them(cli: Cli) -> None:
    file = cli.pipeline([{**MAKE, "cache": {}}], outputs=OUTPUTS)
    made, took = run(cli, file, "made"), run(cli, file, "took")
    assert cli("gc", "--keep", "1", "--days", "0", "--cache-days", "0").code == 0
    assert folders(cli.home) == {made, took}
    assert not (cli.home / "runs" / made).exists()
    assert cli("get", "outputs", "took", "--local", "-o", "out").code == 0
    assert (cli.folder / "out" / "made").read_text() == "content\n"

    assert cli("gc", *ALL).code == 0
    assert folders(cli.home) == {made}
    assert cli.run(file).phases == {"make": "Cached"}
    cli("gc", *ALL, "--cache-days", "0")
    # What an entry refers to goes one collection after it.
    assert folders(cli.home) == {made}
    cli("gc", *ALL, "--cache-days", "0")
    assert folders(cli.home) == set()
    assert cli.run(file).phases == {"make": "Succeeded"}


def test_files_with_the_keys_of_earlier_versions_are_found_stay_and_go_like_others(cli: Cli) -> None:
    file = cli.pipeline([{**MAKE, "cache": {}}], outputs=OUTPUTS)
    made = run(cli, file, "made")
    with sqlite3.connect(cli.home / "penstock.db") as connection:
        for table, column in (("executions", "head"), ("steps", "status"), ("attempts", "ended"), ("cache", "outputs")):
            renamed = f"UPDATE {table} SET {column} = replace({column}, '\"executions/', '\"')"
            connection.execute(renamed)
    connection.close()
    ended = cli.run(file, "--name", "took")
    assert ended.phases == {"make": "Cached"}
    assert [each["file"]["key"] for each in ended.object["status"]["outputs"]] == [f"{made}/make/1/made"]
    took = ended.object["metadata"]["uid"]

    assert cli("gc", "--keep", "1", "--days", "0", "--cache-days", "0").code == 0
    assert folders(cli.home) == {made, took}
    assert (cli.home / "objects" / made / "make" / "1" / "made").read_text() == "content\n"
    for _ in range(2):
        assert cli("gc", *ALL, "--cache-days", "0").code == 0
    assert folders(cli.home) == set()


def test_what_is_in_use_stays(cli: Cli) -> None:
    uid = run(cli, cli.pipeline([MAKE]), "a")
    with Ownership(Home(cli.home), uid):
        for more in ((), ("--dry-run",)):
            busy = cli("gc", *ALL, *more)
            assert busy.err.startswith("a is in use and stays\n0 executions")
    assert folders(cli.home) == {uid}
    assert cli("gc", *ALL).err.startswith("1 execution,")


@pytest.mark.parametrize("after", [1, 2, 3])
def test_what_a_kill_leaves_goes_the_next_time(cli: Cli, after: int) -> None:
    file = cli.pipeline([MAKE], outputs=OUTPUTS)
    uids = [run(cli, file, f"r{number}") for number in range(4)]
    for uid in uids:  # so that removing them takes a while
        for number in range(2_000):
            (cli.home / "runs" / uid / f"{number}").touch()

    def left() -> int:
        with sqlite3.connect(cli.home / "penstock.db") as connection:
            return int(connection.execute("SELECT count(*) FROM executions").fetchone()[0])

    collecting = cli.start("gc", *ALL)
    until(lambda: left() <= len(uids) - after)
    collecting.kill()
    assert cli("gc", *ALL).code == 0
    assert (left(), folders(cli.home)) == (0, set())


def test_without_a_home_it_says_so(cli: Cli) -> None:
    ended = cli("gc")
    assert (ended.code, "name the one of your runs with --home" in ended.err) == (2, True)
    assert not cli.home.exists()
