"""Who the command line is on a real cluster: kubeconfigs with all that kubectl understands, credential plugins too."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from e2e.cluster.cluster import Cluster
from e2e.cluster.shell import run, wait_until
from e2e.kubectl import Kubectl
from integration.cli.support import Cli, Ended

pytestmark = pytest.mark.usefixtures("crds")

Parts = dict[str, Any]
PLUGIN = """#!/bin/sh -eu
echo run >> "$RUNS"
printf '%s' "$KUBERNETES_EXEC_INFO" > "$RUNS.asked"
test -t 0 || test -z "$(cat)"
cat "$ANSWER"
"""


class Login:
    """`penstock get` with kubeconfigs that are made from parts of the cluster's own."""

    def __init__(self, folder: Path, kubectl: Kubectl) -> None:
        self.folder = folder
        self.kubectl = kubectl
        found = yaml.safe_load(kubectl.kubeconfig.read_text(encoding="utf-8"))
        current = next(each["context"] for each in found["contexts"] if each["name"] == found["current-context"])
        self.cluster: Parts = next(e["cluster"] for e in found["clusters"] if e["name"] == current["cluster"])
        self.user: Parts = next(each["user"] for each in found["users"] if each["name"] == current["user"])
        self._cli = Cli(folder)

    def write(self, name: str = "config", /, user: Mapping[str, Any] | None = None, **parts: Any) -> str:
        """A kubeconfig with one context, in the test's namespace."""
        content = {
            "current-context": "here",
            "contexts": [
                {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": self.kubectl.namespace}}
            ],
            "clusters": [{"name": "c", "cluster": self.cluster}],
            "users": [{"name": "u", "user": dict(self.user if user is None else user)}],
            **parts,
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "", kubeconfig: str = "") -> Ended:
        """Run `penstock`; it must end with this code. The variable KUBECONFIG names the last one unless told."""
        env = {"KUBECONFIG": kubeconfig or str(self.folder / "config")}
        ended = self._cli(*arguments, env=env, stdin=stdin)
        assert ended.code == code, ended
        return ended

    def sees(self, *arguments: str, kubeconfig: str = "") -> None:
        """`penstock get` must get an answer from the test's namespace."""
        ended = self("get", *arguments, kubeconfig=kubeconfig)
        assert ended.err == f'no executions in namespace "{self.kubectl.namespace}"\n'

    def refused(self, *arguments: str, code: int = 2) -> str:
        """`penstock get` must fail; gives its one line."""
        ended = self("get", *arguments, code=code)
        assert ended.err.startswith("penstock: "), ended
        assert len(ended.err.splitlines()) == 1, ended
        return ended.err


@pytest.fixture
def login(tmp_path: Path, kubectl: Kubectl) -> Login:
    """The command line, without any kubeconfig so far."""
    return Login(tmp_path, kubectl)


class Plugin:
    """A credential plugin that gives what the test says, and counts how often it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "plugins"
        self._folder.mkdir()
        script = self._folder / "login"
        script.write_text(PLUGIN, encoding="utf-8")
        script.chmod(0o755)

    def gives(self, *, version: str = "v1", **status: Any) -> None:
        """What it answers from now on."""
        answer = {
            "kind": "ExecCredential",
            "apiVersion": f"client.authentication.k8s.io/{version}",
            "status": status,
        }
        (self._folder / "answer").write_text(json.dumps(answer), encoding="utf-8")

    def user(self, *, version: str = "v1", **fields: Any) -> Parts:
        """The user of a kubeconfig in the folder above."""
        env = {"RUNS": str(self._folder / "runs"), "ANSWER": str(self._folder / "answer")}
        spec = {
            "apiVersion": f"client.authentication.k8s.io/{version}",
            "command": "./plugins/login",
            "interactiveMode": "IfAvailable",
            "env": [{"name": name, "value": value} for name, value in env.items()],
            **fields,
        }
        return {"exec": spec}

    @property
    def runs(self) -> int:
        """How often it was run."""
        return len((self._folder / "runs").read_text(encoding="utf-8").splitlines())

    @property
    def asked(self) -> Parts:
        """What it was told last."""
        found: Parts = json.loads((self._folder / "runs.asked").read_text(encoding="utf-8"))
        return found


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    """A credential plugin."""
    return Plugin(tmp_path)


def in_seconds(seconds: float) -> str:
    """A moment as plugins write it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def token_of(kubectl: Kubectl, account: str) -> str:
    """A token of a service account that is made for it."""
    kubectl("create", "serviceaccount", account)
    return kubectl("create", "token", account).strip()


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_credential_plugin_gives_the_token(login: Login, plugin: Plugin, version: str) -> None:
    plugin.gives(version=version, token=login.user["token"], expirationTimestamp=in_seconds(900))
    login.write(user=plugin.user(version=version))
    login.sees()
    assert plugin.runs == 1
    assert plugin.asked["spec"] == {"interactive": False}


def test_a_credential_plugin_is_told_of_the_cluster_if_it_wants_to(login: Login, plugin: Plugin) -> None:
    plugin.gives(token=login.user["token"])
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    clusters = [{"name": "c", "cluster": {**login.cluster, "extensions": [extension]}}]
    login.write(user=plugin.user(provideClusterInfo=True), clusters=clusters)
    login.sees()
    told = plugin.asked["spec"]["cluster"]
    assert (told["server"], told["config"]) == (login.cluster["server"], {"audience": "x"})
    assert base64.b64decode(told["certificate-authority-data"]).startswith(b"-----BEGIN CERTIFICATE")


def test_a_manifest_on_standard_input_is_not_the_plugins(login: Login, plugin: Plugin) -> None:
    plugin.gives(token=login.user["token"])
    login.write(user=plugin.user())
    step = {"name": "s", "image": "any", "script": "true"}
    manifest = {"apiVersion": "penstock.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": "p"}}
    ended = login("apply", "-f", "-", stdin=json.dumps({**manifest, "spec": {"steps": [step]}}))
    assert ended.out == "pipeline.penstock.dev/p created\n"


def test_a_token_that_has_expired_is_asked_for_again(login: Login, plugin: Plugin) -> None:
    plugin.gives(token=login.user["token"], expirationTimestamp=in_seconds(-60))
    login.write(user=plugin.user())
    login.sees()
    assert plugin.runs > 1


def test_a_token_that_is_not_accepted_is_asked_for_once_more(login: Login, plugin: Plugin) -> None:
    plugin.gives(token="stale", expirationTimestamp=in_seconds(900))
    login.write(user=plugin.user())
    assert "the cluster does not accept your credentials" in login.refused()
    assert plugin.runs == 2


def test_a_plugin_that_cannot_log_in_is_told_with_what_it_says(login: Login, plugin: Plugin) -> None:
    login.write(user=plugin.user(command="sh", args=["-c", "echo 'SSO session has expired' >&2; exit 3"]))
    ended = login("get", code=2)
    assert ended.err.splitlines()[0] == "SSO session has expired"
    assert 'users[u].user.exec: the credential plugin "sh" ended with code 3' in ended.err.splitlines()[1]


def test_files_of_kubeconfig_are_merged_and_contexts_chosen(login: Login, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    context = {"cluster": "c", "user": "theirs", "namespace": "kube-public"}
    public: Parts = {"contexts": [{"name": "public", "context": context}], "current-context": ""}
    first = login.write("first", users=[], **public)
    second = login.write("other/second", clusters=[])
    users = [{"name": "theirs", "user": {"tokenFile": "token"}}, {"name": "u", "user": {"token": "not the first"}}]
    third = login.write("other/third", users=users, clusters=[], contexts=[])
    (tmp_path / "other" / "token").write_text(login.user["token"] + "\n", encoding="utf-8")
    merged = os.pathsep.join((str(tmp_path / "none"), first, second, third))
    login.sees(kubeconfig=merged)  # the context of the second with the cluster of the first
    ended = login("get", "--context", "public", kubeconfig=merged)
    assert ended.err == 'no executions in namespace "kube-public"\n'
    login.sees("--context", "public", "--namespace", login.kubectl.namespace, kubeconfig=merged)
    ended = login("get", "--kubeconfig", second, "--kubeconfig", third, code=2, kubeconfig=merged)
    assert "there is no context 'here'" in ended.err or "current-context" in ended.err


def test_a_server_with_another_name_or_an_unknown_certificate(login: Login) -> None:
    port = urlsplit(login.cluster["server"]).port
    other = {**login.cluster, "server": f"https://127.0.0.2:{port}"}
    unknown = {key: value for key, value in login.cluster.items() if key != "certificate-authority-data"}
    login.write(clusters=[{"name": "c", "cluster": unknown}])
    assert "certificate verify failed" in login.refused(code=3)
    login.write(clusters=[{"name": "c", "cluster": {**unknown, "insecure-skip-tls-verify": True}}])
    login.sees()
    login.write(clusters=[{"name": "c", "cluster": other}])
    assert "127.0.0.2" in login.refused(code=3)
    login.write(clusters=[{"name": "c", "cluster": {**other, "tls-server-name": "kubernetes.default.svc"}}])
    login.sees()


@contextmanager
def http_proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that makes tunnels, and the hosts that it was asked for."""
    asked: list[str] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with closing(sink):
                try:
                    while data := source.recv(65_536):
                        sink.sendall(data)
                except OSError:
                    return

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(1)
                host, _, port = head.split()[1].decode().rpartition(":")
                asked.append(host)
                server = socket.create_connection((host, int(port)))
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)


def test_a_proxy_that_a_kubeconfig_names_is_gone_through(login: Login) -> None:
    with http_proxy() as (url, asked):
        login.write(clusters=[{"name": "c", "cluster": {**login.cluster, "proxy-url": url}}])
        login.sees()
    assert asked == [urlsplit(login.cluster["server"]).hostname]


def test_somebody_else_can_be_asked_for(login: Login, kubectl: Kubectl) -> None:
    login.write()
    assert 'User "jane" cannot list resource "executions"' in login.refused("--as", "jane")
    login.sees("--as", "jane", "--as-group", "system:masters", "--as-uid", "7")
    login.write(user={**login.user, "as": "john", "as-groups": ["nobodies"]})
    assert 'User "john" cannot list' in login.refused()
    assert 'User "jane" cannot list' in login.refused("--as", "jane")
    login.write(user={"token": token_of(kubectl, "plain")})
    assert 'cannot impersonate resource "users"' in login.refused("--as", "jane")


def test_a_token_that_is_not_known_and_a_namespace_that_is_not_there(login: Login) -> None:
    login.write(user={"token": "x"})
    assert "the cluster does not accept your credentials: Unauthorized; log in again" in login.refused()
    login.write()
    assert 'there is no namespace "nowhere" in this cluster' in login.refused("-n", "nowhere")


def openssl(*arguments: str | Path) -> str:
    """Run `openssl`."""
    return run("openssl", *arguments, timeout=60)


def signing_request(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key, and a request for a certificate that its owner is somebody."""
    key, request = folder / f"{name}.key", folder / f"{name}.csr"
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    return key, request


def certificate_of(kubectl: Kubectl, folder: Path, name: str) -> tuple[Path, Path]:
    """A client certificate that the cluster has signed, and its key."""
    key, request = signing_request(folder, name)
    spec = {
        "request": base64.b64encode(request.read_bytes()).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
        "expirationSeconds": 3600,
    }
    kind = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest"}
    kubectl.apply({**kind, "metadata": {"name": name}, "spec": spec})
    try:
        kubectl("certificate", "approve", name)
        signed: list[str] = []

        def is_signed() -> bool:
            signed[:] = [kubectl.get("csr", name)["status"].get("certificate", "")]
            return bool(signed[0])

        wait_until(is_signed, timeout=30, what="the cluster to sign a client certificate")
    finally:
        kubectl("delete", "csr", name)
    certificate = folder / f"{name}.crt"
    certificate.write_bytes(base64.b64decode(signed[0]))
    return certificate, key


def test_a_client_certificate_says_who_somebody_is(login: Login, kubectl: Kubectl, tmp_path: Path) -> None:
    name = f"jane-{kubectl.namespace}"
    certificate, key = certificate_of(kubectl, tmp_path, name)
    inline = {
        "client-certificate-data": base64.b64encode(certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(key.read_bytes()).decode(),
    }
    login.write(user=inline)
    assert f'User "{name}" cannot list resource "executions"' in login.refused()
    kubectl("create", "rolebinding", "jane", "--clusterrole=cluster-admin", f"--user={name}")
    login.sees()
    login.write(user={"client-certificate": certificate.name, "client-key": str(key)})
    login.sees()


def test_a_client_certificate_that_has_expired(login: Login, cluster: Cluster, tmp_path: Path) -> None:
    if cluster.layout is None:
        pytest.skip("only the authority of a cluster that was started here signs what has expired already")
    key, request = signing_request(tmp_path, "jane")
    (tmp_path / "index").touch()
    settings = tmp_path / "authority"
    settings.write_text(
        f"[ca]\ndefault_ca = c\n[c]\ndatabase = {tmp_path / 'index'}\nnew_certs_dir = {tmp_path}\n"
        "default_md = sha256\npolicy = p\nrand_serial = yes\nx509_extensions = x\n[p]\ncommonName = supplied\n"
        "[x]\nextendedKeyUsage = clientAuth\n"
    )
    authority = ("-cert", cluster.layout.pki / "apiserver.crt", "-keyfile", cluster.layout.pki / "apiserver.key")
    certificate = tmp_path / "jane.crt"

    def sign(since: str, until: str) -> None:
        signed = ("-in", request, "-out", certificate, "-startdate", since, "-enddate", until)
        openssl("ca", "-batch", "-notext", "-config", settings, *authority, *signed)

    login.write(user={"client-certificate": str(certificate), "client-key": str(key)})
    sign("20200101000000Z", "20200102000000Z")
    assert "the cluster does not accept your credentials" in login.refused()
    (tmp_path / "index").write_text("")  # or it would not sign the same name again
    sign("20200101000000Z", "20990101000000Z")
    assert 'User "jane" cannot list resource "executions"' in login.refused()  # it was the time and nothing else
