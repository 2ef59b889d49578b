"""Kubernetes, its tools and a judge of objects' health from Go modules, each built once per content it is made from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from . import packages
from .locks import held
from .settings import GO, GO_AT_LEAST, GO_PACKAGES, HELM, KUBERNETES, KWOK, SOURCES, VERSITYGW
from .shell import ClusterError, run, say

# 4 minutes on two idle cores; much more where they are shared.
BUILD_SECONDS = 2400
DOWNLOAD_SECONDS = 600


def kubernetes(cache: Path) -> Path:
    """The binary that is etcd, API server, controller manager, scheduler, proxy or kubelet, by its first argument."""
    return _from_our_module(cache, "kube", ".")


def kubectl(cache: Path) -> Path:
    """The `kubectl` of the same version."""
    return _from_our_module(cache, "kubectl", "k8s.io/kubernetes/cmd/kubectl")


def helm(cache: Path) -> Path:
    """The `helm` command."""
    flags = f"-s -w -X helm.sh/helm/v3/internal/version.version={HELM}"
    return _installed(cache, "helm", f"helm.sh/helm/v3/cmd/helm@{HELM}", flags)


def kwok(cache: Path) -> Path:
    """The `kwok` command, which plays the kubelet of any number of nodes."""
    flags = f"-s -w -X sigs.k8s.io/kwok/pkg/consts.Version={KWOK}"
    return _installed(cache, "kwok", f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}", flags)


def health(cache: Path) -> Path:
    """The command that says what GitOps tools show of objects; see its source."""
    folder = SOURCES.parent / "health"

    def make(path: Path) -> None:
        say("building the judge of health")
        command = (_go(cache), "build", "-ldflags", "-s -w", "-o", path, ".")
        run(*command, timeout=BUILD_SECONDS, cwd=folder, env=_environment())

    sources = b"".join((folder / file).read_bytes() for file in ("main.go", "go.mod", "go.sum"))
    return cached(cache, "health", sources, make)


def versitygw(cache: Path) -> Path:
    """The `versitygw` command, which serves a folder by S3's protocol."""
    return _installed(cache, "versitygw", f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}", "-s -w")


def cached(cache: Path, name: str, made_from: bytes, make: Callable[[Path], None]) -> Path:
    """A file of the cache, made now if nothing was yet made from the same; one at a time of each name.

    Args:
        cache: The folder.
        name: What it is, for the file's name and for people.
        made_from: Everything that decides its content.
        make: Makes it at the path it is given; what it leaves is put in place in one go.
    """
    path = cache / f"{name}-{hashlib.sha256(made_from).hexdigest()[:16]}"
    if path.exists():
        return path
    with held(cache / f".{name}.lock"):
        if not path.exists():
            # In a folder of its own, because `go install` chooses the name.
            folder = cache / f".making-{path.name}-{os.getpid()}"
            folder.mkdir()
            try:
                make(folder / name)
                (folder / name).replace(path)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return path


def _from_our_module(cache: Path, name: str, package: str) -> Path:
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    stamps = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    flags = "-s -w" + "".join(f" -X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())

    def make(path: Path) -> None:
        say(f"building {name} {KUBERNETES}; the first time takes minutes")
        run(
            _go(cache),
            "build",
            "-ldflags",
            flags,
            "-o",
            path,
            package,
            timeout=BUILD_SECONDS,
            cwd=SOURCES,
            env=_environment(),
        )

    sources = b"".join((SOURCES / file).read_bytes() for file in ("main.go", "go.mod", "go.sum"))
    return cached(cache, name, sources + f"{package} {flags}".encode(), make)


def _installed(cache: Path, name: str, package: str, flags: str) -> Path:
    def make(path: Path) -> None:
        say(f"building {package}")
        env = {**_environment(), "GOBIN": str(path.parent)}
        run(_go(cache), "install", "-ldflags", flags, package, timeout=BUILD_SECONDS, env=env)

    return cached(cache, name, f"{package} {flags}".encode(), make)


def _environment() -> dict[str, str]:
    # GOTOOLCHAIN: the Go that `_go` found is good enough, and no build may depend on what another one would fetch.
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"}


def _go(cache: Path) -> Path:
    """A Go that is new enough: the machine's, or the pinned one, fetched as a Go module by an older Go."""
    kept = cache / f"go-{GO}"
    if (go := kept / "bin" / "go").exists():
        return go
    packages.install(GO_PACKAGES)
    ours = Path(shutil.which("go") or "/usr/bin/go")
    if _version(ours) >= GO_AT_LEAST:
        return ours
    with held(cache / ".go.lock"):
        if not go.exists():
            _fetch_go(cache, ours, kept)
    return go


def _fetch_go(cache: Path, ours: Path, kept: Path) -> None:
    say(f"fetching Go {GO}")
    architecture = run(ours, "env", "GOARCH", timeout=60).strip()
    module = f"golang.org/toolchain@v0.0.1-go{GO}.linux-{architecture}"
    told = run(ours, "mod", "download", "-json", module, timeout=DOWNLOAD_SECONDS, cwd=cache, env=_environment())
    _unpack_toolchain(Path(json.loads(told)["Dir"]), kept)


def _unpack_toolchain(source: Path, target: Path) -> None:
    """Copy a toolchain out of the module cache, which keeps neither the right to write nor the one to execute."""
    making = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.copytree(source, making)
    for path in (making, *making.rglob("*")):
        runs = path.is_dir() or path.parent == making / "bin" or making / "pkg" / "tool" in path.parents
        path.chmod(0o755 if runs else 0o644)
    making.replace(target)


def _version(go: Path) -> tuple[int, int]:
    text = run(go, "version", timeout=60)
    match = re.search(r"go(\d+)\.(\d+)", text)
    if match is None:
        raise ClusterError(f"{go} does not say which version it is: {text.strip()!r}")
    return int(match[1]), int(match[2])
