"""Packages from PyPI that tests use and that must not be among our own: each in an environment of its own. No tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def python(package: str, version: str) -> Path:
    """The Python that has this version of a package; it is installed once, and kept.

    Raises:
        RuntimeError: it cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    home = cache / "penstock-tests" / f"{package}-{version}"
    found = home / "bin" / "python"
    if not (home / "installed").exists():
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
            [*uv, "pip", "install", "--quiet", "--python", str(found), f"{package}=={version}"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{package} {version} cannot be installed: {done.stderr[-500:]}")
        (home / "installed").touch()
    return found
