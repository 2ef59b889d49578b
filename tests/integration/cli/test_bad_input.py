"""Whatever is given wrong ends in one clear message that names the place and the remedy, and in the right exit code.

All cases run side by side, two at a time: most of their time is the start of processes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from .support import Cli, Ended, execution, pipeline

MARK = 'echo ran >> "$FOLDER/ran"'


@dataclass(frozen=True)
class Case:
    """What is given and what is said.

    Attributes:
        arguments: of `penstock run`; the folder has `p.yaml`, with `step` as its only step, or what `files` says.
        says: pieces of what is said.
        code: the exit code; 2: nothing may have been stored.
        step: fields of the step, or text that it appends to `$PENSTOCK_OUTPUT` through the shell.
        spec: further fields of the pipeline.
        files: more files.
        prepare: what else is done before.
        env: further variables.
    """

    says: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    code: int = 1
    step: Mapping[str, Any] | str = "true"
    spec: Mapping[str, Any] | None = None
    files: Mapping[str, str] | None = None
    prepare: Callable[[Cli], object] | None = None
    env: Mapping[str, str] | None = None


INPUTS = {
    "inputs": [
        {"name": "rows", "type": "number"},
        {"name": "word", "type": "string", "maxBytes": 5, "default": "x"},
        {"name": "table", "type": "file", "required": False},
        {"name": "flag", "type": "boolean", "default": True},
        {"name": "data", "type": "json", "default": {}},
        {"name": "list", "type": "array", "default": []},
    ]
}
NUMBER = [{"name": "n", "type": "number"}]


def wrong(*says: str, **more: Any) -> Case:
    """Found before anything is stored."""
    return Case(says, code=2, **more)


def inputs(*given: str, says: tuple[str, ...]) -> Case:
    """Options `--input` for a pipeline that has all types."""
    return wrong(*says, arguments=tuple(f"--input={text}" for text in given), spec=INPUTS)


def fails(step: Mapping[str, Any] | str, *says: str, **more: Any) -> Case:
    """The step is to blame."""
    return Case(says, step=step, **more)


def gives(script: str, *says: str, **more: Any) -> Case:
    """The outputs of the step are to blame; it declares the number `n`."""
    return fails({"outputs": NUMBER, "script": script, **more}, '(InvalidOutputs): step "a": ', *says)


def broken(cli: Cli) -> None:
    cli.home.mkdir()
    (cli.home / "penstock.db").write_bytes(b"not a database, whatever it may once have been " * 100)


def torn(cli: Cli) -> None:
    """A sound header, and then rubbish in the pages."""
    assert cli("run", "p.yaml", "-q").code == 0
    path = cli.home / "penstock.db"
    path.write_bytes(path.read_bytes()[:200] + b"\xaa" * (path.stat().st_size - 200))


def newer(cli: Cli) -> None:
    cli.home.mkdir()
    database = sqlite3.connect(cli.home / "penstock.db")
    database.execute("PRAGMA user_version = 99")
    database.close()


def taken(cli: Cli) -> None:
    assert cli("run", "p.yaml", "--name", "mine", "-q").code == 0


SAY_NUMBER = 'echo "n=%s" >> "$PENSTOCK_OUTPUT"'
FUNCTIONS = {
    "fn.py": "def ok():\n    return {}\n\ndef wants(rows):\n    return {}\n\n"
    "def raises():\n    raise KeyError('boom')\n\n"
    "def number():\n    return {'n': 'many'}\n\nvalue = 3\n"
}
LONG = "x" * 30_000

CASES = {
    # manifests
    "broken YAML": wrong("p.yaml:2: is not YAML: ", "is a bracket or a comma missing?", files={"p.yaml": "a: [1, 2\n"}),
    "no manifest": wrong('p.yaml:1: wanted an object (apiVersion, kind, metadata, spec), got the text "hello"',
                         files={"p.yaml": "hello\n"}),
    "binary file": wrong("p.yaml", "UTF-8", files={"p.yaml": "\udcff\udcfe"}),
    "unknown field": wrong('p.yaml:', 'spec.steps[a].scirpt: unknown field "scirpt"; did you mean "script"?',
                           step={"scirpt": "true"}),
    "wrong type": wrong("spec.steps[a].timeoutSeconds: wanted ", step={"script": "true", "timeoutSeconds": "soon"}),
    "unknown step": wrong("spec.steps[a].inputs[x].from", 'steps.b', "column 1",
                          step={"script": "true", "inputs": [{"name": "x", "from": "steps.b.outputs.c"}]}),
    "missing file": wrong("gone.yaml: no such file or folder", arguments=("gone.yaml",)),
    "no pipeline for an execution": wrong('There is no Pipeline in what was given.', arguments=("e.yaml",)),
    "a pipeline that is not there": wrong('There is no pipeline "q"; there are: p.', arguments=("--pipeline", "q")),
    "suspended": wrong("spec.suspend is true, so nothing would be started here", arguments=("suspended.yaml",)),
    "object that is not there": wrong("spec.inputs[table].object: there is no object 'raw/gone.csv' in the data store",
                                      arguments=("object.yaml",), spec=INPUTS),
    "object outside the store": wrong('"../p.yaml" is not allowed: wanted a path inside the data store',
                                      arguments=("outside.yaml",), spec=INPUTS),
    # the command line
    "bad name": wrong('--name "Not A Name": "Not A Name" is not allowed: wanted lower case letters, digits, dashes',
                      arguments=("--name", "Not A Name")),
    "taken name": wrong("metadata.name: there is an execution 'mine' already; choose another name",
                        arguments=("--name", "mine"), prepare=taken),
    "no parallelism": wrong("--parallel", "1<=x<=1000", arguments=("--parallel", "0")),
    "no source": wrong("--source", "'gone' does not exist", arguments=("--source", "gone")),
    "unknown runner": wrong("--runner", "'process', 'docker', 'podman'", arguments=("--runner", "dokcer")),
    # inputs
    "missing input": inputs(says=('input "rows" (number) is required; give it a value.', "--input NAME=VALUE")),
    "unknown input": inputs("row=1", says=('--input "row": the pipeline has no such input; did you mean "rows"?',)),
    "input without a value": inputs("rows", says=('--input "rows": write it as name=value or name=@file.',)),
    "input given twice": inputs("rows=1", "rows=2", says=('--input "rows": given twice.',)),
    "input of wrong type": inputs("rows=many", says=('--input "rows": wanted a number, got the string "many".',)),
    "several things wrong": inputs(
        "rows=NaN", "word=too long", "table=../t.csv", "flag=yes", "data={", "list={}",
        says=(
            '--input "rows": wanted a number, got the string "NaN".',
            '--input "word": wanted a string of at most 5 bytes in UTF-8, got 8 bytes.',
            '--input "table": is a file; write table=@FILE for one of this machine',
            '--input "flag": wanted true or false, got the string "yes".',
            '--input "data": wanted JSON, got the string "{", which is not JSON',
            '--input "list": wanted a JSON array, got the string "{}".',
        ),
    ),
    "object of an option that is not there": inputs("rows=1", "table=raw/t.csv",
                                      says=("spec.inputs[table].object: there is no object 'raw/t.csv'", "=@<file>")),
    "URL that names a user": inputs("rows=1", "table=http://me:secret@host/t.csv",
                                    says=('--input "table": http://host/t.csv is not a URL that can be fetched',)),
    "input file that is not there": inputs("rows=1", "table=@gone", says=('there is no file or folder gone.',)),
    "value file that is not there": inputs("rows=@gone", says=('--input "rows": cannot read gone: No such file',)),
    "value file that is binary": inputs("rows=1", "data=@raw",
                                       says=('--input "data": cannot read raw: it is not UTF-8',)),
    "inputs too large": inputs(
        "rows=1", f'data="{LONG}"', f'list=["{LONG}"]',
        says=('60,0', "the limit is 60,000", '"list" 30,004', "pass large data as a file"),
    ),
    # outputs
    "output of wrong type": gives(SAY_NUMBER % "many", 'output "n": wanted a number, got the string "many"'),
    "output not written": gives("true", 'output "n" was not written: append `n=VALUE` to $PENSTOCK_OUTPUT'),
    "undeclared output": gives('printf "n=1\\nm=2\\n" >> "$PENSTOCK_OUTPUT"', 'output "m" is not declared'),
    "output too long": fails(
        {"script": SAY_NUMBER % "four", "outputs": [{"name": "n", "type": "string", "maxBytes": 3}]},
        'output "n": wanted a string of at most 3 bytes in UTF-8, got 4 bytes',
    ),
    "file not written": fails(
        {"script": "true", "outputs": [{"name": "t", "type": "file"}]}, 'output "t"', "$PENSTOCK_OUTPUTS/t"
    ),
    "outputs of the pipeline too large": fails(
        {
            "script": 'echo "n=$(head -c 30000 /dev/zero | tr "\\0" x)" >> "$PENSTOCK_OUTPUT"',
            "outputs": [{"name": "n", "type": "string"}],
        },
        "(OutputsTooLarge): the output values are together 60,0", "the limit is 60,000", "pass large data as a file",
        spec={"outputs": [{"name": name, "type": "string", "from": "steps.a.outputs.n"} for name in ("one", "two")]},
    ),
    "garbage": gives('printf "n=1\\nn=\\377\\376" > "$PENSTOCK_OUTPUT"',
                     "$PENSTOCK_OUTPUT line 2: is not UTF-8 text (byte 0xff)"),
    "neither name nor value": gives('echo hello >> "$PENSTOCK_OUTPUT"', 'line 1: "hello" is neither name=value nor'),
    "a folder in place of the output file": gives('rm "$PENSTOCK_OUTPUT"; mkdir "$PENSTOCK_OUTPUT"',
                                                  "was replaced by something that is not a regular file"),
    "a pipe in place of the output file": gives('rm "$PENSTOCK_OUTPUT"; mkfifo "$PENSTOCK_OUTPUT"',
                                                "was replaced by something that is not a regular file"),
    "a link in place of the output file": gives('ln -sf /etc/passwd "$PENSTOCK_OUTPUT"',
                                                "was replaced by something that is not a regular file"),
    "an endless output file": gives('truncate -s 5G "$PENSTOCK_OUTPUT"', "holds 5,368,709,120 bytes, more than"),
    # what cannot be run
    "no such command": fails({"command": ["no-such-program"]},
                             'spec.steps[a].command: no such program "no-such-program" on this machine; install it'),
    "not executable": fails({"command": ["./plain.txt"]}, '"./plain.txt" is not a program', "(chmod +x)"),
    "a folder as command": fails({"command": ["/tmp"]}, '"/tmp" is not a program that can be run here'),
    "no such shell": fails({"script": "x", "shell": ["no-such-shell"]}, 'spec.steps[a].shell: no such program'),
    "syntax error": fails("if then", "(StepFailed)", 'step "a"', "yntax error"),
    "nothing to run": Case(("spec.steps[a]: names no command, script or function",), code=3, step={"image": "any"}),
    "no such module": fails({"function": "fnn:ok"}, 'there is no module "fnn"', 'did you mean "fn"?', files=FUNCTIONS),
    "no such function": fails({"function": "fn:okk"}, 'module "fn" has no "okk"', files=FUNCTIONS),
    "not a function": fails({"function": "fn:value"}, "fn:value", "function", files=FUNCTIONS),
    "missing parameter": fails({"function": "fn:wants"}, 'its parameter "rows" is not among the step\'s inputs',
                               files=FUNCTIONS),
    "function raises": fails({"function": "fn:raises"}, "step \"a\": KeyError: 'boom'", files=FUNCTIONS),
    "function returns a wrong type": fails({"function": "fn:number", "outputs": NUMBER},
                                           'output "n": wanted a number, got the string "many"', files=FUNCTIONS),
    # homes
    "home is a file": wrong("--home", "Directory 'p.yaml' is a file", arguments=("--home", "p.yaml")),
    "home that cannot be made": Case(("/proc/home: cannot be used as Penstock's folder", "choose another one"),
                                     ("--home", "/proc/home"), code=3),
    "not a database": Case(("penstock.db: is not a sound database", "move it away or choose another folder"), code=3,
                           prepare=broken),
    "a torn database": Case(("penstock.db: is not a sound database", "move it away or choose another folder"), code=3,
                            prepare=torn),
    "a newer database": Case(("penstock.db: was written by a newer penstock (its format is 99", "update penstock"),
                             code=3, prepare=newer),
    "an engine that is not installed": Case(("--runner podman: ", "install"), ("--runner", "podman"), code=3,
                                            env={"PATH": "/nowhere"}),
}  # fmt: skip
RAISES = {"function raises"}
"""Here the log of the step, which is shown, rightly holds a traceback."""


def attempt(case: Case, cli: Cli) -> Ended:
    """Do what a case says."""
    step = {"script": case.step} if isinstance(case.step, str) else dict(case.step)
    cli.write("p.yaml", pipeline("p", [{"name": "a", **step}], **(case.spec or {})))
    if step.keys() == {"image"}:
        step = {}
    cli.write("e.yaml", execution({"name": "e"}, pipeline={"name": "p"}))
    cli.write("plain.txt", "plain")
    (cli.folder / "raw").write_bytes(b"\xff\xfe\x00")
    for name, path in (("object", "raw/gone.csv"), ("outside", "../p.yaml")):
        given = [{"name": "rows", "value": 1}, {"name": "table", "object": path}]
        both = [
            pipeline("p", [{"name": "a", **step}], **INPUTS),
            execution({"name": "e"}, pipeline={"name": "p"}, inputs=given),
        ]
        cli.write(f"{name}.yaml", *both)
    suspended = execution({"name": "e"}, pipeline={"name": "p"}, suspend=True)
    cli.write("suspended.yaml", pipeline("p", [{"name": "a", **step}]), suspended)
    for name, text in (case.files or {}).items():
        (cli.folder / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    if case.prepare is not None:
        case.prepare(cli)
    named = bool(case.arguments) and case.arguments[0].endswith(".yaml")
    return cli("run", *(() if named else ("p.yaml",)), *case.arguments, env=case.env)


@pytest.fixture(scope="module")
def attempts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, tuple[Cli, Future[Ended]]]]:
    """The selected cases, under way."""
    selected = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "attempts" in item.fixturenames
    ]
    folders = {name: Cli(tmp_path_factory.mktemp("bad")) for name in selected}
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {name: (cli, pool.submit(attempt, CASES[name], cli)) for name, cli in folders.items()}


def stored(cli: Cli) -> int:
    """How many executions a home has."""
    if not (cli.home / "penstock.db").exists():
        return 0
    database = sqlite3.connect(cli.home / "penstock.db")
    try:
        return int(database.execute("SELECT count(*) FROM executions").fetchone()[0])
    finally:
        database.close()


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_a_clear_message(name: str, attempts: Mapping[str, tuple[Cli, Future[Ended]]]) -> None:
    cli, future = attempts[name]
    done, case = future.result(), CASES[name]
    said = done.out + done.err

    assert done.code == case.code, said
    for piece in case.says:
        assert piece in said, said
    assert ("Traceback" in said) == (name in RAISES)
    assert "internal error" not in said
    assert "trouble" not in said
    assert not cli.left_behind()
    if case.code == 2:
        assert done.out == ""
        assert len(list(cli.home.glob("runs/*/a"))) == (1 if case.prepare else 0), "nothing was started"
        assert stored(cli) == (1 if case.prepare else 0), "nothing was stored"
