"""Objects as rows of a table, which is how `kubectl get` asks for them: the columns of our definitions on a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.api.crd import KINDS as DEFINED
from penstock.engine.status import from_timestamp
from penstock.local.apikinds import PODS, Kind
from penstock.step.values import JsonObject

ACCEPTED: Final = "as=Table"
"""What stands in `Accept` where a table is wanted."""

_AGE: Final = {
    "name": "Age",
    "type": "date",
    "jsonPath": ".metadata.creationTimestamp",
    "description": "Time since it was made.",
}
_POD: Final = {"name": "Status", "type": "string", "jsonPath": ".status.phase", "description": "Where it stands."}
_PART: Final = re.compile(r"\.(\w+)(?:\[\?\(@\.type==\"(\w+)\"\)\])?")
_UNITS: Final = ((86_400, "d", 172_800), (3_600, "h", 7_200), (60, "m", 120))


def table(
    kind: Kind, bodies: Sequence[JsonObject], now: float, metadata: Mapping[str, Any], *, whole: bool = False
) -> JsonObject:
    """A table of objects.

    Args:
        kind: their kind.
        bodies: the objects.
        now: the time; ages are told by it.
        metadata: of the list.
        whole: with each row the whole object; otherwise its metadata.
    """
    columns = _columns(kind)
    name = {"name": "Name", "type": "string", "format": "name", "description": "Name of the object.", "priority": 0}
    shown = [{"format": "", "priority": 0, **{key: each[key] for key in each if key != "jsonPath"}} for each in columns]
    rows = [
        {
            "cells": [body["metadata"]["name"], *(_cell(body, column, now) for column in columns)],
            "object": body
            if whole
            else {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": body["metadata"]},
        }
        for body in bodies
    ]
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": dict(metadata)}
    return {**head, "columnDefinitions": [name, *shown], "rows": rows}


def _columns(kind: Kind) -> Sequence[Mapping[str, Any]]:
    if kind.model is not None:
        return DEFINED[kind.kind].columns
    return (_POD, _AGE) if kind is PODS else (_AGE,)


def _cell(body: JsonObject, column: Mapping[str, Any], now: float) -> Any:
    here: Any = body
    for name, wanted in _PART.findall(column["jsonPath"]):
        here = here.get(name) if isinstance(here, Mapping) else None
        if wanted:
            here = next((each for each in here or () if each.get("type") == wanted), None)
    if column["type"] == "date":
        return "<unknown>" if here is None else _age(max(0.0, now - from_timestamp(str(here))))
    return "" if here is None and column["type"] == "string" else here


def _age(seconds: float) -> str:
    """How long ago a moment was, in its largest unit."""
    for size, unit, least in _UNITS:
        if seconds >= least:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
