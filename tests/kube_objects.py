"""Attempts and pods for the tests of `kube`: attempts from real manifests, pods as a kubelet reports on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from builders import literal, pipeline
from penstock.engine.types import AttemptId, File, Identity, StartAttempt, Value
from penstock.kube.manifests import Attempt, pod, prepare
from penstock.kube.transports import PodSettings

IDENTITY = Identity("iris-7", "0e4d8f1c-5f5b-4b7e-9a53-0f3c2b9f6a11", "science")
SETTINGS = PodSettings(collector_image="penstock:1")
NOON = 1_700_000_000.0


def start(
    *,
    inputs: Mapping[str, Value] | None = None,
    index: int = -1,
    attempt: int = 1,
    timeout: int | None = None,
    **step: Any,
) -> StartAttempt:
    """What the engine asks for, of a step called `train` whose fields are written as manifests write them."""
    inputs = inputs or {}
    fields = {"image": "img:1", **step}
    told = pipeline().step("train", inputs={name: literal(_json(value)) for name, value in inputs.items()}, **fields)
    compiled = told.compiled().steps["train"]
    return StartAttempt(AttemptId("train", index, attempt), compiled, fields["image"], inputs, timeout)


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(item) for item in value]
    return "a file" if isinstance(value, File) else value


def an_attempt(settings: PodSettings = SETTINGS, **fields: Any) -> Attempt:
    """A prepared attempt."""
    return prepare(start(**fields), IDENTITY, "iris", settings)


def second(moment: float) -> str:
    """A moment as the API server writes it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reported:
    """A pod and what its kubelet has reported, told as a story.

    Args:
        fields: of the step; see `start`.
    """

    def __init__(self, settings: PodSettings = SETTINGS, **fields: Any) -> None:
        self.attempt = an_attempt(settings, **fields)
        self.pod: dict[str, Any] = copy.deepcopy(pod(self.attempt, job_uid="j-1"))
        self.pod["status"] = {"phase": "Pending", "conditions": []}

    def container(self, name: str, *, init: bool = False, **state: Any) -> Reported:
        """The state of a container."""
        kind = "initContainerStatuses" if init else "containerStatuses"
        found = self.pod["status"].setdefault(kind, [])
        found[:] = [item for item in found if item["name"] != name]
        found.append({"name": name, "state": state})
        return self

    def waiting(self, reason: str, message: str = "", name: str = "step") -> Reported:
        """A container that is not running yet."""
        return self.container(name, waiting={"reason": reason, "message": message})

    def running(self, name: str = "step", *, at: float = NOON, init: bool = False) -> Reported:
        """A container that runs."""
        self.pod["status"]["phase"] = "Running"
        return self.container(name, init=init, running={"startedAt": second(at)})

    def terminated(
        self,
        code: int = 0,
        message: str = "",
        *,
        reason: str = "",
        name: str = "step",
        at: float = NOON + 10,
        init: bool = False,
    ) -> Reported:
        """A container that has ended."""
        reason = reason or ("Completed" if code == 0 else "Error")
        done = {"exitCode": code, "reason": reason, "startedAt": second(NOON), "finishedAt": second(at)}
        return self.container(name, init=init, terminated={**done, **({"message": message} if message else {})})

    def condition(
        self, kind: str, status: str = "True", *, reason: str = "", message: str = "", at: float = NOON
    ) -> Reported:
        """A condition of the pod."""
        said = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": second(at)}
        self.pod["status"]["conditions"].append(said)
        return self

    def failed(self, reason: str = "", message: str = "") -> Reported:
        """The pod is over."""
        self.pod["status"] |= {"phase": "Failed", **({"reason": reason} if reason else {}), "message": message}
        return self

    def deleted(self, at: float, grace: int = 30) -> Reported:
        """Somebody has asked for its deletion."""
        self.pod["metadata"] |= {"deletionTimestamp": second(at + grace), "deletionGracePeriodSeconds": grace}
        return self
