"""How the values and files of an attempt get into its pod and out of it: chosen from declarations and sizes alone.

Pure. The step contract is the same whatever is chosen. Requests to the API server are `transport`'s, without an s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from penstock.api.pipeline import Step
from penstock.controller.contract import CannotStart, declared_outputs
from penstock.engine.reasons import Reason
from penstock.engine.types import File, Value
from penstock.kube.names import STEP_CONTAINER, input_annotation
from penstock.step.inputs import input_text
from penstock.step.values import Declared

NAME_A_STORE: Final = (
    "name one in its settings (PENSTOCK_STORE_URL; of the chart, store.url, or store.embedded.enabled for a volume)"
)
"""What to do where files need an object store and there is none."""

MESSAGE_BYTES: Final = 4_096
"""What the kubelet keeps of one container's termination message: the last bytes."""
POD_MESSAGE_BYTES: Final = 12_288
"""What it keeps of a pod's, divided equally among its containers: the first bytes of each."""
CONFIG_MAP_BYTES: Final = 1_048_576
"""The API server's bound of a ConfigMap's values."""


class WayIn(StrEnum):
    """How inputs get in."""

    NONE = "none"
    ANNOTATIONS = "annotations"  # of the pod itself, through the downward API: no further object, no further request
    CONFIG_MAP = "config_map"  # one more write for us, one more GET and WATCH for the kubelet


class WayOut(StrEnum):
    """How outputs get out."""

    NONE = "none"  # none are declared; what is written all the same is seen as with `TERMINATION`
    TERMINATION = "termination"  # `$PENSTOCK_OUTPUT` is the step's termination message
    COLLECTOR = "collector"  # a container beside the step reads what it wrote
    SUPERVISOR = "supervisor"  # what runs a function reads what it wrote, in the step's own container


class CollectorMode(StrEnum):
    """How the collector learns that the step is over."""

    SIDECAR = "sidecar"  # a native sidecar (Kubernetes 1.29): the kubelet stops it; about 3 s a step
    SHARED = "shared"  # a second container that sees the step's processes; costs no time


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the operator's settings say about the pods of steps.

    Attributes:
        managed: whether we manage Jobs ourselves (`spec.managedBy`, Kubernetes 1.32); otherwise they are ordinary Jobs.
        collector_image: the image of the collector.
        collector_mode: how it is run; a pod template with containers of its own gets a sidecar in any case.
        collector_command: what it runs. The flags keep the environment and the work folder out of Python's paths.
        fetch_command: what runs in the same image before a step with file inputs.
        collector_uid: its user and group; another than that of steps, which so cannot read its environment.
        collector_resources: its compute resources. Room for parsing eight times the largest outputs.
        collector_pull_policy: `imagePullPolicy` of its image; None: Kubernetes' own default.
        run_as_user: the user of steps whose pod template names none; None: the image's own, if it may run.
        annotation_bytes: bound of inputs that go through annotations. Of the 256 KiB that are allowed the pod template
            wants a share; and every event of the pod carries them to everyone who watches pods.
        step_output_bytes: bound of the values that one attempt may give, as compact JSON.
        empty_folders: whether a step also gets the folders that have nothing to hold. Each pod with a volume waits for
            the kubelet's volume manager, so steps without inputs and collected outputs get none.
        files: whether there is an object store for files.
        files_size_limit: how much each volume for files may hold, as Kubernetes writes quantities; empty: the node's
            disk and the step's ephemeral storage bound it.
        transfer_patience_seconds: how long a transfer may go without progress before it is given up.
        store_authority: certificates, as PEM, of who signed that of the store; empty: those that all trust.
    """

    managed: bool = True
    collector_image: str = ""
    collector_mode: CollectorMode = CollectorMode.SIDECAR
    collector_command: tuple[str, ...] = ("python", "-I", "-B", "-m", "penstock.step.collector")
    fetch_command: tuple[str, ...] = ("python", "-I", "-B", "-m", "penstock.step.fetch")
    collector_uid: int = 64_999
    collector_resources: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: {"requests": {"cpu": "5m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}}
    )
    collector_pull_policy: str | None = None
    run_as_user: int | None = None
    annotation_bytes: int = 32_768
    step_output_bytes: int = 1_048_576
    empty_folders: bool = False
    files: bool = False
    files_size_limit: str = ""
    transfer_patience_seconds: int = 600
    store_authority: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Transport:
    """What was chosen for an attempt.

    Attributes:
        way_in: how its inputs get in.
        way_out: how its outputs get out.
        collector: how the collector is run; None without one.
        message_bytes: what is kept of the termination message that carries the outputs.
        files_in: whether files are fetched, by an init container or a supervisor, which puts the values beside them.
        files_out: whether files are uploaded, by the collector or a supervisor.
    """

    way_in: WayIn
    way_out: WayOut
    collector: CollectorMode | None = None
    message_bytes: int = MESSAGE_BYTES
    files_in: bool = False
    files_out: bool = False

    @property
    def files(self) -> bool:
        """Whether its pod needs a plan of transfers."""
        return self.files_in or self.files_out

    @property
    def supervised(self) -> bool:
        """Whether what runs its function does the work of the other two containers."""
        return self.way_out is WayOut.SUPERVISOR

    @property
    def collected(self) -> bool:
        """Whether somebody reads what it wrote after its end."""
        return self.supervised or self.way_out is WayOut.COLLECTOR


def choose(step: Step, inputs: Mapping[str, Value], settings: PodSettings) -> Transport:
    """Choose the transports of an attempt.

    Args:
        step: the step with the pipeline's defaults merged in.
        inputs: the values of its inputs by name.
        settings: of the operator.

    Raises:
        CannotStart: there is no way for them: files without an object store, or inputs that no ConfigMap can hold.
    """
    if not settings.files:
        _refuse_files(step, inputs)
    values, files = split_inputs(inputs)
    way_in = _way_in(step, values, settings)
    extra, lasting = _brought_along(step)
    outputs = declared_outputs(step)
    files_out = any(output.type == "file" for output in outputs)
    if step.function is not None:
        message_bytes = message_share(extra + 1)
        largest = written_bytes(outputs)
        if files or largest is None or largest >= message_bytes:
            return Transport(way_in, WayOut.SUPERVISOR, None, message_bytes, bool(files), files_out)
    extra += bool(files)
    message_bytes = message_share(extra + 1)
    if not outputs:
        return Transport(way_in, WayOut.NONE, message_bytes=message_bytes, files_in=bool(files))
    largest = written_bytes(outputs)
    # Fewer, not as many: a message of the full length may have been cut.
    if largest is not None and largest < message_bytes:
        return Transport(way_in, WayOut.TERMINATION, message_bytes=message_bytes, files_in=bool(files))
    mode = CollectorMode.SIDECAR if lasting else settings.collector_mode
    return Transport(way_in, WayOut.COLLECTOR, mode, message_share(extra + 2), bool(files), files_out)


def split_inputs(
    inputs: Mapping[str, Value],
) -> tuple[dict[str, Value], dict[str, File | Sequence[File | None]]]:
    """Inputs by name as values, and as files or the files of a fan-out."""
    values: dict[str, Value] = {}
    files: dict[str, File | Sequence[File | None]] = {}
    for name, value in inputs.items():
        if isinstance(value, File):
            files[name] = value
        elif isinstance(value, list) and any(isinstance(item, File) for item in value):
            files[name] = [item if isinstance(item, File) else None for item in value]
        else:
            values[name] = value
    return values, files


def message_share(containers: int) -> int:
    """Bytes of each termination message that the kubelet keeps in a pod with so many containers."""
    return min(MESSAGE_BYTES, POD_MESSAGE_BYTES // containers)


def _refuse_files(step: Step, inputs: Mapping[str, Value]) -> None:
    needed = f"files need an object store, and this operator has none; {NAME_A_STORE}"
    for name in split_inputs(inputs)[1]:
        raise CannotStart(f"spec.steps[{step.name}].inputs[{name}]: {needed}, or pass a value")
    for output in step.outputs:
        if output.type.value == "file":
            raise CannotStart(f"spec.steps[{step.name}].outputs[{output.name}].type: {needed}, or give a value")


# --- in -------------------------------------------------------------------------------------------


def input_texts(inputs: Mapping[str, Value]) -> dict[str, str]:
    """What the files of inputs hold, by name."""
    return {name: input_text(value) for name, value in inputs.items()}


def _way_in(step: Step, inputs: Mapping[str, Value], settings: PodSettings) -> WayIn:
    if not inputs:
        return WayIn.NONE
    texts = input_texts(inputs)
    sizes = {name: len(text.encode()) for name, text in texts.items()}
    keys = sum(len(input_annotation(name, position)) for position, name in enumerate(texts))
    if keys + sum(sizes.values()) <= settings.annotation_bytes:
        return WayIn.ANNOTATIONS
    if (size := sum(sizes.values())) > CONFIG_MAP_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise CannotStart(
            f"spec.steps[{step.name}].inputs: the values are {size:,} bytes, a ConfigMap holds {CONFIG_MAP_BYTES:,} "
            f'(largest: "{largest}" {sizes[largest]:,}); pass large data as files',
            reason=Reason.STEP_FAILED,
        )
    return WayIn.CONFIG_MAP


# --- out ------------------------------------------------------------------------------------------

_NUMBER: Final = 64
_SHORT_NUMBER: Final = 24
"""Bytes of the longest number that programs print, and of the longest in the shortest form that is exact."""
_ENTRY: Final = 18
"""Around a name and a value in indented JSON: `        "": "",` and its line end."""
_BLOCK: Final = 136
"""Around a value in `name<<END … END` with a delimiter as long as those that GitHub's tools make."""
_ESCAPED: Final = 6
"""What one byte of text can become in JSON (`\\u001b`)."""


def written_bytes(outputs: tuple[Declared, ...]) -> int | None:
    """The most bytes that `$PENSTOCK_OUTPUT` has if each output is written once, in any of its forms.

    None where declarations do not bound it. A step that writes an output again and again may write more: `outcomes`
    reads that as far as it can be read.
    """
    total = len("{\n}\n")
    for output in outputs:
        if output.type == "number":
            size = max(_NUMBER + _ENTRY, _SHORT_NUMBER + _BLOCK)
        elif output.type == "boolean":
            size = len("false") + _BLOCK
        elif output.type == "string" and output.max_bytes is not None:
            size = max(_ESCAPED * output.max_bytes + _ENTRY, output.max_bytes + _BLOCK)
        else:
            return None
        total += len(output.name) + size
    return total


def _brought_along(step: Step) -> tuple[int, bool]:
    """How many containers the pod template adds, and whether some of them run beside the step."""
    spec: Any = (step.pod_template or {}).get("spec")
    if not isinstance(spec, dict):
        return 0, False
    others = [item for item in _maps(spec.get("containers")) if item.get("name") != STEP_CONTAINER]
    init = _maps(spec.get("initContainers"))
    lasting = bool(others) or any(item.get("restartPolicy") == "Always" for item in init)
    return len(others) + len(init), lasting


def _maps(value: object) -> list[dict[str, Any]]:
    """The maps of a list; what is wrong with the rest is said where the template is merged."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
