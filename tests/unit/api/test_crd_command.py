"""`python -m penstock.api`: writes what is made from the models, and says how files differ from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.api.__main__ import main
from penstock.api.crd import render

FILES = ["deployments.yaml", "executions.yaml", "pipelines.yaml"]


def arguments(folder: Path, *more: str) -> list[str]:
    """Two folders and the page, as `make generate` gives them."""
    outputs = ["--output", str(folder / "crds"), "--output", str(folder / "charts" / "crds")]
    return [*outputs, "--reference", str(folder / "docs" / "manifests.md"), *more]


def test_it_writes_all_files_and_finds_them_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path)) == 0
    assert sorted(path.name for path in (tmp_path / "crds").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "crds" / name).read_text() == (tmp_path / "charts" / "crds" / name).read_text()
    assert (tmp_path / "docs" / "manifests.md").read_text().startswith("<!-- Made from")
    assert main(arguments(tmp_path, "--check")) == 0
    assert capsys.readouterr() == ("", "")


def test_a_check_shows_the_drift_names_the_remedy_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(tmp_path))
    path = tmp_path / "crds" / "pipelines.yaml"
    changed = render("Pipeline").replace("maxItems: 10000", "maxItems: 10001")
    path.write_text(changed)
    assert main(arguments(tmp_path, "--check")) == 1
    out, err = capsys.readouterr()
    assert f"--- {path} (found)" in out
    assert "-                maxItems: 10001\n+                maxItems: 10000\n" in out
    assert "run `make generate`" in err
    assert path.read_text() == changed


def test_a_check_finds_files_that_are_missing_and_files_too_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(tmp_path))
    (tmp_path / "crds" / "executions.yaml").unlink()
    (tmp_path / "crds" / "robots.yaml").write_text("kind: Robot\n")
    assert main(arguments(tmp_path, "--check")) == 1
    out, _ = capsys.readouterr()
    assert "+  name: executions.penstock.dev\n" in out
    assert f"{tmp_path / 'crds' / 'robots.yaml'}: no model makes this file: remove it\n" in out


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "crds").write_text("a file")
    assert main(["--output", str(tmp_path / "crds")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {tmp_path / 'crds'}: File exists\n"


def test_without_options_it_is_about_the_files_of_the_repository() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "penstock.api", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_options_it_writes_nothing_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "penstock.api"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "run it in the root of the repository, or give --output DIR" in done.stderr
    assert list(tmp_path.iterdir()) == []
