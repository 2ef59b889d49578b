"""The door for tests and for the command line: one cluster, ours or the one that KUBECONFIG names."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import builds, control_plane, images, kwok, node, packages
from .locks import held, only_holder
from .processes import Processes
from .settings import (
    CONTROL_PLANE_PACKAGES,
    CONTROL_PLANE_PORTS,
    NODE_PACKAGES,
    NODE_PORTS,
    Layout,
)
from .shell import ClusterError, say

# What Kubernetes ships; the burst is half as much again.
CONTROLLER_MANAGER_QPS = 20
# The kernel's limit for the path of a socket is 108 bytes.
LONGEST_STATE = 80


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        kubeconfig: Credentials of an administrator.
        layout: The folders of a cluster that we started; None for one that KUBECONFIG names.
    """

    kubeconfig: Path
    layout: Layout | None

    @property
    def ours(self) -> Layout:
        """The folders of a cluster that we started.

        Raises:
            ClusterError: It is someone else's, whose processes and images are out of reach.
        """
        if self.layout is None:
            raise ClusterError("this needs a cluster that was started here: unset KUBECONFIG")
        return self.layout

    @property
    def processes(self) -> Processes:
        """Its processes, to kill and start again: etcd, apiserver, kcm, scheduler, containerd, kubelet, proxy, kwok."""
        return processes_of(self.ours)

    def give_image(self, name: str, archive: Path) -> None:
        """See to it that its node has an image, which is in this archive."""
        with held(Path(f"{self.ours.state}.images")):
            if not images.exists(self.ours, name):
                images.load(self.ours, archive)

    def wait_until_ready(self) -> None:
        """Wait for the API server, after it was started again."""
        control_plane.wait_for_api(self.ours, self.processes)


def processes_of(layout: Layout) -> Processes:
    """The processes of a cluster in its folders."""
    return Processes(layout.state / "processes", layout.logs)


def from_environment(layout: Layout) -> Cluster | None:
    """The cluster that KUBECONFIG names, unless that is the one in these folders.

    Raises:
        ClusterError: There is no such file.
    """
    named = os.environ.get("KUBECONFIG")
    if not named or Path(named).absolute() == layout.kubeconfig:
        return None
    path = Path(named).absolute()
    if not path.is_file():
        raise ClusterError(
            f"KUBECONFIG names {named}, and there is no such file; unset it to have a cluster started here"
        )
    return Cluster(kubeconfig=path, layout=None)


def running(layout: Layout) -> Cluster | None:
    """The cluster in these folders, if it is whole and answers."""
    if not layout.marker.exists() or problems(layout):
        return None
    return Cluster(kubeconfig=layout.kubeconfig, layout=layout)


def problems(layout: Layout) -> list[str]:
    """What keeps the cluster in these folders from working; nothing if it works."""
    if not layout.marker.exists():
        return [f"no cluster was started in {layout.state}"]
    settings = json.loads(layout.marker.read_text())
    expected = (*control_plane.NAMES, *(node.NAMES if settings["node"] else ()))
    living = {process.name for process in processes_of(layout).all() if process.alive()}
    found = [f"{name} does not run" for name in expected if name not in living]
    if not found and control_plane.ask(layout, "/readyz") is None:
        found.append("the API server is not ready")
    return found


@contextlib.contextmanager
def used(layout: Layout, *, keep: bool) -> Iterator[Cluster]:
    """A cluster for a session of tests, of which there may be several at once.

    Args:
        layout: Its folders.
        keep: Whether to leave it running. Else the last session that uses it ends it, unless it was started to stay.

    Raises:
        ClusterError: As by `up`.
    """
    with held(Path(f"{layout.state}.users"), shared=True) as users:
        try:
            yield up(layout, keep=keep)
        finally:
            if only_holder(users) and layout.temporary.exists():
                down(layout)


def up(
    layout: Layout, *, with_node: bool = True, controller_manager_qps: int | None = None, keep: bool = True
) -> Cluster:
    """Start a cluster, or use the one that runs already or that KUBECONFIG names.

    Args:
        layout: Its folders.
        with_node: With containerd and a kubelet; without, it takes objects and fake nodes only.
        controller_manager_qps: Requests a second that the controller manager may make; None for what is usual, or what
            the cluster that runs already has.
        keep: Whether it stays until `down`, also if it runs already; else a cluster that is started now is temporary.

    Raises:
        ClusterError: It could not be had; nothing of it is left running then, but the logs are.
    """
    if (named := from_environment(layout)) is not None:
        say(f"using the cluster of {named.kubeconfig}")
        return named
    require_linux_root()
    with _locked(layout):
        if layout.marker.exists() and not _replace(layout, with_node=with_node, qps=controller_manager_qps):
            if keep:
                layout.temporary.unlink(missing_ok=True)
            return Cluster(kubeconfig=layout.kubeconfig, layout=layout)
        packages.install(
            CONTROL_PLANE_PACKAGES | (NODE_PACKAGES if with_node else {"ip": "iproute2", "iptables": "iptables"})
        )
        kube = builds.kubernetes(layout.cache)
        _require_free_ports(with_node=with_node)
        qps = controller_manager_qps or CONTROLLER_MANAGER_QPS
        _make_state(layout, {"node": with_node, "controllerManagerQps": qps})
        if not keep:
            layout.temporary.touch()
        try:
            _start(layout, kube, with_node=with_node, controller_manager_qps=qps)
        except BaseException:
            _stop(layout)
            raise
        return Cluster(kubeconfig=layout.kubeconfig, layout=layout)


def down(layout: Layout) -> None:
    """End what `up` started and remove its state, but not the cache."""
    if not layout.marker.exists():
        return
    require_linux_root()
    with _locked(layout):
        _stop(layout)
        _remove(layout)


def require_linux_root() -> None:
    """Starting a cluster takes root.

    Raises:
        ClusterError: We are not.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "starting a cluster needs root on Linux; run as root, or set KUBECONFIG to a cluster for tests"
        )


def _start(layout: Layout, kube: Path, *, with_node: bool, controller_manager_qps: int) -> None:
    processes = processes_of(layout)
    node.network()
    control_plane.prepare(layout)
    control_plane.start(layout, processes, kube, controller_manager_qps=controller_manager_qps)
    if with_node:
        node.start(layout, processes, kube)


def _stop(layout: Layout) -> None:
    processes = processes_of(layout)
    started = [process.name for process in processes.all()]
    if kwok.NAME in started:
        processes.stop(kwok.NAME)
    kube = Path(processes.get("etcd").command[0]) if "etcd" in started else None
    node.stop(layout, processes, kube)
    for name in reversed([name for name in started if name in control_plane.NAMES]):
        processes.stop(name)


def _remove(layout: Layout) -> None:
    # Everything below was unmounted, but make sure: through a mount, removal would reach other folders.
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    if left := [mount for mount in mounts if mount.startswith(f"{layout.state}/")]:
        raise ClusterError(f"still mounted, so nothing is removed: {', '.join(left)}")
    shutil.rmtree(layout.state)


def _replace(layout: Layout, *, with_node: bool, qps: int | None) -> bool:
    """Whether to start anew in a folder where a cluster is or was; it is stopped and removed then."""
    found = json.loads(layout.marker.read_text())
    # One with a node does whatever one without does.
    fits = qps in {None, found["controllerManagerQps"]} and (found["node"] or not with_node)
    wrong = problems(layout)
    if fits and not wrong:
        return False
    say(f"starting anew: {'; '.join(wrong) or f'what runs was started with other settings, {found}'}")
    _stop(layout)
    _remove(layout)
    return True


def _make_state(layout: Layout, settings: Mapping[str, object]) -> None:
    if len(str(layout.state)) > LONGEST_STATE:
        raise ClusterError(
            f"the state folder's path is too long for a socket in it: {layout.state}; choose a shorter one"
        )
    if layout.state.exists() and any(layout.state.iterdir()):
        raise ClusterError(
            f"{layout.state} has files in it that are not a cluster's; choose another --state, or empty it"
        )
    layout.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout.marker.write_text(json.dumps(settings))


def _require_free_ports(*, with_node: bool) -> None:
    for name, ports in (CONTROL_PLANE_PORTS | (NODE_PORTS if with_node else {})).items():
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("", port))
                except OSError as error:
                    raise ClusterError(
                        f"port {port}, which {name} needs, is taken: another cluster runs on this machine; stop it, "
                        "or set KUBECONFIG to use it"
                    ) from error


def _locked(layout: Layout) -> contextlib.AbstractContextManager[int]:
    """One command at a time for each state folder."""
    return held(Path(f"{layout.state}.lock"))
