"""What steps find of the files beside a manifest, and that they cannot change the user's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock.api.base import Metadata
from penstock.api.execution import Execution, ExecutionSpec
from penstock.api.pipeline import PipelineSpec
from penstock.local import sources
from penstock.local.session import LocalSession, Settings


async def run_script(home: Path, source: Path, script: str) -> dict[str, Any]:
    spec = PipelineSpec.model_validate({"steps": [{"name": "only", "script": script}]})
    session = LocalSession(Settings(home=home))
    try:
        execution = Execution(metadata=Metadata(name="one"), spec=ExecutionSpec(pipeline_spec=spec))
        uid = session.submit(execution, revision=None, source=sources.scan(source, session.home.root))
        return await asyncio.wait_for(session.run(uid), 30)
    finally:
        await session.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "package" / "deep").mkdir(parents=True)
    (folder / "precious.txt").write_text("mine\n")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "package" / "deep" / "data.txt").write_text("deep\n")
    (folder / ".secret").write_text("hidden\n")
    return folder


async def test_a_step_that_writes_over_a_source_file_leaves_the_users_file_alone(folder: Path, tmp_path: Path) -> None:
    script = "echo gone > precious.txt || true; rm -rf package || true; echo gone > package/deep/data.txt || true"
    found = await run_script(tmp_path / "home", folder, script)
    assert found["status"]["phase"] == "Succeeded", found["status"]
    assert (folder / "precious.txt").read_text() == "mine\n"
    assert (folder / "package" / "deep" / "data.txt").read_text() == "deep\n"


async def test_steps_find_files_folders_and_programs_but_nothing_hidden(folder: Path, tmp_path: Path) -> None:
    script = 'test "$(cat precious.txt)" = mine; grep deep package/deep/data.txt; ./run.sh; test ! -e .secret'
    found = await run_script(tmp_path / "home", folder, script)
    assert found["status"]["phase"] == "Succeeded", found["status"]


async def test_a_home_inside_the_source_folder_is_not_copied_into_itself(folder: Path) -> None:
    found = await run_script(folder / "state", folder, "test ! -e state")
    assert found["status"]["phase"] == "Succeeded", found["status"]


def test_a_folder_with_too_many_files_or_bytes_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        (tmp_path / f"{index}.txt").write_text("12345")
    home = tmp_path / ".penstock"
    assert sources.scan(tmp_path, home) is not None
    monkeypatch.setattr(sources, "MAX_FILES", 4)
    assert sources.scan(tmp_path, home) is None
    monkeypatch.setattr(sources, "MAX_FILES", 100)
    monkeypatch.setattr(sources, "MAX_BYTES", 24)
    assert sources.scan(tmp_path, home) is None


def test_the_digest_changes_with_the_files_and_with_nothing_else(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"

    def digest() -> str:
        tree = sources.scan(folder, home)
        assert tree is not None
        return tree.digest

    first = digest()
    (folder / ".secret").write_text("other")
    assert digest() == first
    (folder / "precious.txt").write_text("longer than before")
    assert digest() != first
