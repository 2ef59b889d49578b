"""Kubeconfig files as kubectl reads them: several are merged, one context says which cluster and which user.

What must not live here: sessions (`credentials`), and running credential plugins (`exec_plugin`).
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from yarl import URL

from penstock.kube import exec_plugin
from penstock.kube.access import Access, CredentialsError, impersonation, read_file
from penstock.step.values import JsonObject

_EXTRA = "as-user-extra"
_TOLD = ("tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """One context of one or more kubeconfig files, merged as kubectl does: the first mention of a name counts.

    Attributes:
        paths: the files; those that are not there are passed over, unless it is all of them.
        context: which context; None: the current one.
        plugins: whether credential plugins may be run.
    """

    paths: Sequence[Path]
    context: str | None = None
    plugins: bool = False

    def load(self) -> Access:
        """What the files say now."""
        merged = _Merged(self.paths)
        name = self.context or merged.current
        if not name:
            raise CredentialsError(
                f"{merged.place}: there is no current-context; name a context, or run `kubectl config use-context NAME`"
            )
        context = merged.get("context", name)
        cluster = merged.get("cluster", context.text("cluster", required=True))
        user = merged.get("user", context.text("user")) if context.text("user") else _Entry({}, "", Path())
        if user.content.get("auth-provider"):
            raise CredentialsError(
                f"{user.place}.auth-provider: Kubernetes 1.26 has dropped these providers; let the cluster's own tool "
                "write the kubeconfig anew, or use a token, a tokenFile or a client certificate there"
            )
        token_file = user.text("tokenFile")
        username, password = user.text("username"), user.text("password")
        access = Access(
            server=_server(cluster),
            namespace=context.text("namespace") or None,
            ca=cluster.data("certificate-authority"),
            certificate=user.data("client-certificate"),
            key=user.data("client-key"),
            token=user.text("token") or None,
            token_file=user.folder / token_file if token_file else None,
            basic=(username, password) if username and password else None,
            insecure=cluster.content.get("insecure-skip-tls-verify") is True,
            server_name=cluster.text("tls-server-name") or None,
            proxy=cluster.text("proxy-url") or None,
            impersonate=_impersonation(user),
        )
        given = access.token or access.token_file or access.basic
        return access if given or not user.content.get("exec") else self._plugged_in(access, user, cluster)

    def _plugged_in(self, access: Access, user: _Entry, cluster: _Entry) -> Access:
        """With what the user's credential plugin gives."""
        place, content = f"{user.place}.exec", user.content["exec"]
        if not self.plugins:
            raise CredentialsError(
                f"{place}: credential plugins are not supported by the operator; use a token, a tokenFile or a client "
                "certificate there, or run it in the cluster with a service account"
            )
        plugin = exec_plugin.read(content, place, user.folder)
        found = exec_plugin.run(plugin, _about(cluster, access) if plugin.wants_cluster else None)
        return replace(
            access,
            token=found.token,
            certificate=found.certificate or access.certificate,
            key=found.key or access.key,
            expires=found.expires,
        )


@dataclass(frozen=True, slots=True, repr=False)
class _Entry:
    """A context, cluster or user of a kubeconfig.

    Attributes:
        content: what it says.
        place: where that is, for messages.
        folder: what relative paths in it are relative to.
    """

    content: JsonObject
    place: str
    folder: Path

    def text(self, name: str, *, required: bool = False) -> str:
        """A text field; empty where it is missing."""
        value = self.content.get(name) or ""
        if not isinstance(value, str):
            raise CredentialsError(f"{self.place}.{name}: must be text, not {type(value).__name__}")
        if required and not value:
            raise CredentialsError(f"{self.place}.{name}: is missing; name one")
        return value

    def data(self, name: str) -> bytes | None:
        """PEM that stands in the field `<name>-data` in base64, or else in the file that `<name>` names."""
        inline = self.text(f"{name}-data")
        if inline:
            try:
                return base64.b64decode(inline, validate=True)
            except (binascii.Error, ValueError) as error:
                raise CredentialsError(f"{self.place}.{name}-data: is not base64: {error}") from error
        path = self.text(name)
        return read_file(self.folder / path, f"{self.place}.{name}") if path else None


class _Merged:
    """The files of a kubeconfig, merged."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.current = ""
        self.place = os.pathsep.join(map(str, paths))
        self._entries: dict[tuple[str, str], _Entry] = {}
        present = [path for path in paths if path.exists()]
        if not present:
            raise CredentialsError(
                f"{self.place}: there is no such kubeconfig; set KUBECONFIG or name a file, or run in a pod that has a "
                "service account token"
            )
        for path in present:
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            content = yaml.safe_load(read_file(path, str(path)))
        except yaml.YAMLError as error:
            raise CredentialsError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
        content = content or {}
        if not isinstance(content, dict):
            raise CredentialsError(f"{path}: is not a kubeconfig: it should be a map of clusters, users and contexts")
        self.current = self.current or str(content.get("current-context") or "")
        for kind in ("context", "cluster", "user"):
            entries = content.get(f"{kind}s") or []
            if not isinstance(entries, list):
                raise CredentialsError(f"{path}: {kind}s: must be a list")
            for number, entry in enumerate(entries):
                if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                    raise CredentialsError(f"{path}: {kind}s[{number}]: must have a name")
                name, what = entry["name"], entry.get(kind) or {}
                place = f"{path}: {kind}s[{name}].{kind}"
                if not isinstance(what, dict):
                    raise CredentialsError(f"{place}: must be a map")
                self._entries.setdefault((kind, name), _Entry(what, place, path.absolute().parent))

    def get(self, kind: str, name: str) -> _Entry:
        """The entry with this name."""
        found = self._entries.get((kind, name))
        if found is None:
            known = ", ".join(sorted(each for of, each in self._entries if of == kind)) or "none"
            raise CredentialsError(f"{self.place}: there is no {kind} {name!r}; there is: {known}")
        return found


def _impersonation(user: _Entry) -> tuple[tuple[str, str], ...]:
    who, uid, groups, extra = (
        user.text("as"),
        user.text("as-uid"),
        user.content.get("as-groups"),
        user.content.get(_EXTRA),
    )
    if not (who or uid or groups or extra):
        return ()
    if not _are_texts(groups or []):
        raise CredentialsError(f"{user.place}.as-groups: must be a list of texts")
    if not isinstance(extra or {}, dict) or not all(_are_texts(each) for each in (extra or {}).values()):
        raise CredentialsError(f"{user.place}.{_EXTRA}: must be a map of lists of texts")
    try:
        return impersonation(who, uid=uid, groups=groups or [], extra=extra)
    except CredentialsError as error:
        raise CredentialsError(f"{user.place}: {error.message}") from None


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _about(cluster: _Entry, access: Access) -> JsonObject:
    """What a credential plugin is told of the cluster."""
    told: JsonObject = {"server": access.server}
    told |= {name: cluster.content[name] for name in _TOLD if cluster.content.get(name)}
    if access.ca is not None:
        told["certificate-authority-data"] = base64.b64encode(access.ca).decode("ascii")
    for each in cluster.content.get("extensions") or []:
        if isinstance(each, dict) and each.get("name") == exec_plugin.EXTENSION:
            told["config"] = each.get("extension")
    return told


def _server(cluster: _Entry) -> str:
    server = cluster.text("server", required=True).rstrip("/")
    if not server.startswith(("https://", "http://")) or not URL(server).host:
        raise CredentialsError(f"{cluster.place}.server: must be a URL like https://host:6443, not {server!r}")
    return server
