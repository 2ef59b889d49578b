"""The `penstock` command: its sub-commands, loaded when they are called, and how errors reach people.

Imports as little as it can; commands live in modules of their own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from penstock import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
ERROR = 3
CANCELLED = 130
"""Exit codes; 130 is what shells give for Ctrl-C."""

COMMANDS = {
    "run": ("penstock.cli.run", "Run a pipeline here and now, without a cluster."),
    "serve": ("penstock.cli.serve", "Keep deployments on this machine: schedules, endpoints, the API."),
    "lint": ("penstock.cli.lint", "Check manifests and say all that is wrong with them."),
    "graph": ("penstock.cli.graph", "Draw the graph of a pipeline as text or Mermaid."),
    "schema": ("penstock.cli.schema", "Print the JSON Schema of manifests, for editors."),
    "operator": ("penstock.cli.operator", "Run the operator on a Kubernetes cluster."),
    "gateway": ("penstock.cli.gateway", "Serve people's files on a cluster, and a folder store."),
    "data": ("penstock.cli.data", "Put, get, list and remove your own files, here or on a cluster."),
    "gc": ("penstock.cli.gc", "Remove old executions of this machine, and what only they need."),
    "apply": ("penstock.cli.apply", "Put manifests onto a cluster."),
    "get": ("penstock.cli.get", "List pipelines, deployments and executions; fetch outputs."),
    "history": ("penstock.cli.history", "List executions that there are and were."),
    "describe": ("penstock.cli.describe", "Show all about an object of a cluster."),
    "logs": ("penstock.cli.logs", "Print what steps of an execution on a cluster have printed."),
    "cancel": ("penstock.cli.change:cancel", "Cancel executions on a cluster."),
    "suspend": ("penstock.cli.change:suspend", "Start nothing new of an execution or deployment on a cluster."),
    "resume": ("penstock.cli.change:resume", "Go on with what was suspended on a cluster."),
    "trigger": ("penstock.cli.trigger:trigger", "Start an execution of a deployment on a cluster."),
    "token": ("penstock.cli.trigger:token", "Show or rotate the token of an endpoint."),
    "schedule": ("penstock.cli.schedule", "Show when a schedule comes."),
    "retry": ("penstock.cli.change:retry", "Run a finished execution on a cluster again."),
    "delete": ("penstock.cli.change:delete", "Delete objects of a cluster."),
}
"""Name to module (whose `command`, or what stands after the colon, is called) and one line of help."""

_WITH_VALUE = frozenset({"-n", "--namespace", "--context", "--kubeconfig", "--as", "-o", "--output", "-l", "-f"})
"""Options of commands after which a value stands that is no command."""

EPILOG = """\b
Exit codes:
  0    Succeeded
  1    Failed: the user's code or input went wrong
  2    wrong usage, or a manifest or an input that is not right
  3    Error: the platform went wrong (no space, no such runner)
  130  cancelled with Ctrl-C

Documentation: docs/README.md of the repository."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; options of a command that stand before its name are told where they belong."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            order = _reordered(given)
            if order is None or error.possibilities:  # one of ours, misspelt
                raise
            ctx.fail(f"No such option: {error.option_name}. Options of a command stand after its name: {order}")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute or "command")
        if not isinstance(command, click.Command):
            raise TypeError(cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands for `--help`, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a misspelt command."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib  # noqa: PLC0415 - only for this message

            near = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f' Did you mean "{near[0]}"?' if near else f" There are: {', '.join(COMMANDS)}."
            ctx.fail(f'No such command "{name}".{hint}')
        return super().resolve_command(ctx, args)


def _reordered(args: list[str]) -> str | None:
    """A command line with the options that stand before the command's name behind it; None where there is no name."""
    import shlex  # noqa: PLC0415 - only for this message

    for position, word in enumerate(args):
        is_value = position > 0 and args[position - 1] in _WITH_VALUE
        if word in COMMANDS and not is_value:
            return shlex.join(["penstock", word, *args[position + 1 :], *args[:position]])
    return None


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="penstock")
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
def cli(debug: bool) -> None:
    """Pipelines of containers: written as YAML, run on a laptop or on Kubernetes."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code. Errors are one paragraph on standard error, never a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        result: Any = cli.main(args=arguments, prog_name="penstock", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else OK)
    except click.exceptions.Abort:
        complain("stopped")
        sys.exit(CANCELLED)
    except click.ClickException as error:
        with contextlib.suppress(OSError):  # nobody reads standard error
            error.show()
        sys.exit(USAGE)
    except Exception as error:
        if "--debug" in arguments:
            raise
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Tell people about an error; returns the exit code."""
    from penstock.api.problems import InvalidManifest  # noqa: PLC0415

    if isinstance(error, InvalidManifest):
        complain(str(error))
        return USAGE
    from penstock.cli.cluster import Refused  # noqa: PLC0415
    from penstock.controller.ports import Halt, Transient  # noqa: PLC0415
    from penstock.local.home import BadObjectPath, LocalError, NameTaken, NotFound  # noqa: PLC0415

    if isinstance(error, Refused):
        complain(str(error))
        return error.code
    if isinstance(error, NameTaken | NotFound | BadObjectPath):  # of what was given: nothing was started
        complain(str(error))
        return USAGE
    if isinstance(error, LocalError | Halt | Transient):
        complain(str(error))
        return ERROR
    text = f"{type(error).__name__}: {error}"
    complain(f"internal error, please report it with the output of the same command with --debug ({text})")
    return ERROR


def complain(message: str) -> None:
    """One error for people."""
    emit(f"penstock: {message}", err=True)


def emit(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print; that nobody reads it any more (`| head`) changes nothing about what a command does and how it exits.

    What goes to standard error is never worth the end of an execution. If standard output cannot be written for another
    reason than its reader, such as a full disk, the command ends with a message and the code of an `Error`.
    """
    try:
        click.echo(text, nl=nl, err=err)
    except OSError as error:
        # What Python has buffered would fail once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2 if err else 1)
        if not err and not isinstance(error, BrokenPipeError):
            complain(f"standard output cannot be written: {error.strerror}; the command did its work all the same")
            sys.exit(ERROR)
