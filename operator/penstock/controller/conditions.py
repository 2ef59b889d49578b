"""Conditions of statuses, as kstatus reads them: Ready, and beside it Reconciling or Stalled where it is not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from penstock.engine.status import to_timestamp
from penstock.step.values import JsonObject

MAX_MESSAGE: Final = 32_768
"""Characters of a condition's message; the bound of Kubernetes."""


class Condition(NamedTuple):
    """What is to be said: whether `type` holds, a word why, and a sentence."""

    type: str
    holds: bool
    reason: str
    message: str


def conditions(
    wanted: Iterable[Condition], before: Iterable[Mapping[str, Any]], *, generation: int, now: float
) -> list[JsonObject]:
    """Conditions as a status has them; the moment of a transition stays as it was where nothing has changed over.

    Args:
        wanted: what is to be said.
        before: the conditions that the status has.
        generation: the generation of the spec that was looked at.
        now: seconds since the epoch.
    """
    known = {each["type"]: each for each in before}
    found: list[JsonObject] = []
    for each in wanted:
        status = "True" if each.holds else "False"
        old = known.get(each.type, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        found.append(
            {
                "type": each.type,
                "status": status,
                "reason": each.reason,
                "message": each.message[:MAX_MESSAGE],
                "lastTransitionTime": since or to_timestamp(now),
                "observedGeneration": generation,
            }
        )
    return found


def pipeline_status(
    before: Mapping[str, Any], *, broken: str, revision: int, generation: int, now: float
) -> dict[str, Any]:
    """The status of a pipeline that was read.

    Args:
        before: the status that it has.
        broken: what is wrong with it; empty: it can run.
        revision: number of the newest revision that can run; 0: there is none.
        generation: the generation of the spec that was read.
        now: seconds since the epoch.
    """
    reason = "InvalidPipeline" if broken else "Compiled"
    wanted = [Condition("Ready", not broken, reason, broken or "can be run")]
    if broken:
        wanted.append(Condition("Stalled", True, reason, broken))
    said = conditions(wanted, before.get("conditions", ()), generation=generation, now=now)
    found: dict[str, Any] = {"observedGeneration": generation, "conditions": said}
    return found | {"revision": revision} if revision else found
