"""What an API server shows: objects, lists in pieces, what a watch is to tell; and kinds that are made of others."""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from penstock.controller.ports import Clock
from penstock.local import tables
from penstock.local.answers import JSON, ApiAnswer, ApiRequest, bad_request, gone, not_allowed, not_found
from penstock.local.apikinds import EXECUTIONS, NAMESPACES, PODS, REVISIONS, Kind, Place, uid_of
from penstock.local.feed import WATCH_SECONDS, Watch
from penstock.local.pipelines import Pipelines
from penstock.local.podview import Pods
from penstock.local.registry import Registry, labels_of, object_metadata, tombstone_text
from penstock.local.selectors import BadSelector, Selector, fields_selector, labels_selector
from penstock.local.views import body_of, compact, metadata_of
from penstock.step.values import JsonObject

_PAGE: Final = 500
"""Rows that are read at once."""
_PARTIAL: Final = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
_SELECTABLE: Final[Mapping[str, frozenset[str]]] = {
    "executions": frozenset({"spec.pipeline.name", "status.phase"}),
    "deployments": frozenset({"spec.pipeline.name"}),
}


class ApiReads:
    """Shows the objects of one home.

    Args:
        registry: the objects.
        pods: attempts.
        pipelines: revisions.
        namespace: the one namespace that there is.
        clock: the time.
    """

    def __init__(self, registry: Registry, pods: Pods, pipelines: Pipelines, namespace: str, clock: Clock) -> None:
        self._clock = clock
        self._registry = registry
        self._pods = pods
        self._pipelines = pipelines
        self._namespace = namespace

    def row(self, place: Place) -> sqlite3.Row:
        """The row of an object.

        Raises:
            Refusal: there is none.
        """
        row = self._registry.row(place.kind, place.namespace or "", place.name)
        if row is None:
            raise not_found(place.kind.about(place.name))
        return row

    def got(self, request: ApiRequest, place: Place) -> ApiAnswer:
        """The answer to a GET of one object."""
        return text_answer(self.shown(place.kind, [self.row(place)], request)[0])

    def shown(self, kind: Kind, rows: Sequence[sqlite3.Row], request: ApiRequest) -> Sequence[str]:
        """Objects as JSON text: whole, their metadata alone, or each as a table."""
        if tables.ACCEPTED in request.accept:
            bodies = [body_of(text) for text in self._registry.texts(kind, rows)]
            return [compact(self._table(kind, [body], {}, request)) for body in bodies]
        if "as=PartialObjectMetadata" not in request.accept:
            return self._registry.texts(kind, rows)
        return [
            compact({**_PARTIAL, "metadata": metadata_of(row) if kind is EXECUTIONS else object_metadata(kind, row)})
            for row in rows
        ]

    def _shown_gone(self, kind: Kind, row: sqlite3.Row, request: ApiRequest) -> str:
        """An object that is gone, from its tombstone; see `shown`."""
        text = tombstone_text(kind, row)
        if tables.ACCEPTED in request.accept:
            return compact(self._table(kind, [body_of(text)], {}, request))
        if "as=PartialObjectMetadata" in request.accept:
            return compact({**_PARTIAL, "metadata": body_of(text)["metadata"]})
        return text

    def _table(self, kind: Kind, bodies: Sequence[JsonObject], metadata: JsonObject, request: ApiRequest) -> JsonObject:
        whole = request.params.get("includeObject") == "Object"
        return tables.table(kind, bodies, self._clock.now(), metadata, whole=whole)

    def _selection(self, request: ApiRequest, kind: Kind) -> tuple[Selector, Selector]:
        more = _SELECTABLE.get(kind.plural, frozenset())
        try:
            labels = labels_selector(request.params.get("labelSelector", ""))
            fields = fields_selector(
                request.params.get("fieldSelector", ""),
                # There are no events, whatever they would be selected by.
                lambda name: name in {"metadata.name", "metadata.namespace"} or name in more or kind.plural == "events",
            )
        except BadSelector as error:
            raise bad_request(str(error)) from None
        return labels, fields

    def listed(self, request: ApiRequest, place: Place) -> ApiAnswer:
        """The answer to a GET of all objects of a kind."""
        kind = place.kind
        matches = _matcher(kind, *self._selection(request, kind))
        version, after = self._registry.version(), ("", "")
        if token := request.params.get("continue"):
            version, after = _continued(token)
        limit = _number(request, "limit") or 0
        chosen, rest = self._matching(place, request, matches, after, limit)
        metadata: JsonObject = {"resourceVersion": str(version)}
        if rest:
            metadata["continue"] = _token(version, chosen[-1])
        if tables.ACCEPTED in request.accept:
            bodies = [body_of(text) for text in self._registry.texts(kind, chosen)]
            return json_answer(self._table(kind, bodies, metadata, request))
        texts: list[str] = []
        for start in range(0, len(chosen), _PAGE):
            texts += self.shown(kind, chosen[start : start + _PAGE], request)
        partial = "as=PartialObjectMetadata" in request.accept
        api_version = "meta.k8s.io/v1" if partial else kind.api_version
        name = "PartialObjectMetadataList" if partial else f"{kind.kind}List"
        head = compact({"kind": name, "apiVersion": api_version, "metadata": metadata})
        return text_answer(f'{head[:-1]},"items":[{",".join(texts)}]}}')

    def _matching(
        self,
        place: Place,
        request: ApiRequest,
        matches: Callable[[sqlite3.Row], bool],
        after: tuple[str, str],
        limit: int,
    ) -> tuple[list[sqlite3.Row], bool]:
        """Rows that are wanted, and whether there are more."""
        name = place.name or self._selection(request, place.kind)[1].exactly("metadata.name")
        if name is not None and place.namespace is not None:
            row = self._registry.row(place.kind, place.namespace, name)
            return ([row] if row is not None and matches(row) else []), False
        found: list[sqlite3.Row] = []
        params = request.params
        selects = bool(params.get("labelSelector") or params.get("fieldSelector"))
        size = _PAGE if selects or not limit else limit + 1
        while True:
            rows = self._registry.rows(place.kind, place.namespace, after, size)
            for row in rows:
                if matches(row):
                    if limit and len(found) == limit:
                        return found, True
                    found.append(row)
            if len(rows) < size:
                return found, False
            after = (rows[-1]["namespace"], rows[-1]["name"])

    def watch_of(self, request: ApiRequest, place: Place) -> Watch:
        """What a watch is to tell."""
        labels, fields = self._selection(request, place.kind)
        matches = _matcher(place.kind, labels, fields)
        text = request.params.get("resourceVersion", "")
        if text and not (text.isascii() and text.isdigit()):
            raise gone(f"resource version {text!r} is none of this server's")
        seconds = _number(request, "timeoutSeconds")
        return Watch(
            kind=place.kind,
            matches=lambda row: (
                place.namespace in {None, row["namespace"]} and place.name in {"", row["name"]} and matches(row)
            ),
            unsteady=any(not term.key.startswith("metadata.") for term in fields.terms),
            show=lambda rows: self.shown(place.kind, rows, request),
            show_gone=lambda row: self._shown_gone(place.kind, row, request),
            since=None if text in {"", "0"} else int(text),
            bookmarks=request.params.get("allowWatchBookmarks") == "true",
            initial=request.params.get("sendInitialEvents") == "true",
            seconds=WATCH_SECONDS if seconds is None else float(seconds),
        )

    # Views

    def viewed(self, request: ApiRequest, place: Place) -> ApiAnswer:
        """The answer to a request about objects that are made of others."""
        if request.method != "GET":
            raise not_allowed(f"{place.kind.plural} cannot be written here: they are made of other objects")
        kind, labels = place.kind, self._selection(request, place.kind)[0]
        if place.sub == "log":
            return ApiAnswer(200, self._pods.log(request, place), {"Content-Type": "text/plain"})
        if place.name:
            body = self._view(place)
            wants_table = tables.ACCEPTED in request.accept
            return json_answer(self._table(kind, [body], {}, request) if wants_table else body)
        name = self._selection(request, kind)[1].exactly("metadata.name")
        found = [each for each in self._views(place, labels) if name in {None, each["metadata"]["name"]}]
        if tables.ACCEPTED in request.accept:
            return json_answer(self._table(kind, found, {"resourceVersion": str(self._registry.version())}, request))
        partial = "as=PartialObjectMetadata" in request.accept
        head = {"kind": f"{kind.kind}List", "apiVersion": kind.api_version}
        if partial:
            head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
            found = [{**_PARTIAL, "metadata": each["metadata"]} for each in found]
        return json_answer({**head, "metadata": {"resourceVersion": str(self._registry.version())}, "items": found})

    def _view(self, place: Place) -> JsonObject:
        if place.kind is PODS:
            return self._pods.get(place)
        for each in self._views(Place(place.kind, place.namespace, "", ""), Selector(), place.name):
            return each
        raise not_found(place.kind.about(place.name))

    def _views(self, place: Place, labels: Selector, name: str = "") -> Iterator[JsonObject]:
        if place.kind is PODS:
            yield from self._pods.listed(place.namespace, labels)
        elif place.kind is REVISIONS and place.namespace in {None, self._namespace}:
            found = self._pipelines.revisions(self._namespace, labels, name)
            yield from (each for each in found if labels.matches(each["metadata"]["labels"]))
        elif place.kind is NAMESPACES and name in {"", self._namespace}:
            metadata = {
                "name": self._namespace,
                "uid": uid_of(self._namespace),
                "resourceVersion": "1",
                "labels": {"kubernetes.io/metadata.name": self._namespace},
            }
            if labels.matches(metadata["labels"]):  # type: ignore[arg-type]
                yield {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "status": {"phase": "Active"}}


def json_answer(body: JsonObject, status: int = 200) -> ApiAnswer:
    """An answer that is an object."""
    return ApiAnswer(status, compact(body).encode("ascii"))


def text_answer(text: str, status: int = 200, headers: Mapping[str, str] = JSON) -> ApiAnswer:
    """An answer that is an object as JSON text."""
    return ApiAnswer(status, text.encode("ascii"), headers)


def _matcher(kind: Kind, labels: Selector, fields: Selector) -> Callable[[sqlite3.Row], bool]:
    """Whether an object is selected, by its row."""
    wanted = {term.key for term in fields.terms}

    def matches(row: sqlite3.Row) -> bool:
        if labels.terms and not labels.matches(labels_of(row)):
            return False
        return not wanted or fields.matches({name: _field(kind, row, name) for name in wanted})

    return matches


def _field(kind: Kind, row: sqlite3.Row, name: str) -> str:
    columns = row.keys()
    if name in {"metadata.name", "metadata.namespace"}:
        return str(row[name.partition(".")[2]])
    if name == "status.phase":
        if "phase" in columns:
            return str(row["phase"])
        return str(json.loads(row["status"] or "{}").get("phase", ""))
    spec: Mapping[str, Any] = json.loads(row["spec"]) if "spec" in columns else json.loads(row["content"])
    if kind is not EXECUTIONS:
        spec = spec["spec"]
    return str((spec.get("pipeline") or {}).get("name", ""))


def _number(request: ApiRequest, name: str) -> int | None:
    text = request.params.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise bad_request(f"{name}: wanted a whole number, got {text!r}")
    return int(text)


def _token(version: int, row: sqlite3.Row) -> str:
    text = json.dumps([version, row["namespace"], row["name"]])
    return base64.urlsafe_b64encode(text.encode()).decode("ascii")


def _continued(token: str) -> tuple[int, tuple[str, str]]:
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        return int(version), (str(namespace), str(name))
    except (binascii.Error, ValueError, TypeError):
        raise bad_request("continue: is no token of this server's") from None
