"""Endpoints over HTTP, as callers use them: who gets in, calls, results, and what is wrong with them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .cluster import TOKEN
from .endpoints_fixtures import PIPELINE, Endpoints, problem, stored_file, value
from .support import until

ONE_FILE: dict[str, Any] = {**PIPELINE, "outputs": [{"name": "model", "type": "file", "from": "steps.train.outputs.m"}]}


@pytest.fixture
def gateway(endpoints: Endpoints) -> Endpoints:
    return endpoints


def started(gateway: Endpoints, inputs: dict[str, Any] | None = None, **options: Any) -> str:
    answer = gateway.call({} if inputs is None else inputs, **options)
    assert answer.status_code == 303, answer.text
    name = answer.json()["execution_id"]
    assert answer.headers["craft-ai-execution-id"] == name
    return str(name)


class TestWhoGetsIn:
    def test_without_a_token_nobody(self, gateway: Endpoints) -> None:
        status, name, message = problem(gateway.call({}, token=None))
        assert (status, name, "EndpointToken" in message) == (401, "MissingToken", True)
        assert problem(gateway.results("x", token=None))[0] == 401

    def test_a_wrong_token_and_an_unknown_endpoint_are_told_alike(self, gateway: Endpoints) -> None:
        wrong = gateway.call({}, token="w" * 43)
        unknown = gateway.call({}, path="endpoints/nothing", token="w" * 43)
        elsewhere = gateway.http.post(
            f"{gateway.url}/environments/theirs/endpoints/iris", headers={"Authorization": f"EndpointToken {'w' * 43}"}
        )
        assert problem(wrong) == problem(unknown) == problem(elsewhere)
        assert wrong.status_code == 403

    def test_a_token_opens_its_own_endpoint_and_no_other(self, gateway: Endpoints) -> None:
        gateway.server.deployment("other", token="o" * 43)
        until(lambda: gateway.call({"nobody": 1}, path="endpoints/other", token="o" * 43).status_code == 422)
        name = started(gateway)
        assert problem(gateway.call({}, path="endpoints/other"))[0] == 403
        other = gateway.get(f"endpoints/other/executions/{name}", token="o" * 43)
        assert problem(other)[:2] == (404, "UnknownExecution")

    def test_a_rotated_token_is_valid_until_its_end_and_the_new_one_at_once(self, gateway: Endpoints) -> None:
        from .cluster import digest

        def tokens(*known: dict[str, str]) -> None:
            body = gateway.server.objects["deployments", "ours", "iris"]
            gateway.server.put("deployments", "iris", status={**body["status"], "endpoint": {"tokens": list(known)}})

        tokens({"sha256": digest("n" * 43)}, {"sha256": digest(TOKEN), "until": "2999-01-01T00:00:00Z"})
        until(lambda: gateway.call({"nobody": 1}, token="n" * 43).status_code == 422)
        assert gateway.call({}).status_code == 303
        tokens({"sha256": digest("n" * 43)}, {"sha256": digest(TOKEN), "until": "2001-01-01T00:00:00Z"})
        until(lambda: gateway.call({"nobody": 1}).status_code == 403)
        assert gateway.call({}, token="n" * 43).status_code == 303

    def test_tokens_are_in_no_log(self, gateway: Endpoints) -> None:
        gateway.results("nothing", token=None, params={"token": TOKEN})
        gateway.call({}, token="almost-" + TOKEN)
        assert TOKEN not in gateway.log


class TestCalls:
    def test_a_call_becomes_an_execution_that_says_all(self, gateway: Endpoints) -> None:
        name = started(gateway, {"rows": 3, "title": "a", "flags": [1, 2, 3]})
        (body,) = gateway.server.executions()
        meta = body["metadata"]
        assert (meta["name"], name.startswith("iris-"), len(name)) == (name, True, 15)
        assert meta["labels"] == {"penstock.dev/deployment": "iris", "penstock.dev/trigger": "endpoint"}
        assert meta["ownerReferences"][0]["uid"] == "uid-deployments-iris"
        assert body["spec"]["inputs"] == [value("rows", 3), value("title", "a"), value("flags", [1, 2, 3])]
        assert body["spec"]["outputs"] == [{"name": "accuracy", "endpoint": "accuracy"}]

    def test_the_short_address_of_the_missions_page_leads_to_the_same(self, gateway: Endpoints) -> None:
        answer = gateway.call({"rows": 1}, path="iris")
        name = answer.json()["execution_id"]
        gateway.server.end(name, outputs=[value("accuracy", 0.5)])
        url = httpx.URL(str(answer.request.url)).join(answer.headers["location"])
        assert url.path == f"/environments/ours/endpoints/iris/executions/{name}"
        assert gateway.http.get(url, headers={"Authorization": f"EndpointToken {TOKEN}"}).json()["outputs"] == {
            "accuracy": 0.5
        }

    def test_a_call_without_a_body_gives_no_inputs(self, gateway: Endpoints) -> None:
        assert gateway.call().status_code == 303

    @pytest.mark.parametrize(
        ("inputs", "name", "words"),
        [
            ({"row": 1}, "UnknownInput", 'did you mean "rows"'),
            ({"rows": "3"}, "WrongType", 'input "rows"'),
            ({"flags": {}}, "WrongType", 'input "flags"'),
            ({"table": "x"}, "WrongType", 'input "table"'),
            ({"row": 1, "rows": "3"}, "InvalidInputs", 'input "rows"'),
        ],
    )
    def test_inputs_that_do_not_fit(self, gateway: Endpoints, inputs: dict[str, Any], name: str, words: str) -> None:
        status, told, message = problem(gateway.call(inputs))
        assert (status, told, words in message) == (422, name, True), message
        assert gateway.server.executions() == []

    def test_a_missing_input(self, gateway: Endpoints) -> None:
        gateway.server.deployment("iris", inputs=[{"name": "rows", "endpoint": {"name": "n", "required": True}}])
        until(lambda: gateway.call({"n": 1}).status_code == 303)
        assert problem(gateway.call({}))[:2] == (422, "MissingInput")

    def test_inputs_of_60_000_bytes_and_no_more(self, gateway: Endpoints) -> None:
        fits = 60_000 - len('{"rows":150,"title":""}')
        assert gateway.call({"title": "x" * fits}).status_code == 303
        status, name, message = problem(gateway.call({"title": "x" * (fits + 1)}))
        assert (status, name, "60,000" in message) == (413, "InputsTooLarge", True)
        assert problem(gateway.call({"title": "x" * (2 << 20)}))[0] == 413

    @pytest.mark.parametrize(
        ("content", "kind", "status"),
        [
            (b"{", "application/json", 400),
            (b"[1]", "application/json", 400),
            (b'{"rows": NaN}', "application/json", 400),
            (b"[" * 100_000, "application/json", 400),
            (b"\xff", "application/json", 400),
            (b"rows=1", "application/x-www-form-urlencoded", 415),
            (b"{}", "text/plain", 415),
            (b"x", "multipart/form-data", 400),
            (b"x", "multipart/form-data; boundary=b", 400),
            (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        ],
    )
    def test_bodies_that_cannot_be_read(self, gateway: Endpoints, content: bytes, kind: str, status: int) -> None:
        assert problem(gateway.call(content=content, headers={"content-type": kind}))[0] == status

    def test_a_suspended_deployment_takes_no_calls_and_gives_old_results(self, gateway: Endpoints) -> None:
        name = started(gateway)
        gateway.server.deployment("iris", suspend=True)
        until(lambda: gateway.call({}).status_code == 423)
        assert problem(gateway.call({}))[:2] == (423, "Suspended")
        gateway.server.end(name, outputs=[value("accuracy", 1)])
        assert gateway.results(name).json()["outputs"] == {"accuracy": 1}

    def test_a_deployment_that_cannot_run_says_why(self, gateway: Endpoints) -> None:
        gateway.server.deployment("iris", ready="False")
        until(lambda: gateway.call({}).status_code == 409)
        assert "it is broken" in problem(gateway.call({}))[2]

    def test_executions_that_others_may_hold_up_wait_for_the_operator(self, gateway: Endpoints) -> None:
        gateway.server.deployment("iris", concurrency={"policy": "Queue"})
        until(lambda: gateway.call({}).status_code == 303 and gateway.server.executions()[-1]["spec"].get("suspend"))
        assert gateway.server.executions()[-1]["metadata"]["annotations"]["penstock.dev/queued"] == "true"

    def test_values_of_config_maps_are_read_at_that_moment(self, gateway: Endpoints) -> None:
        source = {"name": "rows", "configMapKeyRef": {"name": "settings", "key": "ROWS"}}
        gateway.server.deployment("iris", inputs=[source])
        until(lambda: gateway.call({}).status_code == 409)
        gateway.server.put("configmaps", "settings", data={"ROWS": "7"})
        started(gateway)
        assert gateway.server.executions()[-1]["spec"]["inputs"] == [value("rows", 7)]

    def test_what_the_cluster_refuses_is_told(self, gateway: Endpoints) -> None:
        gateway.server.refuse["POST", "executions"] = 403
        assert problem(gateway.call({}))[:2] == (409, "Refused")
        gateway.server.refuse["POST", "executions"] = 500
        assert problem(gateway.call({}))[:2] == (503, "Unavailable")


class TestIdempotency:
    def test_the_same_key_is_the_same_execution(self, gateway: Endpoints) -> None:
        first = gateway.call({"rows": 1}, headers={"Idempotency-Key": "k"})
        second = gateway.call({"rows": 1}, headers={"Idempotency-Key": "k"})
        assert first.json() == second.json()
        assert second.headers["idempotent-replayed"] == "true"
        assert len(gateway.server.executions()) == 1
        assert started(gateway, {"rows": 1}, headers={"Idempotency-Key": "l"}) != first.json()["execution_id"]

    def test_the_same_key_with_other_inputs_is_refused(self, gateway: Endpoints) -> None:
        started(gateway, {"rows": 1}, headers={"Idempotency-Key": "k"})
        answer = gateway.call({"rows": 2}, headers={"Idempotency-Key": "k"})
        assert problem(answer)[:2] == (422, "IdempotencyKeyReused")

    def test_many_at_once_start_one(self, gateway: Endpoints) -> None:
        with ThreadPoolExecutor(8) as pool:
            names = set(pool.map(lambda _: started(gateway, {}, headers={"Idempotency-Key": "k"}), range(8)))
        assert len(names) == len(gateway.server.executions()) == 1

    def test_files_of_a_repeated_call_are_stored_once(self, gateway: Endpoints) -> None:
        for _ in range(2):
            answer = gateway.call(files={"table": b"1,2"}, headers={"Idempotency-Key": "k"})
            assert answer.status_code == 303
        assert len([each for each in gateway.stored() if "/data/" in each]) == 1
        other = gateway.call(files={"table": b"3,4"}, headers={"Idempotency-Key": "k"})
        assert problem(other)[:2] == (422, "IdempotencyKeyReused")
        assert len([each for each in gateway.stored() if "/data/" in each]) == 1


class TestForms:
    def test_files_go_to_the_store_and_values_are_json(self, gateway: Endpoints) -> None:
        answer = gateway.call(
            files={"table": ("../a b.csv", b"1,2\n" * 100_000), "more": b"\x00\xff"},
            data={"rows": "3", "flags": "[1, 2]", "title": '"quoted"'},
        )
        assert answer.status_code == 303, answer.text
        (body,) = gateway.server.executions()
        given = {each["name"]: each for each in body["spec"]["inputs"]}
        assert [given[name]["value"] for name in ("rows", "flags", "title")] == [3, [1, 2], "quoted"]
        path = given["table"]["object"]
        assert path.startswith("uploads/")
        assert path.endswith("/a_b.csv")
        top = gateway.folder / "store" / "ours" / "data"
        assert (top / path).read_bytes() == b"1,2\n" * 100_000
        assert (top / given["more"]["object"]).read_bytes() == b"\x00\xff"

    def test_text_for_a_string_needs_no_quotes(self, gateway: Endpoints) -> None:
        for text in ("plain", "12", "null"):
            assert gateway.call(files={"more": b"x"}, data={"title": text}).status_code == 303
            given = {each["name"]: each for each in gateway.server.executions()[-1]["spec"]["inputs"]}
            assert given["title"]["value"] == text

    @pytest.mark.parametrize(
        ("files", "data", "status"),
        [
            ({"table": b"x", "rows": b"3"}, {}, 422),
            ({"table": b"x", "nothing": b"3"}, {}, 422),
            ({"table": b"x"}, {"rows": "three"}, 400),
            ({"table": b"x"}, {"rows": '"3"'}, 422),
            ({"table": b"x"}, {"nothing": "3"}, 422),
        ],
    )
    def test_what_does_not_fit_leaves_nothing_in_the_store(
        self, gateway: Endpoints, files: dict[str, bytes], data: dict[str, str], status: int
    ) -> None:
        before = gateway.stored()
        assert problem(gateway.call(files=files, data=data))[0] == status
        assert gateway.stored() == before

    def test_a_form_that_is_cut_off_leaves_nothing_in_the_store(self, gateway: Endpoints) -> None:
        before = gateway.stored()
        head = b'--b\r\nContent-Disposition: form-data; name="table"; filename="t"\r\n\r\n'
        answer = gateway.call(
            content=head + b"x" * 3_000_000, headers={"content-type": "multipart/form-data; boundary=b"}
        )
        assert problem(answer)[0] == 400
        assert gateway.stored() == before


class TestResults:
    def test_a_caller_who_follows_redirects_reads_the_results(self, gateway: Endpoints) -> None:
        def soon(body: dict[str, Any]) -> None:
            name = body["metadata"]["name"]
            threading.Thread(
                target=gateway.server.end, args=[name], kwargs={"outputs": [value("accuracy", 0.9)]}
            ).start()

        gateway.server.on_create = soon
        answer = gateway.call({}, follow_redirects=True)
        assert (answer.status_code, answer.json()["outputs"]) == (200, {"accuracy": 0.9})
        assert [each.status_code for each in answer.history][:1] == [303]
        assert answer.headers["cache-control"] == "no-store"

    def test_one_request_that_waits(self, gateway: Endpoints) -> None:
        answer = gateway.call({}, params={"wait": "0"})
        assert (answer.status_code, set(answer.json())) == (202, {"execution_id"})
        name = answer.json()["execution_id"]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(gateway.results, name, params={"wait": "60"})
            until(lambda: "callers_waiting 1.0" in gateway.http.get(f"{gateway.url}/metrics").text)
            reads = len(gateway.server.requests("GET", "executions"))
            gateway.server.end(name, outputs=[value("accuracy", 1)])
            assert waiting.result().json()["outputs"] == {"accuracy": 1}
        assert len(gateway.server.requests("GET", "executions")) == reads  # answered from the watch

    def test_results_can_be_fetched_later_and_again(self, gateway: Endpoints) -> None:
        name = started(gateway)
        gateway.server.end(name, outputs=[value("accuracy", None)])
        for options in ({}, {"token": None, "params": {"token": TOKEN}}):
            answer = gateway.results(name, **options)
            assert answer.json() == {"outputs": {"accuracy": None}, "execution_id": name}
        v1 = gateway.get(f"endpoints/v1/iris/executions/{name}", token=None, params={"token": TOKEN})
        assert v1.json()["outputs"] == {"accuracy": {"value": None}}

    def test_results_outlast_the_execution_for_those_who_wait(self, gateway: Endpoints) -> None:
        name = started(gateway)
        gateway.server.end(name, outputs=[value("accuracy", 1)])
        until(lambda: gateway.results(name, params={"wait": "0"}).status_code == 200)
        gateway.server.remove("executions", name)
        assert gateway.results(name).json()["outputs"] == {"accuracy": 1}

    def test_outputs_have_the_names_that_the_deployment_gives_them(self, gateway: Endpoints) -> None:
        two = [*PIPELINE["outputs"], {"name": "log", "type": "string", "from": "steps.train.outputs.log"}]
        gateway.server.put("pipelines", "iris", spec={**PIPELINE, "outputs": two})
        gateway.server.deployment(
            "iris", outputs=[{"name": "accuracy", "endpoint": "score"}, {"name": "log", "void": True}]
        )
        until(lambda: started(gateway) and "score" in str(gateway.server.executions()[-1]["spec"]["outputs"]))
        name = gateway.server.executions()[-1]["metadata"]["name"]
        gateway.server.end(name, outputs=[value("accuracy", 1), value("log", "x")])
        assert gateway.results(name).json()["outputs"] == {"score": 1}

    def test_one_file_is_given_as_it_is(self, gateway: Endpoints) -> None:
        name = started(gateway)
        content = bytes(range(256)) * 10_000
        gateway.server.end(name, outputs=[{"name": "model", "file": stored_file(gateway, "executions/u/m", content)}])
        answer = gateway.results(name)
        assert (answer.headers["content-type"], answer.content) == ("application/octet-stream", content)
        assert answer.headers["content-disposition"].split(f"_{name}_")[1] == "model"
        assert answer.headers["execution-id"] == name

    def test_a_file_among_values_is_a_link(self, gateway: Endpoints) -> None:
        name = started(gateway)
        file = stored_file(gateway, "executions/u/m", b"weights")
        gateway.server.end(name, outputs=[{"name": "model", "file": file}, value("accuracy", 1)])
        for shape, accuracy in (("", 1), ("v1/", {"value": 1})):
            outputs = gateway.get(f"endpoints/{shape}iris/executions/{name}").json()["outputs"]
            assert outputs["accuracy"] == accuracy
            url = outputs["model"]["url"]
            assert gateway.http.get(url).status_code == 401
            assert gateway.http.get(f"{url}?token={TOKEN}").content == b"weights"

    def test_a_failed_execution_is_told_with_its_own_message(self, gateway: Endpoints) -> None:
        for phase, status in (("Failed", 500), ("Error", 500), ("Cancelled", 409)):
            name = started(gateway)
            gateway.server.end(name, phase, message="the step ended with 3", reason="StepFailed")
            answer = gateway.results(name)
            assert problem(answer) == (status, f"Execution{phase}", "the step ended with 3")
            assert answer.json()["execution_id"] == answer.headers["craft-ai-execution-id"] == name

    def test_an_unknown_execution_output_and_a_deleted_one(self, gateway: Endpoints) -> None:
        assert problem(gateway.results("nothing"))[:2] == (404, "UnknownExecution")
        name = started(gateway)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(gateway.results, name)
            until(lambda: "callers_waiting 1.0" in gateway.http.get(f"{gateway.url}/metrics").text)
            gateway.server.remove("executions", name)
            assert problem(waiting.result())[0] == 404
        name = started(gateway)
        gateway.server.end(name, outputs=[value("accuracy", 1)])
        until(lambda: gateway.results(name, params={"wait": "0"}).status_code == 200)
        missing = gateway.get(f"endpoints/iris/executions/{name}/outputs/nothing")
        assert problem(missing)[:2] == (404, "UnknownOutput")

    def test_waiting_goes_on_when_the_connection_to_the_cluster_is_lost(self, gateway: Endpoints) -> None:
        name = started(gateway)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(gateway.results, name, params={"wait": "60"})
            until(lambda: "callers_waiting 1.0" in gateway.http.get(f"{gateway.url}/metrics").text)
            gateway.server.cut()
            gateway.server.end(name, outputs=[value("accuracy", 1)])
            assert waiting.result().json()["outputs"] == {"accuracy": 1}

    def test_what_was_missed_is_found_by_listing_again(self, gateway: Endpoints) -> None:
        ended, removed = started(gateway), started(gateway)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(gateway.results, name, params={"wait": "60"}) for name in (ended, removed)]
            until(lambda: "callers_waiting 2.0" in gateway.http.get(f"{gateway.url}/metrics").text)
            gateway.server.silent = True
            gateway.server.end(ended, outputs=[value("accuracy", 1)])
            gateway.server.remove("executions", removed)
            gateway.server.silent = False
            gateway.server.expire()
            assert waiting[0].result().json()["outputs"] == {"accuracy": 1}
            assert problem(waiting[1].result())[:2] == (404, "UnknownExecution")

    def test_200_callers_wait_at_once_and_nobody_polls(self, gateway: Endpoints) -> None:
        names = [started(gateway) for _ in range(20)]
        with (
            httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)) as http,
            ThreadPoolExecutor(200) as pool,
        ):
            headers = {"Authorization": f"EndpointToken {TOKEN}"}
            urls = [f"{gateway.environment}/endpoints/iris/executions/{name}" for name in names] * 10
            waiting = [pool.submit(http.get, url, headers=headers) for url in urls]
            until(lambda: "callers_waiting 200.0" in gateway.http.get(f"{gateway.url}/metrics").text)
            gateway.server.seen.clear()
            for name in names:
                gateway.server.end(name, outputs=[value("accuracy", 1)])
            assert {each.result().status_code for each in waiting} == {200}
        assert gateway.server.requests("GET", "executions") == []
