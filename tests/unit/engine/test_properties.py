"""What holds for every pipeline, whatever happens to it and in whatever order.

A world is drawn: a pipeline, and a list of whims that say what happens next (which attempt ends how, how much time goes
by, who cancels). Everything that `decide` is told is recorded, so that the same history can be told again to a process
that was killed on the way.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from builders import NOON, PipelineBuilder, bound, pipeline
from penstock.api.execution import ExecutionStatus
from penstock.engine import status
from penstock.engine.compile import CompiledPipeline
from penstock.engine.decide import Snapshot, decide
from penstock.engine.state import ExecutionState
from penstock.engine.types import (
    AttemptId,
    AttemptPhase,
    CacheEntry,
    Identity,
    Limits,
    Observation,
    Plan,
    Request,
)

LIMITS = Limits(disruptions=2, status_bytes=400)
IDENTITY = Identity("x-1", "uid")
FINISHED = {"Succeeded", "Cached", "Skipped", "Omitted", "Failed", "Error", "Cancelled"}
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


chance: st.SearchStrategy[bool] = st.booleans()


# --- what may be drawn ------------------------------------------------------------------------------


@st.composite
def whens(draw: st.DrawFn, earlier: list[str], plain: list[str], *, each: bool, final: bool) -> str | None:
    choices = [None, None, None, "inputs.n > 1", "inputs.n < 1"]
    if each:
        choices += ["item != 2", "index % 2 == 0"]
    if final:
        choices += ["execution.status != 'Succeeded'", "size(execution.failedSteps) == 0"]
    if earlier:
        name = draw(st.sampled_from(earlier))
        choices += [f"steps.{name}.status != 'Succeeded'", f"steps.{name}.status in ['Skipped', 'Failed', 'Succeeded']"]
    if plain:
        name = draw(st.sampled_from(plain))
        choices += [f"steps.{name}.outputs.n > 1", f"steps.{name}.exitCode == 0", f"steps.{name}.attempts < 3"]
    return draw(st.sampled_from(choices))


@st.composite
def fan_outs(draw: st.DrawFn, kind: str, fanned: list[str]) -> dict[str, Any]:
    found: dict[str, Any]
    if kind == "matrix":
        axes = [{"name": "x", "items": [1, 2]}, {"name": "y", "items": [1, 2]}]
        found = {"matrix": axes, "exclude": [{"x": 1, "y": 2}]}
    elif kind == "from":
        found = {"from": f"steps.{draw(st.sampled_from(fanned))}.outputs.n" if fanned else "[1, inputs.n]"}
    else:
        found = {"items": [] if kind == "empty" else [1, 2, 3]}
    if draw(chance):
        found["maxParallel"] = draw(st.integers(1, 2))
    return found


@st.composite
def steps(draw: st.DrawFn, earlier: list[str], fanned: list[str], *, final: bool) -> dict[str, Any]:
    plain = [name for name in earlier if name not in fanned]
    step: dict[str, Any] = {"outputs": {"n": "number"}}
    if earlier and not final:
        step["dependsOn"] = draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True))
    fan = draw(st.sampled_from([None, None, None, "empty", "items", "matrix", "from"]))
    if fan is not None:
        step["forEach"] = draw(fan_outs(fan, fanned))
    inputs: dict[str, Any] = {"attempt": "attempt"}
    if draw(chance) and plain:
        source = f"steps.{draw(st.sampled_from(plain))}.outputs.n"
        inputs["n"] = bound(source, default=0) if draw(chance) else f"{source} + 1"
    if fan is not None:
        inputs["i"] = "index"
    step["inputs"] = inputs
    when = draw(whens(earlier, plain, each=fan is not None and fan != "matrix", final=final))
    if when is not None:
        step["when"] = when
    if draw(st.integers(0, 3)) == 0:
        step["onFailure"] = "Continue"
    if draw(st.integers(0, 2)) == 0:
        step["retry"] = draw(
            st.sampled_from(
                [
                    {"limit": 2},
                    {"limit": 1, "delaySeconds": 5},
                    {"limit": 3, "delaySeconds": 2, "factor": 3, "maxTotalSeconds": 20},
                    {"limit": 2, "reasons": ["TimedOut", "StepError"]},
                ]
            )
        )
    if draw(st.integers(0, 2)) == 0:
        step["timeoutSeconds"] = draw(st.sampled_from([3, 8]))
    if draw(st.integers(0, 3)) == 0:
        step["cache"] = draw(st.sampled_from([{}, {"ttlSeconds": 5}]))
        del inputs["attempt"]
    return step


@st.composite
def pipelines(draw: st.DrawFn) -> PipelineBuilder:
    told = pipeline().input("n", "number", default=draw(st.integers(0, 2)))
    names: list[str] = []
    fanned: list[str] = []
    count = draw(st.integers(1, 6))
    for section, amount in ((told.step, count), (told.final, draw(st.integers(0, 2)))):
        for index in range(amount):
            name = f"{'s' if section == told.step else 'f'}{index}"
            fields = draw(steps(names, fanned, final=section == told.final))
            section(name, **fields)
            names.append(name)
            if "forEach" in fields:
                fanned.append(name)
    plain = [name for name in names if name not in fanned and name.startswith("s")]
    if draw(chance) and plain:
        told.output("n", "number", f"steps.{draw(st.sampled_from(plain))}.outputs.n")
    fields = {"failurePolicy": draw(st.sampled_from(["FailFast", "FinishRunning"]))}
    for field, values in (("maxParallel", [1, 2]), ("timeoutSeconds", [10, 30]), ("finallyTimeoutSeconds", [10])):
        if draw(st.integers(0, 2)) == 0:
            fields[field] = draw(st.sampled_from(values))
    return told.settings(**fields)


class Whim(tuple[str, int]):
    """What happens next, and to which of those that it could happen to."""

    __slots__ = ()


KINDS = (
    ["succeed"] * 6
    + ["fail"] * 3
    + ["run"] * 3
    + ["wait"] * 3
    + ["error", "disrupt", "lose", "timeout", "invalid", "repeat", "stale", "suspend", "resume", "both", "end-stopped"]
)
whims = st.lists(st.tuples(st.sampled_from([*KINDS, "cancel"]), st.integers(0, 40)).map(Whim), max_size=30)


# --- telling it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """All that one pass was told."""

    now: float
    request: Request
    seen: tuple[Observation, ...] = ()
    cache: tuple[tuple[str, CacheEntry | None], ...] = ()


def observation(kind: str, id_: AttemptId, now: float, pick: int) -> Observation | None:
    ended = AttemptPhase.ENDED
    match kind:
        case "succeed" | "both":
            return Observation(id_, ended, exit_code=0, outputs={"n": pick % 4}, finished_at=now - 0.125 * (pick % 3))
        case "fail":
            return Observation(id_, ended, exit_code=1, outputs={"n": 9} if pick % 2 else {}, finished_at=now)
        case "end-stopped":
            return Observation(id_, ended, exit_code=143)
        case "run":
            return Observation(id_, AttemptPhase.RUNNING, started_at=now if pick % 2 else None)
        case "error":
            return Observation(id_, ended, reason="StepError", message="no image")
        case "disrupt":
            return Observation(id_, ended, reason="Disrupted")
        case "timeout":
            return Observation(id_, ended, reason="TimedOut")
        case "invalid":
            return Observation(id_, ended, exit_code=0, outputs={})
        case "lose":
            return Observation(id_, AttemptPhase.LOST)
    return None


class World:
    """Plays whims against an execution, checks what must hold after every pass, and records what was told."""

    def __init__(self, compiled: CompiledPipeline) -> None:
        self.pipeline = compiled
        self.state = ExecutionState(compiled, IDENTITY, LIMITS)
        self.request = Request()
        self.now = NOON
        self.history: list[Moment] = []
        self.started: list[AttemptId] = []
        self.past: list[Observation] = []
        self.plan = Plan()
        self.cache: dict[str, CacheEntry] = {}
        self.asked: dict[str, CacheEntry | None] = {}
        self.tell()

    def tell(self, *seen: Observation) -> None:
        self._pass(seen)
        while self.plan.lookups:
            self.asked |= {key: self.cache.get(key) for key in self.plan.lookups}
            self._pass(())
        self._stays()

    def _pass(self, seen: tuple[Observation, ...]) -> None:
        self.past += seen
        self.history.append(Moment(self.now, self.request, seen, tuple(self.asked.items())))
        self.plan = run(self.state, self.history[-1])
        self.cache |= {entry.fingerprint: entry for entry in self.plan.remember}
        self._check()

    def _check(self) -> None:
        for start in self.plan.starts:
            assert start.id not in self.started, f"{start.id} was started twice"
            self.started.append(start.id)
            assert all(self.state.step(dep).phase.finished for dep in start.step.deps), f"{start.id} is too early"
            if start.step.final:
                assert all(self.state.step(name).phase.finished for name in self.pipeline.main)
        flying = self.state.expected()
        most = self.pipeline.spec.max_parallel
        assert most is None or len(flying) <= most
        for name, count in Counter(id_.step for id_ in flying).items():
            fan_out = self.pipeline.steps[name].fan_out
            assert fan_out is None or fan_out.max_parallel is None or count <= fan_out.max_parallel, name
        assert self.plan.wake_at is None or self.plan.wake_at > self.now
        assert self.state.head.phase.finished == self.plan.finished
        if not self.plan.finished and not flying and not self.plan.lookups:
            suspended = self.request.suspend and not self.request.cancel
            assert suspended or self.plan.wake_at is not None, "it would hang"

    def _stays(self) -> None:
        """A pass without news changes nothing."""
        before = status.dump(self.state)
        again = run(self.state, Moment(self.now, self.request, (), tuple(self.asked.items())))
        assert not again.changed
        assert (again.starts, again.stops, again.remember, again.lookups) == ((), (), (), ())
        assert again.wake_at == self.plan.wake_at
        assert status.dump(self.state) == before

    def follow(self, whim: Whim) -> None:
        kind, pick = whim
        flying = self.state.expected()
        if kind == "wait":
            self.now += 0.125 * (1 + pick * 2)
            self.tell()
        elif kind in {"cancel", "suspend", "resume"}:
            changes: dict[str, Any] = {"cancel": True} if kind == "cancel" else {"suspend": kind == "suspend"}
            self.request = replace(self.request, **changes)
            self.tell()
        elif kind in {"repeat", "stale"} and self.past:
            self.tell(self.past[pick % len(self.past)])
        elif flying:
            # in the order of their names: the order of the state's own dict says nothing
            flying = sorted(flying)
            seen = observation(kind, flying[pick % len(flying)], self.now, pick)
            more = observation("fail", flying[(pick + 1) % len(flying)], self.now, 0) if kind == "both" else None
            self.tell(*(each for each in (seen, more) if each is not None))

    def finish(self) -> None:
        """From now on everything goes well and time goes by; this must come to an end."""
        self.request = replace(self.request, suspend=False)
        self.tell()
        for _ in range(200):
            if self.plan.finished:
                return
            flying = sorted(self.state.expected())
            if flying:
                id_ = flying[0]
                stopping = self.state.task(id_.task).stopping is not None
                seen = observation("end-stopped" if stopping else "succeed", id_, self.now, 1)
                assert seen is not None
                self.tell(seen)
            else:
                assert self.plan.wake_at is not None
                self.now = self.plan.wake_at
                self.tell()
        pytest.fail("it does not end")


def run(state: ExecutionState, moment: Moment) -> Plan:
    return decide(Snapshot(state, moment.request, moment.seen, dict(moment.cache)), moment.now)


def killed(state: ExecutionState) -> ExecutionState:
    """What is left of a state after the process was killed."""
    return status.load(state.pipeline, state.identity, stored(state), LIMITS)


def stored(state: ExecutionState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(status.dump(state)))
    return found


def play(told: PipelineBuilder, what: list[Whim]) -> World:
    world = World(told.compiled())
    for whim in what:
        world.follow(whim)
    world.finish()
    event(f"ends as {world.state.head.phase} ({world.state.head.reason})")
    return world


# --- what holds -------------------------------------------------------------------------------------


@MANY
@given(pipelines(), whims)
def test_every_execution_ends_in_order_and_within_its_bounds(told: PipelineBuilder, what: list[Whim]) -> None:
    """Order, bounds, wake-ups and idempotence are checked by the world in every pass."""
    world = play(told, what)
    shown = stored(world.state)
    assert {step["phase"] for step in shown["steps"]} <= FINISHED
    assert {item["phase"] for step in shown["steps"] for item in step.get("items", ())} <= FINISHED
    assert shown["progress"] == f"{len(shown['steps'])}/{len(shown['steps'])}"
    assert world.state.expected() == []
    ExecutionStatus.model_validate(shown)


@MANY
@given(pipelines(), whims)
def test_finally_steps_always_have_their_turn(told: PipelineBuilder, what: list[Whim]) -> None:
    """Each of them was started, or says why not; time over is the only reason that is not its own."""
    world = play(told, what)
    own = {None, "WhenFalse", "InputUnavailable", "DependencySkipped", "DependencyFailed", "ExpressionError"}
    time_over = False
    for name in world.pipeline.finals:
        record = world.state.step(name)
        started = any(id_.step == name for id_ in world.started)
        time_over = time_over or record.reason == "TimedOut"
        assert started or record.reason in own or time_over, (name, record)
    if world.pipeline.finals:
        assert world.state.head.finally_at is not None


@MANY
@given(pipelines(), whims, st.integers(0, 60))
def test_a_process_killed_at_any_moment_reaches_the_same_end(
    told: PipelineBuilder, what: list[Whim], prefix: int
) -> None:
    world = play(told, what)
    state = ExecutionState(world.pipeline, IDENTITY, LIMITS)
    started: list[AttemptId] = []
    for position, moment in enumerate(world.history):
        if position == prefix % len(world.history):
            state = killed(state)
        started += [start.id for start in run(state, moment).starts]
    assert stored(state) == stored(world.state)
    assert started == world.started


@MANY
@given(pipelines(), whims)
def test_a_process_killed_after_every_pass_reaches_the_same_end(told: PipelineBuilder, what: list[Whim]) -> None:
    world = play(told, what)
    state = ExecutionState(world.pipeline, IDENTITY, LIMITS)
    inputs: dict[AttemptId, Any] = {}
    for moment in world.history:
        plan = run(state, moment)
        for start in plan.starts:
            assert start.id not in inputs
            inputs[start.id] = start.inputs
        state = killed(state)
    assert stored(state) == stored(world.state)
    assert list(inputs) == world.started


@MANY
@given(pipelines(), whims)
def test_what_was_written_in_pieces_is_what_is(told: PipelineBuilder, what: list[Whim]) -> None:
    """An adapter writes only the parts that a plan says have changed; nothing else may have."""
    world = play(told, what)
    state = ExecutionState(world.pipeline, IDENTITY, LIMITS)
    head: dict[str, Any] = {}
    written: dict[str, dict[str, Any]] = {}
    for moment in world.history:
        plan = run(state, moment)
        if plan.head is not None:
            head = status.head_status(state)
        for name in {*plan.steps, *(task.step for task in plan.tasks)}:
            written[name] = status.step_status(state, name)
        assert status.head_status(state) == head or not head
        for name in world.pipeline.steps:
            assert status.step_status(state, name) == written.get(name, {"name": name, "phase": "Pending"})
