"""Pods and Jobs without what nobody here reads of them: with 10,000 of them held it counts. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.kube import names
from penstock.step.values import JsonObject, compact_json

_POD_METADATA = ("name", "uid", "annotations", "deletionTimestamp", "deletionGracePeriodSeconds", "creationTimestamp")
_SHORT = 32
"""Characters of a text that others are likely to have as well: phases, types, reasons, moments."""
_STATUS = ("phase", "reason", "message", "startTime")
_READ_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})
_CONTAINER_STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
_MOST_SHARED = 4_096


def pod(body: Mapping[str, Any]) -> JsonObject:
    """A Pod without what no judgement reads."""
    spec = body.get("spec", {})
    annotations = body["metadata"].get("annotations", {})
    metadata = {key: body["metadata"][key] for key in _POD_METADATA if key in body["metadata"]}
    metadata["annotations"] = {key: value for key, value in annotations.items() if key == names.ENDED}
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": spec.get("nodeName", ""),
            "activeDeadlineSeconds": spec.get("activeDeadlineSeconds"),
            "terminationGracePeriodSeconds": spec.get("terminationGracePeriodSeconds", 30),
            "runAsUser": spec.get("securityContext", {}).get("runAsUser"),
            "transfersOf": _transfers_of(body),
            "containers": _containers(spec.get("containers", ())),
            "initContainers": _containers(spec.get("initContainers", ())),
        },
        "status": _shared(_status(body.get("status", {}))),
    }


def _transfers_of(body: Mapping[str, Any]) -> str:
    """The uid of its Job, if it reads a plan of transfers."""
    reads = any(each["name"] == names.TRANSFERS_VOLUME for each in body.get("spec", {}).get("volumes", ()))
    owners = body["metadata"].get("ownerReferences", ()) if reads else ()
    return next((owner["uid"] for owner in owners if owner["kind"] == "Job"), "")


def _status(status: Mapping[str, Any]) -> JsonObject:
    found: JsonObject = {key: status[key] for key in _STATUS if key in status}
    # That a pod was placed is said by its node.
    found["conditions"] = [
        each
        for each in status.get("conditions", ())
        if each["type"] in _READ_CONDITIONS and not (each["type"] == "PodScheduled" and each["status"] == "True")
    ]
    for kind in _CONTAINER_STATUSES:
        if kind in status:
            found[kind] = [{"name": each["name"], "state": each.get("state", {})} for each in status[kind]]
    return found


def _shared(found: Any) -> Any:
    """The same, with names and short words that all Pods share held once: half of what a status takes."""
    if isinstance(found, dict):
        return {sys.intern(key): _shared(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_shared(value) for value in found]
    return sys.intern(found) if isinstance(found, str) and len(found) <= _SHORT else found


_known: dict[str, list[JsonObject]] = {}
"""Containers of pod specs by their text: all pods of a step have the same, and nobody changes them."""


def _containers(listed: Sequence[Mapping[str, Any]]) -> list[JsonObject]:
    found = [_container(each) for each in listed]
    if len(_known) >= _MOST_SHARED:
        _known.clear()
    return _known.setdefault(compact_json(found), found)


def _container(container: Mapping[str, Any]) -> JsonObject:
    kept = ("name", "image", "command", "args", "resources", "restartPolicy")
    return {key: container[key] for key in kept if key in container}


def job(body: Mapping[str, Any]) -> JsonObject:
    """A Job without its template and the like."""
    spec = body.get("spec", {})
    return {
        "metadata": {"name": body["metadata"]["name"], "uid": body["metadata"]["uid"]},
        "spec": {key: spec[key] for key in ("managedBy", "suspend") if key in spec},
        "status": {"conditions": body.get("status", {}).get("conditions", [])},
    }
