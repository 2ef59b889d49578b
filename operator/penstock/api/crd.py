"""The CustomResourceDefinitions of the three kinds: names, columns, selectable fields. Schemas come from the models.

Pure: `crd` gives a dict and `render` its YAML; `__main__` writes files. How a model becomes a structural schema, with
its rules, is in `structural`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from penstock.api.base import GROUP, VERSION, Model
from penstock.api.deployment import Deployment
from penstock.api.execution import Execution
from penstock.api.pipeline import Pipeline
from penstock.api.structural import Schema, structural

MAX_NAME: Final = 63
"""Characters of an object's name: names of children, labels and revisions are made from it."""

Column = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind, as the API server lists it.

    Attributes:
        model: its model.
        plural: name in URLs; the definition is called `<plural>.penstock.dev`.
        short: short name for kubectl; never one of Kubernetes' own.
        columns: what `kubectl get` prints; those with priority 1 only with `-o wide`.
        selectable: paths of fields that field selectors may name.
        cel_places: see `structural`.
        awaited: whether an operator will always write its status. Then one without is shown to be unobserved, because
            tools that wait for objects take one that says nothing for done.
    """

    model: type[Model]
    plural: str
    short: str
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    cel_places: int = 20_000
    awaited: bool = False


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False, description: str) -> Column:
    column: Column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": 1} if wide else column


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_AGE: Final = _column("Age", ".metadata.creationTimestamp", "date", description="Time since it was made.")
_NOT_READY: Final = _column(
    "Reason", _condition("Ready", "reason"), wide=True, description="Reason of the condition Ready."
)

KINDS: Final[Mapping[str, Kind]] = {
    "Pipeline": Kind(
        model=Pipeline,
        plural="pipelines",
        short="pipe",
        columns=(
            _column("Ready", _condition("Ready", "status"), description="Whether it can run."),
            _column("Revision", ".status.revision", "integer", description="Number of the newest ready revision."),
            _NOT_READY,
            _column("Description", ".spec.description", wide=True, description="What it does."),
            _AGE,
        ),
        awaited=True,
    ),
    "Deployment": Kind(
        model=Deployment,
        plural="deployments",
        short="pdep",
        columns=(
            _column("Pipeline", ".spec.pipeline.name", description="The pipeline to run."),
            _column("Schedule", ".spec.schedule.cron", description="When, as cron fields."),
            _column("Endpoint", ".spec.endpoint.path", description="Last part of the endpoint's address."),
            _column("Suspended", ".spec.suspend", "boolean", description="Whether nothing is started."),
            _column("Active", ".status.active", "integer", description="Executions that run."),
            _column("Last", ".status.lastTime", "date", description="Time since an execution was last started."),
            # Not a date column: those print the time since then, and `<invalid>` for a moment to come.
            _column("Next", ".status.nextTime", description="When the next execution is due."),
            _column("Ready", _condition("Ready", "status"), description="Whether it can start executions."),
            _NOT_READY,
            _column("Rule", ".status.summary", wide=True, description="The rule as a sentence."),
            _column("URL", ".status.url", wide=True, description="Address of the endpoint."),
            _AGE,
        ),
        selectable=(".spec.pipeline.name",),
        awaited=True,
    ),
    "Execution": Kind(
        model=Execution,
        plural="executions",
        short="exec",
        columns=(
            _column("Phase", ".status.phase", description="Where it stands."),
            _column("Progress", ".status.progress", description="Finished and all steps."),
            _column("Pipeline", ".spec.pipeline.name", description="The pipeline; none if it is written in place."),
            _column("Revision", ".status.revision", description="The revision of the pipeline that is run."),
            _column("Reason", ".status.reason", wide=True, description="Why it is in this phase, in one word."),
            _column("Started", ".status.startedAt", "date", wide=True, description="Time since it began."),
            _column("Finished", ".status.finishedAt", "date", wide=True, description="Time since it was over."),
            _AGE,
            _column("Duration", ".status.duration", description="How long it took, once it has finished."),
        ),
        selectable=(".spec.pipeline.name", ".status.phase"),
        # Each write of its status checks the rules of its spec again: none in CEL for each step of an inline pipeline.
        cel_places=1_000,
        awaited=True,
    ),
}
"""The kinds by name."""


def crd(kind: str) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind: a fresh dict, the same each time.

    Args:
        kind: `Pipeline`, `Deployment` or `Execution`.

    Raises:
        KeyError: there is no such kind.
        SchemaError: the model says something that an API server would refuse.
    """
    of = KINDS[kind]
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [dict(column) for column in of.columns],
    }
    if of.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in of.selectable]
    version["schema"] = {"openAPIV3Schema": _schema(of)}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{of.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": of.plural,
                "singular": kind.lower(),
                "shortNames": [of.short],
                "categories": ["penstock"],
            },
            "versions": [version],
        },
    }


def _schema(of: Kind) -> Schema:
    source = of.model.model_json_schema(by_alias=True)
    own = source["properties"]
    # The API server checks these itself, and takes no more than bounds of the name in the schema of `metadata`: even a
    # description there makes it refuse the definition.
    for field in ("apiVersion", "kind"):
        own[field] = {"type": "string", "maxLength": MAX_NAME, "description": own[field]["description"]}
    own["metadata"] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": MAX_NAME}}}
    schema = structural(source, kind=of.model.__name__, cel_places=of.cel_places)
    if of.awaited:
        schema["properties"]["status"]["default"] = {"observedGeneration": -1}
    return schema


class _Dumper(yaml.SafeDumper):
    """No anchors: an API server would take them, people and diff tools would not thank us."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(kind: str) -> str:
    """The definition as the YAML file that is committed and shipped."""
    body = yaml.dump(crd(kind), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"# Made from the models in operator/penstock/api by `make generate`: change them, not this file.\n{body}"
