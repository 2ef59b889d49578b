"""The volumes of an attempt's pod, and what of ours is in it: what fetches before a step, what collects after it.

Pure, as `manifests`, whose part it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock.controller.contract import declared_outputs
from penstock.kube import names
from penstock.kube.merging import Object
from penstock.kube.transports import CollectorMode, PodSettings, WayIn
from penstock.step import collector, fetch, report, supervisor, wire

if TYPE_CHECKING:
    from penstock.kube.manifests import Attempt

HARDENED: Final[Mapping[str, Any]] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""What every container's security context has."""


def literal(text: str) -> str:
    """`text` written so that the kubelet's expansion of `$(NAME)` gives it back unchanged."""
    return text.replace("$", "$$")


def annotation_field(annotation: str) -> Object:
    """The source of a value that is in an annotation of the pod itself."""
    return {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{annotation}']"}


# --- volumes --------------------------------------------------------------------------------------


def volumes(attempt: Attempt) -> list[Object]:
    """The volumes that the step sees."""
    found: list[Object] = []
    given = _given(attempt)
    if attempt.transport.files_in:
        found.append({"name": names.INPUTS_VOLUME, "emptyDir": _for_files(attempt)})
    elif given is not None:
        found.append({"name": names.INPUTS_VOLUME, **given})
    elif attempt.settings.empty_folders:
        found.append({"name": names.INPUTS_VOLUME, "emptyDir": {}})
    if attempt.transport.collected:
        # A supervisor packs folders there, too.
        packed = attempt.transport.supervised and attempt.transport.files_out
        found.append({"name": names.VALUES_VOLUME, "emptyDir": _for_files(attempt) if packed else {}})
    if attempt.transport.collected or attempt.settings.empty_folders:
        size = _for_files(attempt) if attempt.transport.files_out else {}
        found.append({"name": names.OUTPUTS_VOLUME, "emptyDir": size})
    return found


def own_volumes(attempt: Attempt) -> list[Object]:
    """The volumes that only our own containers see, and a supervisor."""
    transport = attempt.transport
    found: list[Object] = []
    given = _given(attempt)
    if transport.files_in and given is not None:
        found.append({"name": names.GIVEN_VOLUME, **given})
    if transport.files:
        found.append({"name": names.TRANSFERS_VOLUME, "secret": {"secretName": attempt.name}})
    if transport.files_out and not transport.supervised:
        found.append({"name": names.SCRATCH_VOLUME, "emptyDir": _for_files(attempt)})
    return found


def _given(attempt: Attempt) -> Object | None:
    """The source of a volume with the values among the inputs."""
    match attempt.transport.way_in:
        case WayIn.ANNOTATIONS:
            items = [
                {"path": name, "fieldRef": annotation_field(names.input_annotation(name, position))}
                for position, name in enumerate(attempt.texts)
            ]
            return {"downwardAPI": {"items": items}}
        case WayIn.CONFIG_MAP:
            return {"configMap": {"name": attempt.name}}
    return None


def _for_files(attempt: Attempt) -> Object:
    limit = attempt.settings.files_size_limit
    return {"sizeLimit": limit} if limit else {}


_PLACES: Final = {
    names.INPUTS_VOLUME: names.INPUTS_DIR,
    names.VALUES_VOLUME: names.VALUES_DIR,
    names.OUTPUTS_VOLUME: names.OUTPUTS_DIR,
    names.GIVEN_VOLUME: names.GIVEN_DIR,
    names.TRANSFERS_VOLUME: names.TRANSFERS_DIR,
    names.SCRATCH_VOLUME: names.SCRATCH_DIR,
}


def mounts(attempt: Attempt) -> list[Object]:
    """What the step's container sees of them."""
    found = [_mount(volume, writable=volume["name"] != names.INPUTS_VOLUME) for volume in volumes(attempt)]
    if not attempt.transport.supervised:
        return found
    if attempt.transport.files_in:
        found.append({"name": names.INPUTS_VOLUME, "mountPath": names.FETCHED_DIR})
    return found + [_mount(volume) for volume in own_volumes(attempt)]


def supervisor_env(attempt: Attempt) -> dict[str, str]:
    """What tells a supervisor what to do: one variable, and nothing secret."""
    settings, transport = attempt.settings, attempt.transport
    own = _transfer_env(settings) if transport.files else {}
    if transport.files_out:
        own["TMPDIR"] = names.VALUES_DIR
    return supervisor.environment(
        supervisor.Settings(
            message_file=names.MESSAGE_FILE,
            message_bytes=min(report.MESSAGE_BYTES, transport.message_bytes),
            limit=settings.step_output_bytes,
            plan_file=_PLAN_FILE if transport.files else "",
            inputs_dir=names.FETCHED_DIR if transport.files_in else "",
            given_dir=names.GIVEN_DIR if transport.files_in and attempt.texts else "",
            environment=own,
        )
    )


def _mount(volume: Object, *, writable: bool = False) -> Object:
    mount: Object = {"name": volume["name"], "mountPath": _PLACES[volume["name"]]}
    if not writable:
        mount["readOnly"] = True
    if "downwardAPI" in volume or "configMap" in volume:
        # Where the kubelet keeps the files; the volume itself has hidden entries beside links to them.
        mount["subPath"] = "..data"
    return mount


# --- our own containers ---------------------------------------------------------------------------

_PLAN_FILE: Final = f"{names.TRANSFERS_DIR}/{names.PLAN_ENTRY}"


def collector_container(attempt: Attempt) -> Object:
    """The container that reads what the step wrote, and uploads its files."""
    settings, transport = attempt.settings, attempt.transport
    env = collector.environment(
        declared_outputs(attempt.step),
        output_file=names.COLLECTED_FILE,
        outputs_dir=names.OUTPUTS_DIR,
        message_file=names.MESSAGE_FILE,
        message_bytes=min(report.MESSAGE_BYTES, transport.message_bytes),
        limit=settings.step_output_bytes,
        wait=collector.PROCESSES if transport.collector is CollectorMode.SHARED else collector.SIGNAL,
        plan_file=_PLAN_FILE if transport.files_out else None,
    )
    if transport.files_out:
        env |= _transfer_env(settings) | {"TMPDIR": names.SCRATCH_DIR}
    seen = {names.VALUES_VOLUME, names.OUTPUTS_VOLUME}
    if transport.files_out:
        seen |= {names.TRANSFERS_VOLUME, names.SCRATCH_VOLUME}
    mounted = [
        _mount(volume, writable=volume["name"] == names.SCRATCH_VOLUME)
        for volume in (*volumes(attempt), *own_volumes(attempt))
        if volume["name"] in seen
    ]
    return _own_container(attempt, names.COLLECTOR_CONTAINER, settings.collector_command, env, mounted)


def fetch_container(attempt: Attempt) -> Object:
    """The init container that fetches files."""
    settings = attempt.settings
    seen = {names.INPUTS_VOLUME, names.GIVEN_VOLUME, names.TRANSFERS_VOLUME}
    found = [each for each in (*volumes(attempt), *own_volumes(attempt)) if each["name"] in seen]
    env = fetch.environment(
        plan_file=_PLAN_FILE,
        inputs_dir=names.INPUTS_DIR,
        message_file=names.MESSAGE_FILE,
        given_dir=names.GIVEN_DIR if attempt.texts else None,
    )
    mounted = [_mount(volume, writable=volume["name"] == names.INPUTS_VOLUME) for volume in found]
    command = settings.fetch_command
    return _own_container(attempt, names.FETCH_CONTAINER, command, env | _transfer_env(settings), mounted)


def _transfer_env(settings: PodSettings) -> dict[str, str]:
    env = {wire.PATIENCE: str(settings.transfer_patience_seconds)}
    if settings.store_authority:
        env["SSL_CERT_FILE"] = f"{names.TRANSFERS_DIR}/{names.AUTHORITY_ENTRY}"
    return env


def _own_container(
    attempt: Attempt, name: str, command: Sequence[str], env: Mapping[str, str], mounted: list[Object]
) -> Object:
    settings = attempt.settings
    container: Object = {
        "name": name,
        "image": settings.collector_image,
        "command": list(command),
        "env": [{"name": name, "value": literal(value)} for name, value in env.items()],
        "resources": {kind: dict(amounts) for kind, amounts in settings.collector_resources.items()},
        "securityContext": {
            **HARDENED,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": settings.collector_uid,
            "runAsGroup": settings.collector_uid,
        },
        "terminationMessagePath": names.MESSAGE_FILE,
        "volumeMounts": mounted,
    }
    if settings.collector_pull_policy is not None:
        container["imagePullPolicy"] = settings.collector_pull_policy
    return container
