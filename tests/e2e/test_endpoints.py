"""Endpoints on a real cluster, called with `curl` as the mission's page shows it, by the SDKs, and by many at once.

The gateway has the rights that the chart gives it and no others.
"""

from __future__ import annotations

import base64
import json
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import run, wait_until
from e2e.kubectl import Kubectl
from e2e.manifests import BUSYBOX
from e2e.operator_fixtures import API, LocalOperator, Place, restricted_namespace
from e2e.test_gateway_access import CHART, folder_store, free_port, serving
from integration.gateway import craft_sdk
from penstock import Client
from penstock.client import ExecutionFailed

pytest_plugins = ["e2e.operator_fixtures"]

GATEWAY = "run-penstock-gateway"
SECONDS = 90
PIPELINE: dict[str, Any] = {
    "inputs": [
        {"name": "rows", "type": "number", "default": 150},
        {"name": "title", "type": "string", "default": "none"},
        {"name": "fail", "type": "boolean", "default": False},
    ],
    "outputs": [{"name": "accuracy", "type": "number", "from": "steps.train.outputs.accuracy"}],
    "steps": [
        {
            "name": "train",
            "image": BUSYBOX,
            "script": 'test "$INPUT_FAIL" = false || exit 3; echo "accuracy=$INPUT_ROWS" > $PENSTOCK_OUTPUT',
            "inputs": [{"name": "rows", "from": "inputs.rows"}, {"name": "fail", "from": "inputs.fail"}],
            "outputs": [{"name": "accuracy", "type": "number"}],
        }
    ],
}
COPY: dict[str, Any] = {
    "inputs": [{"name": "data", "type": "file"}, {"name": "times", "type": "number", "default": 1}],
    "outputs": [{"name": "copy", "type": "file", "from": "steps.copy.outputs.copy"}],
    "steps": [
        {
            "name": "copy",
            "image": BUSYBOX,
            "script": 'for i in $(seq $INPUT_TIMES); do cat "$INPUT_DATA"; done > "$PENSTOCK_OUTPUTS/copy"',
            "inputs": [{"name": "data", "from": "inputs.data"}, {"name": "times", "from": "inputs.times"}],
            "outputs": [{"name": "copy", "type": "file"}],
        }
    ],
}


@dataclass(frozen=True)
class Site:
    """A gateway with an operator, and its namespace.

    Attributes:
        place: the namespace.
        url: of the environment.
        log: of the gateway.
    """

    place: Place
    url: str
    log: Path

    @property
    def kubectl(self) -> Kubectl:
        return self.place.kubectl

    def deploy(self, name: str, pipeline: dict[str, Any], **spec: Any) -> str:
        """A pipeline behind an endpoint; gives its token."""
        self.place.pipeline(pipeline, name=name)
        body = {"pipeline": {"name": name}, "endpoint": {"path": name}, **spec}
        self.kubectl.apply({"apiVersion": API, "kind": "Deployment", "metadata": {"name": name}, "spec": body})

        def ready() -> bool:
            status = self.kubectl.get("deployments.penstock.dev", name).get("status") or {}
            conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
            return conditions.get("Ready") == "True" and bool((status.get("endpoint") or {}).get("tokens"))

        wait_until(ready, timeout=SECONDS, what=f"deployment {name} to be ready")
        token = self.token(name)
        wait_until(
            lambda: self.curl(name, token, "-d", '{"nobody": 1}')[0] == 422, timeout=SECONDS, what="the gateway to know"
        )
        return token

    def token(self, name: str) -> str:
        secret = self.kubectl.get("secrets", f"{name}-endpoint-token")
        return base64.b64decode(secret["data"]["token"]).decode()

    def curl(self, path: str, token: str, *arguments: str) -> tuple[int, bytes]:
        """`curl` as people type it; the status and the body."""
        url = path if path.startswith("http") else f"{self.url}/endpoints/{path}"
        with tempfile.NamedTemporaryFile() as body:
            status = run(
                "curl",
                *("--silent", "--show-error", "--noproxy", "*", "--max-time", "120", "--output", body.name),
                *("--write-out", "%{http_code}", "--header", f"Authorization: EndpointToken {token}"),
                *(() if "-F" in arguments else ("--header", "Content-Type: application/json")),
                *arguments,
                url,
                timeout=130,
            )
            return int(status), Path(body.name).read_bytes()


@pytest.fixture(scope="module")
def site(
    cluster: Cluster,
    cluster_kubectl: Kubectl,
    crds: None,
    image: str,
    helm: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    if cluster.layout is None:
        pytest.skip("only pods of a cluster that was started here reach a server on this machine")
    folder = tmp_path_factory.mktemp("endpoints")
    port = free_port()
    store = folder_store(folder / "store", port)
    with restricted_namespace(cluster_kubectl, "endpoints") as work:
        operator = LocalOperator(
            work.kubeconfig,
            work.namespace,
            folder / "operator.log",
            {**store, "PENSTOCK_COLLECTOR_IMAGE": image, "PENSTOCK_PUBLIC_URL": f"http://127.0.0.1:{port}"},
        )
        operator.start()
        try:
            own = gateways_kubeconfig(work, helm, folder)
            settings = {**store, "PENSTOCK_NAMESPACES": work.namespace, "PENSTOCK_LOG_LEVEL": "DEBUG"}
            with serving(own, folder / "gateway.log", settings, port) as url:
                operator.wait()
                yield Site(Place(work, "local"), f"{url}/environments/{work.namespace}", folder / "gateway.log")
        finally:
            operator.stop()
            print(operator.tail())


def gateways_kubeconfig(work: Kubectl, helm: Path, folder: Path) -> Path:
    """Credentials with the rights that the chart gives the gateway in a namespace."""
    given = f"image.repository=x,namespaces={{{work.namespace}}}"
    where = ("--namespace", work.namespace, "--kube-version", "v1.34.4")
    rendered = run(helm, "template", "run", CHART, *where, "--set", given, timeout=60)
    ours = [
        each
        for each in yaml.safe_load_all(rendered)
        if each
        and each["metadata"]["name"] == "run-penstock-gateway"
        and each["kind"] in {"ServiceAccount", "Role", "RoleBinding"}
    ]
    assert len(ours) == 3
    work.apply(*ours)
    token = work("create", "token", "run-penstock-gateway", "--duration", "2h").strip()
    config = yaml.safe_load(work.kubeconfig.read_text())
    config["users"] = [{"name": each["name"], "user": {"token": token}} for each in config["users"]]
    path = folder / "gateway.kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def iris(site: Site) -> str:
    """The token of the endpoint `iris`."""
    return site.deploy("iris", PIPELINE)


class TestCurl:
    def test_json_in_and_results_out_after_redirects(self, site: Site, iris: str) -> None:
        status, body = site.curl("iris", iris, "-L", "-d", '{"rows": 3, "title": "a b"}')
        assert (status, json.loads(body)["outputs"]) == (200, {"accuracy": 3})
        # As the mission's page writes the address, and as people write curl.
        status, body = site.curl(f"{site.url}/iris", iris, "-L", "-X", "POST", "-d", '{"rows": 4}')
        assert (status, json.loads(body)["outputs"]) == (200, {"accuracy": 4})

    def test_an_id_at_once_and_results_later(self, site: Site, iris: str) -> None:
        status, body = site.curl("iris", iris, "-d", '{"rows": 5}')
        name = json.loads(body)["execution_id"]
        assert status == 303
        assert site.place.wait(name)["phase"] == "Succeeded"
        results = f"{site.url}/endpoints/iris/executions/{name}"
        assert json.loads(site.curl(results, iris)[1])["outputs"] == {"accuracy": 5}
        by_query = run("curl", "-sL", "--noproxy", "*", f"{results}?token={iris}", timeout=60)
        assert json.loads(by_query)["outputs"] == {"accuracy": 5}

    def test_one_request_that_waits(self, site: Site, iris: str) -> None:
        status, body = site.curl(f"{site.url}/endpoints/iris?wait=60", iris, "-d", "{}")
        assert (status, json.loads(body)["outputs"]) == (200, {"accuracy": 150})

    def test_a_file_in_and_a_file_out(self, site: Site, tmp_path: Path) -> None:
        token = site.deploy("copy", COPY)
        path = tmp_path / "my file.txt"
        path.write_bytes(b"hello\x00\xff" * 200_000)
        status, body = site.curl("copy", token, "-L", "-F", f"data=@{path}", "-F", "times=2")
        assert (status, body) == (200, path.read_bytes() * 2)

    def test_each_mistake_has_its_own_status(self, site: Site, iris: str) -> None:
        def status(token: str, *arguments: str, path: str = "iris") -> int:
            code, body = site.curl(path, token, *arguments)
            assert json.loads(body)["message"]
            return code

        assert status("wrong", "-d", "{}") == status(iris, "-d", "{}", path="other") == 403
        assert status(iris, "-d", '{"rows": "x"}') == 422
        assert status(iris, "-d", '{"title": "' + "x" * 60_000 + '"}') == 413
        assert status(iris, "-d", "{") == 400
        assert status(iris, path="iris/executions/nothing") == 404
        code, body = site.curl("iris", iris, "-L", "-d", '{"fail": true}')
        assert (code, json.loads(body)["name"]) == (500, "ExecutionFailed")
        site.kubectl("patch", "pdep", "iris", "--type=merge", "--patch", '{"spec": {"suspend": true}}')
        try:
            wait_until(lambda: site.curl("iris", iris, "-d", "{}")[0] == 423, timeout=SECONDS, what="423")
        finally:
            site.kubectl("patch", "pdep", "iris", "--type=merge", "--patch", '{"spec": {"suspend": false}}')
        wait_until(lambda: site.curl("iris", iris, "-d", '{"n": 1}')[0] == 422, timeout=SECONDS, what="422")


def test_200_callers_wait_at_once(site: Site, iris: str) -> None:
    with Client(site.url) as client, ThreadPoolExecutor(200) as pool:
        names = [client.trigger_endpoint("iris", iris, {"rows": n}, False)["execution_id"] for n in range(10)]
        waiting = [
            pool.submit(client.retrieve_endpoint_results, "iris", name, iris, timeout=SECONDS) for name in names * 20
        ]
        outputs = [each.result()["outputs"]["accuracy"] for each in waiting]
    assert outputs == list(range(10)) * 20


def test_a_token_is_rotated_under_load_and_no_valid_call_is_refused(site: Site) -> None:
    old = site.deploy("rotated", {**PIPELINE, "inputs": [{"name": "rows", "type": "number"}, *PIPELINE["inputs"][1:]]})
    refused: list[int] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            token = site.token("rotated")
            status, _ = site.curl("rotated", token, "-d", '{"nobody": 1}')
            if status != 422:
                refused.append(status)

    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(call) for _ in range(3)]
        notes = ("penstock.dev/rotate-token=1", "penstock.dev/rotation-overlap=60s")
        site.kubectl("annotate", "pdep", "rotated", *notes)
        wait_until(lambda: site.token("rotated") != old, timeout=SECONDS, what="a new token")
        still = site.curl("rotated", old, "-d", '{"nobody": 1}')[0]
        stop.set()
        for each in callers:
            each.result()
    assert (refused, still) == ([], 422)


@pytest.mark.parametrize("version", craft_sdk.VERSIONS)
def test_the_craft_ai_sdk_needs_to_change_nothing(site: Site, iris: str, tmp_path: Path, version: str) -> None:
    name = f"user-{version.replace('.', '-')}"
    site.kubectl("create", "serviceaccount", name)
    site.kubectl(
        "create", "rolebinding", name, "--clusterrole=edit", f"--serviceaccount={site.kubectl.namespace}:{name}"
    )
    site.kubectl(
        *("create", "role", name, "--verb=get,list,watch,create,update,patch,delete"),
        "--resource=executions.penstock.dev,pipelines.penstock.dev,deployments.penstock.dev",
    )
    site.kubectl(
        "create", "rolebinding", f"{name}-ours", f"--role={name}", f"--serviceaccount={site.kubectl.namespace}:{name}"
    )
    user = site.kubectl("create", "token", name).strip()
    found = craft_sdk.use_values(version, site.url, user, iris)
    assert found["run"]["outputs"] == {"accuracy": 3}
    assert found["endpoint"]["outputs"] == found["results"]["outputs"] == {"accuracy": 5}
    assert found["run"]["execution_id"] in [each["execution_id"] for each in found["executions"]]
    assert found["deployment"]["endpoint_token"] == iris
    assert found["who"]["name"] == f"system:serviceaccount:{site.kubectl.namespace}:{name}"


@pytest.fixture
def release(helm: Path, cluster: Cluster, cluster_kubectl: Kubectl, crds: None, image: str) -> Iterator[Site]:
    """What the chart installs, with two gateways, reached through their Service."""
    if cluster.layout is None:
        pytest.skip("only here the addresses of Services are reached")
    repository, _, tag = image.rpartition(":")
    with restricted_namespace(cluster_kubectl, "gateways") as home, restricted_namespace(home, "rolled") as work:
        given = f"image.repository={repository},image.tag={tag},namespaces={{{work.namespace}}},gateway.replicas=2"
        given += ",replicas=1,extraEnv[0].name=PENSTOCK_RUN_AS_USER"
        where = ("--namespace", home.namespace, "--skip-crds", "--set-string", "extraEnv[0].value=65532")
        try:
            run(helm, "install", "run", CHART, *where, "--set", given, "--wait", timeout=240, env=home.environment())
            address = home.get("service", GATEWAY)["spec"]["clusterIP"]
            yield Site(Place(work, home.namespace), f"http://{address}:8080/environments/{work.namespace}", Path())
        finally:
            print(home.attempt("logs", "-l", "app.kubernetes.io/component=gateway", "--tail=30", "--prefix")[1])
            run(helm, "uninstall", "run", "--namespace", home.namespace, timeout=120, env=home.environment())


def test_the_gateway_is_rolled_out_under_load_and_no_execution_is_lost(release: Site) -> None:
    token = release.deploy("iris", PIPELINE, history={"succeeded": 1000, "failed": 1000})
    home = replace(release.kubectl, namespace=release.place.operator)
    stop = threading.Event()

    def calls(number: int) -> list[tuple[str, int]]:
        found = []
        with Client(release.url) as client:
            while not stop.is_set():
                result = client.trigger_endpoint("iris", token, {"rows": number}, timeout=SECONDS)
                found.append((result["execution_id"], result["outputs"]["accuracy"]))
        return found

    with ThreadPoolExecutor(6) as pool:
        callers = [pool.submit(calls, number) for number in range(6)]
        try:
            home("rollout", "restart", f"deploy.apps/{GATEWAY}")
            home("rollout", "status", f"deploy.apps/{GATEWAY}", "--timeout=120s", timeout=130)
        finally:
            stop.set()
        results = [each.result() for each in callers]
    assert [{rows for _, rows in each} for each in results] == [{number} for number in range(6)]
    told = {name for each in results for name, _ in each}
    made = {each["metadata"]["name"] for each in release.kubectl.items("executions")}
    assert told == made


def test_our_sdk_says_why_an_execution_failed(site: Site, iris: str) -> None:
    with Client(site.url) as client, pytest.raises(ExecutionFailed) as caught:
        client.trigger_endpoint("iris", iris, {"fail": True})
    assert caught.value.status == 500
    assert site.place.status(caught.value.execution_id or "")["phase"] == "Failed"


def test_tokens_are_in_no_log(site: Site, iris: str) -> None:
    run("curl", "-s", "--noproxy", "*", f"{site.url}/endpoints/iris/executions/none?token={iris}", timeout=60)
    assert iris not in site.log.read_text()
