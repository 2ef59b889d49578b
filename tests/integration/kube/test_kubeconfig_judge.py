"""Our reader of credentials and that of the `kubernetes` package come to the same; where not, it says why."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config  # type: ignore[import-untyped]
from kubernetes.config.incluster_config import InClusterConfigLoader  # type: ignore[import-untyped]

from penstock.kube.access import Access
from penstock.kube.credentials import Kubeconfig, ServiceAccount

Parts = dict[str, Any]

CA = b"-----BEGIN CERTIFICATE-----\nauthority\n-----END CERTIFICATE-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nclient\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\nkey\n-----END PRIVATE KEY-----\n"
FILES = {"ca.crt": CA, "tls/client.crt": CERTIFICATE, "tls/client.key": KEY, "token": b"from-a-file\n"}


@dataclass(frozen=True)
class Way:
    """What both readers say of a way to an API server."""

    server: str
    namespace: str | None
    authorization: str | None = None
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    verified: bool = True
    server_name: str | None = None


def ours(access: Access) -> Way:
    """What our reader says."""
    token = access.token if access.token_file is None else access.token_file.read_text().strip()
    authorization = f"Bearer {token}" if token is not None else None
    if authorization is None and access.basic is not None:
        authorization = f"Basic {inline(':'.join(access.basic).encode())}"
    return Way(
        server=access.server,
        namespace=access.namespace,
        authorization=authorization,
        ca=access.ca,
        certificate=access.certificate,
        key=access.key,
        verified=not access.insecure,
        server_name=access.server_name,
    )


def theirs(paths: list[Path], context: str | None = None) -> Way:
    """What the `kubernetes` package says."""
    found = client.Configuration()
    files = os.pathsep.join(map(str, paths))
    config.load_kube_config(files, context, found, persist_config=False)
    contexts, current = config.list_kube_config_contexts(files)
    chosen = current if context is None else next(each for each in contexts if each["name"] == context)
    return _way(found, chosen["context"].get("namespace"))


def _way(found: Any, namespace: str | None) -> Way:
    def content(path: str | None) -> bytes | None:
        return None if path is None else Path(path).read_bytes()

    told = found.api_key.get("BearerToken") or found.api_key.get("authorization")
    return Way(
        server=found.host,
        namespace=namespace,
        authorization=None if told is None else told.strip(),
        ca=content(found.ssl_ca_cert),
        certificate=content(found.cert_file),
        key=content(found.key_file),
        verified=found.verify_ssl,
        server_name=found.tls_server_name,
    )


def inline(data: bytes) -> str:
    """As it stands in fields whose names end in `-data`."""
    return base64.b64encode(data).decode()


def write(path: Path, *, cluster: Parts | None = None, user: Parts | None = None, **parts: Any) -> Path:
    """A kubeconfig with one context, and the files that it may name."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://host:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
        **parts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, data in FILES.items():
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(data)
    path.write_text(yaml.safe_dump(content))
    return path


INLINE = {"client-certificate-data": inline(CERTIFICATE), "client-key-data": inline(KEY)}
BY_PATH = {"client-certificate": "tls/client.crt", "client-key": "tls/client.key"}
SAME: Mapping[str, Parts] = {
    "a token": {},
    "a token in a file": {"user": {"tokenFile": "token"}},
    "a certificate inline": {"user": INLINE, "cluster": {"certificate-authority-data": inline(CA)}},
    "a certificate by path": {"user": BY_PATH, "cluster": {"certificate-authority": "ca.crt"}},
    "a certificate both ways": {"user": {**BY_PATH, **INLINE, "client-certificate": "none"}},
    "a certificate and a token": {"user": {**INLINE, "token": "secret"}},
    "a name and a password": {"user": {"username": "jane", "password": "s3cret: with more"}},
    "a token goes before a password": {"user": {"token": "t", "username": "jane", "password": "p"}},
    "nobody": {"user": {}},
    "a server that is not verified": {"cluster": {"insecure-skip-tls-verify": True}},
    "a server with another name": {"cluster": {"tls-server-name": "kubernetes.default.svc"}},
    "a server below a path": {"cluster": {"server": "https://rancher.example.com/k8s/clusters/c-abcde/"}},
    "a server without TLS": {"cluster": {"server": "http://127.0.0.1:8080"}},
    "a server of version six": {"cluster": {"server": "https://[fd00::1]:6443"}},
    "no namespace": {"contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}]},
    "no user": {"contexts": [{"name": "here", "context": {"cluster": "c"}}]},
    "what is for other programs": {
        "preferences": {"colors": True},
        "extensions": [{"name": "e", "extension": {"a": 1}}],
        "cluster": {"extensions": [{"name": "cluster_info", "extension": {"provider": "minikube.sigs.k8s.io"}}]},
    },
}


@pytest.mark.parametrize("case", SAME)
def test_both_read_the_same(tmp_path: Path, case: str) -> None:
    path = write(tmp_path / "config", **SAME[case])
    found = ours(Kubeconfig([path]).load())
    assert found == theirs([path])
    assert found.server in ("https://host:6443", SAME[case].get("cluster", {}).get("server", "").rstrip("/"))


@pytest.mark.parametrize("context", [None, "here", "there", "elsewhere"])
def test_both_choose_the_same_context(tmp_path: Path, context: str | None) -> None:
    contexts = [
        {"name": "here", "context": {"cluster": "c", "user": "u"}},
        {"name": "there", "context": {"cluster": "d", "user": "u", "namespace": "a"}},
        {"name": "elsewhere", "context": {"cluster": "c", "user": "v", "namespace": "b"}},
    ]
    clusters = [{"name": name, "cluster": {"server": f"https://{name}"}} for name in "cd"]
    users = [{"name": name, "user": {"token": name}} for name in "uv"]
    path = write(tmp_path / "config", contexts=contexts, clusters=clusters, users=users)
    assert ours(Kubeconfig([path], context).load()) == theirs([path], context)


def test_both_merge_files_the_same_way(tmp_path: Path) -> None:
    clusters = [{"name": "d", "cluster": {"server": "https://d", "certificate-authority": "ca.crt"}}]
    contexts = [
        {"name": "here", "context": {"cluster": "d", "user": "w"}},  # the first file has one of this name
        {"name": "there", "context": {"cluster": "d", "user": "w", "namespace": "n"}},
    ]
    users = [{"name": "u", "user": {"token": "not the first"}}, {"name": "w", "user": {"tokenFile": "token"}}]
    first = write(tmp_path / "a" / "config")
    second = write(tmp_path / "b" / "config", clusters=clusters, contexts=contexts, users=users)
    paths = [tmp_path / "none", first, second]
    for context in ("here", "there"):
        assert ours(Kubeconfig(paths, context).load()) == theirs(paths, context)


@pytest.mark.parametrize("gives", ["token", "certificate"])
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_both_ask_a_credential_plugin_the_same_way(tmp_path: Path, gives: str, version: str) -> None:
    status = {
        "token": {"token": "from-a-plugin", "expirationTimestamp": "2100-01-01T00:00:00Z"},
        "certificate": {"clientCertificateData": CERTIFICATE.decode(), "clientKeyData": KEY.decode()},
    }[gives]
    api = f"client.authentication.k8s.io/{version}"
    answer = json.dumps({"kind": "ExecCredential", "apiVersion": api, "status": status})
    plugin = tmp_path / "bin" / "plugin"
    plugin.parent.mkdir()
    plugin.write_text('#!/bin/sh -eu\ntest "$1" = login\nprintf %s "$ANSWER"\n')
    plugin.chmod(0o755)
    spec = {
        "apiVersion": api,
        "command": "./bin/plugin",
        "args": ["login"],
        "env": [{"name": "ANSWER", "value": answer}],
        "interactiveMode": "Never",
        "provideClusterInfo": True,
    }
    path = write(tmp_path / "config", user={"exec": spec})
    found = ours(Kubeconfig([path], plugins=True).load())
    assert found == theirs([path])
    assert (found.authorization, found.certificate) == (
        ("Bearer from-a-plugin", None) if gives == "token" else (None, CERTIFICATE)
    )


@pytest.mark.parametrize("host", ["10.96.0.1", "fd00::1", "kubernetes.default.svc"])
def test_both_find_the_service_account_of_a_pod(tmp_path: Path, host: str) -> None:
    for name, data in {"token": b"of-the-pod", "ca.crt": CA, "namespace": b"team"}.items():
        (tmp_path / name).write_bytes(data)
    found = client.Configuration()
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    InClusterConfigLoader(str(tmp_path / "token"), str(tmp_path / "ca.crt"), environ=environ).load_and_set(found)
    there = _way(found, "team")
    assert ours(ServiceAccount(host, "443", tmp_path).load()) == Way(
        server=there.server,
        namespace="team",
        authorization=(there.authorization or "").replace("bearer ", "Bearer "),  # the scheme has no case
        ca=there.ca,
    )


# --- on purpose not the same ------------------------------------------------------------------------


def test_the_first_current_context_counts_as_kubectl_documents_it(tmp_path: Path) -> None:
    contexts: Any = [{"name": name, "context": {"cluster": "c", "namespace": name}} for name in ("one", "two")]
    first, second = (
        write(tmp_path / name / "config", **{"contexts": contexts, "current-context": name}) for name in ("one", "two")
    )
    assert ours(Kubeconfig([first, second]).load()).namespace == "one"
    assert theirs([first, second]).namespace == "two"  # the package takes the last


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "config", users=[])
    second = write(tmp_path / "b" / "config", user=BY_PATH, clusters=[], contexts=[])
    (tmp_path / "a" / "tls" / "client.crt").write_bytes(b"somebody else's")
    assert ours(Kubeconfig([first, second]).load()).certificate == CERTIFICATE
    assert theirs([first, second]).certificate == b"somebody else's"  # the package looks beside the cluster's file


def test_a_token_file_goes_before_a_token_as_in_kubectl(tmp_path: Path) -> None:
    path = write(tmp_path / "config", user={"token": "old", "tokenFile": "token"})
    assert ours(Kubeconfig([path]).load()).authorization == "Bearer from-a-file"  # it is the one that is rotated
    assert theirs([path]).authorization == "Bearer old"


def test_proxies_and_impersonation_are_read(tmp_path: Path) -> None:
    user = {"token": "secret", "as": "jane", "as-groups": ["a", "b"], "as-uid": "7"}
    path = write(tmp_path / "config", user=user, cluster={"proxy-url": "http://proxy:3128"})
    access = Kubeconfig([path]).load()
    assert access.proxy == "http://proxy:3128"
    assert dict(access.impersonate)["Impersonate-User"] == "jane"
    found = client.Configuration()
    config.load_kube_config(str(path), None, found, persist_config=False)
    assert found.proxy is None  # the package knows neither: requests would go out as somebody else
    assert ours(access) == theirs([path])


def test_a_certificate_of_the_plugin_goes_before_that_of_the_user_and_beside_a_token(tmp_path: Path) -> None:
    status = {"token": "t", "clientCertificateData": CERTIFICATE.decode(), "clientKeyData": KEY.decode()}
    api = "client.authentication.k8s.io/v1"
    answer = json.dumps({"kind": "ExecCredential", "apiVersion": api, "status": status})
    spec = {"apiVersion": api, "command": "printf", "args": ["%s", answer], "interactiveMode": "Never"}
    path = write(tmp_path / "config", user={"exec": spec})
    found = ours(Kubeconfig([path], plugins=True).load())
    assert (found.authorization, found.certificate, found.key) == ("Bearer t", CERTIFICATE, KEY)
    assert theirs([path]).certificate is None  # the package takes the token alone; client-go shows both
