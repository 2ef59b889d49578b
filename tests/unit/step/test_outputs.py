"""What an attempt left: complete outputs, and every kind of thing that can be wrong with them, all at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.step.outputs import Collected, collect
from penstock.step.values import Declared

ACCURACY = Declared("accuracy", "number")
MODEL = Declared("model", "file")


@pytest.fixture
def left(tmp_path: Path) -> Callable[..., Collected]:
    """Collect what is in `tmp_path/output` and `tmp_path/outputs`."""

    def call(*declared: Declared, text: str | bytes | None = None, limit: int = 1_000) -> Collected:
        if text is not None:
            (tmp_path / "output").write_bytes(text if isinstance(text, bytes) else text.encode())
        return collect(declared, tmp_path / "output", tmp_path / "outputs", limit=limit)

    (tmp_path / "outputs").mkdir()
    return call


def test_values_and_files_as_declared(left: Callable[..., Collected], tmp_path: Path) -> None:
    (tmp_path / "outputs" / "model").write_bytes(b"m")
    (tmp_path / "outputs" / "plots").mkdir()
    (tmp_path / "outputs" / "plots" / "one.png").write_bytes(b"p")
    (tmp_path / "outputs" / ".DS_Store").write_bytes(b"")
    result = left(
        ACCURACY, MODEL, Declared("plots", "file"), Declared("labels", "array"),
        text='accuracy=0.1\naccuracy=0.97\nlabels<<E\n["a",\n"b"]\nE\n',
    )  # fmt: skip
    assert result == Collected(
        values={"accuracy": 0.97, "labels": ["a", "b"]},
        files={"model": tmp_path / "outputs" / "model", "plots": tmp_path / "outputs" / "plots"},
        problems=[],
    )


def test_a_step_without_outputs_leaves_nothing(left: Callable[..., Collected], tmp_path: Path) -> None:
    (tmp_path / "outputs").rmdir()
    assert left() == Collected({}, {}, [])


def test_all_problems_are_reported_at_once_and_what_is_good_is_kept(
    left: Callable[..., Collected], tmp_path: Path
) -> None:
    (tmp_path / "outputs" / "table").write_bytes(b"t")
    (tmp_path / "outputs" / "modle").write_bytes(b"m")
    result = left(
        ACCURACY, MODEL, Declared("table", "file"), Declared("rows", "number"), Declared("name", "string"),
        text="acuracy=0.9\nrows=many\nname=iris\n",
    )  # fmt: skip
    declared = 'declared are "accuracy", "model", "table", "rows", "name"'
    assert result.problems == [
        'output "accuracy" was not written: append `accuracy=VALUE` to $PENSTOCK_OUTPUT',
        'output "rows": wanted a number, got the string "many"',
        f'output "acuracy" is not declared: {declared}; did you mean "accuracy"?',
        'output "model" was not written: write it to $PENSTOCK_OUTPUTS/model',
        f'output "modle" is not declared but is in $PENSTOCK_OUTPUTS: {declared}; did you mean "model"?',
    ]
    assert result.values == {"name": "iris"}
    assert result.files == {"table": tmp_path / "outputs" / "table"}


def test_a_value_left_as_a_file_and_a_file_written_as_a_value_are_explained(
    left: Callable[..., Collected], tmp_path: Path
) -> None:
    (tmp_path / "outputs" / "accuracy").write_text("0.9")
    assert left(ACCURACY, MODEL, text='{"model": {"path": "m.bin"}}').problems == [
        'output "accuracy" was left at $PENSTOCK_OUTPUTS/accuracy, which is for files, but its type is number: '
        "append `accuracy=VALUE` to $PENSTOCK_OUTPUT, or declare `type: file`",
        'output "model": wanted a file, got an object with 1 key in $PENSTOCK_OUTPUT: '
        "write the file to $PENSTOCK_OUTPUTS/model",
        'output "model" was not written: write it to $PENSTOCK_OUTPUTS/model',
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\x7fELF\x02\x01\x00\x00", "line 1: holds a NUL byte"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"Traceback (most recent call last):\n", "neither name=value"),
        (b"accuracy<<E\n0.9\n", "never closed"),
        (b"accuracy=" + b"1" * 8_000, "holds 8,009 bytes, more than the 8,000"),
    ],
    ids=["binary", "another encoding", "garbage", "never closed", "far too large"],
)
def test_garbage_is_one_problem(left: Callable[..., Collected], text: bytes, says: str) -> None:
    result = left(ACCURACY, text=text)
    assert len(result.problems) == 1
    assert says in result.problems[0]


def test_values_over_the_limit_name_the_sizes(left: Callable[..., Collected]) -> None:
    declared = (Declared("a", "string"), Declared("b", "json"))
    text = f"a={'x' * 100}\nb=[1]\n"
    size = len('{"a":"","b":[1]}') + 100
    assert left(*declared, text=text, limit=size).problems == []
    result = left(*declared, text=text, limit=size - 1)
    assert result.values == {}
    assert result.problems == [
        f'the values are {size} bytes as JSON, the limit is {size - 1} (largest: "a" 102, "b" 3): '
        "declare large data as `type: file` and write it to $PENSTOCK_OUTPUTS/<name>"
    ]


def test_many_undeclared_names_are_few_lines(left: Callable[..., Collected]) -> None:
    result = left(text="".join(f"n{number}=1\n" for number in range(100)))
    assert len(result.problems) == 11
    assert result.problems[0] == 'output "n0" is not declared: the step declares no outputs'
    assert result.problems[-1] == "90 more outputs are not declared"


def test_a_link_inside_the_outputs_is_followed(left: Callable[..., Collected], tmp_path: Path) -> None:
    (tmp_path / "outputs" / ".runs").mkdir()
    (tmp_path / "outputs" / ".runs" / "best").write_bytes(b"m")
    (tmp_path / "outputs" / "model").symlink_to(".runs/best")
    assert left(MODEL) == Collected({}, {"model": tmp_path / "outputs" / ".runs" / "best"}, [])


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _folder_with_link(path: Path) -> None:
    path.mkdir()
    (path / "inner").symlink_to("../../secret")


def _folder_with_pipe(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "inner")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(_link("../secret"), "outputs/model is a link that leads out of its folder", id="link out"),
        pytest.param(_link("/etc/passwd"), "outputs/model is a link to the absolute path /etc/passwd", id="absolute"),
        pytest.param(_link("model"), "leads in circles", id="circle"),
        pytest.param(_link("."), "is a link to the folder of all outputs", id="link to everything"),
        pytest.param(_link("none"), "was not written", id="link to nothing"),
        pytest.param(os.mkfifo, "outputs/model is a named pipe", id="pipe"),
        pytest.param(_folder_with_link, "model/inner is a link that leads out", id="link out of a folder"),
        pytest.param(_folder_with_pipe, "model/inner is a named pipe", id="pipe in a folder"),
    ],
)
def test_what_is_no_content_is_refused(
    left: Callable[..., Collected], tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    make(tmp_path / "outputs" / "model")
    result = left(MODEL)
    assert result.files == {}
    assert len(result.problems) == 1
    assert says in result.problems[0]
    assert result.problems[0].startswith('output "model"')


def test_a_file_in_place_of_the_folder_is_a_problem(left: Callable[..., Collected], tmp_path: Path) -> None:
    (tmp_path / "outputs").rmdir()
    (tmp_path / "outputs").write_text("")
    assert left(MODEL).problems == ["$PENSTOCK_OUTPUTS cannot be read: Not a directory"]


def test_files_that_only_the_step_may_read_are_named_with_the_remedy(
    left: Callable[..., Collected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "outputs" / "model"
    model.write_bytes(b"m")
    model.chmod(0)
    if os.access(model, os.R_OK):  # root reads everything
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert left(MODEL).problems == [
        f'output "model": {model} cannot be read: Permission denied: what reads outputs is another user; '
        "end the step with `chmod -R a+rX $PENSTOCK_OUTPUTS`"
    ]
