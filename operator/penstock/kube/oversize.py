"""Statuses that are larger than an API server stores: what of them is kept, and what people are told. Pure.

The engine bounds what values take. This is for what is left: thousands of items, or of steps with long messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from penstock.api.base import MAX_MESSAGE
from penstock.api.execution import ExecutionPhase, StepPhase
from penstock.engine.reasons import Reason
from penstock.step.values import JsonObject, json_bytes

OBJECT_BYTES: Final = 1_400_000
"""What an object may have for its spec and its status, as JSON. etcd takes requests of 1.5 MiB, with all metadata."""
_MESSAGE: Final = 256
"""Characters that are kept of the message of a step where even that counts."""
_FINISHED: Final = frozenset(str(phase) for phase in StepPhase if phase.finished)
_FAILURES: Final = frozenset({str(ExecutionPhase.FAILED), str(ExecutionPhase.ERROR), str(ExecutionPhase.CANCELLED)})


def size(found: Mapping[str, Any]) -> int:
    """Bytes of an object as compact JSON."""
    return json_bytes(dict(found))


def cut(status: Mapping[str, Any], at: str, room: int) -> JsonObject:
    """The final status of an execution whose status is too large, without conditions.

    Left out are the largest values, then items of fan-outs, then long messages, until the rest fits.

    Args:
        status: the whole.
        at: when it was found to be too large, as in a manifest.
        room: how many bytes it may have; if that is too little for anything, nothing of the steps is kept.
    """
    whole = size(status)
    kept: JsonObject = {key: value for key, value in status.items() if key not in ("conditions", "stopping")}
    kept["steps"] = [_ended(step, at) for step in status.get("steps", ())]
    parts = sorted(_parts(kept), key=lambda part: -part[1])
    largest = ", ".join(f"{what} {taken:,}" for what, taken, *_ in parts[:3])
    why = (
        f"its status would be {whole:,} bytes, more than an API server stores in one object (largest: {largest} bytes);"
        " what did not fit was left out; pass large data as files"
    )
    if kept.get("phase") in _FAILURES:  # that it failed for another reason says more
        kept["message"] = f"{kept.get('message', '')[: MAX_MESSAGE - len(why) - 2]}; {why}"
    else:
        kept |= {"phase": str(ExecutionPhase.FAILED), "reason": str(Reason.OUTPUTS_TOO_LARGE), "message": why}
    kept.setdefault("finishedAt", at)
    left = size(kept)
    for _, taken, holder, key in parts:
        if left <= room:
            return kept
        del holder[key]
        left -= taken
    for step in kept["steps"]:
        if len(step.get("message", "")) > _MESSAGE:
            step["message"] = step["message"][: _MESSAGE - 2] + " …"
    if size(kept) > room:
        del kept["steps"]
    return kept


def _ended(step: Mapping[str, Any], at: str) -> JsonObject:
    """A step as it is left when its execution is ended."""
    ended = dict(step)
    ended.pop("retryAt", None)
    ended.pop("stopping", None)
    if step["phase"] not in _FINISHED:
        ended["phase"] = str(StepPhase.CANCELLED if step.get("attempts") or "itemCount" in step else StepPhase.OMITTED)
        ended |= {"reason": str(Reason.CANCELLED), "message": "the execution was ended", "finishedAt": at}
    return ended


def _parts(status: JsonObject) -> Iterator[tuple[str, int, JsonObject, str]]:
    """What can be left out: its name for people, its bytes, and where it is."""
    if "outputs" in status:
        yield "outputs of the execution", _taken(status, "outputs"), status, "outputs"
    for step in status["steps"]:
        for key in ("outputs", "items"):
            if key in step:
                yield f'{key} of step "{step["name"]}"', _taken(step, key), step, key


def _taken(holder: JsonObject, key: str) -> int:
    return json_bytes(holder[key]) + len(f',"{key}":')
