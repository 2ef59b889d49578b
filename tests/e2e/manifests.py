"""Plain pods and Jobs that several end-to-end tests need: dicts that pass Pod Security `restricted`; and the CRDs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CRDS = sorted((Path(__file__).resolve().parents[2] / "crds").glob("*.yaml"))
BUSYBOX = "docker.io/library/busybox:1.37"


def pod_spec(script: str, *, image: str = BUSYBOX, **container: Any) -> dict[str, Any]:
    """A pod's spec with one container, `main`, that runs a shell script once.

    Args:
        script: For `sh -c`.
        image: An image with a shell.
        container: Further fields of the container, such as `resources`.
    """
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    main = {"name": "main", "image": image, "command": ["sh", "-c", script], "securityContext": security, **container}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [main],
    }


def pod(name: str, script: str, **fields: Any) -> dict[str, Any]:
    """A pod; the arguments are those of `pod_spec`."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec(script, **fields)}


def job(name: str, script: str, **fields: Any) -> dict[str, Any]:
    """A Job with one such pod.

    Args:
        name: Its name.
        script: What its pod runs.
        fields: Further fields of the Job's spec.
    """
    spec = {"backoffLimit": 0, "template": {"spec": pod_spec(script)}, **fields}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def terminated(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a pod's first container ended; None while it has not."""
    statuses = found.get("status", {}).get("containerStatuses", [])
    ended: dict[str, Any] | None = statuses[0]["state"].get("terminated") if statuses else None
    return ended
