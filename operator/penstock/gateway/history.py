"""Executions as the REST API finds them: live ones at the API server, all of them in the history if one is kept.

Everything is done in the name of the caller: the API server decides what they may see, and asks nobody here for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.engine.status import to_timestamp
from penstock.gateway import live
from penstock.gateway.access import Caller, Cluster
from penstock.gateway.asking import ExecutionQuery
from penstock.gateway.problems import Problem
from penstock.kube.client import Client
from penstock.kube.errors import NotFound
from penstock.kube.resources import EXECUTIONS
from penstock.step.values import JsonObject
from penstock.storage.history.filters import BadQuery
from penstock.storage.history.records import PLAIN, Attempt, Page, Recorded

if TYPE_CHECKING:
    from penstock.storage.history.history import History


@dataclass(frozen=True, slots=True)
class Found:
    """An execution.

    Attributes:
        body: the object; with `deletedAt` if it is only in the history.
        live: whether the API server has it.
    """

    body: JsonObject
    live: bool

    @property
    def etag(self) -> str:
        """Changes whenever the execution does. Weak: the same execution may be written in two ways."""
        meta = self.body["metadata"]
        state = [meta["uid"], self.live, meta.get("resourceVersion"), self.body.get("deletedAt"), self.body["spec"]]
        digest = hashlib.sha256(json.dumps([state, self.body.get("status")], sort_keys=True).encode())
        return f'W/"{digest.hexdigest()[:32]}"'

    @property
    def steps(self) -> Sequence[JsonObject]:
        """Its steps, in their order."""
        return (self.body.get("status") or {}).get("steps") or ()


class Executions:
    """Executions, as callers may see them.

    Args:
        cluster: decides who may do what, and has those that are live.
        history: has all; None: none is kept.
    """

    def __init__(self, cluster: Cluster, history: History | None) -> None:
        self._cluster = cluster
        self._history = history

    async def page(self, who: Caller, namespace: str, asked: ExecutionQuery) -> Page[JsonObject]:
        """A page of executions.

        Raises:
            Problem: the caller may not see them, the cursor is none, or the history does not answer.
            ApiError: the API server does not know the caller, or does not answer.
        """
        wanted = asked.filter(namespace)
        if self._history is None:
            found = await self._cluster.acting(who, lambda client, _: _listed(client, namespace, asked.labels or ""))
            return live.page(found, wanted, asked.order(), asked.limit, asked.after)
        await self._cluster.require(who, "list", namespace)
        with _asking():
            page = await self._history.list(wanted, asked.order(), limit=asked.limit, after=asked.after)
        return Page([_recorded(each) for each in page.items], page.after)

    async def one(self, who: Caller, namespace: str, name: str) -> Found:
        """An execution: as it is if it is there, else as it was.

        Raises:
            Problem: the history does not answer.
            ApiError: there is none, the caller may not see it, or the API server does not answer.
        """
        try:
            return Found(live.shown(await self._cluster.execution(who, namespace, name)), live=True)
        except NotFound:
            # Who may not see it was told so; what was there by this name is theirs to see.
            if self._history is None:
                raise Problem(404, "NotFound", f'there is no execution "{name}" in namespace "{namespace}"') from None
            with _asking():
                found = await self._history.get(namespace, name)
        if found is None:
            raise Problem(
                404, "NotFound", f'there is no execution "{name}" in namespace "{namespace}", nor in its history'
            )
        return Found(_recorded(found), live=False)

    async def attempts(self, found: Found, step: str) -> list[JsonObject]:
        """All attempts of a step and of those of its items that are known.

        Raises:
            Problem: there is no such step, or the history does not answer.
        """
        entry = next((each for each in found.steps if each["name"] == step), None)
        name, uid = found.body["metadata"]["name"], found.body["metadata"]["uid"]
        if entry is None:
            there = ", ".join(each["name"] for each in found.steps) or "it has begun none yet"
            raise Problem(404, "NotFound", f'execution "{name}" has no step "{step}"; there are: {there}')
        recorded: Sequence[Attempt] = ()
        if self._history is not None:
            with _asking():
                recorded = await self._history.attempts(uid, step)
        known: dict[tuple[int, int], JsonObject | None] = {(each.item, each.number): each.status for each in recorded}
        for each in (entry, *entry.get("items", ())):
            item = PLAIN if each is entry else each["index"]
            for number in range(1, each.get("attempts", 0) + 1):
                known.setdefault((item, number), None)
            if each.get("attempts", 0):
                known[item, each["attempts"]] = each
        return [_attempt(item, number, status) for (item, number), status in sorted(known.items(), key=_place)]


def _place(entry: tuple[tuple[int, int], object]) -> tuple[int, int]:
    return entry[0]


def _attempt(item: int, number: int, status: Mapping[str, Any] | None) -> JsonObject:
    kept = {key: value for key, value in (status or {}).items() if key not in {"name", "index", "items", "attempts"}}
    found = {"attempt": number, "status": kept if status is not None else None}
    return found if item == PLAIN else {"item": item, **found}


async def _listed(client: Client, namespace: str, labels: str) -> list[live.Known]:
    found: list[live.Known] = []

    def keep(body: JsonObject) -> None:
        found.append(live.known(body))
        live.bounded(found)

    await client.list(EXECUTIONS, namespace=namespace, labels=labels, keep=keep)
    return found


def _recorded(each: Recorded) -> JsonObject:
    return each.body if each.deleted_at is None else {**each.body, "deletedAt": to_timestamp(each.deleted_at)}


@contextmanager
def _asking() -> Iterator[None]:
    """Errors of the history as answers."""
    from penstock.storage.history.errors import BadHistory, HistoryUnavailable  # noqa: PLC0415 - an extra

    try:
        yield
    except HistoryUnavailable:
        raise Problem(503, "Unavailable", "the history does not answer", {"Retry-After": "5"}) from None
    except BadHistory as error:
        raise Problem(503, "Unavailable", f"the history cannot be used: {error}", {"Retry-After": "60"}) from None
    except BadQuery as error:
        if str(error).startswith("after:"):
            raise live.bad_cursor(error) from None
        raise Problem(422, "Invalid", f"query: {error}") from None
