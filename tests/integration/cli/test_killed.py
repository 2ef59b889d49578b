"""`kill -9` of penstock at any time: nothing that finished is lost, and no step runs twice."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from typing import Any

from .support import Cli, Running, until

SEED = 20_240_607
KILLS = 10


def ran(name: str, then: str = "", **more: Any) -> dict[str, Any]:
    """A step that appends its name to the file `ran` beside the manifest."""
    return {"name": name, "script": f'echo {name} >> "$FOLDER/ran"\n{then}', **more}


def wait_for(file: str) -> str:
    """Shell that waits until a file beside the manifest is there."""
    return f'while ! test -e "$FOLDER/{file}"; do sleep 0.01; done'


def manifest(cli: Cli, steps: list[dict[str, Any]], **spec: Any) -> str:
    for step in steps:
        step["env"] = [{"name": "FOLDER", "value": str(cli.folder)}]
    return cli.pipeline(steps, **spec)


def test_the_same_command_goes_on_and_adopts_what_still_runs(cli: Cli) -> None:
    file = manifest(
        cli,
        [
            ran("first", outputs=[{"name": "word", "type": "string"}])
            | {"script": 'echo first >> "$FOLDER/ran"; echo word=kept >> "$PENSTOCK_OUTPUT"'},
            ran("second", wait_for("go"), dependsOn=["first"]),
            ran("third", dependsOn=["second"]),
        ],
        outputs=[{"name": "word", "type": "string", "from": "steps.first.outputs.word"}],
    )
    before = cli.start("run", file)
    until(lambda: cli.lines("ran") == ["first", "second"], "the second step runs")
    before.kill()
    name = before.err.split("execution ", 1)[1].split()[0]

    again = cli.start("run", file, "--output", "json")
    until(lambda: "second                   Running" in again.err, "the second step was adopted")
    cli.write("go", "")
    done = again.ended()

    assert done.code == 0, done.err
    assert f"going on with {name}, which was interrupted (--new starts afresh)" in done.err
    assert done.object["metadata"]["name"] == name
    assert done.values == {"word": "kept"}
    assert {step["attempts"] for step in done.steps.values()} == {1}
    assert cli.lines("ran") == ["first", "second", "third"]


def test_a_step_that_ended_while_no_penstock_ran_is_taken_as_it_ended(cli: Cli) -> None:
    leave = 'echo answer=42 >> "$PENSTOCK_OUTPUT"; echo left > "$PENSTOCK_OUTPUTS/table"; exit 0'
    outputs = [{"name": "answer", "type": "number"}, {"name": "table", "type": "file"}]
    file = manifest(
        cli,
        [
            ran("slow", f"{wait_for('go')}\n{leave}", outputs=outputs),
            ran("bad", f"{wait_for('go')}\nexit 9", onFailure="Continue"),
            ran("last", dependsOn=["slow", "bad"], when='steps.bad.exitCode == 9 && steps.slow.status == "Succeeded"'),
        ],
        outputs=[
            {"name": "answer", "type": "number", "from": "steps.slow.outputs.answer"},
            {"name": "table", "type": "file", "from": "steps.slow.outputs.table"},
        ],
    )
    before = cli.start("run", file)
    until(lambda: sorted(cli.lines("ran")) == ["bad", "slow"], "both run")
    before.kill()
    cli.write("go", "")
    until(lambda: not cli.left_behind(), "both have ended")

    done = cli.run(file)

    assert done.code == 0, done.err
    assert done.phases == {"slow": "Succeeded", "bad": "Failed", "last": "Succeeded"}
    assert done.values == {"answer": 42}
    assert sorted(cli.lines("ran")) == ["bad", "last", "slow"]


def kill_when_ran(cli: Cli, running: Running, goal: int) -> None:
    """Kill it as soon as so many steps have begun, or if that is so already, as soon as it is at work."""
    if goal == len(cli.lines("ran")):
        until(lambda: "execution" in running.err or not running.alive, "it is at work")
    until(lambda: len(cli.lines("ran")) >= goal or not running.alive, "more steps have begun")
    running.kill()


def test_killed_again_and_again_at_any_moment_every_step_ran_exactly_once(cli: Cli) -> None:
    """The moment of each kill is drawn in lines of progress (what was written so far), not in time."""
    chance = random.Random(SEED)
    pause = "sleep 0.05"
    file = manifest(
        cli,
        [
            ran("one", pause),
            ran("two", pause, dependsOn=["one"]),
            ran("item", pause, dependsOn=["two"], forEach={"items": [1, 2, 3]}),
            ran("four", pause, dependsOn=["item"]),
            ran("five", pause, dependsOn=["four"]),
        ],
        **{"finally": [ran("six", wait_for("go")) | {"env": [{"name": "FOLDER", "value": str(cli.folder)}]}]},
    )
    kills = 0
    while kills < KILLS and len(cli.lines("ran")) < 8:
        running = cli.start("run", file)
        goal = min(8, len(cli.lines("ran")) + chance.choice((0, 1, 1, 2)))
        kill_when_ran(cli, running, goal)
        kills += 1
        database = sqlite3.connect(cli.home / "penstock.db")
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
    cli.write("go", "")

    done = cli.run(file)

    assert done.code == 0, done.err
    assert kills >= 5
    assert Counter(cli.lines("ran")) == {"one": 1, "two": 1, "item": 3, "four": 1, "five": 1, "six": 1}
    assert len(list((cli.home / "runs").iterdir())) == 1, "it was one execution all the time"


def test_two_penstocks_on_one_home_never_run_the_same_execution(cli: Cli) -> None:
    file = manifest(cli, [ran("slow", wait_for("go"))])
    crashed = cli.start("run", file)
    until(lambda: cli.lines("ran") == ["slow"], "it runs")
    crashed.kill()

    both = [cli.start("run", file, "--output", "json") for _ in range(2)]
    until(lambda: len(cli.lines("ran")) == 2, "one goes on, the other has started an execution of its own")
    cli.write("go", "")
    ended = [running.ended() for running in both]

    assert [done.code for done in ended] == [0, 0]
    assert sum("going on with" in done.err for done in ended) == 1
    assert len({done.object["metadata"]["name"] for done in ended}) == 2
    assert cli.lines("ran") == ["slow"] * 2


def test_new_and_other_inputs_start_afresh(cli: Cli) -> None:
    step = ran("slow", wait_for("go"), inputs=[{"name": "word", "from": "inputs.word"}])
    file = manifest(cli, [step], inputs=[{"name": "word", "type": "string", "default": "a"}])
    crashed = cli.start("run", file)
    until(lambda: cli.lines("ran") == ["slow"], "it runs")
    crashed.kill()
    cli.write("go", "")

    for arguments in (["--new"], ["--input", "word=b"], ["--name", "other"]):
        done = cli.run(file, *arguments)
        assert (done.code, "going on" in done.err) == (0, False), done.err
    assert "going on" in cli.run(file).err
    assert cli.lines("ran") == ["slow"] * 4


def test_a_change_beside_the_manifest_does_not_make_it_start_afresh(cli: Cli) -> None:
    file = manifest(cli, [ran("slow", wait_for("go")), ran("late", dependsOn=["slow"])])
    crashed = cli.start("run", file, "--source", str(cli.folder))
    until(lambda: cli.lines("ran") == ["slow"], "it runs")
    crashed.kill()
    cli.write("result.json", "something new beside the manifest")
    cli.write("go", "")

    done = cli.run(file, "--source", str(cli.folder))
    assert "going on with" in done.err
    assert "have changed since; it keeps those that it began with" in done.err
    assert cli.lines("ran") == ["slow", "late"]


def test_a_file_that_is_given_counts_by_its_content(cli: Cli) -> None:
    step = ran("slow", wait_for("go"), inputs=[{"name": "table", "from": "inputs.table"}])
    file = manifest(cli, [step], inputs=[{"name": "table", "type": "file"}])
    given = f"table=@{cli.write('table.csv', 'a,b')}"
    crashed = cli.start("run", file, "-i", given)
    until(lambda: cli.lines("ran") == ["slow"], "it runs")
    crashed.kill()
    cli.write("go", "")

    cli.write("table.csv", "c,d")
    assert "going on" not in cli.run(file, "-i", given).err
    cli.write("table.csv", "a,b")
    assert "going on" in cli.run(file, "-i", given).err
    assert cli.lines("ran") == ["slow"] * 2
