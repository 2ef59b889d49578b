"""What a Pod and its Job say about an attempt. Pure: objects as the API server has them in, observations out.

A step is over when its container is: two seconds before the Job says so. Exit code 0 is final. Any other may be the
platform's doing, which the pod's end tells; so that is waited for unless it is plain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptPhase, File, Observation, Value
from penstock.kube import names, podstate
from penstock.kube.beginnings import not_started
from penstock.kube.looks import Look, NeedsLog, Seen, over, pending
from penstock.kube.podstate import Object
from penstock.kube.transports import MESSAGE_BYTES
from penstock.step.collector import OVER, WAITS
from penstock.step.outputs import judge
from penstock.step.report import InLog, ReportError, Result, parse_log, parse_message, without_report
from penstock.step.supervisor import EXIT_TRANSFER, Outcome
from penstock.step.supervisor import parse_message as parse_outcome
from penstock.step.values import Declared, OutputError, parse_output
from penstock.storage.paths import output_key

SETTLE_SECONDS: Final = 2.0
"""How long after the step's end and its own start a container that runs on is the sign that it will run on.

Moments in a pod's status have whole seconds, and its kubelet looks once a second.
"""
READY_SECONDS: Final = 30.0
"""How long after that a collector may take for its own start; before, it does not understand that it is to end."""
GIVE_UP_SECONDS: Final = 5.0
"""How long after that the end of the pod of a failed step is waited for, which tells who ended it."""
LOG_SECONDS: Final = 15.0
"""How long the end of a log may take to get to where it can be read."""
MIXED_LINES: Final = 200
"""Lines of the step's own that may come after those of a result in its log: what was printed as an error comes another
way. All is read if these are not enough."""
TAIL_LINES: Final = 20
"""Lines to read of the log of a step that failed; its last one becomes the message."""


def observe(look: Look) -> Seen:
    """Judge an attempt."""
    if look.pod is None:
        return _without_pod(look)
    pod = look.pod
    step = podstate.state(pod, names.STEP_CONTAINER)
    if "terminated" in step:
        return _step_ended(look, pod, step["terminated"])
    if (ended := _pod_ended(look, pod)) is not None:
        return Seen(ended)
    lost_at = podstate.lost_at(pod)
    if "running" in step:
        started = podstate.moment(step["running"].get("startedAt"))
        return Seen(Observation(look.id, AttemptPhase.RUNNING, started_at=started), again_at=lost_at)
    return not_started(look, pod, step.get("waiting", {}), lost_at)


# --- without a pod ----------------------------------------------------------------------------------


def _without_pod(look: Look) -> Seen:
    if look.job is None:
        return Seen(Observation(look.id, AttemptPhase.LOST))
    if (failed := podstate.condition(look.job, "Failed")) is not None and not look.job.get("spec", {}).get("managedBy"):
        reason = Reason.TIMED_OUT if failed.get("reason") == "DeadlineExceeded" else Reason.DISRUPTED
        return Seen(over(look, None, reason, f"the Job failed without a pod: {podstate.said(failed)}"))
    if look.gone:
        return Seen(over(look, None, Reason.DISRUPTED, "its pod was deleted"))
    if look.job.get("spec", {}).get("suspend"):
        message = "the Job is suspended (spec.suspend): whoever admits Jobs here has not admitted it yet"
        return Seen(pending(look, Reason.SUSPENDED, message))
    return Seen(pending(look, None, None))


# --- the pod ended without the step's container saying how ------------------------------------------

_NEVER_FITS = frozenset({"AppArmor", "SysctlForbidden", "PodOSNotSupported", "PodOSSelectorNodeLabelDoesNotMatch"})
_BY_KUBELET: Final = "TerminationByKubelet"


def _pod_ended(look: Look, pod: Object) -> Observation | None:
    """The end of an attempt whose pod ended before its step's container did, as far as is known."""
    status = pod.get("status", {})
    why = podstate.said(status)
    if look.gone:
        return over(look, None, Reason.DISRUPTED, podstate.disruption(pod) or "its pod was deleted")
    if status.get("phase") == "Failed":
        if (too_much := podstate.storage_exceeded(pod)) is not None:
            return over(look, None, Reason.STEP_FAILED, _storage(too_much))
        if status.get("reason") == "DeadlineExceeded" and not podstate.was_ended(pod):
            return over(look, None, Reason.TIMED_OUT, podstate.too_long(pod))
        if status.get("reason") in _NEVER_FITS:
            return over(look, None, Reason.STEP_ERROR, f"the node refused the pod: {why}")
        failed_init = podstate.failed_init(pod)
        if failed_init is not None:
            return over(look, None, Reason.STEP_ERROR, failed_init)
        return over(
            look, None, Reason.DISRUPTED, podstate.disruption(pod) or f"the pod failed before its step ran: {why}"
        )
    lost_at = podstate.lost_at(pod)
    if status.get("reason") == "NodeLost" or (lost_at is not None and look.now >= lost_at):
        node = pod.get("spec", {}).get("nodeName", "")
        return over(look, None, Reason.DISRUPTED, f"its node {node} is lost: {podstate.disruption(pod) or why}")
    return None


# --- the step's container ended ---------------------------------------------------------------------


def _step_ended(look: Look, pod: Object, done: Object) -> Seen:
    code = int(done.get("exitCode", -1))
    if (too_much := podstate.storage_exceeded(pod)) is not None and (code != 0 or _uncollected(pod)):
        return Seen(over(look, done, Reason.STEP_FAILED, _storage(too_much)))
    outcome = _outcome(done) if podstate.supervised(pod) else None
    if outcome is not None and not outcome.exit_code:
        return _from_supervisor(look, pod, done, outcome)
    if code == 0:
        if podstate.supervised(pod):
            return Seen(over(look, done, Reason.STEP_ERROR, "its outputs were lost: nothing was said of them"))
        if podstate.collector(pod) is None:
            return Seen(_from_message(look, pod, done))
        return _from_collector(look, pod, done)
    if (plain := _plain_failure(look, pod, done)) is not None:
        return Seen(plain)
    ended_at = podstate.moment(done.get("finishedAt")) or look.now
    told = look.gone or podstate.phase_final(pod) or podstate.condition(pod, "DisruptionTarget")
    if not told and not podstate.deleted_before(pod, ended_at):
        since = podstate.others_running_since(pod)
        if since is None:
            return Seen(_running(look, done))
        settled_at = max(since, ended_at) + SETTLE_SECONDS
        if look.now >= settled_at and (busy := _reading(look, pod, done)) is not None:
            return busy
        if look.now < settled_at + GIVE_UP_SECONDS:
            return _run_on(look, pod, done, settled_at, give_up_at=settled_at + GIVE_UP_SECONDS)
    if (disrupted := _disrupted(look, pod, done, ended_at)) is not None:
        return Seen(disrupted)
    return _failed(look, pod, done)


_COLLECTED: Final = "its outputs are being collected"


def _reading(look: Look, pod: Object, done: Object) -> Seen | None:
    """A collector that knows that the step is over and reads and uploads outputs: it ends by itself. None: it is not.

    Of a pod that is being ended nobody waits for the outputs any more.
    """
    deadline_at = podstate.deadline_at(pod)
    ending = podstate.was_ended(pod) or (deadline_at is not None and look.now >= deadline_at)
    if ending or "running" not in podstate.collector_state(pod):
        return None
    if look.log is None:
        return Seen(_running(look, done), NeedsLog(names.COLLECTOR_CONTAINER, tail_lines=TAIL_LINES))
    return Seen(_running(look, done, _COLLECTED)) if OVER in look.log else None


def _uncollected(pod: Object) -> bool:
    ended = podstate.collector_state(pod).get("terminated", {})
    return podstate.collector(pod) is not None and ended.get("exitCode") != 0


def _storage(said: str) -> str:
    return f"it wrote more than it may: {said}; write less, or have the limit raised"


def _running(look: Look, done: Object, message: str | None = None) -> Observation:
    """The step is over and the attempt is not."""
    return Observation(look.id, AttemptPhase.RUNNING, started_at=podstate.started(done), message=message)


def _run_on(look: Look, pod: Object, done: Object, settled_at: float, give_up_at: float | None = None) -> Seen:
    """A step that is over while other containers of its pod run: once that has settled, the pod has to be ended.

    A collector cannot tell a step that was over before it could look from one whose image is being pulled.
    """
    if look.now < settled_at:
        return Seen(_running(look, done), again_at=settled_at)
    deadline_at = podstate.deadline_at(pod)
    # The kubelet ends a pod whose time is over, and then has to say that this was why.
    ending = podstate.was_ended(pod) or (deadline_at is not None and look.now >= deadline_at)
    return Seen(_running(look, done), again_at=give_up_at, end_pod=not ending)


def _disrupted(look: Look, pod: Object, done: Object, ended_at: float) -> Observation | None:
    """The end of a step that was killed with its pod; None if it failed by itself."""
    status = pod.get("status", {})
    if status.get("reason") == "DeadlineExceeded" and not podstate.was_ended(pod):
        return over(look, done, Reason.TIMED_OUT, podstate.too_long(pod))
    condition = podstate.condition(pod, "DisruptionTarget")
    # Set before the kill, but by the kubelet only after it. Times have whole seconds.
    if condition is not None:
        by_kubelet = condition.get("reason") == _BY_KUBELET
        if by_kubelet or ended_at >= (podstate.moment(condition.get("lastTransitionTime")) or 0.0):
            return over(look, done, Reason.DISRUPTED, podstate.disruption(pod))
        return None
    if (who := podstate.disruption(pod)) is not None:
        return over(look, done, Reason.DISRUPTED, who)
    if done.get("reason") == "ContainerStatusUnknown":
        return over(look, done, Reason.DISRUPTED, "its container was lost by the node")
    if podstate.deleted_before(pod, ended_at):
        return over(look, done, Reason.DISRUPTED, "its pod was deleted while it ran")
    return None


_KILLED: Final = 128
"""From here on exit codes tell of signals."""
_TERMINATED: Final = 143
"""Exit code of a program that SIGTERM ended because it had not asked for it yet."""

_NOT_STARTED: Final = frozenset({"StartError", "ContainerCannotRun"})
"""Reasons for which a container has ended that the runtime could not start."""
_NO_COMMAND = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)
_NOT_EXECUTABLE = re.compile(r"permission denied|exec format error|is a directory", re.IGNORECASE)
_RUNTIME = re.compile(r"exec(?:: |ing )(?P<what>.*?)(?:: unknown)?$", re.DOTALL)


def _plain_failure(look: Look, pod: Object, done: Object) -> Observation | None:
    """The end of a step whose cause needs no waiting for."""
    reason, message = done.get("reason"), str(done.get("message", ""))
    if reason == "OOMKilled":
        return over(look, done, Reason.STEP_FAILED, _out_of_memory(look, pod))
    if reason in _NOT_STARTED:
        found = _RUNTIME.search(message)
        place = f"spec.steps[{look.id.step}].command"
        # Only what the runtime says of the command; of a mount, "no such file" means something else.
        if found and _NO_COMMAND.search(found["what"]):
            text = f"{place}: there is no such program in the image: {found['what']}"
            return replace(over(look, done, Reason.STEP_FAILED, text), exit_code=127)
        if found and _NOT_EXECUTABLE.search(found["what"]):
            text = f"{place}: the image cannot run this program: {found['what']}"
            return replace(over(look, done, Reason.STEP_FAILED, text), exit_code=126)
        return over(look, done, Reason.STEP_ERROR, f"its container could not be started: {message}")
    return None


def _out_of_memory(look: Look, pod: Object) -> str:
    container: Object = next(item for item in pod["spec"]["containers"] if item["name"] == names.STEP_CONTAINER)
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    if limit is None:
        return "out of memory: killed by the kernel; the node had no more, as the step has no limit of its own"
    return f"out of memory: killed at its limit of {limit} (spec.steps[{look.id.step}].resources.limits.memory)"


def _failed(look: Look, pod: Object, done: Object) -> Seen:
    """A step that failed by itself. Nothing is demanded of its outputs; what is there and sound is kept."""
    outputs: Mapping[str, Any] = {}
    text = str(done.get("message", ""))
    message = podstate.last_line(text)
    if podstate.collector(pod) is not None:
        said = podstate.collector_state(pod).get("terminated", {}).get("message", "")
        try:
            result = parse_message(said) if said else None
            if isinstance(result, InLog):
                if look.log is None:
                    return Seen(_running(look, done), NeedsLog(names.COLLECTOR_CONTAINER, result))
                result = parse_log(look.log, result)
            outputs = _outputs(result) if result is not None else {}
        except ReportError:
            pass  # that the step failed says more
    elif podstate.supervised(pod):
        return _failed_function(look, done)
    elif look.declared:
        outputs = _from_text(text, look.declared, podstate.message_room(pod)).outputs
        if look.log is None and not look.gone:
            return Seen(_running(look, done), NeedsLog(names.STEP_CONTAINER, tail_lines=TAIL_LINES))
        message = podstate.last_line(look.log or "")
    return Seen(replace(over(look, done, None, message or None), outputs=outputs))


# --- outputs ----------------------------------------------------------------------------------------


def _from_message(look: Look, pod: Object, done: Object) -> Observation:
    """The end of a step whose termination message is what it wrote."""
    result = _from_text(str(done.get("message", "")), look.declared, podstate.message_room(pod))
    return _with_result(look, done, result)


def _from_text(text: str, declared: Sequence[Declared], room: int) -> Result:
    """Read `$PENSTOCK_OUTPUT` as the kubelet handed it on: its last 4,096 bytes, and of these the first `room`.

    Of a longer file the first line that is there may be half a line, and is left out. What follows is right where it
    can be read: later lines override earlier ones, and a `name<<END` block that lost its beginning has an `END` too
    many. Where the end may be missing, nothing is right: half a number is a number.
    """
    if text.startswith("Error on reading termination log "):
        return Result({}, [text])
    if len(text.encode()) < room:
        return _judged(text, declared)
    if room == MESSAGE_BYTES and not (result := _judged(text.partition("\n")[2], declared)).problems:
        return result
    problem = f"$PENSTOCK_OUTPUT holds {room:,} bytes or more, not all of which were kept: write each output once"
    return Result({}, [problem])


def _judged(text: str, declared: Sequence[Declared]) -> Result:
    try:
        return Result(*judge(declared, parse_output(text)))
    except OutputError as error:
        return Result({}, [str(error)])


def _from_collector(look: Look, pod: Object, done: Object) -> Seen:
    state = podstate.collector_state(pod)
    ended = state.get("terminated")
    if ended is None:
        return _collector_busy(look, pod, done, state)
    text = str(ended.get("message", ""))
    if ended.get("exitCode") != 0:
        if (who := podstate.disruption(pod)) is not None or look.gone:
            return Seen(over(look, done, Reason.DISRUPTED, who or "its pod was deleted"))
        if podstate.was_ended(pod) and ended.get("exitCode") == _TERMINATED:
            message = "its pod was ended before the collector of its outputs had come to its beginning"
            return Seen(over(look, done, Reason.DISRUPTED, message))
        # The step's container had been started by the same runtime: most often that has had too much to do since.
        reason = Reason.DISRUPTED if ended.get("reason") in _NOT_STARTED else Reason.STEP_ERROR
        return Seen(over(look, done, reason, f"its outputs were not collected: {podstate.container_end(ended)}"))
    try:
        found = _result_of(look, done, parse_message(text), names.COLLECTOR_CONTAINER, ended)
    except ReportError as error:
        return Seen(_lost(look, done, error))
    return found if isinstance(found, Seen) else Seen(_with_result(look, done, found))


def _result_of(look: Look, done: Object, found: Result | InLog, container: str, ended: Object) -> Result | Seen:
    """A result, wherever it is; or that a log has to be read for it.

    Args:
        look: what the attempt is judged by.
        done: the terminated state of the step's container.
        found: what the termination message says.
        container: whose message that is.
        ended: the terminated state of that container.

    Raises:
        ReportError: the log does not hold it.
    """
    if not isinstance(found, InLog):
        return found
    needs = NeedsLog(container, found, tail_lines=found.lines + MIXED_LINES if found.lines else None)
    if look.log is None:
        return Seen(_running(look, done), needs)
    read = _read_log(look, found, podstate.moment(ended.get("finishedAt")) or look.now)
    if read is not None:
        return read
    return Seen(_running(look, done), replace(needs, tail_lines=None), again_at=look.now + 1.0)


def _lost(look: Look, done: Object, error: ReportError) -> Observation:
    reason = Reason.DISRUPTED if look.gone else Reason.STEP_ERROR
    return over(look, done, reason, f"its outputs were lost: {error}")


# --- a function whose supervisor says what became of it ---------------------------------------------


def _outcome(done: Object) -> Outcome | None:
    """What a supervisor said; None if it came to its end before.

    Then the function may have written there, which has the same user; only the supervisor's own end bears it out.
    """
    try:
        outcome = parse_outcome(str(done.get("message", "")))
    except ReportError:
        return None
    code = int(done.get("exitCode", -1))
    borne_out = code == (outcome.exit_code or EXIT_TRANSFER) or (code, outcome.exit_code) == (0, 0)
    return outcome if borne_out else None


def _check_keys(look: Look, result: Result) -> None:
    """Raise ReportError if an attempt names what others have given as its own."""
    own = {each.name: output_key(look.execution, look.id, each.name) for each in look.declared if each.type == "file"}
    if any(own.get(name) != each["key"] for name, each in result.files.items()):
        raise ReportError("they are said to be where this attempt could not have put them")


def _from_supervisor(look: Look, pod: Object, done: Object, outcome: Outcome) -> Seen:
    """The end of a function that succeeded, or that was not run because its inputs were not there."""
    try:
        found = _result_of(look, done, outcome.found, names.STEP_CONTAINER, done)
        if isinstance(found, Seen):
            return found
        _check_keys(look, found)
    except ReportError as error:
        return Seen(_lost(look, done, error))
    if outcome.exit_code == 0:
        return Seen(_with_result(look, {**done, "exitCode": 0}, found))
    if (who := podstate.disruption(pod)) is not None:
        return Seen(over(look, done, Reason.DISRUPTED, who))
    ended = over(look, done, Reason.STEP_ERROR, "; ".join(found.problems))
    return Seen(replace(ended, started_at=None, exit_code=None))


def _failed_function(look: Look, done: Object) -> Seen:
    """A function that failed by itself; or its supervisor, before it could say anything."""
    outcome = _outcome(done)
    found = outcome.found if outcome is not None else None
    if look.log is None and not look.gone:
        lines = TAIL_LINES + (found.lines + MIXED_LINES if isinstance(found, InLog) else 0)
        return Seen(_running(look, done), NeedsLog(names.STEP_CONTAINER, tail_lines=lines))
    if outcome is None and int(done.get("exitCode", -1)) >= _KILLED:
        message = f"ended before anything was said of its outputs: {podstate.container_end(done)}"
        return Seen(over(look, done, Reason.STEP_ERROR, message))
    log = look.log or ""
    outputs: Mapping[str, Any] = {}
    try:
        if found is not None:
            result = parse_log(log, found) if isinstance(found, InLog) else found
            _check_keys(look, result)
            outputs = _outputs(result)
    except ReportError:
        pass  # that the function failed says more
    message = podstate.last_line(without_report(log, found) if isinstance(found, InLog) else log)
    return Seen(replace(over(look, done, None, message or None), outputs=outputs))


def _read_log(look: Look, wanted: InLog, ended_at: float) -> Result | None:
    """The result; None where the log's end may still be on its way."""
    try:
        return parse_log(look.log or "", wanted)
    except ReportError:
        if look.gone or look.now >= ended_at + LOG_SECONDS:
            raise
        return None


def _collector_busy(look: Look, pod: Object, done: Object, state: Object) -> Seen:
    ended_at = podstate.moment(done.get("finishedAt")) or look.now
    if look.gone:
        who = podstate.disruption(pod) or "its pod was deleted"
        return Seen(over(look, done, Reason.DISRUPTED, f"{who}, before its outputs were collected"))
    # Of a pod that we had ended the kubelet says so at once, while its collector still uploads.
    speaks = podstate.was_ended(pod) and "running" in state and podstate.lost_at(pod) is None
    if not speaks and (disrupted := _pod_ended(look, pod)) is not None:
        return Seen(replace(disrupted, started_at=podstate.started(done), finished_at=ended_at))
    waiting = state.get("waiting", {})
    if waiting.get("message"):
        return Seen(_running(look, done, f"its outputs wait for their collector: {waiting['message']}"))
    debugged = any(
        "running" in item.get("state", {}) for item in podstate.containers(pod, "ephemeralContainerStatuses")
    )
    is_sidecar = any(item["name"] == names.COLLECTOR_CONTAINER for item in pod["spec"].get("initContainers", []))
    # A sidecar is none of these others: the kubelet ends it after them.
    since = podstate.others_running_since(pod)
    if since is None or debugged:
        return Seen(_running(look, done))
    settled_at = max(ended_at, since) + SETTLE_SECONDS
    if OVER in (look.log or ""):
        return Seen(_running(look, done, _COLLECTED))
    begun = WAITS in (look.log or "") or is_sidecar or look.now >= settled_at + READY_SECONDS
    if look.now >= settled_at and not begun and not podstate.was_ended(pod):
        again_at = None if look.log is None else look.now + 1.0
        return Seen(_running(look, done), NeedsLog(names.COLLECTOR_CONTAINER, tail_lines=TAIL_LINES), again_at)
    return _run_on(look, pod, done, settled_at)


def _with_result(look: Look, done: Object, result: Result) -> Observation:
    if result.problems:
        reason = Reason.STEP_ERROR if result.transient else Reason.INVALID_OUTPUTS
        seen = over(look, done, reason, "; ".join(result.problems))
    else:
        seen = over(look, done, None, None)
    return replace(seen, outputs=_outputs(result))


def _outputs(result: Result) -> dict[str, Value]:
    files = {
        name: File(each["key"], each["sha256"], each["size"], each["folder"]) for name, each in result.files.items()
    }
    return {**result.outputs, **files}
