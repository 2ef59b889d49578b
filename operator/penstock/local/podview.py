"""Attempts as Pods, so that whoever knows Pods finds them: names, labels, where they stand, and what they have printed.

Only a view: nothing can be changed. A Pod's name says which attempt it is: `<execution>.<step>[.<item>].<attempt>`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from penstock.api.base import API_VERSION
from penstock.api.labels import (
    ATTEMPT,
    EXECUTION,
    EXECUTION_UID,
    ITEM,
    MANAGED_BY,
    PIPELINE,
    STEP,
    STEP_CONTAINER,
)
from penstock.engine.status import from_timestamp
from penstock.engine.types import AttemptId
from penstock.local.answers import ApiRequest, Refusal, bad_request, not_found
from penstock.local.apikinds import PODS, Place, uid_of
from penstock.local.database import Database
from penstock.local.folders import Folder
from penstock.local.home import Home
from penstock.local.logfile import Printed
from penstock.local.selectors import Selector
from penstock.local.spawn import read_state
from penstock.local.views import stamp
from penstock.step.values import JsonObject

_ROWS: Final = (
    "SELECT a.uid, a.step, a.idx, a.attempt, a.asked_at, a.ended, e.name, e.namespace, e.pipeline, e.version"
    " FROM attempts a JOIN executions e USING (uid)"
)
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Options:
    """Which part of a log is wanted: lines from its end, bytes, timestamps, and from when on."""

    tail: int | None
    limit: int | None
    stamps: bool
    since: float | None


class Pods:
    """The attempts of one home.

    Args:
        home: the home.
        database: its database.
    """

    def __init__(self, home: Home, database: Database) -> None:
        self._home = home
        self._db = database

    def listed(self, namespace: str | None, selector: Selector) -> Iterator[JsonObject]:
        """The Pods with these labels."""
        terms, given = [], []
        for column, key in (("a.uid", EXECUTION_UID), ("e.name", EXECUTION), ("a.step", STEP)):
            if (value := selector.exactly(key)) is not None:
                terms.append(f"{column} = ?")
                given.append(value)
        if namespace is not None:
            terms.append("e.namespace = ?")
            given.append(namespace)
        where = f" WHERE {' AND '.join(terms)}" if terms else ""
        for row in self._db.rows(f"{_ROWS}{where} ORDER BY e.name, a.uid, a.step, a.idx, a.attempt", *given):
            if selector.matches(_labels(row)):
                yield self._pod(row)

    def get(self, place: Place) -> JsonObject:
        """A Pod.

        Raises:
            Refusal: there is none.
        """
        return self._pod(self._row(place))

    def _row(self, place: Place) -> sqlite3.Row:
        found = _attempt_of(place.name)
        row = None
        if found is not None:
            execution, attempt = found
            where = " WHERE e.namespace = ? AND e.name = ? AND a.step = ? AND a.idx = ? AND a.attempt = ?"
            row = self._db.row(_ROWS + where, place.namespace, execution, *attempt)
        if row is None:
            raise not_found(PODS.about(place.name))
        return row

    def _folder(self, row: sqlite3.Row) -> Folder:
        return Folder(self._home.attempt(row["uid"], _attempt(row)))

    def _pod(self, row: sqlite3.Row) -> JsonObject:
        phase, state = self._state(row)
        labels = _labels(row)
        owner = {"apiVersion": API_VERSION, "kind": "Execution", "name": row["name"], "uid": row["uid"]}
        container = {
            "name": STEP_CONTAINER,
            "image": "",
            "imageID": "",
            "restartCount": 0,
            "ready": "running" in state,
            "started": "waiting" not in state,
            "state": state,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": _name(row),
                "namespace": row["namespace"],
                "uid": uid_of(f"{row['uid']}/{row['step']}/{row['idx']}/{row['attempt']}"),
                "resourceVersion": str(row["version"]),
                "creationTimestamp": stamp(row["asked_at"]),
                "labels": labels,
                "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": False}],
            },
            "spec": {"containers": [{"name": STEP_CONTAINER, "image": ""}], "restartPolicy": "Never"},
            "status": {"phase": phase, "startTime": stamp(row["asked_at"]), "containerStatuses": [container]},
        }

    def _state(self, row: sqlite3.Row) -> tuple[str, JsonObject]:
        """The phase of a Pod, and the state of its container."""
        if row["ended"] is not None:
            return _terminated(row, json.loads(row["ended"]))
        found = read_state(self._folder(row).state)
        if found.exit_code is not None:
            return _terminated(
                row, {"startedAt": found.started_at, "finishedAt": found.changed_at, "exitCode": found.exit_code}
            )
        if found.started_at is None or found.pid is None:
            why = {"reason": "Queued", "message": "it is started when others that run have ended"}
            return "Pending", {"waiting": why}
        return "Running", {"running": {"startedAt": stamp(found.started_at)}}

    # Logs

    def log(self, request: ApiRequest, place: Place) -> bytes:
        """What an attempt has printed so far.

        Raises:
            Refusal: there is no such attempt, or it has not begun.
        """
        row, options = self._log_of(request, place)
        return b"".join(self._printed(row, options).more())

    def follow(self, request: ApiRequest, place: Place) -> AsyncGenerator[bytes, None]:
        """What an attempt has printed and prints until it ends.

        Raises:
            Refusal: there is no such attempt, or it has not begun.
        """
        row, options = self._log_of(request, place)
        return self._follow(place, row["uid"], self._printed(row, options))

    async def _follow(self, place: Place, uid: str, printed: Printed) -> AsyncGenerator[bytes, None]:
        while True:
            # In this order: what is printed before the end is in the file when the end is seen.
            over = self._is_over(place, uid)
            for data in printed.more():
                yield data
            if over or printed.full:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_over(self, place: Place, uid: str) -> bool:
        try:
            row = self._row(place)
        except Refusal:
            return True
        return bool(row["uid"] != uid) or "terminated" in self._state(row)[1]

    def _log_of(self, request: ApiRequest, place: Place) -> tuple[sqlite3.Row, _Options]:
        row = self._row(place)
        params = request.params
        if params.get("container", STEP_CONTAINER) != STEP_CONTAINER:
            raise bad_request(f"container {params['container']} is not valid for pod {place.name}")
        if params.get("previous") == "true":
            raise bad_request(f'previous terminated container "{STEP_CONTAINER}" in pod "{place.name}" not found')
        options = _options(params)
        state = self._state(row)[1]
        if waiting := state.get("waiting"):
            what = f'container "{STEP_CONTAINER}" in pod "{place.name}" is waiting to start'
            raise bad_request(f"{what}: {waiting['reason']}: {waiting['message']}")
        return row, options

    def _printed(self, row: sqlite3.Row, options: _Options) -> Printed:
        return Printed(
            self._folder(row).log,
            begun=row["asked_at"],
            tail=options.tail,
            limit=options.limit,
            stamps=options.stamps,
            since=options.since,
        )


def _options(params: Mapping[str, str]) -> _Options:
    numbers: dict[str, int | None] = {}
    for key in ("tailLines", "limitBytes", "sinceSeconds"):
        text = params.get(key)
        if text is not None and not (text.isascii() and text.isdigit()):
            raise bad_request(f"{key}: wanted a whole number, got {text!r}")
        numbers[key] = None if text is None else int(text)
    since = None
    if numbers["sinceSeconds"] is not None:
        since = datetime.now(UTC).timestamp() - numbers["sinceSeconds"]
    if text := params.get("sinceTime"):
        try:
            since = from_timestamp(text)
        except ValueError:
            raise bad_request(f"sinceTime: {text!r} is no time as RFC 3339 has it") from None
    stamps = params.get("timestamps") == "true"
    return _Options(numbers["tailLines"], numbers["limitBytes"], stamps, since)


def _attempt(row: sqlite3.Row) -> AttemptId:
    return AttemptId(row["step"], row["idx"], row["attempt"])


def _name(row: sqlite3.Row) -> str:
    item = "" if row["idx"] < 0 else f".{row['idx']}"
    return f"{row['name']}.{row['step']}{item}.{row['attempt']}"


def _attempt_of(name: str) -> tuple[str, AttemptId] | None:
    """The execution and attempt that a Pod's name says; a step's name has no dots and is no number."""
    *rest, last = name.split(".")
    item = -1
    if len(rest) > 2 and rest[-1].isdecimal():
        item = int(rest.pop())
    if len(rest) < 2 or not last.isdecimal():
        return None
    return ".".join(rest[:-1]), AttemptId(rest[-1], item, int(last))


def _labels(row: sqlite3.Row) -> dict[str, str]:
    found = {
        MANAGED_BY: "penstock",
        EXECUTION: row["name"],
        EXECUTION_UID: row["uid"],
        STEP: row["step"],
        ATTEMPT: str(row["attempt"]),
    }
    if row["idx"] >= 0:
        found[ITEM] = str(row["idx"])
    if row["pipeline"]:
        found[PIPELINE] = row["pipeline"]
    return found


def _terminated(row: sqlite3.Row, ended: Mapping[str, Any]) -> tuple[str, JsonObject]:
    good = ended.get("exitCode") == 0 and not ended.get("reason")
    code = ended.get("exitCode")
    state: JsonObject = {
        "exitCode": (0 if good else 1) if code is None else code,
        "reason": "Completed" if good else ended.get("reason") or "Error",
        "startedAt": stamp(ended.get("startedAt") or row["asked_at"]),
        "finishedAt": stamp(ended.get("finishedAt") or ended.get("startedAt") or row["asked_at"]),
    }
    if ended.get("message"):
        state["message"] = ended["message"]
    return "Succeeded" if good else "Failed", {"terminated": state}
