"""Pods and Jobs without what nobody here reads of them: with 10,000 of them held it counts. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from penstock.kube import names
from penstock.step.values import JsonObject

_POD_METADATA = ("name", "uid", "annotations", "deletionTimestamp", "deletionGracePeriodSeconds", "creationTimestamp")
_SHORT = 32
"""Characters of a text that others are likely to have as well: phases, types, reasons, moments."""


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
            "containers": [_container(each) for each in spec.get("containers", ())],
            "initContainers": [_container(each) for each in spec.get("initContainers", ())],
        },
        "status": _shared(body.get("status", {})),
    }


def _shared(found: Any) -> Any:
    """The same, with names and short words that all Pods share held once: half of what a status takes."""
    if isinstance(found, dict):
        return {sys.intern(key): _shared(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_shared(value) for value in found]
    return sys.intern(found) if isinstance(found, str) and len(found) <= _SHORT else found


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
