"""The kinds that are served, where they are, and how a client finds out: discovery as the Kubernetes API has it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from pydantic import BaseModel

from penstock import __version__
from penstock.api.base import GROUP, VERSION
from penstock.api.deployment import Deployment
from penstock.api.execution import Execution
from penstock.api.pipeline import Pipeline
from penstock.local.answers import About
from penstock.step.values import JsonObject

_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "delete", "patch", "update")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object.

    Attributes:
        group: its API group; empty for the core group.
        version: for example `v1`.
        plural: as it stands in paths.
        kind: as it stands in manifests.
        short: what people write for it.
        verbs: what can be done.
        model: its model; None for kinds that are not ours.
        fields: of kinds without a model: their fields besides the head and metadata.
        subresources: further paths below an object.
    """

    group: str
    version: str
    plural: str
    kind: str
    short: tuple[str, ...] = ()
    verbs: tuple[str, ...] = (*_READ, *_WRITE)
    model: type[BaseModel] | None = None
    fields: frozenset[str] = field(default_factory=frozenset)
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """As it stands in manifests."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def namespaced(self) -> bool:
        """Whether its objects live in namespaces."""
        return self.plural != "namespaces"

    def about(self, name: str = "") -> About:
        """One of its objects, for messages."""
        return About(self.group, self.plural, name)


PIPELINES: Final = Kind(GROUP, VERSION, "pipelines", "Pipeline", ("pipe",), model=Pipeline, subresources=("status",))
DEPLOYMENTS: Final = Kind(
    GROUP, VERSION, "deployments", "Deployment", ("pdep",), model=Deployment, subresources=("status",)
)
EXECUTIONS: Final = Kind(
    GROUP, VERSION, "executions", "Execution", ("exec",), model=Execution, subresources=("status",)
)
CONFIG_MAPS: Final = Kind(
    "", "v1", "configmaps", "ConfigMap", ("cm",), fields=frozenset({"data", "binaryData", "immutable"})
)
SECRETS: Final = Kind("", "v1", "secrets", "Secret", fields=frozenset({"data", "stringData", "type", "immutable"}))
NAMESPACES: Final = Kind("", "v1", "namespaces", "Namespace", ("ns",), verbs=("get", "list"))
PODS: Final = Kind("", "v1", "pods", "Pod", ("po",), verbs=("get", "list"), subresources=("log",))
EVENTS: Final = Kind("", "v1", "events", "Event", ("ev",), verbs=("list",))
EVENTS_V1: Final = Kind("events.k8s.io", "v1", "events", "Event", ("ev",), verbs=("list",))
REVISIONS: Final = Kind("apps", "v1", "controllerrevisions", "ControllerRevision", verbs=("get", "list"))

KINDS: Final[Mapping[tuple[str, str, str], Kind]] = {
    (kind.group, kind.version, kind.plural): kind
    for kind in (
        PIPELINES,
        DEPLOYMENTS,
        EXECUTIONS,
        CONFIG_MAPS,
        SECRETS,
        NAMESPACES,
        PODS,
        EVENTS,
        EVENTS_V1,
        REVISIONS,
    )
}
REGISTERED: Final = (PIPELINES, DEPLOYMENTS, CONFIG_MAPS, SECRETS)
"""Kinds whose objects are in the registry."""
STORED: Final = (*REGISTERED, EXECUTIONS)
"""Kinds whose objects can be watched."""

_REVIEWS: Final = {
    ("authentication.k8s.io", "v1"): ("selfsubjectreviews", "SelfSubjectReview"),
    ("authorization.k8s.io", "v1"): ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
}

_PATH: Final = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?"
)
_NAMESPACE: Final = re.compile(r"/api/v1/namespaces(?:/(?P<name>[^/]+))?")


@dataclass(frozen=True, slots=True)
class Place:
    """What a path means.

    Attributes:
        kind: of which kind.
        namespace: where; None: everywhere.
        name: of which object; empty: of all.
        sub: which part of it.
    """

    kind: Kind
    namespace: str | None
    name: str
    sub: str


def place_of(path: str) -> Place | None:
    """What a path means; None if it leads to no kind."""
    if found := _NAMESPACE.fullmatch(path):
        return Place(NAMESPACES, None, unquote(found["name"] or ""), "")
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    group = "" if found["core"] else unquote(found["group"])
    kind = KINDS.get((group, found["core"] or unquote(found["version"]), unquote(found["plural"])))
    if kind is None or not kind.namespaced:
        return None
    namespace = found["namespace"]
    name = unquote(found["name"] or "")
    if name and namespace is None:
        return None
    return Place(kind, None if namespace is None else unquote(namespace), name, unquote(found["sub"] or ""))


def review_of(path: str) -> str:
    """The kind of review that a path is for; empty for none."""
    parts = path.strip("/").split("/")
    if len(parts) != 4 or parts[0] != "apis":
        return ""
    plural, kind = _REVIEWS.get((parts[1], parts[2]), ("", ""))
    return kind if parts[3] == plural else ""


# --- discovery ---


def discovery(path: str) -> JsonObject | None:
    """What is found at the paths that tell what is served; None for all others."""
    match path.strip("/").split("/"):
        case ["version"]:
            version = f"v1.34.0+penstock-{__version__}"
            return {"major": "1", "minor": "34", "gitVersion": version, "platform": "penstock/local"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*each) for each in _GROUPS]}
        case ["api", "v1"]:
            return _resources("", "v1")
        case ["apis", group] if group in dict(_GROUPS):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, dict(_GROUPS)[group])}
        case ["apis", group, version] if (group, version) in _GROUPS:
            return _resources(group, version)
    return None


_GROUPS: Final = tuple(dict.fromkeys([*((group, version) for group, version, _ in KINDS if group), *_REVIEWS]))


def _group(group: str, version: str) -> JsonObject:
    preferred = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [preferred], "preferredVersion": preferred}


def _resources(group: str, version: str) -> JsonObject:
    found: list[JsonObject] = []
    for kind in KINDS.values():
        if (kind.group, kind.version) != (group, version):
            continue
        one = {
            "name": kind.plural,
            "singularName": kind.kind.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": [verb for verb in kind.verbs if verb != "watch" or kind in STORED],
        }
        more = {"shortNames": list(kind.short)} if kind.short else {}
        found.append(one | more | ({"categories": ["penstock"]} if kind.group == GROUP else {}))
        for sub in kind.subresources:
            verbs = ["get"] if sub == "log" or kind is EXECUTIONS else ["get", "patch", "update"]
            found.append(
                {
                    "name": f"{kind.plural}/{sub}",
                    "singularName": "",
                    "namespaced": True,
                    "kind": kind.kind,
                    "verbs": verbs,
                }
            )
    if (group, version) in _REVIEWS:
        plural, name = _REVIEWS[group, version]
        found.append({"name": plural, "singularName": "", "namespaced": False, "kind": name, "verbs": ["create"]})
    head = {"kind": "APIResourceList", "apiVersion": "v1"}
    return head | {"groupVersion": f"{group}/{version}" if group else version, "resources": found}


def uid_of(text: str) -> str:
    """A uid for an object that is only shown: always the same for the same text."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], f"5{digest[13:16]}", f"8{digest[17:20]}", digest[20:32]))
