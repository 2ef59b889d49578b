"""What a running execution looks like: a live table on a terminal, plain lines elsewhere. Always on standard error.

Views are told what changed after each pass; they never ask the engine anything and never go over all steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from penstock.api.execution import StepPhase
from penstock.cli.main import emit
from penstock.engine.state import STEP, ExecutionState, TaskState
from penstock.engine.status import duration
from penstock.engine.types import AttemptId, TaskId
from penstock.local.logs import last_line

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS = {
    StepPhase.SUCCEEDED: "green",
    StepPhase.CACHED: "cyan",
    StepPhase.RUNNING: "blue",
    StepPhase.RETRYING: "yellow",
    StepPhase.FAILED: "red",
    StepPhase.ERROR: "red",
    StepPhase.CANCELLED: "magenta",
}
_MARKS = {
    StepPhase.SUCCEEDED: "✓",
    StepPhase.CACHED: "✓",
    StepPhase.FAILED: "✗",
    StepPhase.ERROR: "✗",
    StepPhase.RUNNING: "●",
    StepPhase.RETRYING: "↻",
    StepPhase.CANCELLED: "■",
    StepPhase.SKIPPED: "-",
    StepPhase.OMITTED: "-",
}
_KEPT = 30
"""Finished steps that the live table still shows."""

_NARROW = 40
"""Columns of a terminal below which only names, phases and counts are shown."""

LogPath = Callable[[AttemptId], Path]


class View(Protocol):
    """Shows one execution."""

    def changed(self, state: ExecutionState, tasks: Sequence[TaskId]) -> None:
        """These records changed."""

    def tell(self, message: str) -> None:
        """Something that people must know."""

    def close(self) -> None:
        """The execution is over or the command ends."""


def title(task: TaskId) -> str:
    """A step's name, an item's with its index: `train[3]`."""
    return task.step if task.index == STEP else f"{task.step}[{task.index}]"


def elapsed(record: TaskState, now: float) -> float | None:
    """Seconds that a step or item has taken so far, its last attempt only; None if it did not run."""
    began = record.started_at if record.started_at is not None else record.attempt_at
    if began is None:
        return None
    return max(0.0, (now if record.finished_at is None else record.finished_at) - began)


class Quiet:
    """Shows nothing but what people must know."""

    def changed(self, state: ExecutionState, tasks: Sequence[TaskId]) -> None:
        """Nothing to show."""

    def tell(self, message: str) -> None:
        """One line."""
        emit(message, err=True)

    def close(self) -> None:
        """Nothing to close."""


class Lines(Quiet):
    """One line for each thing that happens, for logs and pipes."""

    def __init__(self) -> None:
        self._last: dict[TaskId, tuple[StepPhase, int]] = {}

    def changed(self, state: ExecutionState, tasks: Sequence[TaskId]) -> None:
        """A line for each record that came to another phase or attempt."""
        for task in tasks:
            record = state.task(task)
            seen = (record.phase, record.attempts)
            if self._last.get(task) == seen or record.phase is StepPhase.PENDING:
                continue
            self._last[task] = seen
            if task.index == STEP and state.compiled(task).fan_out is not None and not record.phase.finished:
                continue
            emit(f"{title(task):<24} {_sentence(record)}", err=True)


def _sentence(record: TaskState) -> str:
    text = str(record.phase)
    took = elapsed(record, record.finished_at or 0.0)
    if record.phase.finished and took is not None:
        text += f" in {duration(took)}"
    elif record.attempts > 1 and not record.phase.finished:
        text += f" (attempt {record.attempts})"
    if record.phase is StepPhase.RETRYING and record.retry_at is not None:
        text += f" after {record.reason}"
    if record.message and record.phase is not StepPhase.RUNNING:
        text += f": {' '.join(record.message.split())}"
    return text


class Live:
    """A table of steps on a terminal, with progress, durations and the last line of what runs."""

    def __init__(self, name: str, log_path: LogPath) -> None:
        from rich.console import Console  # noqa: PLC0415 - costs 50 ms, only for a terminal
        from rich.live import Live as RichLive  # noqa: PLC0415

        self._name = name
        self._log_path = log_path
        self._state: ExecutionState | None = None
        self._running: dict[TaskId, None] = {}
        self._finished: deque[TaskId] = deque(maxlen=_KEPT)
        self._done: set[TaskId] = set()
        self._console = Console(stderr=True)
        self._live = RichLive(console=self._console, get_renderable=self._render, refresh_per_second=5)
        self._live.start()

    def changed(self, state: ExecutionState, tasks: Sequence[TaskId]) -> None:
        """Note what runs and what has finished; the table draws itself."""
        self._state = state
        for task in tasks:
            record = state.task(task)
            if record.in_flight or record.phase is StepPhase.RETRYING:
                self._running[task] = None
            else:
                self._running.pop(task, None)
            if record.phase.finished and task.index == STEP and task not in self._done:
                self._done.add(task)
                self._finished.append(task)

    def tell(self, message: str) -> None:
        """A line above the table."""
        self._console.print(message, style="yellow", highlight=False)

    def close(self) -> None:
        """Leave the last state of the table on the screen."""
        self._live.stop()

    def _render(self) -> RenderableType:
        from rich.console import Group  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        state = self._state
        if state is None:
            return Text(f"{self._name}: starting")
        now = time.time()
        room = max(3, self._console.size.height - 4)
        running = list(self._running)[: max(1, room - 2)]
        finished = list(self._finished)[-max(0, room - len(running)) :] if room > len(running) else []
        narrow = self._console.size.width < _NARROW
        table = Table.grid(padding=(0, 1), expand=not narrow)
        for _ in range(3 if narrow else 4):
            table.add_column(no_wrap=True)
        if not narrow:
            table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        for task in (*finished, *running):
            table.add_row(*self._row(state, task, now)[: len(table.columns)])
        head = Table.grid(padding=(0, 1))
        began = state.head.started_at or now
        count = f"{state.head.done}/{state.head.total}"
        parts: list[RenderableType] = [
            Text(self._name, style="bold"),
            Text(count if narrow else str(state.head.phase)),
            ProgressBar(total=max(1, state.head.total), completed=state.head.done, width=24),
            Text(f"{count} steps  {duration((state.head.finished_at or now) - began)}"),
        ]
        for part in parts[:2] if narrow else parts:
            head.add_column(no_wrap=not isinstance(part, ProgressBar))
        head.add_row(*parts[: len(head.columns)])
        return Group(head, table)

    def _row(self, state: ExecutionState, task: TaskId, now: float) -> list[RenderableType]:
        from rich.text import Text  # noqa: PLC0415

        record = state.task(task)
        colour = _COLOURS.get(record.phase, "")
        took = elapsed(record, now)
        return [
            Text(_MARKS.get(record.phase, " "), style=colour),
            Text(title(task)),
            Text(str(record.phase), style=colour),
            Text("" if took is None else duration(took), style="dim"),
            Text(self._detail(state, task, record), style="dim"),
        ]

    def _detail(self, state: ExecutionState, task: TaskId, record: TaskState) -> str:
        if record.item_count is not None:
            return f"{record.items_finished}/{record.item_count} items"
        if record.phase is StepPhase.RUNNING:
            line = last_line(self._log_path(AttemptId(task.step, task.index, record.attempts)))
            return line or (f"attempt {record.attempts}" if record.attempts > 1 else "")
        return " ".join((record.message or "").split())
