"""`penstock lint`: everything that is wrong with manifests, at once."""

from __future__ import annotations

import json

import click

from penstock.cli.main import FAILED, OK, emit


@click.command("lint")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print problems.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
def command(files: tuple[str, ...], output: str, strict: bool) -> int:
    """Check manifests: structure, names, types, the graph and all expressions.

    FILE is a YAML or JSON file, a folder of them, or - for standard input. Exits with 0 if all is right and with 1 if
    anything is wrong.
    """
    from penstock.cli.manifests import read_all  # noqa: PLC0415 - not needed for --help

    documents = read_all(files)
    problems = [problem for document in documents for problem in document.problems]
    errors = [problem for problem in problems if strict or problem.severity == "error"]
    if output == "json":
        emit(json.dumps([problem.to_json() for problem in problems], indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            place = ":".join(str(part) for part in (problem.file, problem.line) if part is not None)
            emit(f"{place}: {problem.severity}: {problem.sentence()}")
        ours = sum(document.ours for document in documents)
        warnings = len(problems) - len(errors)
        counts = f"{len(errors)} error{'' if len(errors) == 1 else 's'}"
        counts += f", {warnings} warning{'' if warnings == 1 else 's'}" if warnings else ""
        emit(f"{ours} object{'' if ours == 1 else 's'} checked, {counts}", err=True)
    return FAILED if errors else OK
