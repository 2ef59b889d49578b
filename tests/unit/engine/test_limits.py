"""Bounds of values: into an execution, out of it, of one attempt, and of all that a status holds."""

from __future__ import annotations

import pytest

from builders import Drive, a_file, literal, pipeline
from penstock.engine.types import Limits

OVERHEAD = len('{"s":""}')


def text(size: int) -> str:
    """A string with which the object `{"s": …}` is so many bytes of JSON."""
    return "x" * (size - OVERHEAD)


@pytest.mark.parametrize(("size", "phase"), [(60_000, "Running"), (60_001, "Failed")])
def test_values_into_an_execution(drive: Drive, size: int, phase: str) -> None:
    x = drive(pipeline().input("s", "string").step("a"), inputs={"s": text(size)}).start()
    assert x.head()[0] == phase
    if phase == "Failed":
        assert (x.head()[1], x.started) == ("InputsTooLarge", [])
        assert x.message == (
            "the input values are together 60,001 bytes as JSON, the limit is 60,000 "
            '(largest: "s" 59,995 bytes); pass large data as a file'
        )


@pytest.mark.parametrize(("size", "phase"), [(60_000, "Succeeded"), (60_001, "Failed")])
def test_values_out_of_an_execution(drive: Drive, size: int, phase: str) -> None:
    told = pipeline().output("s", "string", "steps.a.outputs.s").output("f", "file", "steps.a.outputs.f")
    x = drive(told.step("a", outputs={"s": "string", "f": "file"})).start().succeed("a", s=text(size), f=a_file())
    assert (x.head()[0], x.phase("a")) == (phase, "Succeeded")
    if phase == "Failed":
        assert x.head()[1] == "OutputsTooLarge"
        assert "60,001 bytes as JSON, the limit is 60,000" in x.message
        assert x.outputs() == {"f": a_file()}
    else:
        assert x.outputs() == {"s": text(size), "f": a_file()}


def test_it_is_the_sum_that_counts_and_defaults_count_too(drive: Drive) -> None:
    told = pipeline().input("s", "string", default=text(59_000)).input("t", "string").step("a")
    assert drive(told, inputs={"t": ""}).start().head()[0] == "Running"
    x = drive(told, inputs={"t": "y" * 1_000}).start()
    assert x.head() == ("Failed", "InputsTooLarge")
    assert '(largest: "s" 58,994, "t" 1,002 bytes)' in x.message


def test_bytes_are_those_of_utf_8(drive: Drive) -> None:
    told = pipeline().input("s", "string").step("a")
    assert drive(told, inputs={"s": "é" * ((60_000 - OVERHEAD) // 2)}).start().head()[0] == "Running"
    assert drive(told, inputs={"s": "é" * ((60_002 - OVERHEAD) // 2)}).start().head()[0] == "Failed"


def test_files_are_exempt(drive: Drive) -> None:
    files = {f"f{index}": a_file("c" * 64) for index in range(150)}
    told = pipeline().step("a")
    for name in files:
        told.input(name, "file")
    assert drive(told, inputs=files, limits=Limits(input_bytes=2)).start().head()[0] == "Running"


def test_a_setting_raises_it(drive: Drive) -> None:
    told = pipeline().input("s", "string").output("s", "string", "inputs.s").step("a")
    limits = Limits(input_bytes=1_048_576, output_bytes=1_048_576)
    x = drive(told, inputs={"s": text(600_000)}, limits=limits).start().succeed("a")
    assert (x.head()[0], len(str(x.outputs()["s"]))) == ("Succeeded", 600_000 - OVERHEAD)


@pytest.mark.parametrize(("size", "phase"), [(50, "Succeeded"), (51, "Failed")])
def test_values_of_inputs_steps_and_outputs_are_one_object(drive: Drive, size: int, phase: str) -> None:
    told = pipeline().input("s", "string").output("s", "string", "steps.a.outputs.s")
    told.step("a", outputs={"s": "string"})
    x = drive(told, inputs={"s": text(50)}, limits=Limits(object_bytes=150)).start().succeed("a", s=text(size))
    assert (x.phase("a"), x.head()[0]) == ("Succeeded", phase)
    if phase == "Failed":
        assert (x.head()[1], x.outputs()) == ("OutputsTooLarge", {})
        assert x.message == (
            "the output values are 51 bytes as JSON, and the inputs and steps of this execution hold 101: "
            "together over the limit of 150; pass large data as files"
        )


def test_a_step_cannot_give_what_there_is_no_room_for_beside_the_inputs(drive: Drive) -> None:
    told = pipeline().input("s", "string").step("a", outputs={"s": "string"})
    x = drive(told, inputs={"s": text(60)}, limits=Limits(object_bytes=150)).start().succeed("a", s=text(91))
    assert (x.phase("a"), x.reason("a")) == ("Failed", "OutputsTooLarge")
    assert x.said("a") == (
        "the inputs and the steps of this execution are 60 bytes of values, and 91 more are over the limit of 150; "
        "pass large data as files"
    )


@pytest.mark.parametrize(("size", "phase"), [(100, "Succeeded"), (101, "Failed")])
def test_values_out_of_an_attempt(drive: Drive, size: int, phase: str) -> None:
    x = drive(pipeline().step("a", outputs={"s": "string"}), limits=Limits(step_output_bytes=100)).start()
    x.succeed("a", s=text(size))
    assert x.phase("a") == phase
    if phase == "Failed":
        assert x.reason("a") == "OutputsTooLarge"
        assert x.said("a").startswith("the output values are together 101 bytes as JSON, the limit is 100")


def test_values_into_an_attempt(drive: Drive) -> None:
    told = pipeline().step("a", inputs={"s": literal(text(101))})
    x = drive(told, limits=Limits(step_output_bytes=100)).start()
    assert (x.phase("a"), x.reason("a"), x.started) == ("Failed", "InputsTooLarge", [])
    assert "the input values are together 101 bytes" in x.said("a")


@pytest.mark.parametrize(("size", "phase"), [(50, "Succeeded"), (51, "Failed")])
def test_all_values_that_a_status_holds(drive: Drive, size: int, phase: str) -> None:
    told = pipeline().step("a", outputs={"s": "string"}).step("b", outputs={"s": "string"})
    x = drive(told, limits=Limits(status_bytes=100)).start().succeed("a", s=text(50)).succeed("b", s=text(size))
    assert x.phase("b") == phase
    if phase == "Failed":
        assert x.said("b") == (
            "the steps of this execution have given 50 bytes of values, and 51 more are over the limit of 100; "
            "pass large data as files"
        )


@pytest.mark.parametrize("size", [50, 51])
def test_items_count_once_and_not_again_as_a_list(drive: Drive, size: int) -> None:
    told = pipeline().step("f", forEach={"items": [1, 2]}, outputs={"s": "string"}).step("b", outputs={"s": "string"})
    x = drive(told, limits=Limits(status_bytes=150)).start()
    x.succeed("f[0]", s=text(50)).succeed("f[1]", s=text(50)).succeed("b", s=text(size))
    assert (x.phase("f"), x.phase("b")) == ("Succeeded", "Succeeded" if size == 50 else "Failed")


@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_what_did_not_succeed_keeps_what_it_wrote_only_where_there_is_room(drive: Drive, how: str) -> None:
    told = pipeline().step("a", outputs={"s": "string"}, onFailure="Continue").step("b", outputs={"s": "string"})
    for size, kept in ((50, {"s": text(50)}), (51, {})):
        x = drive(told, limits=Limits(status_bytes=100)).start().succeed("b", s=text(50))
        if how == "cancel":
            x.cancel()
        x.fail("a", s=text(size))
        assert (x.phase("a"), x.outputs("a")) == ("Failed" if how == "fail" else "Cancelled", kept)


def test_no_values_are_two_bytes_whatever_the_limit(drive: Drive) -> None:
    assert drive(pipeline().step("a"), limits=Limits(input_bytes=2, output_bytes=2)).start().succeed("a").finished
