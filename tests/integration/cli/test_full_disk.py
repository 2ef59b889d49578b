"""A home on a disk that is full, or fills up while a step runs: a clear message, nothing lost, and on it goes.

The disk is a small tmpfs, mounted in a namespace of its own.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from .support import Cli

NAMESPACE = ("unshare", "-rm")


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_mount(), reason="needs user namespaces in which a tmpfs can be mounted")


def step(cli: Cli, name: str, script: str, **more: Any) -> dict[str, Any]:
    env = [{"name": "FOLDER", "value": str(cli.folder)}]
    return {"name": name, "script": f'echo {name} >> "$FOLDER/ran"\n{script}', "env": env, **more}


def on_small_disk(cli: Cli, script: str, size: str = "1m") -> list[tuple[int, str]]:
    """Run a script with a small disk at `home`; gives code and message of each line that calls `try`."""
    cli.home.mkdir()
    lines = f"""
        mount -t tmpfs -o size={size} none {cli.home} || exit 99
        try() {{ $PENSTOCK run "$@" -q >out 2>&1; echo "code $?"; cat out; echo "end"; }}
        fill() {{ head -c ${{1:-10m}} /dev/zero > {cli.home}/filler 2>/dev/null; true; }}
        {script}
    """
    cli.write("script.sh", lines)
    done = cli.shell(f"{' '.join(NAMESPACE)} bash script.sh")
    assert done.code == 0, done.err
    assert done.err == ""
    found = []
    for part in done.out.split("code ")[1:]:
        code, _, message = part.partition("\n")
        found.append((int(code), message.rsplit("end\n", 1)[0]))
    return found


def test_a_disk_that_is_full_from_the_start_and_then_is_not(cli: Cli) -> None:
    file = cli.pipeline([step(cli, "one", "true")])
    full, freed = on_small_disk(cli, f"fill; try {file}; rm {cli.home}/filler; try {file}")

    assert full[0] == 3
    assert full[1].count("\n") == 1
    assert "there is no space left on its disk" in full[1] and "free some space" in full[1]
    assert freed[0] == 0, freed[1]
    assert cli.lines("ran") == ["one"]


def test_a_disk_that_fills_up_while_a_step_runs_and_is_freed_loses_nothing(cli: Cli) -> None:
    filler = f'head -c 10m /dev/zero > "{cli.home}/filler" 2>/dev/null || true'
    file = cli.pipeline(
        [
            step(cli, "one", 'echo word=kept >> "$PENSTOCK_OUTPUT"', outputs=[{"name": "word", "type": "string"}]),
            step(cli, "two", filler, dependsOn=["one"]),
            step(cli, "three", 'test "$INPUT_WORD" = kept', dependsOn=["two"])
            | {"inputs": [{"name": "word", "from": "steps.one.outputs.word"}]},
        ]
    )
    full, freed = on_small_disk(cli, f"try {file}; rm {cli.home}/filler; try {file}")

    assert full[0] == 3, full[1]
    assert "there is no space left on its disk" in full[1] and "Traceback" not in full[1]
    assert freed[0] == 0, freed[1]
    assert "going on with" in freed[1]
    assert cli.lines("ran") == ["one", "two", "three"]


def test_an_output_file_that_does_not_fit_is_told(cli: Cli) -> None:
    script = 'head -c 10m /dev/zero > "$PENSTOCK_OUTPUTS/big"'
    file = cli.pipeline([step(cli, "big", script, outputs=[{"name": "big", "type": "file"}])])
    (full,) = on_small_disk(cli, f"try {file}")

    assert full[0] in {1, 3}, full[1]
    assert "No space left on device" in full[1] or "there is no space left" in full[1]
    assert "Traceback" not in full[1]
