"""What the operator tells people of what has happened: Events, log lines and figures. Nothing depends on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from penstock.controller.ports import Clock
from penstock.engine.state import STEP, ExecutionState
from penstock.engine.status import from_timestamp
from penstock.engine.types import Observation, TaskId
from penstock.kube import events
from penstock.kube.deployments import KubeDeployments
from penstock.kube.executions import KubeExecutions
from penstock.kube.metrics import Metrics
from penstock.kube.resources import DEPLOYMENTS, EXECUTIONS, ObjectId

log = logging.getLogger(__name__)


class Teller:
    """Tells of executions, pipelines and deployments.

    Args:
        recorder: writes Events.
        metrics: what is measured.
        clock: the time.
        executions: those that are not finished.
        deployments: those that are there.
    """

    def __init__(
        self,
        recorder: events.Recorder,
        metrics: Metrics,
        clock: Clock,
        executions: KubeExecutions,
        deployments: KubeDeployments,
    ) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._executions = executions
        self._deployments = deployments

    def pipeline(self, pipeline: ObjectId, broken: str) -> None:
        """It was written into a pipeline whether it can run; `broken` says why not."""
        log.info(
            "pipeline cannot be run" if broken else "pipeline is ready",
            extra={"pipeline": pipeline.name, "namespace": pipeline.namespace},
        )
        self._recorder.tell(pipeline, events.pipeline_read(broken))

    def deployment(self, key: str, ready: bool, message: str) -> None:
        """It was written into a deployment whether it can start executions."""
        namespace, name = self._deployments.name(key)
        about = {"deployment": name, "namespace": namespace}
        log.info("deployment is ready" if ready else "deployment cannot start executions", extra=about)
        self._recorder.tell(ObjectId(DEPLOYMENTS, namespace, name, key), events.deployment_read(ready, message))

    def left_out(self, key: str, execution: str, why: str) -> None:
        """An execution of a deployment that was due was not made, or was cancelled for another."""
        namespace, name = self._deployments.name(key)
        about = {"deployment": name, "namespace": namespace, "execution": execution}
        log.info("execution of a deployment was left out: %s", why, extra=about)
        self._recorder.tell(ObjectId(DEPLOYMENTS, namespace, name, key), events.left_out(execution, why))

    def ended(self, key: str, state: ExecutionState, ended: Sequence[Observation]) -> None:
        """Attempts of an execution have ended."""
        for seen in ended:
            event = events.retried(state, seen)
            if event is not None:
                self._recorder.tell(ObjectId(EXECUTIONS, state.identity.namespace, state.identity.name, key), event)
                _log_step("attempt failed, the step is tried again", state, seen.id.task, seen.id.attempt)

    def passed(self, key: str, state: ExecutionState, changed: Sequence[TaskId]) -> None:
        """A pass over an execution was made."""
        regarding = ObjectId(EXECUTIONS, state.identity.namespace, state.identity.name, key)
        known = self._executions.known(key)
        if known is not None and not known.begun and state.head.started_at is not None:
            known.begun = True
            self._metrics.start.observe(max(0.0, self._clock.now() - from_timestamp(known.created)))
            self._recorder.tell(regarding, events.started(self._executions.pipeline_name(key), known.revision))
        for task in changed:
            record = state.task(task)
            if record.phase.finished:
                self._metrics.steps.labels(str(record.phase)).inc()
                _log_step("step finished", state, task, record.attempts)
        for event in events.of_pass(state, changed):
            self._recorder.tell(regarding, event)


def _log_step(message: str, state: ExecutionState, task: TaskId, attempt: int) -> None:
    record = state.task(task)
    # Not the record's message: it is what the step has printed, and may be anything.
    log.info(
        message,
        extra={
            "execution": state.identity.name,
            "namespace": state.identity.namespace,
            "step": task.step,
            "item": None if task.index == STEP else task.index,
            "attempt": attempt or None,
            "phase": str(record.phase),
            "reason": record.reason,
        },
    )
