"""Fixtures of the end-to-end tests: the cluster, `kubectl`, `helm`, a namespace a test, and the project's image.

With KUBECONFIG set nothing is started, and that cluster is used; PENSTOCK_E2E_IMAGE then names an image it can pull.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.cluster import builds
from e2e.cluster.cluster import Cluster, used
from e2e.cluster.locks import turn
from e2e.cluster.settings import Layout, default_cache
from e2e.cluster.shell import ClusterError, say, wait_until
from e2e.image import build, python_image
from e2e.journal import Journal, open_journal
from e2e.kubectl import Kubectl, proxy
from e2e.manifests import CRDS

# Modules of a minute and more, the longest first.
LONG = (
    "test_deployments_ticks",
    "test_deployments_policies",
    "test_deployments",
    "test_operator_files",
    "test_operator_functions_files",
    "test_cli_cluster",
    "test_operator_large",
    "test_operator_values",
    "test_operator_file_examples",
    "test_upgrade",
    "test_operator_lifecycle",
    "test_operator_examples",
    "test_operator_takeover",
    "test_operator_signals",
    "test_chart_on_cluster",
    "test_cli_credentials",
)
CRD_SECONDS = 60
NAMESPACE_SECONDS = 60
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
    "pod-security.kubernetes.io/warn": "restricted",
}


def pytest_configure(config: pytest.Config) -> None:
    """Tell of our marker."""
    config.addinivalue_line("markers", "disruptive: takes the cluster away from others, or needs it for itself")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests: what takes long first, so that no worker ends late; what needs the cluster for itself last."""
    modules = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (_disruptive(item), modules.get(item.path.stem, len(LONG))))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Tests share the cluster, also those of other sessions, but for disruptive ones; fixtures count."""
    with turn(Layout.from_environment().state, alone=_disruptive(item)):
        return (yield)


def _disruptive(item: pytest.Item) -> bool:
    return item.get_closest_marker("disruptive") is not None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster to test on: KUBECONFIG's, one that runs here already, or one of our own, ended after the last test.

    PENSTOCK_E2E_KEEP=1 leaves it running.
    """
    with used(Layout.from_environment(), keep=bool(os.environ.get("PENSTOCK_E2E_KEEP"))) as found:
        yield found


@pytest.fixture(scope="session")
def cluster_kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    """`kubectl` outside of any test's namespace."""
    program = _program(cluster, "kubectl")
    with proxy(program, cluster.kubeconfig) as address:
        yield Kubectl(program, cluster.kubeconfig, proxy=address)


@pytest.fixture
def kubectl(cluster_kubectl: Kubectl, namespace: str) -> Kubectl:
    """`kubectl` in the test's namespace."""
    return replace(cluster_kubectl, namespace=namespace)


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> Path:
    """The `helm` command; give it `kubectl.environment()`."""
    return _program(cluster, "helm")


@pytest.fixture(scope="session")
def crds(cluster_kubectl: Kubectl) -> None:
    """The project's CRDs, applied on the server's side as GitOps tools do, and served."""
    for path in CRDS:
        cluster_kubectl("apply", "--server-side", "--force-conflicts", "-f", path)

        def established(path: Path = path) -> bool:
            # Not `kubectl wait`: it fails on a definition so new that it has no conditions at all.
            conditions = cluster_kubectl.get("-f", str(path)).get("status", {}).get("conditions") or []
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        wait_until(established, timeout=CRD_SECONDS, what=f"{path.name} to be established")


@pytest.fixture
def namespace(cluster_kubectl: Kubectl) -> Iterator[str]:
    """A fresh namespace that enforces Pod Security `restricted`, deleted afterwards."""
    name = f"e2e-{secrets.token_hex(4)}"
    cluster_kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})

    def admits_pods() -> bool:
        # The controller manager makes it a moment later, and no pod is admitted before.
        return cluster_kubectl.attempt("get", "serviceaccount", "default", "--namespace", name)[0] == 0

    wait_until(admits_pods, timeout=NAMESPACE_SECONDS, what=f"the service account of the namespace {name}")
    yield name
    # Whoever wants to see that nothing is left behind waits for it; others need not.
    cluster_kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """The name of the project's image, built from the `Dockerfile` and given to the cluster."""
    if named := os.environ.get("PENSTOCK_E2E_IMAGE"):
        return named
    if cluster.layout is None:
        raise ClusterError(
            "KUBECONFIG is set: push an image to where that cluster pulls from, and set PENSTOCK_E2E_IMAGE"
        )
    built = build()
    cluster.give_image(built.name, built.archive)
    return built.name


@pytest.fixture(scope="session")
def example_images(cluster: Cluster) -> None:
    """The images that the examples name; a cluster of one's own pulls them."""
    if cluster.layout is None:
        say("the examples' images are pulled by the cluster")
        return
    stand_in = python_image()
    cluster.give_image(stand_in.name, stand_in.archive)


@pytest.fixture
def journal(cluster: Cluster) -> Iterator[Journal]:
    """A log that steps append to; where the API server may be killed."""
    if cluster.layout is None:
        pytest.skip("only a cluster that was started here may lose its API server, and its pods reach this machine")
    with open_journal() as opened:
        yield opened


def _program(cluster: Cluster, name: str) -> Path:
    """A tool of the pinned version, or, for a cluster that is not ours, the machine's if it has one."""
    found = shutil.which(name)
    if cluster.layout is None and found is not None:
        return Path(found)
    make = {"kubectl": builds.kubectl, "helm": builds.helm}[name]
    return make(default_cache())
