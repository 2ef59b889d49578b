"""The examples of deployments: right, and their pipelines run here; a cluster is what `tests/e2e` has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from project import ROOT, penstock

EXAMPLES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples" / "deployments").glob("*.yaml"))

_HERE = re.compile(r"^#\s+penstock ((?:run|schedule) .*?)$", re.MULTILINE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_its_pipeline_and_its_commands_run(name: str, tmp_path: Path) -> None:
    checked = penstock(tmp_path, "lint", name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    commands = _HERE.findall((ROOT / name).read_text(encoding="utf-8"))
    assert commands, "the first lines name no command"
    for command in commands:
        done = penstock(tmp_path, *shlex.split(command))
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_deployment_binds_wrongly_is_found_before_it_is_applied(tmp_path: Path) -> None:
    wrong = (
        (ROOT / "examples" / "deployments" / "nightly.yaml")
        .read_text()
        .replace("{name: rows, config", "{name: row, config")
    )
    (tmp_path / "wrong.yaml").write_text(wrong.replace("{date}/", "{day}/"))
    done = penstock(tmp_path, "lint", str(tmp_path / "wrong.yaml"))
    assert done.returncode == 1
    for said in ('the pipeline has no input "row"', 'bind "rows": give it a value', "there is no {day}"):
        assert said in done.stdout + done.stderr
