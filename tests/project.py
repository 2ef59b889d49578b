"""The command line as somebody would use it in the project's own folder. No tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 120


def penstock(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line from the root of the project, with everything it keeps under `home`."""
    return subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PENSTOCK_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
