"""Requests to a cluster's gateway: which one, who asks, and its answers or errors for people."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.cli.cluster import NoObject, Refused, Where, environment, located
from penstock.cli.main import ERROR

if TYPE_CHECKING:
    from penstock.kube.access import Access

NO_GATEWAY = (
    "files and the history of a cluster are behind its gateway: name it with --gateway URL or PENSTOCK_GATEWAY; where "
    "nothing else leads to it, `kubectl port-forward --namespace penstock service/penstock-gateway 8080` brings it to "
    "http://localhost:8080"
)
WHO_ARE_YOU = (
    "the gateway wants a token, and {who} has {what}; give one with --token or PENSTOCK_TOKEN, for example "
    '--token "$(kubectl create token NAME --namespace {namespace})" for a service account'
)
TRIES = 3
_SECONDS = 60
_PAGE = 1000
_EXECUTIONS_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway and a namespace there.

    Attributes:
        url: where it is, without a slash at its end.
        token: who we are.
        namespace: the namespace that is meant.
        impersonate: headers that ask to act as somebody else.
    """

    url: str
    token: str = field(repr=False)
    namespace: str
    impersonate: tuple[tuple[str, str], ...] = ()

    def objects(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        """All objects in a folder of the data store and below."""
        after: str | None = None
        while True:
            query = {"prefix": prefix, "limit": str(_PAGE)} | ({} if after is None else {"after": after})
            page = self._ask("GET", "data", query=query)
            yield from page["objects"]
            after = page["after"]
            if after is None:
                return

    def info(self, path: str, *, transfers: bool = False) -> dict[str, Any]:
        """What is known of an object; with signed requests that fetch it, if wanted."""
        return self._transferable(self._ask("GET", "meta", path, query={"transfers": "true"} if transfers else {}))

    def begin(self, path: str, *, size: int, folder: bool) -> dict[str, Any]:
        """The plan that writes an object."""
        wanted = {"path": path, "size": size, "folder": folder}
        begun = self._transferable(self._ask("POST", "uploads", body=wanted))
        plan: dict[str, Any] = begun["transfers"]
        return plan

    def record(self, path: str, written: Mapping[str, Any]) -> dict[str, Any]:
        """Say what an object is that was written."""
        return self._ask("PUT", "meta", path, body=written)

    def delete(self, path: str) -> None:
        """Remove an object."""
        self._ask("DELETE", "data", path)

    def outputs(self, execution: str) -> dict[str, Any]:
        """The outputs of an execution, with signed requests that fetch its files."""
        name = urllib.parse.quote(execution, safe="")
        return self._transferable(self._ask("GET", f"executions/{name}/outputs", query={"transfers": "true"}))

    def executions(self, query: Mapping[str, str | Sequence[str]], limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Executions as the history has them, page by page.

        Args:
            query: filters and order.
            limit: how many at most.

        Returns:
            They, and whether there are more.
        """
        found: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            more = {"limit": str(min(_EXECUTIONS_PAGE, limit - len(found)))} | (
                {} if after is None else {"after": after}
            )
            page = self._ask("GET", "executions", query={**query, **more})
            found += page["items"]
            after = page["next"]
            if after is None or len(found) >= limit:
                return found, after is not None

    def unused(self, cache_seconds: float) -> dict[str, Any]:
        """What a sweep would remove."""
        return self._ask("GET", "unused", query={"cache_seconds": str(cache_seconds)})

    def _transferable(self, answer: dict[str, Any]) -> dict[str, Any]:
        """With a folder store URLs are paths of the gateway, which does not know by which name we reach it."""
        plan = answer.get("transfers") or {}
        for request in [*plan.get("inputs", ()), *(each["put"] for each in plan.get("outputs", ()))]:
            if request["url"].startswith("/"):
                request["url"] = self.url + request["url"]
        return answer

    def _ask(
        self,
        method: str,
        what: str,
        path: str = "",
        *,
        query: Mapping[str, str | Sequence[str]] | None = None,
        body: object | None = None,
    ) -> dict[str, Any]:
        place = f"{self.url}/api/v1/namespaces/{self.namespace}/{what}"
        if path:
            place += "/" + urllib.parse.quote(path, safe="/")
        if query:
            place += "?" + urllib.parse.urlencode(query, doseq=True)
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            place, method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in self.impersonate:
            request.add_header(name, value)
        # No proxies: a gateway is mostly reached through a port of this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
        for left in reversed(range(TRIES)):
            try:
                with opener.open(request, timeout=_SECONDS) as response:
                    return self._read(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in {502, 503, 504} or not left:
                        raise self._refused(error) from None
            except (OSError, http.client.HTTPException) as error:
                raise Refused(
                    f"the gateway {self.url} cannot be reached: {_reason(error)}; does it run, and is "
                    "`kubectl port-forward` running if it goes through that?",
                    ERROR,
                ) from None
            time.sleep(1)
        raise AssertionError

    def _read(self, content: bytes) -> dict[str, Any]:
        if not content:
            return {}
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refused(f"{self.url} is not a gateway of Penstock: it answered {content[:80]!r}")
        return found

    def _refused(self, error: urllib.error.HTTPError) -> Refused:
        try:
            told = json.loads(error.read())
            detail = str(told["detail"])
        except (OSError, ValueError, KeyError, TypeError):
            return Refused(
                f"{self.url} answered {error.code}: is that the gateway of Penstock, and does it know its cluster?",
                ERROR if error.code >= 500 else 2,
            )
        if error.code == 401:
            return Refused(f"the gateway does not know you: {detail}")
        if error.code == 403:
            return Refused(f"you are not allowed to do this: {detail}")
        if error.code == 404:
            return NoObject(detail)
        return Refused(detail, ERROR if error.code >= 500 else 2)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token goes to the gateway and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: an error."""


def find_gateway(where: Where, url: str | None, token: str | None, *, namespace: str | None = None) -> Gateway:
    """The gateway that a command line means.

    Args:
        where: which cluster and namespace.
        url: where the gateway is.
        token: who we are; None: what the kubeconfig says.
        namespace: goes before that of `where`.

    Raises:
        Refused: no gateway is named, or there is no token.
    """
    where = located(where)
    if where.local and not url:
        url = _served_by(where)
    if not url:
        raise Refused(NO_GATEWAY)
    split = urllib.parse.urlsplit(url)
    if split.scheme not in {"http", "https"} or not split.hostname or split.query or split.fragment:
        raise Refused(f'--gateway "{url}": is not the URL of a gateway; write for example http://localhost:8080')
    from penstock.kube.access import CredentialsError, impersonation  # noqa: PLC0415
    from penstock.kube.credentials import find_source  # noqa: PLC0415

    try:
        who = impersonation(where.user or "", uid=where.uid or "", groups=where.groups) if _acts(where) else ()
        access: Access | None = None
        if token is None or (where.namespace or namespace) is None:
            try:
                source = find_source(environment(), kubeconfig=where.kubeconfig, context=where.context, plugins=True)
                access = source.load()
            except CredentialsError:
                if token is None:
                    raise
    except CredentialsError as error:
        raise Refused(error.message) from None
    place = namespace or where.namespace or (access.namespace if access else None) or "default"
    return Gateway(
        url=url.rstrip("/"),
        token=token.strip() if token is not None else _token(access, place),
        namespace=place,
        impersonate=who or (access.impersonate if access is not None and token is None else ()),
    )


def _served_by(where: Where) -> str:
    """The address of `penstock serve`, whose gateway is beside its API server."""
    from penstock.kube.credentials import find_source  # noqa: PLC0415

    server = find_source({}, kubeconfig=where.kubeconfig).load().server
    return server.rpartition("/")[0]


def _acts(where: Where) -> bool:
    return where.user is not None or bool(where.groups) or where.uid is not None


def _token(access: Access | None, namespace: str) -> str:
    found = access.token if access is not None else None
    if access is not None and access.token_file is not None:
        try:
            found = access.token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"{access.token_file}: the token cannot be read: {error}") from None
    if found:
        return found
    what = "nothing of the kind"
    if access is not None and access.certificate is not None:
        what = "a client certificate, which only the API server can check"
    elif access is not None and access.basic is not None:
        what = "a user name and a password"
    raise Refused(WHO_ARE_YOU.format(who="the kubeconfig", what=what, namespace=namespace))


def _reason(error: Exception) -> str:
    found = getattr(error, "reason", error)
    return str(getattr(found, "strerror", None) or found or type(found).__name__).lower()
