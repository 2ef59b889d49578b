"""Signed URLs of an S3 store, used in a pod: good for one object, one method and some time; half an upload is nothing.

`test_chart_files.py` does the same with the URLs that the gateway checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import pytest

from e2e.asking import HOLD, ask_from_pod, let_go, request
from e2e.files_fixtures import Lab
from e2e.operator_fixtures import script, step_of, steps
from penstock.storage.objects import Method, open_store
from penstock.storage.settings import from_environment

pytest_plugins = ["e2e.operator_fixtures", "e2e.files_fixtures"]

SIZE = 5_000_000


def signed(lab: Lab, monkeypatch: pytest.MonkeyPatch, method: Method, keys: Sequence[str], seconds: int) -> list[str]:
    """URLs as the operator signs them, for keys of the lab's namespace."""
    for name, value in lab.store.settings.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)

    async def sign() -> list[str]:
        store = open_store(from_environment(lab.store.settings))
        try:
            wanted = [f"{lab.namespace}/{key}" for key in keys]
            return [each.url for each in await store.sign(method, wanted, seconds)]
        finally:
            await store.close()

    return asyncio.run(sign())


def plan_of(lab: Lab, pod: str) -> dict[str, Any]:
    """What the pod of a step may fetch and upload."""
    found: dict[str, Any] = json.loads(b64decode(lab.place.kubectl.get("secret", pod)["data"]["plan.json"]))
    return found


def test_a_url_gives_no_right_after_its_time(lab: Lab, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.store.put(f"{lab.namespace}/data/there", b"content")
    (long,) = signed(lab, monkeypatch, "GET", ["data/there"], 600)
    (short,) = signed(lab, monkeypatch, "GET", ["data/there"], 2)
    (write,) = signed(lab, monkeypatch, "PUT", ["data/late"], 2)
    asked = [
        request("GET", long),
        request("GET", short, until=403),
        request("PUT", write, length=10, until=403),
        request("PUT", write, length=10),
        request("GET", long),
    ]
    assert ask_from_pod(lab.place.kubectl, image, asked) == [200, 403, 403, 403, 200]


def test_what_a_step_is_given_is_good_for_its_own_files_only(lab: Lab, image: str) -> None:
    give = script("give", 'echo x > "$PENSTOCK_OUTPUTS/a"', outputs=[{"name": "a", "type": "file"}])
    take = script(
        "take",
        HOLD + 'cat "$INPUT_A" > "$PENSTOCK_OUTPUTS/b"',
        inputs=[{"name": "a", "from": "steps.give.outputs.a"}],
        outputs=[{"name": "b", "type": "file"}],
    )
    lab.store.put(f"{lab.namespace}/data/private", b"private")
    name = lab.place.start(steps(give, take))
    pod = lab.place.wait_for_pod(name, "take")
    plan = plan_of(lab, pod)
    (read,), (write,) = plan["inputs"], plan["outputs"]
    get, put = read["url"], write["put"]["url"]
    other = get.replace(read["key"], "data/private"), put.replace(write["key"], read["key"])
    assert other[0] != get
    assert other[1] != put
    asked = [
        request("GET", get),
        request("GET", other[0]),
        request("PUT", other[1], length=5),
        request("PUT", get, length=5),
        request("DELETE", get),
        request("GET", put),
        request("DELETE", put),
        request("GET", get.partition("?")[0]),
        request("GET", get.partition("/executions/")[0] + "?list-type=2"),
    ]
    assert ask_from_pod(lab.place.kubectl, image, asked) == [200] + [403] * 8
    let_go(lab.place.kubectl, pod)
    status = lab.place.wait(name)
    assert status["phase"] == "Succeeded", status
    assert [lab.read(step_of(status, step)["outputs"][0]) for step in ("give", "take")] == [b"x\n", b"x\n"]


def test_half_an_upload_is_nothing(lab: Lab, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "data/half"
    (put,), (get,) = (signed(lab, monkeypatch, method, [key], 600) for method in ("PUT", "GET"))
    step = script(
        "give",
        HOLD + 'echo whole > "$PENSTOCK_OUTPUTS/a"',
        outputs=[{"name": "a", "type": "file"}],
    )
    name = lab.place.start(steps(step))
    pod = lab.place.wait_for_pod(name, "give")
    (output,) = plan_of(lab, pod)["outputs"]
    (read,) = signed(lab, monkeypatch, "GET", [output["key"]], 600)
    parts = output["multipart"]
    # As collectors do; without it this server takes what has come for the whole.
    md5 = {"Content-MD5": b64encode(hashlib.md5(b"x" * SIZE, usedforsecurity=False).digest()).decode()}
    asked = [
        request("PUT", put, md5, length=SIZE, cut=True),
        request("GET", get),
        # A part that is whole, one that is not, and no word that they are all.
        request("PUT", f"{parts['url']}&{parts['parts'][0]}", md5, length=SIZE),
        request("PUT", f"{parts['url']}&{parts['parts'][1]}", md5, length=SIZE, cut=True),
        request("GET", read),
        request("PUT", put, md5, length=SIZE),
        request("GET", get),
    ]
    assert ask_from_pod(lab.place.kubectl, image, asked) == [0, 404, 200, 0, 404, 200, 200]
    let_go(lab.place.kubectl, pod)
    status = lab.place.wait(name)
    assert lab.read(step_of(status, "give")["outputs"][0]) == b"whole\n"
    assert lab.store.uploads() == []
