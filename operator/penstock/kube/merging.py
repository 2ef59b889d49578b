"""Merges a step's `podTemplate` under what Penstock sets: ours wins, what it says beyond that stays.

Pure. Lists that Kubernetes itself merges by a key are merged by it here; all other lists of the template's are replaced
by ours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.controller.contract import CannotStart
from penstock.kube.names import COLLECTOR_CONTAINER, FETCH_CONTAINER, STEP_CONTAINER

Object = dict[str, Any]

_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
}


def merge(template: Mapping[str, Any], ours: Mapping[str, Any]) -> Object:
    """A new map with all of both: maps merged, lists merged by their keys, for anything else ours.

    In a merged list what only the template has comes first, then ours in our order: variables may refer to earlier
    ones, and ours must not be shadowed.
    """
    found: Object = copy.deepcopy(dict(template))
    for name, value in ours.items():
        there = found.get(name)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            found[name] = merge(there, value)
        elif name in _KEYS and isinstance(value, list) and isinstance(there, list):
            found[name] = _merge_list(there, value, _KEYS[name])
        else:
            found[name] = copy.deepcopy(value)
    return found


def _merge_list(template: Sequence[Object], ours: Sequence[Object], key: str) -> list[Object]:
    # One of the same name is replaced and not mixed: sources of variables and volumes exclude each other.
    names = {item[key] for item in ours}
    return copy.deepcopy([*(item for item in template if item.get(key) not in names), *ours])


class Template:
    """A step's `podTemplate`, checked as far as merging needs it.

    Args:
        raw: as the manifest has it.
        place: where it stands in the manifest, for messages.

    Raises:
        CannotStart: it is not what a pod template can be.
    """

    def __init__(self, raw: Mapping[str, Any] | None, *, place: str) -> None:
        self._place = place
        raw = raw or {}
        metadata = self._map(raw.get("metadata"), "metadata")
        self.labels: dict[str, str] = self._map(metadata.get("labels"), "metadata.labels")
        self.annotations: dict[str, str] = self._map(metadata.get("annotations"), "metadata.annotations")
        spec = copy.deepcopy(self._map(raw.get("spec"), "spec"))
        self._check_list(spec, "volumes")
        containers = self._check_list(spec, "containers")
        self.init_containers = self._check_list(spec, "initContainers")
        self.others = [item for item in containers if item["name"] != STEP_CONTAINER]
        self.step: Object = next((item for item in containers if item["name"] == STEP_CONTAINER), {})
        for name in ("env", "volumeMounts"):
            self._check_list(self.step, name, within=f"spec.containers[{STEP_CONTAINER}].")
        for field, items in (("containers", self.others), ("initContainers", self.init_containers)):
            for item in items:
                if item["name"] in (STEP_CONTAINER, COLLECTOR_CONTAINER, FETCH_CONTAINER):
                    raise self._wrong(f"spec.{field}[{item['name']}]", "this name is Penstock's own; choose another")
        for name in ("containers", "initContainers"):
            spec.pop(name, None)
        self.spec: Object = spec

    def _map(self, value: object, field: str) -> Object:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(field, "wanted a map")
        return value

    def _check_list(self, holder: Object, name: str, *, within: str = "spec.") -> list[Object]:
        value = holder.get(name)
        if value is None:
            holder.pop(name, None)
            return []
        key = _KEYS[name]
        if not isinstance(value, list):
            raise self._wrong(f"{within}{name}", "wanted a list")
        for position, item in enumerate(value):
            if not isinstance(item, dict) or not isinstance(item.get(key), str) or not item[key]:
                raise self._wrong(f"{within}{name}[{position}]", f"wanted a map with a `{key}`")
        return value

    def _wrong(self, field: str, problem: str) -> CannotStart:
        return CannotStart(f"{self._place}.{field}: {problem}")
