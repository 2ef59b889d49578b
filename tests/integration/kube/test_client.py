"""The REST client against a server that misbehaves: what is tried again, what is not, and what is sent.

That a real API server takes these requests as they are meant is tested in `tests/e2e`.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from penstock.kube import errors
from penstock.kube.client import Client
from penstock.kube.resources import CONFIG_MAPS, EVENTS, EXECUTIONS, JOBS, NAMESPACES, PODS
from penstock.kube.transport import Settings

from .support import Bench, FakeServer, Handler, answer, break_off, hang, refuse, reset, serving

THING = {"kind": "Thing", "metadata": {"name": "x"}}


def page(*names: str, further: str = "", version: str = "7") -> Handler:
    metadata = {"resourceVersion": version, **({"continue": further} if further else {})}
    return answer({"kind": "PodList", "metadata": metadata, "items": [{"metadata": {"name": each}} for each in names]})


def name_of(body: dict[str, Any]) -> str:
    return str(body["metadata"]["name"])


def config_map(**metadata: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "n", **metadata}}


async def create(client: Client) -> object:
    return await client.create(CONFIG_MAPS, config_map(name="x"))


async def get(client: Client) -> object:
    return await client.get(PODS, "x", "n")


async def json_patch(client: Client) -> object:
    return await client.patch(PODS, "x", "n", [{"op": "add", "path": "/metadata/finalizers/-", "value": "a/b"}])


async def generate(client: Client) -> object:
    return await client.create(EVENTS, config_map(generateName="x-"))


# Trying again


@pytest.mark.parametrize("trouble", [refuse(500, "InternalError"), refuse(503, "ServiceUnavailable"), reset, break_off])
@pytest.mark.parametrize("request_", [get, create])
async def test_what_does_no_harm_twice_is_tried_again(fake: Bench, trouble: Handler, request_: Any) -> None:
    fake.server.script = [trouble, trouble, trouble]
    assert await request_(fake.client()) == THING
    assert len(fake.server.seen) >= 3, "a GET on a connection that was lost may be repeated by aiohttp itself"


@pytest.mark.parametrize("trouble", [refuse(500, "InternalError"), reset])
@pytest.mark.parametrize("request_", [json_patch, generate])
async def test_what_may_do_harm_twice_is_not_tried_again(fake: Bench, trouble: Handler, request_: Any) -> None:
    fake.server.script = [trouble]
    with pytest.raises((errors.ServerError, errors.Unreachable)):
        await request_(fake.client())
    assert len(fake.server.seen) == 1


@pytest.mark.parametrize("request_", [get, create, json_patch, generate])
async def test_a_request_that_was_refused_for_being_too_many_waits_as_long_as_it_is_told(
    fake: Bench, request_: Any
) -> None:
    fake.server.script = [refuse(429, "TooManyRequests", Retry_After="3"), refuse(429, "TooManyRequests")]
    assert await request_(fake.client()) == THING
    assert fake.waits.seconds == [3.0, 0.4], "the second answer asked for nothing: the usual wait"


async def test_a_server_that_asks_for_a_long_wait_gets_it_from_who_made_the_request(fake: Bench) -> None:
    fake.server.script = [refuse(429, "TooManyRequests", Retry_After="60")]
    with pytest.raises(errors.TooManyRequests) as caught:
        await get(fake.client())
    assert caught.value.retry_after == 60.0
    assert fake.waits.seconds == []


@pytest.mark.parametrize(("chance", "waits"), [(1.0, [0.2, 0.4, 0.8, 1.0]), (0.0, [0.1, 0.2, 0.4, 0.5])])
async def test_waits_double_up_to_a_bound_and_differ_by_chance(fake: Bench, chance: float, waits: list[float]) -> None:
    fake.server.default = refuse(500, "InternalError")
    with pytest.raises(errors.ServerError, match="GET /api/v1/namespaces/n/pods/x: 500 InternalError: no"):
        await get(fake.client(Settings(tries=5, max_wait_seconds=1.0), chance=chance))
    assert fake.waits.seconds == pytest.approx(waits)
    assert fake.requests == [("get", "pods", 500)] * 5


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", errors.ApiError),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (405, "MethodNotAllowed", errors.ApiError),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (302, "", errors.ApiError),
    ],
)
async def test_other_refusals_are_final(fake: Bench, code: int, reason: str, kind: type[errors.ApiError]) -> None:
    fake.server.default = refuse(code, reason)
    with pytest.raises(errors.ApiError) as caught:
        await create(fake.client())
    assert type(caught.value) is kind
    assert len(fake.server.seen) == 1


async def test_nobody_at_the_address_is_unreachable_and_nothing_was_sent(fake: Bench) -> None:
    connection = await fake.sessions.current()
    server, connection_server = fake.server, connection.server
    assert connection_server == server.url
    server.url = "http://127.0.0.1:1"
    await connection.session.close()
    with pytest.raises(errors.Unreachable, match=r"http://127\.0\.0\.1:1") as caught:
        await json_patch(fake.client())
    assert not caught.value.sent
    assert len(fake.waits.seconds) == 4, "even a patch is tried again, for it never arrived"
    assert fake.requests == [("patch", "pods", 0)] * 5


async def test_a_server_that_never_answers_is_given_up(fake: Bench) -> None:
    fake.server.default = hang
    with pytest.raises(errors.Unreachable, match="no answer in time") as caught:
        await get(fake.client(Settings(tries=2, request_seconds=0.05)))
    assert caught.value.sent
    assert len(fake.server.seen) == 2


async def test_something_else_at_the_address_is_said_to_be_no_api_server(fake: Bench) -> None:
    async def page_for_people(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>Welcome</html>", content_type="text/html")

    fake.server.default = page_for_people
    with pytest.raises(errors.ApiError, match="this is no Kubernetes API server, it answered '<html>Welcome"):
        await get(fake.client())


# Credentials that change


async def test_a_token_that_was_replaced_is_used_from_the_next_request_on(fake: Bench) -> None:
    client = fake.client()
    await get(client)
    fake.token.write_text("second\n")
    await get(client)
    assert [each.headers["Authorization"] for each in fake.server.seen] == ["Bearer first", "Bearer second"]


async def test_a_token_that_cannot_be_read_for_a_moment_is_used_as_it_was(fake: Bench) -> None:
    client = fake.client()
    await get(client)
    fake.token.unlink()
    await get(client)
    assert fake.server.seen[-1].headers["Authorization"] == "Bearer first"


async def test_after_a_401_the_request_is_made_again_once(fake: Bench) -> None:
    fake.server.script = [refuse(401, "Unauthorized")]
    assert await generate(fake.client()) == THING
    fake.server.script = [refuse(401, "Unauthorized"), refuse(401, "Unauthorized")]
    with pytest.raises(errors.Unauthorized):
        await get(fake.client())
    assert [code for _, _, code in fake.requests] == [401, 200, 401, 401]
    assert fake.waits.seconds == []


async def test_a_session_that_somebody_closed_is_replaced_for_all(fake: Bench) -> None:
    client = fake.client()
    await get(client)
    before = await fake.sessions.current()
    await before.session.close()  # as kopf does
    await asyncio.gather(*(get(client) for _ in range(10)))
    after = await fake.sessions.current()
    assert after.session is not before.session
    assert (await fake.sessions.login()).aiohttp_session is after.session
    assert (await fake.sessions.login()).default_namespace == "here"


async def test_requests_under_way_survive_that_somebody_closes_the_session(fake: Bench) -> None:
    arrived = asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        arrived.set()
        return await hang(request)

    fake.server.script = [wait]
    task = asyncio.create_task(get(fake.client()))
    await arrived.wait()
    await (await fake.sessions.current()).session.close()
    assert await task == THING
    assert fake.requests == [("get", "pods", 0), ("get", "pods", 200)]


# Writes


async def test_a_fence_holds_back_every_write_and_no_reading(fake: Bench) -> None:
    leading = [True]

    def fence() -> None:
        if not leading[0]:
            raise errors.Fenced("not now")

    client = fake.client(fence=fence)
    await create(client)
    leading[0] = False
    await get(client)
    for write in (create, json_patch, generate):
        with pytest.raises(errors.Fenced):
            await write(client)
    with pytest.raises(errors.Fenced):
        await client.delete(PODS, "x", "n")
    assert [each.method for each in fake.server.seen] == ["POST", "GET"]


async def test_a_fence_that_comes_down_between_two_tries_holds_back_the_second(fake: Bench) -> None:
    leading = [True]

    def fence() -> None:
        if not leading[0]:
            raise errors.Fenced("not now")

    async def depose(request: web.Request) -> web.StreamResponse:
        leading[0] = False
        return await refuse(500, "InternalError")(request)

    fake.server.script = [depose]
    with pytest.raises(errors.Fenced):
        await create(fake.client(fence=fence))
    assert len(fake.server.seen) == 1


async def test_only_so_many_writes_are_under_way_at_once_and_readings_do_not_wait_for_them(fake: Bench) -> None:
    under_way, most, enough = [0], [0], asyncio.Event()
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return await answer(THING)(request)
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        if under_way[0] == 3:
            enough.set()
        await go_on.wait()
        under_way[0] -= 1
        return await answer(THING)(request)

    fake.server.default = slow
    client = fake.client(Settings(max_writes=3))
    writes = [asyncio.create_task(client.create(CONFIG_MAPS, config_map(name=f"x{n}"))) for n in range(10)]
    await enough.wait()
    await get(client)
    go_on.set()
    await asyncio.gather(*writes)
    assert most[0] == 3


async def test_what_is_sent(fake: Bench) -> None:
    client = fake.client()
    body = {"metadata": {"name": "x", "namespace": "n"}, "spec": {}}
    await client.apply(EXECUTIONS, body)
    await client.patch_status(EXECUTIONS, "x", "n", {"phase": "Running"}, resource_version="5")
    await client.replace_status(JOBS, body)
    await client.delete(JOBS, "x", "n", uid="u", propagation="Foreground", grace_seconds=0)
    await client.get(PODS, "x", "n", metadata_only=True)
    await client.apply(NAMESPACES, {"metadata": {"name": "n"}})
    apply, patch, replace, delete, metadata, namespace = fake.server.seen
    executions = "/apis/penstock.dev/v1alpha1/namespaces/n/executions/x"
    assert (apply.method, apply.path) == ("PATCH", executions)
    assert apply.headers["Content-Type"] == "application/apply-patch+yaml"
    assert apply.query == {"fieldManager": "penstock", "force": "true"}
    assert apply.body == {"apiVersion": "penstock.dev/v1alpha1", "kind": "Execution", **body}
    assert (patch.method, patch.path) == ("PATCH", f"{executions}/status")
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert patch.body == {"metadata": {"resourceVersion": "5"}, "status": {"phase": "Running"}}
    assert (replace.method, replace.path) == ("PUT", "/apis/batch/v1/namespaces/n/jobs/x/status")
    assert delete.body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u"},
        "gracePeriodSeconds": 0,
    }
    assert metadata.headers["Accept"].startswith("application/json;as=PartialObjectMetadata;")
    assert namespace.path == "/api/v1/namespaces/n"
    assert [each[:2] for each in fake.requests] == [
        ("apply", "executions"),
        ("patch", "executions/status"),
        ("update", "jobs/status"),
        ("delete", "jobs"),
        ("get", "pods"),
        ("apply", "namespaces"),
    ]


async def test_deleting_what_is_not_there_is_fine(fake: Bench) -> None:
    fake.server.script = [refuse(404, "NotFound")]
    assert not await fake.client().delete(PODS, "x", "n")
    assert await fake.client().delete(PODS, "x", "n")


async def test_an_object_without_its_namespace_is_not_sent_anywhere(fake: Bench) -> None:
    with pytest.raises(ValueError, match=r"ConfigMap: metadata\.namespace was not given"):
        await fake.client().create(CONFIG_MAPS, {"metadata": {"name": "x"}})
    assert fake.server.seen == []


# Lists


async def test_a_list_is_asked_for_in_chunks(fake: Bench) -> None:
    fake.server.script = [page("a", "b", further="t1"), page("c", further="t2"), page("d", version="9")]
    found = await fake.client().list(PODS, namespace="n", labels="a=b", fields="spec.nodeName=x", chunk=2, keep=name_of)
    assert (found.items, found.resource_version) == (["a", "b", "c", "d"], "9")
    selectors = {"limit": "2", "labelSelector": "a=b", "fieldSelector": "spec.nodeName=x"}
    assert [each.query for each in fake.server.seen] == [
        selectors,
        {**selectors, "continue": "t1"},
        {**selectors, "continue": "t2"},
    ]


async def test_a_list_that_expired_half_way_is_begun_anew_and_names_nothing_twice(fake: Bench) -> None:
    fake.server.script = [
        page("a", "b", further="t1"),
        refuse(410, "Expired"),
        page("b", further="t2"),
        page("c"),
    ]
    found = await fake.client().list(PODS, keep=name_of)
    assert found.items == ["b", "c"]
    assert "continue" not in fake.server.seen[2].query


async def test_a_list_that_expires_for_ever_is_given_up(fake: Bench) -> None:
    fake.server.default = refuse(410, "Expired")
    with pytest.raises(errors.Gone):
        await fake.client().list(PODS, keep=name_of)
    assert len(fake.server.seen) == 4


async def test_a_chunk_that_is_lost_is_asked_for_again_alone(fake: Bench) -> None:
    fake.server.script = [page("a", further="t1"), break_off, page("b")]
    assert (await fake.client().list(PODS, keep=name_of)).items == ["a", "b"]
    assert fake.server.seen[-1].query["continue"] == "t1"


async def test_an_empty_list_may_have_null_for_items(fake: Bench) -> None:
    fake.server.script = [answer({"kind": "PodList", "metadata": {"resourceVersion": "3"}, "items": None})]
    found = await fake.client().list(PODS, keep=name_of, metadata_only=True)
    assert (found.items, found.resource_version) == ([], "3")


# Versions and logs


@pytest.mark.parametrize("minor", ["34", "34+"])
async def test_the_version_of_the_server(fake: Bench, minor: str) -> None:
    fake.server.script = [answer({"major": "1", "minor": minor, "gitVersion": "v1.34.4-eks"})]
    found = await fake.client().version()
    assert (found.major, found.minor, found.text) == (1, 34, "v1.34.4-eks")
    assert found.at_least(1, 32)
    assert found.at_least(1, 34)
    assert not found.at_least(1, 35)


async def test_a_version_that_says_nothing_is_refused(fake: Bench) -> None:
    fake.server.script = [answer({"status": "ok"})]
    with pytest.raises(errors.ApiError, match="no version of Kubernetes"):
        await fake.client().version()


def log(*chunks: bytes, cut: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if cut:
            assert request.transport is not None
            request.transport.close()
        return response

    return handler


async def follow(client: Client) -> list[bytes]:
    async with aclosing(client.follow_log("p", namespace="n", container="c", tail=5)) as lines:
        return [line async for line in lines]


async def test_a_log_is_followed_line_by_line_whatever_the_pieces(fake: Bench) -> None:
    fake.server.script = [log(b"on", b"e\ntw", b"o\n\n", b"\xff\xfe\n", b"no end")]
    assert await follow(fake.client()) == [b"one", b"two", b"", b"\xff\xfe", b"no end"]
    assert fake.server.seen[0].path == "/api/v1/namespaces/n/pods/p/log"
    assert fake.server.seen[0].query == {"container": "c", "tailLines": "5", "follow": "true"}


async def test_a_line_without_an_end_comes_in_pieces(fake: Bench) -> None:
    fake.server.script = [log(*([b"x" * 65_536] * 40), b"\nend\n")]
    *pieces, last = await follow(fake.client())
    assert last == b"end"
    assert b"".join(pieces) == b"x" * 65_536 * 40
    assert max(map(len, pieces)) == 1 << 20


async def test_a_log_that_breaks_off_is_not_taken_for_a_whole_one(fake: Bench) -> None:
    fake.server.script = [log(b"one\n", cut=True)]
    with pytest.raises(errors.Unreachable, match="pods/p/log: broke off"):
        await follow(fake.client())


async def test_a_log_is_read_at_once_with_its_bounds(fake: Bench) -> None:
    fake.server.script = [refuse(500, "InternalError"), log(b"a\nb")]
    found = await fake.client().log("p", namespace="n", container="c", tail=3, limit_bytes=100, previous=True)
    assert found == b"a\nb"
    assert fake.server.seen[-1].query == {"container": "c", "tailLines": "3", "limitBytes": "100", "previous": "true"}


async def test_a_silent_log_notices_that_somebody_closed_its_session(fake: Bench) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        return await hang(request)

    fake.server.script = [silent]
    client = fake.client(Settings(stream_look_seconds=0.02))
    async with aclosing(client.follow_log("p", namespace="n", container="c")) as lines:
        assert await anext(lines) == b"one"
        await (await fake.sessions.current()).session.close()
        with pytest.raises(errors.Unreachable, match="the session was closed"):
            await anext(lines)


async def test_an_address_that_changed_is_used_after_a_401_and_the_old_session_is_left_to_kopf(fake: Bench) -> None:
    before = await fake.sessions.current()
    async with serving(FakeServer()) as moved:
        fake.server.default = refuse(401, "Unauthorized")
        fake.server.url = moved.url
        assert await get(fake.client()) == THING
        assert len(moved.seen) == 1
        assert not before.session.closed
        await fake.sessions.close()
        assert before.session.closed
