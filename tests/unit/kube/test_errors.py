"""Answers of an API server become errors, and errors what the controller understands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.controller import ports
from penstock.kube import errors


def status(code: int, reason: str, message: str = "it says why", **details: Any) -> bytes:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    return json.dumps(body).encode()


def test_what_etcd_does_not_take_is_too_large_and_no_fault_of_the_server() -> None:
    body = status(500, "", "etcdserver: request is too large")
    found = errors.from_answer(what="PATCH /x", status=500, body=body)
    assert type(found) is errors.TooLarge
    assert errors.port_error(found) is found  # trying again does not heal it


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", errors.ApiError),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (413, "RequestEntityTooLarge", errors.TooLarge),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.ServerError),
        (503, "ServiceUnavailable", errors.ServerError),
    ],
)
def test_an_answer_becomes_the_error_of_its_status(code: int, reason: str, kind: type[errors.ApiError]) -> None:
    found = errors.from_answer(what="GET /x", status=code, body=status(code, reason))
    assert type(found) is kind
    assert (found.status, found.reason) == (code, reason)
    assert str(found) == f"GET /x: {code} {reason}: it says why"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>\n  502  Bad\n Gateway</html>", b'"text"', b"[]", b"\xff\xfe", b'{"kind":"Pod","message":"no"}'],
)
def test_what_a_proxy_answers_is_repeated_in_short(body: bytes) -> None:
    found = errors.from_answer(what="GET /x", status=502, body=body)
    assert type(found) is errors.ServerError
    assert str(found).startswith("GET /x: 502 ")
    assert "\n" not in str(found)


def test_a_long_answer_is_cut() -> None:
    assert len(str(errors.from_answer(what="GET /x", status=500, body=b"x" * 100_000))) < 400


@pytest.mark.parametrize(
    ("header", "detail", "seconds"),
    [("3", 9, 3.0), (None, 9, 9.0), ("soon", 9, 9.0), ("soon", None, None), ("-1", None, None), ("inf", None, None)],
)
def test_the_wait_that_is_asked_for_is_read_from_header_or_details(
    header: str | None, detail: int | None, seconds: float | None
) -> None:
    body = status(429, "TooManyRequests", retryAfterSeconds=detail)
    assert errors.from_answer(what="GET /x", status=429, body=body, retry_after=header).retry_after == seconds


def test_causes_can_be_asked_for() -> None:
    body = status(403, "Forbidden", causes=[{"reason": "NamespaceTerminating", "message": "…"}])
    found = errors.from_answer(what="POST /x", status=403, body=body)
    assert found.has_cause("NamespaceTerminating")
    assert not found.has_cause("FieldValueRequired")
    assert not errors.NotFound("no details at all").has_cause("NamespaceTerminating")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.Conflict("c"), ports.Conflict),
        (errors.TooManyRequests("t", retry_after=7.0), ports.Transient),
        (errors.ServerError("s"), ports.Transient),
        (errors.Unreachable("u"), ports.Transient),
        (errors.Unauthorized("u"), ports.Transient),
        (errors.Gone("g"), ports.Transient),
        (errors.Fenced("f"), ports.Transient),
    ],
)
def test_what_heals_is_transient_to_the_controller(error: errors.ApiError, kind: type[Exception]) -> None:
    found = errors.port_error(error)
    assert type(found) is kind
    assert str(found) == error.message
    if isinstance(found, ports.Transient):
        assert found.delay == error.retry_after


@pytest.mark.parametrize(
    "error", [errors.NotFound("n"), errors.AlreadyExists("a"), errors.Forbidden("f"), errors.Invalid("i")]
)
def test_what_depends_on_the_question_is_left_to_whoever_asked(error: errors.ApiError) -> None:
    assert errors.port_error(error) is error
