"""Credential plugins of kubeconfigs (`users[].user.exec`): commands that print a token or a certificate.

They are run as kubectl runs them: the terminal is theirs where they want it, what they print on standard error is shown
as it comes (people may have to log in somewhere), and standard input is never theirs unless it is a terminal, because a
manifest may be on its way there. Nothing is kept from one process to the next; plugins that are slow keep a cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.kube.access import CredentialsError
from penstock.step.values import JsonObject

EXTENSION = "client.authentication.k8s.io/exec"
"""Name of the extension of a cluster in a kubeconfig that is handed to the plugin as it is."""

_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_MODES = ("Never", "IfAvailable", "Always")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A command that gives credentials, as a kubeconfig has it.

    Attributes:
        place: where it stands, for messages.
        command: the command; a path is absolute.
        args: its arguments.
        env: environment variables on top of ours.
        version: `apiVersion` of what is said to it and what it answers.
        mode: whether it talks to people: `Never`, `IfAvailable` or `Always`.
        wants_cluster: whether it is told which cluster is meant.
        hint: how people get it; may be empty.
    """

    place: str
    command: str
    args: Sequence[str]
    env: Mapping[str, str]
    version: str
    mode: str
    wants_cluster: bool
    hint: str


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """What a plugin gave. Has no `repr`: secrets do not belong into logs.

    Attributes:
        token: bearer token.
        certificate: client certificate, PEM.
        key: its private key, PEM.
        expires: when it ends, in seconds since the epoch; None where the plugin does not say.
    """

    token: str | None
    certificate: bytes | None
    key: bytes | None
    expires: float | None


def read(content: object, place: str, folder: Path) -> Plugin:
    """What a kubeconfig says of a plugin.

    Args:
        content: the value of `exec`.
        place: where that is, for messages.
        folder: what a relative path of a command is relative to.

    Raises:
        CredentialsError: it is not right.
    """
    if not isinstance(content, dict):
        raise CredentialsError(f"{place}: must be a map")
    command, version = content.get("command"), content.get("apiVersion")
    if not isinstance(command, str) or not command:
        raise CredentialsError(f"{place}.command: is missing; name the command that gives credentials")
    if version not in _VERSIONS:
        raise CredentialsError(
            f"{place}.apiVersion: must be {' or '.join(_VERSIONS)}, not {version!r}; let the cluster's own tool write "
            "the kubeconfig anew"
        )
    args, variables = content.get("args") or [], content.get("env") or []
    if not isinstance(args, list) or not all(isinstance(each, str) for each in args):
        raise CredentialsError(f"{place}.args: must be a list of texts; put numbers into quotes")
    if not isinstance(variables, list) or not all(_is_variable(each) for each in variables):
        raise CredentialsError(f"{place}.env: must be a list of entries with name and value, both texts")
    mode = content.get("interactiveMode") or "IfAvailable"
    if mode not in _MODES:
        raise CredentialsError(f"{place}.interactiveMode: must be {', '.join(_MODES[:2])} or {_MODES[2]}, not {mode!r}")
    return Plugin(
        place=place,
        command=str(folder / command) if os.sep in command else command,
        args=args,
        env={each["name"]: each["value"] for each in variables},
        version=version,
        mode=mode,
        wants_cluster=content.get("provideClusterInfo") is True,
        hint=str(content.get("installHint") or "").strip(),
    )


def _is_variable(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("value"), str)


def run(plugin: Plugin, cluster: JsonObject | None = None) -> Credential:
    """Run a plugin and take what it gives. May take as long as people take to log in.

    Args:
        plugin: which one.
        cluster: what it is told of the cluster; None for nothing.

    Raises:
        CredentialsError: it is not there, failed, or did not answer as it should.
    """
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if plugin.mode == "Always" and not terminal:
        raise CredentialsError(
            f'{plugin.place}: "{plugin.command}" wants to ask you something, but standard input is no terminal; call '
            "it from one, or read manifests from files and not from standard input"
        )
    interactive = terminal and plugin.mode != "Never"
    spec: JsonObject = {"interactive": interactive}
    if cluster is not None:
        spec["cluster"] = cluster
    asked = {"kind": "ExecCredential", "apiVersion": plugin.version, "spec": spec}
    env = {**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    if shutil.which(plugin.command, path=env.get("PATH")) is None:
        hint = f"; {plugin.hint}" if plugin.hint else "; install it, or correct the kubeconfig"
        raise CredentialsError(
            f'{plugin.place}: the credential plugin "{plugin.command}" cannot be found, or not be run{hint}'
        )
    try:
        done = subprocess.run(
            [plugin.command, *plugin.args],
            env=env,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
    except (OSError, ValueError) as error:
        raise CredentialsError(f'{plugin.place}: "{plugin.command}" cannot be run: {error}') from error
    if done.returncode != 0:
        how = f"ended with code {done.returncode}" if done.returncode > 0 else f"was ended by signal {-done.returncode}"
        raise CredentialsError(
            f'{plugin.place}: the credential plugin "{plugin.command}" {how}; what it says stands above, and you may '
            "have to log in again"
        )
    return _credential(plugin, done.stdout)


def _credential(plugin: Plugin, printed: bytes) -> Credential:
    def wrong(what: str) -> CredentialsError:
        return CredentialsError(f'{plugin.place}: the credential plugin "{plugin.command}" {what}')

    try:
        answer: Any = json.loads(printed)
    except ValueError:
        raise wrong("did not print JSON") from None
    if not isinstance(answer, dict) or answer.get("kind") != "ExecCredential":
        raise wrong("did not print an ExecCredential")
    if answer.get("apiVersion") != plugin.version:
        raise wrong(f"printed apiVersion {answer.get('apiVersion')!r}, but the kubeconfig says {plugin.version!r}")
    status = answer.get("status")
    if not isinstance(status, dict):
        raise wrong("gave no credentials: what it printed has no status")
    texts = {name: status.get(name) or "" for name in ("token", "clientCertificateData", "clientKeyData")}
    if not all(isinstance(each, str) for each in texts.values()):
        raise wrong("gave credentials that are not texts")
    token, certificate, key = texts.values()
    if bool(certificate) != bool(key):
        raise wrong("gave a client certificate or a key without the other")
    if not token and not certificate:
        raise wrong("gave neither a token nor a client certificate")
    try:
        expires = _moment(status.get("expirationTimestamp"))
    except (TypeError, ValueError):
        raise wrong(f"gave an expirationTimestamp that is none: {status['expirationTimestamp']!r}") from None
    return Credential(token or None, certificate.encode() or None, key.encode() or None, expires)


def _moment(text: str | None) -> float | None:
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
