"""`--input name=value`: text from a command line as values of declared types, files, URLs and objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from penstock.api.base import ValueType
from penstock.api.pipeline import PipelineInput
from penstock.api.problems import suggest
from penstock.step.values import Declared, OutputError, RawText, coerce
from penstock.storage.errors import BadObjectPath
from penstock.storage.paths import parts


@dataclass(frozen=True, slots=True)
class GivenInputs:
    """What a command line gives.

    Attributes:
        values: JSON values by name.
        files: files and folders of this machine by name.
        urls: what is fetched first, by name.
        objects: paths in the data store by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return any(name in given for given in (self.values, self.files, self.urls, self.objects))


def parse(inputs: Sequence[PipelineInput], given: Sequence[str]) -> GivenInputs:
    """Read `name=value` and `name=@file` options.

    A value is read by the declared type of its input: text as it is, other types as JSON. For an input of type file,
    `@file` hands over a file or folder, a URL what is there, and any other text is the path of an object in the data
    store. For other types `@file` means that the value is read from the file; `@@` stands for a leading `@`.

    Raises:
        click.UsageError: with everything that is wrong.
    """
    declared = {declaration.name: declaration for declaration in inputs}
    found = GivenInputs()
    problems: list[str] = []
    for option in given:
        name, separator, text = option.partition("=")
        if not separator:
            problems.append(f'--input "{option}": write it as name=value or name=@file.')
        elif name not in declared:
            known = f"; it has {', '.join(declared)}." if declared else "; it has no inputs."
            problems.append(f'--input "{name}": the pipeline has no such input{suggest(name, declared) or known}')
        elif name in found:
            problems.append(f'--input "{name}": given twice.')
        else:
            problems += _read(declared[name], text, found)
    if problems:
        raise click.UsageError("\n".join(problems))
    return found


def _read(declaration: PipelineInput, text: str, found: GivenInputs) -> list[str]:
    name = declaration.name
    if declaration.type is ValueType.FILE:
        if text.startswith(("http://", "https://")):
            found.urls[name] = text
            return []
        if not text.startswith("@"):
            try:
                found.objects[name] = "/".join(parts(text))
            except BadObjectPath as error:
                return [f'--input "{name}": is a file; write {name}=@FILE for one of this machine ({error}).']
            return []
        path = Path(text[1:]).expanduser()
        if not path.exists():
            return [f'--input "{name}": there is no file or folder {path}.']
        found.files[name] = path
        return []
    if text.startswith("@@"):
        text = text[1:]
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            return [f'--input "{name}": cannot read {text[1:]}: {reason}.']
    try:
        wanted = Declared(name, str(declaration.type), declaration.max_bytes)
        found.values[name] = coerce(wanted, RawText(text), what="input")
    except OutputError as error:
        return [f'--input "{name}": {str(error).removeprefix(f"input {chr(34)}{name}{chr(34)}: ")}.']
    return []
