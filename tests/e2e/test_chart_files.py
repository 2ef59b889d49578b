"""The chart with its embedded store: files of pipelines through the gateway that it installs, and who may do what then.

The cluster that is started for tests has no DNS for services, so pods of steps are told the gateway's address.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.asking import HOLD, ask_from_pod, let_go, request
from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import ClusterError, run
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import CHART, USER, Place, restricted_namespace, script, step_of, steps
from e2e.test_chart_on_cluster import allowed
from e2e.test_gateway_access import forwarded
from integration.cli.support import Cli
from penstock.storage.signing import Grant, SigningKeys

READY_SECONDS = 180
GATEWAY = "run-penstock-gateway"
OPERATOR, SERVES = "run-penstock", "run-penstock-gateway"


@dataclass(frozen=True)
class Release:
    """What `helm install` made.

    Attributes:
        home: its namespace.
        place: the namespace that it looks after.
        volume: the folder of its volume.
        image: the project's image.
        helm: the command.
    """

    home: Kubectl
    place: Place
    volume: Path
    image: str
    helm: Path

    @property
    def namespace(self) -> str:
        """Where pipelines run."""
        return self.place.kubectl.namespace

    @property
    def hosts(self) -> dict[str, str]:
        """The address of the gateway by its name, as DNS would tell it."""
        address = self.home.get("service", GATEWAY)["spec"]["clusterIP"]
        return {f"{GATEWAY}.{self.home.namespace}.svc": address}

    def steps(self, *listed: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A pipeline whose pods know where the gateway is."""
        aliases = [{"ip": address, "hostnames": [host]} for host, address in self.hosts.items()]
        return steps(*listed, defaults={"podTemplate": {"spec": {"hostAliases": aliases}}}, **fields)

    def plan(self, pod: str) -> dict[str, Any]:
        """What the pod of a step may fetch and upload."""
        found: dict[str, Any] = json.loads(b64decode(self.place.kubectl.get("secret", pod)["data"]["plan.json"]))
        return found

    def stored(self, key: str) -> Path:
        """Where an object of the namespace is."""
        return self.volume / self.namespace / key

    def put(self, key: str, content: bytes) -> Path:
        """Put an object there as the gateway would."""
        path = self.stored(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        for each in (path, *path.parents):
            if each == self.volume:
                break
            os.chown(each, USER, USER)
        return path


def volume(name: str, folder: str, claimed: dict[str, str]) -> dict[str, Any]:
    """A volume in a folder of the node, for one claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "storageClassName": name,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": folder},
            "claimRef": claimed,
        },
    }


@pytest.fixture(scope="module")
def release(cluster: Cluster, helm: Path, cluster_kubectl: Kubectl, crds: None, image: str) -> Iterator[Release]:
    """The chart with a volume of its own, two operators, for one namespace."""
    del crds
    if cluster.layout is None:
        pytest.skip("only here it is known what the node's disks are")
    repository, _, tag = image.rpartition(":")
    with (
        tempfile.TemporaryDirectory(prefix="penstock-e2e-store-") as folder,
        restricted_namespace(cluster_kubectl, "store") as home,
        restricted_namespace(cluster_kubectl, "stored") as work,
    ):
        Path(folder).chmod(0o777)  # a pod of another user writes there
        cluster_kubectl.apply(
            volume(home.namespace, folder, {"name": "run-penstock-store", "namespace": home.namespace})
        )
        given = {
            "namespaces": [work.namespace],
            "image": {"repository": repository, "tag": tag},
            "store": {"embedded": {"enabled": True, "size": "1Gi", "storageClass": home.namespace}},
            "settings": {"transferPatienceSeconds": 45, "runAsUser": USER, "cacheSeconds": 86_400},
        }
        values = Path(folder) / "values.json"
        values.write_text(json.dumps(given))
        where = ("--namespace", home.namespace)
        try:
            install = ("install", "run", CHART, *where, "--skip-crds", "--values", values, "--wait", "--timeout", "3m")
            try:
                run(helm, *install, timeout=READY_SECONDS + 30, env=home.environment())
            except ClusterError as error:
                raise ClusterError(f"{error}\n{home.explain('pods', 'persistentvolumeclaims')}") from None
            yield Release(home, Place(work, home.namespace), Path(folder), image, helm)
        finally:
            run(helm, "uninstall", "run", *where, "--ignore-not-found", "--wait", timeout=120, env=home.environment())
            # Helm keeps the claim.
            home("delete", "persistentvolumeclaim", "--all", "--wait=false")
            cluster_kubectl("delete", "persistentvolume", home.namespace, "--ignore-not-found", "--wait=false")


def test_files_and_folders_of_a_pipeline_go_through_the_gateway(release: Release) -> None:
    make = script(
        "make",
        r"""
        head -c 90000000 /dev/urandom > "$PENSTOCK_OUTPUTS/large"; : > "$PENSTOCK_OUTPUTS/empty"
        mkdir "$PENSTOCK_OUTPUTS/tree"; echo x > "$PENSTOCK_OUTPUTS/tree/it's a \"näme\"?#%41&+"
        echo "digest=$(sha256sum < "$PENSTOCK_OUTPUTS/large")" >> "$PENSTOCK_OUTPUT"
        """,
        outputs=[
            *({"name": name, "type": "file"} for name in ("large", "empty", "tree")),
            {"name": "digest", "type": "string"},
        ],
    )
    names = ("large", "empty", "tree", "digest")
    check = script(
        "check",
        r"""
        test "$(sha256sum < "$INPUT_LARGE")" = "$INPUT_DIGEST"; test ! -s "$INPUT_EMPTY"
        cat "$INPUT_TREE/it's a \"näme\"?#%41&+" "$INPUT_TABLE" > "$PENSTOCK_OUTPUTS/both"
        """,
        inputs=[
            *({"name": name, "from": f"steps.make.outputs.{name}"} for name in names),
            {"name": "table", "from": "inputs.table"},
        ],
        outputs=[{"name": "both", "type": "file"}],
    )
    # Whatever a path of the data store may hold, signed URLs have to.
    path = "raw/-o 'qu\"ote' ü 日本 100%41+?#&=;.csv"
    release.put(f"data/{path}", b"1,2\n")
    pipeline = release.steps(make, check, inputs=[{"name": "table", "type": "file"}])
    status = release.place.wait(release.place.start(pipeline, inputs=[{"name": "table", "object": path}]), seconds=180)
    assert status["phase"] == "Succeeded", status
    (both,) = step_of(status, "check")["outputs"]
    assert release.stored(both["file"]["key"]).read_bytes() == b"x\n1,2\n"


def test_urls_of_the_gateway_are_for_one_object_one_method_and_some_time(release: Release) -> None:
    step = script("give", HOLD + 'echo whole > "$PENSTOCK_OUTPUTS/a"', outputs=[{"name": "a", "type": "file"}])
    name = release.place.start(release.steps(step))
    pod = release.place.wait_for_pod(name, "give")
    (output,) = release.plan(pod)["outputs"]
    put = output["put"]["url"]
    release.put("data/private", b"private")
    keys = SigningKeys.parse(b64decode(release.home.get("secret", "run-penstock-signing")["data"]["keys"]).decode())
    base = re.match(r"(http://[^/]+)/", put)
    assert base is not None
    assert f"{GATEWAY}.{release.home.namespace}.svc" in base[1]

    def signed(method: str, key: str, seconds: float = 600) -> str:
        return keys.sign(base[1], Grant(method, f"{release.namespace}/{key}", int(time.time() + seconds)))

    get = signed("GET", "data/private")
    half, read = signed("PUT", "data/half"), signed("GET", "data/half")
    asked = {
        "as it was signed": (request("GET", get), 200),
        "until it expires": (request("GET", signed("GET", "data/private", 3), until=403), 403),
        "written after its time": (request("PUT", signed("PUT", "data/late", 0), length=5), 403),
        "another object": (request("GET", get.replace("private", "half")), 403),
        "another object written": (request("PUT", put.replace(output["key"], "data/private"), length=5), 403),
        "written with one to read": (request("PUT", get, length=5), 403),
        "read with one to write": (request("GET", put), 403),
        "removed": (request("DELETE", get), 403),
        "a later end": (request("GET", re.sub(r"expires=\d+", "expires=9999999999", get)), 403),
        "no signature": (request("GET", get.partition("?")[0]), 403),
        "cut in half": (request("PUT", half, length=4_000_000, cut=True), 0),
        "nothing of it is there": (request("GET", read), 404),
        "cut in half as a step would": (request("PUT", put, length=4_000_000, cut=True), 0),
        "sent again": (request("PUT", half, length=4_000_000), 201),
        "there now": (request("GET", read), 200),
    }
    told = ask_from_pod(release.place.kubectl, release.image, [each for each, _ in asked.values()], release.hosts)
    assert dict(zip(asked, told, strict=True)) == {what: status for what, (_, status) in asked.items()}
    assert not release.stored(output["key"]).exists()
    assert not release.stored("data/late").exists()
    let_go(release.place.kubectl, pod)
    status = release.place.wait(name, seconds=150)
    assert release.stored(step_of(status, "give")["outputs"][0]["file"]["key"]).read_bytes() == b"whole\n"
    assert release.stored("data/private").read_text() == "private"


def test_helm_test_passes(release: Release) -> None:
    test = ("test", "run", "--namespace", release.home.namespace)
    done = run(release.helm, *test, timeout=180, env=release.home.environment())
    assert re.search(r"^Phase: +Succeeded$", done, re.MULTILINE), done


def rights(kubectl: Kubectl, account: str, where: str) -> dict[str, set[str]]:
    """What a service account may do to all objects of a kind, by `resource` or `resource/subresource`."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": where},
    }
    who = ("--as", f"system:serviceaccount:{account}")
    status = json.loads(kubectl("create", "--validate=false", "-f", "-", "-o", "json", *who, stdin=json.dumps(review)))[
        "status"
    ]
    assert not status.get("incomplete"), status
    found: dict[str, set[str]] = {}
    for rule in status["resourceRules"]:
        for resource in rule.get("resources", ()) if not rule.get("resourceNames") else ():
            found.setdefault(resource, set()).update(rule["verbs"])
    return found


def test_with_a_store_the_rights_of_the_release_are_what_it_needs(release: Release) -> None:
    home, work = release.home, release.namespace
    operator, gateway = (f"{home.namespace}:{name}" for name in (OPERATOR, SERVES))
    there, at_home = rights(home, operator, work), rights(home, operator, home.namespace)
    # Plans of its own attempts where it has work. Not in its own namespace, where the keys are, and nowhere else.
    assert there["secrets"] == {"create", "update"}
    for elsewhere in (at_home, rights(home, operator, "default"), rights(home, operator, "kube-system")):
        assert not elsewhere.keys() & {"secrets", "pods", "jobs", "configmaps", "executions"}, elsewhere
    assert at_home["leases"] == {"create"}
    never = {"*", "persistentvolumeclaims", "serviceaccounts", "serviceaccounts/token", "pods/exec", "roles"}
    for found in (there, at_home, rights(home, gateway, work), rights(home, gateway, home.namespace)):
        assert not found.keys() & never, found
    for where in (work, home.namespace):
        assert not rights(home, gateway, where).keys() & {"secrets", "pods", "jobs"}, where
    # The same as kubectl says it.
    assert allowed(home, operator, "update", "secrets", work)
    assert not allowed(home, operator, "get", "secrets", work)
    assert not allowed(home, operator, "get", "secrets/run-penstock-signing", home.namespace)


def test_policies_of_the_network_let_through_what_the_store_needs(release: Release) -> None:
    """What the API server holds is looked at: the network of the cluster that is started here has no policies."""
    policies = {each["metadata"]["name"]: each["spec"] for each in release.home.items("networkpolicies")}
    (api_server,) = release.home.get("endpointslice", "kubernetes", "--namespace", "default")["ports"]
    for name, component in ((OPERATOR, "operator"), (SERVES, "gateway")):
        policy = policies.pop(name)
        labels = [f"{label}={value}" for label, value in policy["podSelector"]["matchLabels"].items()]
        selected = release.home.items("pods", "-l", ",".join(labels))
        assert {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in selected} == {component}
        # Steps of every namespace reach the gateway: what protects it are signatures and tokens.
        (served,) = selected[0]["spec"]["containers"][0]["ports"]
        assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": served["name"]}]}]
        names, server = policy["egress"]
        assert {port["port"] for port in names["ports"]} == {53, 5353}
        assert api_server["port"] in {port["port"] for port in server["ports"]}
    assert policies == {}


def test_a_dry_run_of_gc_tells_what_the_operator_would_remove(release: Release, tmp_path: Path) -> None:
    give = script("give", 'echo kept > "$PENSTOCK_OUTPUTS/a"', outputs=[{"name": "a", "type": "file"}])
    status = release.place.wait(release.place.start(release.steps(give)))
    kept = release.stored(step_of(status, "give")["outputs"][0]["file"]["key"])
    gone = release.put("executions/00000000-0000-0000-0000-000000000000/give/1/a", b"x" * 1234)
    there = release.place.kubectl
    there("create", "serviceaccount", "reader")
    there("create", "role", "reader", "--verb=list", "--resource=executions.penstock.dev")
    there("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={there.namespace}:reader")
    token = there("create", "token", "reader").strip()
    with forwarded(release.home, f"service/{GATEWAY}") as url:
        where = ("--gateway", url, "--namespace", there.namespace, "--token", token)
        told = Cli(tmp_path)("gc", "--cluster", "--dry-run", *where)
    assert told.code == 0, told
    assert "00000000-0000-0000-0000-000000000000" in told.out
    assert told.err == "1 object, 1,234 bytes would go\n"
    assert kept.exists()
    assert gone.exists()
