"""What `helm test` runs: the three kinds are served, and what the chart installs is ready behind its Services.

Its arguments are pairs: what it is called, and what the variables with the address of its Service begin with.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

KINDS = {"pipelines", "deployments", "executions"}
CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GIVE_UP_SECONDS = 90


def address(service: str) -> str:
    """Host and port of a Service, from what Kubernetes puts into every container, so that no DNS is needed."""
    host = os.environ[f"{service}_SERVICE_HOST"]
    return f"{f'[{host}]' if ':' in host else host}:{os.environ[f'{service}_SERVICE_PORT']}"


def served() -> str:
    """Ask the API server for our kinds; returns what is wrong, if anything."""
    url = f"https://{address('KUBERNETES')}/apis/penstock.dev/v1alpha1"
    token = (CREDENTIALS / "token").read_text()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    trust = ssl.create_default_context(cafile=str(CREDENTIALS / "ca.crt"))
    with urllib.request.urlopen(request, timeout=5, context=trust) as answer:  # noqa: S310 - https
        missing = KINDS - {resource["name"] for resource in json.load(answer)["resources"]}
    return f"CRDs that are not installed: {', '.join(sorted(missing))}" if missing else ""


def ready(service: str) -> str:
    """Ask whoever is behind a Service whether it is ready; returns what is wrong, if anything."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{address(service)}/readyz", timeout=5) as answer:
        answer.read()
    return ""


def main() -> None:
    """Ask until all is right or it takes too long, and exit with a message that says what is wrong."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    checks = [("API server", served)]
    for name, service in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        checks.append((f"{name}, by its Service", partial(ready, service)))
    while True:
        wrong = []
        for name, check in checks:
            try:
                problem = check()
            except urllib.error.HTTPError as error:  # what a server says about it helps more than the code
                problem = f"{error}: {error.read(500).decode(errors='replace')}"
            except (OSError, ValueError) as error:
                problem = str(error)
            if problem:
                wrong.append(f"{name}: {problem}")
        if not wrong:
            print(f"Penstock is ready: {'; '.join(name for name, _ in checks)}")  # noqa: T201 - for `helm test --logs`
            return
        if time.monotonic() > deadline:
            sys.exit("\n".join(wrong))
        time.sleep(1)


main()
