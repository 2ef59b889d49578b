"""The project's image from its `Dockerfile`, without an image registry: `python -m tests.e2e.image` prints where it is.

A base image is made from Debian packages and given to the build as its argument BASE. It also stands in for
`python:3.13-slim`, which examples use and no cluster without a way to a registry could pull.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .cluster import packages
from .cluster.builds import cached
from .cluster.cluster import require_linux_root
from .cluster.images import archive_from_tar
from .cluster.node import on_overlay
from .cluster.settings import IMAGE_PACKAGES, default_cache
from .cluster.shell import ClusterError, run, say

REPOSITORY: Final = Path(__file__).resolve().parents[2]
NAME: Final = "penstock.local/penstock"
# Debian 13 has the Python that the examples' image has.
SUITE: Final = "trixie"
BASE_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
BASE_IMAGE: Final = "localhost/penstock-base"
PYTHON_IMAGE: Final = "docker.io/library/python:3.13-slim"
EXCLUDED: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
BASE_SECONDS: Final = 600
BUILD_SECONDS: Final = 900
# Archives of the past that are kept, and how much the builder's layers may take before they are thrown away.
KEPT: Final = 3
LAYERS_LIMIT: Final = 6 << 30
CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Image:
    """An image in a file.

    Attributes:
        name: Its name, with a tag that changes whenever its content does.
        archive: What `docker load` and `ctr images import` read.
    """

    name: str
    archive: Path


def build(repository: Path = REPOSITORY, cache: Path | None = None) -> Image:
    """Build the image of a repository with a `Dockerfile` that takes its base as the argument BASE.

    Args:
        repository: The folder of the `Dockerfile`.
        cache: Where images and layers are kept; the end-to-end tests' cache unless told.

    Raises:
        ClusterError: It could not be built; with the end of what the build printed.
    """
    kept = cache or default_cache()
    with tempfile.TemporaryDirectory(prefix="penstock-build-") as folder:
        # A copy of just what the build reads: what is built is what the key counts, even while somebody edits it.
        context = Path(folder)
        content = _copy(context_files(repository), repository, context)
        digest = hashlib.sha256(_base_recipe() + content).digest()
        name = f"{NAME}:{digest.hex()[:16]}"

        def make(archive: Path) -> None:
            require_linux_root()
            packages.install(IMAGE_PACKAGES)
            _build(kept, context, Image(name=name, archive=archive))

        archive = cached(kept, "image", digest, make)
    archive.touch()
    _forget_old(kept)
    return Image(name=name, archive=archive)


def python_image(cache: Path | None = None) -> Image:
    """The image that stands in for `python:3.13-slim`.

    Args:
        cache: Where images are kept; the end-to-end tests' cache unless told.
    """
    kept = cache or default_cache()

    def make(archive: Path) -> None:
        archive_from_tar(archive, [PYTHON_IMAGE], _base(kept), command=["python3"])

    return Image(name=PYTHON_IMAGE, archive=cached(kept, "python-image", _base_recipe(), make))


def context_files(repository: Path) -> list[Path]:
    """What a build reads: the `Dockerfile`, the `.dockerignore`, and whatever is copied from outside of the build.

    Args:
        repository: The folder of the `Dockerfile`.

    Raises:
        ClusterError: There is no `Dockerfile`, or it copies what is not there.
    """
    dockerfile = repository / "Dockerfile"
    if not dockerfile.is_file():
        raise ClusterError(f"there is no {dockerfile}")
    found = {dockerfile}
    if (ignore := repository / ".dockerignore").is_file():
        found.add(ignore)
    for line in dockerfile.read_text().replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if line.startswith(("COPY ", "ADD ")) else []
        if not words or any(word.startswith("--from=") for word in words):
            continue
        for source in [word for word in words[1:] if not word.startswith("--")][:-1]:
            matches = list(repository.glob(source))
            if not matches:
                raise ClusterError(f"{dockerfile} copies {source}, which is not there")
            found.update(file for match in matches for file in _files(match))
    return sorted(found)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def _copy(files: list[Path], repository: Path, context: Path) -> bytes:
    """Copy files; returns a digest of their names, contents and rights to execute."""
    digest = hashlib.sha256()
    for path in files:
        copy = context / path.relative_to(repository)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
        digest.update(f"{path.relative_to(repository)}\0{os.access(copy, os.X_OK)}\0".encode())
        digest.update(hashlib.sha256(copy.read_bytes()).digest())
    return digest.digest()


def _build(cache: Path, context: Path, image: Image) -> None:
    say(f"building {image.name}")
    builder = Builder(cache)
    base = builder.base(_base(cache))
    builder.run(
        "bud", "--layers", "--isolation", "chroot", "--network", "host", "--format", "docker", *_certificates(),
        "--build-arg", f"BASE={base}", "--tag", image.name, context,
    )  # fmt: skip
    builder.run("push", image.name, f"docker-archive:{image.archive}:{image.name}")
    builder.limit()


class Builder:
    """`buildah` with a storage of its own, so that nobody's images get mixed up with ours."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "containers"
        self._folder.mkdir(parents=True, exist_ok=True)
        # overlayfs on overlayfs does not work, which is what the disk of a CI job's container often is.
        self._driver = "vfs" if on_overlay(self._folder) else "overlay"

    def run(self, *arguments: str | Path) -> str:
        """Run `buildah` with these arguments, and return what it prints."""
        places = ("--root", self._folder / "root", "--runroot", self._folder / "run", "--storage-driver", self._driver)
        return run("buildah", *places, *arguments, timeout=BUILD_SECONDS)

    def base(self, tar: Path) -> str:
        """The name of the base image, made from a root file system unless it is there already."""
        name = f"{BASE_IMAGE}:{tar.name.rsplit('-', 1)[1]}"
        images = json.loads(self.run("images", "--json") or "[]")
        if any(name in (image.get("names") or []) for image in images):
            return name
        container = self.run("from", "scratch").strip()
        try:
            self.run("add", container, tar, "/")
            self.run("commit", "--format", "docker", container, name)
        finally:
            self.run("rm", container)
        return name

    def limit(self) -> None:
        """Throw all layers away once they take too much room; the next build makes them anew."""
        size = sum(file.lstat().st_size for file in self._folder.rglob("*") if file.is_file() and not file.is_symlink())
        if size > LAYERS_LIMIT:
            say(f"removing {size >> 30} GiB of old layers")
            self.run("rmi", "--all", "--force")


def _base_recipe() -> bytes:
    return json.dumps([SUITE, BASE_PACKAGES, EXCLUDED, platform.machine(), 1]).encode()


def _base(cache: Path) -> Path:
    """The base image's root file system, as a tar."""

    def make(path: Path) -> None:
        require_linux_root()
        packages.install(IMAGE_PACKAGES)
        say(f"making a base image from Debian's {SUITE}")
        tar = path.with_suffix(".tar")
        run(
            "mmdebstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
            '--customize-hook=ln -s python3 "$1/usr/bin/python"', SUITE, tar,
            timeout=BASE_SECONDS,
        )  # fmt: skip
        tar.rename(path)

    return cached(cache, "base", _base_recipe(), make)


def _certificates() -> list[str]:
    """Let the build trust whom this machine trusts, for where a proxy has its own authority; nothing of it is kept."""
    ours = os.environ.get("SSL_CERT_FILE") or CERTIFICATES
    return ["--volume", f"{ours}:{CERTIFICATES}:ro"] if Path(ours).is_file() else []


def _forget_old(cache: Path) -> None:
    archives = sorted(cache.glob("image-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in archives[KEPT:]:
        path.unlink(missing_ok=True)


def main() -> int:
    """Build the image; print its name and its archive's path."""
    try:
        image = build()
    except ClusterError as error:
        print(f"e2e: {error}", file=sys.stderr)
        return 1
    print(image.name, image.archive)
    return 0


if __name__ == "__main__":
    sys.exit(main())
