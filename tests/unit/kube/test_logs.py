"""Log lines: one JSON object each, with the execution that a task is about."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from typing import Any

import pytest

from penstock.engine.types import Identity
from penstock.kube import logs

IRIS = Identity("iris-x", "uid", "team")


def logged(formatter: logging.Formatter, message: str, *values: object, **fields: Any) -> str:
    """A line that was logged with these fields."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = logging.Logger("penstock.test")
    log.addHandler(handler)
    log.warning(message, *values, **fields)
    return stream.getvalue()


def read(message: str, *values: object, **fields: Any) -> dict[str, Any]:
    line = logged(logs.JsonFormatter(), message, *values, **fields)
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_is_one_json_object_whatever_is_in_it() -> None:
    found = read('said "%s"', "no\nsuch é \udc80", extra={"step": "a", "item": None, "attempt": 2})
    assert (found["level"], found["logger"]) == ("WARNING", "penstock.test")
    assert found["message"] == 'said "no\nsuch é \udc80"'
    assert (found["step"], found["attempt"]) == ("a", 2)
    assert "item" not in found


def test_a_traceback_is_in_the_same_line() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        found = read("failed", exc_info=sys.exc_info())
    assert found["exception"].endswith("ValueError: wrong")


async def test_what_a_task_logs_is_about_its_execution_and_what_others_log_is_not() -> None:
    async def work(execution: Identity | None) -> dict[str, Any]:
        logs.about(execution)
        await asyncio.sleep(0)
        return read("it is tried again")

    first, second, none = await asyncio.gather(work(IRIS), work(Identity("other", "u", "team")), work(None))
    assert (first["execution"], first["namespace"]) == ("iris-x", "team")
    assert second["execution"] == "other"
    assert "execution" not in none


async def test_what_is_logged_of_an_attempts_objects_says_which_attempt_it_is() -> None:
    labels = {
        "penstock.dev/execution": "iris-x",
        "penstock.dev/step": "train",
        "penstock.dev/item": "3",
        "penstock.dev/attempt": "2",
    }
    logs.about_attempt({"name": "iris-x-train-3-2", "namespace": "team", "labels": labels})
    found = read("its log cannot be read")
    about = {"execution": "iris-x", "namespace": "team", "step": "train", "item": 3, "attempt": 2}
    assert about.items() <= found.items()
    logs.about_attempt({"name": "a-job-of-others", "namespace": "team"})
    assert "namespace" not in read("said")


@pytest.mark.parametrize("name", ["message", "level", "time"])
def test_a_field_does_not_hide_what_every_line_has(name: str) -> None:
    record = logging.makeLogRecord({"msg": "said", "levelname": "INFO", name: "hidden"})
    assert json.loads(logs.JsonFormatter().format(record))[name] != "hidden"


async def test_text_for_people_has_the_same_fields() -> None:
    logs.about(IRIS)
    line = logged(logs.TextFormatter(), "step finished", extra={"step": "a"})
    assert line.endswith(" WARNING penstock.test: step finished execution=iris-x namespace=team step=a\n")
