"""`penstock gateway` as a process, asked over HTTP."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from penstock.storage.signing import Grant, SigningKeys

KEYS = SigningKeys({"test": b"k" * 32})
KEY = "ns/executions/u/s/1/a b é%"
WAIT_SECONDS = 60


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


@dataclass
class Gateway:
    root: Path
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def url(self, method: str, key: str = KEY, *, seconds: int = 600, max_bytes: int | None = None) -> str:
        grant = Grant(method, key, int(time.time()) + seconds, max_bytes)
        return KEYS.sign(f"http://127.0.0.1:{self.port}", grant)

    def ask(self, method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            split = urlsplit(url)
            connection.request(method, f"{split.path}?{split.query}", body or None, headers or {})
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): text for name, text in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def put(self, content: bytes, headers: dict[str, str] | None = None, **more: int) -> Answer:
        return self.ask("PUT", self.url("PUT", **more), content, headers)  # type: ignore[arg-type]

    def get(self, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", self.url("GET"), headers=headers)

    def stored(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


@dataclass
class Start:
    folder: Path
    running: list[Gateway] = field(default_factory=list)

    def __call__(self) -> Gateway:
        root, log = self.folder / "store", self.folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environ = os.environ | {
            "PENSTOCK_STORE_URL": f"file://{root}",
            "PENSTOCK_SIGNING_KEYS": f"test:{(b'k' * 32).hex()}",
            "PENSTOCK_LOG_LEVEL": "DEBUG",
        }
        command = [sys.executable, "-m", "penstock.cli", "gateway", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("ab") as output:
            process = subprocess.Popen(command, env=environ, stderr=output)
        gateway = Gateway(root, process, port, log)
        self.running.append(gateway)
        wait_until(lambda: self._ready(gateway))
        return gateway

    @staticmethod
    def _ready(gateway: Gateway) -> bool:
        assert gateway.process.poll() is None, gateway.log.read_text()
        try:
            return gateway.ask("GET", "/readyz").status == 200
        except ConnectionError:
            return False


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    starting = Start(tmp_path_factory.mktemp("gateway"))
    yield starting
    for gateway in starting.running:
        gateway.process.kill()
        gateway.process.wait()


@pytest.fixture(scope="module")
def shared(start: Start) -> Gateway:
    return start()


@pytest.fixture
def gateway(shared: Gateway) -> Gateway:
    for path in shared.stored():
        (shared.root / path).unlink()
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Start]:
    starting = Start(tmp_path)
    yield starting
    for gateway in starting.running:
        gateway.process.kill()
        gateway.process.wait()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 10_000_001])
def test_what_is_put_is_got(gateway: Gateway, size: int) -> None:
    content = os.urandom(size)
    put = gateway.put(content)
    assert (put.status, json.loads(put.body)) == (201, {"size": size})
    got = gateway.get()
    assert (got.status, got.headers["content-length"], got.headers["etag"]) == (200, str(size), put.headers["etag"])
    assert got.body == content
    assert gateway.stored() == [KEY]


def test_a_body_of_unknown_length_is_taken(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WAIT_SECONDS)
    split = urlsplit(gateway.url("PUT"))
    connection.request("PUT", f"{split.path}?{split.query}", iter([b"ab", b"c"]), encode_chunked=True)
    assert connection.getresponse().status == 201
    connection.close()
    assert gateway.get().body == b"abc"


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=-100", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=5-2", 200, b"0123456789", None),
    ],
)
def test_a_part_is_got(gateway: Gateway, asked: str, status: int, body: bytes, told: str | None) -> None:
    gateway.put(b"0123456789")
    got = gateway.get({"Range": asked})
    assert (got.status, got.body, got.headers.get("content-range")) == (status, body, told)


def test_a_large_part_is_got(gateway: Gateway) -> None:
    content = os.urandom(5_000_000)
    gateway.put(content)
    assert gateway.get({"Range": "bytes=1000000-4499999"}).body == content[1_000_000:4_500_000]


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_part_that_is_not_there_is_told(gateway: Gateway, asked: str) -> None:
    gateway.put(b"0123456789")
    got = gateway.get({"Range": asked})
    assert (got.status, got.headers["content-range"]) == (416, "bytes */10")


def test_conditions_hold(gateway: Gateway) -> None:
    etag = gateway.put(b"one").headers["etag"]
    same = gateway.get({"If-None-Match": etag})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    assert gateway.get({"If-Match": etag}).status == 200
    assert gateway.get({"Range": "bytes=1-", "If-Range": etag}).body == b"ne"
    gateway.put(b"two")
    assert gateway.get({"If-None-Match": etag}).body == b"two"
    assert gateway.get({"If-Match": etag}).status == 412
    assert gateway.get({"Range": "bytes=1-", "If-Range": etag}).body == b"two"


def test_head_says_what_get_would(gateway: Gateway) -> None:
    gateway.put(b"hello")
    head = gateway.ask("HEAD", gateway.url("GET"))
    assert (head.status, head.headers["content-length"], head.body) == (200, "5", b"")
    assert head.headers["etag"] == gateway.get().headers["etag"]


def test_what_people_store_is_never_a_page(gateway: Gateway) -> None:
    gateway.put(b"<script>alert(1)</script>")
    headers = gateway.get().headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"] == "attachment"
    assert headers["x-content-type-options"] == "nosniff"


def test_what_is_not_there_is_told(gateway: Gateway) -> None:
    got = gateway.get()
    assert (got.status, got.message) == (404, f"there is no object {KEY!r} in the store")


def test_a_url_is_good_for_nothing_else(gateway: Gateway) -> None:
    gateway.put(b"before")
    put, get = gateway.url("PUT"), gateway.url("GET")
    refused = {
        "expired": gateway.ask("GET", gateway.url("GET", seconds=-1)),
        "for GET, not for PUT": gateway.ask("PUT", get, b"x"),
        "for PUT, not for GET": gateway.ask("GET", put),
        "for PUT, not for HEAD": gateway.ask("HEAD", put),
        "for GET, not for DELETE": gateway.ask("DELETE", get),
        "signature is not right": gateway.ask("GET", get.replace("/s/1/", "/s/2/")),
        "not a signed URL": gateway.ask("GET", get.split("?")[0]),
    }
    for why, answer in refused.items():
        assert answer.status == 403
        if answer.body:  # HEAD has none
            assert why in answer.message
    doubled = gateway.ask("GET", get + "&expires=99999999999")
    assert doubled.status == 403
    assert gateway.get().body == b"before"


@pytest.mark.parametrize("path", ["/files/../../etc/passwd", "/files/%2e%2e/%2e%2e/etc/passwd", "/files//etc/passwd"])
def test_a_path_leads_nowhere_else(gateway: Gateway, path: str) -> None:
    query = urlsplit(gateway.url("GET")).query
    assert gateway.ask("GET", f"{path}?{query}").status in (403, 404)


def test_the_answer_to_a_large_upload_that_is_refused_can_be_read(gateway: Gateway) -> None:
    answer = gateway.put(bytes(20_000_000), seconds=-1)
    assert (answer.status, "expired" in answer.message) == (403, True)


def test_digests_are_checked_and_what_is_wrong_is_not_stored(gateway: Gateway) -> None:
    content = os.urandom(3_000_000)
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    sha256 = hashlib.sha256(content).hexdigest()
    assert gateway.put(content, {"Content-MD5": md5, "X-Penstock-SHA256": sha256}).status == 201
    for header, value in (("Content-MD5", md5), ("X-Penstock-SHA256", sha256)):
        answer = gateway.put(content[:-1] + b"?" if content[-1:] != b"?" else content[:-1] + b"!", {header: value})
        assert (answer.status, f"not what {header} says" in answer.message) == (400, True)
    for header in ("Content-MD5", "X-Penstock-SHA256"):
        assert gateway.put(content, {header: "nonsense"}).status == 400
    assert gateway.get().body == content
    assert gateway.stored() == [KEY]


def test_an_upload_that_is_too_large_is_refused(gateway: Gateway) -> None:
    assert gateway.put(b"12345", max_bytes=5).status == 201
    answer = gateway.put(b"123456", max_bytes=5)
    assert (answer.status, "larger than 5 bytes" in answer.message) == (413, True)
    assert gateway.get().body == b"12345"


def begin(gateway: Gateway, content: bytes, length: int) -> socket.socket:
    """Send the beginning of an upload."""
    split = urlsplit(gateway.url("PUT"))
    head = f"PUT {split.path}?{split.query} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {length}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", gateway.port))
    connection.sendall(head.encode() + content)
    return connection


def new_files(gateway: Gateway) -> list[str]:
    return [path for path in gateway.stored() if path.startswith(".penstock/")]


def test_an_upload_that_is_cut_in_half_leaves_nothing(gateway: Gateway) -> None:
    gateway.put(b"before")
    with begin(gateway, bytes(5_000_000), 10_000_000):
        wait_until(lambda: new_files(gateway) != [])
    wait_until(lambda: new_files(gateway) == [])
    assert gateway.get().body == b"before"
    assert gateway.stored() == [KEY]


def test_of_uploads_of_one_key_the_last_one_stays_whole(gateway: Gateway) -> None:
    answers: list[int] = []

    def upload(letter: bytes) -> None:
        answers.append(gateway.put(letter * 3_000_000).status)

    threads = [threading.Thread(target=upload, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 4
    assert sorted(set(gateway.get().body)) == [gateway.get().body[0]]


def test_what_was_cut_by_the_gateways_end_is_gone_after_the_next_start(own: Start) -> None:
    first = own()
    first.put(b"before")
    with begin(first, bytes(5_000_000), 10_000_000):
        wait_until(lambda: new_files(first) != [])
        first.process.kill()
        first.process.wait()
    assert len(first.stored()) == 2
    second = own()
    assert second.stored() == [KEY]
    assert second.get().body == b"before"


def test_a_full_disk_is_told(own: Start) -> None:
    gateway = own()
    # From now on no file can be larger, as far as this process can tell.
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    answer = gateway.put(bytes(3_000_000))
    assert answer.status == 507
    assert json.loads(answer.body)["reason"] == "StoreFull"
    assert gateway.stored() == []
    assert gateway.put(b"small").status == 201


def test_an_upload_that_does_not_fit_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    with begin(gateway, b"", 1 << 60) as connection:
        connection.settimeout(WAIT_SECONDS)
        assert connection.recv(100).startswith(b"HTTP/1.1 507")


def test_it_ends_in_order_and_its_log_gives_no_rights(own: Start) -> None:
    gateway = own()
    gateway.put(b"1")
    gateway.get()
    gateway.ask("GET", gateway.url("GET", seconds=-1))
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(WAIT_SECONDS) == 0
    log = gateway.log.read_text()
    assert "PUT " in log
    assert "signature=" not in log
    assert (b"k" * 32).hex() not in log


def test_who_waits_to_be_told_to_go_on_is_told_no(gateway: Gateway) -> None:
    split = urlsplit(gateway.url("PUT", seconds=-1))
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(
            f"PUT {split.path}?{split.query} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 403")


def test_it_lives(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "PENSTOCK_STORE_URL is not set"),
        ({"PENSTOCK_STORE_URL": "s3://bucket", "PENSTOCK_STORE_ENDPOINT": "ftp://x"}, "PENSTOCK_STORE_ENDPOINT: "),
        ({"PENSTOCK_STORE_URL": "file:///tmp/a"}, "PENSTOCK_SIGNING_KEYS is not set"),
        ({"PENSTOCK_STORE_URL": "file:///proc/a", "PENSTOCK_SIGNING_KEYS": "a:" + "ab" * 32}, "file:///proc/a: "),
    ],
)
def test_settings_that_are_wrong_are_told(environ: dict[str, str], message: str) -> None:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PENSTOCK_")}
    command = [sys.executable, "-m", "penstock.cli", "gateway"]
    done = subprocess.run(
        command, env=kept | environ, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
