"""Attempts as real containers, where an engine works on this machine."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.api.execution import Execution
from penstock.api.pipeline import PipelineSpec
from penstock.engine.types import AttemptId
from penstock.local.containers import ContainerAttempts, NoEngineError, container_name
from penstock.local.session import LocalSession, Settings
from penstock.local.sources import scan

IMAGE = f"localhost/penstock-test-{os.getpid()}:1"  # workers must not remove each other's
_APPLETS = ("sh", "cat", "echo", "sleep", "true", "false", "wc", "cp", "id", "test", "touch")


@asynccontextmanager
async def opened(home: Path, *, runner: str = "process") -> AsyncIterator[LocalSession]:
    """A session that is closed at the end of the block."""
    session = LocalSession(Settings(home=home, runner=runner))
    try:
        yield session
    finally:
        await session.close()


def submit(session: LocalSession, execution: Execution, spec: PipelineSpec, source: Path | None = None) -> str:
    tree = None if source is None else scan(source, session.home.root)
    return session.submit(execution, revision=session.revision("p", spec), source=tree)


def _image() -> bytes:
    """A tiny image: static busybox and links to it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox to make an image of (package busybox-static)")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
    return packed.getvalue()


_NARROW = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""
"""Podman's settings for a machine that is itself a sandbox: no raising of limits, no network of its own."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    why: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for narrow in (False, True):
            if narrow:
                settings = tmp_path_factory.mktemp("podman") / "containers.conf"
                settings.write_text(_NARROW)
                patch.setenv("CONTAINERS_CONF", str(settings))
            name = _working(why)
            if name is not None:
                yield name
                subprocess.run([name, "rmi", "--force", IMAGE], capture_output=True, check=False, timeout=60)
                return
    pytest.skip("; ".join(why))


def _working(why: list[str]) -> str | None:
    """An engine that has run a container of the test's image; else `why` says what was wrong."""
    for name in ("podman", "docker"):
        if shutil.which(name) is None:
            why.append(f"{name} is not installed")
            continue
        loaded = subprocess.run(
            [name, "import", "-", IMAGE], input=_image(), capture_output=True, check=False, timeout=60
        )
        if loaded.returncode:
            why.append(f"{name} import: {loaded.stderr.decode().strip()[-200:]}")
            continue
        tried = subprocess.run([name, "run", "--rm", IMAGE, "/bin/true"], capture_output=True, check=False, timeout=60)
        if tried.returncode:
            why.append(f"{name} run: {tried.stderr.decode().strip()[-200:]}")
            continue
        return name
    return None


def pipeline(*steps: dict[str, Any], **spec: Any) -> PipelineSpec:
    return PipelineSpec.model_validate({"steps": list(steps), "defaults": {"image": IMAGE}, **spec})


async def run(home: Path, engine: str, spec: PipelineSpec) -> dict[str, Any]:
    async with opened(home, runner=engine) as session:
        uid = submit(
            session, Execution.model_validate({"metadata": {"name": "e"}, "spec": {"pipeline": {"name": "p"}}}), spec
        )
        found: dict[str, Any] = await asyncio.wait_for(session.run(uid), 120)
    names = [container_name(uid, AttemptId(step["name"], -1, 1)) for step in found["status"]["steps"]]
    left = subprocess.run([engine, "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert not set(names) & set(left.stdout.split()), "containers are removed"
    return found


async def test_values_and_files_go_through_containers(tmp_path: Path, engine: str) -> None:
    spec = pipeline(
        {
            "name": "make",
            "script": 'echo "$GREETING" > $PENSTOCK_OUTPUTS/f; echo n=3 >> $PENSTOCK_OUTPUT',
            "env": [{"name": "GREETING", "value": "hello\nthere"}],
            "outputs": [{"name": "f", "type": "file"}, {"name": "n", "type": "number"}],
        },
        {
            "name": "use",
            "command": [
                "/bin/sh",
                "-c",
                'test -z "$(touch $INPUT_F 2>/dev/null && echo written)" && '
                'echo lines=$(wc -l < $INPUT_F) >> $PENSTOCK_OUTPUT; cat $PENSTOCK_INPUTS/n; echo; echo "$0"',
                "$(INPUT_N)",
            ],
            "inputs": [
                {"name": "f", "from": "steps.make.outputs.f"},
                {"name": "n", "from": "steps.make.outputs.n"},
            ],
            "outputs": [{"name": "lines", "type": "number"}],
        },
        outputs=[{"name": "lines", "type": "number", "from": "steps.use.outputs.lines"}],
    )
    found = await run(tmp_path, engine, spec)
    assert found["status"]["phase"] == "Succeeded", found["status"]
    assert found["status"]["outputs"] == [{"name": "lines", "value": 2}]
    log = tmp_path / "runs" / found["metadata"]["uid"] / "use" / "1" / "log"
    assert log.read_text() == "3\n3\n"


@pytest.mark.parametrize(
    ("step", "reason", "words"),
    [
        ({"script": "echo no >&2; exit 4"}, "StepFailed", "no"),
        ({"script": "exit 125"}, "StepFailed", None),
        ({"image": "localhost/no-such-image:1", "script": "true"}, "StepError", "could not run the container"),
    ],
    ids=["exit code", "the engine's own exit code from the command", "no such image"],
)
async def test_failures_of_the_step_and_of_the_engine_are_told_apart(
    tmp_path: Path, engine: str, step: dict[str, Any], reason: str, words: str | None
) -> None:
    found = await run(tmp_path, engine, pipeline({"name": "s", **step}))
    status = found["status"]["steps"][0]
    assert status["reason"] == reason, status
    assert words is None or words in status["message"]


async def test_a_container_that_ignores_the_request_to_end_is_killed(tmp_path: Path, engine: str) -> None:
    spec = pipeline({"name": "s", "script": "trap '' TERM; touch $PENSTOCK_OUTPUTS/up; while true; do sleep 1; done"})
    async with opened(tmp_path, runner=engine) as session:
        uid = submit(
            session, Execution.model_validate({"metadata": {"name": "e"}, "spec": {"pipeline": {"name": "p"}}}), spec
        )
        task = asyncio.create_task(session.run(uid))
        up = tmp_path / "runs" / uid / "s" / "1" / "outputs" / "up"
        async with asyncio.timeout(60):
            while not up.exists():  # noqa: ASYNC110 - it is a file
                await asyncio.sleep(0.01)
        session.cancel(uid)
        found = await asyncio.wait_for(task, 60)
    assert found["status"]["phase"] == "Cancelled"


async def test_a_step_without_an_image_is_told_so(tmp_path: Path, engine: str) -> None:
    found = await run(tmp_path, engine, PipelineSpec.model_validate({"steps": [{"name": "s", "script": "true"}]}))
    assert "spec.steps[s].image" in found["status"]["steps"][0]["message"]


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoEngineError, match='no program "podman"'):
        LocalSession(Settings(home=tmp_path / "home", runner="podman"))
    assert ContainerAttempts.slow_to_conclude
