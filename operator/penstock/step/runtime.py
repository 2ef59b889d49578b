"""Runs the Python function of a step: `python -m penstock.step package.module:callable`.

Reads the inputs, calls the function with keyword arguments, hands what it returned to `returned`. Every import here is
paid by every function step, so modules that only some of them need are imported where they are needed.

Exit codes: 0 success; 1 the function raised (its traceback is on stderr); 64 it could not be called (not found, or its
parameters do not fit the inputs); 65 its outputs do not fit; 74 they could not be written; 130 interrupted. A
`SystemExit` of the function is honoured.
"""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.step.values import EXIT_OUTPUTS, Declared, compact_json, did_you_mean, load_json, quote

if TYPE_CHECKING:
    from pathlib import Path

EXIT_FUNCTION = 1
EXIT_CALL = 64
EXIT_WRITE = 74
EXIT_INTERRUPTED = 130

INPUT_TYPES = "PENSTOCK_INPUT_TYPES"
OUTPUT_TYPES = "PENSTOCK_OUTPUT_TYPES"

_CODE_VARKEYWORDS = 0x08
"""`inspect.CO_VARKEYWORDS`; importing inspect takes as long as all else here together."""


def function_env(
    input_types: Mapping[str, str], declared: Sequence[Declared], *, lengths: Mapping[str, int] | None = None
) -> dict[str, str]:
    """The variables by which a function step knows its types; set them besides those of the step contract.

    Args:
        input_types: by name of the input: `string`, `number`, `boolean`, `json`, `array`, `file`, or `files` for the
            files of a fan-out.
        declared: the step's outputs.
        lengths: how many items the `files` inputs have; without it, items without a file at the end are not seen.
    """
    lengths = lengths or {}
    inputs = {name: [type_, lengths[name]] if name in lengths else type_ for name, type_ in input_types.items()}
    return {INPUT_TYPES: compact_json(inputs), OUTPUT_TYPES: compact_json([list(output) for output in declared])}


class _CannotCallError(Exception):
    """The function cannot be called; the message is one paragraph for the step's author."""


class _UserError(Exception):
    """The user's own code raised `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class _Contract(NamedTuple):
    """What the environment says."""

    inputs: str
    input_types: dict[str, Any]
    output_file: str
    outputs_dir: str
    declared: list[Declared]


def main(arguments: Sequence[str]) -> int:
    """Run a function step.

    Args:
        arguments: of the command line: one, `package.module:callable`.

    Returns:
        The exit code.
    """
    started = time.time_ns()
    work = os.getcwd()  # noqa: PTH109 - pathlib is not imported unless there are files
    try:
        if len(arguments) != 1 or not all(arguments[0].partition(":")):
            raise _CannotCallError(
                "wanted one argument, package.module:callable: python -m penstock.step iris.train:run"
            )
        reference = arguments[0]
        contract = _read_contract(os.environ)
        function = _load(reference, work)
        inputs = _read_inputs(contract)
        result = _call(function, _fit(reference, function, inputs))
    except _CannotCallError as problem:
        return _fail(EXIT_CALL, str(problem))
    except _UserError as failed:
        return _show(failed.error)
    return _deliver(reference, result, contract, work, started)


def _fail(code: int, message: str) -> int:
    sys.stdout.flush()
    print(f"penstock: {message}", file=sys.stderr)
    return code


def _deliver(reference: str, result: object, contract: _Contract, work: str, started: int) -> int:
    if result is None and not contract.declared and not _wrote(contract):
        return 0
    from pathlib import Path  # noqa: PLC0415

    from penstock.step.returned import BadOutputsError, deliver  # noqa: PLC0415

    try:
        deliver(
            result,
            contract.declared,
            output_file=Path(contract.output_file),
            outputs_dir=Path(contract.outputs_dir),
            work=Path(work),
            since=started,
        )
    except BadOutputsError as bad:
        return _fail(EXIT_OUTPUTS, f"the outputs of {reference} do not fit: {bad}")
    except OSError as error:
        return _fail(EXIT_WRITE, f"the outputs of {reference} could not be written: {error}")
    return 0


def _wrote(contract: _Contract) -> bool:
    try:
        return os.stat(contract.output_file).st_size > 0 or bool(os.listdir(contract.outputs_dir))  # noqa: PTH116, PTH208
    except OSError:
        return True


# --- environment and inputs -----------------------------------------------------------------------


def _read_contract(env: Mapping[str, str]) -> _Contract:
    names = ("PENSTOCK_INPUTS", INPUT_TYPES, "PENSTOCK_OUTPUT", "PENSTOCK_OUTPUTS", OUTPUT_TYPES)
    missing = [name for name in names if name not in env]
    if missing:
        raise _CannotCallError(
            f"{', '.join(missing)} not set: this command is started by a pipeline's step with `function:`; "
            "to try the function, call it from Python, or the pipeline with `penstock run`"
        )
    try:
        input_types = load_json(env[INPUT_TYPES])
        declared = [Declared(*output) for output in load_json(env[OUTPUT_TYPES])]
        if not isinstance(input_types, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError) as error:
        raise _CannotCallError(f"{INPUT_TYPES} or {OUTPUT_TYPES} is not as function_env writes it: {error}") from None
    return _Contract(env["PENSTOCK_INPUTS"], input_types, env["PENSTOCK_OUTPUT"], env["PENSTOCK_OUTPUTS"], declared)


def _read_inputs(contract: _Contract) -> dict[str, object]:
    """Values by name; an input that has no file was not given, and is left to the parameter's default."""
    values: dict[str, object] = {}
    for name, type_ in contract.input_types.items():
        kind, length = type_ if isinstance(type_, list) else (type_, None)
        path = f"{contract.inputs}/{name}"
        try:
            if kind == "file":
                if os.path.lexists(path):
                    values[name] = _path(path)
            elif kind == "files":
                values[name] = _read_files(path, length)
            else:
                values[name] = _read_value(path, kind)
        except FileNotFoundError:
            continue
        except (ValueError, OSError) as error:
            raise _CannotCallError(f"input {quote(name)} cannot be read from {path}: {error}") from None
    return values


def _path(path: str) -> Path:
    from pathlib import Path  # noqa: PLC0415 - only steps with files need it

    return Path(path)


def _read_value(path: str, kind: str) -> object:
    with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123
        text = file.read()
    return text if kind == "string" else load_json(text)


def _read_files(path: str, length: int | None) -> list[Path | None]:
    found = {int(entry) for entry in os.listdir(path) if entry.isdecimal()}  # noqa: PTH208
    if length is None:
        length = max(found, default=-1) + 1
    return [_path(f"{path}/{index}") if index in found else None for index in range(length)]


# --- the function -----------------------------------------------------------------------------------


def _load(reference: str, work: str) -> Callable[..., object]:
    """Import the module and find the callable."""
    module_name, _, attribute = reference.partition(":")
    if sys.path[:1] not in ([work], [""]):
        sys.path.insert(0, work)
    try:
        # Not importlib: only the import statement's own machinery keeps its frames out of tracebacks.
        __import__(module_name)
    except ModuleNotFoundError as error:
        raise _CannotCallError(_not_found(module_name, work, error)) from None
    except SystemExit:
        raise
    except BaseException as error:
        raise _UserError(error) from None
    target: Any = sys.modules[module_name]
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            names = [name for name in dir(target) if not name.startswith("_") and callable(getattr(target, name, None))]
            hint = did_you_mean(part, names) or (
                f": it has {', '.join(names[:10])}" if names else ": it has no functions"
            )
            raise _CannotCallError(f"module {quote(module_name)} has no {quote(attribute)}{hint}") from None
    if not callable(target):
        raise _CannotCallError(
            f"{reference} is a {type(target).__name__}, not a function: name a function in `function:`"
        )
    return target  # type: ignore[no-any-return]


def _not_found(module_name: str, work: str, error: ModuleNotFoundError) -> str:
    missing = error.name or ""
    if module_name != missing and not module_name.startswith(missing + "."):
        place = ""
        trace = error.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if not file.startswith("<frozen") and file != __file__:
                place = f" ({file} line {trace.tb_lineno})"
            trace = trace.tb_next
        return (
            f"module {quote(module_name)} could not be imported: it imports {quote(missing or str(error))}{place}, "
            "which is not there: install it in the step's image"
        )
    import pkgutil  # noqa: PLC0415 - only this message needs it

    parent, _, last = missing.rpartition(".")
    package = sys.modules.get(parent) if parent else None
    folders = list(getattr(package, "__path__", [])) if parent else [work]
    near = did_you_mean(last, [module.name for module in pkgutil.iter_modules(folders)])
    place = f"in the package {parent}" if parent else f"in the work folder {work} nor among what is installed"
    return f"there is no module {quote(missing)} {place}{near or ': check `function:`, and what the image holds'}"


class _Parameters(NamedTuple):
    """What a function can be called with.

    Attributes:
        names: parameters that can be given by keyword.
        required: those of them without a default.
        positional: parameters without a default that can not be given by keyword.
        anything: whether it has `**kwargs`.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    positional: tuple[str, ...]
    anything: bool


def _parameters(function: Callable[..., object]) -> _Parameters | None:
    """The parameters of `function`; None where Python does not know them."""
    attributes = getattr(function, "__dict__", {})
    if isinstance(function, types.FunctionType) and not {"__wrapped__", "__signature__"} & set(attributes):
        code = function.__code__
        positional = code.co_varnames[: code.co_argcount]
        keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        without_default = positional[: len(positional) - len(function.__defaults__ or ())]
        return _Parameters(
            names=positional[code.co_posonlyargcount :] + keyword,
            required=without_default[code.co_posonlyargcount :]
            + tuple(name for name in keyword if name not in (function.__kwdefaults__ or {})),
            positional=without_default[: code.co_posonlyargcount],
            anything=bool(code.co_flags & _CODE_VARKEYWORDS),
        )
    import inspect  # noqa: PLC0415 - slow to import, and plain functions do not need it

    try:
        signature = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return None
    by_name = [p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return _Parameters(
        names=tuple(p.name for p in by_name),
        required=tuple(p.name for p in by_name if p.default is p.empty),
        positional=tuple(p.name for p in signature if p.kind is p.POSITIONAL_ONLY and p.default is p.empty),
        anything=any(p.kind is p.VAR_KEYWORD for p in signature),
    )


def _fit(reference: str, function: Callable[..., object], inputs: Mapping[str, object]) -> dict[str, object]:
    """The keyword arguments: names of inputs with dashes as underscores, checked against the parameters."""
    arguments: dict[str, object] = {}
    for name, value in inputs.items():
        keyword = name.replace("-", "_")
        if keyword in arguments:
            raise _CannotCallError(f"two inputs are both the argument {keyword} of {reference}: rename one of them")
        arguments[keyword] = value
    parameters = _parameters(function)
    if parameters is None:
        return arguments
    whole = f"{reference}({', '.join(parameters.names)}{', **' if parameters.anything else ''})"
    problems = [
        f"its parameter {quote(name)} can only be given by position, and inputs are given by name: "
        "remove the / from its parameters"
        for name in parameters.positional
    ]
    problems += [
        f"its parameter {quote(name)} is not among the step's inputs: add an input {quote(name)}, "
        "or a default to the parameter"
        for name in parameters.required
        if name not in arguments
    ]
    if not parameters.anything:
        problems += [
            f"the step's input {quote(name)} is not among its parameters{did_you_mean(name, parameters.names)}: "
            "rename or remove the input, or add the parameter"
            for name in arguments
            if name not in parameters.names
        ]
    if problems:
        raise _CannotCallError(f"{whole} cannot be called: {'; '.join(problems)}")
    return arguments


def _call(function: Callable[..., object], arguments: Mapping[str, object]) -> object:
    try:
        result = function(**arguments)
        if hasattr(type(result), "__await__"):
            import asyncio  # noqa: PLC0415 - slow to import, and few functions are async

            return asyncio.run(_wait(result))
        return result
    except SystemExit:
        raise
    except BaseException as error:
        raise _UserError(error) from None


async def _wait(result: Any) -> object:
    return await result


def _show(error: BaseException) -> int:
    """Print the traceback as Python would have, from the user's first frame on."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    sys.stdout.flush()
    error = error.with_traceback(trace)
    sys.excepthook(type(error), error, trace)
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_FUNCTION


def _is_ours(file: str) -> bool:
    asyncio = sys.modules.get("asyncio")
    return file == __file__ or (asyncio is not None and file.startswith(os.path.dirname(asyncio.__file__ or "")))  # noqa: PTH120
