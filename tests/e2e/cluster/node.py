"""The one real node: a bridge network, containerd, the kubelet and the proxy; and cleaning up after them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from . import control_plane, images
from .processes import Processes
from .settings import BRIDGE, BUSYBOX_IMAGES, NODE, NODE_ADDRESS, PAUSE_IMAGE, POD_CIDR, Layout
from .shell import ClusterError, run, say, succeeds, wait_until

NAMES = ("containerd", "kubelet", "proxy")
CONTAINERD_SECONDS = 30
KUBELET_CHAINS = (
    ("filter", "KUBE-FIREWALL"),
    ("filter", "KUBE-KUBELET-CANARY"),
    ("nat", "KUBE-KUBELET-CANARY"),
    ("mangle", "KUBE-KUBELET-CANARY"),
    ("mangle", "KUBE-IPTABLES-HINT"),
)
NETWORKS = Path("/run/netns")
BRIDGE_MAC = "0a:58:0a:f4:00:01"
# Pods reach the world through the machine's address. One rule for all: with the plug-in's own `ipMasq` every pod would
# leave a chain behind when the cluster is torn down with pods on it.
MASQUERADE = (
    "POSTROUTING", "-s", POD_CIDR, "!", "-d", POD_CIDR, "-m", "comment", "--comment", "penstock-e2e", "-j", "MASQUERADE"
)  # fmt: skip


def network() -> None:
    """Make the bridge. It comes first of all, because the API server advertises its address, and the node has it."""
    if not succeeds("ip", "link", "show", BRIDGE):
        # With an address of its own: otherwise it takes the lowest of its ports', so that each pod that comes or goes
        # may change it, and what other pods send to the old one is lost for half a minute.
        run("ip", "link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge", timeout=30)
    if NODE_ADDRESS not in run("ip", "-brief", "address", "show", BRIDGE, timeout=30):
        run("ip", "address", "add", f"{NODE_ADDRESS}/16", "dev", BRIDGE, timeout=30)
    run("ip", "link", "set", BRIDGE, "up", timeout=30)
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    if forwarding.read_text().strip() != "1":
        forwarding.write_text("1")
    if not succeeds("iptables", "-w", "-t", "nat", "-C", *MASQUERADE):
        run("iptables", "-w", "-t", "nat", "-A", *MASQUERADE, timeout=30)
    # Whatever uses `ip netns` first, as podman does, mounts this folder on itself, and hides what is mounted in it.
    if not os.path.ismount(NETWORKS):
        NETWORKS.mkdir(exist_ok=True)
        run("mount", "--bind", NETWORKS, NETWORKS, timeout=30)
        run("mount", "--make-shared", NETWORKS, timeout=30)


def start(layout: Layout, processes: Processes, kube: Path) -> None:
    """Start the node, and wait until pods can run on it."""
    _write_configuration(layout)
    processes.start("containerd", "containerd", "--config", layout.state / "containerd.toml")
    _wait_for_containerd(layout, processes)
    _import_busybox(layout)
    processes.start(
        "kubelet", kube, "kubelet", "--kubeconfig", control_plane.kubeconfig(layout, "kubelet"),
        "--config", layout.state / "kubelet.json", "--hostname-override", NODE, "--node-ip", NODE_ADDRESS,
        "--root-dir", layout.state / "kubelet",
    )  # fmt: skip
    processes.start(
        "proxy", kube, "kube-proxy", "--kubeconfig", control_plane.kubeconfig(layout, "proxy"),
        "--hostname-override", NODE, "--cluster-cidr", POD_CIDR, "--proxy-mode", "iptables",
        "--conntrack-max-per-core", 0, "--conntrack-tcp-timeout-established", 0,
        "--conntrack-tcp-timeout-close-wait", 0,
    )  # fmt: skip
    control_plane.wait_for_answer(
        layout, processes, f"/api/v1/nodes/{NODE}", "the node to be ready",
        text='"reason":"KubeletReady"', watched=(*control_plane.NAMES, *NAMES),
    )  # fmt: skip


def stop(layout: Layout, processes: Processes, kube: Path | None) -> None:
    """End every container and process of the node, and undo what they did to the machine.

    Args:
        layout: The cluster's folders.
        processes: The cluster's processes.
        kube: The Kubernetes binary, which knows how to undo its network rules; None if it was never built.
    """
    started = {process.name for process in processes.all()}
    for name in ("kubelet", "proxy"):
        if name in started:
            processes.stop(name)
    if "containerd" in started:
        networks: list[str] = []
        try:
            if not processes.get("containerd").alive():
                # Its containers outlive it, and only it can end them in good order.
                processes.start_again("containerd")
            _wait_for_containerd(layout, processes)
            networks = _end_containers(layout)
        except ClusterError as error:
            say(f"the node's containers could not be ended in good order: {error}")
        processes.stop("containerd")
        for path in networks:
            succeeds("umount", "-l", path)
            try:
                Path(path).unlink(missing_ok=True)
            except OSError as error:  # an empty file stays, which nothing minds
                say(f"a network namespace stays behind: {error}")
    if "proxy" in started and kube is not None:
        succeeds(kube, "kube-proxy", "--cleanup", timeout=60)
    succeeds("iptables", "-w", "-t", "nat", "-D", *MASQUERADE)
    succeeds("ip", "link", "delete", BRIDGE)
    if "kubelet" in started:
        _remove_kubelet_chains()
    _unmount(layout.state)
    _remove_empty_cgroups()


def _write_configuration(layout: Layout) -> None:
    (layout.state / "cni").mkdir()
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(layout.state / "ipam"),
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    plugins = {"cniVersion": "0.4.0", "name": "penstock-e2e", "plugins": [bridge, ports]}
    (layout.state / "cni" / "10-bridge.conflist").write_text(json.dumps(plugins))
    # overlayfs on overlayfs does not work, which is what the disk of a CI job's container often is.
    snapshotter = "native" if on_overlay(layout.state) else "overlayfs"
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE a container may not lower its score, and would not start.
    (layout.state / "containerd.toml").write_text(f"""version = 2
root = "{layout.state}/containerd/root"
state = "{layout.state}/containerd/state"
[grpc]
  address = "{layout.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{layout.state}/cni"
""")
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "maxPods": 250,
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "tlsCertFile": str(layout.pki / "apiserver.crt"),
        "tlsPrivateKeyFile": str(layout.pki / "apiserver.key"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(layout.pki / "apiserver.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Images cannot be pulled again, so they may not be collected.
        "imageGCHighThresholdPercent": 100,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
    }
    (layout.state / "kubelet.json").write_text(json.dumps(kubelet, indent=2))


def on_overlay(path: Path) -> bool:
    """Whether a folder is on overlayfs."""
    return run("stat", "-f", "-c", "%T", path, timeout=30).strip() == "overlayfs"


def _import_busybox(layout: Layout) -> None:
    root = layout.state / "busybox"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    for applet in run("/bin/busybox", "--list", timeout=30).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    images.import_folder(layout, [PAUSE_IMAGE], root, entrypoint=["/bin/sleep", "2147483647"])
    images.import_folder(layout, BUSYBOX_IMAGES, root)


def _wait_for_containerd(layout: Layout, processes: Processes) -> None:
    def answers() -> bool:
        processes.require("containerd")
        return succeeds("ctr", "-a", layout.containerd_socket, "version")

    wait_until(answers, timeout=CONTAINERD_SECONDS, what="containerd to answer")


def _end_containers(layout: Layout) -> list[str]:
    """End all containers; returns the network namespaces that they leave behind."""
    networks: set[str] = set()
    for container in images.ctr(layout, "containers", "ls", "-q").split():
        spec = json.loads(images.ctr(layout, "containers", "info", "--spec", container))
        for namespace in spec.get("linux", {}).get("namespaces", []):
            if namespace["type"] == "network" and namespace.get("path", "").startswith("/var/run/netns/cni-"):
                networks.add(namespace["path"])
    for task in images.ctr(layout, "tasks", "ls", "-q").split():
        try:
            images.ctr(layout, "tasks", "rm", "-f", task)
        except ClusterError as error:
            say(f"could not end the container {task}: {error}")
    return sorted(networks)


def _remove_kubelet_chains() -> None:
    for command in ("iptables", "ip6tables"):
        for chain in ("INPUT", "OUTPUT"):
            succeeds(command, "-w", "-D", chain, "-j", "KUBE-FIREWALL")
        for table, chain in KUBELET_CHAINS:
            succeeds(command, "-w", "-t", table, "-F", chain)
            succeeds(command, "-w", "-t", table, "-X", chain)


def _unmount(folder: Path) -> None:
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        mount = Path(line.split()[1].replace("\\040", " "))
        if folder in mount.parents:
            run("umount", "-l", mount, timeout=60)


def _remove_empty_cgroups() -> None:
    for top in (*Path("/sys/fs/cgroup").glob("kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")):
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                break
