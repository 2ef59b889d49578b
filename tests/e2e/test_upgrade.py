"""Operators come and go, by `helm upgrade`, `rollback`, `uninstall` and `install`; what people run goes on.

Each test has a release and namespaces of its own. Steps wait at gates that the test opens, so that it is certain what
runs while operators change. Only the cluster-wide one looks after namespaces of others too.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.shell import run, wait_until
from e2e.kubectl import Kubectl
from e2e.manifests import CRDS
from e2e.operator_fixtures import (
    CHART,
    USER,
    Place,
    execution,
    restricted_namespace,
    script,
    steps,
    values,
)

RELEASE = "penstock"
HELM_SECONDS = 180
MANY = 8
INSTALLER = "installer"

TEXT = [{"name": "text", "type": "string", "maxBytes": 64}]
# /dev/shm is a place that any user of any container may write to.
GATED = steps(
    script("before", 'echo "text=a" >> "$PENSTOCK_OUTPUT"', outputs=TEXT),
    script(
        "gate",
        'until [ -e /dev/shm/open ]; do sleep 0.2; done; echo "text=${INPUT_X}b" >> "$PENSTOCK_OUTPUT"',
        inputs=[{"name": "x", "from": "steps.before.outputs.text"}],
        # Any length: it is the collector that brings this one.
        outputs=[{"name": "text", "type": "string"}],
    ),
    script("after", 'test "$INPUT_X" = ab', inputs=[{"name": "x", "from": "steps.gate.outputs.text"}]),
    outputs=[{"name": "text", "type": "string", "from": "steps.gate.outputs.text"}],
)
CHAIN = steps(*(script(f"s{n}", "sleep 1", dependsOn=[f"s{n - 1}"] if n else []) for n in range(4)))


@dataclass(frozen=True)
class Release:
    """A release of the chart in a namespace of its own.

    Attributes:
        helm: The command.
        home: `kubectl` in the release's namespace.
        image: The project's image.
        user: Who installs it; the administrator unless told.
    """

    helm: Path
    home: Kubectl
    image: str
    user: str = ""

    def install(self, *arguments: str) -> None:
        """Install it, and wait until its operators are ready."""
        repository, _, tag = self.image.rpartition(":")
        image = f"image.repository={repository},image.tag={tag},settings.runAsUser={USER}"
        self.call("install", RELEASE, CHART, "--wait", "--set", image, *arguments)

    def upgrade(self, *arguments: str) -> None:
        """Upgrade it to other values, and wait until all operators are new ones."""
        self.call("upgrade", RELEASE, CHART, "--wait", "--reset-then-reuse-values", *arguments)

    def call(self, *words: str | Path) -> str:
        """Call `helm` in the release's namespace."""
        where = ["--namespace", self.home.namespace, *(["--kube-as-user", self.user] if self.user else [])]
        return run(self.helm, *words, *where, timeout=HELM_SECONDS, env=self.home.environment())

    def operators(self) -> set[str]:
        """The uids of its pods that are not on their way out."""
        pods = self.home.items("pods", "-l", "app.kubernetes.io/component=operator")
        return {pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]}

    def leader(self) -> str:
        """The name of the pod that leads; empty while none does."""
        code, said = self.home.attempt("get", "lease", RELEASE, "-o", "jsonpath={.spec.holderIdentity}")
        return said if code == 0 else ""


@contextmanager
def released(helm: Path, kubectl: Kubectl, image: str) -> Iterator[Release]:
    """A release that is not installed yet, in a fresh namespace; removed at the end, with its log printed."""
    with restricted_namespace(kubectl, "home") as home:
        release = Release(helm, home, image)
        try:
            yield release
        finally:
            log = home.attempt("logs", "-l", "app.kubernetes.io/component=operator", "--tail=100", "--prefix")[1]
            print(f"log of the operators of {home.namespace}:\n{log}\n{home.explain('pods')}")
            release.call("uninstall", RELEASE, "--ignore-not-found", "--wait")


@pytest.fixture
def release(helm: Path, cluster_kubectl: Kubectl, crds: None, image: str, example_images: None) -> Iterator[Release]:
    """A release that is not installed yet."""
    del crds, example_images
    with released(helm, cluster_kubectl, image) as found:
        yield found


@pytest.fixture
def work(cluster_kubectl: Kubectl) -> Iterator[Place]:
    """A namespace to run things in."""
    with restricted_namespace(cluster_kubectl, "work") as kubectl:
        yield Place(kubectl, "release")


def open_gate(place: Place, name: str) -> None:
    """Let the step `gate` of an execution go on."""
    pod = place.wait_for_pod(name, "gate")
    place.kubectl("exec", pod, "--container", "step", "--", "touch", "/dev/shm/open")


def succeeded_once(place: Place, names: Sequence[str], seconds: float = 120) -> None:
    """Wait for executions, and see that each step of each succeeded in its one and only pod, and each Job says so."""
    ended = place.wait_all(names, seconds=seconds)
    assert {name: status["phase"] for name, status in ended.items()} == dict.fromkeys(names, "Succeeded")
    expected = Counter((name, step["name"]) for name, status in ended.items() for step in status["steps"])
    assert [step for status in ended.values() for step in status["steps"] if step["attempts"] != 1] == []
    assert Counter(map(what_it_runs, place.kubectl.items("pods"))) == expected

    def all_complete() -> bool:
        jobs = place.kubectl.items("jobs")
        done = [
            job for job in jobs if any(c["type"] == "Complete" for c in job.get("status", {}).get("conditions", ()))
        ]
        return Counter(map(what_it_runs, jobs)) == Counter(map(what_it_runs, done)) == expected

    wait_until(all_complete, timeout=60, what="every Job to be Complete")


def what_it_runs(thing: Mapping[str, Any]) -> tuple[str, str]:
    labels = thing["metadata"]["labels"]
    return labels["penstock.dev/execution"], labels["penstock.dev/step"]


def test_an_upgrade_and_a_rollback_lose_nothing_that_runs_and_repeat_nothing(release: Release, work: Place) -> None:
    release.install("--set", f"namespaces={{{work.kubectl.namespace}}}")
    first = release.operators()
    assert len(first) == 2
    gated, chain = work.pipeline(GATED), work.pipeline(CHAIN)
    names = work.start_all([execution(gated, name=f"gated-{n}") for n in range(3)])
    for name in names:
        work.wait_for_pod(name, "gate")

    names += work.start_all([execution(chain, name=f"before-{n}") for n in range(MANY)])
    release.upgrade("--set", "settings.workers=7")
    second = release.operators()
    assert len(second) == 2
    assert not first & second
    names += work.start_all([execution(chain, name=f"between-{n}") for n in range(MANY)])
    open_gate(work, "gated-0")
    assert values(work.wait("gated-0")) == {"text": "ab"}

    release.call("rollback", RELEASE, "1", "--wait")
    third = release.operators()
    assert len(third) == 2
    assert not third & (first | second)
    names += work.start_all([execution(chain, name=f"after-{n}") for n in range(2)])
    for name in ("gated-1", "gated-2"):
        assert work.status(name)["phase"] == "Running"
        open_gate(work, name)

    succeeded_once(work, names)


def test_uninstalling_leaves_what_runs_and_installing_again_or_a_drained_node_go_on_with_it(
    release: Release, work: Place
) -> None:
    scope = ("--set", f"namespaces={{{work.kubectl.namespace}}}")
    release.install(*scope)
    pipeline = work.pipeline(GATED)
    names = work.start_all([execution(pipeline, name="ends-alone"), execution(pipeline, name="goes-on")])
    for name in names:
        work.wait_for_pod(name, "gate")
    before = {kind: names_of(work.kubectl, kind) for kind in ("pipelines", "executions", "jobs", "controllerrevisions")}

    release.call("uninstall", RELEASE, "--wait")
    wait_until(lambda: not release.operators(), timeout=60, what="the operators to be gone")
    open_gate(work, "ends-alone")
    work.wait_for_pod("ends-alone", "gate", phase="Succeeded")
    unattended = work.start(pipeline, name="started-alone")
    for kind, there in before.items():
        assert names_of(work.kubectl, kind) >= there
    for path in CRDS:
        assert work.kubectl.get("-f", str(path))["spec"]["group"] == "penstock.dev"
    assert {name: work.status(name).get("phase") for name in (*names, unattended)} == {
        "ends-alone": "Running",
        "goes-on": "Running",
        "started-alone": None,
    }

    release.install(*scope, "--set", "replicas=1")
    work.wait("ends-alone", "Succeeded")
    evict(release)
    for name in ("goes-on", unattended):
        open_gate(work, name)
    succeeded_once(work, [*names, unattended])


def evict(release: Release) -> None:
    """Evict the only operator, as draining its node does; returns when another one is ready."""
    (pod,) = release.home.items("pods", "-l", "app.kubernetes.io/component=operator")
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{release.home.namespace}/pods/{name}/eviction"
    release.home("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    release.home("wait", "--for=delete", f"pod/{name}", "--timeout=60s", timeout=70)
    release.home("rollout", "status", f"deploy.apps/{RELEASE}", "--timeout=60s", timeout=70)


def names_of(kubectl: Kubectl, kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in kubectl.items(kind)}


@pytest.mark.disruptive
def test_cluster_wide_executions_of_any_namespace_run_and_the_test_of_the_release_passes(
    release: Release, work: Place, cluster_kubectl: Kubectl
) -> None:
    release.install()
    with restricted_namespace(cluster_kubectl, "later") as other:
        later = Place(other, "release")
        for place in (work, later):
            place.pipeline(GATED, name="gated")
            place.start("gated", name="gated")
        for place in (work, later):
            open_gate(place, "gated")
            succeeded_once(place, ["gated"])
        assert "Phase:          Succeeded" in release.call("test", RELEASE)
    roles = names_of(cluster_kubectl, "clusterroles") & {f"{RELEASE}-{release.home.namespace}"}
    assert roles
    release.call("uninstall", RELEASE, "--wait")
    assert not names_of(cluster_kubectl, "clusterroles") & roles


def test_whoever_has_rights_in_a_namespace_only_can_install_and_test_there(
    release: Release, cluster_kubectl: Kubectl
) -> None:
    home = release.home
    user = f"{INSTALLER}-{secrets.token_hex(3)}"
    # As docs/installing.md says it.
    home("create", "role", INSTALLER, "--verb=escalate,bind", "--resource=roles.rbac.authorization.k8s.io")
    home("create", "rolebinding", f"{INSTALLER}-admin", "--clusterrole=admin", f"--user={user}")
    home("create", "rolebinding", INSTALLER, f"--role={INSTALLER}", f"--user={user}")
    restricted = Release(release.helm, home, release.image, user=user)
    place = Place(home, "release")

    code, said = home.attempt("create", "clusterrole", "any", "--verb=get", "--resource=pods", "--as", user)
    assert (code, "forbidden" in said) == (1, True)
    restricted.install("--skip-crds", "--set", f"namespaces={{{home.namespace}}}")
    place.pipeline(CHAIN, name="chain")
    assert place.wait(place.start("chain"))["phase"] == "Succeeded"
    assert "Phase:          Succeeded" in restricted.call("test", RELEASE)
    for kind in ("clusterroles", "clusterrolebindings"):
        assert not [name for name in names_of(cluster_kubectl, kind) if home.namespace in name]
    restricted.call("uninstall", RELEASE, "--wait")


# CRDs: under a group of the test's own, so that nobody else's objects are touched.


def renamed(path: Path, group: str) -> dict[str, Any]:
    """A CRD as it is now, but for its group and for short names."""
    crd: dict[str, Any] = yaml.safe_load(path.read_text())
    crd["spec"]["group"] = group
    crd["metadata"]["name"] = f"{crd['spec']['names']['plural']}.{group}"
    crd["spec"]["names"].pop("shortNames", None)
    crd["spec"]["names"].pop("categories", None)
    return crd


def older(crd: dict[str, Any], *, spec: Sequence[str], status: Sequence[str] = ()) -> dict[str, Any]:
    """The same as if some fields had not been thought of yet."""
    found: dict[str, Any] = json.loads(json.dumps(crd))
    (version,) = found["spec"]["versions"]
    version.pop("additionalPrinterColumns", None)
    version.pop("selectableFields", None)
    parts = version["schema"]["openAPIV3Schema"]["properties"]
    for part, fields in (("spec", spec), ("status", status)):
        parts[part].pop("x-kubernetes-validations", None)
        for field in fields:
            del parts[part]["properties"][field]
    return found


@pytest.fixture
def group(cluster_kubectl: Kubectl) -> Iterator[str]:
    """An API group of the test's own; sorted after ours, so that short forms still mean ours."""
    name = f"upgrade-{secrets.token_hex(3)}.test"
    yield name
    listed = [crd for crd in names_of(cluster_kubectl, "customresourcedefinitions") if crd.endswith(f".{name}")]
    cluster_kubectl("delete", "customresourcedefinition", *listed, "--ignore-not-found")


def test_crds_can_be_applied_over_older_ones_that_have_objects(kubectl: Kubectl, group: str) -> None:
    new = {path.stem: renamed(path, group) for path in CRDS}
    old = dict(new)
    old["executions"] = older(new["executions"], spec=["suspend", "timeoutSeconds"], status=["outputs"])
    old["pipelines"] = older(new["pipelines"], spec=["maxParallel"])
    kubectl.apply(*old.values())
    kubectl("wait", "--for=condition=Established", *(f"crd/{crd['metadata']['name']}" for crd in old.values()))
    api = f"{group}/v1alpha1"
    pipeline = {"apiVersion": api, "kind": "Pipeline", "metadata": {"name": "p"}, "spec": CHAIN}
    running = {**execution("p", name="e", inputs=[{"name": "rows", "value": [1, {"a": None}]}]), "apiVersion": api}
    wait_until(lambda: kubectl.attempt("get", f"executions.{group}")[0] == 0, timeout=30, what="the old kinds")
    kubectl.apply(pipeline, running)
    status = json.dumps({"status": {"phase": "Running", "outputs": [{"name": "x", "value": 1}]}})
    patch = ("patch", f"executions.{group}", "e", "--subresource=status", "--type=merge", "-p")
    kubectl(*patch, status)
    stored = {kind: kubectl.get(f"{kind}.{group}", name) for kind, name in (("pipelines", "p"), ("executions", "e"))}
    # The definition is an older one: it does not know outputs.
    assert stored["executions"]["status"] == {"observedGeneration": -1, "phase": "Running"}

    for _ in range(2):
        kubectl.apply(*new.values())
    wait_until(
        lambda: "outputs" in kubectl(*patch, status, "-o", "jsonpath={.status}"), timeout=30, what="the new schema"
    )

    now = {kind: kubectl.get(f"{kind}.{group}", name) for kind, name in (("pipelines", "p"), ("executions", "e"))}
    assert {kind: found["spec"] for kind, found in now.items()} == {
        kind: found["spec"] for kind, found in stored.items()
    }
    assert now["executions"]["metadata"]["uid"] == stored["executions"]["metadata"]["uid"]
    # What came with the new one works on old objects: fields, and rules about changes.
    kubectl("patch", f"executions.{group}", "e", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    refused = kubectl.attempt(
        "patch", f"executions.{group}", "e", "--type=merge", "-p", '{"spec": {"timeoutSeconds": 5}}'
    )
    assert refused[0] != 0, refused
    for crd in new.values():
        found = kubectl.get("crd", crd["metadata"]["name"])
        assert found["status"]["storedVersions"] == ["v1alpha1"]
