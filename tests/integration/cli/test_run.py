"""`penstock run`: what may be given, what is printed where, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from penstock.api.execution import Execution

from .support import Cli, execution, pipeline

SUM = {
    "name": "sum",
    "inputs": [{"name": "numbers", "from": "steps.square.outputs.square"}],
    "outputs": [{"name": "total", "type": "number"}, {"name": "table", "type": "file"}],
    "shell": ["python3", "-c"],
    "script": """
import json, os
from pathlib import Path
numbers = json.loads(os.environ["INPUT_NUMBERS"])
Path(os.environ["PENSTOCK_OUTPUTS"], "table").write_text("".join(f"{number}\\n" for number in numbers))
with open(os.environ["PENSTOCK_OUTPUT"], "a") as file:
    print(f"total={sum(numbers)}", file=file)
""",
}
SQUARE = {
    "name": "square",
    "forEach": {"from": "inputs.numbers"},
    "inputs": [{"name": "number", "from": "item"}],
    "outputs": [{"name": "square", "type": "number"}],
    "script": 'echo "square=$((INPUT_NUMBER * INPUT_NUMBER))" >> "$PENSTOCK_OUTPUT"',
}
COUNT = {
    "name": "count",
    "inputs": [{"name": "table", "from": "steps.sum.outputs.table"}],
    "outputs": [{"name": "lines", "type": "number"}],
    "script": 'echo "lines=$(wc -l < "$INPUT_TABLE")" >> "$PENSTOCK_OUTPUT"',
}
SQUARES: dict[str, Any] = {
    "inputs": [{"name": "numbers", "type": "array", "default": [1, 2, 3]}],
    "outputs": [
        {"name": "total", "type": "number", "from": "steps.sum.outputs.total"},
        {"name": "lines", "type": "number", "from": "steps.count.outputs.lines"},
        {"name": "table", "type": "file", "from": "steps.sum.outputs.table"},
    ],
}
OK = [{"name": "only", "script": "true"}]


def squares(cli: Cli) -> str:
    return cli.pipeline([SQUARE, SUM, COUNT], name="squares", **SQUARES)


def test_values_files_and_a_fan_out_end_in_a_finished_execution_as_kubectl_shows_it(cli: Cli) -> None:
    done = cli.run(squares(cli), "--input", "numbers=[2, 3]")

    assert done.code == 0, done.err
    assert list(done.object) == ["apiVersion", "kind", "metadata", "spec", "status"]
    assert done.object["metadata"]["name"].startswith("squares-")
    assert {"uid", "namespace", "creationTimestamp"} <= done.object["metadata"].keys()
    assert done.object["spec"] == {"pipeline": {"name": "squares"}, "inputs": [{"name": "numbers", "value": [2, 3]}]}
    assert done.object["status"]["phase"] == "Succeeded"
    assert done.values == {"total": 13, "lines": 2}
    table = next(each["file"] for each in done.object["status"]["outputs"] if each["name"] == "table")
    assert (table["size"], table["key"]) == (4, f"executions/{done.object['metadata']['uid']}/sum/1/table")
    assert (done.steps["square"]["itemCount"], done.steps["square"]["itemsFinished"]) == (2, 2)
    assert "square[1]" in done.err, "progress is told on standard error"


def test_yaml_is_the_same_object_and_quiet_shows_no_progress(cli: Cli) -> None:
    done = cli("run", squares(cli), "--output", "yaml", "--quiet", "--name", "mine")

    assert (done.code, done.err) == (0, "")
    found = yaml.safe_load(done.out)
    Execution.model_validate_json(json.dumps(found), strict=True)
    assert found["metadata"]["name"] == "mine"
    assert "generateName" not in found["metadata"]


def test_text_says_the_phase_and_the_outputs_and_where_files_are(cli: Cli) -> None:
    done = cli("run", squares(cli), "--name", "mine", "--home", "here")

    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].startswith("mine Succeeded in ")
    assert lines[1].split() == ["total", "14"]
    table = Path(lines[3].split()[1])
    assert table.parts[:2] == ("here", "objects")
    assert (cli.folder / table).read_text() == "1\n4\n9\n"
    assert not cli.home.exists(), "--home wins over PENSTOCK_HOME"


def test_manifests_come_on_standard_input_as_well(cli: Cli) -> None:
    manifest = json.dumps(pipeline("piped", [{"name": "read", "script": "grep -q here beside.txt"}]))
    cli.write("beside.txt", "here\n")
    done = cli.run("-", stdin=manifest)

    assert done.code == 0, done.err
    assert done.object["spec"]["pipeline"]["name"] == "piped"


def test_an_execution_that_holds_its_pipeline(cli: Cli) -> None:
    spec = pipeline("", [SQUARE, SUM, COUNT], **SQUARES)["spec"]
    given = execution({"name": "inline"}, pipelineSpec=spec, inputs=[{"name": "numbers", "value": [5]}])
    done = cli.run(cli.write("inline.yaml", given))

    assert done.code == 0, done.err
    assert (done.object["metadata"]["name"], done.values["total"]) == ("inline", 25)


def test_an_execution_that_refers_to_a_pipeline_of_the_same_file_and_is_renamed(cli: Cli) -> None:
    given = execution(
        {"name": "mine", "labels": {"team": "blue"}},
        pipeline={"name": "second"},
        inputs=[{"name": "word", "value": "from the manifest"}],
    )
    say = {
        "name": "say",
        "inputs": [{"name": "word", "from": "inputs.word"}],
        "script": 'test "$INPUT_WORD" = "from the command line"',
    }
    second = pipeline("second", [say], inputs=[{"name": "word", "type": "string"}])
    file = cli.write("all.yaml", pipeline("first", [{"name": "fail", "script": "exit 1"}]), second, given)
    done = cli.run(file, "--name", "other", "-i", "word=from the command line")

    assert done.code == 0, done.err
    assert done.object["metadata"]["name"] == "other"
    assert done.object["metadata"]["labels"] == {"team": "blue"}, "a new name changes nothing else"
    assert list(done.steps) == ["say"]


def test_which_pipeline_is_asked_for_where_there_are_several(cli: Cli) -> None:
    file = cli.write("two.yaml", pipeline("first", [{"name": "a", "script": "true"}]), pipeline("second", OK))

    unclear, clear = cli.run(file), cli.run(file, "--pipeline", "second")

    assert (unclear.code, clear.code) == (2, 0)
    assert "There are several pipelines: first, second. Say which one with --pipeline NAME." in unclear.err
    assert list(clear.steps) == ["only"]


def test_inputs_of_every_type(cli: Cli) -> None:
    types = ["string", "number", "boolean", "json", "array", "file"]
    names = [*types, "folder", "at", "read"]
    step = {
        "name": "see",
        "inputs": [{"name": name, "from": f"inputs.{name}"} for name in names],
        "outputs": [{"name": "seen", "type": "json"}],
        "function": "see:see",
    }
    cli.write(
        "src/see.py",
        "import json\nfrom pathlib import Path\n"
        "def see(**given):\n"
        "    given['file'] = Path(given['file']).read_text()\n"
        "    given['folder'] = sorted(path.name for path in Path(given['folder']).iterdir())\n"
        "    return {'seen': given}\n",
    )
    cli.write("data/one.txt", "1")
    cli.write("data/two.txt", "2")
    cli.write("long.json", '{"from": ["a", "file"]}')
    declared = [{"name": name, "type": name} for name in types]
    declared += [{"name": "folder", "type": "file"}, {"name": "at", "type": "string"}, {"name": "read", "type": "json"}]
    output = [{"name": "seen", "type": "json", "from": "steps.see.outputs.seen"}]
    given = {
        "string": "a=b 3",
        "number": "2.5",
        "boolean": "true",
        "json": '{"k": null}',
        "array": "[1, []]",
        "file": "@data/one.txt",
        "folder": "@data",
        "at": "@@home",
        "read": "@long.json",
    }
    options = [f"--input={name}={text}" for name, text in given.items()]
    done = cli.run(cli.pipeline([step], inputs=declared, outputs=output), *options)

    assert done.code == 0, done.err
    assert done.values["seen"] == {
        "string": "a=b 3",
        "number": 2.5,
        "boolean": True,
        "json": {"k": None},
        "array": [1, []],
        "file": "1",
        "folder": ["one.txt", "two.txt"],
        "at": "@home",
        "read": {"from": ["a", "file"]},
    }


def test_a_failure_is_exit_code_1_and_shows_the_end_of_the_log(cli: Cli) -> None:
    script = "seq 100; echo cannot go on >&2; exit 7"
    done = cli("run", cli.pipeline([{"name": "bad", "script": script}]), "--quiet")

    assert done.code == 1
    assert "Failed in" in done.out and 'step "bad": cannot go on' in done.out
    assert "\n  99\n  100\n  cannot go on\n" in done.err
    assert "\n  1\n" not in done.err
    log = Path(done.err.split("log ", 1)[1].splitlines()[0])
    assert log.read_text().endswith("100\ncannot go on\n")


def test_an_error_of_the_platform_is_exit_code_3(cli: Cli) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    done = cli.run(cli.pipeline([{"name": "secret", "env": env, "script": "true"}]))

    assert done.code == 3
    assert done.object["status"]["phase"] == "Error"
    assert "spec.steps[secret].env[TOKEN].valueFrom: Secret 's' exists only in a cluster" in done.err


def test_a_reader_that_goes_away_changes_neither_the_run_nor_its_exit_code(cli: Cli) -> None:
    bad = cli.pipeline([{"name": "bad", "script": "echo ran >> $MARKER; exit 1"}], name="bad")
    good = cli.pipeline(
        [
            {"name": "a", "script": "echo ran >> $MARKER"},
            {"name": "b", "script": "echo ran >> $MARKER", "dependsOn": ["a"]},
        ],
        name="good",
    )
    script = f"""
        export MARKER=$PWD/marker
        $PENSTOCK run {good} --output json -q | head -c 0; echo ${{PIPESTATUS[0]}}
        $PENSTOCK run {bad} --output json -q | head -c 0; echo ${{PIPESTATUS[0]}}
        {{ $PENSTOCK run {good}; echo $? >&3; }} 2>&1 >/dev/null 3>&1 | head -c 0
        $PENSTOCK run {good} 2>/dev/full; echo $?
        $PENSTOCK run {good} 2>&- >/dev/null; echo $?
        $PENSTOCK lint {good} | head -c 0; echo ${{PIPESTATUS[0]}}
        $PENSTOCK schema | head -c 0; echo ${{PIPESTATUS[0]}}
    """
    done = cli.shell(script)

    assert [line for line in done.out.splitlines() if line.isdigit()] == ["0", "1", "0", "0", "0", "0"]
    assert cli.lines("marker") == ["ran"] * 9
    assert "Traceback" not in done.err and "Exception" not in done.err


def test_a_standard_output_that_cannot_be_written_is_told(cli: Cli) -> None:
    done = cli.shell(f"$PENSTOCK run -q {cli.pipeline(OK)} --output json >/dev/full")

    assert done.code == 3
    assert done.err.startswith("penstock: standard output cannot be written: No space left on device")
    assert len(done.err.splitlines()) == 1
