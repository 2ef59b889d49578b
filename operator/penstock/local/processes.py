"""Attempts as processes of this machine: what a step is run with when there is no container.

A step sees the environment of penstock itself (without what belongs to another step), its source folder's entries in
its working directory, and penstock's own Python first on the PATH. How processes are kept is `attempts`' and `spawn`'s.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from penstock.api.pipeline import Step
from penstock.controller.contract import CannotStart, function_types
from penstock.engine.reasons import Reason
from penstock.engine.types import StartAttempt
from penstock.local import sources
from penstock.local.attempts import LocalAttempts, Machine
from penstock.local.folders import Folder, split_inputs
from penstock.local.spawn import Command
from penstock.local.store import RunInfo
from penstock.step.inputs import contract_env, expand, write_inputs

DEFAULT_SHELL = ("/bin/sh", "-ec")
"""What runs a `script` whose step names no `shell`."""


class ProcessAttempts(LocalAttempts):
    """Runs attempts as processes.

    Args:
        machine: what to work with.
        environ: the environment that steps start from.
    """

    def __init__(self, machine: Machine, *, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(machine)
        given = os.environ if environ is None else environ
        self._environ = {
            name: value for name, value in given.items() if not name.startswith(("PENSTOCK_", "INPUT_", "OLDPWD"))
        }
        self._python = Path(sys.executable)
        self._environ["PATH"] = os.pathsep.join(
            part for part in (str(self._python.parent), self._environ.get("PATH", os.defpath)) if part
        )
        self._programs: dict[tuple[str, str], str] = {}

    def prepare(self, key: str, start: StartAttempt, folder: Folder, info: RunInfo) -> Command:
        """See `LocalAttempts.prepare`."""
        del key
        step = start.step.spec
        values, files = split_inputs(start, self.machine.objects)
        variables = write_inputs(folder.inputs, values, files)
        variables |= contract_env(
            inputs_dir=folder.inputs,
            output_file=folder.output,
            outputs_dir=folder.outputs,
            execution=info.name,
            step=start.id.step,
            attempt=start.id.attempt,
            pipeline=info.pipeline,
            index=start.id.index,
        )
        variables |= step_env(step, variables)
        folder.work.mkdir()
        env = {**self._environ, **variables, "PWD": str(folder.work)}
        if step.function is not None:
            env |= function_types(start)
        if info.source is not None:
            sources.link(info.source, folder.work)
        argv = command_line(step, variables, python=str(self._python))
        if argv is None:
            raise CannotStart(
                f"spec.steps[{step.name}]: names no command, script or function, and without a container there is no "
                "image to take one from; name one, or run with --runner docker or podman"
            )
        program = self._program(argv[0], env["PATH"], folder.work, step)
        return Command([program, *argv[1:]], env, folder.work)

    def _program(self, name: str, path: str, work: Path, step: Step) -> str:
        """The program as a path with a slash in it, so that no shell takes it for a word of its own."""
        if "/" in name:
            found = work / name
            if os.access(found, os.X_OK) and not found.is_dir():
                return name
            raise _no_program(step, name, there=found.exists())
        known = self._programs.get((name, path))
        if known is not None and os.access(known, os.X_OK):
            return known
        resolved = shutil.which(name, path=path)
        if resolved is None:
            if name not in {"python", "python3"}:
                raise _no_program(step, name, there=False)
            resolved = str(self._python)
        self._programs[name, path] = resolved = str(Path(resolved).absolute())
        return resolved


def _no_program(step: Step, name: str, *, there: bool) -> CannotStart:
    field = "shell" if step.script is not None else "command"
    if there:
        message = (
            f'"{name}" is not a program that can be run here; make it executable (chmod +x), or name its interpreter'
        )
    else:
        message = f'no such program "{name}" on this machine; install it, or run with --runner docker or podman'
    return CannotStart(
        f"spec.steps[{step.name}].{field}: {message}", reason=Reason.STEP_FAILED, exit_code=126 if there else 127
    )


def command_line(step: Step, variables: Mapping[str, str], *, python: str = "python") -> list[str] | None:
    """What a step runs, from `command` and `args`, `script` or `function`; None if it names none of them.

    Args:
        step: the step.
        variables: what `$(NAME)` may name.
        python: what runs a function.
    """
    args = [expand(argument, variables) for argument in step.args or ()]
    if step.script is not None:
        return [*(step.shell or DEFAULT_SHELL), step.script, *args]
    if step.function is not None:
        # -P: no json.py of the user may stand in for the library's; the runtime itself puts the user's folder first.
        return [python, "-P", "-m", "penstock.step", step.function]
    if step.command:
        return [*(expand(argument, variables) for argument in step.command), *args]
    return None


def step_env(step: Step, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that a step sets itself; `$(NAME)` may name those of the contract and earlier ones.

    Raises:
        CannotStart: one is to come from a Secret or ConfigMap, which only a cluster has.
    """
    found: dict[str, str] = {}
    for position, source in enumerate(step.env_from or ()):
        ref = source.secret_ref or source.config_map_ref
        if ref is not None and not ref.optional:
            kind = "Secret" if source.secret_ref is not None else "ConfigMap"
            raise _not_here(f"spec.steps[{step.name}].envFrom[{position}]", kind, ref.name)
    for variable in step.env or ():
        source_of = variable.value_from
        if source_of is None:
            found[variable.name] = expand(variable.value or "", {**variables, **found})
            continue
        key = source_of.secret_key_ref or source_of.config_map_key_ref
        if key is not None and not key.optional:
            kind = "Secret" if source_of.secret_key_ref is not None else "ConfigMap"
            raise _not_here(f"spec.steps[{step.name}].env[{variable.name}].valueFrom", kind, key.name)
    return found


def _not_here(place: str, kind: str, name: str) -> CannotStart:
    return CannotStart(
        f"{place}: {kind} {name!r} exists only in a cluster; give the variable a value for local runs (one that is set "
        "when penstock is started is seen by steps that run as processes) and mark the reference optional"
    )
