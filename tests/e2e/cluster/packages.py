"""The set-up steps of a bare Debian machine: packages that are missing are installed as root, or named in the error."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .locks import held
from .shell import ClusterError, run, say

UPDATE_SECONDS = 300
INSTALL_SECONDS = 900
# apt waits for others that install, but not for others that update its lists.
LOCK = Path(tempfile.gettempdir()) / "penstock-e2e-packages.lock"


def missing(needed: Mapping[str, str]) -> list[str]:
    """The Debian packages to install.

    Args:
        needed: A command, or the absolute path of a file → the package that brings it.
    """
    return sorted({package for name, package in needed.items() if not present(name)})


def present(name: str) -> bool:
    """Whether a command or file is there; /usr/sbin counts although a user's PATH may lack it."""
    if name.startswith("/"):
        return Path(name).exists()
    return shutil.which(name) is not None or shutil.which(name, path="/usr/sbin:/sbin") is not None


def install(needed: Mapping[str, str]) -> None:
    """Install what is missing.

    Args:
        needed: As for `missing`.

    Raises:
        ClusterError: Something is missing, and this is not Debian or we are not root.
    """
    packages = missing(needed)
    if not packages:
        return
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"what these Debian packages bring is missing: {', '.join(packages)}; install it, or set KUBECONFIG"
        )
    if os.geteuid() != 0:
        raise ClusterError(f"packages are missing; as root: {command}")
    say(command)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Others may be installing as well: wait for their lock instead of failing on it.
    wait = "-oDPkg::Lock::Timeout=300"
    install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", wait, *packages)
    with held(LOCK):
        run("apt-get", "update", "-qq", wait, timeout=UPDATE_SECONDS, env=env)
        run(*install, timeout=INSTALL_SECONDS, env=env)
    if still := missing(needed):
        raise ClusterError(f"still missing although installed: {', '.join(still)}")
