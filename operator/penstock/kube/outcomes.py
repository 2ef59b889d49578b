"""What a Pod and its Job say about an attempt. Pure: objects as the API server has them in, observations out.

A step is over when its container is: two seconds before the Job says so. Exit code 0 is final. Any other may be the
platform's doing, which the pod's end tells; so that is waited for unless it is plain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from penstock.api.base import MAX_MESSAGE
from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptId, AttemptPhase, Observation
from penstock.kube import names, podstate
from penstock.kube.podstate import Object
from penstock.kube.transports import MESSAGE_BYTES
from penstock.step.collector import WAITS, CollectorError, InLog, Result, parse_log, parse_message
from penstock.step.outputs import judge
from penstock.step.values import Declared, OutputError, parse_output

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
TAIL_LINES: Final = 20
"""Lines to read of the log of a step that failed; its last one becomes the message."""


@dataclass(frozen=True, slots=True)
class NeedsLog:
    """A log has to be read before the attempt can be judged; then ask again with its text.

    Attributes:
        container: whose.
        result: what the collector says it wrote there; None where the last lines of the step are wanted.
        tail_lines: how many lines from its end; None: all.
    """

    container: str
    result: InLog | None = None
    tail_lines: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen.

    Attributes:
        observation: of the attempt, as far as it is known.
        needs: what has to be read first.
        again_at: when to look again even if nothing happens, seconds since the epoch; None: only if something does.
        end_pod: whether the pod has to be ended (`manifests.end_now`) because something runs on beside a step that is
            over. A collector then says what it found.
        nameless_user: whether what is wrong is that the image names root, or a user without a number, and nobody else
            names one: another pod that does so would run.
    """

    observation: Observation
    needs: NeedsLog | None = None
    again_at: float | None = None
    end_pod: bool = False
    nameless_user: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an attempt is judged by.

    Attributes:
        id: which attempt.
        pod: its Pod; the last that was seen of it where it is gone.
        job: its Job.
        declared: the step's outputs.
        now: seconds since the epoch.
        gone: whether the pod was there and is not any more.
        log: what was read because of an earlier `NeedsLog`; empty if it could not be read.
    """

    id: AttemptId
    pod: Object | None
    job: Object | None
    declared: Sequence[Declared]
    now: float
    gone: bool = False
    log: str | None = None


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
    return _not_started(look, pod, step.get("waiting", {}), lost_at)


# --- without a pod ----------------------------------------------------------------------------------


def _without_pod(look: Look) -> Seen:
    if look.job is None:
        return Seen(Observation(look.id, AttemptPhase.LOST))
    if (failed := podstate.condition(look.job, "Failed")) is not None and not look.job.get("spec", {}).get("managedBy"):
        reason = Reason.TIMED_OUT if failed.get("reason") == "DeadlineExceeded" else Reason.DISRUPTED
        return Seen(_ended(look, None, reason, f"the Job failed without a pod: {podstate.said(failed)}"))
    if look.gone:
        return Seen(_ended(look, None, Reason.DISRUPTED, "its pod was deleted"))
    if look.job.get("spec", {}).get("suspend"):
        message = "the Job is suspended (spec.suspend): whoever admits Jobs here has not admitted it yet"
        return Seen(_pending(look, Reason.SUSPENDED, message))
    return Seen(_pending(look, None, None))


# --- before the step runs ---------------------------------------------------------------------------

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"})
_IMAGE |= {"ImageInspectError", "SignatureValidationFailed"}
_NOT_CREATED = frozenset({"CreateContainerError", "RunContainerError", "PreStartHookError", "CreatePodSandboxError"})
_NEVER = re.compile(r"runAsNonRoot|breaks non-root policy|run as root")
"""A config error that no later try can heal: the image and the policy both stay as they are."""
_NAMELESS = re.compile(r"image will run as root|image has non-numeric user")
"""Those of them that are the image's alone."""


def _not_started(look: Look, pod: Object, waiting: Object, lost_at: float | None) -> Seen:
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason == "CreateContainerConfigError" and _NEVER.search(message):
        ended = _ended(look, None, Reason.STEP_ERROR, _root_image(look, message))
        return Seen(ended, nameless_user=_NAMELESS.search(message) is not None)
    if reason in _IMAGE:
        return Seen(_pending(look, Reason.IMAGE_PULL_FAILED, _image_problem(pod, reason, message)), again_at=lost_at)
    if reason == "CreateContainerConfigError":
        return Seen(_pending(look, Reason.CONFIG_MISSING, f"waits for what its container needs: {message}"))
    if reason in _NOT_CREATED:
        return Seen(_pending(look, Reason.CONTAINER_NOT_CREATED, f"its container cannot be created: {message}"))
    for item in podstate.containers(pod, "initContainerStatuses"):
        held = item.get("state", {}).get("waiting", {})
        if held.get("reason") in _IMAGE | _NOT_CREATED | {"CreateContainerConfigError", "CrashLoopBackOff"}:
            why = held.get("message") or held["reason"]
            message = f"waits for its init container {item['name']}: {why}"
            return Seen(_pending(look, Reason.CONTAINER_NOT_CREATED, message), again_at=lost_at)
    return _unplaced(look, pod, lost_at)


def _unplaced(look: Look, pod: Object, lost_at: float | None) -> Seen:
    """A pod of which no kubelet has said anything yet. `activeDeadlineSeconds` is the kubelet's: before, it is ours."""
    scheduled = next((item for item in podstate.conditions(pod) if item["type"] == "PodScheduled"), {})
    unschedulable = scheduled.get("status") == "False"
    why = f"no node takes its pod yet: {podstate.said(scheduled)}"
    due_at = podstate.due_without_node_at(pod)
    if due_at is not None and look.now >= due_at:
        message = podstate.too_long(pod) + (f"; {why}" if unschedulable else "")
        return Seen(_ended(look, None, Reason.TIMED_OUT, message))
    again_at = min((at for at in (due_at, lost_at) if at is not None), default=None)
    told = _pending(look, Reason.UNSCHEDULABLE, why) if unschedulable else _pending(look, None, None)
    return Seen(told, again_at=again_at)


def _root_image(look: Look, message: str) -> str:
    return (
        f"spec.steps[{look.id.step}].image: {_without_pod_name(message)}; "
        "steps never run as root: set a numeric USER in the image, or podTemplate.spec.securityContext.runAsUser"
    )


def _without_pod_name(message: str) -> str:
    return re.sub(r' \(pod: "[^"]*", container: [^)]*\)', "", message)


def _image_problem(pod: Object, reason: str, message: str) -> str:
    """The same sentence while the kubelet alternates between pulling and backing off: each change is a write."""
    image = next(
        (item.get("image") for item in pod["spec"]["containers"] if item["name"] == names.STEP_CONTAINER), None
    )
    detail = re.sub(r'^Back-off pulling image "[^"]*"(: ErrImagePull)?(: )?', "", message)
    if reason == "InvalidImageName":
        detail = f"that is not the name of an image ({detail})"
    if reason == "ErrImageNeverPull":
        detail = "it is not on the node, and its pull policy is Never"
    return f'image "{image}" cannot be pulled: {detail}' if detail else f'image "{image}" cannot be pulled'


# --- the pod ended without the step's container saying how ------------------------------------------

_NEVER_FITS = frozenset({"AppArmor", "SysctlForbidden", "PodOSNotSupported", "PodOSSelectorNodeLabelDoesNotMatch"})
_BY_KUBELET: Final = "TerminationByKubelet"


def _pod_ended(look: Look, pod: Object) -> Observation | None:
    """The end of an attempt whose pod ended before its step's container did, as far as is known."""
    status = pod.get("status", {})
    why = podstate.said(status)
    if look.gone:
        return _ended(look, None, Reason.DISRUPTED, podstate.disruption(pod) or "its pod was deleted")
    if status.get("phase") == "Failed":
        if status.get("reason") == "DeadlineExceeded" and not podstate.was_ended(pod):
            return _ended(look, None, Reason.TIMED_OUT, podstate.too_long(pod))
        if status.get("reason") in _NEVER_FITS:
            return _ended(look, None, Reason.STEP_ERROR, f"the node refused the pod: {why}")
        failed_init = podstate.failed_init(pod)
        if failed_init is not None:
            return _ended(look, None, Reason.STEP_ERROR, failed_init)
        return _ended(
            look, None, Reason.DISRUPTED, podstate.disruption(pod) or f"the pod failed before its step ran: {why}"
        )
    lost_at = podstate.lost_at(pod)
    if status.get("reason") == "NodeLost" or (lost_at is not None and look.now >= lost_at):
        node = pod.get("spec", {}).get("nodeName", "")
        return _ended(look, None, Reason.DISRUPTED, f"its node {node} is lost: {podstate.disruption(pod) or why}")
    return None


# --- the step's container ended ---------------------------------------------------------------------


def _step_ended(look: Look, pod: Object, done: Object) -> Seen:
    code = int(done.get("exitCode", -1))
    if code == 0:
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
        if look.now < settled_at + GIVE_UP_SECONDS:
            return _run_on(look, pod, done, settled_at, give_up_at=settled_at + GIVE_UP_SECONDS)
    if (disrupted := _disrupted(look, pod, done, ended_at)) is not None:
        return Seen(disrupted)
    return _failed(look, pod, done)


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
        return _ended(look, done, Reason.TIMED_OUT, podstate.too_long(pod))
    condition = podstate.condition(pod, "DisruptionTarget")
    # Set before the kill, but by the kubelet only after it. Times have whole seconds.
    if condition is not None:
        by_kubelet = condition.get("reason") == _BY_KUBELET
        if by_kubelet or ended_at >= (podstate.moment(condition.get("lastTransitionTime")) or 0.0):
            return _ended(look, done, Reason.DISRUPTED, podstate.disruption(pod))
        return None
    if (who := podstate.disruption(pod)) is not None:
        return _ended(look, done, Reason.DISRUPTED, who)
    if done.get("reason") == "ContainerStatusUnknown":
        return _ended(look, done, Reason.DISRUPTED, "its container was lost by the node")
    if podstate.deleted_before(pod, ended_at):
        return _ended(look, done, Reason.DISRUPTED, "its pod was deleted while it ran")
    return None


_TERMINATED: Final = 143
"""Exit code of a program that SIGTERM ended because it had not asked for it yet."""

_NO_COMMAND = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)
_NOT_EXECUTABLE = re.compile(r"permission denied|exec format error|is a directory", re.IGNORECASE)
_RUNTIME = re.compile(r"exec(?:: |ing )(?P<what>.*?)(?:: unknown)?$", re.DOTALL)


def _plain_failure(look: Look, pod: Object, done: Object) -> Observation | None:
    """The end of a step whose cause needs no waiting for."""
    reason, message = done.get("reason"), str(done.get("message", ""))
    if reason == "OOMKilled":
        return _ended(look, done, Reason.STEP_FAILED, _out_of_memory(look, pod))
    if reason in ("StartError", "ContainerCannotRun"):
        found = _RUNTIME.search(message)
        place = f"spec.steps[{look.id.step}].command"
        # Only what the runtime says of the command; of a mount, "no such file" means something else.
        if found and _NO_COMMAND.search(found["what"]):
            text = f"{place}: there is no such program in the image: {found['what']}"
            return replace(_ended(look, done, Reason.STEP_FAILED, text), exit_code=127)
        if found and _NOT_EXECUTABLE.search(found["what"]):
            text = f"{place}: the image cannot run this program: {found['what']}"
            return replace(_ended(look, done, Reason.STEP_FAILED, text), exit_code=126)
        return _ended(look, done, Reason.STEP_ERROR, f"its container could not be started: {message}")
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
            outputs = result.outputs if result is not None else {}
        except CollectorError:
            pass  # that the step failed says more
    elif look.declared:
        outputs = _from_text(text, look.declared, podstate.message_room(pod)).outputs
        if look.log is None and not look.gone:
            return Seen(_running(look, done), NeedsLog(names.STEP_CONTAINER, tail_lines=TAIL_LINES))
        message = podstate.last_line(look.log or "")
    return Seen(replace(_ended(look, done, None, message or None), outputs=outputs))


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
            return Seen(_ended(look, done, Reason.DISRUPTED, who or "its pod was deleted"))
        if podstate.was_ended(pod) and ended.get("exitCode") == _TERMINATED:
            message = "its pod was ended before the collector of its outputs had come to its beginning"
            return Seen(_ended(look, done, Reason.DISRUPTED, message))
        return Seen(
            _ended(look, done, Reason.STEP_ERROR, f"its outputs were not collected: {podstate.container_end(ended)}")
        )
    try:
        result = parse_message(text)
        if isinstance(result, InLog):
            needs = NeedsLog(names.COLLECTOR_CONTAINER, result)
            if look.log is None:
                return Seen(_running(look, done), needs)
            read = _read_log(look, result, podstate.moment(ended.get("finishedAt")) or look.now)
            if read is None:
                return Seen(_running(look, done), needs, again_at=look.now + 1.0)
            result = read
    except CollectorError as error:
        reason = Reason.DISRUPTED if look.gone else Reason.STEP_ERROR
        return Seen(_ended(look, done, reason, f"its outputs were lost: {error}"))
    return Seen(_with_result(look, done, result))


def _read_log(look: Look, wanted: InLog, ended_at: float) -> Result | None:
    """The result; None where the log's end may still be on its way."""
    try:
        return parse_log(look.log or "", wanted)
    except CollectorError:
        if look.gone or look.now >= ended_at + LOG_SECONDS:
            raise
        return None


def _collector_busy(look: Look, pod: Object, done: Object, state: Object) -> Seen:
    ended_at = podstate.moment(done.get("finishedAt")) or look.now
    if look.gone:
        who = podstate.disruption(pod) or "its pod was deleted"
        return Seen(_ended(look, done, Reason.DISRUPTED, f"{who}, before its outputs were collected"))
    if (disrupted := _pod_ended(look, pod)) is not None:
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
    begun = WAITS in (look.log or "") or is_sidecar or look.now >= settled_at + READY_SECONDS
    if look.now >= settled_at and not begun and not podstate.was_ended(pod):
        again_at = None if look.log is None else look.now + 1.0
        return Seen(_running(look, done), NeedsLog(names.COLLECTOR_CONTAINER, tail_lines=TAIL_LINES), again_at)
    return _run_on(look, pod, done, settled_at)


def _with_result(look: Look, done: Object, result: Result) -> Observation:
    if result.problems:
        seen = _ended(look, done, Reason.INVALID_OUTPUTS, "; ".join(result.problems))
    else:
        seen = _ended(look, done, None, None)
    return replace(seen, outputs=result.outputs)


# --- observations ----------------------------------------------------------------------------------


def _ended(look: Look, done: Object | None, reason: Reason | None, message: str | None) -> Observation:
    """An observation of the end; `done` is the terminated state of the step's container."""
    if message is not None and len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    done = done or {}
    return Observation(
        look.id,
        AttemptPhase.ENDED,
        started_at=podstate.started(done),
        finished_at=podstate.moment(done.get("finishedAt")) or look.now,
        exit_code=done.get("exitCode"),
        reason=reason,
        message=message,
    )


def _pending(look: Look, reason: Reason | None, message: str | None) -> Observation:
    return Observation(look.id, AttemptPhase.PENDING, reason=reason, message=message)
