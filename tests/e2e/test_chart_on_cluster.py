"""What the API server makes of the chart: it takes every object, grants what the operator needs, and keeps user data.

No operator runs here: these tests are about the chart alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.cluster.shell import run, wait_until
from e2e.image import REPOSITORY
from e2e.kubectl import Kubectl
from e2e.manifests import job, pod

CHART = REPOSITORY / "charts" / "penstock"
IMAGE = "image.repository=registry.example/penstock"
AGGREGATION_SECONDS = 60
# Every switch but the ServiceMonitor, whose kind no plain API server knows.
MANY_VALUES = (
    'settings={"jobs": "ordinary", "collector": "sidecar", "runAsUser": 1000}',
    'networkPolicy={"from": [{"podSelector": {"matchLabels": {"x": "y"}}}], "apiServer": {"cidrs": ["10.0.0.1/32"]},'
    ' "extraEgress": [{"ports": [{"port": 4317}]}]}',
    'image={"repository": "registry.example/penstock", "pullSecrets": [{"name": "pull"}], "pullPolicy": "Always"}',
    'commonLabels={"owner": "data"}',
    'podLabels={"team": "data"}',
    'podAnnotations={"note": "x"}',
    'serviceAccount={"annotations": {"note": "x"}}',
    'metrics={"serviceAnnotations": {"prometheus.io/scrape": "true"}}',
    'extraEnv=[{"name": "TZ", "value": "UTC"}]',
    'nodeSelector={"disk": "ssd"}',
    'tolerations=[{"key": "batch", "operator": "Exists"}]',
    'affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference":'
    ' {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}',
    'topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]',
    'podDisruptionBudget={"maxUnavailable": "50%"}',
    "replicas=1",
    'store={"embedded": {"enabled": true}}',
    'gateway={"serviceAccountAnnotations": {"note": "x"}, "from": [{"podSelector": {}}]}',
)
PIPELINE = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "Pipeline",
    "metadata": {"name": "kept"},
    "spec": {"steps": [{"name": "only", "image": "docker.io/library/busybox:1.37", "command": ["true"]}]},
}

Install = Callable[..., str]


@pytest.fixture
def install(helm: Path, kubectl: Kubectl, namespace: str) -> Iterator[Install]:
    """Installs the release `run` without a replica into the namespace of the test, and removes it afterwards."""

    def call(*arguments: str) -> str:
        where = ("--namespace", namespace, "--set", IMAGE, "--set", "replicas=0")
        return run(helm, "install", "run", CHART, *where, *arguments, timeout=120, env=kubectl.environment())

    yield call
    uninstall = ("uninstall", "run", "--namespace", namespace, "--ignore-not-found")
    run(helm, *uninstall, timeout=120, env=kubectl.environment())


def allowed(kubectl: Kubectl, account: str, verb: str, what: str, where: str) -> bool:
    """Whether a service account may do something to `resource[/name][:subresource]`, as the API server decides it."""
    resource, _, sub = what.partition(":")
    asked = ("auth", "can-i", verb, resource, f"--subresource={sub}", "--namespace", where)
    code, said = kubectl.attempt(*asked, "--as", f"system:serviceaccount:{account}")
    assert (code, said.splitlines()[-1]) in {(0, "yes"), (1, "no")}, said
    return code == 0


@pytest.mark.parametrize("more", [(), tuple(f"--set-json={given}" for given in MANY_VALUES)], ids=["few", "many"])
@pytest.mark.parametrize("namespaced", [False, True], ids=["cluster-wide", "namespaced"])
def test_the_api_server_takes_every_object_without_a_warning(
    helm: Path, kubectl: Kubectl, namespace: str, namespaced: bool, more: tuple[str, ...]
) -> None:
    scope = ("--set", f"namespaces={{{namespace}}}") if namespaced else ()
    rendered = run(
        *(helm, "template", "run", CHART, "--namespace", namespace, "--kube-version", "v1.34.4", "--set", IMAGE),
        *(*scope, *more),
        timeout=60,
    )
    kubectl("create", "serviceaccount", "run-penstock-test")  # a dry run makes none, and the pod of the test needs it
    said = kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-"), stdin=rendered
    )
    kinds = ("deployment.apps", "pod/", "networkpolicy", "poddisruptionbudget", "rolebinding", "service/")
    assert all(kind in said for kind in kinds)


def test_cluster_wide_the_operator_may_do_its_work_anywhere_and_no_more(
    install: Install, kubectl: Kubectl, namespace: str
) -> None:
    install()
    account = f"{namespace}:run-penstock"
    for verb, what in (
        ("watch", "executions.penstock.dev"),
        ("patch", "executions.penstock.dev:status"),
        ("create", "jobs.batch"),
        ("create", "pods"),
        ("get", "pods:log"),
        ("create", "configmaps"),
        ("delete", "controllerrevisions.apps"),
        ("update", "jobs.batch:finalizers"),
        ("create", "events.events.k8s.io"),
        ("patch", "executions.penstock.dev"),
        ("patch", "deployments.penstock.dev:status"),
        ("update", "secrets"),
    ):
        assert allowed(kubectl, account, verb, what, "default"), (verb, what)
    for verb, what in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("patch", "secrets"),  # its answer would be the Secret
        ("patch", "deployments.penstock.dev"),
        ("list", "configmaps"),
        ("patch", "pipelines.penstock.dev"),
        ("update", "executions.penstock.dev"),
        ("create", "pods:exec"),
        ("create", "serviceaccounts:token"),
        ("create", "leases.coordination.k8s.io"),
    ):
        assert not allowed(kubectl, account, verb, what, "default"), (verb, what)


def test_with_an_object_store_the_operator_may_write_secrets_and_not_look_for_them(
    install: Install, kubectl: Kubectl, namespace: str
) -> None:
    install("--set", "store.url=s3://bucket")
    account = f"{namespace}:run-penstock"
    for verb, may in {
        "create": True,
        "update": True,
        "patch": False,
        "get": False,
        "list": False,
        "watch": False,
    }.items():
        assert allowed(kubectl, account, verb, "secrets", "default") is may, verb


def test_the_operator_may_own_pods_where_the_api_server_checks_owner_references(
    install: Install, kubectl: Kubectl, namespace: str
) -> None:
    install("--set", f"namespaces={{{namespace}}}")
    kubectl.apply(job("owner", "true", managedBy="penstock.dev/operator"))
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "owner",
        "uid": kubectl.get("job", "owner")["metadata"]["uid"],
    }
    owned = pod("owned", "true")
    owned["metadata"]["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]

    def create(account: str) -> tuple[int, str]:
        who = ("--as", f"system:serviceaccount:{namespace}:{account}")
        return kubectl.attempt("create", "--dry-run=server", "-f", "-", *who, stdin=json.dumps(owned))

    kubectl("create", "role", "pods", "--verb=create", "--resource=pods")
    kubectl("create", "rolebinding", "pods", "--role=pods", f"--serviceaccount={namespace}:other")
    code, said = create("other")
    if code == 0:
        pytest.skip("this API server does not check owner references: OwnerReferencesPermissionEnforcement is off")
    assert "cannot set blockOwnerDeletion" in said
    assert create("run-penstock") == (0, "pod/owned created (server dry run)\n")


def test_signing_keys_and_volume_stay_the_same_over_upgrades_and_the_volume_over_the_release(
    install: Install, helm: Path, kubectl: Kubectl, namespace: str
) -> None:
    embedded = ("--set", "store.embedded.enabled=true", "--set", f"namespaces={{{namespace}}}")
    install(*embedded)
    keys = kubectl.get("secret", "run-penstock-signing")["data"]["keys"]
    upgrade = ("upgrade", "run", CHART, "--namespace", namespace, "--set", IMAGE, "--set", "replicas=0", *embedded)
    run(helm, *upgrade, timeout=120, env=kubectl.environment())
    assert kubectl.get("secret", "run-penstock-signing")["data"]["keys"] == keys
    run(helm, "uninstall", "run", "--namespace", namespace, timeout=120, env=kubectl.environment())
    assert kubectl.get("persistentvolumeclaim", "run-penstock-store")["spec"]["resources"]


def test_namespaced_the_operator_may_do_nothing_elsewhere(
    install: Install, kubectl: Kubectl, cluster_kubectl: Kubectl, namespace: str
) -> None:
    install("--set", f"namespaces={{{namespace}}}")
    account = f"{namespace}:run-penstock"
    for verb, what in (("list", "executions.penstock.dev"), ("create", "pods"), ("get", "configmaps")):
        assert allowed(kubectl, account, verb, what, namespace), (verb, what)
        assert not allowed(kubectl, account, verb, what, "default"), (verb, what)
    ours = "app.kubernetes.io/instance=run,app.kubernetes.io/part-of=penstock"
    for kind in ("clusterroles", "clusterrolebindings"):
        names = [each["metadata"]["name"] for each in cluster_kubectl.items(kind, "-l", ours)]
        assert not [name for name in names if namespace in name]


def test_the_lease_of_the_release_is_the_only_one_the_operator_may_change(
    install: Install, kubectl: Kubectl, namespace: str
) -> None:
    install()
    account = f"{namespace}:run-penstock"
    assert allowed(kubectl, account, "create", "leases.coordination.k8s.io", namespace)
    assert allowed(kubectl, account, "update", "leases.coordination.k8s.io/run-penstock", namespace)
    assert not allowed(kubectl, account, "update", "leases.coordination.k8s.io/other", namespace)


def test_whoever_may_edit_a_namespace_may_edit_pipelines_in_it(install: Install, kubectl: Kubectl) -> None:
    install()

    def verbs(role: str) -> set[str]:
        rules = kubectl.get("clusterrole", role)["rules"]
        ours = [rule for rule in rules if "penstock.dev" in rule.get("apiGroups", ())]
        return {verb for rule in ours for verb in rule["verbs"] if "executions" in rule["resources"]}

    reads = {"get", "list", "watch"}
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    expected = {"view": reads, "edit": reads | writes, "admin": reads | writes}
    wait_until(
        lambda: all(verbs(role) >= wanted for role, wanted in expected.items()),
        timeout=AGGREGATION_SECONDS,
        what="the cluster's roles to extend to our kinds",
    )
    assert not verbs("view") & writes


def test_uninstalling_leaves_what_people_made(install: Install, helm: Path, kubectl: Kubectl, namespace: str) -> None:
    install()
    kubectl.apply(PIPELINE)
    run(helm, "uninstall", "run", "--namespace", namespace, timeout=120, env=kubectl.environment())
    assert kubectl.get("pipeline", "kept")["spec"] == PIPELINE["spec"]
    kinds = "all,roles,rolebindings,serviceaccounts,networkpolicies,poddisruptionbudgets"
    # The garbage collector takes what belonged to the release's objects a moment later.
    wait_until(
        lambda: not kubectl.items(kinds, "-l", "app.kubernetes.io/instance=run"),
        timeout=AGGREGATION_SECONDS,
        what="everything of the release to be gone",
    )


@pytest.mark.parametrize("namespaced", [False, True], ids=["cluster-wide", "namespaced"])
def test_the_notes_say_how_to_test_and_to_remove_everything(install: Install, namespace: str, namespaced: bool) -> None:
    scope = ("--set", "namespaces={team-a,team-b}") if namespaced else ()
    notes = install("--dry-run=server", *scope).partition("\nNOTES:\n")[2]
    assert f"helm test run --namespace {namespace}" in notes
    assert "kubectl delete controllerrevisions.apps --selector penstock.dev/pipeline" in notes
    assert "kubectl delete crd executions.penstock.dev deployments.penstock.dev pipelines.penstock.dev" in notes
    assert ("looks after the namespaces team-a, team-b" in notes) is namespaced


def test_the_notes_say_what_there_is_not_without_a_store_and_what_a_volume_costs(install: Install) -> None:
    def notes(*arguments: str) -> str:
        return install("--dry-run=server", *arguments).partition("\nNOTES:\n")[2]

    none, bucket, volume = notes(), notes("--set=store.url=s3://b"), notes("--set=store.embedded.enabled=true")
    assert "THERE IS NO OBJECT STORE" in none
    assert all(f"--set store.{given}" in none for given in ("url=s3://bucket/prefix", "embedded.enabled=true"))
    assert "NO OBJECT STORE" not in bucket + volume
    assert "gateway and operators run on one node" in volume
    assert "kubectl get persistentvolumeclaim run-penstock-store" in volume
    assert "one node" not in none + bucket
    shared = notes("--set=store.embedded.enabled=true,store.embedded.accessMode=ReadWriteMany")
    assert "Nothing starts before it is bound" in shared
    assert "one node" not in shared
