from __future__ import annotations

from pathlib import Path

import pytest

from penstock.storage.settings import BadSettings, Kind, from_environment


@pytest.mark.parametrize(
    ("url", "kind", "bucket", "prefix"),
    [
        ("s3://data", Kind.S3, "data", ""),
        ("s3://data/team/a/", Kind.S3, "data", "team/a"),
        ("gs://data/x", Kind.GCS, "data", "x"),
        ("az://container", Kind.AZURE, "container", ""),
        ("file:///var/lib/penstock", Kind.FOLDER, "", ""),
    ],
)
def test_the_url_says_what_the_store_is(url: str, kind: Kind, bucket: str, prefix: str) -> None:
    found = from_environment({"PENSTOCK_STORE_URL": url})
    assert (found.kind, found.bucket, found.prefix) == (kind, bucket, prefix)


def test_a_folder_may_have_spaces() -> None:
    assert from_environment({"PENSTOCK_STORE_URL": "file:///a%20b/c"}).folder == Path("/a b/c")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "PENSTOCK_STORE_URL is not set: name an object store, s3://bucket/prefix"),
        ({"PENSTOCK_STORE_URL": "ftp://a/b"}, "PENSTOCK_STORE_URL: is none of s3://bucket/prefix"),
        ({"PENSTOCK_STORE_URL": "s3:///a"}, "PENSTOCK_STORE_URL: names no bucket"),
        ({"PENSTOCK_STORE_URL": "file://relative"}, "PENSTOCK_STORE_URL: must be file:/// and the path of a folder"),
        ({"PENSTOCK_STORE_URL": "s3://key:secret@bucket"}, "PENSTOCK_STORE_URL: must hold neither credentials"),
        ({"PENSTOCK_STORE_URL": "s3://b/../c"}, "cannot be a prefix"),
        ({"PENSTOCK_STORE_URL": "s3://b", "PENSTOCK_STORE_ENDPOINT": "minio:9000"}, "PENSTOCK_STORE_ENDPOINT: "),
        ({"PENSTOCK_STORE_URL": "gs://b", "PENSTOCK_STORE_ENDPOINT": "http://a"}, "PENSTOCK_STORE_ENDPOINT: only s3"),
        ({"PENSTOCK_STORE_URL": "s3://b", "PENSTOCK_STORE_CA_FILE": "/no/such"}, "PENSTOCK_STORE_CA_FILE: there is no"),
        (
            {"PENSTOCK_STORE_URL": "s3://b", "PENSTOCK_SIGNING_KEYS": "a:abcd"},
            "PENSTOCK_SIGNING_KEYS: signing key a is",
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_setting(environ: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings) as caught:
        from_environment(environ)
    assert message in str(caught.value)


def test_secrets_are_neither_shown_nor_told() -> None:
    secret = "ab" * 32
    environ = {"PENSTOCK_STORE_URL": "file:///a", "PENSTOCK_SIGNING_KEYS": f"a:{secret}"}
    assert secret not in repr(from_environment(environ))
    environ["PENSTOCK_SIGNING_KEYS"] = f"a:{secret},a:{secret}"
    with pytest.raises(BadSettings) as caught:
        from_environment(environ)
    assert secret not in str(caught.value)
    environ = {"PENSTOCK_STORE_URL": "s3://key:hunter2@bucket"}
    with pytest.raises(BadSettings) as caught:
        from_environment(environ)
    assert "hunter2" not in str(caught.value)
