"""Function steps, run as they are run: `python -m penstock.step package.module:callable` in a process of its own."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import penstock.step
from penstock.step import runtime
from penstock.step.inputs import contract_env, write_inputs
from penstock.step.outputs import Collected, collect
from penstock.step.runtime import function_env
from penstock.step.values import Declared

ACCURACY = Declared("accuracy", "number")


@dataclass
class Result:
    code: int
    stdout: str
    stderr: str
    left: Collected


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """Run a function step as an adapter does. The code is the module `job` in the work folder."""

    def call(
        code: str,
        reference: str = "job:run",
        *,
        inputs: Mapping[str, tuple[str, Any]] | None = None,
        outputs: Sequence[Declared] = (),
        lengths: Mapping[str, int] | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Result:
        work = tmp_path / "work"
        work.mkdir()
        (work / "job.py").write_text(textwrap.dedent(code))
        (tmp_path / "outputs").mkdir()
        values = {name: value for name, (kind, value) in (inputs or {}).items() if kind not in ("file", "files")}
        files = {name: value for name, (kind, value) in (inputs or {}).items() if kind in ("file", "files")}
        variables = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")},
            **write_inputs(tmp_path / "inputs", values, {name: path for name, path in files.items() if path}),
            **contract_env(
                inputs_dir=tmp_path / "inputs", output_file=tmp_path / "output", outputs_dir=tmp_path / "outputs",
                execution="run-1", step="train", attempt=2, pipeline="iris", index=3,
            ),
            **function_env({name: kind for name, (kind, _) in (inputs or {}).items()}, outputs, lengths=lengths),
            **(env or {}),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *options, "-m", "penstock.step", reference],
            cwd=work, env=variables, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        left = collect(outputs, tmp_path / "output", tmp_path / "outputs", limit=10_000)
        return Result(done.returncode, done.stdout, done.stderr, left)

    return call


def test_inputs_arrive_with_their_types_and_outputs_are_written(run: Callable[..., Result], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("1,2\n")
    result = run(
        """
        from pathlib import Path
        from penstock.step import context

        def run(*, text, number, on, data, items, table, parts, learning_rate, absent="default", **rest):
            assert (text, number, on, data, items) == ("[1]\\r\\n", 10, True, {"a": None}, [1, "x"]), locals()
            assert isinstance(table, Path) and table.read_text() == "1,2\\n"
            assert [part and part.read_text() for part in parts] == [None, "1,2\\n", None]
            assert (learning_rate, absent, rest) == (0.5, "default", {"more": "m"})
            Path("model.bin").write_text("model")
            here = context()
            where = [here.execution, here.pipeline, here.step, here.attempt, here.index]
            return {"accuracy": 0.97, "where": where, "model": {"path": "model.bin"}}
        """,
        inputs={
            "text": ("string", "[1]\r\n"),
            "number": ("number", 10),
            "on": ("boolean", True),
            "data": ("json", {"a": None}),
            "items": ("array", [1, "x"]),
            "table": ("file", table),
            "parts": ("files", [None, table, None]),
            "learning-rate": ("number", 0.5),
            "more": ("string", "m"),
            "absent": ("file", None),
        },
        lengths={"parts": 3},
        outputs=[ACCURACY, Declared("where", "array"), Declared("model", "file")],
    )
    assert (result.code, result.stderr) == (0, "")
    assert result.left.problems == []
    assert result.left.values == {"accuracy": 0.97, "where": ["run-1", "iris", "train", 2, 3]}
    assert result.left.files["model"].read_text() == "model"


def test_an_async_function_is_awaited(run: Callable[..., Result]) -> None:
    result = run(
        """
        import asyncio
        async def run(n):
            await asyncio.sleep(0)
            return {"accuracy": n}
        """,
        inputs={"n": ("number", 1)},
        outputs=[ACCURACY],
    )
    assert (result.code, result.left.values) == (0, {"accuracy": 1})


def test_the_current_directory_comes_first_also_in_safe_path_mode(run: Callable[..., Result]) -> None:
    result = run("def run(): print('here')", options=["-P"])
    assert (result.code, result.stdout) == (0, "here\n")


def test_a_method_of_a_class_can_be_the_function(run: Callable[..., Result]) -> None:
    result = run(
        """
        class Trainer:
            @classmethod
            def run(cls, n): return {"accuracy": n}
        """,
        "job:Trainer.run",
        inputs={"n": ("number", 1)},
        outputs=[ACCURACY],
    )
    assert (result.code, result.left.values) == (0, {"accuracy": 1})


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_shows_the_traceback_of_the_users_code_only(run: Callable[..., Result], kind: str) -> None:
    result = run(
        f"""
        {kind} run():
            print("working")
            inner()
        def inner():
            raise ValueError("no rows")
        """
    )
    assert result.code == 1
    assert result.stdout == "working\n"
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: no rows"
    frames = [line for line in lines if line.lstrip().startswith("File ")]
    assert [frame.rpartition(" in ")[2] for frame in frames] == ["run", "inner"]
    assert all("job.py" in frame for frame in frames)
    assert "During handling" not in result.stderr


def test_an_exception_while_importing_shows_its_traceback(run: Callable[..., Result]) -> None:
    result = run("import json\njson.loads('x')")
    assert result.code == 1
    assert result.stderr.splitlines()[1].endswith("in <module>")
    assert "job.py" in result.stderr.splitlines()[1]
    assert "runtime.py" not in result.stderr
    assert "importlib" not in result.stderr


@pytest.mark.parametrize(("argument", "code"), [("7", 7), ("", 0), ("'stop'", 1)])
def test_system_exit_is_honoured(run: Callable[..., Result], argument: str, code: int) -> None:
    result = run(f"import sys\ndef run(): sys.exit({argument})")
    assert result.code == code
    assert result.stderr == ("stop\n" if code == 1 else "")


@pytest.mark.parametrize(
    ("code", "reference", "says"),
    [
        pytest.param("", "jop:run", 'no module "jop" in the work folder .* did you mean "job"?', id="no module"),
        pytest.param("", "job.sub:run", 'no module "job.sub" in the package job: check', id="no submodule"),
        pytest.param("", "xml.domm:run", 'no module "xml.domm" in the package xml; did you mean "dom"?', id="near"),
        pytest.param("import nmpy", "job:run", r'it imports "nmpy" \(.*job.py line 1\), which is not', id="dependency"),
        pytest.param("def runn(): pass", "job:run", 'has no "run"; did you mean "runn"?', id="no function"),
        pytest.param("def other(): pass", "job:run", 'has no "run": it has other', id="what there is"),
        pytest.param("run = 3", "job:run", "job:run is a int, not a function", id="no callable"),
        pytest.param("", "job", "wanted one argument, package.module:callable", id="no colon"),
    ],
)
def test_a_function_that_cannot_be_found_is_one_paragraph(
    run: Callable[..., Result], code: str, reference: str, says: str
) -> None:
    _is_one_paragraph(run(code, reference), 64, says)


def _is_one_paragraph(result: Result, code: int, says: str) -> None:
    assert result.code == code, result.stderr
    assert result.stderr.startswith("penstock: ")
    assert len(result.stderr.splitlines()) == 1
    import re

    assert re.search(says.replace("?", r"\?"), result.stderr), result.stderr


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        (
            "epochs, rows",
            'job:run(epochs, rows) cannot be called: its parameter "epochs" is not among the step\'s inputs',
        ),
        ("row", 'the step\'s input "rows" is not among its parameters; did you mean "row"?'),
        ("rows, /", 'its parameter "rows" can only be given by position'),
    ],
)
def test_parameters_that_do_not_fit_are_named_before_the_call(
    run: Callable[..., Result], signature: str, says: str
) -> None:
    result = run(f"def run({signature}): print('called')", inputs={"rows": ("number", 1)})
    assert (result.code, result.stdout) == (64, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_outputs_that_do_not_fit_are_one_paragraph_and_nothing_is_written(run: Callable[..., Result]) -> None:
    result = run("def run(): return {'accuracy': 'high', 'extra': 1}", outputs=[ACCURACY])
    assert result.code == 65
    assert result.stderr == (
        'penstock: the outputs of job:run do not fit: output "accuracy": wanted a number, got the string "high"; '
        'output "extra" is not declared: declared are "accuracy"\n'
    )
    assert result.left.values == {}


def test_a_result_without_a_name_shows_what_to_return(run: Callable[..., Result]) -> None:
    _is_one_paragraph(
        run("def run(): return 0.97", outputs=[ACCURACY]),
        65,
        r'wanted a dict of outputs by name: return {"accuracy": …}',
    )


def test_an_output_file_that_cannot_be_written_is_one_paragraph(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(
        "def run(): return {'accuracy': 1}",
        outputs=[ACCURACY],
        env={"PENSTOCK_OUTPUT": str(tmp_path / "no" / "output")},
    )
    _is_one_paragraph(result, 74, "the outputs of job:run could not be written: .*No such file")


def test_a_disk_that_fills_up_leaves_no_half_outputs(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(
        """
        import resource
        def run():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # the next files can have 100 bytes
            return {"text": "x" * 1000}
        """,
        outputs=[Declared("text", "string")],
        options=["-B"],
    )
    _is_one_paragraph(result, 74, "the outputs of job:run could not be written: .*File too large")
    assert (tmp_path / "output").read_bytes() == b""


def test_outside_of_a_step_it_says_what_to_do(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
    done = subprocess.run(
        [sys.executable, "-m", "penstock.step", "job:run"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 64
    assert done.stderr.startswith("penstock: PENSTOCK_INPUTS, PENSTOCK_INPUT_TYPES, ")
    assert "penstock run" in done.stderr


def test_context_outside_of_a_step_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_EXECUTION", raising=False)
    with pytest.raises(RuntimeError, match="PENSTOCK_EXECUTION is not set"):
        penstock.step.context()


def test_starting_up_imports_little(run: Callable[..., Result]) -> None:
    result = run(
        """
        import sys
        def run(n):
            heavy = ["asyncio", "inspect", "dataclasses", "pathlib", "shutil", "difflib", "logging", "hashlib"]
            print([name for name in heavy if name in sys.modules])
            print(sorted(name for name in sys.modules if name.startswith("penstock")))
        """,
        inputs={"n": ("number", 1)},
        options=["-S"],  # what else is installed here must not count
        env={"PYTHONPATH": str(Path(penstock.step.__file__).parents[2])},
    )
    assert result.stdout.splitlines() == [
        "[]",
        "['penstock', 'penstock.step', 'penstock.step.runtime', 'penstock.step.values']",
    ], result.stderr


def _plain(a: int, b: int = 1, /, c: int = 2, *args: int, d: int, e: int = 3) -> None: ...
def _anything(a: int, *, b: int, **rest: int) -> None: ...
def _nothing() -> None: ...
def _positional(a: int, /, b: int) -> None: ...


@functools.wraps(_anything)
def _wrapped(*args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize("function", [_plain, _anything, _nothing, _positional, _wrapped, functools.partial(_plain, 1)])
def test_parameters_are_what_inspect_says(function: Callable[..., object]) -> None:
    found = runtime._parameters(function)
    assert found is not None
    parameters = inspect.signature(function).parameters.values()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    assert found.names == tuple(p.name for p in by_name)
    assert found.required == tuple(p.name for p in by_name if p.default is p.empty)
    assert found.positional == tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty)
    assert found.anything is any(p.kind is p.VAR_KEYWORD for p in parameters)


def test_step_uses_the_standard_library_only() -> None:
    import ast

    for file in Path(penstock.step.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("penstock.step"), (file, name)
