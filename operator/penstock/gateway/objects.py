"""The REST API of pipelines and deployments: listed and got, in the name of the caller."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Path
from starlette.requests import Request
from starlette.responses import Response

from penstock.gateway import live
from penstock.gateway.access import Cluster
from penstock.gateway.answers import PRIVATE, Json
from penstock.gateway.asking import ObjectQuery, ObjectsAsked, label_rules, only
from penstock.gateway.executions import OBJECT, Namespace, Object, Objects, Who, paged
from penstock.kube.resources import DEPLOYMENTS, PIPELINES, Resource
from penstock.storage.history.cursors import cursor

_ORDER = "o.name"
Name = Annotated[str, Path(pattern=f"^{OBJECT}$", description="Its name.", examples=["iris"])]


def install(api: FastAPI, cluster: Cluster) -> None:
    """Add the routes.

    Args:
        api: where to.
        cluster: has the objects, and decides who may see them.
    """
    for kind in (PIPELINES, DEPLOYMENTS):
        _add(api, cluster, kind)


def _add(api: FastAPI, cluster: Cluster, kind: Resource) -> None:
    async def listed(namespace: Namespace, who: Who, request: Request, asked: ObjectsAsked) -> Response:
        found = await cluster.acting(
            who,
            lambda client, _: client.list(kind, namespace=namespace, labels=asked.labels or "", keep=live.shown),
        )
        rules = label_rules(asked.labels or "")
        after = "" if asked.after is None else live.place(asked.after, _ORDER, False, text=True)[0]
        bodies = sorted(
            (
                body
                for body in found.items
                if body["metadata"]["name"].startswith(asked.name_prefix or "")
                and body["metadata"]["name"] > after
                and all(live.label_holds(body["metadata"].get("labels") or {}, rule) for rule in rules)
            ),
            key=lambda body: str(body["metadata"]["name"]),
        )
        page = bodies[: asked.limit]
        last = page[-1]["metadata"] if len(bodies) > asked.limit else None
        return paged(request, page, None if last is None else cursor(_ORDER, False, last["name"], last.get("uid", "")))

    async def one(namespace: Namespace, name: Name, who: Who) -> Response:
        found = await cluster.acting(who, lambda client, _: client.get(kind, name, namespace))
        return Json(live.shown(found), 200, PRIVATE)

    word = kind.kind.lower()
    api.get(
        f"/namespaces/{{namespace}}/{kind.plural}",
        name=f"list_{kind.plural}",
        description=f"{kind.plural.capitalize()} of a namespace by name. Needs `list` of {kind.plural}.",
        response_model=Objects,
        dependencies=[Depends(only(of=ObjectQuery))],
        tags=[kind.plural],
    )(listed)
    api.get(
        f"/namespaces/{{namespace}}/{kind.plural}/{{name}}",
        name=f"get_{word}",
        description=f"A {word}. Needs `get` of {kind.plural}.",
        response_model=Object,
        dependencies=[Depends(only())],
        tags=[kind.plural],
    )(one)
