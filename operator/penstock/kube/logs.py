"""How log lines are written, and how those about an execution come to say which."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from typing import Any

from penstock.engine.types import Identity
from penstock.kube import names
from penstock.kube.settings import LogFormat
from penstock.step.values import JsonObject

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_about: ContextVar[Identity | JsonObject | None] = ContextVar("about", default=None)


def about(execution: Identity | None) -> None:
    """What this task logs from now on is about this execution."""
    _about.set(execution)


def about_attempt(metadata: JsonObject) -> None:
    """What this task logs from now on is about the attempt whose Job or Pod has this metadata."""
    # No more of it than is needed: timers keep what is set when they are made.
    _about.set({"namespace": metadata["namespace"], "labels": metadata.get("labels", {})})


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`, and which execution it is about."""
    found = {key: value for key, value in record.__dict__.items() if key not in _STANDARD and value is not None}
    return _known(_about.get()) | found


def _known(of: Identity | JsonObject | None) -> dict[str, Any]:
    if of is None:
        return {}
    if isinstance(of, Identity):
        return {"execution": of.name, "namespace": of.namespace}
    labels = of["labels"]
    attempt = names.attempt_of(labels)
    if attempt is None:
        return {}
    found = {"execution": labels.get(names.EXECUTION), "namespace": of["namespace"], "step": attempt.step}
    return found | ({"item": attempt.index} if attempt.index >= 0 else {}) | {"attempt": attempt.attempt}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        found: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        found = _fields(record) | found
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people, with the same fields at its end."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, with a traceback below it where there is one."""
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        at = self.formatTime(record, "%H:%M:%S")
        line = f"{at} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up(log_format: LogFormat, level: str) -> None:
    """Write the log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
