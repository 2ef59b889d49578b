"""Deployments on a real cluster: conditions, tokens, published files, and what people do by the command line."""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import datetime

from e2e.cluster.shell import wait_until
from e2e.deployment_fixtures import (
    MINUTE,
    SECONDS,
    TICK_SECONDS,
    Deployments,
    each_minute,
    penstock,
    pipeline,
    wait_for_time,
)
from e2e.files_fixtures import Lab
from e2e.operator_fixtures import LocalOperator, script, values

pytest_plugins = ["e2e.operator_fixtures", "e2e.deployment_fixtures", "e2e.files_fixtures"]


def test_what_is_wrong_is_in_the_condition_and_heals_when_it_is_mended(own: tuple[Deployments, LocalOperator]) -> None:
    deployments, _ = own
    deployments.apply("early", each_minute("later"))
    deployments.ready("early", "False", "PipelineNotReady")
    deployments.place.pipeline(pipeline(), name="later")
    deployments.ready("early", "True", "Scheduled")
    broken = pipeline()
    broken["steps"][0]["dependsOn"] = ["nobody"]
    deployments.place.pipeline(broken, name="later")
    deployments.ready("early", "False", "PipelineNotReady")
    assert '"nobody"' in deployments.message("early")
    deployments.place.pipeline(pipeline(), name="later")
    deployments.ready("early", "True", "Scheduled")

    unknown = [{"name": "whom", "value": "x"}]
    deployments.apply("early", each_minute("later", inputs=unknown))
    deployments.ready("early", "False", "InvalidDeployment")
    assert 'spec.inputs[0].name: the pipeline has no input "whom"' in deployments.message("early")

    # A key that is not there yet: the minute that is due waits for it.
    key = [{"name": "who", "configMapKeyRef": {"name": "settings", "key": "who"}}]
    limited = {"history": {"succeeded": 1, "failed": 1}}
    deployments.apply("early", each_minute("later", inputs=key, **limited))
    deployments.ready("early", "True", "Scheduled")
    wait_until(
        lambda: 'no key "who"' in deployments.message("early"), timeout=MINUTE + TICK_SECONDS, what="the missing key"
    )
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"who": "config"}}
    deployments.kubectl.apply(settings)
    (made, *_) = deployments.wait_for("early", 1, MINUTE + TICK_SECONDS)
    assert made["spec"]["inputs"] == [{"name": "who", "value": "config"}]
    deployments.ready("early", "True", "Scheduled")
    # The history keeps one.
    deployments.place.wait(made["metadata"]["name"], "Succeeded")
    wait_until(
        lambda: made["metadata"]["name"] not in {each["metadata"]["name"] for each in deployments.executions("early")},
        timeout=2 * MINUTE + TICK_SECONDS,
        what="the older execution to be deleted",
    )


def test_an_endpoint_has_a_token_that_is_rotated_with_an_overlap_and_goes_with_it(
    own: tuple[Deployments, LocalOperator],
) -> None:
    deployments, operator = own
    kubectl = deployments.kubectl
    deployments.place.pipeline(pipeline(), name="hello")
    called = {"pipeline": {"name": "hello"}, "endpoint": {"path": "hello"}}
    deployments.apply("called", called)
    status = deployments.ready("called", "True", "Serving")
    assert status["url"] == f"https://penstock.example/environments/{kubectl.namespace}/endpoints/hello"

    def token() -> str:
        found: str = kubectl.get("secret", "called-endpoint-token")["data"]["token"]
        return base64.b64decode(found).decode()

    def digest() -> str:
        return hashlib.sha256(token().encode()).hexdigest()

    first = digest()
    assert len(token()) == 43
    assert status["endpoint"] == {"tokenSecret": "called-endpoint-token", "tokens": [{"sha256": first}]}
    asked = {"penstock.dev/rotate-token": "1", "penstock.dev/rotation-overlap": "1h"}
    deployments.apply("called", called, annotations=asked)
    wait_until(
        lambda: deployments.get("called")["status"]["endpoint"].get("rotation") == "1",
        timeout=SECONDS,
        what="the token to be rotated",
    )
    new, old = deployments.get("called")["status"]["endpoint"]["tokens"]
    assert (new, old["sha256"]) == ({"sha256": digest()}, first)
    assert digest() != first
    left = datetime.fromisoformat(old["until"]).timestamp() - time.time()
    assert 3_000 < left <= 3_600
    # A restart makes no other one, and nothing of it is in the log.
    before = digest()
    operator.kill()
    operator.start()
    operator.wait()
    deployments.apply("called", called | {"suspend": True}, annotations=asked)
    deployments.ready("called", "True", "Suspended")
    assert digest() == before
    assert token() not in operator.log.read_text()
    kubectl("delete", "deployments.penstock.dev", "called", "--wait=false")
    gone = ("get", "secret", "called-endpoint-token")
    wait_until(lambda: kubectl.attempt(*gone)[0] != 0, timeout=SECONDS, what="the token's Secret to be gone")


def test_people_apply_the_examples_and_do_all_by_the_command_line(own: tuple[Deployments, LocalOperator]) -> None:
    deployments, operator = own
    kubectl = deployments.kubectl
    penstock(kubectl, "apply", "examples/deployments")
    deployments.ready("nightly", "True", "Scheduled")
    deployments.ready("greeting", "True", "Serving")
    listed = penstock(kubectl, "get", "deployments", "-o", "wide")
    assert "At 09:00 on weekdays, Europe/Paris" in listed
    columns = kubectl("get", "pdep", "greeting").splitlines()
    assert columns[0].split() == [
        *("NAME", "PIPELINE", "SCHEDULE", "ENDPOINT", "SUSPENDED", "ACTIVE", "LAST", "NEXT", "READY", "AGE")
    ]
    before = operator.writes()
    started = penstock(kubectl, "trigger", "greeting", "--input", "name=Ada")
    status = deployments.place.wait(started, "Succeeded")
    assert values(status) == {"text": "Good morning, Ada!"}
    made = kubectl.get("executions", started)
    assert made["metadata"]["labels"] == {"penstock.dev/deployment": "greeting", "penstock.dev/trigger": "manual"}
    assert made["spec"]["outputs"] == [{"name": "text", "endpoint": "text"}]
    assert operator.writes() > before
    assert "is required" in penstock(kubectl, "trigger", "greeting", code=2)
    assert "no key" in penstock(kubectl, "trigger", "nightly", code=2)

    told = penstock(kubectl, "token", "rotate", "greeting", "--overlap", "30m")
    assert "valid for 30m" in told
    tokens = deployments.get("greeting")["status"]["endpoint"]["tokens"]
    assert ["until" in each for each in tokens] == [False, True]
    described = penstock(kubectl, "describe", "deployment/greeting")
    for said in (started, "in Secret greeting-endpoint-token", "Old token:", "True (Serving", "Queue 10"):
        assert said in described
    penstock(kubectl, "suspend", "deployment/greeting")
    deployments.ready("greeting", "True", "Suspended")
    assert "is suspended" in penstock(kubectl, "trigger", "greeting", "--input", "name=Ada", code=2)
    penstock(kubectl, "resume", "deployment/greeting")
    deployments.ready("greeting", "True", "Serving")
    wait_until(lambda: deployments.get("greeting")["status"]["active"] == 0, timeout=SECONDS, what="none to run")
    # An idle deployment costs nothing at all.
    idle = operator.writes()
    wait_for_time(time.time() + 12)
    assert operator.writes() == idle


def test_a_file_is_published_to_the_data_store_before_its_execution_has_succeeded(lab: Lab) -> None:
    write = script("write", 'echo hello > "$PENSTOCK_OUTPUTS/table"', outputs=[{"name": "table", "type": "file"}])
    spec = {"outputs": [{"name": "table", "type": "file", "from": "steps.write.outputs.table"}], "steps": [write]}
    lab.place.pipeline(spec, name="tables")
    deployments = Deployments(lab.place)
    published = [{"name": "table", "object": "tables/{date}/{execution_id}"}]
    never = {"cron": "0 0 29 2 *"}
    deployments.apply("tables", {"pipeline": {"name": "tables"}, "schedule": never, "outputs": published})
    deployments.ready("tables", "True", "Scheduled")
    name = penstock(lab.place.kubectl, "trigger", "tables")
    status = lab.place.wait(name, "Succeeded")
    day = status["startedAt"][:10].replace("-", "")
    assert lab.store.read(f"{lab.namespace}/data/tables/{day}/{name}") == b"hello\n"
    (given,) = status["outputs"]
    assert lab.read(given) == b"hello\n"
