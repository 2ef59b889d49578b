"""Builds the Job, the Pod and what else an attempt needs, as the API server takes them. Pure; nothing is sent here.

Doing it twice gives the same. The pod satisfies the `restricted` Pod Security level whatever its template says, or is
refused for what the template says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from penstock.api.base import API_VERSION
from penstock.api.pipeline import EnvFrom, EnvVar, Step
from penstock.controller.contract import CannotStart, function_types
from penstock.engine.types import AttemptId, File, Identity, StartAttempt
from penstock.kube import names
from penstock.kube.merging import Object, Template, merge
from penstock.kube.transports import (
    CollectorMode,
    PodSettings,
    Transport,
    WayIn,
    WayOut,
    choose,
    input_texts,
    split_inputs,
)
from penstock.kube.volumes import (
    HARDENED,
    annotation_field,
    collector_container,
    fetch_container,
    literal,
    mounts,
    own_volumes,
    supervisor_env,
    volumes,
)
from penstock.step import supervisor
from penstock.step.inputs import contract_env, env_name, input_env

DEFAULT_SHELL: Final = ("/bin/sh", "-ec")
"""What runs a `script` whose step names no `shell`."""

NAMELESS_USER: Final = 65_532
"""The user of a step whose image names root, or a user of whom the kubelet cannot tell that it is not."""

_UPLOAD_MARGIN: Final = 60
"""Seconds that a pod that is ended has for uploads beyond those for which one may stand still."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt and all that its manifests are made of.

    Attributes:
        start: what the engine asks for.
        identity: the execution that it is part of.
        pipeline: name of the pipeline; empty for an execution with a pipeline of its own.
        settings: of the operator.
        transport: how its values travel.
        template: its pod template.
        texts: what the files of those inputs hold that are values, by name.
        files: the inputs that are files, by name.
    """

    start: StartAttempt
    identity: Identity
    pipeline: str
    settings: PodSettings
    transport: Transport
    template: Template
    texts: Mapping[str, str]
    files: Mapping[str, File | Sequence[File | None]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its Job, Pod, ConfigMap and Secret."""
        return names.object_name(self.identity, self.start.id)

    @property
    def step(self) -> Step:
        """The step with the pipeline's defaults merged in."""
        return self.start.step.spec

    @property
    def image(self) -> str:
        """The image of its step."""
        return self.start.image or str(self.template.step.get("image", ""))

    @property
    def labels(self) -> dict[str, str]:
        """Labels of each of its objects: the template's, and ours."""
        return {**self.template.labels, **names.labels(self.identity, self.start.id, self.pipeline)}


def prepare(start: StartAttempt, identity: Identity, pipeline: str, settings: PodSettings) -> Attempt:
    """Look at what an attempt needs.

    Raises:
        CannotStart: it cannot run on Kubernetes as it is; the message says why and what to do.
    """
    step = start.step.spec
    template = Template(step.pod_template, place=f"spec.steps[{step.name}].podTemplate")
    if start.image is None and not template.step.get("image"):
        raise CannotStart(
            f"spec.steps[{step.name}].image: a container needs an image; name one here or in spec.defaults.image"
        )
    transport = choose(step, start.inputs, settings)
    if transport.collector is not None and not settings.collector_image:
        raise CannotStart(
            f"spec.steps[{step.name}].outputs: the operator has no collector image for outputs of any size; "
            "set it in the operator's settings, or bound the outputs (`maxBytes`)"
        )
    if transport.files_in and not transport.supervised and not settings.collector_image:
        raise CannotStart(
            f"spec.steps[{step.name}].inputs: the operator has no collector image, which also fetches files; "
            "set it in the operator's settings"
        )
    values, files = split_inputs(start.inputs)
    return Attempt(start, identity, pipeline, settings, transport, template, input_texts(values), files)


def job(attempt: Attempt) -> Object:
    """The Job of an attempt, owned by its Execution."""
    metadata: Object = {
        "name": attempt.name,
        "namespace": attempt.identity.namespace,
        "labels": attempt.labels,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": "Execution",
                "name": attempt.identity.name,
                "uid": attempt.identity.uid,
                "controller": True,
            }
        ],
    }
    managed = attempt.settings.managed
    template = {
        # The inputs of a Job that we manage are in its pod alone: nothing is made from the template.
        "metadata": _pod_metadata(attempt, with_inputs=not managed),
        "spec": _pod_spec(attempt),
    }
    spec: Object = {"backoffLimit": 0, "completions": 1, "parallelism": 1, "template": template}
    if managed:
        spec["managedBy"] = names.MANAGER
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def pod(attempt: Attempt, *, job_uid: str) -> Object:
    """The Pod of an attempt whose Job we manage, owned by that Job.

    Args:
        attempt: which.
        job_uid: the uid that the API server gave to the Job.
    """
    metadata = _pod_metadata(attempt, with_inputs=True)
    metadata["name"] = attempt.name
    metadata["namespace"] = attempt.identity.namespace
    # What the API server puts on a Job's template; `kubectl logs job/NAME` selects by it.
    for prefix in ("", "batch.kubernetes.io/"):
        metadata["labels"][f"{prefix}controller-uid"] = job_uid
        metadata["labels"][f"{prefix}job-name"] = attempt.name
    metadata["ownerReferences"] = [_owned_by_job(attempt.name, job_uid, controller=True)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod_spec(attempt)}


def config_map(attempt: Attempt, *, job_uid: str) -> Object | None:
    """The ConfigMap with an attempt's inputs, owned by its Job; None where they travel otherwise.

    The pod can be made before it, and waits for it; the other way round it does not have to.
    """
    if attempt.transport.way_in is not WayIn.CONFIG_MAP:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": attempt.name,
            "namespace": attempt.identity.namespace,
            "labels": names.labels(attempt.identity, attempt.start.id, attempt.pipeline),
            "ownerReferences": [_owned_by_job(attempt.name, job_uid, controller=False)],
        },
        "immutable": True,
        "data": dict(attempt.texts),
    }


def secret(identity: Identity, attempt: AttemptId, pipeline: str, *, job_uid: str, plan: str, authority: str) -> Object:
    """The Secret with an attempt's plan of transfers, owned by its Job; whole each time that it is written.

    It is not immutable: its requests expire, and it is put in its own place with new ones before they do.

    Args:
        identity: the execution.
        attempt: which attempt of it.
        pipeline: name of the pipeline; empty for an execution with a pipeline of its own.
        job_uid: the uid that the API server gave to the Job.
        plan: the plan, as the pod reads it.
        authority: certificates, as PEM, of who signed that of the store; empty: those that all trust.
    """
    name = names.object_name(identity, attempt)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": identity.namespace,
            "labels": names.labels(identity, attempt, pipeline),
            "ownerReferences": [_owned_by_job(name, job_uid, controller=False)],
        },
        "type": "Opaque",
        "stringData": {names.PLAN_ENTRY: plan} | ({names.AUTHORITY_ENTRY: authority} if authority else {}),
    }


def _owned_by_job(name: str, job_uid: str, *, controller: bool) -> Object:
    reference: Object = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job_uid}
    return {**reference, "controller": True, "blockOwnerDeletion": True} if controller else reference


def end_now() -> Object:
    """A merge patch that has the kubelet end a pod whose attempt is over, and that leaves the pod and its logs there.

    Not a deletion: people want to read the log of a step that failed.
    """
    return {"metadata": {"annotations": {names.ENDED: "true"}}, "spec": {"activeDeadlineSeconds": 1}}


def job_status(*, succeeded: bool, started_at: float, finished_at: float, reason: str, message: str) -> Object:
    """The final `status` of a Job that we manage, as the API server wants it.

    Args:
        succeeded: whether the attempt did.
        started_at: when it was asked for or began, seconds since the epoch.
        finished_at: when it ended.
        reason: one word for its conditions.
        message: a sentence for people.
    """
    start, end = _time(min(started_at, finished_at)), _time(finished_at)
    kinds = ("SuccessCriteriaMet", "Complete") if succeeded else ("FailureTarget", "Failed")
    status: Object = {
        "startTime": start,
        "uncountedTerminatedPods": {},
        "conditions": [
            {
                "type": kind,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastProbeTime": end,
                "lastTransitionTime": end,
            }
            for kind in kinds
        ],
    }
    return {**status, "succeeded": 1, "completionTime": end} if succeeded else {**status, "failed": 1}


def _time(moment: float) -> str:
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the pod --------------------------------------------------------------------------------------


def _pod_metadata(attempt: Attempt, *, with_inputs: bool) -> Object:
    annotations = dict(attempt.template.annotations)
    if len(_containers(attempt)) > 1:
        annotations["kubectl.kubernetes.io/default-container"] = names.STEP_CONTAINER
    if with_inputs and attempt.transport.way_in is WayIn.ANNOTATIONS:
        annotations |= {names.input_annotation(n, i): text for i, (n, text) in enumerate(attempt.texts.items())}
    metadata: Object = {"labels": attempt.labels}
    return {**metadata, "annotations": annotations} if annotations else metadata


def _pod_spec(attempt: Attempt) -> Object:
    settings, template = attempt.settings, attempt.template
    security: Object = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if settings.run_as_user is not None and "runAsUser" not in template.spec.get("securityContext", {}):
        security["runAsUser"] = settings.run_as_user
    ours: Object = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "securityContext": security,
        "containers": _containers(attempt),
    }
    if not template.spec.get("serviceAccountName"):
        ours["automountServiceAccountToken"] = False
    if attempt.start.timeout_seconds is not None:
        ours["activeDeadlineSeconds"] = attempt.start.timeout_seconds
    if attempt.transport.collector is CollectorMode.SHARED:
        ours["shareProcessNamespace"] = True
    # A sidecar begins to upload when it is told to end. Others get no more: a step that will not end would have it too.
    late = attempt.transport.files_out and attempt.transport.collector is CollectorMode.SIDECAR
    if late and "terminationGracePeriodSeconds" not in template.spec:
        ours["terminationGracePeriodSeconds"] = settings.transfer_patience_seconds + _UPLOAD_MARGIN
    if init := _init_containers(attempt):
        ours["initContainers"] = init
    if found := [*volumes(attempt), *own_volumes(attempt)]:
        ours["volumes"] = found
    return merge(template.spec, ours)


def _containers(attempt: Attempt) -> list[Object]:
    # The step comes first: a collector that sees no process has to be able to tell that the step is over.
    found = [_step_container(attempt)]
    if attempt.transport.collector is CollectorMode.SHARED:
        found.append(collector_container(attempt))
    return [*found, *(_hardened(item) for item in attempt.template.others)]


def _init_containers(attempt: Attempt) -> list[Object]:
    found = [_hardened(item) for item in attempt.template.init_containers]
    if attempt.transport.collector is CollectorMode.SIDECAR:
        found.insert(0, {**collector_container(attempt), "restartPolicy": "Always"})
    if (
        attempt.transport.files_in and not attempt.transport.supervised
    ):  # last: what a template brings along may be what makes the network
        found.append(fetch_container(attempt))
    return found


def _hardened(container: Object) -> Object:
    return merge(container, {"securityContext": dict(HARDENED)})


def _step_container(attempt: Attempt) -> Object:
    step, template = attempt.step, attempt.template.step
    ours: Object = {
        "name": names.STEP_CONTAINER,
        "securityContext": dict(HARDENED),
        "env": _contract(attempt),
        "terminationMessagePath": names.MESSAGE_FILE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if attempt.start.image is not None:
        ours["image"] = attempt.start.image
    if not attempt.transport.collected:
        ours["terminationMessagePath"] = names.OUTPUT_FILE
    if attempt.transport.supervised or attempt.transport.way_out is WayOut.TERMINATION:
        # Of a step that failed, lines of its log could be taken for outputs.
        ours["terminationMessagePolicy"] = "File"
    if step.resources is not None:
        ours["resources"] = step.resources.manifest()
    if mounted := mounts(attempt):
        ours["volumeMounts"] = mounted
    command, args = command_line(step, supervised=attempt.transport.supervised)
    if command is not None:
        ours["command"] = command
        template = {key: value for key, value in template.items() if key != "args"}
    if args:
        ours["args"] = args
    if step.env_from:
        ours["envFrom"] = [*template.get("envFrom", []), *map(_env_from, step.env_from)]
    # The contract's variables first, so that the template's may refer to them as the step's own may.
    own = {variable.name for variable in step.env or ()} | {item["name"] for item in ours["env"]}
    of_template = [item for item in template.get("env", []) if item["name"] not in own]
    env = [*ours["env"], *of_template, *map(_variable, step.env or ())]
    return {**merge(template, ours), "env": env}


def command_line(step: Step, *, supervised: bool = False) -> tuple[list[str] | None, list[str]]:
    """`command` and `args` of a step's container; None for the image's own command.

    Args:
        step: the step with the pipeline's defaults merged in.
        supervised: whether its function is run by a supervisor.

    The kubelet expands `$(NAME)` in both, as the contract wants it for `command` and `args`; a script is text of
    another language and reaches its shell as it is.
    """
    args = list(step.args or ())
    if step.script is not None:
        shell = [literal(word) for word in step.shell or DEFAULT_SHELL]
        return shell, [literal(step.script), *args]
    if step.function is not None:
        # The supervisor's own modules never come from the work folder; it runs the function as without it.
        runs = ["-P", "-m", supervisor.MODULE] if supervised else ["-m", "penstock.step"]
        return ["python", *runs, step.function], []
    return (list(step.command) if step.command else None), args


def _contract(attempt: Attempt) -> list[Object]:
    start, step = attempt.start, attempt.step
    collected = attempt.transport.collected
    contract = contract_env(
        inputs_dir=names.INPUTS_DIR,
        output_file=names.COLLECTED_FILE if collected else names.OUTPUT_FILE,
        outputs_dir=names.OUTPUTS_DIR if collected or attempt.settings.empty_folders else names.NOWHERE_DIR,
        execution=attempt.identity.name,
        step=start.id.step,
        attempt=start.id.attempt,
        pipeline=attempt.pipeline,
        index=start.id.index,
    )
    if step.function is not None:
        contract |= function_types(start)
    if attempt.transport.supervised:
        contract |= supervisor_env(attempt)
    found: list[Object] = [{"name": name, "value": literal(value)} for name, value in contract.items()]
    paths = {name: f"{names.INPUTS_DIR}/{name}" for name in attempt.files}
    given = input_env({**attempt.texts, **paths})
    for position, name in enumerate(attempt.texts):
        if env_name(name) in given:
            # From where the file comes from too: the pod is not larger for it, and the text is not expanded.
            found.append({"name": env_name(name), "valueFrom": _input_source(attempt, name, position)})
    return found + [{"name": env_name(name), "value": path} for name, path in paths.items() if env_name(name) in given]


def _input_source(attempt: Attempt, name: str, position: int) -> Object:
    if attempt.transport.way_in is WayIn.CONFIG_MAP:
        return {"configMapKeyRef": {"name": attempt.name, "key": name}}
    return {"fieldRef": annotation_field(names.input_annotation(name, position))}


def _variable(variable: EnvVar) -> Object:
    if variable.value_from is None:
        return {"name": variable.name, "value": variable.value or ""}
    return {"name": variable.name, "valueFrom": variable.value_from.manifest()}


def _env_from(source: EnvFrom) -> Object:
    return source.manifest()
