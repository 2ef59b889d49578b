from __future__ import annotations

import base64
from dataclasses import replace
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.storage.errors import BadObjectPath
from penstock.storage.paths import check_key
from penstock.storage.signing import BadKeys, BadSignature, Grant, SigningKeys

OLD, NEW = b"o" * 32, b"n" * 32
KEYS = SigningKeys({"old": OLD})
GRANT = Grant("PUT", "default/executions/u/s/1/a b é", 1000, max_bytes=50)


def _is_key(text: str) -> bool:
    try:
        check_key(text)
    except BadObjectPath:
        return False
    return True


keys = st.text(min_size=1, max_size=30).filter(_is_key)
grants = st.builds(
    Grant,
    st.sampled_from(["GET", "PUT"]),
    keys,
    st.integers(0, 10**12),
    st.none() | st.integers(0, 10**12),
)


def taken_apart(url: str) -> tuple[str, dict[str, str]]:
    split = urlsplit(url)
    return unquote(split.path.removeprefix("/files/")), dict(parse_qsl(split.query, strict_parsing=True))


@given(grants)
def test_a_url_gives_the_right_that_was_signed_and_only_in_time(grant: Grant) -> None:
    key, query = taken_apart(KEYS.sign("http://gateway", grant))
    if grant.expires:
        assert KEYS.verify(grant.method, key, query, grant.expires - 1) == grant
    with pytest.raises(BadSignature, match="expired"):
        KEYS.verify(grant.method, key, query, grant.expires)


@given(grants, grants)
def test_the_signature_of_one_right_is_none_for_another(one: Grant, other: Grant) -> None:
    _, query = taken_apart(KEYS.sign("http://gateway", one))
    other_key, wanted = taken_apart(KEYS.sign("http://gateway", other))
    forged = wanted | {"signature": query["signature"]}
    if one == other:
        return
    with pytest.raises(BadSignature, match="not right for this URL"):
        KEYS.verify(other.method, other_key, forged, -1)


@given(grants, st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]))
def test_a_url_is_for_one_method_and_head_goes_with_get(grant: Grant, method: str) -> None:
    key, query = taken_apart(KEYS.sign("http://gateway", grant))
    if method == grant.method or (method, grant.method) == ("HEAD", "GET"):
        assert KEYS.verify(method, key, query, -1) == grant
    else:
        with pytest.raises(BadSignature, match=f"is for {grant.method}, not for {method}"):
            KEYS.verify(method, key, query, -1)


@given(grants, st.sampled_from(["method", "expires", "max", "by", "signature"]), st.text(max_size=70))
def test_no_parameter_can_be_changed(grant: Grant, name: str, value: str) -> None:
    key, query = taken_apart(KEYS.sign("http://gateway", grant))
    if query.get(name) == value:
        return
    with pytest.raises(BadSignature):
        KEYS.verify(value if name == "method" else grant.method, key, query | {name: value}, -1)


def test_parameters_that_are_missing_or_unknown_make_it_no_signed_url() -> None:
    key, query = taken_apart(KEYS.sign("http://gateway", GRANT))
    for name in query:
        with pytest.raises(BadSignature):
            KEYS.verify("PUT", key, {each: value for each, value in query.items() if each != name}, 0)
    with pytest.raises(BadSignature, match="not a signed URL"):
        KEYS.verify("PUT", key, query | {"versionId": "1"}, 0)


def test_a_new_key_signs_while_urls_of_the_old_one_are_still_good() -> None:
    key, query = taken_apart(KEYS.sign("http://gateway", GRANT))
    both = SigningKeys({"new": NEW, "old": OLD})
    assert both.verify("PUT", key, query, 0) == GRANT
    key, query = taken_apart(both.sign("http://gateway", GRANT))
    assert query["by"] == "new"
    with pytest.raises(BadSignature):
        KEYS.verify("PUT", key, query, 0)
    key, query = taken_apart(KEYS.sign("http://gateway", GRANT))
    with pytest.raises(BadSignature):
        SigningKeys({"new": NEW}).verify("PUT", key, query, 0)


def test_an_unknown_name_is_not_a_key_of_no_bytes() -> None:
    # As if someone had computed the signature with the empty secret that stands for an unknown name.
    query = {"method": "GET", "expires": "10", "by": "nobody", "signature": ""}
    import hmac
    import json

    text = json.dumps(["penstock-url-1", "nobody", "GET", "a", 10, None])
    query["signature"] = hmac.digest(b"", text.encode(), "sha256").hex()
    with pytest.raises(BadSignature):
        KEYS.verify("GET", "a", query, 0)


def test_secrets_are_in_no_representation() -> None:
    assert "oooo" not in repr(KEYS)
    assert OLD.hex() not in repr(KEYS)


@pytest.mark.parametrize("secret", [OLD.hex(), base64.b64encode(OLD).decode(), base64.urlsafe_b64encode(OLD).decode()])
def test_keys_are_read_in_hexadecimal_and_base64(secret: str) -> None:
    assert SigningKeys.parse(f"old:{secret}") == KEYS
    assert list(SigningKeys.parse(f"a:{NEW.hex()}, old:{secret}").secrets) == ["a", "old"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "signing key 1 is not name:secret"),
        ("abcdef", "signing key 1 is not name:secret"),
        (f"a:{'ab' * 31}", "signing key a is shorter than 32 bytes"),
        (f"a:{'?' * 64}", "signing key a is neither hexadecimal nor base64"),
        (f"a b:{'ab' * 32}", "the name of a signing key is"),
        (f"a:{'ab' * 32},a:{'cd' * 32}", "two signing keys named a"),
    ],
)
def test_keys_that_cannot_be_used_are_told_without_showing_them(text: str, why: str) -> None:
    with pytest.raises(BadKeys, match=why) as caught:
        SigningKeys.parse(text)
    assert "abab" not in str(caught.value)


def test_a_key_that_leads_elsewhere_is_not_signed() -> None:
    with pytest.raises(BadObjectPath):
        KEYS.sign("http://gateway", replace(GRANT, key="default/../other"))
