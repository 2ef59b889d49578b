"""Executions of an API server on their way into the history, and what must not be removed before it is there.

Imported only where a history is kept: it brings SQLAlchemy along.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.api.execution import FINISHED
from penstock.controller.ports import Clock, Transient
from penstock.controller.queue import DirtyQueue
from penstock.kube.client import Client
from penstock.kube.errors import ApiError, NotFound
from penstock.kube.resources import CONTROLLER_REVISIONS, EXECUTIONS
from penstock.kube.revisions import object_name
from penstock.kube.settings import PREFIX, BadSettings
from penstock.step.values import JsonObject
from penstock.storage.history import connecting
from penstock.storage.history.errors import BadHistory, HistoryUnavailable
from penstock.storage.history.filters import Filter
from penstock.storage.history.history import History
from penstock.storage.history.outbox import Lag, Recorder
from penstock.storage.history.records import NotAnExecution

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 2.0
DRAIN_SECONDS: Final = 3.0
"""How long an end waits for what is not written yet."""
REMOVAL_SECONDS: Final = 5.0
"""How long somebody who removes an execution waits until it is recorded."""
_MANIFESTS: Final = 100
"""Manifests of revisions that are remembered."""
_AGAIN_AT_ONCE: Final = 100
"""Executions that are read again together, after there was no room for them."""
_PAGE: Final = 500


async def check(url: str) -> None:
    """Make a history's tables, or bring them to this version. A database that is away is only told of.

    Args:
        url: see `storage.history.History.open`.

    Raises:
        BadSettings: no history can be kept there.
    """
    try:
        await connecting.check(connecting.parse(url))
    except BadHistory as error:
        raise _bad(error) from None
    except HistoryUnavailable as error:
        log.warning("the history cannot be reached, it is tried again: %s", error)


def _bad(error: BadHistory) -> BadSettings:
    return BadSettings(f"history ({PREFIX}HISTORY_URL): {str(error).removeprefix('history: ')}")


@dataclass(slots=True)
class _Known:
    """An execution that is there: where, the phase of its newest state that was seen, and how many were."""

    namespace: str
    name: str
    phase: str
    seen: int = 0


class Recording:
    """Notes executions when they are first seen, when their phase changes, and when they are gone.

    Args:
        url: of the history.
        client: reads what is to be noted.
        clock: the time.

    Raises:
        BadSettings: no history can be kept there.

    Attributes:
        history: what is recorded; its methods raise `HistoryUnavailable` while the database is away.
    """

    def __init__(self, url: str, client: Client, clock: Clock) -> None:
        try:
            self._url = connecting.parse(url)
        except BadHistory as error:
            raise _bad(error) from None
        self.history = History(connecting.connect(self._url))
        self._client = client
        self._clock = clock
        self._recorder = Recorder(self.history, clock.now)
        self._known: dict[str, _Known] = {}
        self._unread = DirtyQueue(clock.now)
        self._pending: set[str] = set()
        self._bodies: dict[str, JsonObject] = {}
        self._manifests: dict[tuple[str, str], JsonObject | None] = {}
        self._ready = asyncio.Event()
        self._listed = asyncio.Event()
        self._namespaces: Sequence[str] = ()

    # What is seen

    def wants(self, uid: str, phase: str) -> bool:
        """Whether an execution in this phase is to be noted: it was in another one."""
        known = self._known.get(uid)
        return known is None or (known.phase != phase and known.phase not in FINISHED)

    def see(self, body: JsonObject) -> None:
        """Note a whole execution, if it is in another phase than before."""
        if not self._news(body):
            return
        of = _revision(body)
        if of is None or of in self._manifests:
            self._note(body, None if of is None else self._manifests[of])
        else:
            self._bodies[body["metadata"]["uid"]] = body
            self._read_soon(body["metadata"]["uid"])

    def observe(self, body: JsonObject) -> None:
        """Note a whole execution that was watched or listed, which may be older than what was seen already."""
        if body["metadata"]["uid"] not in self._known or _phase(body) in FINISHED:
            self.see(body)

    def changed(self, body: JsonObject) -> None:
        """The same for an execution that came without its steps: it is read as a whole."""
        if self._news(body):
            self._read_soon(body["metadata"]["uid"])

    def gone(self, uid: str, body: JsonObject | None = None) -> None:
        """An execution is not there any more.

        Args:
            uid: its uid.
            body: its last state, as a whole; None: it is not known.
        """
        known = self._known.pop(uid, None)
        unnoted = known is None or known.phase not in FINISHED or uid in self._pending
        held = self._bodies.pop(uid, None)
        body = body or held
        if body is not None and unnoted:
            of = _revision(body)
            self._note(body, None if of is None else self._manifests.get(of))
        self._pending.discard(uid)
        self._recorder.removed(uid, self._clock.now())

    def known(self) -> set[str]:
        """Uids of all executions that are there, as far as is known."""
        return set(self._known)

    def listed(self, namespaces: Sequence[str] = ()) -> None:
        """All executions that there are were seen: what else the history believes to be there has gone unseen.

        Args:
            namespaces: where they were listed; empty: everywhere.
        """
        self._namespaces = namespaces
        self._listed.set()

    def _news(self, body: JsonObject) -> bool:
        meta, phase = body["metadata"], _phase(body)
        if not self.wants(meta["uid"], phase):
            return False
        known = self._known.setdefault(meta["uid"], _Known(meta["namespace"], meta["name"], phase))
        known.phase, known.seen = phase, known.seen + 1
        return True

    def _read_soon(self, uid: str) -> None:
        self._pending.add(uid)
        self._unread.add(uid)

    def _note(self, body: JsonObject, manifest: JsonObject | None) -> None:
        self._pending.discard(body["metadata"]["uid"])
        self._bodies.pop(body["metadata"]["uid"], None)
        self._recorder.note(body, revision_manifest=manifest)

    # What may be removed

    def kept(self, uid: str) -> bool:
        """Whether a finished execution may be removed: its end is in the history."""
        known = self._known.get(uid)
        over = known is not None and known.phase in FINISHED
        return over and uid not in self._pending and self._recorder.recorded(uid)

    async def keep(self, executions: Iterable[tuple[str, str, str]]) -> None:
        """Record executions that are to be removed, as they are now, and wait until they are.

        Args:
            executions: uid, namespace and name of each.

        Raises:
            Transient: the history does not take them now.
        """
        wanted = []
        for uid, namespace, name in executions:
            if not self.kept(uid):
                self._known.setdefault(uid, _Known(namespace, name, ""))
                wanted.append(uid)
        try:
            async with asyncio.timeout(REMOVAL_SECONDS):
                for uid in wanted:
                    await self._read(uid)
                for uid in wanted:
                    await self._recorded(uid)
        except TimeoutError:
            why = self.lag().trouble or "it is behind"
            raise Transient(f"nothing is removed before it is in the history: {why}; try again later", 5) from None

    async def _recorded(self, uid: str) -> None:
        try:
            await self._recorder.wait_recorded(uid)
        except NotAnExecution as error:
            log.warning("an execution is removed that cannot be recorded: %s", error)
        except LookupError:
            if uid in self._known:  # it could not be read; else somebody else was faster
                raise Transient("nothing is removed before it is in the history; try again later", 5) from None

    def lag(self) -> Lag:
        """How far the history is behind."""
        return self._recorder.lag()

    # Working

    async def run(self) -> None:
        """Record what is noted. Never ends; a database that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._unread.work(self._read_pending))
            group.create_task(self._note_missing())
            group.create_task(self._find_removed())

    async def close(self, *running: asyncio.Task[None]) -> None:
        """Wait a little for what is not written yet, and let go of the database.

        Args:
            running: the task that runs `run`, if there is one; it is ended.
        """
        if any(not task.done() for task in running):
            await self._recorder.drain(DRAIN_SECONDS)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._unread.close()
        await self.history.close()

    async def _write(self) -> None:
        told = ""
        while not self._ready.is_set():
            try:
                await connecting.check(self._url)
            except (HistoryUnavailable, BadHistory) as error:
                if str(error) != told:
                    log.warning("executions wait to be recorded: %s", error)
                told = str(error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._ready.set()
        await self._recorder.run()

    async def _read_pending(self, uid: str) -> None:
        if uid in self._pending:
            await self._read(uid)

    async def _read(self, uid: str) -> None:
        """Note an execution as it is now, with the manifest that it runs."""
        known = self._known.get(uid)
        if known is None:
            return
        seen, body = known.seen, self._bodies.get(uid)
        try:
            body = body or await self._client.get(EXECUTIONS, known.name, known.namespace)
            if body["metadata"]["uid"] != uid:
                self.gone(uid)
                return
            if self._known.get(uid) is known and known.seen == seen:
                self._bodies[uid] = body  # should it go while its manifest is read
            manifest = await self._manifest(body)
        except NotFound:
            self.gone(uid)
        except (ApiError, Transient) as error:
            log.warning("execution %s cannot be read for the history, it is tried again: %s", known.name, error)
            self._unread.add_at(uid, self._clock.now() + RETRY_SECONDS)
        else:
            # What was seen meanwhile is newer, and noted or about to be.
            if self._known.get(uid) is known and known.seen == seen:
                known.phase = _phase(body)
                self._note(body, manifest)

    async def _manifest(self, body: JsonObject) -> JsonObject | None:
        of = _revision(body)
        if of is None:
            return None
        if of not in self._manifests:
            namespace, revision = of
            try:
                found = await self._client.get(CONTROLLER_REVISIONS, object_name(revision), namespace)
                manifest: JsonObject | None = found["data"]
            except NotFound:
                manifest = None
            while len(self._manifests) >= _MANIFESTS:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[of] = manifest
        return self._manifests[of]

    async def _note_missing(self) -> None:
        """Note again those for which there was no room, when there is some."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            lag = self.lag()
            if lag.missing and not lag.trouble and lag.waiting < _AGAIN_AT_ONCE:
                for uid in sorted(self._recorder.missing())[:_AGAIN_AT_ONCE]:
                    if uid in self._known:
                        self._read_soon(uid)
                    else:
                        self._recorder.removed(uid, self._clock.now())

    async def _find_removed(self) -> None:
        """Say of executions that were removed while nobody looked on that they were."""
        await self._listed.wait()
        await self._ready.wait()
        while True:
            try:
                for uid, name, namespace in await self._believed():
                    if not await self._there(uid, name, namespace):
                        self.gone(uid)
            except (ApiError, Transient, HistoryUnavailable, BadHistory) as error:
                log.warning("what was removed meanwhile is not known yet, it is tried again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _believed(self) -> list[tuple[str, str, str]]:
        """Uid, name and namespace of executions that the history believes to be there, and that were not seen."""
        wanted = Filter(namespaces=tuple(self._namespaces) or None, deleted=False)
        found: list[tuple[str, str, str]] = []
        after: str | None = None
        while True:
            page = await self.history.list(wanted, limit=_PAGE, after=after)
            unseen = [each for each in page.items if each.uid not in self._known]
            found += [(each.uid, each.body["metadata"]["name"], each.body["metadata"]["namespace"]) for each in unseen]
            after = page.after
            if after is None:
                return found

    async def _there(self, uid: str, name: str, namespace: str) -> bool:
        if uid in self._known:
            return True
        try:
            body = await self._client.get(EXECUTIONS, name, namespace)
        except NotFound:
            return False
        return bool(body["metadata"]["uid"] == uid)


def _phase(body: JsonObject) -> str:
    return str((body.get("status") or {}).get("phase") or "Pending")


def _revision(body: JsonObject) -> tuple[str, str] | None:
    """Namespace and name of the revision that an execution runs, once that is known."""
    revision = (body.get("status") or {}).get("revision")
    return (body["metadata"]["namespace"], str(revision)) if revision else None
