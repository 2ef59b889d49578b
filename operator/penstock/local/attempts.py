"""Runs attempts on this machine: queue, start, watch, stop, take up again.

What an attempt is (a process, a container) is left to `processes` and `containers`.

What must not live here: what a step is run with, and any decision about executions. Crash safety rests on three things:
the row in the journal is written before anything is started; the state file (see `spawn`) says at any time whether the
command was run, runs or has ended; the end is recorded only after all files are in the object store, and collecting
them can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from penstock.api.base import MAX_MESSAGE
from penstock.controller.contract import CannotStart, declared_outputs
from penstock.controller.ports import Clock, Transient
from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptId, AttemptPhase, Limits, Observation, StartAttempt, StopAttempt
from penstock.local.folders import Folder, collect_outputs, os_problem
from penstock.local.home import Home, LocalError
from penstock.local.journal import Journal, Record
from penstock.local.logs import last_line
from penstock.local.objects import Objects
from penstock.local.spawn import Command, Process, end_leftovers, is_alive, read_state, spawn
from penstock.local.store import RunInfo
from penstock.step.values import Declared
from penstock.storage.paths import output_key

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL."""
_BEGINNING_SECONDS = 0.01
"""Between looks at whether a command that is to be stopped has begun."""
QUIET_SECONDS = 0.05
"""How long the news that a command has begun may wait: most short steps are over by then, which saves a pass."""


@dataclass(slots=True, eq=False)
class _Run:
    """An attempt that was asked for and whose end is not recorded."""

    key: str
    declared: Sequence[Declared]
    folder: Folder
    seen: Observation
    start: StartAttempt | None = None
    process: Process | None = None
    stopping: str | None = None
    killer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class End:
    """How a command ended.

    Attributes:
        exit_code: its exit code; None if it is not known.
        reason: where the exit code does not tell.
        message: what happened, for people.
    """

    exit_code: int | None
    reason: Reason | None = None
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What attempts work with.

    Attributes:
        home: where everything is.
        journal: what is recorded of attempts.
        objects: files.
        clock: the time.
        info: tells of an execution by its uid.
        notify: called with an execution's uid when there is news of its attempts.
        parallel: how many attempts may run at once.
        limits: bounds of outputs.
        grace_seconds: between asking an attempt to end and killing it.
    """

    home: Home
    journal: Journal
    objects: Objects
    clock: Clock
    info: Callable[[str], RunInfo]
    notify: Callable[[str], None]
    parallel: int
    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = GRACE_SECONDS


class LocalAttempts(ABC):
    """Implements the controller's `Attempts` on one machine.

    Args:
        machine: what to work with.
    """

    slow_to_conclude = False
    """Whether finding out how an attempt ended takes long, files or not."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._runs: dict[str, dict[AttemptId, _Run]] = {}
        self._queue: deque[_Run] = deque()
        self._running = 0
        self._news: dict[str, dict[AttemptId, Observation]] = {}
        self._quiet: dict[str, None] = {}
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._info: dict[str, RunInfo] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._idle: dict[str, asyncio.Event] = {}

    # What the kinds of attempts differ in

    @abstractmethod
    def prepare(self, key: str, start: StartAttempt, folder: Folder, info: RunInfo) -> Command:
        """Fill an attempt's folder and say what to run.

        Raises:
            CannotStart: it cannot be run.
            OSError: the folder cannot be filled.
        """

    def signal(self, key: str, attempt: AttemptId, process: Process, number: int) -> None:
        """Send a signal to what runs."""
        del key, attempt
        process.signal(number)

    def conclude(self, key: str, attempt: AttemptId, folder: Folder, exit_code: int | None) -> End:
        """How an attempt ended whose process is gone; called once or again after a restart, maybe in a thread.

        Args:
            key: the execution.
            attempt: which attempt.
            folder: its folder.
            exit_code: what the state file has; None if what ran was killed without leaving a trace.
        """
        del key, attempt
        if exit_code is not None:
            return End(exit_code)
        if (pid := read_state(folder.state).pid) is not None:
            end_leftovers(pid, folder.root)
        return End(
            None,
            Reason.DISRUPTED,
            "the attempt was killed from outside, with the process that watched it, or the machine was restarted",
        )

    # The controller's `Attempts`

    async def start(self, key: str, start: StartAttempt) -> None:
        """See `controller.ports.Attempts`."""
        if start.id in self._runs.get(key, {}):
            return
        declared = declared_outputs(start.step.spec)
        if not self.machine.journal.add(key, start.id, declared, now=self.machine.clock.now()):
            seen = await self._take_up(key, start.id)
            if seen.phase is not AttemptPhase.LOST:
                self._tell(key, seen)
                return
            self.machine.journal.add(key, start.id, declared, now=self.machine.clock.now())
        run = self._track(key, start.id, declared)
        run.start = start
        self._queue.append(run)
        self._fill()

    async def stop(self, key: str, stop: StopAttempt) -> None:
        """See `controller.ports.Attempts`."""
        run = self._runs.get(key, {}).get(stop.id)
        if run is None:
            record = self.machine.journal.get(key, stop.id)
            if record is None or record.ended is not None:
                return
            seen = await self._take_up(key, stop.id)
            run = self._runs.get(key, {}).get(stop.id)
            if run is None:
                self._tell(key, seen)
                return
        if run.stopping is not None:
            return
        run.stopping = stop.reason
        if run.start is not None:
            self._queue.remove(run)
            run.start = None
            self._ended(run, self._end(run.seen, End(None, Reason(stop.reason), "it was stopped before it began")))
        elif run.process is not None:
            loop = asyncio.get_running_loop()
            run.killer = loop.call_later(self.machine.grace_seconds, self._kill, run)
            self._terminate(run)

    def _terminate(self, run: _Run) -> None:
        """Ask a command to end, as soon as it can hear it."""
        if run.process is None or self._closed:
            return
        age = self.machine.clock.now() - (run.seen.started_at or 0.0)
        if run.process.begun(age):
            self.signal(run.key, run.seen.id, run.process, signal.SIGTERM)
        else:
            asyncio.get_running_loop().call_later(_BEGINNING_SECONDS, self._terminate, run)

    def _kill(self, run: _Run) -> None:
        if run.process is not None:
            self.signal(run.key, run.seen.id, run.process, signal.SIGKILL)

    async def recover(self, key: str, expected: Sequence[AttemptId]) -> Sequence[Observation]:
        """See `controller.ports.Attempts`."""
        found = []
        for attempt in expected:
            self._news.get(key, {}).pop(attempt, None)
            run = self._runs.get(key, {}).get(attempt)
            found.append(run.seen if run is not None else await self._take_up(key, attempt))
        return found

    def news(self, key: str) -> Sequence[Observation]:
        """See `controller.ports.Attempts`."""
        return tuple(self._news.pop(key, {}).values())

    async def recorded(self, key: str, ended: Sequence[AttemptId]) -> None:
        """See `controller.ports.Attempts`. Nothing is kept here only until then."""
        del key, ended

    async def forget(self, key: str) -> None:
        """See `controller.ports.Attempts`."""
        for run in list(self._runs.get(key, {}).values()):  # none, unless something has gone wrong
            await self.stop(key, StopAttempt(run.seen.id, Reason.CANCELLED))
        self._news.pop(key, None)
        self._info.pop(key, None)

    async def idle(self, key: str) -> None:
        """Wait until nothing of an execution runs that is known of here."""
        if key in self._runs:
            await self._idle.setdefault(key, asyncio.Event()).wait()

    # For people

    def log_path(self, key: str, attempt: AttemptId) -> Path:
        """The file that has what an attempt prints; it need not exist yet."""
        return Folder(self.machine.home.attempt(key, attempt)).log

    def kill_all(self) -> None:
        """Kill what runs, at once: the person who started it leaves."""
        self._queue.clear()
        for run in [run for runs in self._runs.values() for run in runs.values()]:
            self._kill(run)

    async def close(self) -> None:
        """Stop watching. What runs goes on, and is taken up by the next penstock."""
        self._closed = True
        self._queue.clear()
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
        for run in [run for runs in self._runs.values() for run in runs.values()]:
            if run.killer is not None:
                run.killer.cancel()
            if run.process is not None:
                run.process.abandon()
        self._runs.clear()
        if self._pool is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)

    # Starting

    def _track(self, key: str, attempt: AttemptId, declared: Sequence[Declared]) -> _Run:
        folder = Folder(self.machine.home.attempt(key, attempt))
        run = _Run(key, declared, folder, Observation(attempt, AttemptPhase.PENDING))
        self._runs.setdefault(key, {})[attempt] = run
        return run

    def _fill(self) -> None:
        """Start what is queued, as far as there is room."""
        while self._queue and self._running < self.machine.parallel and not self._closed:
            self._launch(self._queue.popleft())

    def _launch(self, run: _Run) -> None:
        start, run.start = run.start, None
        if start is None:
            raise AssertionError("a queued attempt has what it is to be started with")
        now = self.machine.clock.now()
        try:
            process = self._spawn(run, start, now)
        except CannotStart as error:
            end = End(error.exit_code, error.reason, str(error))
            self._ended(run, self._end(replace(run.seen, started_at=now), end))
            return
        self._running += 1
        run.seen = replace(run.seen, phase=AttemptPhase.RUNNING, started_at=now)
        self._tell(run.key, run.seen)
        self._watch(run, process)

    def _spawn(self, run: _Run, start: StartAttempt, now: float) -> Process:
        info = self._info.get(run.key)
        if info is None:
            info = self._info[run.key] = self.machine.info(run.key)
        try:
            run.folder.make()
            command = self.prepare(run.key, start, run.folder, info)
        except OSError as error:
            raise os_problem(error, self.machine.home.root) from error
        check_sizes(command, start.step.name)
        try:
            return spawn(command, state=run.folder.state, log=run.folder.log, now=now)
        except (OSError, ValueError) as error:
            raise spawn_problem(error, start.step.name, self.machine.home.root) from error

    def _watch(self, run: _Run, process: Process) -> None:
        run.process = process
        process.watch(lambda: self._gone(run))

    # Ending

    def _gone(self, run: _Run) -> None:
        """The process of an attempt is gone."""
        process, run.process = run.process, None
        if process is None or self._closed:
            return
        if run.killer is not None:
            run.killer.cancel()
        self._running -= 1
        code = process.reap()
        if code is None and run.stopping is not None:
            code = 128 + signal.SIGKILL  # by us, and the shell with it
        finished_at = self.machine.clock.now()
        self._fill()
        if not self._is_slow(run.declared):
            self._ended(run, self._concluded(run, code, finished_at))
            return
        loop = asyncio.get_running_loop()
        future = self._in_pool(run, code, finished_at)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._after_pool, run, done))

    def _is_slow(self, declared: Sequence[Declared]) -> bool:
        return self.slow_to_conclude or any(output.type == "file" for output in declared)

    def _in_pool(self, run: _Run, code: int | None, finished_at: float | None) -> Future[Observation]:
        return self._threads().submit(self._concluded, run, code, finished_at)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=self.machine.parallel, thread_name_prefix="outputs")
        return self._pool

    def background(self, work: Callable[[], object]) -> None:
        """Do something in a thread; nobody waits for it."""
        self._threads().submit(work)

    def _after_pool(self, run: _Run, done: Future[Observation]) -> None:
        if not self._closed:
            self._ended(run, done.result())

    def _concluded(self, run: _Run, code: int | None, finished_at: float | None) -> Observation:
        """Everything about the end of an attempt; outputs are in the store afterwards. May run in a thread."""
        end = self.conclude(run.key, run.seen.id, run.folder, code)
        seen = replace(run.seen, finished_at=finished_at)
        if end.reason is not None:
            return self._end(seen, end)
        left = collect_outputs(
            run.folder,
            run.declared,
            self.machine.objects,
            key=partial(output_key, run.key, run.seen.id),
            limit=self.machine.limits.step_output_bytes,
            succeeded=end.exit_code == 0,
        )
        seen = replace(seen, outputs=left.outputs)
        if end.exit_code != 0:
            return self._end(seen, End(end.exit_code, message=last_line(run.folder.log) or None))
        return self._end(seen, End(end.exit_code, left.reason, left.message))

    def _end(self, seen: Observation, end: End) -> Observation:
        message = end.message
        if message is not None and len(message) > MAX_MESSAGE:
            message = message[: MAX_MESSAGE - 1] + "…"
        return replace(
            seen,
            phase=AttemptPhase.ENDED,
            exit_code=end.exit_code,
            reason=end.reason,
            message=message,
            finished_at=seen.finished_at or self.machine.clock.now(),
        )

    def _ended(self, run: _Run, seen: Observation) -> None:
        self._runs[run.key].pop(seen.id, None)
        if not self._runs[run.key]:
            del self._runs[run.key]
            if run.key in self._idle:
                self._idle.pop(run.key).set()
        self._record(run.key, seen)
        self._tell(run.key, seen)

    def _record(self, key: str, seen: Observation) -> None:
        # If it cannot be recorded it is news all the same. If the status cannot be written either, the next penstock
        # finds the end in the attempt's folder.
        with contextlib.suppress(LocalError, Transient):
            self.machine.journal.end(key, seen)

    # Telling

    def _tell(self, key: str, seen: Observation) -> None:
        self._news.setdefault(key, {})[seen.id] = seen
        if seen.phase is not AttemptPhase.RUNNING:
            self.machine.notify(key)
            return
        self._quiet[key] = None
        if self._quiet_timer is None:
            self._quiet_timer = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._tell_quiet)

    def _tell_quiet(self) -> None:
        self._quiet_timer = None
        keys, self._quiet = self._quiet, {}
        for key in keys:
            if key in self._news:
                self.machine.notify(key)

    # Taking up again

    async def _take_up(self, key: str, attempt: AttemptId) -> Observation:
        """Find out about an attempt that an earlier penstock asked for, and watch it if it runs."""
        record = self.machine.journal.get(key, attempt)
        if record is None:
            return Observation(attempt, AttemptPhase.LOST)
        if record.ended is not None:
            return record.ended
        run = self._track(key, attempt, record.declared)
        try:
            return await self._look(run, record)
        finally:
            if run.process is None:
                self._runs[key].pop(attempt, None)

    async def _look(self, run: _Run, record: Record) -> Observation:
        key, attempt = run.key, run.seen.id
        alive = is_alive(run.folder.state)
        state = read_state(run.folder.state)
        while alive and state.pid is None:  # the shell is about to write it: a matter of microseconds
            await asyncio.sleep(0.001)
            alive = is_alive(run.folder.state)
            state = read_state(run.folder.state)
        if alive and state.pid is not None:
            run.seen = replace(run.seen, phase=AttemptPhase.RUNNING, started_at=state.started_at)
            self._running += 1
            self._watch(run, Process(state.pid, run.folder.state))
            return run.seen
        state = read_state(run.folder.state)  # again: it may have ended between the two looks above
        if state.pid is None:
            run.folder.remove()
            self.machine.journal.remove(key, attempt)
            return Observation(attempt, AttemptPhase.LOST)
        run.seen = replace(run.seen, started_at=state.started_at)
        finished_at = state.changed_at if state.exit_code is not None else None
        if self._is_slow(record.declared):
            seen = await asyncio.wrap_future(self._in_pool(run, state.exit_code, finished_at))
        else:
            seen = self._concluded(run, state.exit_code, finished_at)
        self._record(key, seen)
        return seen


_MAX_ARGUMENT = 131_071
"""Bytes of one argument or variable on Linux (MAX_ARG_STRLEN without the NUL at its end)."""


def check_sizes(command: Command, step: str) -> None:
    """Check that every argument is one that the system can take.

    Raises:
        CannotStart: one is too long.
    """
    for argument in command.argv:
        if len(argument) * 4 > _MAX_ARGUMENT and (size := len(argument.encode())) > _MAX_ARGUMENT:
            raise CannotStart(
                f"spec.steps[{step}]: a script or argument is {size:,} bytes long, a command can be given "
                f"{_MAX_ARGUMENT:,} at most; put it into a file of the source folder or the image and run that"
            )


def spawn_problem(error: OSError | ValueError, step: str, home: Path) -> CannotStart:
    """What an error of the system means for a command that was being started."""
    if isinstance(error, ValueError):
        return CannotStart(f"spec.steps[{step}]: an argument or variable holds a NUL character; take it out")
    if error.errno == errno.E2BIG:
        return CannotStart(
            f"spec.steps[{step}]: arguments and environment together are longer than this system allows; hand large "
            "data over as inputs, which are files as well"
        )
    return os_problem(error, home)
