"""What pods say about attempts whose step has not begun: what it waits for, and what will never be. Pure."""

from __future__ import annotations

import re
from typing import Final

from penstock.engine.reasons import Reason
from penstock.kube import names, podstate
from penstock.kube.looks import Look, Seen, over, pending
from penstock.kube.podstate import Object

FETCH_SECONDS: Final = 10.0
"""How long inputs may be fetched before that is told: each change of what is told is a write."""

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"})
_IMAGE |= {"ImageInspectError", "SignatureValidationFailed"}
_NOT_CREATED = frozenset({"CreateContainerError", "RunContainerError", "PreStartHookError", "CreatePodSandboxError"})
_NEVER = re.compile(r"runAsNonRoot|breaks non-root policy|run as root")
"""A config error that no later try can heal: the image and the policy both stay as they are."""
_NAMELESS = re.compile(r"image will run as root|image has non-numeric user")
"""Those of them that are the image's alone."""


def not_started(look: Look, pod: Object, waiting: Object, lost_at: float | None) -> Seen:
    """Judge an attempt whose step's container waits.

    Args:
        look: what it is judged by.
        pod: its pod.
        waiting: the state of the step's container.
        lost_at: when its pod counts as lost, seconds since the epoch; None: it does not.
    """
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason == "CreateContainerConfigError" and _NEVER.search(message):
        ended = over(look, None, Reason.STEP_ERROR, _root_image(look, message))
        return Seen(ended, nameless_user=_NAMELESS.search(message) is not None)
    if reason in _IMAGE:
        return Seen(pending(look, Reason.IMAGE_PULL_FAILED, _image_problem(pod, reason, message)), again_at=lost_at)
    if reason == "CreateContainerConfigError":
        return Seen(pending(look, Reason.CONFIG_MISSING, f"waits for what its container needs: {message}"))
    if reason in _NOT_CREATED:
        return Seen(pending(look, Reason.CONTAINER_NOT_CREATED, f"its container cannot be created: {message}"))
    for item in podstate.containers(pod, "initContainerStatuses"):
        held = item.get("state", {}).get("waiting", {})
        if held.get("reason") in _IMAGE | _NOT_CREATED | {"CreateContainerConfigError", "CrashLoopBackOff"}:
            why = held.get("message") or held["reason"]
            message = f"waits for its init container {item['name']}: {why}"
            return Seen(pending(look, Reason.CONTAINER_NOT_CREATED, message), again_at=lost_at)
    if (fetching := _fetching(look, pod, lost_at)) is not None:
        return fetching
    return _unplaced(look, pod, lost_at)


def _fetching(look: Look, pod: Object, lost_at: float | None) -> Seen | None:
    """A pod whose files are on their way; people are told if that takes a while."""
    running = podstate.init_state(pod, names.FETCH_CONTAINER).get("running")
    since = podstate.moment(running.get("startedAt")) if running else None
    if since is None:
        return None
    if look.now >= since + FETCH_SECONDS:
        return Seen(pending(look, None, "its file inputs are being fetched"), again_at=lost_at)
    return Seen(pending(look, None, None), again_at=min(since + FETCH_SECONDS, lost_at or since + FETCH_SECONDS))


def _unplaced(look: Look, pod: Object, lost_at: float | None) -> Seen:
    """A pod of which no kubelet has said anything yet. `activeDeadlineSeconds` is the kubelet's: before, it is ours."""
    scheduled = next((item for item in podstate.conditions(pod) if item["type"] == "PodScheduled"), {})
    unschedulable = scheduled.get("status") == "False"
    why = f"no node takes its pod yet: {podstate.said(scheduled)}"
    due_at = podstate.due_without_node_at(pod)
    if due_at is not None and look.now >= due_at:
        message = podstate.too_long(pod) + (f"; {why}" if unschedulable else "")
        return Seen(over(look, None, Reason.TIMED_OUT, message))
    again_at = min((at for at in (due_at, lost_at) if at is not None), default=None)
    told = pending(look, Reason.UNSCHEDULABLE, why) if unschedulable else pending(look, None, None)
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
