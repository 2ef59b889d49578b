"""The whole brain: from what is known and the time to what is to be done.

`decide` is deterministic and does nothing but think: it advances the state that it is given and says what to do. Its
cost is that of what changed, not of the size of the pipeline: a whole execution costs time linear in its steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.api.execution import ExecutionPhase, StepPhase
from penstock.api.pipeline import FailurePolicy
from penstock.engine.expressions import ExpressionError, Unavailable
from penstock.engine.reasons import NOT_TAKEN, Reason
from penstock.engine.state import STEP, ExecutionState
from penstock.engine.tasks import FINALLY_TIME_OVER, Pass, ask_again, finish, observe, settle, start, start_ready, stop
from penstock.engine.types import CacheEntry, File, Observation, Plan, Request, TaskId, Value
from penstock.engine.wiring import InvalidInputs, execution_inputs, over_limit, value_bytes, value_of
from penstock.step.values import OutputTypeError, check_value


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a pass starts from.

    Attributes:
        state: the execution as of the last pass; it is advanced in place.
        request: what its owner asks now.
        observations: what was seen of attempts since.
        cache: entries that were looked up, by fingerprint; None for one that is not there.
    """

    state: ExecutionState
    request: Request
    observations: Sequence[Observation] = ()
    cache: Mapping[str, CacheEntry | None] = field(default_factory=dict)


def decide(snapshot: Snapshot, now: float) -> Plan:
    """What is to be done now.

    Args:
        snapshot: what is known. Its state is advanced; if the plan cannot be carried out, drop it and load it again.
        now: the time, seconds since the epoch.
    """
    state = snapshot.state
    p = Pass(state, snapshot.request, snapshot.cache, now)
    if state.head.phase.finished:
        return Plan(finished=True)
    loaded = not state.inputs_known
    if not _begin(p):
        return _plan(p)
    _settle_all(p)  # after a start, what fan-outs go over must be known before their items are observed
    for seen in snapshot.observations:
        observe(p, seen)
    if loaded:
        _ask_again(p)
    _run(p)
    return _plan(p)


def _run(p: Pass) -> None:
    """Go on until nothing more follows from what is known."""
    p.again = True
    while p.again:
        p.again = False
        _settle_all(p)
        _control(p)
        if p.state.to_settle:
            p.again = True
            continue
        _suspension(p)
        _timers(p)
        if not p.suspended:
            start_ready(p)
        if not p.again:
            _advance(p)


def _settle_all(p: Pass) -> None:
    steps = p.state.pipeline.steps
    while p.state.to_settle:
        names, p.state.to_settle = p.state.to_settle, []
        for name in sorted(names, key=lambda name: steps[name].position):
            settle(p, name)


def _begin(p: Pass) -> bool:
    """Take up an execution: at its very start, or after it was loaded. False if nothing further can be done now."""
    state, request = p.state, p.request
    if state.inputs_known:
        return True
    if state.head.started_at is None:
        if request.cancel:
            _refuse(p, ExecutionPhase.CANCELLED, Reason.CANCELLED, "cancelled before anything was started")
            return False
        if request.suspend:
            state.put_head(phase=ExecutionPhase.SUSPENDED, reason=str(Reason.SUSPENDED))
            return False
    try:
        state.inputs = execution_inputs(state.pipeline.spec.inputs, request.inputs, state.limits)
    except InvalidInputs as error:
        _refuse(p, ExecutionPhase.FAILED, error.reason, "; ".join(error.problems))
        return False
    state.inputs_known = True
    state.input_bytes = value_bytes(state.inputs)
    if state.head.started_at is None:
        state.put_head(phase=ExecutionPhase.RUNNING, reason=str(Reason.RUNNING), started_at=p.now)
    _resume(p)
    return True


def _resume(p: Pass) -> None:
    """Put into the queues what the stored status says is waiting."""
    state = p.state
    stage = state.pipeline.main if state.head.outcome is None else state.pipeline.finals
    state.to_settle = [
        name
        for name in stage
        if state.waiting[name] == 0 and (state.step(name).unstarted or state.step(name).item_count is not None)
    ]
    for task in state.active:
        stopping = state.task(task).stopping
        if stopping is not None:
            stop(p, task, Reason(stopping))


def _ask_again(p: Pass) -> None:
    """Whoever was to run these attempts could not take them, and may know of none of them by now."""
    for task in p.state.active:
        record = p.state.task(task)
        if record.phase is StepPhase.PENDING and record.reason in NOT_TAKEN and record.stopping is None:
            ask_again(p, task)


def _refuse(p: Pass, phase: ExecutionPhase, reason: Reason, message: str) -> None:
    """End an execution before anything was started."""
    for name in p.state.pipeline.steps:
        finish(p, TaskId(name), StepPhase.OMITTED, reason)
    p.state.put_head(phase=phase, reason=str(reason), message=message, finished_at=p.now, outcome=str(phase))


def _control(p: Pass) -> None:
    """Cancel, time limits, and what a failure means for the others."""
    state, head = p.state, p.state.head
    if head.outcome is not None:
        deadline = _finally_deadline(state)
        if deadline is not None and p.now >= deadline and head.stopping != Reason.FINALLY_FAILED:
            state.put_head(stopping=str(Reason.FINALLY_FAILED))
            _end(p, state.pipeline.finals, Reason.TIMED_OUT, FINALLY_TIME_OVER)
        return
    if state.open_main == 0:
        return
    deadline = _deadline(p)
    if p.request.cancel:
        if head.stopping != Reason.CANCELLED:
            state.put_head(stopping=str(Reason.CANCELLED))
            _end(p, state.pipeline.main, Reason.CANCELLED, "the execution was cancelled")
    elif deadline is not None and p.now >= deadline:
        if head.stopping not in {Reason.CANCELLED, Reason.EXECUTION_TIMED_OUT}:
            state.put_head(stopping=str(Reason.EXECUTION_TIMED_OUT))
            _end(p, state.pipeline.main, Reason.EXECUTION_TIMED_OUT, "the time of the execution was over")
    elif state.failed and head.stopping is None:
        policy = state.pipeline.spec.failure_policy
        state.put_head(stopping=str(policy))
        message = f'step "{state.failed_steps(final=False)[0]}" failed and failurePolicy is {policy}'
        _end(p, state.pipeline.main, Reason.FAILED_FAST, message, policy=policy)


def _end(p: Pass, names: Sequence[str], reason: Reason, message: str, policy: FailurePolicy | None = None) -> None:
    """Stop what runs and omit what was not started; with a `policy`, as it says, and sparing what may recover."""
    state = p.state
    runs_on = policy is FailurePolicy.FINISH_RUNNING
    ended = {name for name in names if policy is None or not state.pipeline.steps[name].recovers}
    for task in [task for task in state.active if task.step in ended and not runs_on]:
        stop(p, task, reason)
    for name in names:
        record, step = state.step(name), state.pipeline.steps[name]
        if name not in ended or record.phase.finished:
            continue
        if record.unstarted:
            finish(p, TaskId(name), StepPhase.OMITTED, reason, message)
        elif step.fan_out is not None:
            _end_items(p, name, reason, message, runs_on=runs_on)
        elif record.phase is StepPhase.RETRYING and not runs_on:
            finish(p, TaskId(name), StepPhase.CANCELLED, reason, message)


def _end_items(p: Pass, name: str, reason: Reason, message: str, *, runs_on: bool) -> None:
    for index in range(len(p.state.items[name])):
        task = TaskId(name, index)
        record = p.state.task(task)
        if record.unstarted:
            finish(p, task, StepPhase.OMITTED, reason, message)
        elif record.phase is StepPhase.RETRYING and not runs_on:
            finish(p, task, StepPhase.CANCELLED, reason, message)


def _suspension(p: Pass) -> None:
    state, head = p.state, p.state.head
    # That the time of the main steps was over must still be known when the `finally` steps have ended.
    over = head.reason if head.reason == Reason.TIMED_OUT else None
    if p.suspended and head.suspended_at is None:
        state.put_head(suspended_at=p.now, phase=ExecutionPhase.SUSPENDED, reason=over or str(Reason.SUSPENDED))
    elif not p.suspended and head.phase is ExecutionPhase.SUSPENDED:
        since = head.suspended_at if head.suspended_at is not None else p.now
        state.put_head(
            suspended_at=None,
            suspended_seconds=round(head.suspended_seconds + p.now - since, 3),
            phase=ExecutionPhase.RUNNING,
            reason=over or str(Reason.RUNNING),
        )
        if head.finally_at is not None:  # their clock stood still as well: it starts later
            state.put_head(finally_at=round(head.finally_at + p.now - max(since, head.finally_at), 3))


def _timers(p: Pass) -> None:
    """Retries that are due, attempts whose time is over."""
    for task in p.state.due_tasks(p.now):
        record = p.state.task(task)
        if record.phase is StepPhase.RUNNING:
            stop(p, task, Reason.TIMED_OUT)
        elif not p.suspended and p.has_room(task):
            start(p, p.state.compiled(task), task)


def _deadline(p: Pass) -> float | None:
    """When the execution's time is over; while it is suspended its clock stands still."""
    head = p.state.head
    timeout = p.request.timeout_seconds or p.state.pipeline.spec.timeout_seconds
    if timeout is None or head.started_at is None or head.suspended_at is not None:
        return None
    return head.started_at + timeout + head.suspended_seconds


def _finally_deadline(state: ExecutionState) -> float | None:
    """When the time of the `finally` steps is over; while the execution is suspended their clock stands still."""
    if state.head.finally_at is None or state.head.suspended_at is not None:
        return None
    return state.head.finally_at + state.pipeline.spec.finally_timeout_seconds


def _advance(p: Pass) -> None:
    """From the main steps to the `finally` steps, and from there to the end."""
    state = p.state
    if state.head.outcome is None and state.open_main == 0:
        state.put_head(outcome=str(_outcome(state)))
        if state.pipeline.finals:
            state.put_head(finally_at=p.now, stopping=None)
            state.to_settle = [name for name in state.pipeline.finals if state.waiting[name] == 0]
            p.again = True
            return
    if state.head.outcome is not None and state.open_final == 0:
        _conclude(p)


def _outcome(state: ExecutionState) -> ExecutionPhase:
    """How the main steps ended."""
    if state.head.stopping == Reason.CANCELLED:
        return ExecutionPhase.CANCELLED
    if state.head.stopping == Reason.EXECUTION_TIMED_OUT:
        state.put_head(reason=str(Reason.TIMED_OUT), message="the execution took longer than timeoutSeconds")
        return ExecutionPhase.FAILED
    if not state.failed:
        return ExecutionPhase.SUCCEEDED
    errors = all(state.step(name).phase is StepPhase.ERROR for name in state.failed)
    return ExecutionPhase.ERROR if errors else ExecutionPhase.FAILED


def _conclude(p: Pass) -> None:
    """Everything has finished: gather the outputs and say how it ended."""
    state = p.state
    phase = ExecutionPhase(state.head.outcome or ExecutionPhase.SUCCEEDED)
    outputs, wrong = _outputs(state)
    reason: Reason = Reason.SUCCEEDED
    message: str | None = None
    finals = state.failed_steps(final=True)
    if phase is ExecutionPhase.CANCELLED:
        reason, message = Reason.CANCELLED, "the execution was cancelled"
    elif state.head.reason == Reason.TIMED_OUT:
        reason, message = Reason.TIMED_OUT, state.head.message
    elif phase is not ExecutionPhase.SUCCEEDED:
        reason, message = _failure(state, state.failed_steps(final=False))
    elif finals or state.head.stopping == Reason.FINALLY_FAILED:
        phase, reason = ExecutionPhase.FAILED, Reason.FINALLY_FAILED
        message = _failure(state, finals)[1] if finals else FINALLY_TIME_OVER
    elif wrong is not None:
        phase, (reason, message) = ExecutionPhase.FAILED, wrong
    state.put_head(
        phase=phase,
        reason=str(reason),
        message=message,
        finished_at=p.now,
        outputs=outputs,
        stopping=None,
        suspended_at=None,
    )


def _failure(state: ExecutionState, names: list[str]) -> tuple[Reason, str]:
    """The reason and the message of a failure: the first step that failed, and how many more."""
    record = state.step(names[0])
    reason = Reason(record.reason) if record.reason else Reason.STEP_FAILED
    detail = record.message or record.reason or str(record.phase)
    more = f" (also failed: {', '.join(names[1:4])}{' …' if len(names) > 4 else ''})" if len(names) > 1 else ""
    return reason, f'step "{names[0]}": {detail}{more}'


def _outputs(state: ExecutionState) -> tuple[dict[str, Value], tuple[Reason, str] | None]:
    """The outputs of the pipeline as far as there are any, and what is wrong with the first that is not right."""
    found: dict[str, Value] = {}
    wrong: tuple[Reason, str] | None = None
    for declared, expr in state.pipeline.outputs:
        try:
            value = value_of(state, expr)
            if declared.type == "file":
                if not isinstance(value, File):
                    raise ExpressionError(f"wanted a file, {expr.text!r} gives none")
            else:
                check_value(declared.name, str(declared.type), value)
            found[declared.name] = value
        except Unavailable as error:
            if "default" in declared.model_fields_set:
                found[declared.name] = declared.default
            else:
                why = f"{error.name} has no value, because its step did not give one; add a default"
                wrong = wrong or (Reason.OUTPUT_UNAVAILABLE, f'output "{declared.name}": {why}')
        except (ExpressionError, OutputTypeError) as error:
            wrong = wrong or (Reason.INVALID_OUTPUTS, f'output "{declared.name}": {error}')
    if message := over_limit("output", found, state.limits.output_bytes) or _over_all(state, found):
        return {name: value for name, value in found.items() if isinstance(value, File)}, (
            Reason.OUTPUTS_TOO_LARGE,
            message,
        )
    return found, wrong


def _over_all(state: ExecutionState, outputs: Mapping[str, Value]) -> str | None:
    """What to say if an execution cannot hold its outputs beside its inputs and those of its steps, else None."""
    size, held, limit = value_bytes(outputs), state.input_bytes + state.value_bytes, state.limits.object_bytes
    if held + size <= limit:
        return None
    return (
        f"the output values are {size:,} bytes as JSON, and the inputs and steps of this execution hold {held:,}: "
        f"together over the limit of {limit:,}; pass large data as files"
    )


def _plan(p: Pass) -> Plan:
    state = p.state
    head_changed, changed, urgent = state.take_changes()
    return Plan(
        lookups=tuple(p.lookups),
        starts=tuple(p.starts),
        stops=tuple(p.stops),
        head=state.head if head_changed else None,
        steps=tuple(dict.fromkeys(task.step for task in changed if task.index == STEP)),
        tasks=tuple(task for task in changed if task.index != STEP),
        remember=tuple(p.remember),
        urgent=urgent,
        wake_at=_wake_at(p),
        finished=state.head.phase.finished,
    )


def _wake_at(p: Pass) -> float | None:
    """When to look again even if nothing happens."""
    if p.state.head.phase.finished:
        return None
    times = [p.state.next_due(p.now)]
    if p.state.head.outcome is None:
        times.append(_deadline(p))
    else:
        times.append(_finally_deadline(p.state))
    future = [at for at in times if at is not None and at > p.now]
    return min(future, default=None)
