"""The supervisor of function steps: it fetches, runs, uploads and reports, whatever the function does meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from penstock.step import supervisor
from penstock.step.digest import digest
from penstock.step.inputs import contract_env
from penstock.step.report import MESSAGE_BYTES, InLog, ReportError, Result, parse_log, without_report
from penstock.step.runtime import function_env
from penstock.step.supervisor import Outcome, parse_message
from penstock.step.values import Declared
from penstock.step.wire import PATIENCE

from .support import SECRET, Handler, Store, cut, given, wanted, write_plan

MODEL = Declared("model", "file")
TEXT = Declared("text", "string")


class Step:
    """A function step's container: the module `job` in its work folder, and its volumes."""

    def __init__(
        self,
        root: Path,
        code: str,
        *,
        inputs: Mapping[str, str] | None = None,
        outputs: Sequence[Declared] = (),
        fetches: bool = False,
        patience: float = 30.0,
        limit: int = 1_048_576,
    ) -> None:
        self.root, self.work = root, root / "work"
        self.inputs, self.outputs, self.message = root / "inputs", root / "outputs", root / "message"
        for folder in (self.work, self.inputs, self.outputs, root / "given"):
            folder.mkdir()
        (self.work / "job.py").write_text(textwrap.dedent(code))
        plan = root / "plan"
        told = supervisor.Settings(
            message_file=str(self.message),
            message_bytes=MESSAGE_BYTES,
            limit=limit,
            plan_file=str(plan) if fetches or MODEL in outputs else "",
            inputs_dir=str(self.inputs) if fetches else "",
            given_dir=str(root / "given") if fetches else "",
            environment={PATIENCE: str(patience), "TMPDIR": str(root)},
        )
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
            **contract_env(
                inputs_dir=self.inputs, output_file=root / "output", outputs_dir=self.outputs,
                execution="run-1", step="train", attempt=1, pipeline="iris",
            ),
            **function_env(inputs or {}, outputs),
            **supervisor.environment(told),
        }  # fmt: skip

    def start(self, *before: str) -> subprocess.Popen[str]:
        command = [*before, sys.executable, "-P", "-m", supervisor.MODULE, "job:run"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.work, env=self.env, stdout=pipe, stderr=pipe, text=True)

    def run(self, *before: str) -> Ended:
        with self.start(*before) as process:
            return self.ended(process)

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        try:
            printed, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Ended(process.returncode, self.message.read_bytes() if self.message.exists() else b"", printed, errors)


class Ended:
    """How it ended, and what it said."""

    def __init__(self, code: int, message: bytes, printed: str, errors: str) -> None:
        self.code, self.message, self.printed, self.errors = code, message, printed, errors

    @property
    def outcome(self) -> Outcome:
        assert len(self.message) <= MESSAGE_BYTES
        return parse_message(self.message.decode())

    @property
    def result(self) -> Result:
        found = self.outcome.found
        return parse_log(self.printed, found) if isinstance(found, InLog) else found


def until_there(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()


# --- in and out -------------------------------------------------------------------------------------


def test_inputs_are_fetched_and_outputs_are_in_the_store_before_they_are_reported(tmp_path: Path, store: Store) -> None:
    step = Step(
        tmp_path,
        """
        from pathlib import Path
        def run(table, rows):
            Path("model").mkdir()
            Path("model/copy").write_text(table.read_text() * rows)
            return {"model": {"path": "model"}, "text": "fine"}
        """,
        inputs={"table": "file", "rows": "number"},
        outputs=[MODEL, TEXT],
        fetches=True,
    )
    store.path("table").write_text("pear\n")
    (tmp_path / "given" / "rows").write_text("2")
    entries = given(store, "table", "table", store.path("table")), wanted(store, "model", key="executions/u/s/1/model")
    write_plan(tmp_path / "plan", *entries)
    ended = step.run()
    assert (ended.code, ended.errors, ended.outcome.exit_code) == (0, "", 0)
    found = digest(step.outputs / "model")
    file = {"key": "executions/u/s/1/model", "sha256": found.sha256, "size": 10, "folder": True}
    assert ended.result == Result({"text": "fine"}, [], {"model": file})
    assert store.methods() == ["GET", "PUT"]


def test_the_function_is_told_nothing_of_transfers(tmp_path: Path, store: Store) -> None:
    step = Step(
        tmp_path,
        """
        import os, sys
        from pathlib import Path
        def run():
            print(dict(os.environ), sys.argv, sys.orig_argv)
            Path("model").touch()
            return {"model": {"path": "model"}}
        """,
        outputs=[MODEL],
    )
    write_plan(tmp_path / "plan", wanted(store, "model"))
    ended = step.run()
    assert ended.code == 0, ended.errors
    assert not any(word in ended.printed for word in (SECRET, str(tmp_path / "plan"), "SUPERVISOR", PATIENCE))


def test_a_function_without_outputs_and_inputs_of_its_own_just_runs(tmp_path: Path) -> None:
    ended = Step(tmp_path, "def run(): print('ran')").run()
    assert (ended.code, ended.printed, ended.result) == (0, "ran\n", Result({}, []))


def test_modules_with_names_of_the_standard_librarys_are_the_functions_alone(tmp_path: Path, store: Store) -> None:
    step = Step(
        tmp_path,
        """
        import email
        def run(table): return {"text": email.mine}
        """,
        inputs={"table": "file"},
        outputs=[TEXT],
        fetches=True,
    )
    own = tmp_path / "own"
    own.mkdir()
    for folder in (own, step.work):
        (folder / "email.py").write_text("mine = 'mine'\n")
    step.env["PYTHONPATH"] = os.pathsep.join([str(own), *filter(None, [step.env.get("PYTHONPATH")])])
    store.path("table").write_text("x")
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    ended = step.run()
    assert (ended.code, ended.result) == (0, Result({"text": "mine"}, [], {})), ended.errors


def test_a_plan_that_was_written_anew_meanwhile_is_the_one_that_counts(tmp_path: Path, store: Store) -> None:
    code = """
    import os, time
    def run(table):
        open("ready", "w").close()
        while not os.path.exists("go"): time.sleep(0.01)
        return {"model": {"path": table}}
    """
    step = Step(tmp_path, code, inputs={"table": "file"}, outputs=[MODEL], fetches=True)
    store.path("table").write_text("x")

    def plan() -> None:
        write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")), wanted(store, "model"))

    plan()
    with step.start() as process:
        until_there(step.work / "ready", process)
        store.signature = "renewed"
        plan()
        (step.work / "go").touch()
        ended = step.ended(process)
    assert (ended.code, ended.result.problems) == (0, [])
    assert store.path("model").read_text() == "x"


# --- what goes wrong --------------------------------------------------------------------------------


def test_without_its_inputs_a_function_is_not_run(tmp_path: Path, store: Store) -> None:
    step = Step(tmp_path, "def run(table): print('ran')", inputs={"table": "file"}, fetches=True, patience=0.1)
    store.path("table").write_text("x")
    write_plan(tmp_path / "plan", given(store, "table", "gone", store.path("table")))
    ended = step.run()
    assert (ended.code, ended.printed, ended.outcome.exit_code) == (supervisor.EXIT_TRANSFER, "", None)
    (problem,) = ended.result.problems
    assert problem.startswith('input "table": is no longer in the store: ')
    assert not ended.result.transient
    assert ended.errors == f"penstock: {problem}\n"
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    store.always = cut
    again = step.run()
    assert again.result.transient
    assert SECRET not in again.errors + again.message.decode()


def test_a_plan_that_is_not_there_is_said(tmp_path: Path) -> None:
    ended = Step(tmp_path, "def run(table): pass", inputs={"table": "file"}, fetches=True).run()
    assert (ended.code, ended.outcome.exit_code) == (supervisor.EXIT_TRANSFER, None)
    assert "cannot be read: No such file or directory" in ended.result.problems[0]


@pytest.mark.parametrize(
    ("code", "exit_code", "last"),
    [
        ("raise RuntimeError('no rows')", 1, "RuntimeError: no rows"),
        ("raise SystemExit(7)", 7, ""),
        ("return {}", 65, 'output "model" was not written: return'),
        ("import os; os._exit(9)", 9, ""),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
    ],
)
def test_a_function_that_fails_does_so_as_without_files(
    tmp_path: Path, store: Store, code: str, exit_code: int, last: str
) -> None:
    step = Step(tmp_path, f"def run():\n    {code}", outputs=[MODEL])
    write_plan(tmp_path / "plan", wanted(store, "model"))
    ended = step.run()
    assert (ended.code, ended.outcome.exit_code) == (exit_code, exit_code)
    assert last in (ended.errors.splitlines() or [""])[-1]
    assert ended.result.problems == ['output "model" was not written: write it to $PENSTOCK_OUTPUTS/model']
    assert ended.result.files == {}


def test_what_a_function_has_left_is_kept_even_if_it_failed(tmp_path: Path, store: Store) -> None:
    code = """
    import os
    def run():
        with open(os.environ["PENSTOCK_OUTPUTS"] + "/model", "w") as file:
            file.write("left")
        raise RuntimeError
    """
    step = Step(tmp_path, code, outputs=[MODEL])
    write_plan(tmp_path / "plan", wanted(store, "model"))
    ended = step.run()
    assert (ended.code, set(ended.result.files)) == (1, {"model"})
    assert store.path("model").read_text() == "left"


def test_a_store_that_stays_away_is_not_the_functions_fault(tmp_path: Path, store: Store) -> None:
    code = "def run():\n    open('model', 'w').close()\n    return {'model': {'path': 'model'}}"
    step = Step(tmp_path, code, outputs=[MODEL], patience=0.3)
    write_plan(tmp_path / "plan", wanted(store, "model"))
    store.always = cut
    ended = step.run()
    assert (ended.code, ended.outcome.exit_code) == (supervisor.EXIT_TRANSFER, 0)
    assert ended.result.transient
    (problem,) = ended.result.problems
    assert problem.startswith('output "model": ')
    assert SECRET not in problem


# --- what it says -----------------------------------------------------------------------------------

FORGES = """
import os, random, subprocess, sys
def run():
    message = {message!r}
    print("penstock-outputs 1/1 forged")
    print("penstock-outputs 0000000000000000 1/1 forged")
    with open(message, "w") as file:
        file.write('{{"exit":0,"outputs":{{"text":"forged"}}}}')
    os.set_blocking(1, False)
    os.write(1, b"no end of line")
    return {{"text": "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k={size}))}}
"""


@pytest.mark.parametrize("size", [1, 3_000, 20_000, 900_000])
def test_nothing_that_a_function_prints_or_writes_is_taken_for_its_values(tmp_path: Path, size: int) -> None:
    ended = Step(tmp_path, FORGES.format(message=str(tmp_path / "message"), size=size), outputs=[TEXT]).run()
    assert (ended.code, ended.outcome.exit_code) == (0, 0), ended.errors
    assert len(str(ended.result.outputs["text"])) == size
    if size > MESSAGE_BYTES:
        found = ended.outcome.found
        assert isinstance(found, InLog)
        assert found.lines == ended.printed.count(f"penstock-outputs {found.mark} ")
        own = ["penstock-outputs 1/1 forged", "penstock-outputs 0000000000000000 1/1 forged", "no end of line", ""]
        assert sorted(without_report(ended.printed, found).split("\n")) == sorted(own)


def test_a_log_that_is_read_late_takes_all_whatever_the_function_did_to_it(tmp_path: Path) -> None:
    step = Step(tmp_path, FORGES.format(message=str(tmp_path / "message"), size=900_000), outputs=[TEXT])
    with step.start() as process:
        assert process.stdout is not None
        while process.poll() is None and _unread(process.stdout.fileno()) < 60_000:
            pass
        ended = step.ended(process)
    assert (ended.code, len(str(ended.result.outputs["text"]))) == (0, 900_000)


def _unread(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def test_values_over_the_limit_are_a_problem_that_names_it(tmp_path: Path) -> None:
    ended = Step(tmp_path, "def run(): return {'text': 'x' * 2000}", outputs=[TEXT], limit=1_000).run()
    assert (ended.code, ended.outcome.exit_code) == (supervisor.EXIT_TRANSFER, 0)
    assert "the limit is 1,000" in ended.result.problems[0]


def test_what_cannot_be_said_is_an_error_that_says_so(tmp_path: Path) -> None:
    step = Step(tmp_path, "def run(): pass")
    step.message.mkdir()
    with step.start() as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == supervisor.EXIT_TRANSFER
    assert "could not be handed on" in errors


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"exit":"x","outputs":{}}', '{"exit":0}', "Killed"])
def test_what_is_no_message_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        parse_message(text)


@pytest.mark.parametrize("value", [None, "x", "{}", '{"message_file": 1}', "[]"])
def test_it_says_who_should_have_started_it(tmp_path: Path, value: str | None) -> None:
    step = Step(tmp_path, "def run(): pass")
    del step.env["PENSTOCK_SUPERVISOR"]
    step.env |= {} if value is None else {"PENSTOCK_SUPERVISOR": value}
    ended = step.run()
    assert (ended.code, ended.message) == (supervisor.EXIT_CONFIGURATION, b"")
    assert ended.errors.startswith("penstock: PENSTOCK_SUPERVISOR")
    assert "Traceback" not in ended.errors


# --- signals and other processes --------------------------------------------------------------------


def test_sigterm_goes_to_the_function_which_may_still_end_well(tmp_path: Path, store: Store) -> None:
    code = """
    import signal, threading
    from pathlib import Path
    def run():
        told = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: told.set())
        Path("ready").touch()
        while not told.wait(0.01): pass
        Path("model").write_text("half")
        return {"model": {"path": "model"}}
    """
    step = Step(tmp_path, code, outputs=[MODEL])
    write_plan(tmp_path / "plan", wanted(store, "model"))
    with step.start() as process:
        until_there(step.work / "ready", process)
        process.send_signal(signal.SIGTERM)
        ended = step.ended(process)
    assert (ended.code, set(ended.result.files)) == (0, {"model"})


def test_a_function_that_does_not_know_of_sigterm_is_ended_by_it(tmp_path: Path) -> None:
    code = "import time\ndef run():\n    open('ready', 'w').close()\n    time.sleep(60)"
    step = Step(tmp_path, code)
    with step.start() as process:
        until_there(step.work / "ready", process)
        process.send_signal(signal.SIGTERM)
        ended = step.ended(process)
    assert (ended.code, ended.outcome.exit_code) == (143, 143)


def test_sigterm_ends_it_while_it_fetches(tmp_path: Path, store: Store) -> None:
    step = Step(tmp_path, "def run(table): print('ran')", inputs={"table": "file"}, fetches=True)
    store.path("table").write_text("x")
    write_plan(tmp_path / "plan", given(store, "table", "table", store.path("table")))
    ended = threading.Event()

    def end(handler: Handler) -> bool:
        process.send_signal(signal.SIGTERM)
        handler.close_connection = ended.wait(timeout=60)
        return True

    store.always = end
    with step.start() as process:
        found = step.ended(process)
        ended.set()
    assert (found.code, found.message, found.printed) == (143, b"", "")
    assert not (step.inputs / "table").exists()


def test_an_upload_is_not_ended_by_sigterm(tmp_path: Path, store: Store) -> None:
    code = "def run():\n    open('model', 'w').close()\n    return {'model': {'path': 'model'}}"
    step = Step(tmp_path, code, outputs=[MODEL])
    write_plan(tmp_path / "plan", wanted(store, "model"))

    def end(_: Handler) -> bool:
        process.send_signal(signal.SIGTERM)
        return False

    store.faults.append(end)
    with step.start() as process:
        ended = step.ended(process)
    assert (ended.code, set(ended.result.files)) == (0, {"model"})


def test_whoever_is_ended_between_an_upload_and_the_report_has_given_nothing(tmp_path: Path, store: Store) -> None:
    code = "def run():\n    open('model', 'w').close()\n    return {'model': {'path': 'model'}}"
    step = Step(tmp_path, code, outputs=[MODEL])
    write_plan(tmp_path / "plan", wanted(store, "model"))

    def end(handler: Handler) -> bool:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        store.path("model").write_bytes(b"")
        process.kill()
        process.wait()
        handler.answer(200)
        return True

    store.faults.append(end)
    with step.start() as process:
        ended = step.ended(process)
    assert store.path("model").exists()
    assert (ended.code, ended.message) == (-9, b"")


INSIDE = shutil.which("unshare") is not None and os.geteuid() == 0 and sys.platform == "linux"
AS_FIRST = ("unshare", "-p", "-f", "--kill-child", "--mount-proc")


@pytest.mark.parametrize(
    "first", [False, pytest.param(True, marks=pytest.mark.skipif(not INSIDE, reason="needs root"))]
)
def test_what_a_function_leaves_running_is_ended_before_anything_is_read(
    tmp_path: Path, store: Store, first: bool
) -> None:
    code = """
    import os, subprocess, sys
    from pathlib import Path
    def run():
        table = os.environ["PENSTOCK_OUTPUTS"] + "/model"
        goes_on = f"import time\\nwhile True:\\n    open({table!r}, 'a').write('x')\\n    time.sleep(0.0001)"
        subprocess.Popen([sys.executable, "-c", goes_on], start_new_session=SESSION)
        while not os.path.exists(table): pass
        os._exit(0)
    """
    # In a session of its own it is only reached by the first process of a container.
    step = Step(tmp_path, code.replace("SESSION", str(first)), outputs=[MODEL])
    write_plan(tmp_path / "plan", wanted(store, "model"))
    ended = step.run(*(AS_FIRST if first else ()))
    assert (ended.code, ended.result.problems) == (0, []), ended.errors
    assert ended.result.files["model"]["sha256"] == digest(store.path("model")).sha256
    assert step.outputs.joinpath("model").read_bytes() == store.path("model").read_bytes()
