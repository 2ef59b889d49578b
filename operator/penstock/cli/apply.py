"""`penstock apply`: manifests onto a cluster, after the same checks as `penstock lint`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Refused, Where, on_cluster, reference, where_options
from penstock.cli.main import OK, complain, emit
from penstock.kube.resources import CONFIG_MAPS, DEPLOYMENTS, EXECUTIONS, PIPELINES, SECRETS, Resource

if TYPE_CHECKING:
    from penstock.api.manifest import Document
    from penstock.cli.cluster import Cluster
    from penstock.kube.errors import ApiError

MANAGER = "penstock-cli"
"""Who owns the fields that this command applies: not the operator, and not `kubectl`."""

_ORDER = {"Pipeline": PIPELINES, "Deployment": DEPLOYMENTS, "Execution": EXECUTIONS}
"""Kinds in the order in which they are applied: first what others name."""
_BESIDE = {"ConfigMap": CONFIG_MAPS, "Secret": SECRETS}
"""Kinds that a cluster has kubectl for, and one machine has not."""


@click.command("apply")
@click.argument("files", nargs=-1, metavar="FILE…")
@click.option("--filename", "-f", "more", multiple=True, metavar="FILE", help="The same as FILE, as kubectl has it.")
@click.option(
    "--force-conflicts", is_flag=True, help="Take over fields that others own (kubectl, a GitOps tool) from them."
)
@where_options
def command(where: Where, files: tuple[str, ...], more: tuple[str, ...], force_conflicts: bool) -> int:
    """Check manifests and apply them to a cluster.

    FILE is a YAML or JSON file, a folder of them, or - for standard input. Nothing is applied unless all of them are
    right. Objects of other kinds are left to kubectl. An Execution with generateName is made anew each time.

    It is a server-side apply: a field that somebody else owns and that says something else is a conflict, which is told
    and changes nothing of that object.
    """
    files = (*files, *more)
    if not files:
        raise click.UsageError("Say what to apply: FILE…, a folder, or - for standard input.")
    if remote := [each for each in files if each.startswith(("http://", "https://"))]:
        raise click.UsageError(f"{remote[0]}: is not a file here; run: curl -fsSL {remote[0]} | penstock apply -")
    from penstock.api.problems import InvalidManifest  # noqa: PLC0415 - not needed for --help
    from penstock.cli.manifests import read_all  # noqa: PLC0415

    documents = read_all(files)
    problems = [problem for document in documents for problem in document.problems]
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise InvalidManifest(errors)
    for problem in problems:
        complain(f"warning: {problem.sentence()}")
    ours = to_apply(documents, local=where.local)

    async def work(cluster: Cluster) -> int:
        for line in await apply_all(cluster, ours, force=force_conflicts, local=where.local):
            emit(line)
        return OK

    return on_cluster(where, work)


def to_apply(documents: Sequence[Document], *, local: bool) -> list[Document]:
    """The documents that this command applies, in their order; people are told of the others.

    Raises:
        click.UsageError: there are none.
    """
    kinds = {**_ORDER, **_BESIDE} if local else _ORDER
    ours = [each for each in documents if each.kind in kinds and each.ours == (each.kind in _ORDER)]
    for document in documents:
        if document not in ours:
            remedy = "it has no place on one machine" if local else "use kubectl apply"
            complain(f'{document.kind or "object"} "{document.name}" is not applied here: {remedy}')
    if documents and not ours:
        raise click.UsageError("There is no Pipeline, Deployment or Execution in what was given.")
    return sorted(ours, key=lambda document: list(kinds).index(document.kind))


async def apply_all(
    cluster: Cluster, documents: Sequence[Document], *, force: bool = False, local: bool = False
) -> list[str]:
    """Apply documents; gives a line about each.

    Raises:
        Refused, ApiError: one is not taken; those before it are applied.
    """
    bodies = [({**_ORDER, **_BESIDE}[each.kind], body_of(cluster, each, local=local)) for each in documents]
    lines = []
    for resource, body in bodies:
        name, done = await apply(cluster, resource, body, force=force)
        lines.append(f"{reference(resource, name)} {done}")
    return lines


def body_of(cluster: Cluster, document: Document, *, local: bool = False) -> dict[str, Any]:
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
    if local and document.file and document.kind in {"Pipeline", "Execution"}:
        from penstock.local.pipelines import SOURCE_ANNOTATION  # noqa: PLC0415

        source = str(Path(document.file).resolve().parent)
        metadata["annotations"] = {SOURCE_ANNOTATION: source} | (metadata.get("annotations") or {})
    return {key: value for key, value in document.data.items() if key != "status"} | {"metadata": metadata}


async def apply(
    cluster: Cluster, resource: Resource, body: Mapping[str, Any], *, force: bool = False
) -> tuple[str, str]:
    """Apply one object, or create it if its name is to be made; gives its name and what was done.

    Raises:
        Refused: somebody else owns fields that would change, and `force` is not given.
    """
    from penstock.kube.errors import Conflict  # noqa: PLC0415

    metadata = body["metadata"]
    if not metadata.get("name"):
        made = await cluster.client.create(resource, dict(body))
        return made["metadata"]["name"], "created"
    before = await _version(cluster, resource, metadata["name"], metadata["namespace"])
    try:
        after = await cluster.client.apply(resource, dict(body), manager=MANAGER, force=force)
    except Conflict as error:
        if not (owners := _owners(error)):
            raise
        raise Refused(
            f'{resource.kind.lower()} "{metadata["name"]}" was not changed, others own fields that your manifest '
            f"changes: {owners}; take these fields out of the manifest, let their owners change them, or take them "
            "over with `penstock apply --force-conflicts`"
        ) from None
    if not before:
        return metadata["name"], "created"
    return metadata["name"], "unchanged" if after["metadata"]["resourceVersion"] == before else "configured"


def _owners(error: ApiError) -> str:
    """Who owns which fields, `"kubectl" owns spec.a and spec.b`; empty if this is another kind of conflict."""
    found: dict[str, list[str]] = {}
    for cause in error.details.get("causes") or ():
        if cause.get("reason") == "FieldManagerConflict":
            owner = re.search(r'"(.*?)"', cause.get("message", ""))
            found.setdefault(owner[1] if owner else "somebody", []).append(cause.get("field", "").removeprefix("."))
    return "; ".join(f'"{owner}" owns {" and ".join(fields)}' for owner, fields in found.items())


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
