"""`lint`, `graph`, `schema`, and the help: what is printed, and the exit codes."""

from __future__ import annotations

import json

import pytest

import penstock
from penstock.cli.main import COMMANDS

from .support import Cli, pipeline

GOOD = pipeline("good", [{"name": "a", "script": "true"}])
BAD = pipeline("bad", [{"name": "a", "scirpt": "true"}, {"name": "b", "script": "true", "when": "steps.c.status"}])
NO_IMAGE = pipeline("odd", [{"name": "a", "script": "true"}], defaults={"timeoutSeconds": 9})
GRAPH = pipeline(
    "drawn",
    [
        {"name": "split", "script": "true", "outputs": [{"name": "parts", "type": "array"}]},
        {"name": "train", "script": "true", "forEach": {"from": "steps.split.outputs.parts"}},
        {"name": "report", "script": "true", "dependsOn": ["train", "split"], "when": 'steps.train.status == "Failed"'},
    ],
    **{"finally": [{"name": "clean", "script": "true"}]},
)


def test_lint_of_good_files_says_how_many_and_gives_0(cli: Cli) -> None:
    done = cli("lint", cli.write("one.yaml", GOOD), cli.write("two.yaml", GRAPH))

    assert (done.code, done.out, done.err) == (0, "", "2 objects checked, 0 errors\n")


def test_lint_lists_everything_that_is_wrong_with_its_place_and_gives_1(cli: Cli) -> None:
    cli.write("folder/bad.yaml", GOOD, BAD)
    cli.write("folder/broken.yml", "a: [\n")
    cli.write("folder/notes.txt", "not a manifest")
    done = cli("lint", "folder", "gone.yaml")
    found = done.out.splitlines()

    assert done.code == 1
    assert any(line.startswith("folder/bad.yaml:") and "spec.steps[a].scirpt: unknown field" in line for line in found)
    assert any("error: spec.steps[b].when" in line and "column 1 of: steps.c.status" in line for line in found)
    assert any(line.startswith("folder/broken.yml:") and "is not YAML" in line for line in found)
    assert any(line.startswith("gone.yaml: error: no such file or folder") for line in found)
    assert "notes.txt" not in done.out
    assert done.err.endswith(f"{len(found)} errors\n")


def test_lint_prints_problems_for_programs(cli: Cli) -> None:
    bad, good = (
        cli("lint", "-", "-o", "json", stdin=json.dumps(BAD)),
        cli("lint", "-", "-o", "json", stdin=json.dumps(GOOD)),
    )

    assert (bad.code, bad.err) == (1, "")
    problems = json.loads(bad.out)
    assert problems[0]["loc"] == ["spec", "steps", 0, "scirpt"]
    assert {"severity", "path", "message", "line"} <= problems[0].keys()
    assert (good.code, json.loads(good.out)) == (0, [])


def test_lint_takes_warnings_for_errors_only_if_told(cli: Cli) -> None:
    file = cli.write("odd.yaml", NO_IMAGE)
    mild, strict = cli("lint", file), cli("lint", file, "--strict")

    assert ": warning: " in mild.out, mild.out
    assert (mild.code, strict.code) == (0, 1)
    assert "0 errors, 1 warning" in mild.err
    assert "1 error\n" in strict.err


def test_graph_as_text(cli: Cli) -> None:
    done = cli("graph", cli.write("drawn.yaml", GRAPH))

    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "pipeline drawn",
        "  split",
        "  train (for each item)  <- split",
        '  report  <- train, split  when steps.train.status == "Failed"',
        "finally",
        "  clean",
    ]


def test_graph_as_mermaid_of_the_pipeline_that_is_asked_for(cli: Cli) -> None:
    file = cli.write("two.yaml", GOOD, GRAPH)
    done, unclear = cli("graph", file, "-f", "mermaid", "--pipeline", "drawn"), cli("graph", file)

    assert done.code == 0
    assert done.out.splitlines() == [
        "flowchart TD",
        '  s0["split"]',
        '  s1[["train"]]',
        '  s2["report"]',
        '  s3(["clean"])',
        "  s0 --> s1",
        '  s1 -->|"steps.train.status == #quot;Failed#quot;"| s2',
        '  s0 -->|"steps.train.status == #quot;Failed#quot;"| s2',
        "  s2 -.-> s3",
    ]
    assert unclear.code == 2
    assert "There are several pipelines: good, drawn. Say which one with --pipeline NAME." in unclear.err


def test_graph_of_a_broken_pipeline_says_what_is_wrong(cli: Cli) -> None:
    done = cli("graph", cli.write("bad.yaml", BAD))

    assert (done.code, done.out) == (2, "")
    assert 'unknown field "scirpt"' in done.err


def test_schema_of_one_kind_and_of_all(cli: Cli) -> None:
    one, every = cli("schema", "pipeline"), cli("schema")

    assert (one.code, every.code) == (0, 0)
    assert json.loads(one.out)["properties"]["kind"]["const"] == "Pipeline"
    assert all(f'"{kind}"' in every.out for kind in ("Pipeline", "Deployment", "Execution"))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_every_command(cli: Cli, command: str) -> None:
    done = cli(*command.split(), "--help")

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: {f'penstock {command}'.strip()} ")
    assert max(len(line) for line in done.out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu", "p.yaml"], 'No such command "rnu". Did you mean "run"?'),
        (["deploy"], 'No such command "deploy". There are: run, serve, lint, graph, schema'),
        (
            ["run", "p.yaml", "--ouput", "json"],
            "No such option '--ouput'. (Did you mean one of: '--input', '--output'?)",
        ),
        (["--debgu", "run"], "No such option '--debgu'. Did you mean '--debug'?"),
        (["run"], "Missing argument 'FILE…'"),
        (["schema", "Pipelines"], "'Pipelines' is not one of"),
    ],
)
def test_misspelt_words_get_a_hint(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli(*arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_version(cli: Cli) -> None:
    done = cli("--version")

    assert (done.code, done.out) == (0, f"penstock, version {penstock.__version__}\n")
