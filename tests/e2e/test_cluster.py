"""What all other end-to-end tests rely on: that the cluster is a real one, and takes what we ship."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import run, wait_until
from e2e.image import REPOSITORY
from e2e.kubectl import Kubectl
from e2e.manifests import CRDS, job, pod, terminated

POD_SECONDS = 120
EXAMPLES = sorted(path for path in (REPOSITORY / "examples").rglob("*.yaml") if "gitops" not in path.parts)


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def run_pod(kubectl: Kubectl, manifest: dict[str, Any]) -> dict[str, Any]:
    """Run a pod to its end; returns how its container ended."""
    kubectl.apply(manifest)
    name = manifest["metadata"]["name"]

    def ended() -> bool:
        return terminated(kubectl.get("pod", name)) is not None

    wait_until(ended, timeout=POD_SECONDS, what=f"the pod {name} to end", every=0.3)
    found = terminated(kubectl.get("pod", name))
    assert found is not None
    return found


def test_a_pod_runs_under_pod_security_restricted_and_its_exit_code_and_message_are_seen(kubectl: Kubectl) -> None:
    ended = run_pod(kubectl, pod("fails", "echo said; id -u; echo result=7 > /dev/termination-log; exit 3"))

    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "result=7\n")
    assert kubectl("logs", "fails") == "said\n65532\n"


def test_a_pod_that_runs_as_root_is_refused(kubectl: Kubectl) -> None:
    code, said = kubectl.attempt("run", "root", "--image", "docker.io/library/busybox:1.37", "--restart=Never")

    assert code != 0
    assert 'violates PodSecurity "restricted:latest"' in said


def test_a_container_that_takes_more_than_its_memory_is_oom_killed(kubectl: Kubectl) -> None:
    limits = {"limits": {"memory": "32Mi", "cpu": "1"}}

    ended = run_pod(kubectl, pod("hungry", "tail /dev/zero", resources=limits))

    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_an_image_that_does_not_exist_is_reported(kubectl: Kubectl) -> None:
    kubectl.apply(pod("imageless", "true", image="registry.invalid/none:1"))

    def reason() -> str:
        statuses = kubectl.get("pod", "imageless")["status"].get("containerStatuses", [])
        return str(statuses[0]["state"].get("waiting", {}).get("reason")) if statuses else ""

    wait_until(lambda: reason() in {"ErrImagePull", "ImagePullBackOff"}, timeout=POD_SECONDS, what="the pull to fail")


def test_the_job_controller_leaves_a_job_alone_that_somebody_else_manages(kubectl: Kubectl) -> None:
    kubectl.apply(job("managed", "true", managedBy="penstock.dev/operator"), job("ordinary", "true"))

    kubectl("wait", "--for=condition=complete", "job/ordinary", f"--timeout={POD_SECONDS}s", timeout=POD_SECONDS + 30)

    assert [p["metadata"]["labels"]["job-name"] for p in kubectl.items("pods")] == ["ordinary"]
    assert not kubectl.get("job", "managed")["status"]


def test_pods_reach_the_api_server_through_its_service(kubectl: Kubectl) -> None:
    get = 'wget -q -O - --no-check-certificate "https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/version"'

    ended = run_pod(kubectl, pod("client", f"{get} | grep gitVersion > /dev/termination-log"))

    assert ended["exitCode"] == 0, kubectl("logs", "client")
    assert json.loads(kubectl("get", "--raw", "/version"))["gitVersion"] in ended["message"]


@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize("path", CRDS, ids=relative)
def test_a_crd_is_structural_and_applies_again_without_a_conflict(path: Path, cluster_kubectl: Kubectl) -> None:
    cluster_kubectl("apply", "--server-side", "-f", path)

    conditions = cluster_kubectl.get("-f", str(path))["status"]["conditions"]

    assert [c["message"] for c in conditions if c["type"] == "NonStructuralSchema"] == []


@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize("path", EXAMPLES, ids=relative)
def test_an_example_is_accepted_by_the_api_server(path: Path, cluster_kubectl: Kubectl) -> None:
    said = cluster_kubectl("apply", "--dry-run=server", "--validate=strict", "-f", path)

    assert "(server dry run)" in said


@pytest.mark.usefixtures("crds")
def test_get_deploy_still_lists_apps_and_get_exec_lists_executions(kubectl: Kubectl) -> None:
    assert "deployment.apps" in kubectl("create", "deployment", "app", "--image=none", "--replicas=0", "-o", "name")

    assert "deployment.apps/app" in kubectl("get", "deploy", "-o", "name")
    assert kubectl.attempt("get", "exec") == (0, f"No resources found in {kubectl.namespace} namespace.\n")


def test_helm_talks_to_the_cluster(helm: Path, kubectl: Kubectl) -> None:
    said = run(helm, "list", "--namespace", kubectl.namespace, "--short", timeout=60, env=kubectl.environment())

    assert said.strip() == ""


def test_the_projects_image_runs_under_pod_security_restricted(image: str, kubectl: Kubectl) -> None:
    ended = run_pod(kubectl, pod("ours", "", image=image, command=["penstock", "--version"]))

    assert ended["exitCode"] == 0, kubectl("logs", "ours")
    assert "penstock" in kubectl("logs", "ours")


@pytest.mark.usefixtures("example_images")
def test_the_images_of_the_examples_are_there(kubectl: Kubectl) -> None:
    python = pod(
        "python", "python -c 'import sys; print(sys.version_info[:2])'", image="docker.io/library/python:3.13-slim"
    )

    assert run_pod(kubectl, python)["exitCode"] == 0
    assert kubectl("logs", "python") == "(3, 13)\n"


@pytest.mark.disruptive
def test_the_api_server_can_be_killed_and_comes_back_with_everything(cluster: Cluster, kubectl: Kubectl) -> None:
    if cluster.layout is None:
        pytest.skip("only a cluster that was started here may lose its API server")
    kubectl("create", "configmap", "kept", "--from-literal=a=b")
    cluster.processes.kill("apiserver", signal.SIGKILL)
    wait_until(lambda: not cluster.processes.get("apiserver").alive(), timeout=10, what="the API server to be gone")
    assert kubectl.attempt("get", "configmap", "kept")[0] != 0

    cluster.processes.start_again("apiserver")
    cluster.wait_until_ready()

    assert kubectl.get("configmap", "kept")["data"] == {"a": "b"}
