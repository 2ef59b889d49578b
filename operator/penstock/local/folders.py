"""The folder of one attempt: what the step finds in it, and what is read from it afterwards.

Shared by processes and containers; nothing here starts anything. In `runs/<uid>/<step>[/<index>]/<attempt>/`:

    work/      the working directory: the entries of the execution's copy of the source folder, linked
    inputs/    $PENSTOCK_INPUTS
    outputs/   $PENSTOCK_OUTPUTS
    output     $PENSTOCK_OUTPUT
    log        what the command printed
    state      what became of it: see `spawn`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.controller.contract import CannotStart
from penstock.engine.reasons import Reason
from penstock.engine.types import File, StartAttempt, Value
from penstock.local.home import StoreFull, full_disk, is_full
from penstock.local.objects import Objects, remove_tree
from penstock.step.outputs import collect
from penstock.step.values import Declared


@dataclass(frozen=True, slots=True)
class Folder:
    """The places in an attempt's folder.

    Attributes:
        root: the folder itself.
    """

    root: Path

    @property
    def work(self) -> Path:
        """The command's working directory."""
        return self.root / "work"

    @property
    def inputs(self) -> Path:
        """`$PENSTOCK_INPUTS`."""
        return self.root / "inputs"

    @property
    def outputs(self) -> Path:
        """`$PENSTOCK_OUTPUTS`."""
        return self.root / "outputs"

    @property
    def output(self) -> Path:
        """`$PENSTOCK_OUTPUT`."""
        return self.root / "output"

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.root / "log"

    @property
    def state(self) -> Path:
        """What became of it."""
        return self.root / "state"

    def make(self) -> None:
        """Make it, empty. One that was left by a power failure, when its record was lost, is removed.

        Raises:
            OSError: it cannot be made.
        """
        try:
            self.root.mkdir(parents=True)
        except FileExistsError:
            remove_tree(self.root)
            self.root.mkdir()
        self.outputs.mkdir()
        os.close(os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))

    def remove(self) -> None:
        """Remove it with all that is in it."""
        if self.root.exists():
            remove_tree(self.root)


@dataclass(frozen=True, slots=True)
class Left:
    """What an attempt left behind.

    Attributes:
        outputs: what is as declared, files already in the object store.
        reason: `InvalidOutputs`, or `StepError` where outputs could not be kept; None where all is well.
        message: what is wrong, for people.
    """

    outputs: Mapping[str, Value]
    reason: Reason | None = None
    message: str | None = None


def split_inputs(
    start: StartAttempt, objects: Objects
) -> tuple[dict[str, Value], dict[str, Path | Sequence[Path | None]]]:
    """The inputs of an attempt as JSON values, and as the places of files.

    Raises:
        CannotStart: a file is not in the store any more.
    """
    values: dict[str, Value] = {}
    files: dict[str, Path | Sequence[Path | None]] = {}
    for name, value in start.inputs.items():
        place = f"spec.steps[{start.step.name}].inputs[{name}]"
        if isinstance(value, File):
            files[name] = _present(value, objects, place)
        elif isinstance(value, list) and any(isinstance(item, File) for item in value):
            files[name] = [_present(item, objects, place) if isinstance(item, File) else None for item in value]
        else:
            values[name] = value
    return values, files


def _present(file: File, objects: Objects, place: str) -> Path:
    if not objects.exists(file):
        raise CannotStart(
            f"{place}: {objects.path(file)} is gone, or was changed since it was taken in; put it back, or "
            "run the execution anew"
        )
    return objects.path(file)


def collect_outputs(
    folder: Folder,
    declared: Sequence[Declared],
    objects: Objects,
    *,
    key: Callable[[str], str],
    limit: int,
    succeeded: bool,
) -> Left:
    """Read what an attempt gave and take its files into the object store. May be repeated: it gives the same again.

    Args:
        folder: the attempt's.
        declared: the step's outputs.
        objects: the store.
        key: the key of a file in the store, given the name of its output.
        limit: bytes that its values may have.
        succeeded: whether its command did; of one that failed nothing is demanded, what is there and sound is kept.
    """
    files = [output.name for output in declared if output.type == "file"]
    outputs: dict[str, Value] = {}
    try:
        for name in files:  # taken in before penstock was ended, but not recorded
            objects.take_back(key(name), folder.outputs / name)
        found = collect(declared, folder.output, folder.outputs, limit=limit)
        outputs.update(found.values)
        # Links first: what they point to may be an output of its own, about to be moved.
        for name in sorted(found.files, key=lambda name: not (folder.outputs / name).is_symlink()):
            outputs[name] = objects.put(folder.outputs / name, key(name))
    except StoreFull as error:
        return Left({}, Reason.STEP_ERROR, str(error))
    except OSError as error:
        return Left({}, Reason.STEP_ERROR, f"outputs cannot be kept: {_os_message(error)}")
    if succeeded and found.problems:
        return Left(outputs, Reason.INVALID_OUTPUTS, sentences(found.problems))
    return Left(outputs)


def os_problem(error: OSError, folder: Path) -> CannotStart:
    """What an error of the system means for an attempt that was being prepared in `folder`."""
    if is_full(error):
        return CannotStart(str(full_disk(folder)))
    return CannotStart(f"the attempt cannot be prepared: {_os_message(error)}")


def _os_message(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def sentences(problems: Iterable[str]) -> str:
    """Several problems as one paragraph."""
    return "; ".join(problems)
