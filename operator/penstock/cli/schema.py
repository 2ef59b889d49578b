"""`penstock schema`: the JSON Schema of manifests, for editors."""

from __future__ import annotations

import json

import click

from penstock.cli.main import emit


@click.command("schema")
@click.argument(
    "kind", type=click.Choice(["Pipeline", "Deployment", "Execution"], case_sensitive=False), required=False
)
def command(kind: str | None) -> None:
    r"""Print the JSON Schema of one KIND, or of all three.

    \b
    In VS Code with the YAML extension, or any editor that uses yaml-language-server:
      penstock schema > penstock.schema.json
      and as first line of a manifest:
      # yaml-language-server: $schema=penstock.schema.json
    """
    from penstock.api.schema import json_schema  # noqa: PLC0415 - pydantic is not needed for --help

    emit(json.dumps(json_schema(kind), indent=2))
