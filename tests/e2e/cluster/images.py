"""Getting images into containerd without any registry: from a folder, or from an archive that a builder wrote."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .settings import Layout
from .shell import ClusterError, run

IMPORT_SECONDS = 300
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def ctr(layout: Layout, *arguments: str | Path, timeout: float = 60) -> str:
    """Run `ctr` on the cluster's containerd, in the namespace that the kubelet uses."""
    return run("ctr", "-a", layout.containerd_socket, "-n", "k8s.io", *arguments, timeout=timeout)


def load(layout: Layout, archive: Path, names: Sequence[str] = ()) -> None:
    """Give the cluster's node an image.

    Args:
        layout: The cluster's folders.
        archive: What `docker save` or `buildah push … docker-archive:` writes.
        names: Further names for the one image in it.
    """
    if not layout.containerd_socket.exists():
        raise ClusterError(
            f"the cluster in {layout.state} has no node that could take an image; start it without --no-node"
        )
    ctr(layout, "images", "import", archive, timeout=IMPORT_SECONDS)
    if names:
        with tarfile.open(archive) as tar:
            manifest = tar.extractfile("manifest.json")
            if manifest is None:
                raise ClusterError(f"{archive} has no manifest.json, so it is no image archive")
            first = json.load(manifest)[0]["RepoTags"][0]
        ctr(layout, "images", "tag", "--force", first, *names)


def exists(layout: Layout, name: str) -> bool:
    """Whether the cluster's node has an image."""
    return name in ctr(layout, "images", "ls", "-q").split()


def import_folder(layout: Layout, names: Sequence[str], root: Path, entrypoint: Sequence[str] = ()) -> None:
    """Make an image of one layer from a folder, and give it to the cluster's node.

    Args:
        layout: The cluster's folders.
        names: Its names.
        root: Becomes the container's root; everything in it will belong to root.
        entrypoint: What it runs.
    """
    if not root.is_dir():
        raise ClusterError(f"{root} is no folder")
    with tempfile.TemporaryDirectory(prefix="penstock-image-") as folder:
        archive = Path(folder) / "image.tar"
        archive_folder(archive, names, root, entrypoint)
        load(layout, archive)


def archive_folder(archive: Path, names: Sequence[str], root: Path, entrypoint: Sequence[str] = ()) -> None:
    """Write a folder as an image archive of one layer; the arguments are those of `import_folder`."""
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        tar.add(root, arcname=".", filter=_owned_by_root)
    archive_from_tar(archive, names, layer, entrypoint=entrypoint)
    layer.unlink()


def archive_from_tar(
    archive: Path, names: Sequence[str], layer: Path, *, entrypoint: Sequence[str] = (), command: Sequence[str] = ()
) -> None:
    """Write the tar of a root file system as an image archive of one layer.

    Args:
        archive: The file to write.
        names: The image's names.
        layer: The tar.
        entrypoint: What it runs.
        command: Arguments for that, or what it runs if there is no entry point; a container may have others.
    """
    with layer.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "config": {"Env": [PATH], "Entrypoint": list(entrypoint) or None, "Cmd": list(command) or None},
    }
    manifest = [{"Config": "config.json", "RepoTags": list(names), "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for name, content in (("config.json", config), ("manifest.json", manifest)):
            encoded = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(encoded)
            tar.addfile(info, io.BytesIO(encoded))
        tar.add(layer, arcname="layer.tar")


def _owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info
