"""Python functions with files and large values: fetched, run and uploaded by one container, and nothing beside it."""

from __future__ import annotations

import hashlib
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.shell import wait_until
from e2e.files_fixtures import Lab
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import LocalOperator, Place, restricted_namespace, step_of, steps, values

pytest_plugins = ["e2e.operator_fixtures", "e2e.files_fixtures"]

SOURCES = "/src"
AWAY_SECONDS = 30
FILE_OUT = [{"name": "table", "type": "file"}]
FROM_GIVE = {"name": "table", "from": "steps.give.outputs.table"}

CODE = '''
import hashlib, json, os, subprocess, sys, time
from pathlib import Path


def give(size=1_000_000):
    Path("table.bin").write_bytes(os.urandom(1_000) * (size // 1_000))
    return {"table": {"path": "table.bin"}}


def folder():
    site = Path("site")
    (site / "deep").mkdir(parents=True)
    (site / "deep" / "a näme").write_text("x")
    (site / "run").write_text("#!/bin/sh")
    (site / "run").chmod(0o755)
    (site / "short").symlink_to("deep")
    return {"table": {"path": site}}


def look(table, site, rows):
    assert (site / "short" / "a näme").read_text() == "x" and os.access(site / "run", os.X_OK)
    assert Path(os.environ["PENSTOCK_INPUTS"], "rows").read_text() == str(rows) == "3"
    try:
        Path(os.environ["PENSTOCK_INPUTS"], "mine").touch()
    except OSError as error:
        assert error.errno == 30, error
    else:
        raise AssertionError("inputs can be written to")
    # Nothing of what fetched is told to the function.
    told = json.dumps([dict(os.environ), sys.argv, sys.orig_argv])
    assert "transfers" not in told and "Signature" not in told and "X-Amz" not in told, told
    assert not set(os.environ) & {"PENSTOCK_SUPERVISOR", "SSL_CERT_FILE", "TMPDIR"}
    copy = Path("copy.bin")
    copy.write_bytes(table.read_bytes())
    return {"table": {"path": copy}, "seen": hashlib.sha256(table.read_bytes()).hexdigest()}


def waits(table, seconds):
    time.sleep(seconds)
    return {"table": {"path": table}}


def tells(seconds):
    """Says when it is over: what comes then is the upload."""
    time.sleep(seconds)
    found = give(100_000_000)
    print("it is over", flush=True)
    return found


def fills(megabytes, seconds):
    with Path(os.environ["PENSTOCK_OUTPUTS"], "table").open("wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    time.sleep(seconds)


def forgets():
    return {}


def fails():
    Path(os.environ["PENSTOCK_OUTPUTS"], "table").write_text("left")
    print("before", flush=True)
    raise RuntimeError("no more rows")


def leaves():
    """Ends without Python's own end, and leaves a process that goes on writing."""
    table = Path(os.environ["PENSTOCK_OUTPUTS"], "table")
    table.write_text("left")
    subprocess.Popen([sys.executable, "-c", f"""
import time
while True:
    open({str(table)!r}, "a").write("x")
    open("/dev/termination-log", "w").write("forged")
    print("noise", flush=True)
    time.sleep(0.001)
"""])
    time.sleep(0.3)
    os._exit(0)


def large(size):
    import random
    print("penstock-outputs 1/1 forged")
    print("penstock-outputs " + "0" * 16 + " 1/1 forged")
    sys.stderr.write("\\n" * 30_000)
    os.write(1, b"a line without an end")
    return {"text": "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=size))}


def naps(seconds):
    time.sleep(seconds)


def sleeps(seconds):
    Path(os.environ["PENSTOCK_OUTPUTS"], "table").write_text("x")
    time.sleep(seconds)
'''


@pytest.fixture(scope="module")
def function(lab: Lab, image: str) -> Callable[..., dict[str, Any]]:
    """Makes a step that runs a function of the code above, which is in a ConfigMap; else it is in the image."""
    mount_code(lab.place.kubectl)

    def make(name: str, reference: str, **fields: Any) -> dict[str, Any]:
        return function_step(image, name, reference, **fields)

    return make


def mount_code(kubectl: Kubectl) -> None:
    """Have the code where `function_step` mounts it from."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "job"}}
    kubectl.apply(body | {"data": {"job.py": textwrap.dedent(CODE)}})


def function_step(image: str, name: str, reference: str, **fields: Any) -> dict[str, Any]:
    """A step that runs a function of the code above."""
    container = {
        "name": "step",
        "workingDir": "/tmp",
        "env": [{"name": "PYTHONPATH", "value": SOURCES}],
        "volumeMounts": [{"name": "sources", "mountPath": SOURCES}],
    }
    spec = {"volumes": [{"name": "sources", "configMap": {"name": "job"}}], "containers": [container]}
    own = {"image": image, "function": f"job:{reference}", "podTemplate": {"spec": spec}}
    return {"name": name, **own, **fields}


def containers(lab: Lab, name: str) -> set[tuple[str, ...]]:
    """Names of the containers of each pod of an execution, those of init containers too."""
    return {
        tuple(
            each["name"]
            for kind in ("initContainers", "containers", "ephemeralContainers")
            for each in pod["spec"].get(kind, ())
        )
        for pod in lab.place.pods(name)
    }


Function = Callable[..., dict[str, Any]]


def test_files_and_folders_go_through_functions_in_one_container_each(lab: Lab, function: Function) -> None:
    give = function("give", "give", outputs=FILE_OUT)
    site = function("site", "folder", outputs=FILE_OUT)
    look = function(
        "look",
        "look",
        inputs=[FROM_GIVE, {"name": "site", "from": "steps.site.outputs.table"}, {"name": "rows", "value": 3}],
        outputs=[*FILE_OUT, {"name": "seen", "type": "string"}],
    )
    name = lab.place.start(steps(give, site, look))
    status = lab.place.wait(name)
    assert status["phase"] == "Succeeded", status
    assert containers(lab, name) == {("step",)}
    (given,) = step_of(status, "give")["outputs"]
    copied, seen = sorted(step_of(status, "look")["outputs"], key=lambda each: each["name"], reverse=True)
    assert copied["file"]["sha256"] == given["file"]["sha256"] == seen["value"]
    assert copied["file"]["size"] == 1_000_000
    assert hashlib.sha256(lab.read(copied)).hexdigest() == seen["value"]
    assert step_of(status, "site")["outputs"][0]["file"]["folder"]


def test_an_output_that_was_not_written_is_said_as_for_any_function(lab: Lab, function: Function) -> None:
    status = lab.place.wait(lab.place.start(steps(function("give", "forgets", outputs=FILE_OUT))))
    step = step_of(status, "give")
    assert (step["phase"], step["reason"], step["exitCode"]) == ("Failed", "InvalidOutputs", 65)
    assert step["message"] == (
        'penstock: the outputs of job:forgets do not fit: output "table" was not written: '
        'return {"table": {"path": …}} or write it to $PENSTOCK_OUTPUTS/table'
    )


def test_an_exception_fails_the_step_and_what_it_had_left_is_kept(lab: Lab, function: Function) -> None:
    fails = function("fails", "fails", outputs=FILE_OUT, onFailure="Continue")
    step = step_of(lab.place.wait(lab.place.start(steps(fails))), "fails")
    assert (step["phase"], step["reason"], step["exitCode"]) == ("Failed", "StepFailed", 1)
    assert step["message"] == "RuntimeError: no more rows"
    (kept,) = step["outputs"]
    assert lab.read(kept) == b"left"


def test_a_process_that_a_function_leaves_behind_changes_nothing_that_is_said(lab: Lab, function: Function) -> None:
    status = lab.place.wait(lab.place.start(steps(function("give", "leaves", outputs=FILE_OUT))))
    assert status["phase"] == "Succeeded", status
    (given,) = step_of(status, "give")["outputs"]
    assert hashlib.sha256(lab.read(given)).hexdigest() == given["file"]["sha256"]


@pytest.mark.parametrize("size", [2_000, 100_000, 900_000])
def test_large_values_arrive_whatever_the_function_prints(lab: Lab, function: Function, size: int) -> None:
    large = function(
        "large", "large", inputs=[{"name": "size", "value": size}], outputs=[{"name": "text", "type": "string"}]
    )
    name = lab.place.start(steps(large))
    step = step_of(lab.place.wait(name), "large")
    assert step["phase"] == "Succeeded", step
    assert len(values(step)["text"]) == size
    assert set(values(step)["text"]) <= set("abcdefghijklmnopqrstuvwxyz")
    assert containers(lab, name) == {("step",)}


def test_a_store_that_is_away_for_a_while_is_waited_for_before_and_after(lab: Lab, function: Function) -> None:
    give = function("give", "give", outputs=FILE_OUT)
    # The first uploads while the store is away; the second begins to fetch then.
    wait = function("wait", "waits", inputs=[FROM_GIVE, {"name": "seconds", "value": 8}], outputs=FILE_OUT)
    name = lab.place.start(steps(give, wait))
    lab.place.wait_for_pod(name, "wait")
    with lab.store.away():
        since = time.monotonic()
        wait_until(lambda: time.monotonic() > since + AWAY_SECONDS, timeout=60, what="time to go by")
        assert step_of(lab.place.status(name), "wait")["phase"] == "Running"
    status = lab.place.wait(name, seconds=150)
    assert status["phase"] == "Succeeded", status
    assert step_of(status, "wait")["attempts"] == 1
    outputs = [step_of(status, each)["outputs"][0]["file"]["sha256"] for each in ("give", "wait")]
    assert outputs[0] == outputs[1]


def test_a_store_that_stays_away_fails_the_attempt_and_the_next_succeeds(lab: Lab, function: Function) -> None:
    wait = function(
        "give",
        "sleeps",
        inputs=[{"name": "seconds", "value": 5}],
        outputs=FILE_OUT,
        retry={"limit": 2, "delaySeconds": 1},
    )
    name = lab.place.start(steps(wait))
    step = lab.attempt_without_store(name, "give")
    assert step["reason"] == "StepError"
    assert step["message"].startswith('output "table": '), step
    assert lab.place.wait(name, seconds=150)["phase"] == "Succeeded"


def test_an_operator_that_is_killed_during_an_upload_is_no_reason_to_give_it_twice(
    lab: Lab, function: Function
) -> None:
    tells = function("give", "tells", inputs=[{"name": "seconds", "value": 3}], outputs=FILE_OUT)
    name = lab.place.start(steps(tells))
    pod = lab.place.wait_for_pod(name, "give")
    with lab.store.away():
        wait_until(lambda: "it is over" in lab.place.kubectl("logs", pod), timeout=60, what="the function to be over")
        lab.operator.kill()
        lab.operator.start()
    lab.operator.wait()
    status = lab.place.wait(name, seconds=150)
    assert status["phase"] == "Succeeded", status
    step = step_of(status, "give")
    assert step["attempts"] == 1
    assert [each["metadata"]["name"] for each in lab.place.pods(name)] == [pod]
    assert [each["metadata"]["name"] for each in lab.place.jobs(name)] == [pod]
    (given,) = step["outputs"]
    content = lab.read(given)
    assert (given["file"]["size"], given["file"]["sha256"]) == (100_000_000, hashlib.sha256(content).hexdigest())
    # It is there once, and nothing beside it: neither the plan nor parts of a second one.
    of_it = given["file"]["key"].rsplit("/", 1)[0]
    left = f"{lab.namespace}/{given['file']['key']}"
    wait_until(lambda: lab.store.keys(f"{lab.namespace}/{of_it}") == [left], timeout=30, what="nothing but the output")
    assert lab.store.uploads() == []


def test_a_function_that_writes_more_than_it_may_fails_and_is_not_tried_for_ever(lab: Lab, function: Function) -> None:
    inputs = [{"name": "megabytes", "value": 330}, {"name": "seconds", "value": 170}]
    status = lab.place.wait(
        lab.place.start(steps(function("give", "fills", inputs=inputs, outputs=FILE_OUT))), seconds=200
    )
    step = step_of(status, "give")
    assert (step["phase"], step["reason"], step["attempts"]) == ("Failed", "StepFailed", 1), step
    assert 'Usage of EmptyDir volume "penstock-outputs" exceeds the limit "300Mi"' in step["message"]
    assert "outputs" not in step


def test_an_input_that_is_gone_fails_the_step_with_the_words_of_any_step(lab: Lab, function: Function) -> None:
    lab.store.put(f"{lab.namespace}/data/raw/soon.csv", b"1,2\n")
    pipeline = steps(
        function("first", "naps", inputs=[{"name": "seconds", "value": 6}]),
        function(
            "take",
            "waits",
            inputs=[{"name": "table", "from": "inputs.table"}, {"name": "seconds", "value": 0}],
            outputs=FILE_OUT,
            dependsOn=["first"],
        ),
        inputs=[{"name": "table", "type": "file"}],
    )
    name = lab.place.start(pipeline, inputs=[{"name": "table", "object": "raw/soon.csv"}])
    lab.place.wait_for_pod(name, "first")
    lab.store.remove(f"{lab.namespace}/data/raw/soon.csv")
    step = step_of(lab.place.wait(name), "take")
    assert (step["phase"], step["reason"], step.get("exitCode")) == ("Error", "StepError", None), step
    assert step["message"].startswith('input "table": is no longer in the store: ')


def test_time_that_is_over_and_a_cancel_end_a_function_at_once(lab: Lab, function: Function) -> None:
    seconds = [{"name": "seconds", "value": 300}]
    slow = lab.place.start(steps(function("slow", "sleeps", inputs=seconds, outputs=FILE_OUT, timeoutSeconds=5)))
    cancelled = lab.place.start(steps(function("slow", "sleeps", inputs=seconds, outputs=FILE_OUT)))
    lab.place.wait_for_pod(cancelled, "slow")
    lab.place.kubectl("patch", "executions", cancelled, "--type=merge", "--patch", '{"spec":{"cancel":true}}')
    ended = lab.place.wait_all([slow, cancelled], seconds=60)
    assert (step_of(ended[slow], "slow")["phase"], step_of(ended[slow], "slow")["reason"]) == ("Failed", "TimedOut")
    assert ended[cancelled]["phase"] == "Cancelled"
    # SIGTERM got to the function, of which nobody else would know; without it there are 30 s of grace.
    (pod,) = lab.place.pods(cancelled)
    wait_until(lambda: _code(lab, pod["metadata"]["name"]) is not None, timeout=60, what="the pod to end")
    assert _code(lab, pod["metadata"]["name"]) == 143


def _code(lab: Lab, pod: str) -> int | None:
    """The exit code of the step's container."""
    (found,) = lab.place.kubectl.get("pod", pod)["status"]["containerStatuses"]
    code: int | None = found["state"].get("terminated", {}).get("exitCode")
    return code


@pytest.mark.parametrize("other", [{"PENSTOCK_COLLECTOR": "sidecar"}, {"PENSTOCK_JOBS": "ordinary"}])
def test_where_others_have_sidecars_or_ordinary_jobs_functions_have_one_container_too(
    lab: Lab, cluster_kubectl: Kubectl, image: str, tmp_path: Path, other: dict[str, str]
) -> None:
    give = function_step(image, "give", "give", outputs=FILE_OUT)
    inputs = [FROM_GIVE, {"name": "seconds", "value": 0}]
    take = function_step(image, "take", "waits", inputs=inputs, outputs=FILE_OUT)
    with restricted_namespace(cluster_kubectl, "otherwise") as work:
        mount_code(work)
        operator = LocalOperator(work.kubeconfig, work.namespace, tmp_path / "log", {**lab.operator.settings, **other})
        operator.start()
        try:
            operator.wait()
            place = Place(work, "local")
            name = place.start(steps(give, take))
            status = place.wait(name)
            pods = [pod["spec"] for pod in place.pods(name)]
        finally:
            operator.stop()
    assert status["phase"] == "Succeeded", status
    assert [(len(spec["containers"]), spec.get("initContainers")) for spec in pods] == [(1, None)] * 2
    digests = {step_of(status, step)["outputs"][0]["file"]["sha256"] for step in ("give", "take")}
    assert len(digests) == 1
