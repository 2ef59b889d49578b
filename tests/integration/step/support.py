"""A small store that speaks HTTP as S3 does, and misbehaves on demand; plans for it. No fixtures and no tests."""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from penstock.step.digest import digest
from penstock.step.plan import Plan
from penstock.step.wire import Settings

QUICK = Settings(patience=30.0, refusals=0.3, first_pause=0.005)
"""Patient with a slow machine, and quick to try again."""
SECRET = "s3cr3t"

Fault = Callable[["Handler"], bool]
"""Answers in place of the store; False: it did not, the store goes on."""


class Store:
    """Objects in a folder, by key; every request needs the signature that is good now.

    Attributes:
        log: method and path of all requests so far, and their headers.
        faults: each next request takes one away.
        always: a fault that all requests have.
        ranges: whether the store knows of ranges.
        signature: the one that is good now.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.faults: collections.deque[Fault] = collections.deque()
        self.always: Fault | None = None
        self.ranges = True
        self.signature = SECRET
        self.uploads: dict[str, dict[int, str]] = {}
        self.server = Server(("127.0.0.1", port), Handler)
        self.server.store = self
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def path(self, key: str) -> Path:
        return self.folder / key

    def url(self, key: str, query: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{key}?{query}{'&' if query else ''}sig={self.signature}"

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.log]

    def etag(self, key: str) -> str:
        with self.path(key).open("rb") as file:
            return '"' + hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() + '"'


class Server(ThreadingHTTPServer):
    """Joins its threads when it is closed, so that none outlives a test."""

    daemon_threads = False
    store: Store


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 20

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def key(self) -> str:
        return urlsplit(self.path).path.removeprefix("/")

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _handled(self) -> bool:
        self.store.log.append((self.command, self.path, dict(self.headers)))
        fault = self.store.always or (self.store.faults.popleft() if self.store.faults else None)
        if fault is not None and fault(self):
            return True
        if self.query.get("sig") != self.store.signature:
            refuse(403, "AccessDenied")(self)
            return True
        return False

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self._handled():
            return
        path = self.store.path(self.key)
        if not path.exists():
            refuse(404, "NoSuchKey")(self)
            return
        etag, size = self.store.etag(self.key), path.stat().st_size
        start, end = 0, size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.store.ranges and self.headers.get("If-Range", etag) == etag:
            start, end = int(wanted[1]), min(int(wanted[2] or size - 1) + 1, size)
            if start >= size:
                refuse(416, "InvalidRange")(self)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            left = end - start
            while left and (data := file.read(min(left, 1 << 18))):
                self.wfile.write(data)
                left -= len(data)

    def do_PUT(self) -> None:
        if self._handled():
            return
        number = self.query.get("partNumber")
        upload = self.query.get("uploadId", "")
        if number is not None and upload not in self.store.uploads:
            refuse(404, "NoSuchUpload")(self)
            return
        name = self.key if number is None else f"{self.key}.{upload}.{number}"
        temporary = self.store.path(f"{name}.{threading.get_ident()}.torn")
        md5 = hashlib.md5(usedforsecurity=False)
        left = int(self.headers["Content-Length"])
        with temporary.open("wb") as file:
            while left and (data := self.rfile.read(min(left, 1 << 18))):
                md5.update(data)
                # Zeros are not written: the tests' large files have holes.
                if data.strip(b"\0"):
                    file.write(data)
                else:
                    file.seek(len(data), 1)
                left -= len(data)
            file.truncate()
        if left:
            temporary.unlink()
            self.close_connection = True
            return
        if base64.b64encode(md5.digest()).decode() != self.headers["Content-MD5"]:
            temporary.unlink()
            refuse(400, "BadDigest")(self)
            return
        temporary.replace(self.store.path(name))
        etag = f'"{md5.hexdigest()}"'
        if number is not None:
            self.store.uploads[upload][int(number)] = etag
        self.answer(200, ETag=etag)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._handled():
            return
        upload = self.query["uploadId"]
        parts = re.findall(rb"<PartNumber>(\d+)</PartNumber><ETag>(.*?)</ETag>", body)
        given = [(int(number), etag.decode().replace("&quot;", '"')) for number, etag in parts]
        if given != sorted(self.store.uploads[upload].items()):
            self.answer(200, b"<Error><Code>InvalidPart</Code></Error>")
            return
        with self.store.path(self.key).open("wb") as whole:
            for number, _ in given:
                part = self.store.path(f"{self.key}.{upload}.{number}")
                with part.open("rb") as file:
                    while data := file.read(1 << 20):
                        if data.strip(b"\0"):
                            whole.write(data)
                        else:
                            whole.seek(len(data), 1)
                part.unlink()
            whole.truncate()
        del self.store.uploads[upload]
        self.answer(200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def do_DELETE(self) -> None:
        if self._handled():
            return
        self.store.uploads.pop(self.query["uploadId"], None)
        for part in self.store.folder.glob("*.torn"):
            part.unlink()
        self.answer(204)


def refuse(status: int, code: str, **headers: str) -> Fault:
    """Answers with an error, without reading what was sent."""

    def fault(handler: Handler) -> bool:
        handler.close_connection = True
        body = f"<Error><Code>{code}</Code><Message>no {handler.path}</Message></Error>".encode()
        handler.answer(status, body, **headers)
        return True

    return fault


def cut(handler: Handler) -> bool:
    """Hangs up without an answer."""
    handler.close_connection = True
    # Not in order: what is cut is seen at once.
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


def pass_on(_: Handler) -> bool:
    """No fault."""
    return False


class CutAfter:
    """Hangs up in the middle of an answer, after so many bytes of what it sends."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, handler: Handler) -> bool:
        write = handler.wfile.write
        skipped = False

        def limited(data: Any) -> int:
            nonlocal skipped
            if not skipped:  # status and headers come first, in one piece
                skipped = True
                return write(data)
            write(data[: self.left])
            self.left -= len(data)
            if self.left <= 0:
                handler.wfile.flush()
                cut(handler)
                raise ConnectionResetError
            return len(data)

        handler.wfile.write = limited  # type: ignore[method-assign]
        return False


def given(store: Store, name: str, key: str, source: Path, **changed: Any) -> dict[str, Any]:
    """An input of a plan: what is to come is as in `source`."""
    found = digest(source)
    return {
        "name": name,
        "key": key,
        "url": store.url(key),
        "headers": {},
        "sha256": found.sha256,
        "size": found.size,
        "folder": found.folder,
        **changed,
    }


def wanted(store: Store, name: str, sizes: list[list[int]] | None = None, **changed: Any) -> dict[str, Any]:
    """An output of a plan; with the sizes of parts, in an upload that is begun here."""
    found: dict[str, Any] = {
        "name": name,
        "key": name,
        "put": {"url": store.url(name), "headers": {}},
        "max_bytes": None,
        "max_files": None,
    }
    if sizes is not None:
        store.uploads.setdefault("one", {})
        count = sum(number for number, _ in sizes)
        found["multipart"] = {
            "sizes": sizes,
            "url": f"http://127.0.0.1:{store.port}/{name}?uploadId=one",
            "parts": [f"partNumber={number + 1}&sig={store.signature}" for number in range(count)],
            "complete": store.url(name, "uploadId=one"),
            "abort": store.url(name, "uploadId=one"),
        }
    return found | changed


def write_plan(path: Path, *entries: dict[str, Any], expires: float | None = None) -> Plan:
    """A plan of inputs and outputs."""
    document = {
        "version": 1,
        "expires": time.time() + 3600 if expires is None else expires,
        "inputs": [entry for entry in entries if "put" not in entry],
        "outputs": [entry for entry in entries if "put" in entry],
    }
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(document))
    temporary.replace(path)
    return Plan(path)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Store]:
    """A store, until the end of the block."""
    store = Store(folder)
    try:
        yield store
    finally:
        store.close()
