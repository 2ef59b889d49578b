"""What GitOps tools say of objects, by the code that they use: kstatus (Flux) and Argo CD's Lua."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import builds
from e2e.cluster.settings import default_cache
from e2e.cluster.shell import run
from e2e.image import REPOSITORY

ARGO_CONFIG = REPOSITORY / "examples" / "gitops" / "argocd" / "argocd-cm.yaml"


@dataclass(frozen=True)
class Health:
    """How an object fares.

    Attributes:
        kstatus: `InProgress`, `Current`, `Failed` or `Terminating`.
        message: What kstatus says to people.
        argo: What Argo CD shows with the health check of the documentation.
    """

    kstatus: str
    message: str
    argo: str

    @property
    def both(self) -> tuple[str, str]:
        """What both show."""
        return self.kstatus, self.argo


def health(folder: Path, objects: Sequence[dict[str, Any]]) -> list[Health]:
    """How objects fare, in their order.

    Args:
        folder: For a temporary file.
        objects: As an API server gives them.
    """
    config = yaml.safe_load(ARGO_CONFIG.read_text())
    checks = yaml.safe_load(config["data"]["resource.customizations"])
    script = folder / "health.lua"
    script.write_text(checks["penstock.dev/*"]["health.lua"])
    lines = run(builds.health(default_cache()), script, timeout=60, stdin="\n".join(map(json.dumps, objects)))
    return [Health(**json.loads(line)) for line in lines.splitlines()]
