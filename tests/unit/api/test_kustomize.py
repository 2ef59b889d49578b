"""What Kustomize is told: the same lists are merged by the same fields as on the API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.api.crd import KINDS, crd
from penstock.api.kustomize import render

ROOT = Path(__file__).parents[3]
Node = dict[str, Any]


def merged(node: Node, key: str, path: str = "") -> Iterator[tuple[str, str]]:
    """The lists of a schema that are merged, by path, with the field that tells their items apart."""
    if key in node:
        by = node[key]
        yield path, by if isinstance(by, str) else by[0]
    for name, child in node.get("properties", {}).items():
        yield from merged(child, key, f"{path}.{name}")
    if "items" in node:
        yield from merged(node["items"], key, f"{path}[]")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_lists_are_merged_as_on_the_api_server(kind: str) -> None:
    told = json.loads(render())["definitions"][f"dev.penstock.v1alpha1.{kind}"]
    served = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    wanted = dict(merged(served, "x-kubernetes-list-map-keys"))
    assert wanted
    assert dict(merged(told["properties"]["spec"], "x-kubernetes-patch-merge-key")) == wanted
    assert told["x-kubernetes-group-version-kind"] == [{"group": "penstock.dev", "version": "v1alpha1", "kind": kind}]


def test_the_committed_document_is_that_of_the_models() -> None:
    committed = ROOT / "examples" / "gitops" / "base" / "kustomize" / "openapi.json"
    assert committed.read_text(encoding="utf-8") == render(), "run `make generate`"
