"""The examples with files, functions or the cache end on a cluster just as they do on this machine, with equal digests.

With an S3 server, whose URLs pods get, and with a folder that our gateway serves. What is given as `name=@file` to the
local run is an object of the data store here; the sources of functions, which are in the image otherwise, are mounted
into the project's own image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from e2e.cluster.cluster import Cluster
from e2e.files_fixtures import on_this_machine
from e2e.image import REPOSITORY
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import Place, Status, execution, local_operator, restricted_namespace
from e2e.test_gateway_access import folder_store, free_port, serving
from e2e.test_operator_examples import EXAMPLES, NOT_YET, commands, inputs_of, run_locally, told

pytest_plugins = ["e2e.operator_fixtures", "e2e.files_fixtures"]

SECONDS = 240
SOURCES = "/src"
# What it gives holds the time.
TIMES = "cache.yaml"
# It takes files, and gives none.
TAKES = "inputs.yaml"


@dataclass(frozen=True)
class Adapter:
    """An operator with an object store, and its namespace.

    Attributes:
        place: The namespace.
        put: Puts an object into its data store.
    """

    place: Place
    put: Callable[[str, bytes], None]


@pytest.fixture(scope="module", params=["s3", "folder"])
def adapter(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    cluster_kubectl: Kubectl,
    crds: None,
    image: str,
    example_images: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Adapter]:
    """An operator with a store of each kind."""
    del crds, example_images
    on_this_machine(cluster)
    if request.param == "s3":
        lab = request.getfixturevalue("lab")
        yield Adapter(lab.place, lambda path, content: lab.store.put(f"{lab.namespace}/data/{path}", content))
        return
    folder, port = tmp_path_factory.mktemp("folder"), free_port()
    settings = folder_store(folder / "store", port)
    options = {name.removeprefix("PENSTOCK_"): value for name, value in settings.items()}
    with (
        restricted_namespace(cluster_kubectl, "folder") as work,
        serving(work.kubeconfig, folder / "gateway.log", settings, port),
        local_operator(work, folder, COLLECTOR_IMAGE=image, **options),
    ):

        def put(path: str, content: bytes) -> None:
            there = folder / "store" / work.namespace / "data" / path
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(content)

        yield Adapter(Place(work, "local"), put)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Status]]:
    """What the local runs of all examples end with, by example: a status for each of its commands."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        homes = [tmp_path_factory.mktemp("home") for _ in NOT_YET]
        return dict(zip(NOT_YET, pool.map(run_locally, NOT_YET, homes), strict=True))


@pytest.fixture(scope="module")
def there(adapter: Adapter, image: str) -> Mapping[str, list[Status]]:
    """What the same commands end with on the cluster: all examples at once, the commands of each one by one."""
    manifests = {name: yaml.safe_load((EXAMPLES / name).read_text()) for name in NOT_YET}
    for name, manifest in manifests.items():
        adapter.place.kubectl.apply(with_sources(name, manifest, adapter.place, image))
    found: dict[str, list[Status]] = {name: [] for name in NOT_YET}
    for turn in range(max(len(commands(name)) for name in NOT_YET)):
        asked = {
            name: execution(manifest["metadata"]["name"], inputs=given(commands(name)[turn], manifest, adapter))
            for name, manifest in manifests.items()
            if turn < len(commands(name))
        }
        ended = adapter.place.wait_all(adapter.place.start_all(list(asked.values())), seconds=SECONDS)
        for name, each in asked.items():
            found[name].append(ended[each["metadata"]["name"]])
    return found


def with_sources(name: str, manifest: dict[str, Any], place: Place, image: str) -> dict[str, Any]:
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
    place.kubectl.apply(body | {"data": {file.name: file.read_text() for file in files}})
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


def given(arguments: list[str], manifest: dict[str, Any], adapter: Adapter) -> list[dict[str, Any]]:
    """The inputs that a command gives; its files are put into the data store."""
    files = [text for text in arguments[1::2] if "=@" in text]
    found = []
    for text in files:
        name, _, path = text.partition("=@")
        adapter.put(path, (REPOSITORY / path).read_bytes())
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


def digests(outcome: Any) -> list[str]:
    """The digests of all files of an outcome, as they come."""
    if isinstance(outcome, dict):
        own = [outcome["sha256"]] if "sha256" in outcome else []
        return own + [digest for each in outcome.values() for digest in digests(each)]
    return [digest for each in outcome for digest in digests(each)] if isinstance(outcome, list) else []


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_an_example_ends_on_the_cluster_as_it_does_here(
    name: str, here: Mapping[str, list[Status]], there: Mapping[str, list[Status]]
) -> None:
    assert len(here[name]) == len(there[name]) == len(commands(name)) > 0
    for local, cluster in zip(here[name], there[name], strict=True):
        messages = [(step["name"], step.get("message")) for step in cluster["steps"]]
        expected, found = (without_places(told(name, each), times=name == TIMES) for each in (local, cluster))
        assert found == expected, messages
        assert bool(digests(found)) is (name not in {TIMES, TAKES})
