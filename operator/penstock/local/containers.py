"""Attempts as containers of Docker or Podman on this machine.

The container is the foreground child of its engine's client, which runs as `processes` run a command: its output, its
end and its being taken up after a restart are `spawn`'s. Only what is particular to containers is here. The container
has nothing of this machine but the attempt's folder; the source folder is the image's affair.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.controller.contract import CannotStart, function_types
from penstock.engine.reasons import Reason
from penstock.engine.types import AttemptId, StartAttempt
from penstock.local.attempts import End, LocalAttempts, Machine
from penstock.local.folders import Folder, split_inputs
from penstock.local.home import LocalError
from penstock.local.logs import last_line
from penstock.local.processes import command_line, step_env
from penstock.local.spawn import Command, Process
from penstock.local.store import RunInfo
from penstock.step.inputs import contract_env, expand, input_env, input_text, write_inputs

_INSIDE = "/penstock"
_ENGINE_FAILED = 125
"""Exit code of both clients where the engine, not the command, has failed."""
_ASK_SECONDS = 30


class NoEngineError(LocalError):
    """The container engine is not installed, or does not answer."""


class ContainerAttempts(LocalAttempts):
    """Runs attempts as containers.

    Args:
        machine: what to work with.
        engine: `docker` or `podman`.

    Raises:
        NoEngineError: the engine is not installed, or does not answer.
    """

    slow_to_conclude = True

    def __init__(self, machine: Machine, *, engine: str) -> None:
        super().__init__(machine)
        found = shutil.which(engine)
        if found is None:
            raise NoEngineError(
                f'--runner {engine}: there is no program "{engine}" on this machine; install it, or run without '
                "--runner to have steps run as processes"
            )
        self._client = found
        self._engine = engine
        answer = self._ask("info", "--format", "{{json .}}")
        if answer.returncode != 0:
            raise NoEngineError(
                f"--runner {engine}: the engine does not answer ({_last(answer.stderr)}); start it, or run without "
                "--runner to have steps run as processes"
            )
        rootless_podman = engine == "podman" and os.geteuid() != 0
        self._user = ["--userns=keep-id"] if rootless_podman else ["--user", f"{os.getuid()}:{os.getgid()}"]

    def prepare(self, key: str, start: StartAttempt, folder: Folder, info: RunInfo) -> Command:
        """See `LocalAttempts.prepare`."""
        step = start.step.spec
        if start.image is None:
            raise CannotStart(
                f"spec.steps[{step.name}].image: a container needs an image; name one here or in spec.defaults.image, "
                "or run without --runner"
            )
        values, files = split_inputs(start, self.machine.objects)
        inside = f"{_INSIDE}/inputs"
        texts = {name: input_text(values[name]) if name in values else f"{inside}/{name}" for name in start.inputs}
        variables = input_env(texts) | contract_env(
            inputs_dir=inside,
            output_file=f"{_INSIDE}/output",
            outputs_dir=f"{_INSIDE}/outputs",
            execution=info.name,
            step=start.id.step,
            attempt=start.id.attempt,
            pipeline=info.pipeline,
            index=start.id.index,
        )
        variables |= step_env(step, variables)
        if step.function is not None:
            variables |= function_types(start)
        write_inputs(folder.inputs, values, {})
        mounts = [
            *_mount(folder.inputs, inside, read_only=True),
            *_mount(folder.output, f"{_INSIDE}/output"),
            *_mount(folder.outputs, f"{_INSIDE}/outputs"),
            *_mount_files(files, folder.inputs, inside),
        ]
        options = ["--name", container_name(key, start.id), *self._user, "--log-driver", "none", "--pull", "missing"]
        if self._engine == "podman":
            options += ["--security-opt", "label=disable"]  # what is mounted keeps its SELinux label
        for name, value in variables.items():
            options += ["--env", f"{name}={value}"]
        line = command_line(step, variables)
        if line is not None:
            options += ["--entrypoint", line[0]]
        arguments = line[1:] if line is not None else command_args(step.args, variables)
        argv = [self._client, "run", *options, *mounts, start.image, *arguments]
        return Command(argv, dict(os.environ), folder.root)

    def signal(self, key: str, attempt: AttemptId, process: Process, number: int) -> None:
        """See `LocalAttempts.signal`: the client hands on SIGTERM; nothing can hand on SIGKILL."""
        if number == signal.SIGKILL:
            # Not waited for: its end is seen through the client that runs the container.
            name = container_name(key, attempt)
            self.background(lambda: self._ask("kill", name))
            return
        process.signal(number)

    def conclude(self, key: str, attempt: AttemptId, folder: Folder, exit_code: int | None) -> End:
        """See `LocalAttempts.conclude`; removes the container."""
        name = container_name(key, attempt)
        ran = exit_code != _ENGINE_FAILED or self._exit_code(name) == _ENGINE_FAILED
        self._ask("rm", "--force", "--volumes", name)
        if not ran:
            why = last_line(folder.log)
            return End(None, Reason.STEP_ERROR, f"{self._engine} could not run the container: {why}")
        return super().conclude(key, attempt, folder, exit_code)

    def _exit_code(self, name: str) -> int | None:
        """The exit code of a container's command, if it was run."""
        answer = self._ask("inspect", "--type", "container", "--format", "{{.State.Status}} {{.State.ExitCode}}", name)
        words = answer.stdout.split()
        return int(words[1]) if answer.returncode == 0 and len(words) == 2 and words[0] == "exited" else None

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self._client, *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", f"no answer in {_ASK_SECONDS} seconds")


def container_name(key: str, attempt: AttemptId) -> str:
    """The name of an attempt's container; the same for the same attempt."""
    item = "" if attempt.index < 0 else f"-{attempt.index}"
    return f"penstock-{key}-{attempt.step}{item}-{attempt.attempt}"


def command_args(args: Sequence[str] | None, variables: Mapping[str, str]) -> list[str]:
    """Arguments for the image's own command."""
    return [expand(argument, variables) for argument in args or ()]


def _mount(source: Path, target: str, *, read_only: bool = False) -> list[str]:
    """A bind mount; in the form that allows colons in paths."""
    origin = f'"source={source}"' if "," in str(source) else f"source={source}"
    return ["--mount", f"type=bind,{origin},target={target}" + (",readonly" if read_only else "")]


def _mount_files(files: Mapping[str, Path | Sequence[Path | None]], folder: Path, inside: str) -> list[str]:
    """Mounts of file inputs over placeholders in the folder of inputs, which is mounted read-only."""
    mounts: list[str] = []
    for name, place in files.items():
        if isinstance(place, Path):
            mounts += _placed(place, folder / name, f"{inside}/{name}")
            continue
        (folder / name).mkdir()
        for index, item in enumerate(place):
            if item is not None:
                mounts += _placed(item, folder / name / str(index), f"{inside}/{name}/{index}")
    return mounts


def _placed(source: Path, placeholder: Path, target: str) -> list[str]:
    real = source.resolve()
    if real.is_dir():
        placeholder.mkdir()
    else:
        placeholder.touch()
    return _mount(real, target, read_only=True)


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no reason given"
