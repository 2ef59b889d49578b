"""Files between a step's pod and an S3 store, against s5cmd and rclone: the same content, disk and server, in turns.

Wanted on the PATH: `versitygw` (the S3 server), `s5cmd` and `rclone`. A folder travels as one object with us, and as
one object a file with the others: that is how each would be used. Checks are what each does by itself: we check what
is fetched by SHA-256, rclone by MD5 (which it also makes of what it gives, and keeps with the object), s5cmd not at
all. `sha256sum` after s5cmd makes it equal to us. s5cmd has its own settings (256 files at a time, 5 parts of 50 MiB);
rclone has its own for large files (4 parts of 5 MiB up, 4 streams down), and 16 files at a time in place of 4.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from penstock.engine.types import AttemptId, File
from penstock.storage.objects import open_store
from penstock.storage.plans import Output, make_plan
from penstock.storage.settings import StoreSettings

ROUNDS = 3
BIG = 1 << 30
SMALL_FILES, SMALL = 10_000, 10_000

_GIVE = """
import json, sys
from pathlib import Path
from penstock.step.plan import Plan
from penstock.step.transfer import upload_outputs
done, problems = upload_outputs(Plan(Path(sys.argv[1])), {"it": Path(sys.argv[2])})
sys.exit(str(problems)) if problems else print(json.dumps(done["it"]))
"""


class Took(NamedTuple):
    """What a transfer cost: seconds, and the most MiB that its process had in memory."""

    seconds: float
    memory: float


def _run(command: list[str], env: dict[str, str]) -> tuple[Took, str]:
    began = time.perf_counter()
    with subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True) as process:
        memory = 0.0
        while process.poll() is None:
            memory = max(memory, _memory(process.pid))
            time.sleep(0.02)
        took = Took(time.perf_counter() - began, memory)
        said = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"{command[:3]} ended with {process.returncode}")
    return took, said


def _memory(pid: int) -> float:
    """The most MiB that a process has had in memory so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


@contextmanager
def _server(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 server; gives the environment of its clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_REGION": "us-east-1"}
    (folder / "bucket").mkdir(parents=True)
    command = ["versitygw", "--port", f"127.0.0.1:{port}", "--quiet", "--access", "bench", "--secret", "bench-secret"]
    with (folder / ".log").open("wb") as log:
        server = subprocess.Popen([*command, "posix", str(folder)], stdout=log, stderr=log)
    try:
        while server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield {**keys, "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        server.terminate()
        server.wait()


def _plan(env: dict[str, str], path: Path, given: dict[str, Any] | None) -> None:
    """Write the plan of an attempt with an output `it`, or with what was given as its input."""

    async def make() -> str:
        store = open_store(StoreSettings(store_url="s3://bucket", store_endpoint=env["S3_ENDPOINT_URL"]))
        inputs = {} if given is None else {"it": File(**given)}
        outputs = [Output("it")] if given is None else []
        attempt = AttemptId("step", -1, 1)
        plan = await make_plan(
            store, namespace="ns", uid="uid", attempt=attempt, inputs=inputs, outputs=outputs, seconds=3600
        )
        await store.close()
        return plan.to_json()

    path.write_text(asyncio.run(make()))


class _Case:
    """One content, both ways, by both."""

    def __init__(self, content: Path, work: Path, env: dict[str, str]) -> None:
        self._content = content
        self._work = work
        self._env = env
        self._given: dict[str, Any] = {}

    def ours_up(self) -> Took:
        _plan(self._env, self._work / "plan", None)
        took, said = _run([sys.executable, "-c", _GIVE, str(self._work / "plan"), str(self._content)], {})
        self._given = json.loads(said)
        return took

    def ours_down(self) -> Took:
        _plan(self._env, self._work / "plan", self._given)
        with tempfile.TemporaryDirectory(dir=self._work) as inputs:
            env = {
                "PENSTOCK_TRANSFERS": str(self._work / "plan"),
                "PENSTOCK_INPUTS": inputs,
                "PENSTOCK_FETCH_MESSAGE": str(self._work / "message"),
            }
            return _run([sys.executable, "-m", "penstock.step.fetch"], env)[0]

    def s5cmd_up(self) -> Took:
        source = f"{self._content}/" if self._content.is_dir() else str(self._content)
        return _run(["s5cmd", "--log", "error", "cp", source, self._s5cmd], self._env)[0]

    def s5cmd_down(self, *, checked: bool = False) -> Took:
        source = f"{self._s5cmd}*" if self._content.is_dir() else self._s5cmd
        with tempfile.TemporaryDirectory(dir=self._work) as inputs:
            copy = f"s5cmd --log error cp '{source}' {inputs}/"
            check = f"find {inputs} -type f -print0 | xargs -0 sha256sum >/dev/null"
            return _run(["sh", "-c", f"{copy} && {check}" if checked else f"exec {copy}"], self._env)[0]

    def rclone_up(self) -> Took:
        return _run([*self._rclone, str(self._content), self._remote], self._env)[0]

    def rclone_down(self) -> Took:
        with tempfile.TemporaryDirectory(dir=self._work) as inputs:
            return _run([*self._rclone, self._remote, f"{inputs}/it"], self._env)[0]

    @property
    def _s5cmd(self) -> str:
        return f"s3://bucket/it{'/' if self._content.is_dir() else '-alone'}"

    @property
    def _remote(self) -> str:
        return f":s3:bucket/rclone/{self._content.name}"

    @property
    def _rclone(self) -> list[str]:
        # With the last flag it copies again what an earlier round has left.
        copy = "copy" if self._content.is_dir() else "copyto"
        store = ["--s3-provider", "Other", "--s3-env-auth", "--s3-endpoint", self._env["S3_ENDPOINT_URL"]]
        options = ["--s3-no-check-bucket", "--transfers", "16", "--ignore-times"]
        return ["rclone", copy, "--config", "", *store, *options]


def _fill(folder: Path) -> tuple[Path, Path]:
    big, small = folder / "big", folder / "small"
    with big.open("wb") as file:
        for _ in range(BIG >> 20):
            file.write(os.urandom(1 << 20))
    small.mkdir()
    for number in range(SMALL_FILES):
        (small / f"{number:05}").write_bytes(os.urandom(SMALL))
    return big, small


def _turns(ways: Sequence[Callable[[], Took]]) -> list[list[Took]]:
    """The rounds of each way."""
    rounds = [[way() for way in ways] for _ in range(ROUNDS)]
    return [list(found) for found in zip(*rounds, strict=True)]


def main() -> None:
    """Print a table."""
    missing = [tool for tool in ("versitygw", "s5cmd", "rclone") if shutil.which(tool) is None]
    if missing:
        sys.exit(f"not on the PATH: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as name, _server(Path(name) / "store") as env:
        os.environ.update(env)
        work = Path(name)
        big, small = _fill(work)
        print(f"\nMiB a second, median of {ROUNDS} runs in turns; in brackets the most MiB of memory, and our rate")
        print("against theirs, median of the rounds\n")
        print("| content | way | penstock | s5cmd | rclone | s5cmd and sha256sum |")
        print("|---|---|---|---|---|---|")
        for what, path, size in (
            (f"file of {BIG >> 20:,} MiB", big, BIG),
            (f"folder of {SMALL_FILES:,} files of 10 kB", small, SMALL_FILES * SMALL),
        ):
            case = _Case(path, work, env)
            checked = partial(case.s5cmd_down, checked=True)
            _row(what, "up", size, _turns([case.ours_up, case.s5cmd_up, case.rclone_up]))
            _row(what, "down", size, _turns([case.ours_down, case.s5cmd_down, case.rclone_down, checked]))


def _row(what: str, way: str, size: int, found: list[list[Took]]) -> None:
    ours, *others = found
    cells = [f"{_rate(size, ours)} ({_memory_of(ours)})"]
    for theirs in others:
        ratio = statistics.median(their.seconds / our.seconds for their, our in zip(theirs, ours, strict=True))
        cells.append(f"{_rate(size, theirs)} ({_memory_of(theirs)}); {ratio:.2f}")
    print(f"| {what} | {way} | {' | '.join(cells)} |", flush=True)


def _rate(size: int, found: Sequence[Took]) -> str:
    return f"{size / (1 << 20) / statistics.median(took.seconds for took in found):.0f}"


def _memory_of(found: Sequence[Took]) -> str:
    return f"{max(took.memory for took in found):.0f}"
