"""From what a request asks for to the object that is to be stored: bodies, patches, preconditions, checks.

The same for all kinds. Nothing here stores anything.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

from penstock.api.problems import Problem, readable, shown, structural_problems, suggest
from penstock.api.rules import object_problems
from penstock.local import patching
from penstock.local.answers import (
    ApiRequest,
    Refusal,
    bad_request,
    conflict,
    contested,
    invalid,
    not_newest,
    other_uid,
)
from penstock.local.apikinds import SECRETS, Kind, Place
from penstock.local.patching import Managers
from penstock.local.registry import Draft
from penstock.step.values import JsonObject

_HEAD: Final = frozenset({"apiVersion", "kind", "metadata", "status"})
_GIVEN: Final = frozenset(
    {
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    }
)
"""Metadata that an object has from the server."""

APPLY_TYPE: Final = "application/apply-patch+yaml"
_MERGE_TYPES: Final = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_JSON_PATCH_TYPE: Final = "application/json-patch+json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object as it is to be.

    Attributes:
        draft: what is to be stored.
        model: the object without its status, for kinds that have a model.
        name: its name; None: it is to be made.
    """

    draft: Draft
    model: BaseModel | None
    name: str | None


# --- bodies ---


def media_type(text: str) -> str:
    """A content type without its parameters."""
    return text.partition(";")[0].strip().lower()


def parsed(request: ApiRequest) -> Any:
    """The body of a request.

    Raises:
        Refusal: it is not JSON, and for server-side apply not YAML.
    """
    kind = media_type(request.content_type)
    if "protobuf" in kind:
        raise Refusal(415, "UnsupportedMediaType", "only JSON is understood here; `kubectl apply -f` sends it")
    try:
        return json.loads(request.body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        if not kind.endswith("yaml"):
            raise bad_request(f"the body is not JSON: {error}") from None
    try:
        return yaml.safe_load(request.body)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise bad_request(f"the body is not YAML: {' '.join(str(error).split())}") from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def object_in(request: ApiRequest, place: Place) -> JsonObject:
    """The object that a body holds, with metadata; its kind is that of the path.

    Raises:
        Refusal: it holds none, or another kind.
    """
    found = parsed(request)
    if not isinstance(found, dict):
        raise bad_request(f"the body is {shown(found)}, wanted an object")
    kind = place.kind
    for key, wanted in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        said = found.get(key, wanted)
        if said != wanted:
            raise bad_request(f"{key} in the data ({said}) does not match the expected {key} ({wanted})")
    metadata = found.get("metadata")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise bad_request(f"metadata is {shown(metadata)}, wanted a map")
    namespace = metadata.get("namespace")
    if namespace is not None and namespace != place.namespace:
        raise bad_request(
            f"the namespace of the provided object does not match the namespace sent on the request "
            f"({namespace} is not {place.namespace})"
        )
    return {"apiVersion": kind.api_version, "kind": kind.kind, **found, "metadata": metadata}


def manager_of(request: ApiRequest) -> str:
    """Who writes."""
    return request.params.get("fieldManager") or "unknown"


# --- new objects ---


def created(request: ApiRequest, place: Place) -> Wanted:
    """The object that is to be created.

    Raises:
        Refusal: it is not right.
    """
    body = _normal(place.kind, object_in(request, place))
    body.pop("status", None)
    wanted = checked(place.kind, body, {})
    return replace(wanted, draft=_owned_by(wanted.draft, manager_of(request)))


def _owned_by(draft: Draft, manager: str) -> Draft:
    return replace(draft, managers=patching.updated({}, manager, {}, _ownable(draft)))


def applied_new(request: ApiRequest, place: Place) -> Wanted:
    """The object that is to be created by server-side apply.

    Raises:
        Refusal: it is not right.
    """
    body = object_in(request, place)
    body["metadata"] = {**body["metadata"], "name": _named(body, place)}
    uid, version = body["metadata"].get("uid"), body["metadata"].get("resourceVersion")
    if uid or version:
        raise conflict(place.kind.about(place.name), "there is no such object (any more)")
    body = _normal(place.kind, body)
    body.pop("status", None)
    wanted = checked(place.kind, body, {})
    _, managers = patching.apply({}, {}, manager_of(request), _ownable(wanted.draft), force=True)
    return replace(wanted, draft=replace(wanted.draft, managers=managers))


# --- changed objects ---


def changed(request: ApiRequest, place: Place, before: JsonObject, managers: Managers) -> Wanted:
    """The object as it is to be after a PUT or PATCH.

    Args:
        request: the request.
        place: what its path means.
        before: the object as it is.
        managers: who owns which of its fields.

    Raises:
        Refusal: it cannot be done, or the result is not right.
    """
    kind = place.kind
    if request.method == "PUT":
        after = object_in(request, place)
        after["metadata"] = {**after["metadata"], "name": _named(after, place)}
        if kind.model is not None and not after["metadata"].get("resourceVersion"):
            problem = Problem(("metadata", "resourceVersion"), "must be specified for an update")
            raise invalid(kind.about(place.name), kind.kind, [problem])
        way = None
    else:
        way = media_type(request.content_type)
        if way == APPLY_TYPE:
            return _applied(request, place, before, managers)
        after = _patched(request, place, before, way)
    _same_object(place, before, after)
    if place.sub == "status":
        after = {**before, "status": after.get("status")}
    else:
        after = {**_normal(kind, after), "status": before.get("status")}
    wanted = checked(kind, after, managers)
    if place.sub:
        return wanted
    now = patching.updated(managers, manager_of(request), _ownable(_draft(kind, before, {})), _ownable(wanted.draft))
    return replace(wanted, draft=replace(wanted.draft, managers=now))


def _patched(request: ApiRequest, place: Place, before: JsonObject, way: str) -> JsonObject:
    patch = parsed(request)
    try:
        if way == _JSON_PATCH_TYPE:
            after = patching.json_patch(before, patch)
        elif way == _MERGE_TYPES[0] or (way == _MERGE_TYPES[1] and place.kind.model is None):
            if not isinstance(patch, Mapping):
                raise bad_request(f"the patch is {shown(patch)}, wanted a map")
            after = patching.merge(before, {key: each for key, each in patch.items() if not key.startswith("$")})
        else:
            wanted = f"{APPLY_TYPE}, {_MERGE_TYPES[0]}, {_JSON_PATCH_TYPE}"
            raise Refusal(415, "UnsupportedMediaType", f"patches of type {way} are not understood here: {wanted} are")
    except patching.PatchError as error:
        about = place.kind.about(place.name)
        raise Refusal(422, "Invalid", f"{about.words}: {error}", about.details()) from None
    if not isinstance(after, dict) or not isinstance(after.get("metadata"), dict):
        raise bad_request("the patch leaves no object with metadata")
    return after


def _applied(request: ApiRequest, place: Place, before: JsonObject, managers: Managers) -> Wanted:
    kind, manager = place.kind, manager_of(request)
    given = object_in(request, place)
    given["metadata"] = {**given["metadata"], "name": _named(given, place)}
    _same_object(place, before, given)
    live, wanted = _draft(kind, before, {}), _draft(kind, _normal(kind, given), {})
    force = request.params.get("force") == "true"
    try:
        if place.sub == "status":  # whose fields are another set than those of the rest
            mine, theirs = {"status": wanted.status or {}}, {"status": live.status or {}}
            now, managers = patching.apply(theirs, managers, f"{manager}/status", mine, force=force)
            return checked(kind, {**before, **now}, managers)
        now, managers = patching.apply(_ownable(live), managers, manager, _ownable(wanted), force=force)
    except patching.Contested as error:
        raise contested(kind.about(place.name), error.causes) from None
    fixed = {key: value for key, value in before["metadata"].items() if key in _GIVEN or key == "generateName"}
    now["metadata"] = {**fixed, **now.get("metadata", {})}
    return checked(kind, {**{key: value for key, value in before.items() if key in _HEAD}, **now}, managers)


def _named(body: JsonObject, place: Place) -> str:
    name = body["metadata"].get("name", place.name)
    if name != place.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({place.name})")
    return place.name


def _same_object(place: Place, before: JsonObject, after: JsonObject) -> None:
    """Preconditions: uid and resource version, if they are given, are those of the stored object."""
    old, new = before["metadata"], after["metadata"]
    about = place.kind.about(place.name)
    if new.get("name") != old["name"]:
        raise bad_request(f"metadata.name of {about.words} cannot be changed")
    if new.get("uid") not in {None, "", old["uid"]}:
        raise other_uid(about, new["uid"], old["uid"])
    if str(new.get("resourceVersion") or old["resourceVersion"]) != old["resourceVersion"]:
        raise not_newest(about)


# --- what is stored, and whether it is right ---


def checked(kind: Kind, body: JsonObject, managers: Managers) -> Wanted:
    """An object that is right, to be stored.

    Raises:
        Refusal: it is not; names all that is wrong.
    """
    draft = _draft(kind, body, managers)
    name = body["metadata"].get("name") or None
    # What the server gives is not looked at; all else is as it was sent.
    metadata = {**draft.metadata, **({"name": name} if name is not None else {})}
    plain: JsonObject = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **draft.content}
    if draft.status is not None:
        plain["status"] = draft.status
    model, problems = None, list(_metadata_problems(metadata))
    if kind.model is None:
        problems += _core_problems(kind, draft, metadata)
    elif not problems:
        try:
            model = kind.model.model_validate_json(json.dumps(plain), strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=True, include_input=False)
            if broken := next((each for each in errors if each["type"] == "json_invalid"), None):
                raise bad_request(f"the body holds text that is no Unicode: {broken['msg']}") from None
            problems = structural_problems(errors, kind.model, plain, {})
        else:
            problems = [each for each in object_problems(model) if each.severity == "error"]  # type: ignore[arg-type]
    if problems:
        named = [replace(each, path=each.path or readable(each.loc, plain)) for each in problems]
        shown_name = name or metadata.get("generateName") or ""
        raise invalid(kind.about(str(shown_name)), kind.kind, named)
    return Wanted(draft, model, name)


def _draft(kind: Kind, body: JsonObject, managers: Managers) -> Draft:
    content = {key: value for key, value in body.items() if key not in _HEAD}
    status = body.get("status") if "status" in kind.subresources else None
    return Draft(said(body["metadata"]), content, status, managers)


def said(metadata: Mapping[str, Any]) -> JsonObject:
    """What the owners of an object say of it."""
    return {key: value for key, value in metadata.items() if key not in _GIVEN and value not in (None, {}, [])}


def _ownable(draft: Draft) -> JsonObject:
    """The fields that managers own."""
    metadata = {key: value for key, value in draft.metadata.items() if key != "generateName"}
    return {**draft.content, "metadata": metadata} if metadata else dict(draft.content)


def _metadata_problems(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    references = metadata.get("ownerReferences", [])
    if not isinstance(references, list):
        yield Problem(("metadata", "ownerReferences"), f"wanted a list of maps, got {shown(references)}")
        return
    for index, each in enumerate(references):
        if not isinstance(each, Mapping) or not all(
            isinstance(each.get(key), str) and each[key] for key in ("apiVersion", "kind", "name", "uid")
        ):
            place = ("metadata", "ownerReferences", index)
            yield Problem(place, "wanted a map with apiVersion, kind, name and uid")


def _core_problems(kind: Kind, draft: Draft, metadata: Mapping[str, Any]) -> Iterator[Problem]:
    if not isinstance(metadata.get("name"), str) and not metadata.get("generateName"):
        yield Problem(("metadata",), "has no name: give it `name`, or `generateName` for a new one each time")
    for field in ("labels", "annotations"):
        texts = metadata.get(field, {})
        if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in texts.values()):
            yield Problem(("metadata", field), "wanted a map of strings")
    for field, value in draft.content.items():
        if field not in kind.fields:
            near = suggest(field, kind.fields) or f"; known here: {', '.join(sorted(kind.fields))}"
            yield Problem((field,), f'unknown field "{field}"{near}')
        elif field in {"data", "binaryData"}:
            if not isinstance(value, Mapping):
                yield Problem((field,), f"wanted a map of strings, got {shown(value)}")
                continue
            binary = kind is SECRETS or field == "binaryData"
            for key, text in value.items():
                if not isinstance(text, str):
                    yield Problem((field, key), f"wanted a string, got {shown(text)}")
                elif binary and not _is_base64(text):
                    yield Problem((field, key), "wanted base64")


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _normal(kind: Kind, body: JsonObject) -> JsonObject:
    """A body as it is kept: texts of a Secret among its data, data that is null left out."""
    if kind.model is not None:
        return body
    found = {key: value for key, value in body.items() if value is not None}
    if kind is not SECRETS:
        return found
    texts = found.pop("stringData", None) or {}
    if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in texts.values()):
        problem = Problem(("stringData",), "wanted a map of strings")
        raise invalid(kind.about(str(body["metadata"].get("name", ""))), kind.kind, [problem])
    if texts:
        data = found.get("data") or {}
        coded = {key: base64.b64encode(text.encode()).decode("ascii") for key, text in texts.items()}
        found["data"] = {**data, **coded} if isinstance(data, Mapping) else coded
    return {"type": "Opaque", **found} if kind is SECRETS else found
