"""`python -m tests.e2e.cluster`: a cluster to test and play with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from . import builds, cluster, kwok
from .images import import_folder
from .locks import turn
from .settings import Layout
from .shell import ClusterError


def main() -> int:
    """Do one command; 1 if it could not be done."""
    arguments = _parser().parse_args()
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return command(arguments)
    except ClusterError as error:
        print(f"e2e: {error}", file=sys.stderr)
        return 1


def _up(arguments: argparse.Namespace) -> int:
    layout = _layout(arguments)
    # A test that kills the API server for a moment is not taken for a broken cluster.
    with turn(layout.state, alone=False):
        started = cluster.up(
            layout, with_node=not arguments.no_node, controller_manager_qps=arguments.controller_manager_qps
        )
    print(started.kubeconfig)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    cluster.down(_layout(arguments))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    layout = _layout(arguments)
    if layout.marker.exists():
        for process in cluster.processes_of(layout).all():
            print(f"{process.name:<12} {'runs' if process.alive() else 'has ended':<10} pid {process.pid}")
    for problem in (found := cluster.problems(layout)):
        print(problem)
    if not found:
        print(f"ready: {layout.kubeconfig}")
    return 1 if found else 0


def _kubeconfig(arguments: argparse.Namespace) -> int:
    layout = _layout(arguments)
    found = cluster.from_environment(layout) or cluster.running(layout)
    if found is None:
        raise ClusterError("; ".join(cluster.problems(layout)))
    print(found.kubeconfig)
    return 0


def _image(arguments: argparse.Namespace) -> int:
    import_folder(_layout(arguments), [arguments.name], arguments.root)
    return 0


def _fake_nodes(arguments: argparse.Namespace) -> int:
    layout = _layout(arguments)
    if cluster.running(layout) is None:
        raise ClusterError("; ".join(cluster.problems(layout)))
    kwok.start(layout, cluster.processes_of(layout), builds.kubectl(layout.cache), count=arguments.count)
    return 0


def _tool(arguments: argparse.Namespace) -> int:
    makers = {"kubectl": builds.kubectl, "helm": builds.helm, "kwok": builds.kwok, "kube": builds.kubernetes}
    print(makers[arguments.name](_layout(arguments).cache))
    return 0


def _layout(arguments: argparse.Namespace) -> Layout:
    return Layout.from_environment(arguments.state)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.cluster", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state", type=Path, help="the cluster's folder; else $PENSTOCK_E2E_STATE, else penstock-e2e in /tmp"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(run=run)
        return made

    start = command("up", _up, "start it, unless it runs or KUBECONFIG names one; prints the kubeconfig's path")
    start.add_argument(
        "--no-node", action="store_true", help="without containerd and kubelet: objects and fake nodes only"
    )
    start.add_argument(
        "--controller-manager-qps", type=int, metavar="N",
        help=f"requests a second that the controller manager may make (as shipped: {cluster.CONTROLLER_MANAGER_QPS})",
    )  # fmt: skip
    command("down", _down, "end what `up` started, and remove its state")
    command("status", _status, "say what runs; ends with 1 if the cluster does not work")
    command("kubeconfig", _kubeconfig, "print the path of a running cluster's kubeconfig")
    image = command("image", _image, "make an image from a folder, and give it to the node")
    image.add_argument("name", help="such as docker.io/local/mine:1")
    image.add_argument("root", type=Path, help="the folder that becomes the container's root")
    fake = command("fake-nodes", _fake_nodes, "add nodes on which pods succeed without running")
    fake.add_argument("count", type=int)
    tool = command("tool", _tool, "build a tool of the pinned version, and print its path")
    tool.add_argument("name", choices=("kubectl", "helm", "kwok", "kube"))
    return parser


sys.exit(main())
