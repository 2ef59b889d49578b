"""The kinds that the operator speaks about, and where an API server serves them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object on an API server.

    Attributes:
        group: API group; empty for the core group.
        version: for example `v1`.
        plural: as it stands in paths, for example `pods`.
        kind: as it stands in manifests, for example `Pod`.
        namespaced: whether its objects live in namespaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As it stands in manifests, for example `batch/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The path of an object, or without a name that of all of them.

        Args:
            namespace: where; None for all namespaces, and for kinds that live in none.
            name: which object.
            subresource: for example `status`.

        Raises:
            ValueError: a namespace where there can be none, or none where a name needs one.
        """
        if namespace is not None and not self.namespaced:
            raise ValueError(f"{self.kind} objects live in no namespace, but {namespace!r} was given")
        if name is not None and self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name!r}: its namespace was not given")
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [self.plural, *([] if name is None else [name]), *([subresource] if subresource else [])]
        return "/" + "/".join(quote(part, safe="") for part in parts)


@dataclass(frozen=True, slots=True)
class ObjectId:
    """One object for good: of two that have had the same name, this one.

    Attributes:
        resource: its kind.
        namespace: where it is.
        name: its name.
        uid: its uid.
    """

    resource: Resource
    namespace: str
    name: str
    uid: str


EXECUTIONS = Resource("penstock.dev", "v1alpha1", "executions", "Execution")
PIPELINES = Resource("penstock.dev", "v1alpha1", "pipelines", "Pipeline")
DEPLOYMENTS = Resource("penstock.dev", "v1alpha1", "deployments", "Deployment")
JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("", "v1", "events", "Event")
EVENTS_V1 = Resource("events.k8s.io", "v1", "events", "Event")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
