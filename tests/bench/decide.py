"""How long the engine takes to decide: whole executions of chains, fans and fan-outs of growing size."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

from penstock.api.pipeline import PipelineSpec
from penstock.engine.compile import CompiledPipeline, compile_pipeline
from penstock.engine.decide import Snapshot, decide
from penstock.engine.state import ExecutionState
from penstock.engine.status import dump, load
from penstock.engine.types import AttemptPhase, Identity, Observation, Request

SIZES = (100, 1_000, 10_000)


def _step(name: str, after: list[str]) -> dict[str, Any]:
    inputs = [{"name": f"x{i}", "from": f"steps.{dep}.outputs.x"} for i, dep in enumerate(after)]
    return {"name": name, "command": ["true"], "inputs": inputs, "outputs": [{"name": "x", "type": "number"}]}


def chain(size: int) -> PipelineSpec:
    """Each step takes the output of the one before."""
    steps = [_step(f"s{i}", [f"s{i - 1}"] if i else []) for i in range(size)]
    return PipelineSpec.model_validate({"steps": steps})


def wide(size: int) -> PipelineSpec:
    """Layers of a hundred steps, each taking the outputs of two steps of the layer before."""
    steps = []
    for i in range(size):
        layer = i // 100
        after = [f"s{(layer - 1) * 100 + (i + k) % 100}" for k in (0, 1)] if layer else []
        steps.append(_step(f"s{i}", after))
    return PipelineSpec.model_validate({"steps": steps})


def fan(size: int) -> PipelineSpec:
    """One step over many items."""
    step = _step("s", []) | {"forEach": {"items": list(range(size))}}
    return PipelineSpec.model_validate({"steps": [step]})


def execute(pipeline: CompiledPipeline, *, one_by_one: bool) -> tuple[int, ExecutionState]:
    """Run a whole execution with instant successes; returns the number of passes."""
    state = ExecutionState(pipeline, Identity("bench", "uid"))
    now, passes = 0.0, 1
    plan = decide(Snapshot(state, Request()), now)
    waiting = [start.id for start in plan.starts]
    while not plan.finished:
        batch, waiting = (waiting[:1], waiting[1:]) if one_by_one else (waiting, [])
        now += 1
        seen = [Observation(id, AttemptPhase.ENDED, exit_code=0, outputs={"x": 1}) for id in batch]
        plan = decide(Snapshot(state, Request(), seen), now)
        waiting += [start.id for start in plan.starts]
        passes += 1
    return passes, state


def _measure(name: str, spec: PipelineSpec, size: int) -> None:
    began = time.process_time()
    pipeline = compile_pipeline(spec)
    compiled = time.process_time() - began
    began = time.process_time()
    passes, state = execute(pipeline, one_by_one=True)
    took = time.process_time() - began
    began = time.process_time()
    status = dump(state)
    dumped = time.process_time() - began
    began = time.process_time()
    load(pipeline, Identity("bench", "uid"), status)
    loaded = time.process_time() - began
    tracemalloc.start()
    execute(pipeline, one_by_one=True)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(
        f"| {name} | {size:,} | {compiled * 1e3:,.0f} | {took * 1e3:,.0f} | {took / passes * 1e6:,.0f} "
        f"| {dumped * 1e3:,.1f} | {loaded * 1e3:,.1f} | {memory / size / 1024:,.2f} |"
    )


def main() -> None:
    """Print a table."""
    print("\n## decide: CPU of whole executions, one pass for each step that ends\n")
    print("| shape | steps | compile ms | execution ms | a pass µs | dump ms | load ms | memory KiB a step |")
    print("|---|---|---|---|---|---|---|---|")
    for size in SIZES:
        _measure("chain", chain(size), size)
    for size in SIZES:
        _measure("layers of 100", wide(size), size)
    for size in (10, 100, 1_000):
        _measure("fan-out", fan(size), size)
