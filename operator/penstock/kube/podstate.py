"""Reads pods as the API server has them: their containers' states, who ended them, when. Judges no attempt.

Pure; fields that are not there yet are nothing, and no error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from penstock.kube import names
from penstock.kube.transports import message_share
from penstock.step import supervisor
from penstock.step.fetch import FetchError, parse_message

Object = Mapping[str, Any]

LOST_SECONDS: Final = 60.0
"""How long after the end of its grace period a pod that is still there counts as lost with its node."""


def needs_ending(pod: Object) -> bool:
    """Whether the pod of an attempt that has ended would go on: see `manifests.end_now`."""
    if phase_final(pod) or "deletionTimestamp" in pod["metadata"] or was_ended(pod):
        return False
    # A step that ended takes its native sidecars with it; what else runs beside it may run for ever.
    others = [item for item in containers(pod, "containerStatuses") if item["name"] != names.STEP_CONTAINER]
    ended = "terminated" in state(pod, names.STEP_CONTAINER)
    return not ended or any("terminated" not in item.get("state", {}) for item in others)


def failed_init(pod: Object) -> str | None:
    """What went wrong in an init container, for people; None if nothing did, or the whole pod was ended."""
    for item in containers(pod, "initContainerStatuses"):
        done = item.get("state", {}).get("terminated", {})
        if done.get("exitCode", 0) != 0 and disruption(pod) is None:
            if item["name"] == names.COLLECTOR_CONTAINER:
                return f"the collector of its outputs failed: {container_end(done)}"
            if item["name"] == names.FETCH_CONTAINER:
                return _not_fetched(done)
            return f"its init container {item['name']} of podTemplate failed: {container_end(done)}"
    return None


def _not_fetched(done: Object) -> str:
    try:
        problems = parse_message(str(done.get("message", ""))).problems
    except FetchError:
        return f"its file inputs were not fetched: {container_end(done)}"
    return "; ".join(problems)


def container_end(done: Object) -> str:
    """How a container ended, for people."""
    code, reason = done.get("exitCode"), done.get("reason", "")
    message = last_line(str(done.get("message", "")))
    named = f" ({reason})" if reason not in ("", "Error", "Completed") else ""
    return f"exit code {code}{named}" + (f": {message}" if message else "")


def disruption(pod: Object) -> str | None:
    """Who ended the pod, for people; None if nobody did."""
    status = pod.get("status", {})
    if (target := condition(pod, "DisruptionTarget")) is not None:
        return f"its pod was ended by the platform ({target.get('reason')}): {said(target)}"
    if status.get("reason") in ("Evicted", "Preempting", "Terminated", "NodeShutdown", "NodeLost", "Shutdown"):
        return f"its pod was ended by the platform ({status['reason']}): {said(status)}"
    return None


_STORAGE = re.compile(
    r"^(Usage of EmptyDir volume|Pod ephemeral local storage usage exceeds|Container \S+ exceeded its local ephemeral)"
)


def storage_exceeded(pod: Object) -> str | None:
    """What the kubelet said where it ended the pod because it wrote more than it may; None if it did not.

    That comes again with every try, unlike the eviction from a node that is short of something.
    """
    status = pod.get("status", {})
    message = str(status.get("message", "")).strip()
    return message if status.get("reason") == "Evicted" and _STORAGE.match(message) else None


def too_long(pod: Object) -> str:
    """The sentence for a pod whose time was over."""
    return f"took longer than timeoutSeconds: {pod['spec'].get('activeDeadlineSeconds')}"


def has_node(pod: Object) -> bool:
    """Whether a kubelet is there to look after it."""
    return bool(pod.get("spec", {}).get("nodeName"))


def due_without_node_at(pod: Object) -> float | None:
    """When the time is over of a pod that has no node, where nobody but us ends it; None without such a moment."""
    seconds, created = pod["spec"].get("activeDeadlineSeconds"), moment(pod["metadata"].get("creationTimestamp"))
    return None if seconds is None or created is None or has_node(pod) else created + float(seconds)


def deadline_at(pod: Object) -> float | None:
    """When its kubelet ends a pod because its time is over; None if it never does, or has not begun with it."""
    seconds, started_at = pod["spec"].get("activeDeadlineSeconds"), moment(pod.get("status", {}).get("startTime"))
    return None if seconds is None or started_at is None else started_at + float(seconds)


def lost_at(pod: Object) -> float | None:
    """When a pod that is being deleted counts as lost; None for any other."""
    deletion = moment(pod["metadata"].get("deletionTimestamp"))
    return None if deletion is None else deletion + LOST_SECONDS


def deleted_before(pod: Object, ended_at: float) -> bool:
    """Whether deletion of the pod was asked for before that moment."""
    deadline = moment(pod["metadata"].get("deletionTimestamp"))
    if deadline is None:
        return False
    return ended_at >= deadline - float(pod["metadata"].get("deletionGracePeriodSeconds", 0))


def started(done: Object) -> float | None:
    """When a terminated container began, seconds since the epoch."""
    return moment(done.get("startedAt"))


def moment(text: object) -> float | None:
    """Seconds since the epoch of RFC 3339 text; None of nothing, and of the zero time that stands for nothing."""
    if not isinstance(text, str):
        return None
    moment = datetime.fromisoformat(text).timestamp()
    return moment if moment > 0 else None


def containers(pod: Object, kind: str) -> Sequence[Object]:
    """Container statuses of a kind (`containerStatuses`, …)."""
    found: Sequence[Object] = pod.get("status", {}).get(kind) or ()
    return found


def state(pod: Object, name: str) -> Object:
    """The state of a container: `waiting`, `running` or `terminated`; empty if nothing is known yet."""
    for item in containers(pod, "containerStatuses"):
        if item["name"] == name:
            state: Object = item.get("state", {})
            return state
    return {}


def init_state(pod: Object, name: str) -> Object:
    """The same for an init container."""
    found: Object = next((item for item in containers(pod, "initContainerStatuses") if item["name"] == name), {})
    state: Object = found.get("state", {})
    return state


def collector(pod: Object) -> Object | None:
    """The collector among the pod's containers, if it has one."""
    spec = pod["spec"]
    for item in [*spec["containers"], *spec.get("initContainers", [])]:
        if item["name"] == names.COLLECTOR_CONTAINER:
            found: Object = item
            return found
    return None


def supervised(pod: Object) -> bool:
    """Whether its step is a function whose supervisor says what it gave."""
    return any(
        supervisor.MODULE in item.get("command", ())
        for item in pod["spec"]["containers"]
        if item["name"] == names.STEP_CONTAINER
    )


def transfers_of(pod: Object) -> str:
    """The uid of the Job whose plan of transfers it reads; empty: it reads none."""
    uid: str = pod["spec"].get("transfersOf", "")
    return uid


def collector_state(pod: Object) -> Object:
    """The state of the collector."""
    for kind in ("containerStatuses", "initContainerStatuses"):
        for item in containers(pod, kind):
            if item["name"] == names.COLLECTOR_CONTAINER:
                state: Object = item.get("state", {})
                return state
    return {}


def conditions(found: Object) -> Sequence[Object]:
    """The conditions of an object."""
    conditions: Sequence[Object] = found.get("status", {}).get("conditions") or ()
    return conditions


def condition(found: Object, kind: str) -> Object | None:
    """A condition that holds."""
    return next((item for item in conditions(found) if item["type"] == kind and item.get("status") == "True"), None)


def phase_final(pod: Object) -> bool:
    """Whether nothing of the pod runs any more or ever will."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def was_ended(pod: Object) -> bool:
    """Whether the operator had it ended: see `manifests.end_now`."""
    return names.ENDED in (pod["metadata"].get("annotations") or {})


def said(found: Object) -> str:
    """What a condition or status says, for people."""
    return str(found.get("message") or found.get("reason") or "no reason given")


def last_line(text: str) -> str:
    """The last line that is not blank; empty if there is none."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[-1] if lines else ""


def others_running_since(pod: Object) -> float | None:
    """When the last container was started that runs beside the step and that the kubelet does not stop with it."""
    since = [
        moment(item["state"]["running"].get("startedAt")) or 0.0
        for item in containers(pod, "containerStatuses")
        if item["name"] != names.STEP_CONTAINER and "running" in item.get("state", {})
    ]
    return max(since, default=None)


def message_room(pod: Object) -> int:
    """Bytes of each container's termination message that the kubelet keeps in this pod."""
    spec = pod["spec"]
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return message_share(sum(len(spec.get(kind) or ()) for kind in kinds))


def is_over(job: Object | None) -> bool:
    """Whether a Job says that it is over; one that we manage does so after its end was recorded."""
    return job is not None and any(condition(job, kind) is not None for kind in ("Complete", "Failed"))
