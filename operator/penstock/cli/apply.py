"""`penstock apply`: manifests onto a cluster, after the same checks as `penstock lint`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Refused, Where, on_cluster, reference, where_options
from penstock.cli.main import OK, complain, emit
from penstock.kube.resources import DEPLOYMENTS, EXECUTIONS, PIPELINES, Resource

if TYPE_CHECKING:
    from penstock.api.manifest import Document
    from penstock.cli.cluster import Cluster

MANAGER = "penstock-cli"
"""Who owns the fields that this command applies: not the operator, and not `kubectl`."""

_ORDER = {"Pipeline": PIPELINES, "Deployment": DEPLOYMENTS, "Execution": EXECUTIONS}
"""Kinds in the order in which they are applied: first what others name."""


@click.command("apply")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@where_options
def command(where: Where, files: tuple[str, ...]) -> int:
    """Check manifests and apply them to a cluster.

    FILE is a YAML or JSON file, a folder of them, or - for standard input. Nothing is applied unless all of them are
    right. Objects of other kinds are left to kubectl. An Execution with generateName is made anew each time.
    """
    from penstock.api.problems import InvalidManifest  # noqa: PLC0415 - not needed for --help
    from penstock.cli.manifests import read_all  # noqa: PLC0415

    documents = read_all(files)
    problems = [problem for document in documents for problem in document.problems]
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise InvalidManifest(errors)
    for problem in problems:
        complain(f"warning: {problem.sentence()}")
    ours = [document for document in documents if document.ours and document.kind in _ORDER]
    for document in documents:
        if document not in ours:
            complain(f'{document.kind or "object"} "{document.name}" is not applied here: use kubectl apply')
    if not ours:
        raise click.UsageError("There is no Pipeline, Deployment or Execution in what was given.")
    ours.sort(key=lambda document: list(_ORDER).index(document.kind))

    async def work(cluster: Cluster) -> int:
        bodies = [(_ORDER[document.kind], body_of(cluster, document)) for document in ours]
        for resource, body in bodies:
            name, done = await apply(cluster, resource, body)
            emit(f"{reference(resource, name)} {done}")
        return OK

    return on_cluster(where, work)


def body_of(cluster: Cluster, document: Document) -> dict[str, Any]:
    """What is sent of a document: as it was written, with a namespace and without a status.

    Raises:
        Refused: it names another namespace than the command line, or neither name nor generateName.
    """
    metadata = dict(document.data.get("metadata") or {})
    own = metadata.get("namespace")
    if own and cluster.chosen and own != cluster.namespace:
        raise Refused(
            f'{document.kind} "{document.name}": its metadata.namespace is "{own}", but --namespace says '
            f'"{cluster.namespace}"; take one of the two out'
        )
    if not metadata.get("name") and not (document.kind == "Execution" and metadata.get("generateName")):
        more = " or metadata.generateName" if document.kind == "Execution" else ""
        raise Refused(f"{document.file}: {document.kind}: give it a metadata.name{more}")
    metadata["namespace"] = own or cluster.namespace
    for key in ("uid", "resourceVersion", "managedFields", "creationTimestamp", "generation"):
        metadata.pop(key, None)  # of an object that was printed by `get`
    return {key: value for key, value in document.data.items() if key != "status"} | {"metadata": metadata}


async def apply(cluster: Cluster, resource: Resource, body: Mapping[str, Any]) -> tuple[str, str]:
    """Apply one object, or create it if its name is to be made; gives its name and what was done."""
    metadata = body["metadata"]
    if not metadata.get("name"):
        made = await cluster.client.create(resource, dict(body))
        return made["metadata"]["name"], "created"
    before = await _version(cluster, resource, metadata["name"], metadata["namespace"])
    after = await cluster.client.apply(resource, dict(body), manager=MANAGER)
    if not before:
        return metadata["name"], "created"
    return metadata["name"], "unchanged" if after["metadata"]["resourceVersion"] == before else "configured"


async def _version(cluster: Cluster, resource: Resource, name: str, namespace: str) -> str:
    from penstock.kube.errors import NotFound  # noqa: PLC0415

    try:
        found = await cluster.client.get(resource, name, namespace, metadata_only=True)
    except NotFound:
        return ""
    return str(found["metadata"]["resourceVersion"])


def only(documents: Sequence[Document], kind: str, name: str) -> Document | None:
    """The document of this kind and name; None where there is none."""
    return next((each for each in documents if each.ours and each.kind == kind and each.name == name), None)
