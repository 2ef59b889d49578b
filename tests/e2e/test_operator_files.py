"""Files on a cluster: from step to step through an object store, by signed requests alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.shell import wait_until
from e2e.files_fixtures import Lab
from e2e.kubectl import Kubectl
from e2e.operator_fixtures import LocalOperator, Place, restricted_namespace, script, step_of, steps

pytest_plugins = ["e2e.operator_fixtures", "e2e.files_fixtures"]

TRIES = 8
FROM_GIVE = {"name": "table", "from": "steps.give.outputs.table"}


def file_out(name: str, text: str, **fields: Any) -> dict[str, Any]:
    """A step with one file output."""
    return script(name, text, outputs=[{"name": "table", "type": "file"}], **fields)


def test_a_file_goes_from_one_step_to_the_next(lab: Lab) -> None:
    give = file_out("give", 'printf "pear\\napple\\n" > "$PENSTOCK_OUTPUTS/table"')
    take = file_out(
        "take",
        'sort "$INPUT_TABLE" > "$PENSTOCK_OUTPUTS/table"; test "$(cat "$PENSTOCK_INPUTS/rows")" = 3',
        inputs=[{"name": "table", "from": "steps.give.outputs.table"}, {"name": "rows", "value": 3}],
    )
    name = lab.place.start(steps(give, take))
    status = lab.place.wait(name)
    assert status["phase"] == "Succeeded", status
    (given,) = step_of(status, "take")["outputs"]
    assert lab.read(given) == b"apple\npear\n"


FOLDER = r"""
mkdir -p "$PENSTOCK_OUTPUTS/site/pages/deep" "$PENSTOCK_OUTPUTS/site/empty"
echo home > "$PENSTOCK_OUTPUTS/site/index.txt"
echo x > "$PENSTOCK_OUTPUTS/site/pages/deep/a näme.txt"
printf '#!/bin/sh\necho ran\n' > "$PENSTOCK_OUTPUTS/site/run"; chmod 755 "$PENSTOCK_OUTPUTS/site/run"
ln -s pages/deep "$PENSTOCK_OUTPUTS/site/short"
: > "$PENSTOCK_OUTPUTS/nothing"
dd if=/dev/zero of="$PENSTOCK_OUTPUTS/large" bs=1048576 count=150 2>/dev/null
echo "words=two" >> "$PENSTOCK_OUTPUT"
"""
CHECK = r"""
cd "$INPUT_SITE"
test "$(cat 'pages/deep/a näme.txt')" = x
test "$(./run)" = ran
test "$(readlink short)" = pages/deep
test -d empty
test "$(cat 'short/a näme.txt')" = x
test -f "$INPUT_NOTHING" && test ! -s "$INPUT_NOTHING"
test "$(wc -c < "$INPUT_LARGE")" = 157286400
test "$INPUT_WORDS" = two && test "$(cat "$PENSTOCK_INPUTS/words")" = two
if touch "$PENSTOCK_INPUTS/mine" 2>/dev/null; then exit 9; fi
if ls /penstock/transfers 2>/dev/null; then exit 8; fi
"""


def test_folders_empty_files_and_large_ones_arrive_as_they_were(lab: Lab) -> None:
    kinds = {"site": "file", "nothing": "file", "large": "file", "words": "string"}
    make = script("make", FOLDER, outputs=[{"name": name, "type": kind} for name, kind in kinds.items()])
    check = script("check", CHECK, inputs=[{"name": name, "from": f"steps.make.outputs.{name}"} for name in kinds])
    status = lab.place.wait(lab.place.start(steps(make, check)), seconds=150)
    assert status["phase"] == "Succeeded", status
    found = {each["name"]: each.get("file") for each in step_of(status, "make")["outputs"]}
    assert found["site"]["folder"]
    assert (found["nothing"]["size"], found["large"]["size"]) == (0, 150 * 1_048_576)
    assert found["nothing"]["sha256"] == hashlib.sha256(b"").hexdigest()


def test_what_is_wrong_with_file_outputs_is_said(lab: Lab) -> None:
    wrong = {
        "missing": "exit 0",
        "outside": 'ln -s /etc/passwd "$PENSTOCK_OUTPUTS/table"',
        "inside": 'mkdir "$PENSTOCK_OUTPUTS/table"; ln -s /etc/passwd "$PENSTOCK_OUTPUTS/table/x"',
        "pipe": 'mkfifo "$PENSTOCK_OUTPUTS/table"',
    }
    started = {name: lab.place.start(steps(file_out("give", text))) for name, text in wrong.items()}
    ended = lab.place.wait_all(list(started.values()))
    found = {name: step_of(ended[started[name]], "give") for name in wrong}
    assert {(step["phase"], step["reason"]) for step in found.values()} == {("Failed", "InvalidOutputs")}
    assert found["missing"]["message"] == 'output "table" was not written: write it to $PENSTOCK_OUTPUTS/table'
    for name in ("outside", "inside"):
        assert "is a link to the absolute path /etc/passwd: copy what it points to" in found[name]["message"]
    assert "a named pipe" in found["pipe"]["message"]


def test_files_of_a_step_that_failed_are_kept(lab: Lab) -> None:
    fails = file_out("fails", 'echo left > "$PENSTOCK_OUTPUTS/table"; exit 3', onFailure="Continue")
    status = lab.place.wait(lab.place.start(steps(fails)))
    (kept,) = step_of(status, "fails")["outputs"]
    assert lab.read(kept) == b"left\n"
    assert step_of(status, "fails")["exitCode"] == 3


def test_an_object_of_the_data_store_is_an_input(lab: Lab) -> None:
    lab.store.put(f"{lab.namespace}/data/raw/a table.csv", b"1,2\n")
    pipeline = steps(
        script("check", 'test "$(cat "$INPUT_TABLE")" = 1,2', inputs=[{"name": "table", "from": "inputs.table"}]),
        inputs=[{"name": "table", "type": "file"}],
    )
    there = lab.place.start(pipeline, inputs=[{"name": "table", "object": "raw/a table.csv"}])
    missing = lab.place.start(pipeline, inputs=[{"name": "table", "object": "raw/none.csv"}])
    ended = lab.place.wait_all([there, missing])
    assert ended[there]["phase"] == "Succeeded", ended[there]
    assert (ended[missing]["phase"], ended[missing]["reason"]) == ("Failed", "InvalidInputs")
    assert ended[missing]["message"] == (
        "spec.inputs[table].object: there is no object 'raw/none.csv' in the data store"
    )


def test_a_file_is_taken_from_the_cache_as_long_as_it_is_there(lab: Lab) -> None:
    give = file_out("give", 'date +%s%N > "$PENSTOCK_OUTPUTS/table"', cache={"ttlSeconds": 3600})
    take = script("take", 'test -s "$INPUT_TABLE"', inputs=[FROM_GIVE])
    pipeline = steps(give, take)
    first = lab.place.wait(lab.place.start(pipeline))
    (made,) = step_of(first, "give")["outputs"]
    again = lab.place.wait(lab.place.start(pipeline))
    assert step_of(again, "give")["phase"] == "Cached"
    assert step_of(again, "give")["outputs"] == [made]
    assert again["phase"] == "Succeeded"
    lab.store.remove(f"{lab.namespace}/{made['file']['key']}")
    assert step_of(lab.place.wait(lab.place.start(pipeline)), "give")["phase"] == "Succeeded"


def test_objects_go_with_their_execution_and_others_stay(lab: Lab) -> None:
    lab.store.put(f"{lab.namespace}/data/kept", b"kept")
    give = file_out("give", 'echo "$PENSTOCK_EXECUTION" > "$PENSTOCK_OUTPUTS/table"')
    remembered = file_out("remembered", 'echo x > "$PENSTOCK_OUTPUTS/table"', cache={"key": "'sweep'"})
    ended = {}
    for _ in range(2):
        name = lab.place.start(steps(give, remembered))
        ended[name] = lab.place.wait(name)
    old, new = ended
    keys = {name: [step["outputs"][0]["file"]["key"] for step in ended[name]["steps"]] for name in ended}
    assert keys[new][1] == keys[old][1]  # from the cache
    lab.place.kubectl("delete", "executions", old)
    lab.gone(keys[old][0])
    assert lab.there(keys[new][0])
    assert lab.there(keys[new][1])
    assert lab.store.read(f"{lab.namespace}/data/kept") == b"kept"
    # The plan of an attempt that has ended leaves nothing beside what it gave.
    left = [key for key in lab.store.keys(f"{lab.namespace}/executions") if key.endswith("/.transfers")]
    assert left == []
    assert lab.store.uploads() == []


def test_an_operator_that_is_killed_meanwhile_changes_nothing(lab: Lab) -> None:
    give = file_out("give", 'sleep 8; echo x > "$PENSTOCK_OUTPUTS/table"')
    take = script("take", 'test "$(cat "$INPUT_TABLE")" = x', inputs=[FROM_GIVE])
    name = lab.place.start(steps(give, take))
    pod = lab.place.wait_for_pod(name, "give")
    before = lab.place.kubectl.get("secret", pod)
    lab.operator.kill()
    lab.operator.start()
    lab.operator.wait()
    # It may not read the Secret, and puts another in its place all the same, with the same owner.
    wait_until(
        lambda: lab.place.kubectl.get("secret", pod)["data"] != before["data"], timeout=30, what="a renewed plan"
    )
    after = lab.place.kubectl.get("secret", pod)
    for field in ("uid", "labels", "ownerReferences"):
        assert after["metadata"][field] == before["metadata"][field]
    status = lab.place.wait(name)
    assert status["phase"] == "Succeeded", status
    assert step_of(status, "give")["attempts"] == 1


def test_a_store_that_is_down_is_waited_for(lab: Lab) -> None:
    give = file_out("give", 'echo x > "$PENSTOCK_OUTPUTS/table"; sleep 6')
    take = script("take", 'test "$(cat "$INPUT_TABLE")" = x', inputs=[FROM_GIVE])
    begun = lab.place.start(steps(give, take))
    lab.place.wait_for_pod(begun, "give")
    with lab.store.away():
        later = lab.place.start(steps(give, take))
        lab.step_ended(begun, "give")
        # The pauses between its tries grow: these take about 20 seconds.
        tried = f'"execution": "{later}"'
        wait_until(lambda: lab.operator.log.read_text().count(tried) >= TRIES, timeout=90, what="tries in vain")
    ended = lab.place.wait_all([begun, later], seconds=150)
    assert {status["phase"] for status in ended.values()} == {"Succeeded"}, ended
    assert step_of(ended[begun], "give")["attempts"] == 1


def test_a_store_that_stays_away_fails_the_attempt_and_the_next_succeeds(lab: Lab) -> None:
    give = file_out("give", 'echo x > "$PENSTOCK_OUTPUTS/table"; sleep 5', retry={"limit": 2, "delaySeconds": 1})
    name = lab.place.start(steps(give))
    step = lab.attempt_without_store(name, "give")
    assert step["reason"] == "StepError"
    assert step["message"].startswith('output "table": '), step
    status = lab.place.wait(name, seconds=150)
    assert status["phase"] == "Succeeded", status


def test_a_step_that_writes_more_than_it_may_fails_and_is_not_tried_for_ever(lab: Lab) -> None:
    large = 'dd if=/dev/zero of="$PENSTOCK_OUTPUTS/table" bs=1048576 count=330 2>/dev/null; sleep 170'
    status = lab.place.wait(lab.place.start(steps(file_out("give", large))), seconds=200)
    step = step_of(status, "give")
    assert (step["phase"], step["reason"], step["attempts"]) == ("Failed", "StepFailed", 1), step
    assert 'Usage of EmptyDir volume "penstock-outputs" exceeds the limit "300Mi"' in step["message"]


def test_a_step_that_took_too_long_is_not_taken_for_one_that_failed(lab: Lab) -> None:
    slow = file_out("slow", 'echo x > "$PENSTOCK_OUTPUTS/table"; sleep 100', timeoutSeconds=4)
    status = lab.place.wait(lab.place.start(steps(slow)))
    assert (step_of(status, "slow")["phase"], step_of(status, "slow")["reason"]) == ("Failed", "TimedOut"), status


@pytest.mark.parametrize("other", [{"PENSTOCK_COLLECTOR": "sidecar"}, {"PENSTOCK_JOBS": "ordinary"}])
def test_a_native_sidecar_and_ordinary_jobs_do_the_same(
    lab: Lab, cluster_kubectl: Kubectl, tmp_path: Path, other: dict[str, str]
) -> None:
    give = file_out("give", 'echo x > "$PENSTOCK_OUTPUTS/table"')
    take = file_out("take", 'cat "$INPUT_TABLE" "$INPUT_TABLE" > "$PENSTOCK_OUTPUTS/table"', inputs=[FROM_GIVE])
    with restricted_namespace(cluster_kubectl, "otherwise") as work:
        settings = {**lab.operator.settings, **other}
        operator = LocalOperator(work.kubeconfig, work.namespace, tmp_path / "log", settings)
        operator.start()
        try:
            operator.wait()
            place = Place(work, "local")
            status = place.wait(place.start(steps(give, take)))
        finally:
            operator.stop()
        assert status["phase"] == "Succeeded", status
        (given,) = step_of(status, "take")["outputs"]
        assert lab.store.read(f"{work.namespace}/{given['file']['key']}") == b"x\nx\n"


def test_a_step_that_is_cancelled_ends_like_any_other(lab: Lab) -> None:
    give = file_out("give", 'echo x > "$PENSTOCK_OUTPUTS/table"; sleep 300')
    name = lab.place.start(steps(give))
    lab.place.wait_for_pod(name, "give")
    lab.place.kubectl("patch", "executions", name, "--type=merge", "--patch", '{"spec":{"cancel":true}}')
    assert step_of(lab.place.wait(name, seconds=45), "give")["phase"] == "Cancelled"
