"""Fingerprints of steps for the cache: what a step is, what it gets, and its key, as one SHA-256.

Two attempts with the same fingerprint would do the same; nothing else (names of executions, times) is part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from penstock.api.pipeline import Step
from penstock.engine.types import File, Value

_PARTS = {"image", "command", "args", "script", "shell", "function", "env", "env_from", "outputs", "pod_template"}


def of_step(step: Step) -> str:
    """Digest of what a step runs and gives, without its inputs; empty where the step has no cache."""
    if step.cache is None:
        return ""
    return _digest(step.model_dump(mode="json", include=_PARTS, exclude_none=True))


def of_attempt(step: str, image: str | None, inputs: Mapping[str, Value], key: Value, code: str) -> str:
    """Digest of what an attempt would do.

    Args:
        step: digest of the step, from `of_step`.
        image: its image.
        inputs: its inputs; files count by the digest of their content.
        key: value of `cache.key`.
        code: digest of what runs but is not named by the image (local sources).
    """
    values = {name: _plain(value) for name, value in sorted(inputs.items())}
    return _digest({"step": step, "image": image, "inputs": values, "key": _plain(key), "code": code})


def _plain(value: Any) -> Any:
    if isinstance(value, File):
        return {"sha256": value.sha256, "folder": value.folder}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
