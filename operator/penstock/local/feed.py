"""What changes, told to those who watch: streams of events as the Kubernetes API has them, and listeners in-process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from penstock.local.answers import gone
from penstock.local.apikinds import EXECUTIONS, STORED, Kind
from penstock.local.registry import Change, ChangeType, Registry, tombstone_text
from penstock.local.views import Views, body_of, compact
from penstock.step.values import JsonObject

Listener = Callable[[str, ChangeType, JsonObject], None]

LOOK_SECONDS: Final = 1.0
"""How often a watch looks for what other processes have written."""
BOOKMARK_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 3_600.0
"""How long a watch lasts that does not say."""
_TOGETHER: Final = 100
"""So many objects are shown by one query."""
_INITIAL_END: Final = {"annotations": {"k8s.io/initial-events-end": "true"}}


@dataclass(frozen=True, slots=True)
class Watch:
    """What somebody wants to be told.

    Attributes:
        kind: of which kind.
        matches: whether an object is meant, by its row.
        unsteady: whether that may change without a change of labels.
        show: objects as they are wanted, as JSON texts, from their rows.
        show_gone: one that is gone, from its tombstone.
        since: the resource version that is known; None: nothing is, all objects come first.
        bookmarks: tell from time to time how far it is.
        initial: tell when all objects have come.
        seconds: how long.
    """

    kind: Kind
    matches: Callable[[sqlite3.Row], bool]
    unsteady: bool
    show: Callable[[Sequence[sqlite3.Row]], Sequence[str]]
    show_gone: Callable[[sqlite3.Row], str]
    since: int | None
    bookmarks: bool
    initial: bool
    seconds: float


class Feed:
    """Tells of changes.

    Args:
        registry: knows them.
        views: shows executions.
    """

    def __init__(self, registry: Registry, views: Views) -> None:
        self._registry = registry
        self._views = views
        self._listeners: list[Listener] = []
        self._told = 0
        self._telling = False
        self._waiting: set[asyncio.Future[None]] = set()

    def subscribe(self, listener: Listener) -> None:
        """Have all changes from now on told, in their order. Executions are told of without their steps."""
        self.changed()
        self._told = self._registry.version()
        self._listeners.append(listener)

    def changed(self) -> None:
        """Something was written."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        if not self._listeners or self._telling:
            return
        self._telling = True  # a listener that writes is told of that after this
        try:
            while (newest := self._registry.version()) > self._told:
                since, self._told = self._told, newest
                self._tell(since, newest)
        finally:
            self._telling = False

    def _tell(self, since: int, until: int) -> None:
        found = [
            (change.version, kind, change) for kind in STORED for change in self._registry.changes(kind, since, until)
        ]
        for _, kind, change in sorted(found, key=lambda each: each[0]):
            body = body_of(self._text(kind, change))
            for listener in self._listeners:
                listener(kind.plural, change.type, body)

    def _text(self, kind: Kind, change: Change) -> str:
        if change.type == "DELETED":
            return tombstone_text(kind, change.row)
        if kind is EXECUTIONS:
            return self._views.texts([change.row], steps=False)[0]
        return self._registry.texts(kind, [change.row])[0]

    def watch(self, wanted: Watch) -> AsyncGenerator[bytes, None]:
        """Events as JSON lines.

        Raises:
            Refusal: nobody knows any more what has happened since the version that is known.
        """
        if wanted.since is not None and not self._registry.remembers(wanted.since):
            raise gone(f"too old resource version: {wanted.since}")
        return self._watch(wanted)

    async def _watch(self, wanted: Watch) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        marked = loop.time()
        end = marked + wanted.seconds
        since, known = wanted.since or 0, wanted.since is not None
        while True:
            newest = self._registry.version()
            if newest > since:
                if known and not self._registry.remembers(since):
                    yield _line("ERROR", compact(gone(f"too old resource version: {since}").body()))
                    return
                for lines in self._lines(wanted, since, newest):
                    yield lines
                if not known and wanted.initial:
                    yield _bookmark(wanted.kind, newest, _INITIAL_END)
                since, known = newest, True
            now = loop.time()
            if wanted.bookmarks and (now - marked >= BOOKMARK_SECONDS or now >= end):
                marked = now
                yield _bookmark(wanted.kind, since, {})
            if now >= end:
                return
            if self._registry.version() == since:  # nothing was written while the lines above were taken
                await self._news(min(LOOK_SECONDS, end - now))

    def _lines(self, wanted: Watch, since: int, until: int) -> Iterator[bytes]:
        """Lines about what has changed, some at a time."""
        changes = self._registry.changes(wanted.kind, since, until)
        for start in range(0, len(changes), _TOGETHER):
            some = [(change, kind) for change in changes[start : start + _TOGETHER] if (kind := _said(wanted, change))]
            shown = iter(wanted.show([change.row for change, _ in some if change.type != "DELETED"]))
            if some:
                yield b"".join(
                    _line(kind, wanted.show_gone(change.row) if change.type == "DELETED" else next(shown))
                    for change, kind in some
                )

    async def _news(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await future
        finally:
            self._waiting.discard(future)


def _said(wanted: Watch, change: Change) -> ChangeType | None:
    """What is said of a change; None where it is nothing to who watches."""
    if wanted.matches(change.row):
        return change.type
    # It is none of theirs (any more): whether it was, only who watches knows.
    return "DELETED" if change.type != "ADDED" and (change.relabelled or wanted.unsteady) else None


def _line(kind: str, text: str) -> bytes:
    return f'{{"type":"{kind}","object":{text}}}\n'.encode("ascii")


def _bookmark(kind: Kind, version: int, more: JsonObject) -> bytes:
    metadata = {"resourceVersion": str(version), **more}
    return _line("BOOKMARK", compact({"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}))
