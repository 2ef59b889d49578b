"""All that `penstock gateway` serves, in one application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from penstock.gateway import api
from penstock.gateway.access import Cluster
from penstock.gateway.files import Files
from penstock.storage.folder import FolderStore
from penstock.storage.objects import Store
from penstock.storage.plans import MAX_FILE_BYTES
from penstock.storage.signing import SigningKeys


def application(
    store: Store,
    keys: SigningKeys | None,
    cluster: Cluster | None,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Starlette:
    """What `penstock gateway` serves.

    Args:
        store: the object store; the files of a folder store are served too.
        keys: what the URLs of a folder store are signed with.
        cluster: decides who may use the API; None: there is no API.
        max_file_bytes: how large the archive of a folder may be.
    """
    routes: list[BaseRoute] = []
    if isinstance(store, FolderStore) and keys is not None:
        routes += Files(store, keys).routes()
    else:
        routes += [Route("/healthz", _healthy), Route("/readyz", _healthy)]
    if cluster is not None:
        routes.append(Mount("/api/v1", api.application(store, cluster, max_file_bytes=max_file_bytes)))
    return Starlette(routes=routes)


async def _healthy(request: Request) -> Response:
    return JSONResponse({"status": "ok"})
