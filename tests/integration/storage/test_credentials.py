"""Credentials for S3 as a platform hands them out, from a real server on this machine."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.session
import pytest

from penstock.storage.clouds import CredentialChain
from penstock.storage.errors import StoreRefused
from penstock.storage.objects import CloudStore, open_store
from penstock.storage.settings import from_environment


@dataclass
class Platform:
    url: str
    seconds: int = 3600
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def platform(no_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Platform]:
    """What hands out credentials to pods, as EKS does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.headers["Authorization"])
            end = datetime.fromtimestamp(time.time() + found.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            number = len(found.asked)
            body = json.dumps(
                {"AccessKeyId": f"ASIA{number}", "SecretAccessKey": "hush", "Token": "token", "Expiration": end}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Platform(f"http://127.0.0.1:{server.server_port}/")
        (tmp_path / "token").write_text("of-the-service-account")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", found.url)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


async def test_a_pods_identity_gives_credentials_that_end(platform: Platform) -> None:
    found = await CredentialChain(botocore.session.Session()).get()
    assert (found.access_key, found.secret_key, found.token) == ("ASIA1", "hush", "token")
    assert found.expires is not None
    assert abs(found.expires - time.time() - 3600) < 60
    assert platform.asked == ["of-the-service-account"]
    assert "hush" not in repr(found)


async def test_credentials_are_asked_for_once_until_they_are_about_to_end(platform: Platform) -> None:
    chain = CredentialChain(botocore.session.Session())
    assert [(await chain.get()).access_key for _ in range(3)] == ["ASIA1"] * 3
    platform.seconds = 300  # so near to its end that it is renewed at once
    other = CredentialChain(botocore.session.Session())
    first = (await other.get()).access_key
    assert (await other.get()).access_key != first


async def test_what_they_sign_ends_with_them(platform: Platform) -> None:
    store = open_store(from_environment({"PENSTOCK_STORE_URL": "s3://bucket", "PENSTOCK_STORE_REGION": "eu-west-1"}))
    assert isinstance(store, CloudStore)
    expires = await store.expiry(6 * 3600)
    assert abs(expires - time.time() - 3600) < 60
    (signed,) = await store.sign("GET", ["ns/data/a"], 60)
    assert signed.url.startswith("https://bucket.s3.eu-west-1.amazonaws.com/ns/data/a?")
    assert "X-Amz-Security-Token=token" in signed.url
    await store.close()


async def test_no_credentials_are_told(no_credentials: None) -> None:
    with pytest.raises(StoreRefused, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from a Secret"):
        await CredentialChain(botocore.session.Session()).get()


async def test_fixed_credentials_have_no_end(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    chain = CredentialChain(botocore.session.Session())
    found = await chain.get()
    assert (found.access_key, found.token, found.expires) == ("AKIA", None, None)
    assert await chain.get() == found


async def test_paths_that_azure_cannot_sign_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aHVzaA==")
    store = open_store(from_environment({"PENSTOCK_STORE_URL": "az://container/a"}))
    (signed,) = await store.sign("PUT", ["ns/data/plain.csv"], 60)
    assert signed.url.startswith("https://account.blob.core.windows.net/container/a/ns/data/plain.csv?")
    assert signed.headers == {"x-ms-blob-type": "BlockBlob"}
    with pytest.raises(StoreRefused, match="'ns/data/a b' cannot be signed for Azure"):
        await store.sign("GET", ["ns/data/plain.csv", "ns/data/a b"], 60)
