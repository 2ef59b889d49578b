"""Ends the Pods of attempts, and says what is to be written about an attempt that has ended."""

from __future__ import annotations

from penstock.engine.reasons import Reason
from penstock.engine.types import Observation
from penstock.kube import manifests, names
from penstock.kube.client import Client
from penstock.kube.conclusions import Conclusion, pod_end
from penstock.kube.resources import JOBS, PODS
from penstock.kube.runs import Run


class Ending:
    """Ends objects.

    Args:
        client: the REST client.
        managed: whether we manage Jobs ourselves.
    """

    def __init__(self, client: Client, *, managed: bool) -> None:
        self._client = client
        self._managed = managed

    async def by_kubelet(self, run: Run) -> None:
        """Have the kubelet end what runs of a pod. That this was asked for is in the pod, for the next operator."""
        await self._client.patch(PODS, run.pod_name, run.identity.namespace, manifests.end_now())

    async def without_node(self, run: Run) -> None:
        """End what no kubelet is there to end yet: once it had a node, it would run for a second."""
        if run.pod is None and not self._managed:  # the Job controller would make it only now
            await self._client.delete(JOBS, run.name, run.identity.namespace)
        else:
            await self._client.delete(PODS, run.pod_name, run.identity.namespace)


def conclusion(run: Run, seen: Observation, now: float) -> Conclusion:
    """What is to be written about an attempt that has ended.

    Args:
        run: the attempt.
        seen: how it ended.
        now: seconds since the epoch.
    """
    succeeded = seen.reason is None and seen.exit_code == 0
    status = manifests.job_status(
        succeeded=succeeded,
        started_at=seen.started_at or run.asked_at,
        finished_at=seen.finished_at or now,
        reason="Completed" if succeeded else seen.reason or str(Reason.STEP_FAILED),
        message=(seen.message or "")[:1_024],
    )
    ours = run.job is not None and run.job["spec"].get("managedBy") == names.MANAGER
    return Conclusion(
        namespace=run.identity.namespace,
        job=run.name,
        status=status if ours else None,
        pod=run.pod_name,
        pod_end=pod_end(None if run.gone else run.pod),
    )
