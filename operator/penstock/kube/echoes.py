"""Watch events that repeat what the operator itself has written, taken out before kopf sees them.

Five of the nine events of a one-step execution are such echoes, and for each kopf would start a worker and go through
all of its handling: half of the operator's CPU time is kopf's. The rules need nothing but the object itself; whatever
they do not know goes through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeAlias

import aiohttp
import orjson

from penstock.kube.names import MANAGER
from penstock.kube.resources import EXECUTIONS, JOBS, PODS
from penstock.step.values import JsonObject

_Rule: TypeAlias = Callable[[str, JsonObject], bool]


def _execution(kind: str, body: JsonObject) -> bool:
    """Whether nothing but the status changed, which we write: we have seen this spec when we wrote it."""
    seen = body.get("status", {}).get("observedGeneration")
    return kind == "MODIFIED" and seen is not None and seen == body["metadata"].get("generation")


def _job(kind: str, body: JsonObject) -> bool:
    """Whether it is a Job of ours as we made it, or with the status that we gave it; others may only admit it."""
    spec = body["spec"]
    untouched = body["metadata"].get("generation") == 1 and not spec.get("suspend")
    return kind in ("ADDED", "MODIFIED") and untouched and spec.get("managedBy") == MANAGER


def _pod(kind: str, body: JsonObject) -> bool:
    """Whether it is a Pod as we made it: the answer to our request said so, and all that happens to it comes later."""
    # The Job controller puts a finalizer on those that it makes, whose names only the watch tells.
    made_by_us = not body["metadata"].get("finalizers") and not body["spec"].get("nodeName")
    return kind == "ADDED" and made_by_us and not body["status"].get("conditions")


_RULES: Final[dict[str, _Rule]] = {EXECUTIONS.kind: _execution, JOBS.kind: _job, PODS.kind: _pod}
_WATCHED: Final = tuple(f"/{resource.plural}" for resource in (EXECUTIONS, JOBS, PODS))
_OTHER_POD: Final = b'{"type":"MODIFIED","object":{"kind":"Pod"'
"""How most lines about Pods begin: there is no need to look into those."""


def is_echo(line: bytes) -> bool:
    """Whether a line of a watch's answer tells nothing that the operator did not do itself."""
    if line.startswith(_OTHER_POD):
        return False
    try:
        event = orjson.loads(line)
        body = event["object"]
        rule = _RULES.get(body["kind"])
        return rule is not None and "deletionTimestamp" not in body["metadata"] and rule(event["type"], body)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False  # kopf knows what to say about it


def without_echoes(request: aiohttp.ClientRequest, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """The same response; if it is a watch of such kinds, it is read without echoes from now on."""
    url = request.url
    if url.query_string and url.path.endswith(_WATCHED) and url.query.get("watch") == "true":
        response.content = _Quiet(response.content)  # type: ignore[assignment]
    return response


class _Quiet:
    """The content of a watch's answer without the lines that are echoes; otherwise what it was."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """What the answer brings, in pieces that are whole lines."""
        rest = b""
        async for chunk in self._content.iter_chunked(size):
            *lines, rest = (rest + chunk).split(b"\n")
            if kept := [line for line in lines if line and not is_echo(line)]:
                yield b"\n".join([*kept, b""])
        if rest:
            yield rest
