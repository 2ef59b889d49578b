"""A PostgreSQL server of one's own, on a socket in a folder of its own. If there is none, it is installed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_SETTINGS = {
    "listen_addresses": "''",
    "fsync": "off",  # what is killed here is the server, not the machine
    "max_connections": "50",
    "shared_buffers": "256MB",
}
_WAIT_SECONDS = 60


def _programs() -> Path:
    """The folder of the newest server's programs.

    Raises:
        RuntimeError: there is none, and it cannot be installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError("these tests need PostgreSQL's server; install it: apt-get install postgresql")
    config = Path("/etc/postgresql-common/createcluster.conf")
    if not config.exists():  # no server of the machine's own
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("create_main_cluster = false\n")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], check=True, env=quiet)
    keep = ["-o", "Dpkg::Options::=--force-confold"]
    subprocess.run(["apt-get", "install", "-q", "-y", *keep, "postgresql"], check=True, env=quiet)
    return _programs()


class Server:
    """A server that runs until `close`."""

    def __init__(self) -> None:
        self._programs = _programs()
        self._owner = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if self._owner is not None:
            shutil.chown(self.folder, self._owner, self._owner)
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._run(["initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"])
        access = "local all guarded scram-sha-256\nlocal all all trust\n"
        (self._data / "pg_hba.conf").write_text(access)
        self.start()

    def _run(self, command: Sequence[str]) -> str:
        program = [str(self._programs / command[0]), *command[1:]]
        done = subprocess.run(
            program, user=self._owner, cwd=self.folder, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stdout.decode()}")
        return done.stdout.decode()

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value.strip(chr(39))}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self.folder), *settings],
                user=self._owner,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + _WAIT_SECONDS
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash does: no transaction is finished, nobody is told."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_WAIT_SECONDS)
            self._process = None

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the superuser; gives what psql prints."""
        where = ["-h", str(self.folder), "-U", "postgres", "-d", database]
        return self._run(["psql", *where, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]).strip()

    def database(self) -> str:
        """Make a new database; gives its name."""
        name = f"t{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str, user: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def close(self) -> None:
        """End it and remove all that it had."""
        self.kill()
        shutil.rmtree(self.folder)
