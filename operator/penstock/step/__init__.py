"""What is shared with the inside of a step: the step contract, and the rules for values and files.

Standard library only, and nothing of penstock outside this package: it runs in any image that has Python. What
schedules, stores or talks to a cluster must not live here. Modules: `values` (types of values, `$PENSTOCK_OUTPUT`),
`outputs` (reads what an attempt left), `inputs` (prepares what it sees), `folders` and `digest` (walk and name
content), `runtime` and `returned` (run `function:` steps inside a step's own container), `supervisor` (the same for
steps with files or large values), `collector` and `fetch` (what runs beside and before other steps), `report` (how
either says what it found), `plan`, `transfer`, `archive`, `download`, `upload` and `wire` (files through signed URLs).
"""

from __future__ import annotations

import os

__all__ = ["Context", "context"]


class Context:
    """Where the code that asks is running.

    Attributes:
        execution: name of the execution.
        pipeline: name of the pipeline.
        step: name of the step.
        attempt: number of the attempt, from 1.
        index: number of the item of a fan-out, from 0; None outside of one.
    """

    # Neither a dataclass nor a NamedTuple: this module is imported by every function step, and both cost start-up time.
    __slots__ = ("attempt", "execution", "index", "pipeline", "step")

    def __init__(self, *, execution: str, pipeline: str, step: str, attempt: int, index: int | None) -> None:
        self.execution = execution
        self.pipeline = pipeline
        self.step = step
        self.attempt = attempt
        self.index = index


def context() -> Context:
    """The execution, step and attempt that this process belongs to.

    Raises:
        RuntimeError: this process was not started by a Penstock step.
    """
    try:
        return Context(
            execution=os.environ["PENSTOCK_EXECUTION"],
            pipeline=os.environ["PENSTOCK_PIPELINE"],
            step=os.environ["PENSTOCK_STEP"],
            attempt=int(os.environ["PENSTOCK_ATTEMPT"]),
            index=int(os.environ["PENSTOCK_INDEX"]) if "PENSTOCK_INDEX" in os.environ else None,
        )
    except KeyError as missing:
        raise RuntimeError(f"{missing.args[0]} is not set: context() works only inside a step of a pipeline") from None
