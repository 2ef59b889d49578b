"""The GitOps repository of the documentation: it builds, the API server takes it, and nothing drifts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from e2e.image import REPOSITORY
from e2e.kubectl import Kubectl

GITOPS = REPOSITORY / "examples" / "gitops"
OVERLAYS = sorted(path.name for path in (GITOPS / "overlays").iterdir())

Object = dict[str, Any]


def built(kubectl: Kubectl, overlay: str) -> dict[str, Object]:
    """What Kustomize makes of an overlay, by kind."""
    text = kubectl("kustomize", GITOPS / "overlays" / overlay)
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def named(items: list[Object]) -> dict[str, Object]:
    """Items of a list by name."""
    return {each["name"]: each for each in items}


def test_overlays_change_what_they_name_and_keep_the_rest(cluster_kubectl: Kubectl) -> None:
    base = yaml.safe_load((GITOPS / "base" / "pipeline.yaml").read_text())["spec"]
    staging, production = (built(cluster_kubectl, name) for name in ("staging", "production"))
    steps = named(staging["Pipeline"]["spec"]["steps"])
    assert list(steps) == [step["name"] for step in base["steps"]]
    assert {step["image"] for step in steps.values()} == {"docker.io/library/busybox:1.38-rc"}
    assert steps["count"]["timeoutSeconds"] == 60
    assert steps["count"]["script"] == named(base["steps"])["count"]["script"]
    inputs = named(staging["Deployment"]["spec"]["inputs"])
    assert {name: given["value"] for name, given in inputs.items()} == {"rows": 5, "title": "Report"}
    assert staging["Deployment"]["spec"]["suspend"] is True
    live = production["Deployment"]["spec"]
    assert live["schedule"] == {"cron": "0 */2 * * *", "timeZone": "Europe/Berlin", "catchUp": "Last"}
    assert {name: given["value"] for name, given in named(live["inputs"]).items()} == {"rows": 5000, "title": "Report"}
    assert {step["image"] for step in production["Pipeline"]["spec"]["steps"]} == {
        "registry.example/library/busybox:1.37"
    }


def applied(kubectl: Kubectl) -> list[Object]:
    """What is there, without the number that also tells of how it is stored."""
    found: list[Object] = json.loads(kubectl("get", "pipelines,pdep", "-o", "json", "--show-managed-fields"))["items"]
    for each in found:
        del each["metadata"]["resourceVersion"]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_makes_is_taken_and_applied_again_without_drift(
    overlay: str, kubectl: Kubectl, crds: None
) -> None:
    del crds
    objects = built(kubectl, overlay)
    for each in objects.values():
        assert each["metadata"].pop("namespace") == f"reports-{overlay}"
    text = yaml.safe_dump_all(objects.values())
    apply = ("apply", "--server-side", "--validate=strict", "-f", "-")
    said = kubectl(*apply, "--dry-run=server", stdin=text)
    assert said.count("serverside-applied (server dry run)") == len(objects)
    kubectl(*apply, stdin=text)
    assert kubectl.attempt("diff", "--server-side", "-f", "-", stdin=text) == (0, "")
    before = applied(kubectl)
    kubectl(*apply, stdin=text)
    assert applied(kubectl) == before
