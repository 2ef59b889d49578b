"""Paths of objects in manifests: what leads out of the data store is refused where it is written."""

from __future__ import annotations

import json

import pytest

from penstock.api.crd import crd
from penstock.api.manifest import Document, load
from penstock.api.problems import quoted
from penstock.storage.errors import BadObjectPath
from penstock.storage.paths import parts

REFUSED = ["a/../b", "..", "../a", "a/..", "/a", "a\\b", "a\nb", "a/\x7f"]
TAKEN = ["raw/iris.csv", "./a", "a//b", "a/./b", "a/", "...", "..a/b", "a..b", ".a", "a/..b/...", "été/日本 x.csv"]


def loaded(path: str) -> Document:
    (document,) = load(
        json.dumps(
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "Execution",
                "metadata": {"name": "iris"},
                "spec": {"pipeline": {"name": "iris"}, "inputs": [{"name": "table", "object": path}]},
            }
        )
    )
    return document


@pytest.mark.parametrize("path", REFUSED)
def test_a_path_out_of_the_data_store_is_refused_by_name(path: str) -> None:
    (problem,) = [each for each in loaded(path).problems if each.severity == "error"]
    assert problem.path == "spec.inputs[table].object"
    assert problem.message.startswith(quoted(path))
    assert "a path inside the data store, for example `raw/iris.csv`" in problem.message
    with pytest.raises(BadObjectPath):
        parts(path)


@pytest.mark.parametrize("path", TAKEN)
def test_a_path_that_the_store_takes_is_taken(path: str) -> None:
    assert [each for each in loaded(path).problems if each.severity == "error"] == []
    assert parts(path)


def test_the_api_server_refuses_the_same() -> None:
    schema = crd("Execution")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    node = schema["properties"]["spec"]["properties"]["inputs"]["items"]["properties"]["object"]
    assert "\\x1f" in node["pattern"]
