"""What an attempt sees: files of inputs, variables, and Kubernetes' own `$(NAME)`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.step.inputs import MAX_VARIABLE, MAX_VARIABLES, contract_env, env_name, expand, write_inputs


def test_each_input_is_a_file_and_a_variable(tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    env = write_inputs(
        folder, {"text": "a\r\né", "learning-rate": 0.5, "on": True, "list": [1, {"a": None}], "none": None}, {}
    )
    assert env == {
        "INPUT_TEXT": "a\r\né",
        "INPUT_LEARNING_RATE": "0.5",
        "INPUT_ON": "true",
        "INPUT_LIST": '[1,{"a":null}]',
        "INPUT_NONE": "null",
    }
    assert {path.name: path.read_bytes().decode() for path in folder.iterdir()} == {
        "text": "a\r\né", "learning-rate": "0.5", "on": "true", "list": '[1,{"a":null}]', "none": "null",
    }  # fmt: skip


@pytest.mark.parametrize("link", [True, False], ids=["linked", "copied"])
def test_files_and_folders_are_there_under_their_names(tmp_path: Path, link: bool) -> None:
    table, data = tmp_path / "table.csv", tmp_path / "data"
    table.write_text("1,2")
    data.mkdir()
    (data / "part").write_text("3")
    folder = tmp_path / "inputs"
    env = write_inputs(folder, {}, {"table": table, "data": data, "parts": [table, None, data]}, link=link)
    assert env == {f"INPUT_{name.upper()}": str(folder / name) for name in ("table", "data", "parts")}
    assert (folder / "table").read_text() == "1,2"
    assert (folder / "data" / "part").read_text() == "3"
    assert sorted(path.name for path in (folder / "parts").iterdir()) == ["0", "2"]
    assert (folder / "parts" / "2" / "part").read_text() == "3"
    assert (folder / "table").is_symlink() is link
    (folder / "table").write_text("changed")
    assert (table.read_text() == "1,2") is not link


def test_a_file_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_inputs(tmp_path / "inputs", {}, {"table": tmp_path / "none"})


def test_large_inputs_are_files_only(tmp_path: Path) -> None:
    env = write_inputs(tmp_path, {"fits": "x" * MAX_VARIABLE, "large": "é" * (MAX_VARIABLE // 2) + "x", "small": 1}, {})
    assert sorted(env) == ["INPUT_FITS", "INPUT_SMALL"]
    assert (tmp_path / "large").stat().st_size == MAX_VARIABLE + 1


def test_all_variables_together_are_bounded(tmp_path: Path) -> None:
    env = write_inputs(tmp_path, {f"i{number}": "x" * 30_000 for number in range(6)} | {"last": "x"}, {})
    assert sorted(env) == ["INPUT_I0", "INPUT_I1", "INPUT_I2", "INPUT_I3", "INPUT_LAST"]
    assert sum(len(name) + len(value) + 2 for name, value in env.items()) <= MAX_VARIABLES


@pytest.mark.parametrize(
    ("inputs", "files", "says"),
    [
        ({"a-b": 1, "a_b": 2}, {}, '"a-b" and "a_b" are both INPUT_A_B'),
        ({"../a": 1}, {}, "cannot be the name"),
        ({"a": 1}, {"a": Path("x")}, "both as a value and as a file"),
    ],
)
def test_names_that_cannot_be_used_are_refused_before_anything_is_written(
    tmp_path: Path, inputs: dict[str, object], files: dict[str, Path], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        write_inputs(tmp_path / "inputs", inputs, files)
    assert not (tmp_path / "inputs").exists()


def test_names_of_variables() -> None:
    assert env_name("rows") == "INPUT_ROWS"
    assert env_name("learning-rate_2") == "INPUT_LEARNING_RATE_2"


def test_the_variables_of_the_contract() -> None:
    def make(index: int) -> dict[str, str]:
        return contract_env(
            inputs_dir=Path("/i"), output_file="/o", outputs_dir="/os", execution="run-1", step="train", attempt=2,
            pipeline="iris", index=index,
        )  # fmt: skip

    assert make(-1) == {
        "PENSTOCK_INPUTS": "/i",
        "PENSTOCK_OUTPUT": "/o",
        "PENSTOCK_OUTPUTS": "/os",
        "PENSTOCK_EXECUTION": "run-1",
        "PENSTOCK_STEP": "train",
        "PENSTOCK_ATTEMPT": "2",
        "PENSTOCK_PIPELINE": "iris",
    }
    assert make(0) == make(-1) | {"PENSTOCK_INDEX": "0"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y$(A)z"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$()", "$()"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$(A$(A)", "$(A$(A)"),
        ("$(A)$$", "1$"),
        ("a$$b$(", "a$b$("),
        ("$(EMPTY)|", "|"),
        ("$(date) costs $5", "$(date) costs $5"),
    ],
)
def test_expansion_as_kubernetes_does_it(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "$(A)", "EMPTY": ""}) == expected


def _kubernetes(text: str, env: dict[str, str]) -> str:
    """The algorithm of k8s.io/kubernetes/third_party/forked/golang/expansion, character by character."""
    out, checkpoint, cursor = "", 0, 0
    while cursor < len(text):
        if text[cursor] == "$" and cursor + 1 < len(text):
            out += text[checkpoint:cursor]
            rest = text[cursor + 1 :]
            if rest[0] == "$":
                read, advance = "$", 1
            elif rest[0] == "(" and ")" in rest:
                name = rest[1 : rest.index(")")]
                read, advance = env.get(name, f"$({name})"), len(name) + 2
            else:
                read, advance = "$" + rest[0], 1
            out += read
            cursor += advance
            checkpoint = cursor + 1
        cursor += 1
    return out + text[checkpoint:]


@given(st.lists(st.sampled_from(["$", "(", ")", "A", "B", "x", "\n"]), max_size=14).map("".join))
def test_expansion_agrees_with_the_original_algorithm(text: str) -> None:
    env = {"A": "1", "B": "$(A)", "AB": "$$"}
    assert expand(text, env) == _kubernetes(text, env)


@given(st.text())
def test_escaped_text_expands_to_itself(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "1"}) == text
