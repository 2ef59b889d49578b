"""etcd, API server, controller manager and scheduler: their keys, credentials and flags."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from .processes import Processes
from .settings import (
    API_PORT,
    KUBERNETES_SERVICE,
    NODE,
    NODE_ADDRESS,
    SERVICE_CIDR,
    Layout,
)
from .shell import run, wait_until

NAMES = ("etcd", "apiserver", "kcm", "scheduler")
READY_SECONDS = 120
# User and group of each component; RBAC and the Node authorizer know them by these.
COMPONENTS = {
    "admin": ("penstock-e2e-admin", "system:masters"),
    "kcm": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
}


def prepare(layout: Layout) -> None:
    """Make keys, tokens and a kubeconfig for each component."""
    layout.pki.mkdir()
    addresses = ",".join(f"IP:{address}" for address in ("127.0.0.1", NODE_ADDRESS, KUBERNETES_SERVICE))
    names = f"{addresses},DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc"
    # Self-signed, so it is at once the authority and, towards the kubelet, the API server's client certificate.
    run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=penstock-e2e",
        "-addext", f"subjectAltName={names}", "-keyout", layout.pki / "apiserver.key",
        "-out", layout.pki / "apiserver.crt", timeout=60,
    )  # fmt: skip
    run("openssl", "genrsa", "-out", layout.pki / "service-accounts.key", "2048", timeout=60)
    tokens = {name: secrets.token_hex(32) for name in COMPONENTS}
    lines = [f'{tokens[name]},{user},{name},"{group}"' for name, (user, group) in COMPONENTS.items()]
    (layout.state / "tokens.csv").write_text("\n".join(lines) + "\n")
    for name, token in tokens.items():
        write_kubeconfig(layout, kubeconfig(layout, name), name, token)


def kubeconfig(layout: Layout, component: str) -> Path:
    """The file with a component's credentials."""
    return layout.kubeconfig if component == "admin" else layout.state / f"{component}.kubeconfig"


def write_kubeconfig(layout: Layout, path: Path, user: str, token: str) -> None:
    """Write credentials in the form that every client reads; JSON is YAML."""
    authority = base64.b64encode((layout.pki / "apiserver.crt").read_bytes()).decode()
    cluster = {"server": f"https://127.0.0.1:{API_PORT}", "certificate-authority-data": authority}
    name = "penstock-e2e"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))


def start(layout: Layout, processes: Processes, kube: Path, *, controller_manager_qps: int) -> None:
    """Start everything but the node, and wait until the API server and what pods need are there.

    Args:
        layout: The cluster's folders; `prepare` was there before.
        processes: Where they are kept.
        kube: The Kubernetes binary.
        controller_manager_qps: Requests a second that the controller manager may make.
    """
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    # Tests need no durability across a power loss; without fsync etcd is ten times as fast on a shared disk.
    processes.start(
        "etcd", kube, "etcd", "--data-dir", layout.state / "etcd", "--unsafe-no-fsync", "--quota-backend-bytes",
        4 << 30, "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
        "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--log-level", "warn",
    )  # fmt: skip
    certificate, key = layout.pki / "apiserver.crt", layout.pki / "apiserver.key"
    processes.start(
        "apiserver", kube, "kube-apiserver", "--etcd-servers", client, "--bind-address", "0.0.0.0",
        "--secure-port", API_PORT, "--advertise-address", NODE_ADDRESS, "--service-cluster-ip-range", SERVICE_CIDR,
        "--tls-cert-file", certificate, "--tls-private-key-file", key, "--client-ca-file", certificate,
        "--kubelet-certificate-authority", certificate, "--kubelet-client-certificate", certificate,
        "--kubelet-client-key", key, "--kubelet-preferred-address-types", "InternalIP",
        "--token-auth-file", layout.state / "tokens.csv", "--authorization-mode", "Node,RBAC",
        # OpenShift has it on: whoever makes an object that others wait for in deletion needs rights on its owner.
        "--enable-admission-plugins", "OwnerReferencesPermissionEnforcement",
        "--allow-privileged=true", "--service-account-issuer", "https://kubernetes.default.svc",
        "--service-account-key-file", layout.pki / "service-accounts.key",
        "--service-account-signing-key-file", layout.pki / "service-accounts.key",
    )  # fmt: skip
    wait_for_api(layout, processes)
    processes.start(
        "kcm", kube, "kube-controller-manager", "--kubeconfig", kubeconfig(layout, "kcm"),
        "--use-service-account-credentials", "--service-account-private-key-file", layout.pki / "service-accounts.key",
        "--root-ca-file", certificate, "--leader-elect=false",
        "--cluster-signing-cert-file", certificate, "--cluster-signing-key-file", key,
        "--kube-api-qps", controller_manager_qps, "--kube-api-burst", controller_manager_qps * 3 // 2,
    )  # fmt: skip
    processes.start(
        "scheduler", kube, "kube-scheduler", "--kubeconfig", kubeconfig(layout, "scheduler"), "--leader-elect=false"
    )
    wait_for_answer(
        layout, processes, "/api/v1/namespaces/default/serviceaccounts/default", "the first service account"
    )


def wait_for_api(layout: Layout, processes: Processes) -> None:
    """Wait until the API server says that it is ready."""
    wait_for_answer(layout, processes, "/readyz", "the API server to be ready", watched=("etcd", "apiserver"))


def wait_for_answer(
    layout: Layout, processes: Processes, path: str, what: str, *, text: str = "", watched: tuple[str, ...] = NAMES
) -> None:
    """Wait until the API server answers a request with success.

    Args:
        layout: The cluster's folders.
        processes: The cluster's processes.
        path: What to ask for.
        what: What is waited for, for the error.
        text: What the answer must hold.
        watched: Processes without which waiting is in vain.
    """

    def answered() -> bool:
        processes.require(*watched)
        answer = ask(layout, path)
        return answer is not None and text in answer

    wait_until(answered, timeout=READY_SECONDS, what=f"{what}; the logs are in {layout.logs}")


def ask(layout: Layout, path: str) -> str | None:
    """GET from the API server as an administrator; None if it does not answer, or not with success."""
    token = json.loads(layout.kubeconfig.read_text())["users"][0]["user"]["token"]
    context = ssl.create_default_context(cafile=str(layout.pki / "apiserver.crt"))
    request = urllib.request.Request(
        f"https://127.0.0.1:{API_PORT}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=5) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, http.client.HTTPException):
        return None
