"""What pods say about attempts, each told as the kubelet, the scheduler and people would have it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from kube_objects import NOON, SETTINGS, Reported, second
from penstock.controller.contract import declared_outputs
from penstock.engine.types import AttemptId, AttemptPhase, File, Observation
from penstock.kube.looks import Look, NeedsLog, Seen
from penstock.kube.manifests import job
from penstock.kube.outcomes import observe
from penstock.kube.podstate import needs_ending
from penstock.kube.transports import CollectorMode, PodSettings
from penstock.step import collector
from penstock.step.report import MESSAGE_BYTES, InLog, message

ID = AttemptId("train", -1, 1)
SHARED = PodSettings(collector_image="penstock:1", collector_mode=CollectorMode.SHARED)
ROWS: dict[str, Any] = {"outputs": {"rows": "number"}}
JSON: dict[str, Any] = {"outputs": {"table": "json"}}


def look(told: Reported, **fields: Any) -> Seen:
    attempt = told.attempt
    given = {"now": NOON + 11, "job": job(attempt), "pod": told.pod, **fields}
    return observe(Look(id=attempt.start.id, declared=declared_outputs(attempt.step), **given))


def end(told: Reported, **fields: Any) -> tuple[str | None, int | None, str]:
    """Reason, exit code and message of an attempt that has ended."""
    seen = look(told, **fields)
    assert seen.needs is None
    assert seen.observation.phase is AttemptPhase.ENDED, seen
    return seen.observation.reason, seen.observation.exit_code, seen.observation.message or ""


def waits(told: Reported, **fields: Any) -> Seen:
    """What is seen of an attempt that has not ended."""
    seen = look(told, **fields)
    assert seen.observation.phase is AttemptPhase.RUNNING, seen
    return seen


# --- before it runs ---------------------------------------------------------------------------------


def pending(told: Reported, **fields: Any) -> tuple[str | None, str]:
    seen = look(told, **fields)
    assert seen.observation.phase is AttemptPhase.PENDING
    return seen.observation.reason, seen.observation.message or ""


def test_a_pod_that_was_just_made_is_pending() -> None:
    assert pending(Reported()) == (None, "")
    assert pending(Reported().waiting("ContainerCreating")) == (None, "")


def test_an_unschedulable_pod_tells_what_the_scheduler_says() -> None:
    message = "0/1 nodes are available: 1 Insufficient cpu."
    told = Reported().condition("PodScheduled", "False", reason="Unschedulable", message=message)
    assert pending(told) == ("Unschedulable", f"no node takes its pod yet: {message}")


def test_a_pod_that_no_node_takes_has_no_more_time_than_others() -> None:
    told = Reported(timeout=60).condition("PodScheduled", "False", reason="Unschedulable", message="no room")
    told.pod["metadata"]["creationTimestamp"] = second(NOON)
    assert look(told, now=NOON + 59).again_at == NOON + 60
    assert pending(told, now=NOON + 59) == ("Unschedulable", "no node takes its pod yet: no room")
    assert end(told, now=NOON + 60) == (
        "TimedOut",
        None,
        "took longer than timeoutSeconds: 60; no node takes its pod yet: no room",
    )
    told.pod["spec"]["nodeName"] = "node1"  # from now on its kubelet keeps the time
    assert pending(told, now=NOON + 61)[0] == "Unschedulable"


def test_an_image_that_cannot_be_pulled_is_told_in_one_sentence_however_the_kubelet_puts_it() -> None:
    detail = 'failed to pull and unpack image "img:1": not found'
    one = pending(Reported().waiting("ErrImagePull", detail))
    assert one == ("ImagePullFailed", f'image "img:1" cannot be pulled: {detail}')
    assert one == pending(
        Reported().waiting("ImagePullBackOff", f'Back-off pulling image "img:1": ErrImagePull: {detail}')
    )
    old = Reported().waiting("ImagePullBackOff", 'Back-off pulling image "img:1"')
    assert pending(old) == ("ImagePullFailed", 'image "img:1" cannot be pulled')
    name = Reported().waiting("InvalidImageName", "couldn't parse image name")
    assert (
        pending(name)[1]
        == 'image "img:1" cannot be pulled: that is not the name of an image (couldn\'t parse image name)'
    )


def test_a_missing_secret_is_waited_for() -> None:
    told = Reported().waiting("CreateContainerConfigError", 'secret "s" not found')
    assert pending(told) == ("ConfigMissing", 'waits for what its container needs: secret "s" not found')


def test_an_image_that_wants_to_be_root_never_heals() -> None:
    message = 'container has runAsNonRoot and image will run as root (pod: "x_y(1)", container: step)'
    reason, code, said = end(Reported().waiting("CreateContainerConfigError", message))
    assert (reason, code) == ("StepError", None)
    assert said.startswith(
        "spec.steps[train].image: container has runAsNonRoot and image will run as root; steps never run as root: set"
    )


def test_a_collector_whose_image_cannot_be_pulled_is_named() -> None:
    told = (
        Reported(**JSON)
        .waiting("PodInitializing")
        .container("collector", init=True, waiting={"reason": "ErrImagePull", "message": "no such host"})
    )
    assert pending(told) == ("ContainerNotCreated", "waits for its init container collector: no such host")


def test_without_a_pod_its_job_is_asked() -> None:
    told = Reported()
    the_job = job(told.attempt)
    assert look(told, pod=None, job=None).observation == Observation(ID, AttemptPhase.LOST)
    assert pending(told, pod=None) == (None, "")
    suspended = {**the_job, "spec": {**the_job["spec"], "suspend": True}}
    assert pending(told, pod=None, job=suspended)[0] == "Suspended"
    assert end(told, pod=None, gone=True) == ("Disrupted", None, "its pod was deleted")
    ordinary = job(Reported(PodSettings(managed=False)).attempt)
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"}
    reason, _, message = end(told, pod=None, job={**ordinary, "status": {"conditions": [failed]}})
    assert (reason, message) == ("Disrupted", "the Job failed without a pod: m")


def test_a_running_step_began_when_its_container_did() -> None:
    assert look(Reported().running()) == Seen(Observation(ID, AttemptPhase.RUNNING, started_at=NOON))


# --- exit code 0 ------------------------------------------------------------------------------------


def test_success_is_final_as_soon_as_the_container_has_ended() -> None:
    seen = look(Reported().running().terminated())
    assert seen == Seen(Observation(ID, AttemptPhase.ENDED, started_at=NOON, finished_at=NOON + 10, exit_code=0))


@pytest.mark.parametrize("text", ["rows=5\n", "rows=4\nrows=5", '{"rows": 5}', "rows<<E\n5\nE\n"])
def test_the_termination_message_is_read_in_every_form(text: str) -> None:
    seen = look(Reported(**ROWS).terminated(message=text)).observation
    assert (seen.reason, seen.outputs) == (None, {"rows": 5})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'output "rows" was not written: append `rows=VALUE` to $PENSTOCK_OUTPUT'),
        ("rows=many\n", 'output "rows": wanted a number, got the string "many"'),
        ("rwos\n", '$PENSTOCK_OUTPUT line 1: "rwos" is neither name=value nor name<<END'),
        ("Error on reading termination log /x: bad", "Error on reading termination log /x: bad"),
    ],
)
def test_wrong_outputs_are_invalid_with_every_problem(text: str, problem: str) -> None:
    assert end(Reported(**ROWS).terminated(message=text)) == ("InvalidOutputs", 0, problem)


def test_undeclared_outputs_are_noticed_where_none_are_declared() -> None:
    reason, _, message = end(Reported().terminated(message="rows=1\n"))
    assert (reason, message) == (
        "InvalidOutputs",
        'output "rows" is not declared: the step declares no outputs',
    )


def kept(text: str) -> str:
    """What the kubelet keeps of a file."""
    return text.encode()[-4_096:].decode(errors="replace")


@pytest.mark.parametrize("shift", range(9))
def test_a_step_that_wrote_its_progress_too_often_for_the_message_still_gives_its_last_word(shift: int) -> None:
    # The lines have nine bytes, so that the cut goes through each place of one.
    text = "".join(f"rows={number}\n" for number in range(1_000)) + "\n" * shift
    seen = look(Reported(**ROWS).terminated(message=kept(text))).observation
    assert (seen.reason, seen.outputs) == (None, {"rows": 999})


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": ' + " " * 5_000 + "5}",
        "rows<<E\n5\nE\nnote=" + "ä" * 3_000,
        "rows<<E\n" + "rows=7\n" * 1_000 + "E\n",
        "rows=" + "0" * 5_000,
    ],
)
def test_what_was_cut_is_never_taken_for_the_whole(text: str) -> None:
    reason, _, message = end(Reported(**ROWS).terminated(message=kept(text)))
    assert reason == "InvalidOutputs"
    assert message.startswith("$PENSTOCK_OUTPUT holds 4,096 bytes or more, not all of which were kept")


def test_where_containers_share_the_room_half_a_number_is_no_number() -> None:
    others = {"spec": {"containers": [{"name": f"c{i}", "image": "c:1"} for i in range(5)]}}
    told = Reported(podTemplate=others, **ROWS)
    text = "\n" * 2_040 + "rows=123456789\n"
    reason, _, message = end(told.terminated(message=text[:2_048]))
    assert reason == "InvalidOutputs"
    assert "2,048 bytes" in message
    assert look(told.terminated(message="rows=123456789\n")).observation.outputs == {"rows": 123456789}


# --- other exit codes -------------------------------------------------------------------------------


def test_a_failure_waits_for_the_pods_end_and_then_tells_the_last_line_of_the_log() -> None:
    told = Reported().running().terminated(3, "Traceback:\n  x\nValueError: no rows\n\n")
    assert waits(told) == Seen(Observation(ID, AttemptPhase.RUNNING, started_at=NOON))
    assert end(told.failed()) == (None, 3, "ValueError: no rows")


def test_of_a_failed_step_with_small_outputs_the_log_is_asked_for_and_sound_outputs_are_kept() -> None:
    told = Reported(outputs={"rows": "number", "on": "boolean"}).terminated(3, "rows=5\non=maybe\n").failed()
    asked = waits(told)
    assert asked.needs == NeedsLog("step", tail_lines=20)
    seen = look(told, log="on=true\nboom\n").observation
    assert (seen.reason, seen.exit_code, seen.message, seen.outputs) == (None, 3, "boom", {"rows": 5})
    assert look(told, log="").observation.message is None


def test_out_of_memory_names_the_limit_at_once() -> None:
    told = Reported(resources={"limits": {"memory": "64Mi"}}).running().terminated(137, reason="OOMKilled")
    message = "out of memory: killed at its limit of 64Mi (spec.steps[train].resources.limits.memory)"
    assert end(told) == ("StepFailed", 137, message)
    assert "no limit of its own" in end(Reported().terminated(137, reason="OOMKilled"))[2]


RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (
            'unable to start container process: exec: "nope": executable file not found in $PATH: unknown',
            ("StepFailed", 127, 'spec.steps[train].command: there is no such program in the image: "nope": executable'),
        ),
        (
            'unable to start container process: exec: "/app/x": stat /app/x: no such file or directory: unknown',
            ("StepFailed", 127, "spec.steps[train].command: there is no such program in the image"),
        ),
        (
            'unable to start container process: exec: "/app/x": permission denied: unknown',
            ("StepFailed", 126, "spec.steps[train].command: the image cannot run this program"),
        ),
        (
            "error mounting /var/x to rootfs: no such file or directory: unknown",
            ("StepError", 128, "its container could not be started: failed to create containerd task"),
        ),
    ],
)
def test_a_container_that_could_not_be_started_blames_whom_it_should(
    message: str, wanted: tuple[str, int, str]
) -> None:
    reason, code, said = end(Reported().terminated(128, RUNC + message, reason="StartError"))
    assert (reason, code) == wanted[:2]
    assert said.startswith(wanted[2])


# --- the platform ends pods -------------------------------------------------------------------------


def test_the_deadline_is_the_steps_own_timeout() -> None:
    late = "Pod was active on the node longer than the specified deadline"
    told = Reported(timeout=30).running().terminated(143, at=NOON + 30).failed("DeadlineExceeded", late)
    assert end(told) == ("TimedOut", 143, "took longer than timeoutSeconds: 30")
    pulling = Reported(timeout=30).waiting("ErrImagePull", "x").failed("DeadlineExceeded", late)
    assert end(pulling) == ("TimedOut", None, "took longer than timeoutSeconds: 30")


def test_a_pod_that_the_operator_had_ended_did_not_time_out() -> None:
    told = Reported(SHARED, **JSON).terminated(3, "boom").terminated(name="collector", message='{"outputs":{}}')
    told.failed("DeadlineExceeded", "Pod was active")
    told.pod["metadata"]["annotations"]["penstock.dev/ended"] = "true"
    assert end(told) == (None, 3, "boom")


@pytest.mark.parametrize("reason", ["EvictionByEvictionAPI", "PreemptionByScheduler", "DeletionByTaintManager"])
def test_a_step_killed_after_the_platform_chose_its_pod_was_disrupted(reason: str) -> None:
    told = Reported().running().condition("DisruptionTarget", reason=reason, message="why", at=NOON + 5)
    killed = told.terminated(143, at=NOON + 6)
    assert end(killed) == ("Disrupted", 143, f"its pod was ended by the platform ({reason}): why")


def test_a_step_that_had_failed_before_its_pod_was_chosen_failed_by_itself() -> None:
    told = Reported().terminated(3, "boom", at=NOON + 4)
    told.condition("DisruptionTarget", reason="EvictionByEvictionAPI", at=NOON + 5)
    assert end(told) == (None, 3, "boom")


def test_a_step_that_the_kubelet_evicted_is_told_only_with_the_pods_end() -> None:
    told = Reported().running().terminated(137, at=NOON + 4)
    waits(told)
    told.condition("DisruptionTarget", reason="TerminationByKubelet", message="The node was low on memory", at=NOON + 6)
    told.failed("Evicted", "The node was low on memory")
    assert end(told) == (
        "Disrupted", 137, "its pod was ended by the platform (TerminationByKubelet): The node was low on memory",
    )  # fmt: skip


def test_success_in_spite_of_a_disruption_is_success() -> None:
    told = Reported(**ROWS).condition("DisruptionTarget", reason="EvictionByEvictionAPI", at=NOON + 1)
    assert look(told.terminated(message="rows=1\n").deleted(NOON + 1)).observation.outputs == {"rows": 1}


@pytest.mark.parametrize("reason", ["Evicted", "OutOfcpu", "NodeAffinity", "UnexpectedAdmissionError", "Terminated"])
def test_a_pod_that_a_node_refused_or_dropped_is_tried_again(reason: str) -> None:
    assert end(Reported().failed(reason, "no room"))[:2] == ("Disrupted", None)


def test_a_pod_that_no_node_of_its_kind_can_run_is_an_error() -> None:
    assert end(Reported().failed("SysctlForbidden", "forbidden sysctl"))[0] == "StepError"


def test_an_init_container_of_the_template_that_failed_is_named() -> None:
    told = Reported(podTemplate={"spec": {"initContainers": [{"name": "fetch", "image": "f:1"}]}})
    told.terminated(2, "404\n", name="fetch", init=True).waiting("PodInitializing").failed()
    assert end(told) == ("StepError", None, "its init container fetch of podTemplate failed: exit code 2: 404")


def test_a_deleted_pod_is_disrupted_and_a_failure_before_it_is_not() -> None:
    killed = Reported().running().deleted(NOON + 5).terminated(143, at=NOON + 6)
    assert end(killed) == ("Disrupted", 143, "its pod was deleted while it ran")
    before = Reported().running().terminated(3, "boom", at=NOON + 4).deleted(NOON + 5)
    assert look(before, gone=True).observation.reason is None
    assert end(Reported().running(), gone=True) == ("Disrupted", None, "its pod was deleted")


def test_a_pod_on_a_lost_node_is_given_up_some_time_after_its_grace_period() -> None:
    told = Reported().running()
    told.condition("DisruptionTarget", reason="DeletionByTaintManager", message="taint", at=NOON).deleted(
        NOON, grace=30
    )
    told.pod["spec"]["nodeName"] = "n1"
    assert waits(told, now=NOON + 89).again_at == NOON + 90
    reason, _, message = end(told, now=NOON + 90)
    assert reason == "Disrupted"
    assert message.startswith("its node n1 is lost: its pod was ended by the platform (DeletionByTaintManager)")


# --- with a collector -------------------------------------------------------------------------------


def test_outputs_come_with_the_collectors_message_and_not_before() -> None:
    told = Reported(SHARED, **JSON).terminated().running("collector")
    assert waits(told).again_at == NOON + 12
    told.terminated(message='{"outputs":{"table":[1]}}', name="collector")
    seen = look(told).observation
    assert (seen.reason, seen.exit_code, seen.outputs, seen.finished_at) == (None, 0, {"table": [1]}, NOON + 10)


def test_a_sidecars_message_is_found_among_the_init_containers() -> None:
    told = Reported(SETTINGS, **JSON).running("collector", init=True).terminated()
    assert waits(told, now=NOON + 1_000).again_at is None  # the kubelet ends it
    told.terminated(message='{"outputs":{"table":{}},"problems":["p","q"]}', name="collector", init=True)
    seen = look(told).observation
    assert (seen.reason, seen.message, seen.outputs) == ("InvalidOutputs", "p; q", {"table": {}})


def test_large_outputs_are_read_from_the_collectors_log(capsys: pytest.CaptureFixture[str]) -> None:
    data = b'{"outputs":{"table":"%s"}}' % (b"x" * 9_000)
    said = message({"outputs": {"table": "x" * 9_000}}, MESSAGE_BYTES).decode()
    log = capsys.readouterr().out
    told = Reported(SHARED, **JSON).terminated().terminated(message=said, name="collector")
    needs = NeedsLog("collector", InLog(len(data), hashlib.sha256(data).hexdigest()))
    assert waits(told).needs == needs
    assert look(told, log=log).observation.outputs == {"table": "x" * 9_000}
    # The runtime may still be writing it.
    again = waits(told, log="")
    assert (again.needs, again.again_at) == (needs, NOON + 12)
    reason, _, why = end(told, log="", now=NOON + 60)
    assert (reason, why) == (
        "StepError",
        "its outputs were lost: the log holds 0 of its lines: it was cut or rotated away",
    )
    assert end(told, log="", gone=True)[0] == "Disrupted"


def ended(told: Reported) -> Reported:
    """The operator had the pod ended."""
    told.pod["metadata"].setdefault("annotations", {})["penstock.dev/ended"] = "true"
    return told


@pytest.mark.parametrize("code", [0, 3])
def test_a_collector_that_cannot_know_of_the_steps_end_has_its_pod_ended(code: int) -> None:
    told = Reported(SHARED, **JSON).terminated(code).running("collector", at=NOON + 9)
    early = waits(told, now=NOON + 11, log=collector.WAITS)
    assert (early.again_at, early.end_pod) == (NOON + 12, False)
    assert waits(told, now=NOON + 12, log=collector.WAITS).end_pod
    late = waits(told.running("collector", at=NOON + 14), now=NOON + 15, log=collector.WAITS)
    assert (late.again_at, late.end_pod) == (NOON + 16, False)
    # Once is enough, for an operator that was started since too.
    assert not waits(ended(told), now=NOON + 16.5).end_pod


def test_a_collector_is_not_ended_before_it_understands_that_it_is() -> None:
    told = Reported(SHARED, **JSON).terminated().running("collector", at=NOON + 9)
    asked = NeedsLog("collector", tail_lines=20)
    first = waits(told, now=NOON + 12)
    assert (first.needs, first.again_at, first.end_pod) == (asked, None, False)
    slow = waits(told, now=NOON + 13, log="")
    assert (slow.needs, slow.again_at, slow.end_pod) == (asked, NOON + 14, False)
    assert waits(told, now=NOON + 13, log=f"{collector.WAITS}\n").end_pod
    assert waits(told, now=NOON + 42, log="").end_pod


def test_a_step_without_its_outputs_is_judged_by_what_its_collector_says_when_it_is_ended() -> None:
    told = ended(Reported(SHARED, **JSON).terminated().running("collector"))
    assert waits(told, now=NOON + 1_000).again_at is None
    told.terminated(message='{"outputs":{},"problems":["table was not written"]}', name="collector")
    assert end(told) == ("InvalidOutputs", 0, "table was not written")
    assert end(told.failed("DeadlineExceeded", "Pod was active")) == ("InvalidOutputs", 0, "table was not written")
    found = told.terminated(message='{"outputs":{"table":[1]}}', name="collector")
    assert look(found).observation.outputs == {"table": [1]}


def test_a_collector_that_was_ended_before_it_could_ask_not_to_be_says_nothing_against_the_step() -> None:
    told = ended(Reported(SHARED, **JSON).terminated()).terminated(143, name="collector")
    assert end(told)[0] == "Disrupted"
    killed = ended(Reported(SHARED, **JSON).terminated()).terminated(137, reason="OOMKilled", name="collector")
    assert end(killed)[0] == "StepError"


def test_a_pod_in_which_somebody_looks_around_is_not_ended() -> None:
    told = Reported(SHARED, **JSON).terminated().running("collector")
    told.pod["status"]["ephemeralContainerStatuses"] = [{"name": "debug", "state": {"running": {}}}]
    assert not waits(told, now=NOON + 1_000).end_pod  # they look like the step


def test_a_failure_is_told_when_the_pod_that_was_ended_is_over_and_has_not_said_that_others_ended_it() -> None:
    told = ended(Reported(SHARED, **JSON).terminated(3, "boom").running("collector"))
    assert waits(told, now=NOON + 16).again_at == NOON + 17
    told.terminated(message='{"outputs":{"table":1}}', name="collector")
    waits(told, now=NOON + 16)
    evicted = Reported(SHARED, **JSON).terminated(137).terminated(143, name="collector")
    evicted.condition("DisruptionTarget", reason="TerminationByKubelet", message="low on memory", at=NOON + 13)
    assert end(ended(evicted).failed("Evicted", "low on memory"))[0] == "Disrupted"
    told.failed("DeadlineExceeded", "Pod was active")
    assert end(told) == (None, 3, "boom")
    assert look(told).observation.outputs == {"table": 1}


def test_a_failure_in_a_pod_that_does_not_end_is_told_in_the_end() -> None:
    told = ended(Reported(SHARED, **JSON).terminated(3, "boom").running("collector"))
    assert end(told, now=NOON + 17) == (None, 3, "boom")


def test_a_step_that_was_killed_because_its_time_was_over_is_left_to_the_kubelet_which_says_so() -> None:
    told = Reported(SHARED, timeout=10, **JSON).terminated(143).running("collector")
    told.pod["status"]["startTime"] = second(NOON)
    seen = waits(told, now=NOON + 12)
    assert (seen.end_pod, seen.again_at) == (False, NOON + 17)
    told.terminated(message='{"outputs":{}}', name="collector").failed("DeadlineExceeded", "Pod was active")
    assert end(told)[0] == "TimedOut"


def test_a_sidecar_is_ended_with_containers_of_the_template_that_would_run_for_ever() -> None:
    told = Reported(podTemplate={"spec": {"containers": [{"name": "proxy", "image": "p:1"}]}}, **JSON)
    told.running("collector", init=True).terminated()
    assert not waits(told, now=NOON + 1_000).end_pod  # the kubelet ends it
    assert waits(told.running("proxy"), now=NOON + 12).end_pod


def test_of_a_failed_step_what_the_collector_found_sound_is_kept() -> None:
    told = Reported(SHARED, **JSON).terminated(3, "boom")
    told.terminated(message='{"outputs":{"table":1},"problems":["x"]}', name="collector").failed()
    seen = look(told).observation
    assert (seen.reason, seen.exit_code, seen.message, seen.outputs) == (None, 3, "boom", {"table": 1})
    told.terminated(message="nonsense", name="collector")
    assert look(told).observation.outputs == {}


def test_a_collector_that_failed_or_was_killed_is_the_platforms_fault() -> None:
    told = Reported(SHARED, **JSON).terminated()
    told.terminated(137, reason="OOMKilled", name="collector")
    assert end(told) == ("StepError", 0, "its outputs were not collected: exit code 137 (OOMKilled)")
    no_room = "runc create failed: lstat /proc/0/ns/ipc: no such file or directory"  # the sandbox of a node in distress
    told.terminated(128, no_room, reason="StartError", name="collector")
    assert end(told) == ("Disrupted", 0, f"its outputs were not collected: exit code 128 (StartError): {no_room}")
    told.condition("DisruptionTarget", reason="EvictionByEvictionAPI", message="why")
    assert end(told)[0] == "Disrupted"
    assert end(Reported(SHARED, **JSON).terminated().terminated(message="hm", name="collector"))[0] == "StepError"
    assert end(Reported(SHARED, **JSON).terminated().running("collector"), gone=True) == (
        "Disrupted", 0, "its pod was deleted, before its outputs were collected",
    )  # fmt: skip


def test_a_collector_whose_image_is_missing_says_so_while_it_is_waited_for() -> None:
    told = Reported(SHARED, **JSON).terminated().waiting("ImagePullBackOff", "no such image", name="collector")
    assert waits(told).observation.message == "its outputs wait for their collector: no such image"


# --- afterwards -------------------------------------------------------------------------------------


def test_a_pod_needs_ending_only_if_something_in_it_would_go_on() -> None:
    assert not needs_ending(Reported().terminated().pod)
    assert not needs_ending(Reported(SHARED, **JSON).terminated().terminated(name="collector").pod)
    assert not needs_ending(Reported().failed().pod)
    assert not needs_ending(Reported().running().deleted(NOON).pod)
    assert needs_ending(Reported().waiting("CreateContainerConfigError", "x").pod)
    assert needs_ending(Reported().terminated().running("proxy").pod)


def test_a_template_container_that_runs_on_does_not_hold_up_a_failure() -> None:
    told = Reported(podTemplate={"spec": {"containers": [{"name": "proxy", "image": "p:1"}]}})
    told.terminated(3, "boom").running("proxy")
    assert waits(told, now=NOON + 11).again_at == NOON + 12
    assert waits(told, now=NOON + 12).end_pod
    assert end(told, now=NOON + 17) == (None, 3, "boom")


def test_messages_have_a_bound() -> None:
    seen = look(Reported().terminated(3, "x" * 5_000).failed()).observation
    assert len(seen.message or "") == 4_096


# --- files ------------------------------------------------------------------------------------------

STORE = PodSettings(collector_image="penstock:1", collector_mode=CollectorMode.SHARED, files=True)
GIVES: dict[str, Any] = {"outputs": {"model": "file"}}
TAKES: dict[str, Any] = {"inputs": {"table": File("executions/u/s/1/table", "0" * 64, 3)}}
UPLOADED = '{"model":{"key":"executions/u/train/1/model","sha256":"ab","size":5,"folder":true}}'


def test_what_was_uploaded_is_an_output() -> None:
    told = Reported(STORE, **GIVES).terminated()
    told.terminated(message=f'{{"outputs":{{}},"files":{UPLOADED}}}', name="collector")
    seen = look(told).observation
    assert (seen.reason, seen.outputs) == (None, {"model": File("executions/u/train/1/model", "ab", 5, folder=True)})


@pytest.mark.parametrize(("transient", "reason"), [("true", "StepError"), ("false", "InvalidOutputs")])
def test_an_upload_that_failed_is_the_platforms_trouble_or_the_steps(transient: str, reason: str) -> None:
    told = Reported(STORE, **GIVES).terminated()
    message = f'{{"outputs":{{}},"files":{{}},"problems":["output \\"model\\": no"],"transient":{transient}}}'
    told.terminated(message=message, name="collector")
    assert end(told) == (reason, 0, 'output "model": no')


@pytest.mark.parametrize("code", [0, 3])
def test_a_collector_that_uploads_is_left_alone_however_long_it_takes(code: int) -> None:
    told = Reported(STORE, **GIVES).terminated(code).running("collector", at=NOON)
    assert waits(told, now=NOON + 12).needs == NeedsLog("collector", tail_lines=20)
    log = f"{collector.WAITS}\n{collector.OVER}\n"
    for later in (12, 100, 10_000):
        seen = waits(told, now=NOON + later, log=log)
        assert (seen.end_pod, seen.needs) == (False, None)
        assert seen.observation.message == "its outputs are being collected"
    told.terminated(message=f'{{"outputs":{{}},"files":{UPLOADED}}}', name="collector").failed()
    found = look(told, log=log).observation
    assert (found.phase, found.exit_code, set(found.outputs)) == (AttemptPhase.ENDED, code, {"model"})


def test_nobody_waits_for_the_uploads_of_a_pod_that_was_ended() -> None:
    told = ended(Reported(STORE, **GIVES).terminated(143).running("collector", at=NOON))
    assert end(told, now=NOON + 30, log=collector.OVER)[:2] == (None, 143)


def test_people_are_told_that_inputs_are_fetched_if_it_takes_a_while() -> None:
    told = Reported(STORE, **TAKES).waiting("PodInitializing").running("penstock-fetch", at=NOON, init=True)
    assert (pending(told, now=NOON + 9), look(told, now=NOON + 9).again_at) == ((None, ""), NOON + 10)
    assert pending(told, now=NOON + 10) == (None, "its file inputs are being fetched")
    assert look(told, now=NOON + 10).again_at is None


def test_inputs_that_could_not_be_fetched_are_said() -> None:
    told = Reported(STORE, **TAKES)
    told.terminated(
        65, '{"problems":["input \\"table\\": is gone"],"transient":false}', name="penstock-fetch", init=True
    )
    assert end(told.failed()) == ("StepError", None, 'input "table": is gone')
    told.terminated(137, reason="OOMKilled", name="penstock-fetch", init=True)
    assert end(told) == ("StepError", None, "its file inputs were not fetched: exit code 137 (OOMKilled)")


FULL = 'Usage of EmptyDir volume "penstock-outputs" exceeds the limit "1Gi". '


def test_a_step_that_fills_its_volume_has_failed_and_was_not_disrupted() -> None:
    told = Reported(STORE, **GIVES).terminated(137).terminated(137, name="collector").failed("Evicted", FULL)
    reason, code, message = end(told)
    assert (reason, code) == ("StepFailed", 137)
    assert message.startswith('it wrote more than it may: Usage of EmptyDir volume "penstock-outputs" exceeds')
    assert end(Reported(STORE, **TAKES).failed("Evicted", FULL))[0] == "StepFailed"
    # Outputs that were uploaded before that are there.
    kept = Reported(STORE, **GIVES).terminated().failed("Evicted", FULL)
    kept.terminated(message=f'{{"outputs":{{}},"files":{UPLOADED}}}', name="collector")
    assert end(kept)[0] is None
    lost = Reported(STORE, **GIVES).terminated().terminated(137, name="collector").failed("Evicted", FULL)
    assert end(lost)[0] == "StepFailed"
    low = "The node was low on resource: ephemeral-storage."
    assert end(Reported(STORE, **GIVES).terminated(137).failed("Evicted", low))[0] == "Disrupted"


def test_a_collector_whose_pod_was_ended_is_heard_to_the_end() -> None:
    told = ended(Reported(STORE, **GIVES).terminated().running("collector", at=NOON))
    told.failed("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
    assert not waits(told, now=NOON + 100, log=collector.OVER).end_pod
    told.terminated(message=f'{{"outputs":{{}},"files":{UPLOADED}}}', name="collector")
    assert set(look(told).observation.outputs) == {"model"}
