"""One penstock process at work on one machine: the ports wired to the controller, executions taken up and run.

What must not live here: anything that is shown to people, and any decision about an execution.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.api.execution import Execution
from penstock.api.pipeline import PipelineSpec
from penstock.controller.contract import SystemClock
from penstock.controller.loop import Controller, until_one_ends
from penstock.controller.ports import Clock
from penstock.engine.state import ExecutionState
from penstock.engine.types import AttemptId, Limits, TaskId
from penstock.local.attempts import GRACE_SECONDS, LocalAttempts, Machine
from penstock.local.cache import Cache
from penstock.local.database import Database
from penstock.local.gc import Collector, Rules
from penstock.local.home import Busy, Home, Ids, LocalError, Ownership, RandomIds, full_disk, is_full
from penstock.local.journal import Journal
from penstock.local.objects import Objects
from penstock.local.publishing import LocalPublisher
from penstock.local.sources import Tree, copy
from penstock.local.store import Revision, Store

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""How long a change that is not worth a write of its own waits for one; writes are cheap here."""

WATCH_SECONDS = 0.5
"""How often it is looked whether another process has written to the database."""

SWEEP_SECONDS = 600.0
"""How often the folders of executions that were deleted are removed."""

_SERVED = ".served"
"""In the folder of an execution that `serve` runs; one that `penstock run` has left is for the next `penstock run`."""

_EVERYTHING = Rules(keep=sys.maxsize, days=0.0, cache_days=36_500.0)

OnPass = Callable[[str, ExecutionState, Sequence[TaskId]], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a session works with.

    Attributes:
        home: folder for executions, logs and files.
        runner: `process`, `docker` or `podman`.
        parallel: attempts at once; None: the number of CPUs, at least 2.
        limits: bounds of executions.
        grace_seconds: between asking an attempt to end and killing it.
    """

    home: Path
    runner: str = "process"
    parallel: int | None = None
    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = GRACE_SECONDS


class LocalSession:
    """Runs executions of one home.

    Args:
        settings: what to work with.
        on_pass: called after each pass of an execution with its uid, its state and the records that changed.
        on_trouble: called with an execution's uid and a sentence when something failed that will be tried again.
        on_finished: called with the uid of each execution that has finished, after that was written.
        clock: the time.
        ids: where uids and generated names come from.

    Raises:
        LocalError: the home cannot be used, or there is no such runner on this machine.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_pass: OnPass | None = None,
        on_trouble: Callable[[str, str], None] | None = None,
        on_finished: Callable[[str], None] | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.home = Home(settings.home)
        self.clock = clock
        self.ids = ids or RandomIds()
        self.database = Database(self.home)
        self._told_finished = on_finished
        self.objects = Objects(self.home)
        self.store = Store(self.database, self.objects, clock=clock, ids=self.ids)
        self._owned: dict[str, Ownership] = {}
        self._finished: dict[str, asyncio.Event] = {}
        self._litter = asyncio.Event()
        self._releases: set[asyncio.Task[None]] = set()
        machine = Machine(
            home=self.home,
            journal=Journal(self.database),
            objects=self.objects,
            clock=clock,
            info=self.store.run_info,
            notify=self._notify,
            parallel=settings.parallel or max(2, os.cpu_count() or 2),
            limits=settings.limits,
            grace_seconds=settings.grace_seconds,
        )
        try:
            self.attempts = _attempts(machine, settings.runner)
        except BaseException:
            self.database.close()
            raise
        self._controller = Controller(
            executions=self.store,
            attempts=self.attempts,
            cache=Cache(self.database, self.objects),
            publisher=LocalPublisher(self.objects),
            clock=clock,
            limits=settings.limits,
            quiet_seconds=QUIET_SECONDS,
            on_pass=on_pass,
            on_finished=self._on_finished,
            on_trouble=on_trouble,
        )

    def _notify(self, uid: str) -> None:
        self._controller.mark(uid)

    def _on_finished(self, uid: str) -> None:
        if uid in self._finished:
            self._finished[uid].set()
        elif uid in self._owned:
            self._owned.pop(uid).release()
        if self._told_finished is not None:
            self._told_finished(uid)

    def revision(self, pipeline: str, spec: PipelineSpec) -> Revision:
        """The revision of a pipeline that has this spec; a new one if none has."""
        return self.store.add_revision(pipeline, spec)

    def submit(self, execution: Execution, *, revision: Revision | None, source: Tree | None) -> str:
        """Store a new execution, owned by this process; returns its uid.

        Args:
            execution: the manifest.
            revision: what it runs; None where its spec holds the pipeline itself.
            source: the folder of which its steps find a copy in their working directory; None if there is none.

        Raises:
            LocalError: its name is taken, an input names an object that is not there, or there is no space.
        """
        uid = self.store.new_uid()
        ownership = Ownership(self.home, uid)
        copied = None if source is None else self.home.source(uid)
        try:
            if source is not None and copied is not None:
                copy(source, copied)
            code = "" if source is None else source.digest
            self.store.create(execution, revision=revision, uid=uid, source=copied, code=code)
        except OSError as error:
            ownership.release()
            if is_full(error):
                raise full_disk(self.home.root) from error
            raise LocalError(f"{error.filename}: cannot be copied for the steps ({error.strerror})") from error
        except BaseException:
            ownership.release()
            raise
        self._owned[uid] = ownership
        return uid

    async def interrupted(self, execution: Execution, *, revision: Revision | None) -> str | None:
        """An unfinished execution that nobody runs and that is what `execution` asks for; owned from now on.

        It has the same pipeline revision and inputs, and its name if `execution` has one. It goes on with its own copy
        of the source folder, whatever was changed there since.
        """
        wanted = execution.spec.manifest()
        for uid in reversed(self.store.unfinished()):
            found = self.store.get(uid)
            spec = {key: value for key, value in found["spec"].items() if key not in {"cancel", "suspend"}}
            if spec != {key: value for key, value in wanted.items() if key not in {"cancel", "suspend"}}:
                continue
            if execution.metadata.name not in {None, found["metadata"]["name"]}:
                continue
            loaded = await self.store.load(uid)
            if loaded is None or (revision is not None and loaded.revision != revision.name):
                continue
            try:
                self._owned[uid] = Ownership(self.home, uid)
            except Busy:
                continue
            return uid
        return None

    async def run(self, uid: str) -> dict[str, Any]:
        """Run an execution to its end; returns it as `kubectl get -o json` would show it.

        Raises:
            Busy: another process runs it.
            Halt: it cannot go on until a person has done something; it is taken up again at the next start.
        """
        if uid not in self._owned:
            self._owned[uid] = Ownership(self.home, uid)
        finished = self._finished[uid] = asyncio.Event()
        self._controller.mark(uid)
        tasks = [asyncio.create_task(work) for work in (self._controller.run(), finished.wait(), self._watch())]
        try:
            await until_one_ends(tasks)
        finally:
            self._owned.pop(uid).release()
        return self.store.get(uid)

    async def _watch(self) -> None:
        """Look at what we run when another process has written: it may have been cancelled or suspended."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self.database.changed_by_others():
                for uid in self._owned:
                    self._controller.mark(uid)

    # Running many

    async def serve(self) -> None:
        """Run all that `start` names, and what an earlier `serve` has left, until cancelled.

        Raises:
            Halt: nothing can go on until a person has done something.
        """
        for uid in self.store.unfinished():
            if uid not in self._owned and (self.home.run(uid) / _SERVED).exists():
                try:
                    self._owned[uid] = Ownership(self.home, uid)
                except Busy as error:
                    log.warning("%s", error)
                    continue
                self._controller.mark(uid)
        await until_one_ends(
            [asyncio.create_task(work) for work in (self._controller.run(), self._watch(), self._sweep())]
        )

    def start(self, uid: str) -> None:
        """Begin to run an execution; `serve` runs it, now and after a restart.

        Raises:
            Busy: another process runs it.
        """
        if uid not in self._owned:
            self._owned[uid] = Ownership(self.home, uid)
        (self.home.run(uid) / _SERVED).touch()
        self._controller.mark(uid)

    def changed(self, uid: str) -> None:
        """Somebody has written what is asked of an execution: look at it."""
        if uid in self._owned:
            self._controller.mark(uid)

    def delete(self, uid: str) -> None:
        """An execution was deleted: what runs of it is stopped, and its folders go with the next sweep."""
        self._litter.set()
        self._controller.mark(uid)
        ownership = self._owned.pop(uid, None)
        if ownership is not None:
            self._releases.add(task := asyncio.create_task(self._release(uid, ownership)))
            task.add_done_callback(self._releases.discard)

    async def _release(self, uid: str, ownership: Ownership) -> None:
        """Keep the folders of an execution for as long as something of it may run."""
        try:
            await self.attempts.idle(uid)
        finally:
            ownership.release()

    async def _sweep(self) -> None:
        """Remove folders of executions that are not there any more."""
        while True:
            self._litter.clear()
            try:
                await asyncio.to_thread(self._collect)
            except LocalError as error:
                log.warning("what deleted executions have left stays for now: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)
            await self._litter.wait()

    def _collect(self) -> None:
        """In a thread, which needs a connection of its own: it reads all that executions hold."""
        with closing(Database(self.home)) as database:
            Collector(self.home, database).collect(_EVERYTHING, now=self.clock.now())

    def cancel(self, uid: str) -> None:
        """Ask that an execution be cancelled; its `finally` steps still run."""
        self.store.set_cancel(uid)
        self._controller.mark(uid)

    def log_path(self, uid: str, attempt: AttemptId) -> Path:
        """The file that has what an attempt prints; it need not exist yet."""
        return self.attempts.log_path(uid, attempt)

    async def close(self) -> None:
        """Let go of everything. What runs goes on, and is taken up by the next session."""
        await self.attempts.close()
        for task in list(self._releases):
            task.cancel()
        await asyncio.gather(*self._releases, return_exceptions=True)
        for ownership in self._owned.values():
            ownership.release()
        self.database.close()


def _attempts(machine: Machine, runner: str) -> LocalAttempts:
    if runner == "process":
        from penstock.local.processes import ProcessAttempts  # noqa: PLC0415 - only what is used

        return ProcessAttempts(machine)
    from penstock.local.containers import ContainerAttempts  # noqa: PLC0415

    return ContainerAttempts(machine, engine=runner)
