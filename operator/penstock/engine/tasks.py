"""What becomes of single steps and items in a pass: settling, starting, observing, retrying, finishing.

Functions on a `Pass`; the order in which they are called is decided in `decide`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.api.base import MAX_MESSAGE
from penstock.api.execution import StepPhase
from penstock.api.pipeline import FailurePolicy, OnFailure
from penstock.engine import fanout, fingerprint, retry
from penstock.engine.compile import CompiledStep, FanOut
from penstock.engine.expressions import Expr, ExpressionError, Unavailable
from penstock.engine.reasons import ERROR_REASONS, Reason
from penstock.engine.state import STEP, ExecutionState, TaskState
from penstock.engine.types import (
    AttemptId,
    AttemptPhase,
    CacheEntry,
    Observation,
    Request,
    StartAttempt,
    StopAttempt,
    TaskId,
    Value,
)
from penstock.engine.wiring import attempt_inputs, collect, item_variables, over_limit, value_bytes, value_of
from penstock.step.values import EXIT_OUTPUTS

FINALLY_TIME_OVER = "the time of the `finally` steps was over"
_MAX_ITEM_MESSAGE = 256
"""Characters of an item's message: a fan-out of 1,000 failures must stay within the object size limit."""
_LOOK_AHEAD = 64
"""Items of a fan-out whose cache entries are asked for at once."""


@dataclass(slots=True)
class Pass:
    """One pass over one execution: what it starts from, and the plan as it grows."""

    state: ExecutionState
    request: Request
    cache: Mapping[str, CacheEntry | None]
    now: float
    starts: list[StartAttempt] = field(default_factory=list)
    stops: list[StopAttempt] = field(default_factory=list)
    lookups: dict[str, None] = field(default_factory=dict)
    remember: list[CacheEntry] = field(default_factory=list)
    again: bool = False
    """Set when something finished: others may now be able to go on."""

    @property
    def suspended(self) -> bool:
        """Whether nothing new may be started. A cancelled execution is not held up."""
        return self.request.suspend and not self.request.cancel

    def room(self) -> int:
        """How many more attempts may be in flight."""
        most = self.state.pipeline.spec.max_parallel
        return 1_000_000 if most is None else most - len(self.state.active)

    def has_room(self, task: TaskId) -> bool:
        """Whether one more attempt of this task may be in flight, as its execution and its fan-out have it."""
        fan_out = self.state.compiled(task).fan_out
        most = fan_out.max_parallel if fan_out is not None else None
        return self.room() > 0 and (most is None or self.state.active_items.get(task.step, 0) < most)

    def ending(self, step: CompiledStep) -> bool:
        """Whether nothing of this step may be tried again."""
        if step.final:
            return self.state.head.stopping == Reason.FINALLY_FAILED
        stopping = self.state.head.stopping
        if stopping == FailurePolicy.FAIL_FAST:
            return not step.recovers
        return stopping not in {None, FailurePolicy.FINISH_RUNNING}


def settle(p: Pass, name: str) -> None:
    """All that a step waited for has finished: skip it, omit it, or make it ready to start."""
    state = p.state
    step = state.pipeline.steps[name]
    if state.step(name).phase.finished:
        return
    task = TaskId(name)
    if not step.takes_over and (verdict := _verdict(state, step)) is not None:
        finish(p, task, *verdict)
        return
    if step.when is not None and not step.when_each and not _when(p, step.when, task):
        return
    if step.fan_out is not None and not _expand(p, step, step.fan_out):
        return
    heapq.heappush(state.ready, (step.position, name))


def _verdict(state: ExecutionState, step: CompiledStep) -> tuple[StepPhase, Reason, str] | None:
    """What the fate of its dependencies makes of a step; None: it may go on."""
    skipped = None
    for dep in step.deps:
        phase = state.step(dep).phase
        if phase.succeeded or (phase.failed and state.pipeline.steps[dep].spec.on_failure is OnFailure.CONTINUE):
            continue
        if phase is not StepPhase.SKIPPED:
            message = f'step "{dep}", which it waits for, is {phase}'
            return StepPhase.OMITTED, Reason.DEPENDENCY_FAILED, message
        if dep not in step.soft:
            skipped = skipped or dep
    if skipped is None:
        return None
    return StepPhase.SKIPPED, Reason.DEPENDENCY_SKIPPED, f'step "{skipped}", which it waits for, was skipped'


def _when(p: Pass, when: Expr, task: TaskId) -> bool:
    """Whether `when` lets a step or item run; finishes it if not."""
    try:
        value = value_of(p.state, when, item_variables(p.state, task))
    except Unavailable as error:
        finish(p, task, StepPhase.SKIPPED, Reason.INPUT_UNAVAILABLE, _unavailable("when", error))
        return False
    except ExpressionError as error:
        finish(p, task, StepPhase.FAILED, Reason.EXPRESSION_ERROR, f"when: {error}")
        return False
    if not isinstance(value, bool):
        message = f"when: {when.text!r} must be true or false, it is {value!r}"
        finish(p, task, StepPhase.FAILED, Reason.EXPRESSION_ERROR, message)
        return False
    if not value:
        finish(p, task, StepPhase.SKIPPED, Reason.WHEN_FALSE, f"when is false: {when.text}")
    return value


def _unavailable(where: str, error: Unavailable) -> str:
    return f"{where}: {error.name} has no value, because its step did not give one"


def _expand(p: Pass, step: CompiledStep, fan_out: FanOut) -> bool:
    """Work out the items of a fan-out; False if that already finished the step."""
    task = TaskId(step.name)
    try:
        items = fanout.expand(fan_out, lambda expr: value_of(p.state, expr))
    except Unavailable as error:
        finish(p, task, StepPhase.SKIPPED, Reason.INPUT_UNAVAILABLE, _unavailable("forEach", error))
        return False
    except ExpressionError as error:
        finish(p, task, StepPhase.FAILED, Reason.EXPRESSION_ERROR, f"forEach: {error}")
        return False
    except fanout.TooManyItems as error:
        finish(p, task, StepPhase.FAILED, Reason.TOO_MANY_ITEMS, f"forEach: {error}")
        return False
    p.state.items[step.name] = items
    p.state.cursor.setdefault(step.name, 0)
    p.state.put(task, item_count=len(items))
    if not items:
        finish(p, task, StepPhase.SUCCEEDED, outputs=collect(p.state, step, p.state.step(step.name)))
        return False
    return True


def start_ready(p: Pass) -> None:
    """Start what is ready, in the order of the manifest, as far as there is room."""
    state = p.state
    held: list[tuple[int, str]] = []
    while state.ready and p.room() > 0:
        entry = heapq.heappop(state.ready)
        step = state.pipeline.steps[entry[1]]
        if state.step(step.name).phase.finished:
            continue
        wait = start_items(p, step) if step.fan_out is not None else start(p, step, TaskId(step.name))
        if wait:
            held.append(entry)
    for entry in held:
        heapq.heappush(state.ready, entry)


def start_items(p: Pass, step: CompiledStep) -> bool:
    """Start items of a fan-out as far as there is room; True if more are to be started later."""
    state = p.state
    when = step.when if step.when_each else None
    count = len(state.items[step.name])
    while state.cursor[step.name] < count and not state.step(step.name).phase.finished:
        task = TaskId(step.name, state.cursor[step.name])
        if not p.has_room(task):
            return True
        if state.task(task).unstarted:
            if state.step(step.name).phase is StepPhase.PENDING:
                state.put(TaskId(step.name), phase=StepPhase.RUNNING, queued_at=p.now, started_at=p.now)
            if (when is None or _when(p, when, task)) and start(p, step, task):
                for index in range(task.index + 1, min(count, task.index + _LOOK_AHEAD)):
                    start(p, step, TaskId(step.name, index), only_look_up=True)
                return True
        state.cursor[step.name] += 1
    return False


def start(p: Pass, step: CompiledStep, task: TaskId, *, only_look_up: bool = False) -> bool:
    """Ask for the next attempt of a step or item, or take its outputs from the cache.

    Returns:
        Whether it has to wait for a look-up in the cache.
    """
    state = p.state
    record = state.task(task)
    attempt = record.attempts + 1
    try:
        inputs = attempt_inputs(state, step, task, attempt)
        image = _image(p, step, task, attempt)
        key = _cache_fingerprint(p, step, task, image, inputs) if step.spec.cache and attempt == 1 else None
    except Unavailable as error:
        if not only_look_up:
            finish(p, task, StepPhase.SKIPPED, Reason.INPUT_UNAVAILABLE, _unavailable("inputs", error))
        return False
    except ExpressionError as error:
        if not only_look_up:
            finish(p, task, StepPhase.FAILED, Reason.EXPRESSION_ERROR, str(error))
        return False
    if key is not None:
        if key not in p.cache:
            p.lookups[key] = None
            return True
        if not only_look_up and _take_cached(p, step, task, p.cache[key]):
            return False
    if only_look_up:
        return False
    if message := over_limit("input", inputs, state.limits.step_output_bytes):
        finish(p, task, StepPhase.FAILED, Reason.INPUTS_TOO_LARGE, message)
        return False
    state.put(
        task,
        phase=StepPhase.PENDING,
        reason=None,
        message=None,
        attempts=attempt,
        stopping=None,
        queued_at=p.now if record.queued_at is None else record.queued_at,
        attempt_at=p.now,
        started_at=None,
        retry_at=None,
        exit_code=None,
    )
    p.starts.append(
        StartAttempt(AttemptId(task.step, task.index, attempt), step, image, inputs, step.spec.timeout_seconds)
    )
    return False


def ask_again(p: Pass, task: TaskId) -> None:
    """Ask once more for an attempt that the platform had not taken when this execution was last written."""
    step, attempt = p.state.compiled(task), p.state.task(task).attempts
    inputs, image = attempt_inputs(p.state, step, task, attempt), _image(p, step, task, attempt)
    p.starts.append(
        StartAttempt(AttemptId(task.step, task.index, attempt), step, image, inputs, step.spec.timeout_seconds)
    )


def _image(p: Pass, step: CompiledStep, task: TaskId, attempt: int) -> str | None:
    if step.image is None:
        return step.spec.image
    value = value_of(p.state, step.image, item_variables(p.state, task) | {"attempt": attempt})
    if not isinstance(value, str) or not value:
        raise ExpressionError(f"imageFrom: {step.image.text!r} must give the name of an image, it gives {value!r}")
    return value


def _cache_fingerprint(
    p: Pass, step: CompiledStep, task: TaskId, image: str | None, inputs: Mapping[str, Value]
) -> str:
    key = None if step.cache_key is None else value_of(p.state, step.cache_key, item_variables(p.state, task))
    return fingerprint.of_attempt(step.fingerprint, image, inputs, key, p.state.code)


def _take_cached(p: Pass, step: CompiledStep, task: TaskId, entry: CacheEntry | None) -> bool:
    """Finish a task with the outputs of an earlier success, if it is still fresh and fits."""
    cache = step.spec.cache
    if entry is None or cache is None:
        return False
    if cache.ttl_seconds is not None and p.now - entry.created_at > cache.ttl_seconds:
        return False
    if any(declared.name not in entry.outputs for declared in step.spec.outputs) or not _fits(p, entry.outputs):
        return False
    finish(p, task, StepPhase.CACHED, message=f'outputs of execution "{entry.execution}"', outputs=dict(entry.outputs))
    return True


def observe(p: Pass, seen: Observation) -> None:
    """Fold what was seen of an attempt into its record. What is old or known already changes nothing."""
    task = seen.id.task
    record = p.state.task(task)
    if not record.in_flight or record.attempts != seen.id.attempt:
        return
    match seen.phase:
        case AttemptPhase.PENDING:
            p.state.put(task, reason=seen.reason, message=_clip(task, seen.message))
        case AttemptPhase.RUNNING:
            p.state.put(
                task,
                quiet=True,
                phase=StepPhase.RUNNING,
                started_at=seen.started_at or record.started_at or p.now,
                reason=None,
                message=_clip(task, seen.message),
            )
        case AttemptPhase.LOST:
            message = f"attempt {seen.id.attempt} is gone without a trace"
            _ended(p, task, seen, Reason.DISRUPTED, seen.message or message)
        case AttemptPhase.ENDED:
            _ended(p, task, seen, seen.reason, seen.message)


def _ended(p: Pass, task: TaskId, seen: Observation, reason: str | None, message: str | None) -> None:
    state = p.state
    step = state.compiled(task)
    record = state.put(task, started_at=seen.started_at or state.task(task).started_at, exit_code=seen.exit_code)
    if reason is None and seen.exit_code == 0:
        wrong = _wrong_outputs(p, step, seen.outputs)
        if wrong is None:
            _succeed(p, step, task, seen)
            return
        reason, message = wrong
    if reason is None and seen.exit_code == EXIT_OUTPUTS and step.spec.function is not None:
        reason = Reason.INVALID_OUTPUTS
    if record.stopping == Reason.TIMED_OUT:
        all_over = step.final and state.head.stopping == Reason.FINALLY_FAILED
        own = f"took longer than timeoutSeconds: {step.spec.timeout_seconds}"
        reason, message = Reason.TIMED_OUT, FINALLY_TIME_OVER if all_over else own
    elif record.stopping is not None:
        why = Reason(record.stopping)
        finish(p, task, StepPhase.CANCELLED, why, message, outputs=seen.outputs, at=seen.finished_at)
        return
    if reason is None:
        reason = Reason.STEP_FAILED
        message = message or f"exit code {seen.exit_code}"
    _fail(p, step, task, reason, message, seen)


def _wrong_outputs(p: Pass, step: CompiledStep, outputs: Mapping[str, Value]) -> tuple[Reason, str] | None:
    """What is wrong with the outputs of a successful attempt; adapters have checked their types."""
    missing = [declared.name for declared in step.spec.outputs if declared.name not in outputs]
    if missing:
        return Reason.INVALID_OUTPUTS, f"declared outputs were not written: {', '.join(missing)}"
    if message := over_limit("output", outputs, p.state.limits.step_output_bytes):
        return Reason.OUTPUTS_TOO_LARGE, message
    if _fits(p, outputs):
        return None
    held, more, limits = p.state.value_bytes, value_bytes(outputs), p.state.limits
    if held + more > limits.status_bytes:
        given, limit = f"the steps of this execution have given {held:,} bytes of values", limits.status_bytes
    else:
        held += p.state.input_bytes
        given, limit = f"the inputs and the steps of this execution are {held:,} bytes of values", limits.object_bytes
    message = f"{given}, and {more:,} more are over the limit of {limit:,}; pass large data as files"
    return Reason.OUTPUTS_TOO_LARGE, message


def _fits(p: Pass, outputs: Mapping[str, Value]) -> bool:
    held = p.state.value_bytes + value_bytes(outputs)
    return held <= p.state.limits.status_bytes and held + p.state.input_bytes <= p.state.limits.object_bytes


def _succeed(p: Pass, step: CompiledStep, task: TaskId, seen: Observation) -> None:
    if step.spec.cache is not None:
        record = p.state.task(task)
        inputs = attempt_inputs(p.state, step, task, record.attempts)
        if record.attempts > 1 and any(b.expr is not None and b.expr.mentions(_is_attempt) for b in step.inputs):
            inputs = attempt_inputs(p.state, step, task, 1)  # look-ups are made for the first attempt
        key = _cache_fingerprint(p, step, task, _image(p, step, task, 1), inputs)
        at = seen.finished_at or p.now
        p.remember.append(CacheEntry(key, dict(seen.outputs), at, p.state.identity.name))
    finish(p, task, StepPhase.SUCCEEDED, outputs=seen.outputs, at=seen.finished_at)


def _is_attempt(name: str) -> bool:
    return name == "attempt"


def _fail(p: Pass, step: CompiledStep, task: TaskId, reason: str, message: str | None, seen: Observation) -> None:
    """An attempt failed: try again, or that was it."""
    record = p.state.task(task)
    at = None
    if reason == Reason.DISRUPTED:
        record = p.state.put(task, disruptions=record.disruptions + 1)
        at = retry.after_disruption(p.state.limits, record, p.now)
    elif reason in retry.RETRIED:
        record = p.state.put(task, failures=record.failures + 1)
        at = retry.next_attempt(step.spec.retry, record, reason, p.now)
    if at is not None and not p.ending(step):
        message = _clip(task, message)
        p.state.put(task, phase=StepPhase.RETRYING, retry_at=at, reason=reason, message=message, stopping=None)
        return
    phase = StepPhase.ERROR if reason in ERROR_REASONS else StepPhase.FAILED
    finish(p, task, phase, Reason(reason), message, outputs=seen.outputs, at=seen.finished_at)


def stop(p: Pass, task: TaskId, reason: Reason) -> None:
    """End the attempt in flight."""
    record = p.state.put(task, stopping=str(reason))
    p.stops.append(StopAttempt(AttemptId(task.step, task.index, record.attempts), str(reason)))


def finish(
    p: Pass,
    task: TaskId,
    phase: StepPhase,
    reason: Reason | None = None,
    message: str | None = None,
    *,
    outputs: Mapping[str, Value] | None = None,
    at: float | None = None,
) -> None:
    """A step or item is over. Closes its fan-out with the last item, and notes a failure that counts."""
    state = p.state
    step = state.compiled(task)
    outputs = dict(outputs or {})
    at = p.now if at is None else at
    counts = step.fan_out is None or task.index != STEP  # what a fan-out collects was counted with its items
    if counts and not phase.succeeded and not _fits(p, outputs):
        outputs = {}  # what did not succeed keeps what it wrote only where there is room for it
    state.put(
        task,
        phase=phase,
        reason=None if reason is None else str(reason),
        message=_clip(task, message),
        finished_at=at,
        retry_at=None,
        stopping=None,
        outputs=outputs,
    )
    p.again = True
    if counts:
        state.value_bytes += value_bytes(outputs)
    if phase.failed and step.spec.on_failure is OnFailure.FAIL:
        state.failed[step.name] = min(at, state.failed.get(step.name, at))
    if task.index != STEP:
        own = state.put(TaskId(step.name), quiet=True, items_finished=state.step(step.name).items_finished + 1)
        if own.items_finished == own.item_count:
            _close_fan_out(p, step, own)


def _close_fan_out(p: Pass, step: CompiledStep, own: TaskState) -> None:
    """All items of a fan-out have finished."""
    items = [(index, p.state.task(TaskId(step.name, index))) for index in range(own.item_count or 0)]
    phases = {item.phase for _, item in items}
    outputs = collect(p.state, step, own)
    bad = [(index, item) for index, item in items if item.phase.failed]
    if bad:
        index, first = bad[0]
        phase = StepPhase.FAILED if StepPhase.FAILED in phases else StepPhase.ERROR
        message = f"{len(bad)} of {len(items)} items failed; item {index}: {first.message or first.reason}"
        finish(p, TaskId(step.name), phase, Reason.ITEMS_FAILED, message, outputs=outputs)
        return
    for phase in (StepPhase.CANCELLED, StepPhase.OMITTED):
        if phase in phases:
            index, first = next((index, item) for index, item in items if item.phase is phase)
            reason = Reason(first.reason) if first.reason else None
            why = f"item {index}: {first.message}" if first.message else None
            finish(p, TaskId(step.name), StepPhase.CANCELLED, reason, why, outputs=outputs)
            return
    phase = StepPhase.CACHED if phases == {StepPhase.CACHED} else StepPhase.SUCCEEDED
    finish(p, TaskId(step.name), phase, outputs=outputs)


def _clip(task: TaskId, message: str | None) -> str | None:
    longest = MAX_MESSAGE if task.index == STEP else _MAX_ITEM_MESSAGE
    if message is None or len(message) <= longest:
        return message
    return message[: longest - 2] + " …"
