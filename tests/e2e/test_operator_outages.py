"""What the operator survives without losing the lead: lost rights, kinds and namespaces, and a server that is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.shell import wait_until
from e2e.kubectl import Kubectl
from e2e.manifests import CRDS
from e2e.operator_fixtures import LocalOperator, Place, restricted_namespace, script, steps
from e2e.way import CUT, Way

pytest_plugins = ["e2e.operator_fixtures"]
pytestmark = pytest.mark.usefixtures("crds")

ACCOUNT = "operator"
BACK_SECONDS = 60
"""Far below the five minutes between two comparisons of everything."""
RULES = [
    {"apiGroups": ["penstock.dev"], "resources": ["pipelines", "pipelines/status"], "verbs": ["*"]},
    {"apiGroups": ["penstock.dev"], "resources": ["deployments", "deployments/status"], "verbs": ["*"]},
    {"apiGroups": ["batch"], "resources": ["jobs", "jobs/status", "jobs/finalizers"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "configmaps", "secrets", "events"], "verbs": ["*"]},
    {"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": ["*"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["*"]},
]
EXECUTIONS = {"apiGroups": ["penstock.dev"], "resources": ["executions", "executions/status"], "verbs": ["*"]}
ONE = steps(script("s", "exit 0"))


@pytest.fixture
def way(cluster_kubectl: Kubectl) -> Iterator[Way]:
    """A way to the API server that can be broken."""
    with Way(cluster_kubectl.kubeconfig).open() as opened:
        yield opened


@contextmanager
def operator_on(
    way: Way, work: Kubectl, folder: Path, *, token: str | None = None, **settings: str
) -> Iterator[LocalOperator]:
    """An operator for a namespace that goes this way; it is to lead to the end."""
    kubeconfig = way.kubeconfig(folder / "way", token)
    given = {f"PENSTOCK_{name}": value for name, value in settings.items()}
    operator = LocalOperator(kubeconfig, work.namespace, folder / "operator.log", given)
    operator.start()
    try:
        operator.wait()
        leads = lease(work)
        yield operator
        assert not operator.ended(), "the operator ended"
        assert lease(work) == leads, "the operator lost the lead"
    finally:
        operator.stop()
        print(f"log of the operator:\n{operator.tail()}")


def lease(work: Kubectl) -> tuple[str, str, int]:
    """Who leads, and since when."""
    spec = work.get("lease", "penstock-operator")["spec"]
    return spec["holderIdentity"], spec["acquireTime"], spec["leaseTransitions"]


def wait_for_log(operator: LocalOperator, text: str) -> None:
    """Wait until the operator has said something."""
    wait_until(lambda: text in operator.log.read_text(), timeout=BACK_SECONDS, what=f"the operator to say {text!r}")


def grant(work: Kubectl, account: str, *rules: Any) -> None:
    """Give a service account these rights in a namespace, and no others."""
    meta = {"metadata": {"name": "operator"}}
    namespace, _, name = account.partition("/")
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", **meta, "rules": list(rules)}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        **meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    work.apply(role, binding)


def account_of(work: Kubectl) -> tuple[str, str]:
    """A service account, and a token of it."""
    work("create", "serviceaccount", ACCOUNT)
    return f"{work.namespace}/{ACCOUNT}", work("create", "token", ACCOUNT).strip()


def job_is_over(place: Place, name: str) -> bool:
    """Whether the only Job of an execution says that it is over."""
    (job,) = place.jobs(name)
    return any(each["type"] in ("Complete", "Failed") for each in job.get("status", {}).get("conditions", ()))


@pytest.mark.parametrize("status", [CUT, 503, 403])
def test_a_job_whose_end_the_server_did_not_take_is_ended_when_it_does(
    cluster_kubectl: Kubectl, way: Way, tmp_path: Path, status: int
) -> None:
    with restricted_namespace(cluster_kubectl, "untaken") as work, operator_on(way, work, tmp_path) as operator:
        place = Place(work, "local")
        way.refuses = lambda method, path: (
            status if method == "PATCH" and "/jobs/" in path and path.endswith("/status") else None
        )
        name = place.start(ONE)
        assert place.wait(name)["phase"] == "Succeeded"
        wait_for_log(operator, "was not written, it is tried again")
        assert not job_is_over(place, name)
        assert way.refused > 0
        way.refuses = lambda _method, _path: None
        wait_until(lambda: job_is_over(place, name), timeout=BACK_SECONDS, what="the Job to be over")


def test_a_right_that_is_taken_away_and_given_back(cluster_kubectl: Kubectl, way: Way, tmp_path: Path) -> None:
    with restricted_namespace(cluster_kubectl, "rights") as work:
        account, token = account_of(work)
        grant(work, account, *RULES, EXECUTIONS)
        with operator_on(way, work, tmp_path, token=token) as operator:
            place = Place(work, "local")
            assert place.wait(place.start(ONE))["phase"] == "Succeeded"
            grant(work, account, *RULES)
            way.cut()  # a watch that was granted goes on until it ends
            wait_for_log(operator, f"executions.penstock.dev in namespace {work.namespace} cannot be watched")
            assert "give the operator's service account get, list and watch" in operator.log.read_text()
            name = place.start(ONE)
            grant(work, account, *RULES, EXECUTIONS)
            assert place.wait(name, seconds=BACK_SECONDS)["phase"] == "Succeeded"


def test_a_namespace_that_is_deleted_and_made_again(cluster_kubectl: Kubectl, way: Way, tmp_path: Path) -> None:
    with restricted_namespace(cluster_kubectl, "home") as home, restricted_namespace(cluster_kubectl, "gone") as gone:
        account, token = account_of(home)
        for each in (home, gone):
            grant(each, account, *RULES, EXECUTIONS)
        both = f"{home.namespace},{gone.namespace}"
        with operator_on(way, home, tmp_path, token=token, NAMESPACES=both) as operator:
            assert Place(gone, "local").wait(Place(gone, "local").start(ONE))["phase"] == "Succeeded"
            gone("delete", "namespace", gone.namespace, timeout=120)
            way.cut()
            wait_for_log(operator, f"executions.penstock.dev in namespace {gone.namespace} cannot be watched")
            assert Place(home, "local").wait(Place(home, "local").start(ONE))["phase"] == "Succeeded"
            gone("create", "namespace", gone.namespace)
            grant(gone, account, *RULES, EXECUTIONS)
            again = Place(gone, "local")
            wait_until(
                lambda: gone.attempt("get", "serviceaccount", "default")[0] == 0, timeout=30, what="the namespace"
            )
            assert again.wait(again.start(ONE), seconds=BACK_SECONDS)["phase"] == "Succeeded"


def test_an_operator_whose_server_is_away_for_half_a_minute(cluster_kubectl: Kubectl, way: Way, tmp_path: Path) -> None:
    with restricted_namespace(cluster_kubectl, "away") as work, operator_on(way, work, tmp_path) as operator:
        place = Place(work, "local")
        name = place.start(steps(script("a", "sleep 15"), script("b", "exit 0", dependsOn=["a"])))
        place.wait_for_pod(name, "a")
        way.refuses = lambda _method, _path: CUT
        way.cut()
        # The Lease is renewed every few seconds, and each failure is counted.
        looks = 'penstock_api_requests_total{code="0",resource="leases",verb="update"}'
        wait_until(lambda: operator.metrics().get(looks, 0) >= 10, timeout=90, what="the Lease not to be renewed")
        way.refuses = lambda _method, _path: None
        assert place.wait(name, seconds=BACK_SECONDS)["phase"] == "Succeeded"
        wait_until(
            lambda: all(
                any(each["type"] == "Complete" for each in job.get("status", {}).get("conditions", ()))
                for job in place.jobs(name)
            ),
            timeout=BACK_SECONDS,
            what="the Jobs to be over",
        )


@pytest.mark.disruptive
def test_a_kind_whose_definition_is_replaced(cluster_kubectl: Kubectl, way: Way, tmp_path: Path) -> None:
    (definition,) = [path for path in CRDS if "executions" in path.name]
    with restricted_namespace(cluster_kubectl, "kinds") as work:
        with operator_on(way, work, tmp_path) as operator:
            place = Place(work, "local")
            assert place.wait(place.start(ONE))["phase"] == "Succeeded"
            try:
                cluster_kubectl("delete", "-f", definition, timeout=120)
                wait_for_log(operator, f"executions.penstock.dev in namespace {work.namespace} cannot be watched")
                assert "apply the definition of executions.penstock.dev" in operator.log.read_text()
            finally:
                restore(cluster_kubectl, definition)
            assert place.wait(place.start(ONE), seconds=BACK_SECONDS)["phase"] == "Succeeded"

        late = LocalOperator(work.kubeconfig, work.namespace, tmp_path / "late.log")
        try:
            cluster_kubectl("delete", "-f", definition, timeout=120)
            late.start()
            wait_for_log(late, "there is no definition of executions.penstock.dev, which is waited for")
            restore(cluster_kubectl, definition)
            late.wait()
            assert place.wait(place.start(ONE), seconds=BACK_SECONDS)["phase"] == "Succeeded"
        finally:
            late.stop()
            restore(cluster_kubectl, definition)
            print(f"log of the late operator:\n{late.tail()}")


def restore(kubectl: Kubectl, definition: Path) -> None:
    """Define a kind."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", definition)
    what = f"{definition.name} to be established"
    # `kubectl wait` fails on a definition so new that it has no conditions at all.
    waits = ("wait", "--for=condition=Established", "--timeout=10s", "-f", definition)
    wait_until(lambda: kubectl.attempt(*waits)[0] == 0, timeout=BACK_SECONDS, what=what)
