"""The user documentation: its manifests are right, those of the tutorial run, its links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from penstock.api import manifest
from project import ROOT, penstock

PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])

_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def manifests() -> dict[str, str]:
    """Every complete manifest in the documentation, by page and name."""
    found: dict[str, str] = {}
    for page in PAGES:
        blocks = [
            block
            for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
            if re.search(r"^kind: (Pipe|Depl|Exec)", block, re.M)
        ]
        for block in blocks:
            name = next((document.name for document in manifest.load(block)), "")
            found[f"{page.relative_to(ROOT)}:{name or len(found)}"] = block
    return found


MANIFESTS = manifests()
TUTORIAL = {name: text for name, text in MANIFESTS.items() if name.startswith("docs/tutorial.md:")}


def run(text: str, folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a manifest: exit code, and the steps' phases and the outputs' values by name."""
    path = folder / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    done = penstock(folder / "home", "run", str(path), *arguments, "--output", "json")
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    status = json.loads(done.stdout)["status"]
    phases = {step["name"]: step["phase"] for step in status["steps"]}
    return done.returncode, phases | {given["name"]: given.get("value") for given in status.get("outputs", [])}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_in_the_docs_has_nothing_wrong(name: str) -> None:
    found = manifest.load(MANIFESTS[name])

    assert [str(problem) for document in found for problem in document.problems] == []
    assert manifest.require(found)


def test_lint_finds_nothing_in_the_manifests_of_the_docs(tmp_path: Path) -> None:
    paths = []
    for number, text in enumerate(MANIFESTS.values()):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(text, encoding="utf-8")

    done = penstock(tmp_path / "home", "lint", "--strict", *map(str, paths))

    assert len(paths) > 5
    assert done.returncode == 0, done.stdout + done.stderr


def test_tutorial_one_step_greets_whoever_the_input_names(tmp_path: Path) -> None:
    text = TUTORIAL["docs/tutorial.md:tutorial-hello"]

    assert run(text, tmp_path) == (0, {"greet": "Succeeded", "greeting": "Hello, World!"})
    assert run(text, tmp_path, "--input", "who=Ada") == (0, {"greet": "Succeeded", "greeting": "Hello, Ada!"})


def test_tutorial_file_goes_from_one_step_to_the_next(tmp_path: Path) -> None:
    text = TUTORIAL["docs/tutorial.md:tutorial-files"]

    assert run(text, tmp_path) == (0, {"prepare": "Succeeded", "add": "Succeeded", "total": 15})


def test_tutorial_wrong_input_is_refused_with_its_name_and_type(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(TUTORIAL["docs/tutorial.md:tutorial-files"], encoding="utf-8")

    done = penstock(tmp_path / "home", "run", str(path), "--input", "rows=many")

    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "rows" in said
    assert "number" in said
    assert "Traceback" not in said


def test_tutorial_fan_out_collects_in_item_order(tmp_path: Path) -> None:
    text = TUTORIAL["docs/tutorial.md:tutorial-fan-out"]

    assert run(text, tmp_path) == (0, {"add": "Succeeded", "pick": "Succeeded", "largest": 500500})


@pytest.mark.parametrize(
    ("good_attempt", "code", "flaky", "publish"),
    [(2, 0, "Succeeded", "Succeeded"), (3, 0, "Succeeded", "Skipped"), (4, 1, "Failed", "Omitted")],
)
def test_tutorial_failures_end_as_the_page_says(
    tmp_path: Path, good_attempt: int, code: int, flaky: str, publish: str
) -> None:
    ended = run(TUTORIAL["docs/tutorial.md:tutorial-failures"], tmp_path, "--input", f"good_attempt={good_attempt}")

    assert ended == (code, {"flaky": flaky, "publish": publish, "clean-up": "Succeeded"})


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_lead_to_files(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]

    assert [link for link in links if not (page.parent / link).exists()] == []
