"""Options that several commands share, cheap to import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="PENSTOCK_HOME",
    default=Path(".penstock"),
    show_default=True,
    show_envvar=True,
    help="Where executions, logs and files are kept.",
)


def gateway_options(command: F) -> F:
    """Adds the options that say where the gateway of a cluster is, and who we are there."""
    for option in (
        click.option(
            "--token",
            envvar="PENSTOCK_TOKEN",
            show_envvar=True,
            metavar="TOKEN",
            help="Token for the gateway; that of the kubeconfig by default.",
        ),
        click.option(
            "--gateway",
            envvar="PENSTOCK_GATEWAY",
            show_envvar=True,
            metavar="URL",
            help="The cluster's gateway, for files.",
        ),
    ):
        command = option(command)
    return command
