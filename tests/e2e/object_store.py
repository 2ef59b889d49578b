"""A real S3 server (versitygw) that pods reach, and what tests look at in it.

PYTEST_DONT_REWRITE: there are no assertions in here.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import builds
from e2e.cluster.settings import NODE_ADDRESS, default_cache
from e2e.cluster.shell import wait_until

REGION = "eu-test-1"
BUCKET = "bucket"
START_SECONDS = 60


@dataclass
class ObjectStore:
    """A server with one bucket, on the address of the cluster's own node.

    Attributes:
        root: The folder in which it keeps everything.
        address: Where it listens.
        prefix: What the operator's keys begin with.
        secret: Its secret key.
    """

    root: Path
    address: str
    prefix: str
    secret: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The operator's environment for it."""
        return {
            "PENSTOCK_STORE_URL": f"s3://{BUCKET}/{self.prefix}",
            "PENSTOCK_STORE_ENDPOINT": f"http://{self.address}",
            "PENSTOCK_STORE_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "penstock",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = builds.versitygw(default_cache())
        environ = os.environ | {"ROOT_ACCESS_KEY": "penstock", "ROOT_SECRET_KEY": self.secret}
        options = ("--quiet", "--port", self.address, "--region", REGION, "--health", "/health")
        command = (str(program), *options, "posix", str(self.root))
        silent = subprocess.DEVNULL
        self.process = subprocess.Popen(command, env=environ, stdout=silent, stderr=silent)
        wait_until(self._answers, timeout=START_SECONDS, what="versitygw to answer")

    def stop(self) -> None:
        """End it; what it keeps stays."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def put(self, key: str, content: bytes) -> None:
        """Put an object there as somebody else's tool would."""
        path = self.root / BUCKET / self.prefix / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, key: str) -> bytes:
        """What an object holds."""
        return (self.root / BUCKET / self.prefix / key).read_bytes()

    def has(self, key: str) -> bool:
        """Whether there is an object."""
        return (self.root / BUCKET / self.prefix / key).is_file()

    def remove(self, key: str) -> None:
        """Remove an object as somebody else's tool would."""
        (self.root / BUCKET / self.prefix / key).unlink()

    def keys(self, folder: str) -> list[str]:
        """Keys of all objects below a folder."""
        top = self.root / BUCKET / self.prefix
        return sorted(str(path.relative_to(top)) for path in (top / folder).rglob("*") if path.is_file())

    def uploads(self) -> list[str]:
        """Uploads in parts that were begun and neither completed nor forgotten."""
        found = (self.root / BUCKET / ".sgwtmp" / "multipart").glob("*/*")
        return [str(path) for path in found]


@contextmanager
def object_store(root: Path) -> Iterator[ObjectStore]:
    """A server that keeps everything in a folder."""
    (root / BUCKET).mkdir()
    with socket.socket() as probe:
        probe.bind((NODE_ADDRESS, 0))
        address = f"{NODE_ADDRESS}:{probe.getsockname()[1]}"
    store = ObjectStore(root, address, secrets.token_hex(4), secrets.token_hex(20))
    store.start()
    try:
        yield store
    finally:
        store.stop()
