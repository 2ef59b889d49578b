"""The gateway on a real API server: who may do what by their tokens, and files in and out of executions by commands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.settings import NODE_ADDRESS
from e2e.cluster.shell import run, wait_until
from e2e.image import REPOSITORY
from e2e.kubectl import Kubectl
from e2e.manifests import BUSYBOX
from e2e.object_store import object_store
from e2e.operator_fixtures import LocalOperator
from integration.cli.support import Cli, pipeline
from penstock.step.digest import digest

SECONDS = 60
CHART = REPOSITORY / "charts" / "penstock"
COPY = pipeline(
    "copy",
    [
        {
            "name": "copy",
            "inputs": [{"name": "source", "from": "inputs.source"}],
            "script": 'cp -r "$INPUT_SOURCE" "$PENSTOCK_OUTPUTS/copy"; echo n=3 >> "$PENSTOCK_OUTPUT"',
            "outputs": [{"name": "copy", "type": "file"}, {"name": "n", "type": "number"}],
        }
    ],
    defaults={"image": BUSYBOX},
    inputs=[{"name": "source", "type": "file"}],
    outputs=[
        {"name": "copy", "type": "file", "from": "steps.copy.outputs.copy"},
        {"name": "n", "type": "number", "from": "steps.copy.outputs.n"},
    ],
)


@contextmanager
def serving(kubeconfig: Path, log: Path, settings: Mapping[str, str], port: int) -> Iterator[str]:
    """`penstock gateway` as a process of this machine, where pods of a cluster of our own reach it."""
    command = (sys.executable, "-m", "penstock.cli", "gateway", "--kubeconfig", str(kubeconfig), "--port", str(port))
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return ask(f"{url}/readyz")[0] == 200
        except OSError:
            return False

    try:
        wait_until(ready, timeout=SECONDS, what="the gateway to be ready")
        yield url
    finally:
        process.terminate()
        process.wait(SECONDS)


def ask(url: str, token: str | None = None, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, method=method, headers=headers)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=SECONDS) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def folder_store(root: Path, port: int) -> dict[str, str]:
    return {
        "PENSTOCK_STORE_URL": f"file://{root}",
        "PENSTOCK_SIGNING_KEYS": f"test:{(b'k' * 32).hex()}",
        "PENSTOCK_GATEWAY_URL": f"http://{NODE_ADDRESS}:{port}",
    }


@pytest.fixture
def token(crds: None, kubectl: Kubectl) -> Callable[..., str]:
    """Makes a service account with some rights to executions of the test's namespace; gives its token."""

    def make(name: str, *verbs: str, namespace: str = "") -> str:
        there = replace(kubectl, namespace=namespace or kubectl.namespace)
        there("create", "serviceaccount", name)
        if verbs:
            kubectl("create", "role", name, f"--verb={','.join(verbs)}", "--resource=executions.penstock.dev")
            kubectl("create", "rolebinding", name, f"--role={name}", f"--serviceaccount={there.namespace}:{name}")
        return there("create", "token", name).strip()

    return make


def test_tokens_of_the_cluster_say_who_may_do_what(
    token: Callable[..., str], kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    other = f"{namespace}-other"
    kubectl("create", "namespace", other)
    port = free_port()
    content = tmp_path / "x.txt"
    content.write_text("hello")
    try:
        owner = token("owner", "get", "list", "create")
        reader = token("reader", "get", "list")
        nobody = token("nobody")
        foreign = token("foreign", namespace=other)
        invited = token("invited", "get", namespace=other)
        with serving(kubectl.kubeconfig, tmp_path / "log", folder_store(tmp_path / "store", port), port) as url:
            cli = Cli(tmp_path)
            where = ("--cluster", "--gateway", url, "--namespace", namespace, "--kubeconfig", str(kubectl.kubeconfig))
            put = cli("data", "put", "x.txt", "raw/x", *where, "--token", owner)
            assert put.code == 0, put
            at = f"{url}/api/v1/namespaces/{namespace}"

            def of(who: str | None) -> list[int]:
                """What listing, reading, reading of outputs and removing something else are answered with."""
                return [
                    ask(f"{at}/data", who)[0],
                    ask(f"{at}/data/raw/x", who)[0],
                    ask(f"{at}/executions/none/outputs", who)[0],
                    ask(f"{at}/data/raw/none", who, "DELETE")[0],
                ]

            assert of(None) == [401] * 4
            assert of("no.such.token") == [401] * 4
            assert of(f"{owner[:-6]}AAAAAA") == [401] * 4
            assert of(nobody) == of(foreign) == [403] * 4
            assert of(invited) == [403, 200, 404, 403]
            assert of(reader) == [200, 200, 404, 403]
            assert of(owner) == [200, 200, 404, 404]
            assert ask(f"{url}/api/v1/namespaces/{other}/data", owner)[0] == 403
            assert ask(f"{at}/data/raw/x", reader)[1] == b"hello"
            # Nobody may act as somebody else who may not.
            assert ask(f"{at}/data", reader, **{"Impersonate-User": "kubernetes-admin"})[0] == 403
            removed = cli("data", "rm", "raw/x", *where, "--token", reader)
            assert (removed.code, "you are not allowed to do this" in removed.err) == (2, True)
            assert cli("data", "rm", "raw/x", *where, "--token", owner).code == 0
        log = (tmp_path / "log").read_text()
        assert not [secret for secret in (owner, reader, "signature=") if secret in log]
    finally:
        kubectl("delete", "namespace", other, "--wait=false")


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_files_go_in_and_come_back_by_commands(
    token: Callable[..., str],
    cluster: Cluster,
    kubectl: Kubectl,
    namespace: str,
    image: str,
    tmp_path: Path,
    kind: str,
) -> None:
    if cluster.layout is None:
        pytest.skip("only pods of a cluster that was started here reach a server on this machine")
    port = free_port()
    with object_store(tmp_path) as s3:
        store = folder_store(tmp_path / "store", port) if kind == "folder" else s3.settings
        settings = {**store, "PENSTOCK_COLLECTOR_IMAGE": image}
        operator = LocalOperator(kubectl.kubeconfig, namespace, tmp_path / "operator.log", settings)
        operator.start()
        try:
            with serving(kubectl.kubeconfig, tmp_path / "log", store, port) as url:
                operator.wait()
                _there_and_back(Cli(tmp_path), kubectl, url, token("owner", "get", "list", "create"), namespace)
        finally:
            operator.stop()
            print(operator.tail())


def _there_and_back(cli: Cli, kubectl: Kubectl, url: str, owner: str, namespace: str) -> None:
    (cli.folder / "model" / "deep").mkdir(parents=True)
    (cli.folder / "model" / "deep" / "a é.bin").write_bytes(os.urandom(100_000))
    (cli.folder / "large").write_bytes(os.urandom(70_000_000))
    cli.write("copy.yaml", COPY)
    where = ("--gateway", url, "--token", owner, "--namespace", namespace, "--kubeconfig", str(kubectl.kubeconfig))
    assert cli("data", "put", "model", "models/m1", "--cluster", *where).code == 0
    for name, given, original in (("by-upload", "@large", "large"), ("by-path", "models/m1", "model")):
        ran = cli("run", "--cluster", "copy.yaml", "--input", f"source={given}", "--name", name, *where)
        assert ran.code == 0, ran
        got = cli("get", "outputs", name, "-o", f"got-{name}", *where)
        assert got.code == 0, got
        assert digest(cli.folder / f"got-{name}" / "copy") == digest(cli.folder / original)
        assert (cli.folder / f"got-{name}" / "n.json").read_text() == "3\n"
    again = cli("run", "--cluster", "copy.yaml", "--input", "source=@large", *where)
    assert "input source is there already" in again.err


def test_the_gateway_of_the_chart_serves_a_volume(
    token: Callable[..., str], cluster: Cluster, helm: Path, kubectl: Kubectl, namespace: str, image: str
) -> None:
    if cluster.layout is None:
        pytest.skip("only here it is known what the node's disks are")
    repository, _, tag = image.rpartition(":")
    with tempfile.TemporaryDirectory(prefix="penstock-e2e-volume-") as volume:
        Path(volume).chmod(0o777)  # a pod of another user writes there
        kubectl.apply(*claim(namespace, volume))
        given = f"image.repository={repository},image.tag={tag},namespaces={{{namespace}}},replicas=1"
        store = "store.embedded.enabled=true,store.embedded.existingClaim=files"
        where = ("--namespace", namespace, "--skip-crds", "--set", given, "--set", store)
        try:
            run(helm, "install", "run", CHART, *where, "--wait", timeout=SECONDS * 3, env=kubectl.environment())
            owner = token("owner", "get", "list", "create")
            with forwarded(kubectl, "service/run-penstock-gateway") as url:
                cli = Cli(Path(volume) / "cli")
                cli.folder.mkdir()
                cli.write("x.txt", "hello")
                where = ("--cluster", "--gateway", url, "--namespace", namespace, "--token", owner)
                done = cli("data", "put", "x.txt", "raw/x", *where)
                assert done.code == 0, done
                assert cli("data", "get", "raw/x", "-o", "-", *where).out == "hello"
                assert cli("data", "ls", *where, "--token", token("nobody")).code == 2
            assert (Path(volume) / namespace / "data" / "raw" / "x").read_text() == "hello"
        finally:
            run(helm, "uninstall", "run", "--namespace", namespace, "--wait", timeout=120, env=kubectl.environment())
            kubectl("delete", "persistentvolumeclaim", "files", "--wait=false")
            kubectl("delete", "persistentvolume", namespace, "--wait=false")


def claim(namespace: str, folder: str) -> list[dict[str, Any]]:
    """A volume in a folder of the node, and a claim of it."""
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": namespace},
            "spec": {
                **spec,
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": folder},
                "claimRef": {"name": "files", "namespace": namespace},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "files", "namespace": namespace},
            "spec": {**spec, "volumeName": namespace, "resources": {"requests": {"storage": "1Gi"}}},
        },
    ]


@contextmanager
def forwarded(kubectl: Kubectl, what: str) -> Iterator[str]:
    """`kubectl port-forward`, as the documentation has it."""
    port = free_port()
    options = ("--kubeconfig", str(kubectl.kubeconfig), "--namespace", str(kubectl.namespace))
    command = (kubectl.program, *options, "port-forward", what, f"{port}:8080")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None
        try:
            return ask(f"{url}/readyz")[0] == 200
        except OSError:
            return False

    try:
        wait_until(ready, timeout=SECONDS, what="the port to be forwarded")
        yield url
    finally:
        process.terminate()
        process.wait(SECONDS)
