"""A real S3 server (versitygw) that pods reach, by HTTP or HTTPS, and what tests look at in it.

PYTEST_DONT_REWRITE: there are no assertions in here.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from e2e.cluster import builds
from e2e.cluster.settings import NODE_ADDRESS, default_cache
from e2e.cluster.shell import run, wait_until

REGION = "eu-test-1"
BUCKET = "bucket"
START_SECONDS = 60


class Tls(NamedTuple):
    """What a server has that speaks HTTPS.

    Attributes:
        authority: Certificate of the authority that has signed its own, and that nobody else knows.
        certificate: Its own.
        key: The key of that.
    """

    authority: Path
    certificate: Path
    key: Path


@dataclass
class ObjectStore:
    """A server with one bucket, on the address of the cluster's own node.

    Attributes:
        root: The folder in which it keeps everything.
        address: Where it listens.
        prefix: What the operator's keys begin with.
        secret: Its secret key.
        tls: What it has for HTTPS; None: it speaks HTTP.
    """

    root: Path
    address: str
    prefix: str
    secret: str
    tls: Tls | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The operator's environment for it."""
        trusted = {} if self.tls is None else {"PENSTOCK_STORE_CA_FILE": str(self.tls.authority)}
        return trusted | {
            "PENSTOCK_STORE_URL": f"s3://{BUCKET}/{self.prefix}",
            "PENSTOCK_STORE_ENDPOINT": self.url,
            "PENSTOCK_STORE_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "penstock",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{'http' if self.tls is None else 'https'}://{self.address}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = builds.versitygw(default_cache())
        environ = os.environ | {"ROOT_ACCESS_KEY": "penstock", "ROOT_SECRET_KEY": self.secret}
        options = ["--quiet", "--port", self.address, "--region", REGION, "--health", "/health"]
        if self.tls is not None:
            options += ["--cert", str(self.tls.certificate), "--key", str(self.tls.key)]
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

    @contextmanager
    def away(self) -> Iterator[None]:
        """It is not there meanwhile."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _answers(self) -> bool:
        trusting = None if self.tls is None else ssl.create_default_context(cafile=self.tls.authority)
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5, context=trusting) as response:
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


def private_tls(folder: Path) -> Tls:
    """An authority of our own, and a certificate of it for the address of the cluster's own node."""
    found = Tls(folder / "ca.crt", folder / "store.crt", folder / "store.key")
    ca_key, new = folder / "ca.key", ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    own = ("-subj", "/CN=authority of a test", "-addext", "keyUsage=critical,keyCertSign")
    run(*new, *own, "-keyout", ca_key, "-out", found.authority, timeout=60)
    signed = ("-CA", found.authority, "-CAkey", ca_key, "-addext", "basicConstraints=critical,CA:FALSE")
    names = ("-subj", "/CN=store", "-addext", f"subjectAltName=IP:{NODE_ADDRESS}")
    run(*new, *names, *signed, "-keyout", found.key, "-out", found.certificate, timeout=60)
    return found


@contextmanager
def object_store(root: Path, tls: Tls | None = None) -> Iterator[ObjectStore]:
    """A server that keeps everything in a folder."""
    (root / BUCKET).mkdir()
    with socket.socket() as probe:
        probe.bind((NODE_ADDRESS, 0))
        address = f"{NODE_ADDRESS}:{probe.getsockname()[1]}"
    store = ObjectStore(root, address, secrets.token_hex(4), secrets.token_hex(20), tls)
    store.start()
    try:
        yield store
    finally:
        store.stop()
