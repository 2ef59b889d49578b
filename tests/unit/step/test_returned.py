"""What a function returned: what counts as a value or file, where files end up, and that bad outputs leave nothing."""

from __future__ import annotations

import json
import os
from collections import UserDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from penstock.step.outputs import collect
from penstock.step.returned import BadOutputsError, deliver, plain
from penstock.step.values import Declared

ACCURACY = Declared("accuracy", "number")
MODEL = Declared("model", "file")
Deliver = Callable[..., dict[str, Any]]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "output").touch()
    return folder


@pytest.fixture
def give(tmp_path: Path, work: Path) -> Deliver:
    """Deliver, and collect as the adapters do afterwards; gives values and the content of files."""

    def call(result: object, *declared: Declared, since: int = 0) -> dict[str, Any]:
        output, outputs = tmp_path / "output", tmp_path / "outputs"
        deliver(result, declared, output_file=output, outputs_dir=outputs, work=work, since=since)
        collected = collect(declared, output, outputs, limit=10_000)
        assert collected.problems == []
        return {**collected.values, **{n: p.read_text() if p.is_file() else p for n, p in collected.files.items()}}

    return call


class Scalar:
    """As numpy's scalars: not a number of Python's, with `item` to get one."""

    def __init__(self, value: object) -> None:
        self._value = value

    def item(self) -> object:
        return self._value


class Array(Scalar):
    """As numpy's arrays: `item` works only for one element."""

    def item(self) -> object:
        raise ValueError("can only convert an array of size 1")

    def tolist(self) -> object:
        return self._value


class Circle:
    def item(self) -> object:
        return Circle()


def test_values_of_all_kinds_arrive_as_json(give: Deliver) -> None:
    result = UserDict(
        {"accuracy": Scalar(0.97), "names": ("a", Scalar("b")), "grid": {"x": Array([[1, 2]])}, "ok": True}
    )
    declared = (ACCURACY, Declared("names", "array"), Declared("grid", "json"), Declared("ok", "boolean"))
    assert give(result, *declared) == {"accuracy": 0.97, "names": ["a", "b"], "grid": {"x": [[1, 2]]}, "ok": True}


def test_what_has_no_json_stays_as_it_is() -> None:
    half = Fraction(1, 2)
    assert plain(half) is half
    assert isinstance(plain(Circle()), Circle)
    assert plain(Scalar) is Scalar


def test_a_step_without_outputs_returns_nothing(give: Deliver) -> None:
    assert give(None) == {}
    assert give({}) == {}


@pytest.mark.parametrize("wrap", [lambda path: {"path": path}, Path, lambda path: {"path": Path(path)}])
def test_a_file_is_returned_by_path(give: Deliver, wrap: Callable[[str], object]) -> None:
    Path("m.bin").write_text("model")
    assert give({"model": wrap("m.bin"), "accuracy": 1}, MODEL, ACCURACY) == {"model": "model", "accuracy": 1}
    assert Path("m.bin").read_text() == "model"


def test_a_file_of_its_own_is_linked_and_an_older_one_copied(give: Deliver, tmp_path: Path) -> None:
    for name in ("new", "old"):
        Path(name).write_text(name)
    os.utime("old", ns=(1, 1))
    assert give({"a": Path("new"), "b": Path("old")}, Declared("a", "file"), Declared("b", "file"), since=2) == {
        "a": "new",
        "b": "old",
    }
    assert (tmp_path / "outputs" / "a").samefile("new")
    assert not (tmp_path / "outputs" / "b").samefile("old")


def test_a_file_from_outside_the_work_folder_is_copied_also_through_a_link(give: Deliver, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("kept by others")
    Path("input").symlink_to(tmp_path / "store")
    assert give({"model": Path("input")}, MODEL) == {"model": "kept by others"}
    assert not (tmp_path / "outputs" / "model").is_symlink()
    assert (tmp_path / "store").stat().st_nlink == 1


def test_a_folder_is_returned_with_all_in_it(give: Deliver) -> None:
    Path("out/sub").mkdir(parents=True)
    Path("out/sub/a").write_text("1")
    Path("out/link").symlink_to("sub/a")
    folder = give({"model": {"path": "out"}}, MODEL)["model"]
    assert (folder / "sub" / "a").read_text() == "1"
    assert (folder / "link").readlink() == Path("sub/a")


def test_a_file_that_the_function_put_in_place_itself_counts(give: Deliver, tmp_path: Path) -> None:
    target = tmp_path / "outputs" / "model"
    target.write_text("model")
    assert give(None, MODEL) == {"model": "model"}
    assert give({"model": target}, MODEL) == {"model": "model"}


def test_a_file_with_another_name_in_the_outputs_is_moved(give: Deliver, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "model.bin").write_text("model")
    path = tmp_path / "outputs" / "model.bin"
    assert give({"a": path, "b": path}, Declared("a", "file"), Declared("b", "file")) == {"a": "model", "b": "model"}
    assert _names(tmp_path / "outputs") == ["a", "b"]


def test_values_that_were_appended_count_and_returned_ones_override(give: Deliver, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("accuracy=0.1\nname=007\n")
    assert give({"accuracy": 0.9}, ACCURACY, Declared("name", "string")) == {"accuracy": 0.9, "name": "007"}


@pytest.mark.parametrize(
    ("result", "declared", "says"),
    [
        (0.97, [ACCURACY], 'returned the number 0.97, wanted a dict of outputs by name: return {"accuracy": …}'),
        (
            [1],
            [ACCURACY, MODEL],
            'got an array|an array of 1 item, wanted a dict .* return {"accuracy": …, "model": …}',
        ),
        (0, [], "returned the number 0, but the step declares no outputs"),
        ({1: 2}, [ACCURACY], "a dict with the number 1 as a key"),
        (None, [ACCURACY], 'output "accuracy" was not written: return {"accuracy": …} from the function'),
        ({"accuracy": "high"}, [ACCURACY], 'output "accuracy": wanted a number, got the string "high"'),
        ({"accuracy": float("nan")}, [ACCURACY], "finite numbers"),
        ({"accuracy": {1, 2}}, [ACCURACY], "got a Python object of type set"),
        ({"accuracy": Path("x")}, [ACCURACY], "wanted a number, got a Python object of type pathlib"),
        ({"accuracy": 1, "acuracy": 1}, [ACCURACY], '"acuracy" is not declared: .*did you mean "accuracy"'),
        (
            {},
            [MODEL],
            r'"model" was not written: return {"model": {"path": …}} or write it to \$PENSTOCK_OUTPUTS/model',
        ),
        ({"model": "file"}, [MODEL], 'wanted a file, got the string "file": return {"model": {"path": "file"}}'),
        ({"model": {"path": 3}}, [MODEL], "wanted a file, got an object with 1 key"),
        ({"model": {"path": "none"}}, [MODEL], 'output "model": there is no file "none" \\(looked in .*work\\)'),
        ({"model": Path("pipe")}, [MODEL], "pipe is a named pipe"),
        ({"model": Path("folder")}, [MODEL], "folder/link is a link that leads out"),
        ({"model": Path("..")}, [MODEL], r"the folder \"..\" holds \$PENSTOCK_OUTPUTS itself"),
        ({"other": Path("file")}, [Declared("other", "file")], r"and also wrote \$PENSTOCK_OUTPUTS/other"),
    ],
)
def test_what_does_not_fit_is_explained_and_leaves_nothing(
    give: Deliver, tmp_path: Path, result: object, declared: list[Declared], says: str
) -> None:
    Path("file").write_text("file")
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("folder/link").symlink_to("../file")
    if "other" in says:
        (tmp_path / "outputs" / "other").write_text("other")
    before = _names(tmp_path / "outputs")
    # A good output beside the bad one must not be written either.
    good = {"good": Path("file")} if isinstance(result, dict) else {}
    with pytest.raises(BadOutputsError, match=says):
        give(
            result | good if isinstance(result, dict) else result, *declared, *[Declared(name, "file") for name in good]
        )
    assert (tmp_path / "output").read_text() == ""
    assert _names(tmp_path / "outputs") == before


def test_all_problems_are_reported_at_once(give: Deliver, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "left").write_text("")
    with pytest.raises(BadOutputsError) as caught:
        give({"accuracy": "high", "model": "m", "extra": 1}, ACCURACY, MODEL, Declared("table", "file"))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        'output "accuracy"',
        'output "extra" is not declared',
        'output "model"',
        'output "table" was not written',
        'output "left" is not declared but is in $PENSTOCK_OUTPUTS',
    ]


def test_the_file_holds_one_json_object(give: Deliver, tmp_path: Path) -> None:
    give({"b": "é", "a": 1}, Declared("b", "string"), Declared("a", "number"))
    assert json.loads((tmp_path / "output").read_bytes()) == {"b": "é", "a": 1}
