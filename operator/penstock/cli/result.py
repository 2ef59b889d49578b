"""How a finished execution is printed: as an object, or as a few lines for people with the logs of what failed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from penstock.cli.main import emit
from penstock.engine.status import duration, from_timestamp, load_value
from penstock.engine.types import AttemptId, File
from penstock.local.logs import tail
from penstock.local.objects import Objects

_LOG_LINES = 15
"""Lines of a failed step's log that are shown."""
_FAILURES = 5
"""Failed steps and items whose logs are shown."""


def print_result(execution: dict[str, Any], output: str, objects: Objects) -> None:
    """Print a finished execution on standard output."""
    if output == "json":
        emit(json.dumps(execution, indent=2, ensure_ascii=False))
        return
    if output == "yaml":
        import yaml  # noqa: PLC0415 - only for this

        emit(yaml.safe_dump(execution, sort_keys=False, allow_unicode=True), nl=False)
        return
    status = execution["status"]
    text = f"{execution['metadata']['name']} {status['phase']}"
    if "startedAt" in status and "finishedAt" in status:
        text += f" in {duration(from_timestamp(status['finishedAt']) - from_timestamp(status['startedAt']))}"
    if status["phase"] != "Succeeded" and status.get("message"):
        text += f" ({status['reason']}): {status['message']}"
    emit(text)
    outputs = status.get("outputs", [])
    width = max((len(entry["name"]) for entry in outputs), default=0)
    for entry in outputs:
        emit(f"  {entry['name']:<{width}}  {shown(load_value(entry), objects.path)}")


def shown(value: Any, place_of: Callable[[File], Path]) -> str:
    """A value on one line for people; of a file, where it is and how large."""
    if isinstance(value, File):
        path = place_of(value)
        with contextlib.suppress(ValueError):
            path = path.relative_to(Path.cwd())
        return f"{path} ({'folder, ' if value.folder else ''}{value.size:,} bytes)"
    if isinstance(value, list) and any(isinstance(item, File) for item in value):
        return ", ".join("none" if item is None else shown(item, place_of) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def print_failures(execution: dict[str, Any], log_path: Callable[[AttemptId], Path]) -> None:
    """Show on standard error what failed steps printed last, and where their logs are."""
    failures = list(_failures(execution["status"]))
    for title, attempt in failures[:_FAILURES]:
        path = log_path(attempt)
        if not path.exists():
            continue  # it was never started
        lines = tail(path, _LOG_LINES)
        emit(f"\n{title}: {'its last lines, ' if lines else ''}log {path}", err=True)
        for line in lines:
            emit(f"  {line}", err=True)
    if len(failures) > _FAILURES:
        emit(f"\n{len(failures) - _FAILURES} more steps or items failed; see --output json", err=True)


def _failures(status: dict[str, Any]) -> Iterator[tuple[str, AttemptId]]:
    for step in status.get("steps", ()):
        if step["phase"] not in {"Failed", "Error"}:
            continue
        if "itemCount" not in step:
            if step.get("attempts"):
                yield step["name"], AttemptId(step["name"], -1, step["attempts"])
            continue
        for item in step.get("items", ()):
            if item["phase"] in {"Failed", "Error"} and item.get("attempts"):
                yield f"{step['name']}[{item['index']}]", AttemptId(step["name"], item["index"], item["attempts"])
