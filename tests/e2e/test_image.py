"""What is in the project's image: nothing but what runs, ready to start fast."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import wait_until
from e2e.image import build
from e2e.kubectl import Kubectl
from e2e.manifests import pod, terminated

MEGABYTES = 225  # 45 of them are what a history needs
POD_SECONDS = 120
LOOK = """
import json, os, shutil, sys
import penstock.step.collector
loaded = {name.partition(".")[0] for name in sys.modules}
light = sorted(loaded - set(sys.stdlib_module_names) - {"__main__", "sitecustomize"})
import penstock.kube.replica, zoneinfo
sources = [m for m in sys.modules.values() if (getattr(m, "__file__", None) or "").endswith(".py")]
print(json.dumps({
    "light": light,
    "uncompiled": [m.__name__ for m in sources if (code := getattr(m, "__cached__", "")) and not os.path.exists(code)],
    "sources": len(sources),
    "tools": [tool for tool in ("sh", "bash", "apt", "dpkg", "perl", "pip", "pip3") if shutil.which(tool)],
    "zone": str(zoneinfo.ZoneInfo("Europe/Paris")),
}))
"""


def look(kubectl: Kubectl, image: str) -> dict[str, Any]:
    """What a process in the image finds there."""
    kubectl.apply(pod("look", "", image=image, command=["python", "-I", "-B", "-c", LOOK]))
    wait_until(
        lambda: terminated(kubectl.get("pod", "look")) is not None,
        timeout=POD_SECONDS,
        what="the pod to end",
        every=0.3,
    )
    said = kubectl("logs", "look")
    found: dict[str, Any] = json.loads(said) if said.startswith("{") else {"said": said}
    return found


def test_the_image_has_no_tools_and_starts_from_byte_code(image: str, kubectl: Kubectl) -> None:
    found = look(kubectl, image)

    assert found.get("sources", 0) > 300, found
    assert found == {
        "light": ["penstock"],  # the collector needs the standard library and nothing else
        "uncompiled": [],
        "sources": found["sources"],
        "tools": [],
        "zone": "Europe/Paris",
    }


def test_the_image_is_small(cluster: Cluster) -> None:
    if cluster.layout is None:
        pytest.skip("the image of another cluster is not built here")
    assert build().archive.stat().st_size < MEGABYTES * 1_000_000
