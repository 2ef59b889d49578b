"""Our signatures are those of AWS's own library, for any key, parameter and header."""

from __future__ import annotations

import datetime
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.storage.sigv4 import Credentials, Signer

NOW = 1_798_720_496
BASES = ["https://bucket.s3.eu-west-1.amazonaws.com", "http://127.0.0.1:7070/bucket", "https://minio:443/bucket"]
_TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=20)


def theirs(signer: Signer, method: str, url: str, headers: dict[str, str]) -> str:
    """What botocore signs for the same URL, at the same moment."""
    split = urlsplit(url)
    ours = {"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders"}
    query = {
        name: values[0]
        for name, values in parse_qs(split.query, keep_blank_values=True).items()
        if name not in ours | {"X-Amz-Security-Token"}
    }
    request = botocore.awsrequest.AWSRequest(
        method=method, url=f"{split.scheme}://{split.netloc}{split.path}", params=query, headers=headers
    )
    credentials = botocore.credentials.Credentials(
        signer.credentials.access_key, signer.credentials.secret_key, signer.credentials.token
    )
    moment = datetime.datetime.fromtimestamp(signer.now, datetime.UTC)
    with patch("botocore.auth.get_current_datetime", return_value=moment):
        botocore.auth.S3SigV4QueryAuth(credentials, "s3", signer.region, expires=signer.seconds).add_auth(request)
    return parse_qs(urlsplit(str(request.url)).query)["X-Amz-Signature"][0]


@pytest.mark.parametrize("base", BASES)
@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    key=_TEXT.filter(lambda text: not text.startswith("/") and "//" not in text and "." not in text.split("/")),
    query=st.dictionaries(st.sampled_from(["uploadId", "partNumber", "uploads"]), _TEXT, max_size=2),
    token=st.none() | _TEXT,
)
def test_signatures_are_those_of_aws_own_library(
    base: str, method: str, key: str, query: dict[str, str], token: str | None
) -> None:
    signer = Signer(base, "eu-west-1", Credentials("AKIAEXAMPLE", "secret", token), NOW, 3600)
    address = signer.address(key, query)
    assert signer.signature(method, key, query) == f"X-Amz-Signature={theirs(signer, method, address, {})}"


def test_signed_headers_count() -> None:
    signer = Signer(BASES[1], "us-east-1", Credentials("AKIAEXAMPLE", "secret"), NOW, 60)
    headers = {"x-amz-copy-source": "/bucket/a%20b"}
    address = signer.address("target", None, headers)
    assert "X-Amz-SignedHeaders=host%3Bx-amz-copy-source" in address
    assert signer.signature("PUT", "target", None, headers) == (
        f"X-Amz-Signature={theirs(signer, 'PUT', address, headers)}"
    )


def test_urls_of_temporary_credentials_end_with_them() -> None:
    signer = Signer(BASES[0], "eu-west-1", Credentials("a", "b", "token", expires=NOW + 100), NOW, 3600)
    assert signer.expires == NOW + 100
    assert Signer(BASES[0], "eu-west-1", Credentials("a", "b"), NOW, 3600).expires == NOW + 3600


def test_credentials_are_in_no_representation() -> None:
    assert "secret" not in repr(Signer(BASES[0], "r", Credentials("AKIA", "secret", "token"), NOW, 1))
