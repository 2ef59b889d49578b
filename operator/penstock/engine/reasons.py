"""The reasons that executions, steps and attempts give, as one documented table.

`make generate` writes docs/reference/status.md from it; no reason may be used that is not in it.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One CamelCase word for programs, in `status.reason`, a step's `reason` and conditions."""

    # How attempts end
    STEP_FAILED = "StepFailed"
    STEP_ERROR = "StepError"
    DISRUPTED = "Disrupted"
    TIMED_OUT = "TimedOut"
    INVALID_OUTPUTS = "InvalidOutputs"
    # Why a step did not run
    WHEN_FALSE = "WhenFalse"
    DEPENDENCY_SKIPPED = "DependencySkipped"
    DEPENDENCY_FAILED = "DependencyFailed"
    INPUT_UNAVAILABLE = "InputUnavailable"
    FAILED_FAST = "FailedFast"
    EXECUTION_TIMED_OUT = "ExecutionTimedOut"
    CANCELLED = "Cancelled"
    # Why a step could not run
    EXPRESSION_ERROR = "ExpressionError"
    TOO_MANY_ITEMS = "TooManyItems"
    ITEMS_FAILED = "ItemsFailed"
    # What an attempt waits for that is not running yet; all of it may heal
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONFIG_MISSING = "ConfigMissing"
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    REFUSED = "Refused"
    # How executions end
    SUCCEEDED = "Succeeded"
    INVALID_INPUTS = "InvalidInputs"
    INPUTS_TOO_LARGE = "InputsTooLarge"
    OUTPUTS_TOO_LARGE = "OutputsTooLarge"
    OUTPUT_UNAVAILABLE = "OutputUnavailable"
    FINALLY_FAILED = "FinallyFailed"
    PUBLISH_FAILED = "PublishFailed"
    INVALID_PIPELINE = "InvalidPipeline"
    # Where executions stand
    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"


_R = Reason

MEANING: dict[Reason, tuple[str, str]] = {
    _R.STEP_FAILED: ("step, execution", "The command exited with another code than 0. Retried if `retry` says so."),
    _R.STEP_ERROR: ("step, execution", "The platform could not run the step: no such image, no space, refused."),
    _R.DISRUPTED: ("step, execution", "The platform ended the attempt. Tried again apart from `retry.limit`."),
    _R.TIMED_OUT: ("step, execution", "It took longer than `timeoutSeconds`."),
    _R.INVALID_OUTPUTS: ("step, execution", "Declared outputs are missing, of the wrong type or too large."),
    _R.WHEN_FALSE: ("step", "`when` was false; the step is Skipped."),
    _R.DEPENDENCY_SKIPPED: ("step", "A step that this one waits for was skipped, so this one is Skipped."),
    _R.DEPENDENCY_FAILED: ("step", "A step that this one waits for did not succeed, so this one is Omitted."),
    _R.INPUT_UNAVAILABLE: ("step", "A value that it refers to does not exist and has no default; it is Skipped."),
    _R.FAILED_FAST: ("step", "Another step failed: this one was stopped (Cancelled) or not started (Omitted)."),
    _R.EXECUTION_TIMED_OUT: ("step", "The execution's time was over: the step was stopped or not started."),
    _R.CANCELLED: ("step, execution", "The execution was cancelled: the step was stopped or not started."),
    _R.EXPRESSION_ERROR: ("step, execution", "An expression could not be evaluated with the values it met."),
    _R.TOO_MANY_ITEMS: ("step", "The fan-out has more items than one step may have."),
    _R.ITEMS_FAILED: ("step, execution", "Items of the fan-out failed; the message names the first."),
    _R.UNSCHEDULABLE: ("step", "No node takes its pod yet."),
    _R.IMAGE_PULL_FAILED: ("step", "Its image cannot be pulled; the node tries again."),
    _R.CONFIG_MISSING: ("step", "A ConfigMap or Secret that its container needs is not there yet."),
    _R.CONTAINER_NOT_CREATED: ("step", "Its container cannot be created; the node tries again."),
    _R.REFUSED: ("step", "The API server does not take its Job or Pod yet: a quota is used up, or admission refuses."),
    _R.SUCCEEDED: ("step, execution", "All went well."),
    _R.INVALID_INPUTS: ("step, execution", "An input is missing, unknown or of the wrong type. Nothing was started."),
    _R.INPUTS_TOO_LARGE: ("step, execution", "The input values are together over the limit. Nothing was started."),
    _R.OUTPUTS_TOO_LARGE: ("step, execution", "The output values are together over the limit."),
    _R.OUTPUT_UNAVAILABLE: ("execution", "A step that an output of the pipeline refers to did not give it."),
    _R.FINALLY_FAILED: ("execution", "The steps succeeded, a `finally` step did not."),
    _R.PUBLISH_FAILED: ("execution", "The steps succeeded, but a file cannot be published to the data store."),
    _R.INVALID_PIPELINE: ("execution", "The pipeline cannot run; the message says why. Nothing was started."),
    _R.PENDING: ("execution", "Nothing was started yet."),
    _R.RUNNING: ("execution", "Steps are running or waiting."),
    _R.SUSPENDED: ("step, execution", "`spec.suspend` of the execution, or of the Job, is true: nothing is started."),
}
"""Reason to (where it is used, what it means)."""

STEP_PHASES: dict[str, str] = {
    "Pending": "Waits for other steps, for room or for the platform.",
    "Running": "An attempt (of a fan-out: an item) runs.",
    "Retrying": "An attempt failed; the next is due at `retryAt`.",
    "Succeeded": "Done, with all outputs.",
    "Cached": "Not run: outputs of an earlier success were taken. Expressions see `Succeeded`.",
    "Skipped": "Not run: its `when` was false, or a step it waits for was skipped.",
    "Omitted": "Not run: a step it waits for did not succeed, or the execution was ended.",
    "Failed": "The user's code or input went wrong.",
    "Error": "The platform went wrong.",
    "Cancelled": "Stopped while it ran.",
}

EXECUTION_PHASES: dict[str, str] = {
    "Pending": "Nothing was started yet.",
    "Running": "Steps are running or waiting.",
    "Suspended": "`spec.suspend` is true: what runs goes on, nothing new is started.",
    "Succeeded": "All steps that had to succeed did, and all outputs are there.",
    "Failed": "The user's code or input went wrong, or the time was over (reason `TimedOut`).",
    "Error": "The platform went wrong.",
    "Cancelled": "It was cancelled.",
}

ERROR_REASONS = frozenset({_R.STEP_ERROR, _R.DISRUPTED})
"""Reasons that make a step's phase `Error` and not `Failed`."""

NOT_TAKEN = frozenset({_R.REFUSED, _R.SUSPENDED})
"""Reasons for which there may be nothing of an attempt that was asked for."""


def table() -> str:
    """The whole table as Markdown."""
    lines = [
        "# Statuses and reasons",
        "",
        "`Failed` is the user's code or input, `Error` the platform. Generated from `penstock.engine.reasons`.",
        "",
        "## Phases of an execution",
        "",
        "| phase | meaning |",
        "|---|---|",
        *(f"| `{phase}` | {meaning} |" for phase, meaning in EXECUTION_PHASES.items()),
        "",
        "## Phases of a step, and of an item of a fan-out",
        "",
        "| phase | meaning |",
        "|---|---|",
        *(f"| `{phase}` | {meaning} |" for phase, meaning in STEP_PHASES.items()),
        "",
        "## Reasons",
        "",
        "The condition `Complete` of an execution carries the execution's reason.",
        "",
        "| reason | of | meaning |",
        "|---|---|---|",
        *(f"| `{reason}` | {where} | {meaning} |" for reason, (where, meaning) in MEANING.items()),
    ]
    return "\n".join(lines) + "\n"
