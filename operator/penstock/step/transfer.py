"""Files between a pod and the store, through the signed URLs of a plan: what the init container and the collector call.

Everything that this needs is imported when there is something to transfer: most steps have no files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from penstock.step.values import JsonObject, quote

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.step.plan import Plan
    from penstock.step.wire import Settings


class Problem(NamedTuple):
    """Why a file could not be transferred.

    Attributes:
        text: a sentence that names the input or output.
        transient: whether the same might work later: the platform's trouble, not the user's.
    """

    text: str
    transient: bool


def fetch_inputs(plan: Plan, folder: Path, settings: Settings | None = None) -> list[Problem]:
    """Fetch all inputs of a plan into a folder, each as `folder/<name>`, complete and checked or not at all.

    Args:
        plan: what to fetch.
        folder: what the step will see as `$PENSTOCK_INPUTS`; made if it is not there. What has the name of an input
            is replaced.
        settings: bounds; by default what the environment says (see `wire.settings_from`).

    Returns:
        A problem for each input that is not there; empty: all are.

    Raises:
        ValueError: a variable of the environment cannot be used.
    """
    from penstock.step.download import Downloads  # noqa: PLC0415
    from penstock.step.wire import settings_from  # noqa: PLC0415

    if not plan.inputs:
        return []
    return Downloads(plan, folder, settings or settings_from(os.environ)).run()


def upload_outputs(
    plan: Plan, files: Mapping[str, Path], settings: Settings | None = None
) -> tuple[dict[str, JsonObject], list[Problem]]:
    """Give files and folders to the store; what was answered with success is there, whole.

    Args:
        plan: where to.
        files: existing files and folders by name of the output, as `outputs.collect` finds them.
        settings: bounds; by default what the environment says (see `wire.settings_from`).

    Returns:
        `{"key", "sha256", "size", "folder"}` by name for each that is in the store, and a problem for each that is not.

    Raises:
        ValueError: a variable of the environment cannot be used.
    """
    from penstock.step.upload import Uploads  # noqa: PLC0415
    from penstock.step.wire import settings_from  # noqa: PLC0415

    unplanned = [name for name in files if name not in plan.outputs]
    problems = [Problem(f"output {quote(name)} is not in the plan of transfers", transient=False) for name in unplanned]
    planned = {name: path for name, path in files.items() if name in plan.outputs}
    if not planned:
        return {}, problems
    done, failed = Uploads(plan, settings or settings_from(os.environ)).run(planned)
    return done, problems + failed
