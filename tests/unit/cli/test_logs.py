"""What is printed of the logs of steps."""

from __future__ import annotations

import pytest

from penstock.cli.logs import write
from penstock.engine.types import AttemptId
from penstock.step.report import message


def test_what_a_function_gave_is_not_printed_among_what_it_printed(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    message({"outputs": {"text": "".join(chr(97 + n * n % 23) for n in range(9_000))}}, 100, mark="0123456789abcdef")
    log = b"before\npenstock-outputs are fine\n" + capsysbinary.readouterr().out.lstrip() + b"\xff after"
    assert log.count(b"penstock-outputs 0123456789abcdef 1/1 ") == 1
    write(log.split(b"\n"), AttemptId("train", -1, 1), prefixed=False)
    assert capsysbinary.readouterr().out == b"before\npenstock-outputs are fine\n\xff after\n"
