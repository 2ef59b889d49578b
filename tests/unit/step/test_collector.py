"""The collector: it waits for the step in each of its ways, and what it says arrives, however large."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.step import collector
from penstock.step.collector import Processes
from penstock.step.report import MESSAGE_BYTES, InLog, ReportError, Result, message, parse_log, parse_message
from penstock.step.values import Declared, format_output

ROWS = Declared("rows", "number")
TEXT = Declared("text", "string")


class Running:
    """A collector process, and the places that it shares with a step."""

    def __init__(self, root: Path, *declared: Declared, wait: str = collector.SIGNAL, limit: int = 1_048_576) -> None:
        self.output, self.outputs, self.message = root / "output", root / "outputs", root / "message"
        self.outputs.mkdir()
        self.message.touch()
        env = collector.environment(
            declared,
            output_file=str(self.output),
            outputs_dir=str(self.outputs),
            message_file=str(self.message),
            message_bytes=MESSAGE_BYTES,
            limit=limit,
            wait=wait,
        )
        self.env = {**env, "PATH": os.environ["PATH"]}
        self.process: subprocess.Popen[str] | None = None

    command = (sys.executable, "-I", "-B", "-m", "penstock.step.collector")

    def start(self) -> Running:
        self.process = subprocess.Popen(self.command, env=self.env, stdout=subprocess.PIPE, text=True)
        return self

    def stop(self) -> None:
        assert self.process is not None
        # SIGTERM before Python can take it would end it: in a pod it is pid 1 and would not be.
        pid = self.process.pid
        until(lambda: catches_sigterm(pid))
        self.process.send_signal(signal.SIGTERM)

    def result(self) -> Result:
        """What it says in the end, from wherever it says it."""
        assert self.process is not None
        log, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        said = self.message.read_bytes()
        assert len(said) <= MESSAGE_BYTES
        found = parse_message(said.decode())
        return parse_log(log, found) if isinstance(found, InLog) else found


def catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.002)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(*declared: Declared, **options: object) -> Running:
        made.append(Running(tmp_path, *declared, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        if one.process is not None:
            if one.process.poll() is None:
                one.process.kill()
            one.process.communicate()


# --- as a native sidecar ----------------------------------------------------------------------------


def test_a_sidecar_collects_when_it_is_asked_to_end(running: Callable[..., Running]) -> None:
    one = running(ROWS, TEXT).start()
    one.output.write_text('rows=150\ntext<<E\nä\n"b"\nE\n')
    one.stop()
    assert one.result() == Result({"rows": 150, "text": 'ä\n"b"'}, [])


def test_what_is_wrong_is_said_beside_what_is_sound(running: Callable[..., Running]) -> None:
    one = running(ROWS, TEXT).start()
    one.output.write_text("rows=many\ntext=fine\n")
    one.stop()
    assert one.result() == Result({"text": "fine"}, ['output "rows": wanted a number, got the string "many"'])


def test_many_problems_are_cut_short_and_counted(running: Callable[..., Running]) -> None:
    one = running(*(Declared(f"o{number}", "number") for number in range(50))).start()
    one.stop()
    found = one.result()
    assert (found.outputs, len(found.problems), found.problems[-1]) == ({}, 11, "and 40 more")


@pytest.mark.parametrize("size", [1, 3_970, 4_000, 4_095, 4_096, 4_097, 60_000, 1_000_000])
@pytest.mark.parametrize("kind", ["same", "random", "wide"])
def test_values_of_any_size_arrive_as_they_are(running: Callable[..., Running], size: int, kind: str) -> None:
    dice = random.Random(size)
    text = {
        "same": lambda: "a" * size,
        "random": lambda: "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789+/", k=size)),
        "wide": lambda: "".join(dice.choices("ä\n€\u2028😀\r\x1b\x85", k=max(1, size // 6))),
    }[kind]()
    one = running(TEXT, limit=1_500_000).start()
    one.output.write_bytes(format_output("text", text).encode())
    one.stop()
    assert one.result() == Result({"text": text}, [])


def test_values_over_the_limit_are_a_problem_that_names_it(running: Callable[..., Running]) -> None:
    one = running(TEXT, limit=1_000).start()
    one.output.write_text(f"text={'x' * 2_000}\n")
    one.stop()
    found = one.result()
    assert found.outputs == {}
    assert "the limit is 1,000" in found.problems[0]


def test_a_sigterm_between_a_look_and_the_sleep_is_not_slept_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    stop = collector._Stop()
    stop.asked = True
    stop.pause(None)


# --- beside the step's processes --------------------------------------------------------------------

INSIDE = shutil.which("unshare") is not None and os.geteuid() == 0 and sys.platform == "linux"
in_pid_namespace = pytest.mark.skipif(not INSIDE, reason="needs root and unshare, to make a PID namespace")


class InNamespace(Running):
    """The same as pid 1's second child, the step being its first: what a pod with a shared PID namespace has."""

    def begin(self, script: str) -> InNamespace:
        """Run `script` as the sandbox's pid 1; `$COLLECT` in it is the collector's command."""
        collect = " ".join(self.command)
        command = ["unshare", "-p", "-f", "--kill-child", "--mount-proc", "/bin/sh", "-c", script]
        env = {**self.env, "COLLECT": collect, "OUT": str(self.output)}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        return self


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Callable[..., InNamespace]]:
    made: list[InNamespace] = []

    def make(*declared: Declared) -> InNamespace:
        made.append(InNamespace(tmp_path, *declared, wait=collector.PROCESSES))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None:
            if one.process.poll() is None:
                one.process.kill()
            one.process.communicate()


@in_pid_namespace
def test_it_waits_for_a_step_that_runs_and_writes_at_its_very_end(namespace: Callable[..., InNamespace]) -> None:
    # The fifo holds the step back until the collector has seen it and sleeps.
    one = namespace(ROWS)
    fifo = one.output.with_name("fifo")
    os.mkfifo(fifo)
    one.begin(f'(read go < {fifo}; echo rows=1 > "$OUT"; sh -c ":"; echo rows=2 >> "$OUT") & $COLLECT; exit $?')
    until(lambda: sleeps_on_a_pidfd(one))
    assert one.process is not None
    assert one.process.poll() is None
    assert one.message.read_text() == ""
    fifo.write_text("go\n")
    assert one.result() == Result({"rows": 2}, [])


@in_pid_namespace
def test_a_step_that_was_faster_than_the_collectors_start_is_collected(
    namespace: Callable[..., InNamespace],
) -> None:
    one = namespace(ROWS).begin('(echo rows=3 > "$OUT") ; $COLLECT; exit $?')
    assert one.result() == Result({"rows": 3}, [])


@in_pid_namespace
def test_a_fast_step_that_gave_files_and_no_value_is_over_too(namespace: Callable[..., InNamespace]) -> None:
    one = namespace(Declared("model", "file"))
    one.begin(f"echo model > {one.outputs}/model; $COLLECT; exit $?")
    assert one.result() == Result({}, [])


@in_pid_namespace
def test_while_the_steps_image_is_on_its_way_it_waits(namespace: Callable[..., InNamespace]) -> None:
    one = namespace(ROWS)
    fifo = one.output.with_name("fifo")
    os.mkfifo(fifo)
    # The shell is pid 1 and starts the step only after the collector has looked around for a while.
    one.begin(f'$COLLECT & c=$!; read go < {fifo}; (echo rows=4 > "$OUT"); wait $c; exit $?')
    until(lambda: looked_around(one))
    assert one.message.read_text() == ""
    fifo.write_text("go\n")
    assert one.result() == Result({"rows": 4}, [])


@in_pid_namespace
def test_asked_to_end_before_any_step_came_it_says_what_is_missing(namespace: Callable[..., InNamespace]) -> None:
    one = namespace(ROWS)
    fifo = one.output.with_name("fifo")
    os.mkfifo(fifo)
    one.begin(f"$COLLECT & c=$!; read go < {fifo}; kill -TERM $c; wait $c; exit $?")
    until(lambda: looked_around(one))
    fifo.write_text("go\n")
    assert one.result().problems == ['output "rows" was not written: append `rows=VALUE` to $PENSTOCK_OUTPUT']


@in_pid_namespace
def test_asked_to_end_it_still_waits_for_a_step_that_tidies_up(namespace: Callable[..., InNamespace]) -> None:
    one = namespace(ROWS)
    fifo, asked = one.output.with_name("fifo"), one.output.with_name("asked")
    os.mkfifo(fifo)
    os.mkfifo(asked)
    killed = one.output.with_name("killed")
    step = f'(read go < {fifo}; echo rows=5 > "$OUT")'
    one.begin(f"{step} & $COLLECT & c=$!; read go < {asked}; kill -TERM $c; echo > {killed}; wait $c; exit $?")
    until(lambda: sleeps_on_a_pidfd(one))
    asked.write_text("go\n")
    until(lambda: killed.exists() and sleeps_on_a_pidfd(one))
    assert one.message.read_text() == ""
    fifo.write_text("go\n")
    assert one.result() == Result({"rows": 5}, [])


def collector_pid(one: Running) -> int | None:
    """The collector's pid as seen from outside."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"penstock.step.collector" in words and str(one.output).encode() in environ:
                return int(entry.name)
    return None


def sleeps_on_a_pidfd(one: Running) -> bool:
    """Whether it sleeps until a process ends, with no signal left to take."""
    pid = collector_pid(one)
    try:
        files = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line)
    except OSError:
        return False
    return any("pidfd" in name for name in files) and status["State"][0] == "S" and int(status["ShdPnd"], 16) == 0


def voluntary(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("voluntary_ctxt_switches")).split()[1])


def looked_around(one: Running) -> bool:
    """Whether it has slept several times since it was ready."""
    pid = collector_pid(one)
    try:
        return pid is not None and catches_sigterm(pid) and voluntary(pid) >= 5
    except OSError:
        return False


def fake_process(
    proc: Path, pid: int, *, name: str = "python", state: str = "S", cgroup: str = "", threads: int = 1
) -> None:
    folder = proc / str(pid)
    for thread in range(threads):
        (folder / "task" / str(pid + thread)).mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} ({name}) {state} 1 1 1 0 -1")
    (folder / "cgroup").write_text(cgroup)


def test_processes_of_other_containers_that_live_are_the_steps(tmp_path: Path) -> None:
    for name in ("self", "sys"):
        (tmp_path / name).mkdir()
    fake_process(tmp_path, 1, name="pause", cgroup="0::/../sandbox\n")
    fake_process(tmp_path, 7, cgroup="0::/../step\n")
    fake_process(tmp_path, 8, name="a (b) Z", cgroup="0::/../step\n")
    fake_process(tmp_path, 9, state="Z", cgroup="0::/../step\n")
    fake_process(tmp_path, 10, state="Z", cgroup="0::/../step\n", threads=3)
    fake_process(tmp_path, 20, cgroup="0::/\n")
    fake_process(tmp_path, 21, name="sh", cgroup="0::/\n")  # somebody looks around in the collector's container
    assert Processes(str(tmp_path), own=20).alive() == [7, 8, 10]


def test_where_cgroups_are_not_to_be_seen_every_other_process_is_the_steps(tmp_path: Path) -> None:
    for pid in (1, 5, 20):
        fake_process(tmp_path, pid)
    assert Processes(str(tmp_path), own=20).alive() == [5]


# --- the log ----------------------------------------------------------------------------------------


@pytest.fixture
def in_log(capsys: pytest.CaptureFixture[str]) -> tuple[str, InLog, Result]:
    """A log of several lines, what the message says of it, and what is in it."""
    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=50_000))
    found = parse_message(message({"outputs": {"text": text}}, MESSAGE_BYTES).decode())
    assert isinstance(found, InLog)
    return capsys.readouterr().out, found, Result({"text": text}, [])


def test_timestamps_other_lines_and_repeated_ones_do_no_harm(in_log: tuple[str, InLog, Result]) -> None:
    log, said, wanted = in_log
    lines = log.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) < 16_000
    stamped = [f"2026-01-01T00:00:00.123456789Z {line}\r" for line in lines]
    assert parse_log("\n".join([*stamped[:2], "hello", "", *stamped[1:], "penstock-outputs are fine"]), said) == wanted


def test_a_log_that_lacks_lines_is_noticed_wherever_they_were(in_log: tuple[str, InLog, Result]) -> None:
    log, said, _ = in_log
    lines = log.splitlines()
    for missing in range(len(lines)):
        with pytest.raises(ReportError, match=rf"holds {len(lines) - 1} of {len(lines)} lines"):
            parse_log("\n".join(lines[:missing] + lines[missing + 1 :]), said)
    with pytest.raises(ReportError, match="holds 0 of its lines"):
        parse_log("", said)


def test_a_log_that_was_changed_is_noticed(in_log: tuple[str, InLog, Result]) -> None:
    log, said, _ = in_log
    for broken in (log[:-200], log.replace("A", "B"), log.replace("A", "!")):
        with pytest.raises(ReportError):
            parse_log(broken, said)
    with pytest.raises(ReportError, match="does not hold what was written"):
        parse_log(log, said._replace(sha256="0" * 64))
    with pytest.raises(ReportError, match="does not hold what was written"):
        parse_log(log, said._replace(size=10))


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"outputs": 1}', '{"log": {}}', '{"log": 3}'])
def test_a_message_that_no_collector_wrote_is_refused(text: str) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        parse_message(text)


@pytest.mark.parametrize("broken", ["PENSTOCK_COLLECTOR_LIMIT", "PENSTOCK_COLLECTOR_WAIT", "PENSTOCK_OUTPUT_TYPES"])
def test_a_wrong_environment_is_named_and_not_a_traceback(running: Callable[..., Running], broken: str) -> None:
    one = running(ROWS)
    for env in ({key: value for key, value in one.env.items() if key != broken}, {**one.env, broken: "x"}):
        done = subprocess.run(one.command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == collector.EXIT_CONFIGURATION
        assert done.stderr.startswith("penstock: ")
        assert "Traceback" not in done.stderr


def test_a_message_that_cannot_be_written_is_an_error_that_says_so(running: Callable[..., Running]) -> None:
    one = running(ROWS)
    one.env["PENSTOCK_COLLECTOR_MESSAGE"] = "/proc/nowhere"
    one.start()
    one.stop()
    assert one.process is not None
    one.process.communicate(timeout=60)
    assert one.process.returncode == collector.EXIT_WRITE


def test_it_starts_without_what_only_large_or_finished_work_needs() -> None:
    probe = "import sys, penstock.step.collector; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, check=True).stdout
    unwanted = {"zlib", "hashlib", "base64", "pydantic", "yaml", "asyncio", "pathlib", "penstock.step.outputs"}
    assert not unwanted & set(loaded.split()), json.dumps(sorted(unwanted & set(loaded.split())))
