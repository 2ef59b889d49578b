"""Credentials are read from a service account or a kubeconfig, or refused with one message that names the place."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.kube import credentials
from penstock.kube.credentials import Access, CredentialsError, Kubeconfig, ServiceAccount, find_source


def config(folder: Path, name: str = "config", **parts: Any) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "two", "context": {"cluster": "c", "user": "v"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://host:6443/"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}, {"name": "v", "user": {"tokenFile": "tokens/v"}}],
        **parts,
    }
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def user(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "u", "user": fields}]


def cluster(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "c", "cluster": {"server": "https://host", **fields}}]


def test_the_current_context_is_taken(tmp_path: Path) -> None:
    found = Kubeconfig([config(tmp_path)]).load()
    assert (found.server, found.namespace, found.token) == ("https://host:6443", "team", "secret")


def test_another_context_can_be_named(tmp_path: Path) -> None:
    found = Kubeconfig([config(tmp_path)], "two").load()
    assert (found.namespace, found.token, found.token_file) == (None, None, tmp_path / "tokens" / "v")


def test_the_first_mention_of_a_name_counts(tmp_path: Path) -> None:
    first = config(tmp_path, "first", users=user(token="from the first"), clusters=[])
    second = config(tmp_path, "second", **{"current-context": "two"})
    found = Kubeconfig([tmp_path / "none", first, second]).load()
    assert (found.token, found.server) == ("from the first", "https://host:6443")


def test_inline_data_goes_before_files_and_files_are_found_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"from a file")
    inline = base64.b64encode(b"inline").decode()
    path = config(
        tmp_path,
        clusters=cluster(**{"certificate-authority": "ca.pem"}),
        users=user(**{"client-certificate-data": inline, "client-certificate": "none", "client-key-data": inline}),
    )
    found = Kubeconfig([path]).load()
    assert (found.ca, found.certificate, found.key) == (b"from a file", b"inline", b"inline")


def test_what_else_a_cluster_may_say(tmp_path: Path) -> None:
    extra = {"insecure-skip-tls-verify": True, "tls-server-name": "other", "proxy-url": "http://proxy:1"}
    path = config(tmp_path, clusters=cluster(**extra), users=user(username="me", password="pw"))
    found = Kubeconfig([path]).load()
    assert (found.insecure, found.server_name, found.proxy, found.basic) == (
        True,
        "other",
        "http://proxy:1",
        ("me", "pw"),
    )


def test_somebody_else_can_be_named_whom_requests_are_made_for(tmp_path: Path) -> None:
    who = {"as": "jane", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"Scope/x": ["one", "two"]}}
    assert Kubeconfig([config(tmp_path, users=user(token="t", **who))]).load().impersonate == (
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-Scope%2Fx", "one"),
        ("Impersonate-Extra-Scope%2Fx", "two"),
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"current-context": ""}, "there is no current-context; name a context"),
        ({"current-context": "three"}, "there is no context 'three'; there is: one, two"),
        ({"clusters": []}, "there is no cluster 'c'; there is: none"),
        ({"clusters": [{"name": "c", "cluster": {}}]}, r"clusters\[c\]\.cluster\.server: is missing"),
        ({"clusters": cluster(server="host:6443")}, r"clusters\[c\]\.cluster\.server: must be a URL like"),
        ({"clusters": cluster(server=7)}, r"clusters\[c\]\.cluster\.server: must be text, not int"),
        (
            {"clusters": cluster(**{"certificate-authority": "no"})},
            r"certificate-authority: .*/no: cannot be read: No such",
        ),
        ({"clusters": "c"}, "clusters: must be a list"),
        ({"users": [{}]}, r"users\[0\]: must have a name"),
        ({"users": [{"name": "u", "user": 3}]}, r"users\[u\]\.user: must be a map"),
        (
            {"users": user(exec={"command": "aws"})},
            r"users\[u\]\.user\.exec: credential plugins are not supported by the op",
        ),
        ({"users": user(**{"auth-provider": {"name": "gcp"}})}, "auth-provider: Kubernetes 1.26 has dropped these"),
        (
            {"users": user(**{"as-groups": ["g"]})},
            r"users\[u\]\.user: groups, uids and extras can only be taken on together",
        ),
        ({"users": user(**{"as": "me", "as-groups": "g"})}, r"users\[u\]\.user\.as-groups: must be a list of texts"),
        ({"users": user(**{"as": "me", "as-user-extra": ["x"]})}, r"as-user-extra: must be a map of lists of texts"),
        ({"users": user(**{"as": "a\nb"})}, r"users\[u\]\.user: 'a.*' cannot be the name of anybody"),
        ({"users": user(**{"client-key-data": "***"})}, r"users\[u\]\.user\.client-key-data: is not base64"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(CredentialsError, match=message) as caught:
        Kubeconfig([config(tmp_path, **parts)]).load()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- a", "is not a kubeconfig"), ("", "there is no current-context")]
)
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(CredentialsError, match=message):
        Kubeconfig([path]).load()


def test_no_file_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="there is no such kubeconfig; set KUBECONFIG or name a file"):
        Kubeconfig([tmp_path / "a", tmp_path / "b"]).load()


def account(folder: Path) -> Path:
    for name, text in {"token": "secret\n", "ca.crt": "authority", "namespace": "team\n"}.items():
        (folder / name).write_text(text)
    return folder


def test_a_service_account(tmp_path: Path) -> None:
    found = ServiceAccount("10.0.0.1", "443", account(tmp_path)).load()
    assert (found.server, found.namespace, found.ca) == ("https://10.0.0.1:443", "team", b"authority")
    assert found.token_file == tmp_path / "token"


def test_an_address_of_version_six_is_bracketed(tmp_path: Path) -> None:
    assert ServiceAccount("fd00::1", "443", account(tmp_path)).load().server == "https://[fd00::1]:443"


@pytest.mark.parametrize("name", ["token", "ca.crt"])
def test_a_service_account_without_its_files_is_refused(tmp_path: Path, name: str) -> None:
    (account(tmp_path) / name).unlink()
    with pytest.raises(CredentialsError, match=f"{name}: cannot be read: No such file"):
        ServiceAccount("10.0.0.1", "443", tmp_path).load()


def test_where_credentials_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBECONFIG": "/a:/b"}
    asked = tmp_path / "asked"
    assert find_source(pod, kubeconfig=asked, context="x") == Kubeconfig([asked], "x")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path)
    assert find_source(pod) == Kubeconfig([Path("/a"), Path("/b")]), "there is no token here"
    account(tmp_path)
    assert isinstance(find_source(pod), ServiceAccount)
    assert find_source(pod, context="x") == Kubeconfig([Path("/a"), Path("/b")], "x"), "a pod has no contexts"
    assert find_source({"HOME": "/nowhere"}) == Kubeconfig([Path("~/.kube/config").expanduser()])


def test_secrets_are_not_printed() -> None:
    assert "secret" not in repr(Access(server="https://host", token="secret"))


@pytest.mark.parametrize(
    "access",
    [
        Access(server="https://host", ca=b"no certificate"),
        Access(server="https://host", ca=b"\xff"),
        Access(server="https://host", certificate=b"no certificate", key=b"no key"),
    ],
)
def test_certificates_that_are_none_are_refused(access: Access) -> None:
    with pytest.raises(CredentialsError, match="the certificates or the key for https://host cannot be used"):
        credentials.ssl_context(access)
