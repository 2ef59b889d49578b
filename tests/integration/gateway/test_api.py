"""The API of `penstock gateway` over HTTP: who may do what, what comes back, and errors as problem details."""

from __future__ import annotations

import hashlib
import urllib.parse
from typing import Any

import pytest

from .support import OWN, OWNER, READER, STRANGER, Gateway

CONTENT = b"sepal,petal\n1,2\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
RECORD = {"sha256": DIGEST, "size": len(CONTENT)}


def execution(gateway: Gateway, name: str, *outputs: dict[str, Any], phase: str = "Succeeded") -> None:
    gateway.server.executions["ours", name] = {
        "metadata": {"name": name, "namespace": "ours"},
        "status": {"phase": phase, "outputs": list(outputs)},
    }


def file(key: str, content: bytes) -> dict[str, Any]:
    return {"key": key, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_what_is_put_is_listed_known_and_got(gateway: Gateway) -> None:
    put = gateway.put("raw/iris é 1.csv", CONTENT)
    assert (put.status, put.json["sha256"], put.json["size"]) == (200, DIGEST, len(CONTENT))

    (listed,) = gateway.api("GET", "data").json["objects"]
    assert (listed["path"], listed["size"]) == ("raw/iris é 1.csv", len(CONTENT))
    info = gateway.api("GET", "meta/raw/iris é 1.csv").json
    assert (info["sha256"], info["folder"], "transfers" in info) == (DIGEST, False, False)
    got = gateway.api("GET", "data/raw/iris é 1.csv")
    assert (got.status, got.headers["cache-control"]) == (307, "no-store")
    assert gateway.ask("GET", got.headers["location"]).body == CONTENT

    assert gateway.api("DELETE", "data/raw/iris é 1.csv").status == 204
    assert gateway.stored() == []
    assert gateway.api("DELETE", "data/raw/iris é 1.csv").problem[0] == 404


def test_a_listing_comes_in_pages(gateway: Gateway) -> None:
    for name in ("a", "b", "c/d"):
        gateway.put(f"many/{name}", b"x")
    gateway.put("other", b"x")
    first = gateway.api("GET", "data?prefix=many&limit=2").json
    rest = gateway.api("GET", f"data?prefix=many&limit=2&after={first['after']}").json
    assert [each["path"] for each in first["objects"] + rest["objects"]] == ["many/a", "many/b", "many/c/d"]
    assert rest["after"] is None


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "data", None),
        ("GET", "data/x", None),
        ("GET", "meta/x", None),
        ("DELETE", "data/x", None),
        ("POST", "uploads", {"path": "x", "size": 1}),
        ("PUT", "meta/x", RECORD),
        ("GET", "executions/e/outputs", None),
        ("GET", "executions/e/outputs/o", None),
    ],
)
class TestWhoMay:
    def test_nobody_without_a_token(self, gateway: Gateway, method: str, path: str, body: object) -> None:
        seen = len(gateway.server.seen)
        answer = gateway.api(method, path, None, body)
        assert answer.problem[0] == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "kubectl create token" in answer.json["detail"]
        assert len(gateway.server.seen) == seen

    def test_nobody_with_a_wrong_token(self, gateway: Gateway, method: str, path: str, body: object) -> None:
        assert gateway.api(method, path, "wrong", body).problem[0] == 401

    def test_nobody_without_the_right(self, gateway: Gateway, method: str, path: str, body: object) -> None:
        assert gateway.api(method, path, STRANGER, body).problem[0] == 403

    def test_nobody_in_another_namespace(self, gateway: Gateway, method: str, path: str, body: object) -> None:
        gateway.put("x", b"x")
        assert gateway.api(method, path, OWNER, body, namespace="theirs").problem[0] == 403

    def test_nobody_while_the_api_server_is_down(self, gateway: Gateway, method: str, path: str, body: object) -> None:
        gateway.server.down = True
        # A token that no answer is remembered for.
        answer = gateway.ask(method, f"/api/v1/namespaces/down/{path}", OWNER, body)
        assert answer.problem == (503, "the Kubernetes API server does not answer")


def test_readers_read_and_change_nothing(gateway: Gateway) -> None:
    gateway.put("x", CONTENT)
    assert gateway.api("GET", "data/x", READER).status == 307
    assert gateway.api("GET", "data", READER).status == 200
    for method, path, body in (
        ("DELETE", "data/x", None),
        ("POST", "uploads", {"path": "y", "size": 1}),
        ("PUT", "meta/x", RECORD),
    ):
        status, detail = gateway.api(method, path, READER, body).problem
        assert (status, "right to create executions.penstock.dev" in detail) == (403, True)
    assert [each for each in gateway.stored() if "/data/" in each] == ["ours/data/x"]


def test_the_gateways_own_credentials_are_for_endpoints_alone_and_tokens_are_in_no_log(gateway: Gateway) -> None:
    gateway.put("x", CONTENT)
    gateway.api("GET", "data/x", READER)
    seen = gateway.server.seen
    assert {token for _, _, token, _ in seen} >= {OWNER}
    own = {(method, path.partition("?")[0]) for method, path, token, _ in seen if token == OWN}
    kinds = ("deployments", "executions", "pipelines")
    assert own == {("GET", f"/apis/penstock.dev/v1alpha1/{kind}") for kind in kinds}
    assert not [secret for secret in (OWNER, READER, "signature=") if secret in gateway.log]


def test_who_acts_as_somebody_else_is_judged_as_they_are(gateway: Gateway) -> None:
    gateway.ask("GET", "/api/v1/namespaces/ours/data", OWNER, headers={"Impersonate-User": "ada"})
    assert gateway.server.seen[-1][3] == "ada"
    answer = gateway.ask("GET", "/api/v1/namespaces/ours/data", OWNER, headers={"Impersonate-Group": "admins"})
    assert answer.problem[0] == 400


def test_answers_of_the_api_server_are_remembered_for_a_moment(gateway: Gateway) -> None:
    gateway.api("GET", "data", READER)
    seen = len(gateway.server.seen)
    gateway.api("GET", "data", READER)
    assert len(gateway.server.seen) == seen


@pytest.mark.parametrize("path", ["../theirs/data/x", "a/../../x", "a\\b", "a\0b", "..", ""])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_path_leads_out_of_the_data_store(gateway: Gateway, method: str, path: str) -> None:
    (gateway.store / "theirs" / "data").mkdir(parents=True)
    (gateway.store / "theirs" / "data" / "x").write_text("secret")
    for kind in ("data", "meta"):
        quoted = urllib.parse.quote(path, safe="")
        answer = gateway.ask(method, f"/api/v1/namespaces/ours/{kind}/{quoted}", OWNER)
        assert answer.status in {400, 404, 405, 307}, answer
        assert b"secret" not in answer.body
        if answer.status == 307:
            assert answer.headers["location"].startswith("/api/v1/") or "signature" not in answer.headers["location"]
    answer = gateway.api("POST", "uploads", body={"path": path, "size": 1})
    assert answer.problem[0] == 400
    assert gateway.stored() == ["theirs/data/x"]


def test_a_signed_url_is_for_one_object_and_one_method(gateway: Gateway) -> None:
    gateway.put("x", CONTENT)
    location = gateway.api("GET", "data/x").headers["location"]
    assert gateway.ask("PUT", location, body=b"y").status == 403
    assert gateway.ask("GET", location.replace("/data/x", "/data/y")).status == 403


def test_an_upload_may_not_be_larger_than_it_was_said_to_be(gateway: Gateway) -> None:
    put = gateway.api("POST", "uploads", body={"path": "x", "size": 2}).json["transfers"]["outputs"][0]["put"]
    assert gateway.ask("PUT", put["url"], body=b"abc").status == 413
    assert gateway.stored() == []


def test_what_somebody_else_has_written_meanwhile_gets_no_digest_of_ours(gateway: Gateway) -> None:
    first = gateway.put("x", b"one")
    assert first.status == 200
    begun = gateway.api("POST", "uploads", body={"path": "x", "size": 3}).json
    put = begun["transfers"]["outputs"][0]["put"]
    ours = gateway.ask("PUT", put["url"], body=b"two")
    gateway.put("x", b"thr")
    record = {"sha256": hashlib.sha256(b"two").hexdigest(), "size": 3, "etag": ours.headers["etag"].strip('"')}
    assert gateway.api("PUT", "meta/x", body=record).problem[0] == 409
    assert gateway.api("GET", "meta/x").json["sha256"] == hashlib.sha256(b"thr").hexdigest()


def test_outputs_of_an_execution(gateway: Gateway) -> None:
    key = "executions/u-1/train/1/model"
    target = gateway.store / "ours" / key
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    execution(
        gateway,
        "iris",
        {"name": "accuracy", "value": 0.97},
        {"name": "model", "file": file(key, CONTENT)},
        {"name": "parts", "files": [None, file(key, CONTENT)]},
        {"name": "theirs", "file": file("../theirs/data/x", b"")},
    )
    assert gateway.api("GET", "executions/iris/outputs/accuracy", READER).json == {"name": "accuracy", "value": 0.97}
    for path in ("model", "parts?index=1"):
        got = gateway.api("GET", f"executions/iris/outputs/{path}", READER)
        assert got.status == 307
        assert gateway.ask("GET", got.headers["location"]).body == CONTENT
    assert gateway.api("GET", "executions/iris/outputs/parts?index=0").problem[0] == 404
    assert gateway.api("GET", "executions/iris/outputs/theirs").problem[0] == 400
    status, detail = gateway.api("GET", "executions/iris/outputs/modle").problem
    assert (status, "accuracy, model, parts, theirs" in detail) == (404, True)
    assert gateway.api("GET", "executions/gone/outputs").problem[0] == 404


def test_bad_requests_are_told_as_problems(gateway: Gateway) -> None:
    assert gateway.api("POST", "uploads", body={"path": "x", "size": -1}).problem[0] == 422
    assert gateway.api("POST", "uploads", body={"path": "x", "size": 1, "odd": 1}).problem[0] == 422
    assert gateway.api("GET", "data?limit=0").problem[0] == 422
    assert gateway.api("GET", "data", namespace="Not_One").problem[0] == 422
    assert gateway.ask("GET", "/api/v1/nothing", OWNER).problem[0] == 404
    assert gateway.ask("PATCH", "/api/v1/namespaces/ours/data/x", OWNER).problem[0] == 405


def test_the_api_describes_itself(gateway: Gateway) -> None:
    described = gateway.ask("GET", "/api/v1/openapi.json").json
    assert "/namespaces/{namespace}/data/{path}" in described["paths"]
    assert described["servers"] == [{"url": "/api/v1"}]
