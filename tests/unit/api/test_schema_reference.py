"""The page of all fields: up to date, complete, and without dead links."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.api.crd import KINDS
from penstock.api.reference import manifests
from penstock.api.schema import json_schema

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "manifests.md"


def test_the_committed_page_is_that_of_the_models() -> None:
    assert PAGE.read_text(encoding="utf-8") == manifests(), "run `make generate`"


def test_every_model_has_one_section_with_all_its_fields() -> None:
    sections = dict(re.findall(r"^##+ (\w+)\n(.*?)(?=^##|\Z)", manifests(), re.MULTILINE | re.DOTALL))
    assert len(re.findall(r"^##+ ", manifests(), re.MULTILINE)) == len(sections)
    schema = json_schema()
    models = {name: model for name, model in schema["$defs"].items() if "properties" in model}
    assert sections.keys() == models.keys()
    for name, model in models.items():
        assert set(re.findall(r"^\| `(\w+)` \|", sections[name], re.MULTILINE)) == model["properties"].keys()


def test_every_link_leads_to_a_section() -> None:
    headings = {heading.lower() for heading in re.findall(r"^##+ (\w+)$", manifests(), re.MULTILINE)}
    links = set(re.findall(r"\]\(#(\w+)\)", manifests()))
    assert links
    assert links <= headings


def test_every_row_has_four_cells() -> None:
    rows = [line for line in manifests().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {5}


def test_types_bounds_defaults_and_rules_in_words() -> None:
    page = manifests()
    assert "| `steps` | list (1 to 10,000) of [Step](#step) | **required** | The steps, in any order. |" in page
    assert "| `factor` | integer (1 to 100) | `1` |" in page
    assert "| `index` | integer (0 to 999) | **required** |" in page
    assert "- Exactly one of `items`, `from` and `matrix` is given." in page
    assert "- Only `suspend`, `cancel` and `ttlSecondsAfterFinished` can be changed once the object is there." in page
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(KINDS)
