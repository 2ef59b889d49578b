"""Fake nodes by the thousand, for measuring what an operator and the control plane can do; pods on them run nothing."""

from __future__ import annotations

import json
from pathlib import Path

from . import builds
from .processes import Processes
from .settings import SOURCES, Layout
from .shell import run

NAME = "kwok"
# What pods for fake nodes must select and tolerate.
LABEL = "penstock.dev/fake-node"
ANNOTATION = "kwok.x-k8s.io/node"
APPLY_SECONDS = 120


def start(layout: Layout, processes: Processes, kubectl: Path, *, count: int) -> None:
    """Have fake nodes: ready, labelled and tainted `penstock.dev/fake-node`, with 64 CPUs and room for 1,000 pods each.

    Args:
        layout: The cluster's folders.
        processes: The cluster's processes.
        kubectl: The `kubectl` to make the nodes with.
        count: How many.
    """
    binary = builds.kwok(layout.cache)
    nodes = {"apiVersion": "v1", "kind": "List", "items": [fake_node(f"fake-{number}") for number in range(count)]}
    command = (kubectl, "--kubeconfig", layout.kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-")
    run(*command, timeout=APPLY_SECONDS, stdin=json.dumps(nodes))
    if not any(process.name == NAME and process.alive() for process in processes.all()):
        processes.start(
            NAME, binary, "--kubeconfig", layout.kubeconfig, "--config", SOURCES / "kwok.yaml",
            "--cidr", "10.99.0.1/16", "--manage-nodes-with-annotation-selector", f"{ANNOTATION}=fake",
        )  # fmt: skip


def fake_node(name: str) -> dict[str, object]:
    """The manifest of one fake node."""
    room = {"cpu": "64", "memory": "256Gi", "pods": "1000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {LABEL: "true"}, "annotations": {ANNOTATION: "fake"}},
        "spec": {"taints": [{"key": LABEL, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": room, "allocatable": room},
    }
