"""The API `/api/v1`: executions, pipelines and deployments of a namespace, and people's files.

Files are those of the data store and the outputs of executions. Their contents do not go through here: answers name
signed URLs, which are good for one object and end. With a folder store they are paths of this same gateway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import RedirectResponse, Response

from penstock import __version__
from penstock.engine.status import load_value
from penstock.engine.types import File
from penstock.gateway import executions, objects, problems
from penstock.gateway.access import Caller, Cluster, caller
from penstock.gateway.history import Executions
from penstock.gateway.problems import Problem, ProblemDetails
from penstock.storage.datastore import MAX_PAGE, DataObject, DataStore
from penstock.storage.objects import Store
from penstock.storage.paths import data_key, file_key
from penstock.storage.plans import MAX_FILE_BYTES, person_plan
from penstock.storage.retention import Living, Retention

if TYPE_CHECKING:
    from penstock.storage.history.history import History

LINK_SECONDS = 15 * 60
"""How long the URL of a redirect is good: its follower begins at once."""
TRANSFER_SECONDS = 6 * 3600
"""How long those of transfers are."""
CACHE_SECONDS = 30 * 86_400.0
"""How long the operator keeps unused entries of the cache unless it is told otherwise."""

NAMESPACE = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
Namespace = Annotated[str, Path(pattern=f"^{NAMESPACE}$", description="The namespace.")]
ObjectPath = Annotated[str, Path(description="Path of the object in the data store.")]
Who = Annotated[Caller, Depends(caller)]
Transfers = Annotated[bool, Query(description="Whether to add signed requests that fetch what is there.")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Info(_Model):
    """What is known of an object in the data store."""

    path: str
    """Where it is."""
    size: int
    """Bytes of its content; in a listing, of what is stored (a folder is stored compressed)."""
    modified: float
    """When it was written, in seconds since the epoch."""
    etag: str
    """Changes whenever it does."""
    sha256: str | None = None
    """Digest of its content; null in a listing, and where nobody has computed it."""
    folder: bool = False
    """Whether it is a folder; not known in a listing."""
    transfers: dict[str, Any] | None = None
    """Signed requests that fetch it, where they were asked for."""


class Listing(_Model):
    """A part of a listing."""

    objects: list[Info]
    """In the order of their paths."""
    after: str | None
    """What to give for the next page; null: this is the last one."""


class Upload(_Model):
    """What is to be written."""

    path: str
    """Where to."""
    size: Annotated[int, Field(ge=0, le=5 << 40)]
    """Bytes of its content."""
    folder: bool = False
    """Whether it is a folder, which goes up as an archive."""


class Begun(_Model):
    """How to write it. It counts once what it is was recorded (`PUT …/meta/{path}`)."""

    path: str
    """Where it is to be."""
    transfers: dict[str, Any]
    """Signed requests that write it."""


class Record(_Model):
    """What was written."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Digest of its content."""
    size: Annotated[int, Field(ge=0)]
    """Bytes of its content."""
    folder: bool = False
    """Whether it is the archive of a folder."""
    etag: str | None = None
    """What the store answered to the upload."""


class Outputs(_Model):
    """The outputs of an execution."""

    phase: str
    """Phase of the execution; a finished one has all the outputs that it will have."""
    outputs: list[dict[str, Any]]
    """As in its status: `name` and one of `value`, `file`, `files`."""
    transfers: dict[str, Any] | None = None
    """Signed requests that fetch its files, where they were asked for."""


class Unused(_Model):
    """What the operator's next sweep would remove."""

    executions: list[str]
    """Uids of executions that are gone, of which there are still objects."""
    objects: int
    """How many objects, entries of the cache not counted."""
    bytes: int
    """How large they are."""
    cache_entries: int
    """How many entries of the cache that were not used for long."""
    uploads: int
    """How many uploads that were begun and never completed."""
    keys: list[str]
    """The keys of what would go, the first 1000."""


_DETAILS = {
    problems.MEDIA_TYPE: {
        "schema": ProblemDetails.model_json_schema(),
        "example": {
            "title": "Not Found",
            "status": 404,
            "reason": "NotFound",
            "detail": 'there is no execution "iris-x7k2p" in namespace "default"',
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Not known, not allowed, not there, or not right.", "content": _DETAILS},
    "5XX": {"description": "The store, the history or the cluster does not answer, or is full.", "content": _DETAILS},
}
_REDIRECT: dict[int | str, dict[str, Any]] = {
    307: {"description": "Where to read it, without the token; a folder comes as a compressed tar."}
}
# Answers hold URLs that are rights.
_PRIVATE = {"Cache-Control": "no-store"}


def application(
    store: Store | None,
    cluster: Cluster,
    *,
    history: History | None = None,
    closing: Callable[[], bool] = lambda: False,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> FastAPI:
    """The API, to be mounted at `/api/v1`.

    Args:
        store: where files are; None: there is nothing about files.
        cluster: decides who may do what.
        history: the executions that there are and were; None: there are those that the cluster has.
        closing: whether nobody is to wait any longer.
        max_file_bytes: how large the archive of a folder may be.
    """
    api = FastAPI(
        title="Penstock",
        version=__version__,
        summary="Executions, pipelines and deployments, files of the data store and of executions.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        responses=_PROBLEMS,
    )
    problems.install(api)
    executions.install(api, cluster, Executions(cluster, history), closing)
    objects.install(api, cluster)
    if store is not None:
        _data_routes(api, store, cluster)
        _upload_routes(api, store, cluster, max_file_bytes)
        _output_routes(api, store, cluster)
        _unused_route(api, store, cluster)
    return api


def _data_routes(api: FastAPI, store: Store, cluster: Cluster) -> None:
    @api.get("/namespaces/{namespace}/data")
    async def list_objects(
        namespace: Namespace,
        who: Who,
        prefix: Annotated[str, Query(description="Path of a folder; empty: all.")] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
        after: Annotated[str | None, Query(description="`after` of the page before.")] = None,
    ) -> Listing:
        """The objects in a folder of the data store and below. Needs `list` of executions."""
        await cluster.require(who, "list", namespace)
        page = await DataStore(store, namespace).list(prefix, limit=limit, after=after)
        return Listing(objects=[_info(each) for each in page.objects], after=page.after)

    @api.get(
        "/namespaces/{namespace}/data/{path:path}",
        status_code=307,
        response_class=RedirectResponse,
        responses=_REDIRECT,
    )
    async def download(namespace: Namespace, path: ObjectPath, who: Who) -> Response:
        """Redirects to where an object can be read. Needs `get` of executions."""
        await cluster.require(who, "get", namespace)
        link = await DataStore(store, namespace).download_link(path, LINK_SECONDS)
        return RedirectResponse(link.url, 307, _PRIVATE)

    @api.delete("/namespaces/{namespace}/data/{path:path}", status_code=204)
    async def delete(namespace: Namespace, path: ObjectPath, who: Who) -> Response:
        """Remove an object. Needs `create` of executions."""
        await cluster.require(who, "create", namespace)
        await DataStore(store, namespace).delete(path)
        return Response(status_code=204)

    @api.get("/namespaces/{namespace}/meta/{path:path}", response_model_exclude_none=True)
    async def info(
        response: Response, namespace: Namespace, path: ObjectPath, who: Who, transfers: Transfers = False
    ) -> Info:
        """What is known of an object. Needs `get` of executions."""
        response.headers.update(_PRIVATE)
        await cluster.require(who, "get", namespace)
        data = DataStore(store, namespace)
        found = _info(await data.info(path))
        if transfers:
            found.transfers = await _downloads(store, namespace, {"object": await data.file(path)})
        return found

    @api.put("/namespaces/{namespace}/meta/{path:path}", response_model_exclude_none=True)
    async def record(namespace: Namespace, path: ObjectPath, who: Who, written: Record) -> Info:
        """Record what an object is that was just written. Needs `create` of executions."""
        await cluster.require(who, "create", namespace)
        return _info(await DataStore(store, namespace).record(path, **written.model_dump()))


def _upload_routes(api: FastAPI, store: Store, cluster: Cluster, max_file_bytes: int) -> None:
    @api.post("/namespaces/{namespace}/uploads", status_code=201)
    async def begin_upload(response: Response, namespace: Namespace, who: Who, wanted: Upload) -> Begun:
        """Signed requests that write an object of the data store. Needs `create` of executions."""
        response.headers.update(_PRIVATE)
        await cluster.require(who, "create", namespace)
        path = data_key(namespace, wanted.path).split("/", 2)[2]
        size = max(wanted.size, max_file_bytes) if wanted.folder else wanted.size
        plan = await person_plan(
            store,
            namespace=namespace,
            downloads={},
            uploads=[("object", path, size)],
            seconds=TRANSFER_SECONDS,
        )
        return Begun(path=path, transfers=dict(plan.document))


def _output_routes(api: FastAPI, store: Store, cluster: Cluster) -> None:
    @api.get("/namespaces/{namespace}/executions/{name}/outputs", response_model_exclude_unset=True)
    async def outputs(
        response: Response, namespace: Namespace, name: str, who: Who, transfers: Transfers = False
    ) -> Outputs:
        """The outputs of an execution. Needs `get` of it."""
        response.headers.update(_PRIVATE)
        status = (await cluster.execution(who, namespace, name)).get("status") or {}
        found = Outputs(phase=status.get("phase") or "Pending", outputs=status.get("outputs") or [])
        if transfers:
            values = {entry["name"]: load_value(entry) for entry in found.outputs}
            files: dict[str, File | Sequence[File | None]] = {}
            for output, entry in zip(values, found.outputs, strict=True):
                if "file" in entry or "files" in entry:
                    files[output] = values[output]  # type: ignore[assignment]  # its kind says that these are files
            found.transfers = await _downloads(store, namespace, files)
        return found

    @api.get("/namespaces/{namespace}/executions/{name}/outputs/{output}", responses=_REDIRECT, response_model=None)
    async def one_output(
        namespace: Namespace,
        name: str,
        output: str,
        who: Who,
        index: Annotated[int | None, Query(ge=0, description="Which one of a list of files.")] = None,
    ) -> Response | dict[str, Any]:
        """One output: a file redirects to where it can be read, anything else is JSON. Needs `get` of the execution."""
        status = (await cluster.execution(who, namespace, name)).get("status") or {}
        entries = {entry["name"]: entry for entry in status.get("outputs") or []}
        if output not in entries:
            known = ", ".join(entries) or f"it is {status.get('phase') or 'Pending'} and has none"
            raise Problem(404, "NotFound", f'execution "{name}" has no output "{output}": {known}')
        entry: dict[str, Any] = entries[output]
        file = entry.get("file")
        if index is not None and "files" in entry:
            file = entry["files"][index] if index < len(entry["files"]) else None
            if file is None:
                raise Problem(404, "NotFound", f'output "{output}" has no file {index}')
        if file is None:
            return entry
        (link,) = await store.sign("GET", [file_key(namespace, file["key"])], LINK_SECONDS)
        return RedirectResponse(link.url, 307, _PRIVATE)


def _unused_route(api: FastAPI, store: Store, cluster: Cluster) -> None:
    @api.get("/namespaces/{namespace}/unused")
    async def unused(
        namespace: Namespace,
        who: Who,
        cache_seconds: Annotated[
            float, Query(ge=0, description="How long entries of the cache may be unused; the operator has its own.")
        ] = CACHE_SECONDS,
    ) -> Unused:
        """What a sweep would remove; nothing goes. Needs `list` of executions."""
        await cluster.require(who, "list", namespace)

        async def ask(place: str, uids: Sequence[str]) -> Living:
            return await cluster.living(who, place, uids)

        retention = Retention(store, ask, cache_seconds=cache_seconds)
        return Unused(**asdict(await retention.sweep(namespace, now=time.time(), dry_run=True)))


async def _downloads(store: Store, namespace: str, files: Mapping[str, File | Sequence[File | None]]) -> dict[str, Any]:
    plan = await person_plan(store, namespace=namespace, downloads=files, uploads=[], seconds=TRANSFER_SECONDS)
    return dict(plan.document)


def _info(found: DataObject) -> Info:
    return Info(
        path=found.path,
        size=found.size,
        modified=found.modified,
        etag=found.etag,
        sha256=found.sha256,
        folder=found.folder,
    )
