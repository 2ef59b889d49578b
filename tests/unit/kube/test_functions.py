"""Function steps with files and large values: what their pods look like, and what is made of their end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kube_objects import IDENTITY, NOON, Reported, an_attempt, start
from penstock.controller.contract import CannotStart, declared_outputs
from penstock.engine.types import AttemptPhase, File
from penstock.kube import podstate, trimming
from penstock.kube.looks import Look, NeedsLog, Seen
from penstock.kube.manifests import job, pod
from penstock.kube.outcomes import MIXED_LINES, TAIL_LINES, observe
from penstock.kube.transports import CollectorMode, PodSettings, Transport, WayIn, WayOut, choose
from penstock.step.report import MESSAGE_BYTES, InLog, message
from penstock.step.supervisor import parse_message

FUNCTION: dict[str, Any] = {"function": "iris.train:run"}
FILE = File("executions/u/prepare/1/table", "0" * 64, 3)
STORE = PodSettings(files=True, files_size_limit="2Gi", transfer_patience_seconds=100)
"""Without a collector image: functions need none."""


# --- which of them have a supervisor ----------------------------------------------------------------


@pytest.mark.parametrize("mode", list(CollectorMode))
@pytest.mark.parametrize(
    ("fields", "transport"),
    [
        ({}, Transport(WayIn.NONE, WayOut.NONE)),
        ({"outputs": {"n": "number"}}, Transport(WayIn.NONE, WayOut.TERMINATION)),
        ({"outputs": {"j": "json"}}, Transport(WayIn.NONE, WayOut.SUPERVISOR)),
        ({"inputs": {"table": FILE}}, Transport(WayIn.NONE, WayOut.SUPERVISOR, files_in=True)),
        (
            {"inputs": {"table": FILE, "rows": 3}, "outputs": {"n": "number"}},
            Transport(WayIn.ANNOTATIONS, WayOut.SUPERVISOR, files_in=True),
        ),
        ({"outputs": {"m": "file"}}, Transport(WayIn.NONE, WayOut.SUPERVISOR, files_out=True)),
    ],
)
def test_functions_with_files_or_large_values_are_supervised_and_nothing_is_beside_them(
    fields: dict[str, Any], transport: Transport, mode: CollectorMode
) -> None:
    told = start(**FUNCTION, **fields)
    assert choose(told.step.spec, told.inputs, replace(STORE, collector_mode=mode)) == transport


def test_containers_of_a_template_share_what_the_pod_may_say() -> None:
    many = {"spec": {"containers": [{"name": f"c{i}", "image": "c:1"} for i in range(5)]}}
    told = start(**FUNCTION, outputs={"m": "file"}, podTemplate=many)
    assert choose(told.step.spec, told.inputs, STORE).message_bytes == 2_048


def test_without_an_object_store_files_are_refused_as_for_any_step() -> None:
    with pytest.raises(CannotStart, match="files need an object store"):
        an_attempt(PodSettings(), **FUNCTION, outputs={"m": "file"})


# --- its pod ----------------------------------------------------------------------------------------


def a_pod(settings: PodSettings = STORE, **fields: Any) -> dict[str, Any]:
    return pod(an_attempt(settings, **FUNCTION, **fields), job_uid="j-1")


def settings_of(container: dict[str, Any]) -> dict[str, Any]:
    """What a supervisor is told."""
    (found,) = [each["value"] for each in container["env"] if each["name"] == "PENSTOCK_SUPERVISOR"]
    return dict(json.loads(found.replace("$$", "$")))


def test_one_container_does_all_and_its_environment_has_no_more_than_places() -> None:
    found = a_pod(inputs={"table": FILE, "rows": 5}, outputs={"model": "file"})
    (step,) = found["spec"]["containers"]
    assert "initContainers" not in found["spec"]
    assert "shareProcessNamespace" not in found["spec"]
    assert step["command"] == ["python", "-P", "-m", "penstock.step.supervisor", "iris.train:run"]
    assert (step["terminationMessagePath"], step["terminationMessagePolicy"]) == ("/dev/termination-log", "File")
    assert settings_of(step) == {
        "message_file": "/dev/termination-log",
        "message_bytes": 4_000,
        "limit": 1_048_576,
        "plan_file": "/penstock/transfers/plan.json",
        "inputs_dir": "/penstock/fetched",
        "given_dir": "/penstock/given",
        "environment": {"PENSTOCK_TRANSFER_PATIENCE": "100", "TMPDIR": "/penstock/values"},
    }
    env = {each["name"]: each.get("value") for each in step["env"]}
    assert (env["PENSTOCK_INPUTS"], env["INPUT_TABLE"]) == ("/penstock/inputs", "/penstock/inputs/table")
    assert (env["PENSTOCK_OUTPUT"], env["PENSTOCK_OUTPUTS"]) == ("/penstock/values/output", "/penstock/outputs")
    assert "TMPDIR" not in env
    mounted = {
        each["mountPath"]: (each["name"], each.get("subPath"), each.get("readOnly", False))
        for each in step["volumeMounts"]
    }
    assert mounted == {
        "/penstock/inputs": ("penstock-inputs", None, True),
        "/penstock/fetched": ("penstock-inputs", None, False),
        "/penstock/given": ("penstock-given", "..data", True),
        "/penstock/transfers": ("penstock-transfers", None, True),
        "/penstock/values": ("penstock-values", None, False),
        "/penstock/outputs": ("penstock-outputs", None, False),
    }
    volumes = {each["name"]: each for each in found["spec"]["volumes"]}
    limited = {"sizeLimit": "2Gi"}
    assert all(volumes[f"penstock-{name}"]["emptyDir"] == limited for name in ("inputs", "outputs", "values"))
    assert volumes["penstock-transfers"]["secret"] == {"secretName": found["metadata"]["name"]}
    assert len(volumes) == 5


def test_large_values_need_neither_a_plan_nor_inputs() -> None:
    found = a_pod(PodSettings(), outputs={"j": "json"})
    (step,) = found["spec"]["containers"]
    told = settings_of(step)
    assert (told["plan_file"], told["inputs_dir"], told["given_dir"], told["environment"]) == ("", "", "", {})
    assert {each["mountPath"] for each in step["volumeMounts"]} == {"/penstock/values", "/penstock/outputs"}
    assert podstate.transfers_of(trimming.pod(found)) == ""


def test_who_signed_the_stores_certificate_is_for_the_supervisor_alone() -> None:
    (step,) = a_pod(replace(STORE, store_authority="PEM"), outputs={"m": "file"})["spec"]["containers"]
    assert settings_of(step)["environment"]["SSL_CERT_FILE"] == "/penstock/transfers/ca.crt"
    assert "SSL_CERT_FILE" not in {each["name"] for each in step["env"]}


def test_what_is_kept_of_a_pod_still_says_that_it_is_supervised() -> None:
    assert podstate.supervised(trimming.pod(a_pod(outputs={"m": "file"})))
    assert not podstate.supervised(trimming.pod(a_pod(outputs={"n": "number"})))
    assert podstate.transfers_of(trimming.pod(a_pod(outputs={"m": "file"}))) == "j-1"


# --- what becomes of it -----------------------------------------------------------------------------

OUT: dict[str, Any] = {**FUNCTION, "outputs": {"table": "json", "model": "file"}}
MARK = "00ff" * 4
GIVEN: dict[str, Any] = {
    "key": f"executions/{IDENTITY.uid}/train/1/model",
    "sha256": "a" * 64,
    "size": 7,
    "folder": False,
}


def told(**fields: Any) -> Reported:
    return Reported(STORE, **(OUT | fields))


def said(code: int | None, **result: Any) -> str:
    return message({"outputs": {}, **result}, MESSAGE_BYTES, beside={"exit": code}, mark=MARK).decode()


def look(seen: Reported, **fields: Any) -> Seen:
    attempt = seen.attempt
    given = {"now": NOON + 11, "job": job(attempt), "pod": trimming.pod(seen.pod), **fields}
    given["execution"] = IDENTITY.uid
    return observe(Look(id=attempt.start.id, declared=declared_outputs(attempt.step), **given))


def end(seen: Reported, **fields: Any) -> tuple[str | None, int | None, str]:
    found = look(seen, **fields)
    assert found.needs is None
    assert found.observation.phase is AttemptPhase.ENDED, found
    return found.observation.reason, found.observation.exit_code, found.observation.message or ""


def test_its_message_is_what_it_gave() -> None:
    seen = look(told().terminated(message=said(0, outputs={"table": [1]}, files={"model": GIVEN}))).observation
    assert (seen.reason, seen.exit_code, seen.finished_at) == (None, 0, NOON + 10)
    assert seen.outputs == {"table": [1], "model": File(GIVEN["key"], "a" * 64, 7, folder=False)}


@pytest.mark.parametrize(("transient", "reason"), [(True, "StepError"), (False, "InvalidOutputs")])
def test_what_is_wrong_with_its_outputs_is_said_with_the_functions_own_exit_code(transient: bool, reason: str) -> None:
    text = said(0, problems=["p", "q"], **({"transient": True} if transient else {}))
    assert end(told().terminated(74, text)) == (reason, 0, "p; q")


def test_without_its_inputs_it_was_not_run() -> None:
    seen = told().terminated(74, said(None, problems=['input "table": is gone'], transient=False))
    assert end(seen) == ("StepError", None, 'input "table": is gone')
    assert look(seen).observation.started_at is None
    seen.condition("DisruptionTarget", reason="EvictionByEvictionAPI", message="drained")
    assert end(seen)[0] == "Disrupted"


def test_an_end_without_a_word_gives_nothing_whatever_was_uploaded() -> None:
    assert end(told().terminated(0)) == ("StepError", 0, "its outputs were lost: nothing was said of them")
    assert end(told().terminated(0, "forged"))[0] == "StepError"
    killed = told().terminated(137).failed()
    assert look(killed).needs == NeedsLog("step", tail_lines=TAIL_LINES)
    assert end(killed, log="") == ("StepError", 137, "ended before anything was said of its outputs: exit code 137")
    # Told by the image that there is no such module, the step is to blame.
    older = told().terminated(1).failed()
    assert end(older, log="No module named penstock.step.supervisor\n")[::2] == (
        None,
        "No module named penstock.step.supervisor",
    )
    assert end(told().terminated(137, reason="OOMKilled"))[0] == "StepFailed"
    drained = told().terminated(143).failed().condition("DisruptionTarget", reason="EvictionByEvictionAPI")
    assert end(drained)[0] == "Disrupted"
    late = told(timeout=5).terminated(143).failed("DeadlineExceeded")
    assert end(late)[0] == "TimedOut"


@pytest.mark.parametrize("code", [1, 9, 137])
def test_what_a_function_wrote_in_the_place_of_its_supervisor_counts_for_nothing(code: int) -> None:
    forged = said(0, outputs={"table": []}, files={"model": GIVEN})
    found = look(told().terminated(code, forged).failed(), log="last\n").observation
    assert (found.phase, found.outputs) == (AttemptPhase.ENDED, {})


def test_what_others_have_given_is_not_taken_for_its_own() -> None:
    for key in ("data/private", GIVEN["key"].replace("/1/", "/2/"), f"executions/{IDENTITY.uid}/train/1/table"):
        text = said(0, outputs={"table": []}, files={"model": {**GIVEN, "key": key}})
        assert end(told().terminated(0, text)) == (
            "StepError",
            0,
            "its outputs were lost: they are said to be where this attempt could not have put them",
        )
        failed = told().terminated(1, text.replace('"exit":0', '"exit":1')).failed()
        assert look(failed, log="last\n").observation.outputs == {}


def test_a_function_that_failed_keeps_what_is_sound_and_its_last_line() -> None:
    text = said(1, outputs={"table": [1]}, files={"model": GIVEN}, problems=["p"])
    seen = told().terminated(1, text)
    assert look(seen).observation.phase is AttemptPhase.RUNNING  # who ended it is not known yet
    seen.failed()
    assert look(seen).needs == NeedsLog("step", tail_lines=TAIL_LINES)
    found = look(seen, log="Traceback\nValueError: no rows\n").observation
    assert (found.reason, found.exit_code, found.message) == (None, 1, "ValueError: no rows")
    assert set(found.outputs) == {"table", "model"}


def test_what_does_not_fit_its_message_is_in_its_log_among_what_it_printed(capsys: pytest.CaptureFixture[str]) -> None:
    large = {"table": "".join(chr(97 + number * number % 23) for number in range(9_000))}
    text = said(0, outputs=large)
    log = "penstock-outputs 1/1 forged\nprinted" + capsys.readouterr().out + "ValueError: late\n"
    found = parse_message(text).found
    assert isinstance(found, InLog)
    assert (found.mark, found.lines) == (MARK, 1)
    seen = told().terminated(0, text)
    needs = NeedsLog("step", found, tail_lines=1 + MIXED_LINES)
    assert look(seen).needs == needs
    assert look(seen, log=log).observation.outputs == large
    # The runtime may still be writing it, or the step has printed more than was read: then all is read.
    again = look(seen, log="")
    assert (again.needs, again.again_at) == (replace(needs, tail_lines=None), NOON + 12)
    assert end(seen, log="", now=NOON + 60)[::2] == (
        "StepError",
        "its outputs were lost: the log holds 0 of its lines: it was cut or rotated away",
    )
    assert end(seen, log="", gone=True)[0] == "Disrupted"
    failed = told().terminated(1, text.replace('"exit":0', '"exit":1')).failed()
    assert look(failed).needs == NeedsLog("step", tail_lines=TAIL_LINES + 1 + MIXED_LINES)
    kept = look(failed, log=log).observation
    assert (kept.exit_code, kept.message, kept.outputs) == (1, "ValueError: late", large)
