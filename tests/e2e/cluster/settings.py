"""What is pinned and where things live: versions, addresses, Debian packages, folders. Nothing here does anything."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).resolve().parent

# As in go.mod; stamped into the binaries, because clients parse the version that the server reports.
KUBERNETES: Final = "v1.34.4"
HELM: Final = "v3.22.0"
KWOK: Final = "v0.7.0"
VERSITYGW: Final = "v1.8.0"
# The oldest Go that builds all of them (Helm decides), and what is fetched where there is none.
GO_AT_LEAST: Final = (1, 26)
GO: Final = "1.26.8"

NODE: Final = "node1"
BRIDGE: Final = "penstock0"
POD_CIDR: Final = "10.244.0.0/16"
# The bridge's address is also the node's, since a node's may not be loopback.
NODE_ADDRESS: Final = "10.244.0.1"
SERVICE_CIDR: Final = "10.96.0.0/16"
KUBERNETES_SERVICE: Final = "10.96.0.1"
API_PORT: Final = 6443
CONTROL_PLANE_PORTS: Final = {"etcd": (2379, 2380), "apiserver": (API_PORT,), "kcm": (10257,), "scheduler": (10259,)}
NODE_PORTS: Final = {"kubelet": (10248, 10250), "proxy": (10249, 10256)}

# Command (or file) that must be there → the Debian package that brings it.
CONTROL_PLANE_PACKAGES: Final = {"openssl": "openssl"}
NODE_PACKAGES: Final = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "/bin/busybox": "busybox-static",
}
IMAGE_PACKAGES: Final = {"mmdebstrap": "mmdebstrap", "buildah": "buildah"}
GO_PACKAGES: Final = {"go": "golang-go", "/etc/ssl/certs/ca-certificates.crt": "ca-certificates"}

PAUSE_IMAGE: Final = "docker.io/local/pause:1"
# The second name is the one that the examples use.
BUSYBOX_IMAGES: Final = ("docker.io/local/busybox:1", "docker.io/library/busybox:1.37")


@dataclass(frozen=True)
class Layout:
    """The folders of one cluster.

    Attributes:
        state: What `up` makes and `down` removes: keys, etcd's data, containers, logs, process ids.
        cache: What is kept between clusters, each thing named by a hash of what it was made from.
    """

    state: Path
    cache: Path

    @classmethod
    def from_environment(cls, state: Path | None = None) -> Layout:
        """The folders that $PENSTOCK_E2E_STATE and $PENSTOCK_E2E_CACHE name, or the usual ones.

        Args:
            state: Overrides $PENSTOCK_E2E_STATE.
        """
        chosen = state or Path(os.environ.get("PENSTOCK_E2E_STATE") or Path(tempfile.gettempdir()) / "penstock-e2e")
        return cls(state=chosen.absolute(), cache=default_cache())

    @property
    def kubeconfig(self) -> Path:
        """Credentials of an administrator."""
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.state / "pki"

    @property
    def marker(self) -> Path:
        """Written first by `up`: only a folder that has it is ever removed."""
        return self.state / "cluster.json"

    @property
    def temporary(self) -> Path:
        """There while the cluster is to end with the last session that uses it."""
        return self.state / "temporary"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.state / "containerd.sock"


def default_cache() -> Path:
    """$PENSTOCK_E2E_CACHE, or a folder in the user's cache."""
    return Path(os.environ.get("PENSTOCK_E2E_CACHE") or Path.home() / ".cache" / "penstock-e2e").absolute()
