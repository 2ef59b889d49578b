"""`penstock graph`: the graph of a pipeline as text or Mermaid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from penstock.cli.main import emit

if TYPE_CHECKING:
    from penstock.engine.compile import CompiledPipeline, CompiledStep


@click.command("graph")
@click.argument("file", metavar="FILE")
@click.option("--format", "-f", "form", type=click.Choice(["text", "mermaid"]), default="text", help="What to print.")
@click.option("--pipeline", metavar="NAME", help="Which pipeline, where the file has several.")
def command(file: str, form: str, pipeline: str | None) -> None:
    """Draw the graph of the pipeline in FILE.

    Text shows the steps in the order in which they can run, each with what it waits for. Mermaid can be pasted into
    Markdown on most code hosts.
    """
    from penstock.api.problems import InvalidManifest  # noqa: PLC0415 - not needed for --help
    from penstock.cli.choose import one_pipeline  # noqa: PLC0415
    from penstock.cli.manifests import read_all  # noqa: PLC0415
    from penstock.engine.compile import compile_pipeline  # noqa: PLC0415

    documents = read_all([file])
    if problems := [p for document in documents for p in document.problems if p.severity == "error"]:
        raise InvalidManifest(problems)
    name, spec = one_pipeline(documents, pipeline)
    compiled = compile_pipeline(spec)
    emit(_mermaid(compiled) if form == "mermaid" else _text(name, compiled))


def _text(name: str, pipeline: CompiledPipeline) -> str:
    lines = [f"pipeline {name}"]
    lines += [f"  {_line(pipeline.steps[step])}" for step in pipeline.order]
    if pipeline.finals:
        lines.append("finally")
        lines += [f"  {_line(pipeline.steps[step])}" for step in pipeline.finals]
    return "\n".join(lines)


def _line(step: CompiledStep) -> str:
    text = step.name
    if step.fan_out is not None:
        text += " (for each item)"
    if step.deps:
        text += f"  <- {', '.join(step.deps)}"
    if step.when is not None:
        text += f"  when {' '.join(step.when.text.split())}"
    return text


def _mermaid(pipeline: CompiledPipeline) -> str:
    """A Mermaid flowchart: fan-outs as stacks, conditions as rhombs' text on the edge into the step."""
    lines = ["flowchart TD"]
    ids = {name: f"s{position}" for position, name in enumerate(pipeline.steps)}
    for name in (*pipeline.main, *pipeline.finals):
        step = pipeline.steps[name]
        left, right = ("[[", "]]") if step.fan_out is not None else (("([", "])") if step.final else ("[", "]"))
        lines.append(f'  {ids[name]}{left}"{name}"{right}')
    for step in pipeline.steps.values():
        label = f'|"{_escaped(step.when.text)}"|' if step.when is not None else ""
        lines += [f"  {ids[dep]} -->{label} {ids[step.name]}" for dep in step.deps]
    ends = [name for name in pipeline.main if not pipeline.dependants[name]]
    for name in pipeline.finals:
        if not pipeline.steps[name].deps:
            lines += [f"  {ids[end]} -.-> {ids[name]}" for end in ends]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace('"', "#quot;").replace("|", "#124;")
