"""A small API server of Penstock's kinds on one machine: requests of the Kubernetes API to answers, from SQLite.

Clients of a cluster work against it unchanged. Everything is written before it is answered, and told after that. Who
may ask is not decided here: whoever owns the home may do anything, and what lets requests in knows who that is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from penstock.api.pipeline import Pipeline
from penstock.controller.ports import Clock, Halt, Transient
from penstock.local.answers import (
    JSON,
    ApiAnswer,
    ApiRequest,
    Refusal,
    bad_request,
    exists,
    not_allowed,
    not_newest,
    nowhere,
    other_uid,
)
from penstock.local.apiexecutions import ApiExecutions, Runner
from penstock.local.apikinds import (
    EXECUTIONS,
    PIPELINES,
    PODS,
    REGISTERED,
    STORED,
    Kind,
    Place,
    discovery,
    place_of,
    review_of,
)
from penstock.local.apireads import ApiReads, json_answer, text_answer
from penstock.local.apiwrites import APPLY_TYPE, Wanted, applied_new, changed, created, media_type, said
from penstock.local.database import Database
from penstock.local.feed import Feed, Listener
from penstock.local.home import Ids, LocalError, NameTaken
from penstock.local.objects import Objects
from penstock.local.openapi import openapi
from penstock.local.patching import load_managers, same
from penstock.local.pipelines import Pipelines
from penstock.local.podview import Pods
from penstock.local.registry import REMEMBERED, Draft, Registry, object_text
from penstock.local.store import NAMESPACE, Store
from penstock.local.views import UNOBSERVED, body_of, stamp
from penstock.step.values import JsonObject

__all__ = ["ApiAnswer", "ApiRequest", "ApiServer", "Refusal", "Runner", "is_stream"]

USER: Final = "penstock"
"""Whom everybody is who is let in."""
Doomed: TypeAlias = tuple[str, str, str]
"""Uid, namespace and name of an execution that is to go."""
_NAME_TRIES: Final = 20


def is_stream(request: ApiRequest) -> bool:
    """Whether a request is one for `ApiServer.stream`: its answer comes bit by bit."""
    if request.method != "GET":
        return False
    return request.params.get("watch") in {"true", "1"} or request.params.get("follow") in {"true", "1"}


class ApiServer:
    """Answers requests about the objects of one home.

    Args:
        database: the home's database.
        store: its executions and revisions.
        objects: its files.
        runner: runs executions.
        clock: the time.
        ids: where uids and names come from.
        namespace: the one namespace that there is.
        before_removal: called with uid, namespace and name of each execution that is to be deleted, before it is; what
            it raises keeps them.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        objects: Objects,
        runner: Runner,
        clock: Clock,
        ids: Ids,
        namespace: str = NAMESPACE,
        before_removal: Callable[[Sequence[Doomed]], Awaitable[None]] | None = None,
    ) -> None:
        del objects  # inputs that are objects are looked up by the store
        self._clock = clock
        self._ids = ids
        self._namespace = namespace
        self._before_removal = before_removal
        self._removed = 0
        self._store = store
        self._registry = Registry(database, store.views)
        self._feed = Feed(self._registry, store.views)
        self._pods = Pods(database.home, database)
        self._pipelines = Pipelines(database, self._registry, store, clock)
        self._reads = ApiReads(self._registry, self._pods, self._pipelines, namespace, clock)
        self._executions = ApiExecutions(
            home=database.home,
            registry=self._registry,
            store=store,
            pipelines=self._pipelines,
            runner=runner,
            clock=clock,
        )

    # In this process

    async def start(self) -> None:
        """Take up what an earlier process has left: executions whose pipeline has come, objects whose owner is gone."""
        self._registry.forget()
        executions, others = self._registry.orphans()
        for uid in executions:
            self._executions.delete(uid)
        for row in others:
            self._remove(PIPELINES, row["uid"])  # all that are no executions are removed in the same way
        await self._executions.take_up()
        self._feed.changed()

    def subscribe(self, listener: Listener) -> None:
        """Have everything told that changes from now on: plural, `ADDED`, `MODIFIED` or `DELETED`, and the object.

        Executions are told of without their steps. A listener is called in order, and must neither block nor raise.
        """
        self._feed.subscribe(listener)

    def execution_changed(self, uid: str) -> None:
        """An execution was written by what runs it, or other processes have written: tell who watches."""
        del uid  # what has changed is asked of the tables
        self._feed.changed()

    # Requests

    async def answer(self, request: ApiRequest) -> ApiAnswer:
        """The answer to a request; never raises for a bad one."""
        try:
            return await self._answer(request)
        except Refusal as error:
            return error.answer
        except Transient as error:
            refusal = Refusal(503, "ServiceUnavailable", str(error), {"retryAfterSeconds": 1})
            return ApiAnswer(503, refusal.answer.body, {**JSON, "Retry-After": "1"})
        except (LocalError, Halt) as error:
            return Refusal(500, "InternalError", str(error)).answer

    def stream(self, request: ApiRequest) -> AsyncGenerator[bytes, None]:
        """The answer to a watch, or to a log that is followed, bit by bit.

        Raises:
            Refusal: there is none; raised by this call, before anything is to be read.
        """
        place = place_of(request.path)
        if place is None:
            raise nowhere()
        if place.kind is PODS and place.sub == "log":
            return self._pods.follow(request, place)
        if place.kind not in STORED:
            raise not_allowed(f"{place.kind.plural} cannot be watched here: they are made of other objects")
        if place.sub or request.params.get("watch") not in {"true", "1"}:
            raise nowhere()
        return self._feed.watch(self._reads.watch_of(request, place))

    async def _answer(self, request: ApiRequest) -> ApiAnswer:
        if request.method == "GET" and (found := discovery(request.path) or openapi(request.path)) is not None:
            return json_answer(found)
        if request.method == "GET" and request.path in {"/healthz", "/livez", "/readyz"}:
            return ApiAnswer(200, b"ok", {"Content-Type": "text/plain"})
        if (kind := review_of(request.path)) and request.method == "POST":
            return json_answer(_review(kind), 201)
        place = place_of(request.path)
        if place is None or (place.sub and place.sub not in place.kind.subresources):
            raise nowhere()
        if place.kind not in STORED:
            return self._reads.viewed(request, place)
        match request.method:
            case "GET":
                return self._reads.got(request, place) if place.name else self._reads.listed(request, place)
            case "POST" if not place.name:
                here = self._here(place)
                return await self._create(request, here, created(request, here))
            case "PUT" | "PATCH" if place.name:
                return await self._change(request, self._here(place))
            case "DELETE" if place.name and not place.sub:
                row = self._registry.row(place.kind, place.namespace or "", place.name)
                if self._before_removal is not None and row is not None and not _dry(request):
                    await self._before_removal(list(self._doomed(place.kind, row["uid"])))
                return self._delete(request, place)
        raise not_allowed(f"the server does not allow this method ({request.method}) on the requested resource")

    def _here(self, place: Place) -> Place:
        """The same place, if something can be written there."""
        if place.namespace != self._namespace:
            details = {"name": place.namespace or "", "kind": "namespaces"}
            raise Refusal(404, "NotFound", f'namespaces "{place.namespace}" not found', details)
        return place

    # Writing

    async def _create(self, request: ApiRequest, place: Place, wanted: Wanted) -> ApiAnswer:
        kind, warnings = place.kind, []
        if _dry(request):
            if wanted.name and self._registry.row(kind, place.namespace or "", wanted.name) is not None:
                raise exists(kind.about(wanted.name))
            return json_answer(self._preview(place, wanted), 201)
        if kind is EXECUTIONS:
            made = await self._executions.create(place, wanted)
            if media_type(request.content_type) == APPLY_TYPE:
                self._executions.note_managers(made.uid, wanted)
            row, warnings = self._registry.there(kind, made.uid), made.warnings
        else:
            row = self._add(place, wanted)
        text = self._reads.shown(kind, [row], request)[0]
        if row["owner"] and not self._registry.has(row["owner"]):
            self._remove(kind, row["uid"])  # its owner has gone while it was made: it goes, too
        if kind is PIPELINES:
            await self._executions.take_up(row["name"])
        self._feed.changed()
        told = ", ".join(f'299 penstock "{each}"' for each in warnings)
        return text_answer(text, 201, {**JSON, "Warning": told} if told else JSON)

    def _add(self, place: Place, wanted: Wanted) -> sqlite3.Row:
        kind, namespace = place.kind, place.namespace or ""
        for _ in range(_NAME_TRIES):
            name = wanted.name or f"{wanted.draft.metadata['generateName']}{self._ids.suffix()}"
            if self._registry.row(kind, namespace, name) is None:
                draft = self._completed(kind, name, wanted, 1)
                now = self._clock.now()
                try:
                    return self._registry.add(
                        kind, uid=self._ids.uid(), namespace=namespace, name=name, draft=draft, now=now
                    )
                except sqlite3.IntegrityError:  # another process was faster
                    pass
            if wanted.name:
                raise exists(kind.about(name))
        raise NameTaken(f"metadata.generateName: no free name was found for {wanted.draft.metadata['generateName']!r}")

    def _completed(self, kind: Kind, name: str, wanted: Wanted, generation: int) -> Draft:
        """What is stored of an object: the status of a Pipeline is made here, that of others by who looks on."""
        if isinstance(wanted.model, Pipeline):
            return self._pipelines.read(name, wanted.model.spec, wanted.draft, generation)
        if kind.model is not None and wanted.draft.status is None:
            return replace(wanted.draft, status=dict(UNOBSERVED))
        return wanted.draft

    def _preview(self, place: Place, wanted: Wanted) -> JsonObject:
        """What would be stored, for a dry run."""
        kind = place.kind
        ours = {
            "name": wanted.name or f"{wanted.draft.metadata['generateName']}{self._ids.suffix()}",
            "namespace": place.namespace,
            "uid": self._ids.uid(),
            "creationTimestamp": stamp(self._clock.now()),
            **({"generation": 1} if kind.model is not None else {}),
        }
        head = {"apiVersion": kind.api_version, "kind": kind.kind}
        return {**head, "metadata": {**ours, **wanted.draft.metadata}, **wanted.draft.content}

    async def _change(self, request: ApiRequest, place: Place) -> ApiAnswer:
        kind = place.kind
        row = self._registry.row(kind, place.namespace or "", place.name)
        applies = request.method == "PATCH" and media_type(request.content_type) == APPLY_TYPE
        if row is None and applies and not place.sub:
            return await self._create(request, place, applied_new(request, place))
        if row is None:
            row = self._reads.row(place)
        if kind is EXECUTIONS:
            preview = self._executions.change(request, place, row, dry_run=_dry(request))
        else:
            preview = self._change_registered(request, place, row)
        if preview is not None:
            return json_answer(preview)
        text = self._reads.shown(kind, [self._registry.there(kind, row["uid"])], request)[0]
        if kind is PIPELINES:
            await self._executions.take_up(place.name)
        self._feed.changed()
        return text_answer(text)

    def _change_registered(self, request: ApiRequest, place: Place, row: sqlite3.Row) -> JsonObject | None:
        kind = place.kind
        before = body_of(object_text(kind, row))
        wanted = changed(request, place, before, load_managers(json.loads(row["managers"])))
        if _dry(request):
            fixed = {key: each for key, each in before["metadata"].items() if key not in said(before["metadata"])}
            head = {"apiVersion": kind.api_version, "kind": kind.kind}
            status = {} if wanted.draft.status is None else {"status": wanted.draft.status}
            return {**head, "metadata": {**fixed, **wanted.draft.metadata}, **wanted.draft.content, **status}
        draft = wanted.draft
        if not place.sub and not same(draft.content.get("spec"), before.get("spec")):
            draft = self._completed(kind, place.name, wanted, row["generation"] + 1)
        self._registry.change(kind, row["uid"], draft, now=self._clock.now())
        return None

    # Deleting

    def _doomed(self, kind: Kind, uid: str) -> Iterator[Doomed]:
        """The executions that go with an object, itself included."""
        if kind is EXECUTIONS:
            row = self._registry.there(EXECUTIONS, uid)
            yield uid, row["namespace"], row["name"]
        for each in self._store.owned_by(uid):
            yield from self._doomed(EXECUTIONS, each)
        for row in self._registry.owned_by(uid):
            yield from self._doomed(next(each for each in REGISTERED if each.plural == row["plural"]), row["uid"])

    def _delete(self, request: ApiRequest, place: Place) -> ApiAnswer:
        kind = place.kind
        options = _options(request)
        row = self._reads.row(place)
        preconditions = options.get("preconditions") or {}
        if preconditions.get("uid") not in {None, "", row["uid"]}:
            raise other_uid(kind.about(place.name), preconditions["uid"], row["uid"])
        if str(preconditions.get("resourceVersion") or row["version"]) != str(row["version"]):
            raise not_newest(kind.about(place.name))
        if not _dry(request) and "All" not in (options.get("dryRun") or ()):
            orphans = "Orphan" in {options.get("propagationPolicy"), request.params.get("propagationPolicy")}
            self._remove(kind, row["uid"], orphans=orphans)
            self._feed.changed()
        details = {**kind.about(place.name).details(), "uid": row["uid"]}
        head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return json_answer({**head, "details": details})

    def _remove(self, kind: Kind, uid: str, *, orphans: bool = False) -> None:
        """Delete an object and all that goes with it; those are named by their owner for good."""
        if kind is EXECUTIONS:
            self._executions.delete(uid)
        else:
            self._registry.remove(uid)
        self._removed += 1
        if self._removed % REMEMBERED == 0:
            self._registry.forget()
        if orphans:
            self._registry.release(uid)
            return
        for each in self._store.owned_by(uid):
            self._remove(EXECUTIONS, each)
        for row in self._registry.owned_by(uid):
            owned = next(each for each in REGISTERED if each.plural == row["plural"])
            self._remove(owned, row["uid"])


def _options(request: ApiRequest) -> Mapping[str, Any]:
    """The DeleteOptions of a request; they may be left out."""
    if not request.body.strip():
        return {}
    try:
        found = json.loads(request.body)
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise bad_request("the body is no DeleteOptions object")
    return found


def _dry(request: ApiRequest) -> bool:
    """Whether nothing is to be written."""
    return request.params.get("dryRun") == "All"


def _review(kind: str) -> JsonObject:
    """Who asks, and what they may do: the home's owner, and everything. So the answer does not depend on the question,
    which `kubectl` does not write as JSON.
    """
    if kind == "SelfSubjectReview":
        user = {"username": USER, "groups": ["system:authenticated"]}
        return {"apiVersion": "authentication.k8s.io/v1", "kind": kind, "metadata": {}, "status": {"userInfo": user}}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {},
        "spec": {},
        "status": {"allowed": True},
    }
