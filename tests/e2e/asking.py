"""HTTP requests out of a pod that enforces Pod Security `restricted`: what a step's own code could send.

PYTEST_DONT_REWRITE: there are no assertions in here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from e2e.cluster.shell import ClusterError, wait_until
from e2e.kubectl import Kubectl
from e2e.manifests import pod, terminated

SECONDS = 120
HOLD = 'until [ -e "$PENSTOCK_OUTPUTS/go" ]; do sleep 0.2; done; rm "$PENSTOCK_OUTPUTS/go"; '
"""What a step's script begins with that is to run until `let_go`."""
# What the pod runs. `cut`: a body is announced and only its first half sent. `until`: asked again until it says so.
_PROGRAM = r"""
import json, os, socket, time, urllib.error, urllib.request
from urllib.parse import urlsplit

def ask(wanted):
    if wanted.get("cut"):
        return cut(wanted)
    body = b"x" * wanted["length"] if "length" in wanted else None
    request = urllib.request.Request(wanted["url"], data=body, method=wanted["method"], headers=wanted["headers"])
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code

def cut(wanted):
    split = urlsplit(wanted["url"])
    lines = [f"{wanted['method']} {split.path}?{split.query} HTTP/1.1", f"Host: {split.netloc}"]
    lines += [f"Content-Length: {wanted['length']}", *(f"{name}: {text}" for name, text in wanted["headers"].items())]
    with socket.create_connection((split.hostname, split.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"x" * (wanted["length"] // 2))
    return 0

for wanted in json.loads(os.environ["REQUESTS"]):
    end = time.monotonic() + 60
    status = ask(wanted)
    while status != wanted.get("until", status) and time.monotonic() < end:
        time.sleep(0.2)
        status = ask(wanted)
    print(status, flush=True)
"""


def request(method: str, url: str, headers: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A request.

    Args:
        method: its method.
        url: where it goes.
        headers: its headers.
        more: `length` of its body; `cut`, to end after half of it; `until`, a status, to ask again until it is that.
    """
    return {"method": method, "url": url, "headers": dict(headers or {}), **more}


def let_go(kubectl: Kubectl, pod_name: str) -> None:
    """Let a step go on that began with `HOLD`."""
    kubectl("exec", pod_name, "--container", "step", "--", "sh", "-c", 'touch "$PENSTOCK_OUTPUTS/go"')


def ask_from_pod(
    kubectl: Kubectl, image: str, requests: Sequence[Mapping[str, Any]], hosts: Mapping[str, str] | None = None
) -> list[int]:
    """Send requests, one after the other, out of a pod; returns the status of each, 0 for those that were cut.

    Args:
        kubectl: in the namespace of the pod.
        image: with Python.
        requests: of `request`.
        hosts: addresses of names that it cannot know otherwise.
    """
    name = f"ask-{secrets.token_hex(3)}"
    env = [{"name": "REQUESTS", "value": json.dumps(list(requests))}]
    body = pod(name, "", image=image, command=["python", "-I", "-c", _PROGRAM], env=env)
    body["spec"]["hostAliases"] = [{"ip": address, "hostnames": [host]} for host, address in (hosts or {}).items()]
    kubectl.apply(body)
    ended: list[Any] = []

    def over() -> bool:
        ended[:] = [terminated(kubectl.get("pod", name))]
        return ended != [None]

    wait_until(over, timeout=SECONDS, what=f"the pod {name} to end")
    said = kubectl("logs", name)
    if ended[0]["exitCode"] != 0:
        raise ClusterError(f"the requests were not sent: {said}")
    return [int(line) for line in said.split()]
