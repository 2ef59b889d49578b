"""The examples with files, functions or the cache end on a cluster just as they do on this machine, with equal digests.

What is given as `name=@file` to the local run is an object of the data store here; the sources of functions, which are
in the image otherwise, are mounted into the project's own image.
"""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.files_fixtures import Lab
from e2e.image import REPOSITORY
from e2e.operator_fixtures import execution
from e2e.test_operator_examples import EXAMPLES, NOT_YET, commands, inputs_of, run_locally, told

pytest_plugins = ["e2e.operator_fixtures", "e2e.files_fixtures"]

SECONDS = 150
SOURCES = "/src"


def with_sources(name: str, manifest: dict[str, Any], lab: Lab, image: str) -> dict[str, Any]:
    """An example whose functions find their sources in a ConfigMap."""
    found = copy.deepcopy(manifest)
    functions = [step for step in found["spec"]["steps"] if "function" in step]
    if not functions:
        return found
    sources = (EXAMPLES / name).parent
    modules = {step["function"].partition(":")[0] for step in functions}
    files = [sources / f"{module}.py" for module in modules] + sorted(sources.glob("*.csv"))
    mounted = f"sources-{manifest['metadata']['name']}"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": mounted}}
    lab.place.kubectl.apply(body | {"data": {file.name: file.read_text() for file in files}})
    container = {
        "name": "step",
        "workingDir": "/tmp",
        "env": [{"name": "PYTHONPATH", "value": SOURCES}],
        "volumeMounts": [{"name": "sources", "mountPath": SOURCES}],
    }
    volumes = [{"name": "sources", "configMap": {"name": mounted}}]
    template = {"spec": {"volumes": volumes, "containers": [container]}}
    found["spec"]["defaults"]["image"] = image
    for step in functions:
        step["podTemplate"] = template
    return found


def given(arguments: list[str], manifest: dict[str, Any], lab: Lab) -> list[dict[str, Any]]:
    """The inputs that a command gives; its files are put into the data store."""
    files = [text for text in arguments[1::2] if "=@" in text]
    found = []
    for text in files:
        name, _, path = text.partition("=@")
        lab.store.put(f"{lab.namespace}/data/{path}", (REPOSITORY / path).read_bytes())
        found.append({"name": name, "object": path})
    rest = [word for text in arguments[1::2] if text not in files for word in ("--input", text)]
    return found + inputs_of(rest, manifest)


def without_places(outcome: Any, *, times: bool) -> Any:
    """An outcome without what is not the same at two places: keys, and the content of what holds the time."""
    if isinstance(outcome, dict):
        dropped = {"key"} | ({"outputs"} if times else set())
        return {name: without_places(each, times=times) for name, each in outcome.items() if name not in dropped}
    if isinstance(outcome, list):
        return [without_places(each, times=times) for each in outcome]
    return outcome


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_an_example_ends_on_the_cluster_as_it_does_here(name: str, lab: Lab, image: str, tmp_path: Path) -> None:
    manifest = yaml.safe_load((EXAMPLES / name).read_text())
    lab.place.kubectl.apply(with_sources(name, manifest, lab, image))
    here = run_locally(name, tmp_path)
    there = []
    for arguments in commands(name):
        inputs = given(arguments, manifest, lab)
        started = lab.place.start_all([execution(manifest["metadata"]["name"], inputs=inputs)])
        there.append(lab.place.wait(started[0], seconds=SECONDS))
    assert len(here) == len(there) > 0, shlex.join(name)
    times = name == "cache.yaml"
    for local, cluster in zip(here, there, strict=True):
        messages = [(step["name"], step.get("message")) for step in cluster["steps"]]
        expected = without_places(told(name, local), times=times)
        assert without_places(told(name, cluster), times=times) == expected, messages
