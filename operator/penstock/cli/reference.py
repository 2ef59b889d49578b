"""`python -m penstock.cli.reference`: writes docs/reference/ of statuses and commands from the code, or checks it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import click
from pydantic import BaseModel

from penstock.cli.main import COMMANDS, cli
from penstock.engine import reasons
from penstock.kube.metrics import Metrics
from penstock.kube.settings import PREFIX, OperatorSettings
from penstock.storage.settings import StoreSettings


def pages() -> dict[str, str]:
    """File name to content."""
    return {"status.md": reasons.table(), "cli.md": _commands(), "operator.md": _settings(), "storage.md": _storage()}


def _settings() -> str:
    """The operator's settings, as Markdown."""
    head = [
        "# Settings of the operator",
        "",
        "Environment variables of `penstock operator`; the chart sets them from its values.",
    ]
    return "\n".join([*head, *_variables(OperatorSettings), *_metrics()]) + "\n"


def _storage() -> str:
    """The object store's settings, as Markdown."""
    head = [
        "# Settings of the object store",
        "",
        "Environment variables of whatever uses the object store; [object-storage.md](../object-storage.md) says how.",
    ]
    return "\n".join([*head, *_variables(StoreSettings)]) + "\n"


def _variables(settings: type[BaseModel]) -> list[str]:
    """A table of environment variables, as lines of Markdown."""
    lines = ["", "| variable | default | meaning |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if field.is_required() or default in ("", None) else f"`{default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {field.description} |")
    return lines


def _metrics() -> list[str]:
    """The operator's metrics, as lines of Markdown."""
    lines = [
        "",
        "## Metrics",
        "",
        "What `/metrics` has for Prometheus; times in seconds. Sum over the replicas: only one of them leads.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, labels, meaning in Metrics().described():
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |")
    return lines


def _commands() -> str:
    """The help of all commands, as Markdown."""
    parts = ["# Commands", "", "Generated from the commands' own help.", ""]
    with click.Context(cli, info_name="penstock") as context:
        parts += ["```text", cli.get_help(context), "```", ""]
        for name in COMMANDS:
            command = cli.get_command(context, name)
            if command is None:
                raise LookupError(name)
            with click.Context(command, info_name=name, parent=context) as inner:
                parts += [f"## penstock {name}", "", "```text", command.get_help(inner), "```", ""]
                for below, part in command.commands.items() if isinstance(command, click.Group) else ():
                    with click.Context(part, info_name=below, parent=inner) as deeper:
                        parts += [f"### penstock {name} {below}", "", "```text", part.get_help(deeper), "```", ""]
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines()) + "\n"


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a file is not what would be written")
    parser.add_argument("--folder", type=Path, default=Path("docs/reference"))
    options = parser.parse_args()
    drifted = []
    for name, content in pages().items():
        path: Path = options.folder / name
        if options.check:
            if not path.exists() or path.read_text(encoding="utf-8") != content:
                drifted.append(str(path))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    if drifted:
        sys.exit(f"not up to date: {', '.join(drifted)}; run `make generate`")


if __name__ == "__main__":
    main()
