"""An operator with an object store: where files go through a cluster.

PYTEST_DONT_REWRITE: there are no assertions in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import wait_until
from e2e.kubectl import Kubectl
from e2e.object_store import ObjectStore, Tls, object_store
from e2e.operator_fixtures import LocalOperator, Place, Status, restricted_namespace

# Longer than any outage that is to be waited for, shorter than what a test can wait.
PATIENCE = 45


@dataclass(frozen=True)
class Lab:
    """An operator with an object store, and its namespace."""

    place: Place
    operator: LocalOperator
    store: ObjectStore

    @property
    def namespace(self) -> str:
        """Where everything is."""
        return self.place.kubectl.namespace or ""

    def read(self, output: dict[str, Any]) -> bytes:
        """What a file output holds."""
        return self.store.read(f"{self.namespace}/{output['file']['key']}")

    def there(self, key: str) -> bool:
        """Whether an object is there, by the key that statuses have."""
        return self.store.has(f"{self.namespace}/{key}")

    def step_ended(self, name: str, step: str) -> None:
        """Wait until the container of a step has ended, whatever runs on beside it."""

        def ended() -> bool:
            found = [pod for pod in self.place.pods(name) if pod["metadata"]["labels"]["penstock.dev/step"] == step]
            statuses = found[0]["status"].get("containerStatuses", ()) if found else ()
            return any(each["name"] == "step" and "terminated" in each["state"] for each in statuses)

        wait_until(ended, timeout=60, what=f"the container of {step} to end")

    def attempt_without_store(self, name: str, step: str) -> Status:
        """Take the store away while a step runs, until an attempt of it has failed; returns its status then."""
        self.place.wait_for_pod(name, step)
        with self.store.away():
            return self.place.wait_for_step(name, step, phase="Retrying", seconds=120)

    def gone(self, key: str) -> None:
        """Wait until an object is not there."""
        wait_until(lambda: not self.there(key), timeout=60, what=f"{key} to be gone")


@contextmanager
def laboratory(kubectl: Kubectl, image: str, folder: Path, tls: Tls | None = None, **settings: str) -> Iterator[Lab]:
    """An operator of this machine with an object store and a namespace of their own.

    Args:
        kubectl: of the cluster.
        image: of the collector.
        folder: for the store and the log, of which it has neither.
        tls: with which the store speaks HTTPS; None: HTTP.
        settings: of the operator, in capitals without the prefix.
    """
    (folder / "s3").mkdir()
    with object_store(folder / "s3", tls) as store, restricted_namespace(kubectl, "files") as work:
        given = store.settings | {
            "PENSTOCK_COLLECTOR_IMAGE": image,
            "PENSTOCK_TRANSFER_PATIENCE_SECONDS": str(PATIENCE),
            **{f"PENSTOCK_{name}": value for name, value in settings.items()},
        }
        operator = LocalOperator(work.kubeconfig, work.namespace, folder / "operator.log", given)
        operator.start()
        try:
            operator.wait()
            yield Lab(Place(work, "local"), operator, store)
        finally:
            operator.stop()
            print(operator.tail())


def on_this_machine(cluster: Cluster) -> None:
    """Skip the test where pods do not reach servers of this machine."""
    if cluster.layout is None:
        pytest.skip("only pods of a cluster that was started here reach a server on this machine")


@pytest.fixture(scope="session")
def lab(
    cluster: Cluster,
    cluster_kubectl: Kubectl,
    crds: None,
    image: str,
    example_images: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    """An operator of this machine with an object store, and a namespace."""
    del crds, example_images
    on_this_machine(cluster)
    with laboratory(cluster_kubectl, image, tmp_path_factory.mktemp("files"), FILES_SIZE_LIMIT="300Mi") as found:
        yield found


@pytest.fixture(scope="module")
def roomy(
    cluster: Cluster, cluster_kubectl: Kubectl, crds: None, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """The same without a bound of what a step may write."""
    del crds
    on_this_machine(cluster)
    with laboratory(cluster_kubectl, image, tmp_path_factory.mktemp("roomy")) as found:
        yield found
