"""Deployments on one machine: endpoints, schedules, the commands with `--local`, restarts, mistakes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from integration.cli.support import Cli, pipeline, until

from .support import Served, deployment

GREET: list[dict[str, Any]] = [
    {
        "name": "greet",
        "inputs": [{"name": "who", "from": "inputs.who"}],
        "outputs": [{"name": "text", "type": "string"}],
        "script": 'echo "text=Hello, $INPUT_WHO!" > "$PENSTOCK_OUTPUT"; echo printed',
    }
]
WHO: dict[str, Any] = {
    "inputs": [{"name": "who", "type": "string"}],
    "outputs": [{"name": "text", "type": "string", "from": "steps.greet.outputs.text"}],
}
COPY: list[dict[str, Any]] = [
    {
        "name": "copy",
        "inputs": [{"name": "data", "from": "inputs.data"}],
        "outputs": [{"name": "copy", "type": "file"}],
        "script": 'cp "$INPUT_DATA" "$PENSTOCK_OUTPUTS/copy"',
    }
]


@pytest.fixture
def greeter(served: Served) -> Served:
    """An endpoint `greeter` whose pipeline greets."""
    served.cli.write("d.yaml", pipeline("greet", GREET, **WHO), deployment("greeter", "greet"))
    served.start("d.yaml")
    return served


def waiting(folder: Path) -> list[dict[str, Any]]:
    """A step that appends to a file, and ends when there is another one."""
    script = f'echo "$PENSTOCK_EXECUTION" >> {folder}/ran; while [ ! -e {folder}/go ]; do sleep 0.05; done'
    return [{"name": "wait", "script": script}]


def test_an_endpoint_is_called_as_on_a_cluster(greeter: Served) -> None:
    token = greeter.endpoint_token("greeter")
    answer = greeter.call("greeter", token, {"who": "Ada"})
    assert (answer.status_code, answer.json()["outputs"]) == (200, {"text": "Hello, Ada!"})
    at_root = greeter.http.post(
        f"{greeter.url}/greeter", json={"who": "Eve"}, headers={"Authorization": f"EndpointToken {token}"}
    )
    assert at_root.json()["outputs"] == {"text": "Hello, Eve!"}
    waited = greeter.call("greeter", token, {"who": "Bob"}, params={"wait": "30"})
    assert waited.json()["outputs"] == {"text": "Hello, Bob!"}

    started = greeter.call("greeter", token, {"who": "Cy"}, follow_redirects=False)
    name = started.json()["execution_id"]
    results = greeter.http.get(f"{greeter.url}/endpoints/greeter/executions/{name}", params={"token": token})
    assert results.json() == {"outputs": {"text": "Hello, Cy!"}, "execution_id": name}

    again = [greeter.call("greeter", token, {"who": "Di"}, headers={"Idempotency-Key": "one"}).json() for _ in range(2)]
    assert again[0]["execution_id"] == again[1]["execution_id"]


def test_mistakes_of_callers_are_told_apart(greeter: Served) -> None:
    token = greeter.endpoint_token("greeter")
    assert greeter.http.post(f"{greeter.url}/endpoints/greeter", json={}).status_code == 401
    assert greeter.call("greeter", "w" * 43, {"who": "x"}).status_code == 403
    assert greeter.call("greeter", token, {"who": 3}).json()["name"] == "WrongType"
    assert greeter.call("greeter", token, {}).json()["name"] == "MissingInput"
    greeter.local("suspend", "deployment/greeter")
    until(lambda: greeter.call("greeter", token, {"who": "x"}).status_code == 423)
    greeter.local("resume", "deployment/greeter")
    until(lambda: greeter.call("greeter", token, {"who": "x"}).status_code == 200)


def test_files_go_in_and_come_out(served: Served) -> None:
    spec = {
        "inputs": [{"name": "data", "type": "file"}],
        "outputs": [{"name": "copy", "type": "file", "from": "steps.copy.outputs.copy"}],
    }
    served.cli.write("d.yaml", pipeline("copy", COPY, **spec), deployment("copier", "copy"))
    served.start("d.yaml")
    content = bytes(range(256)) * 4_000
    answer = served.call("copier", served.endpoint_token("copier"), files={"data": ("a b.bin", content)})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert answer.content == content


def test_the_commands_for_clusters_work_here(greeter: Served, tmp_path: Path) -> None:
    name = greeter.local("trigger", "greeter", "--input", "who=Ada").out.strip()
    until(lambda: greeter.phase(name) == "Succeeded")
    found = greeter.get("execution", name)
    assert found["status"]["outputs"] == [{"name": "text", "value": "Hello, Ada!"}]
    assert found["metadata"]["labels"]["penstock.dev/trigger"] == "manual"
    assert greeter.local("logs", name).out == "printed\n"
    assert "Hello, Ada!" in greeter.local("describe", f"execution/{name}").out
    assert name in greeter.local("get", "executions").out
    assert "greeter" in greeter.local("get", "deployments").out

    greeter.cli.write("wait.yaml", pipeline("wait", waiting(tmp_path)), deployment("waits", "wait"))
    assert "deployment.penstock.dev/waits created" in greeter.local("apply", "wait.yaml").out
    assert "deployment.penstock.dev/waits unchanged" in greeter.local("apply", "wait.yaml").out
    until(lambda: greeter.cli("trigger", "waits", "--local").code == 0)
    until(lambda: greeter.cli.lines("ran"))
    running = greeter.cli.lines("ran")[0]
    greeter.local("cancel", running)
    until(lambda: greeter.phase(running) == "Cancelled")
    greeter.local("delete", "execution", running)
    assert greeter.cli("get", "execution", running, "--local").code == 2
    greeter.local("delete", "deployment", "greeter")
    until(lambda: greeter.cli("get", "execution", name, "--local").code != 0, "its executions go with it")


def test_an_execution_that_is_deleted_while_it_runs_is_stopped(served: Served, tmp_path: Path) -> None:
    served.cli.write("d.yaml", pipeline("wait", waiting(tmp_path)), deployment("waits", "wait"))
    served.start("d.yaml")
    until(lambda: served.cli("trigger", "waits", "--local").code == 0)
    until(lambda: served.cli.lines("ran"))
    before = len(served.cli.left_behind())
    served.local("delete", "execution", served.cli.lines("ran")[0])
    until(lambda: len(served.cli.left_behind()) < before, "what ran of it is gone")


def test_a_token_is_rotated_and_the_old_one_holds_for_the_overlap(greeter: Served) -> None:
    old = greeter.endpoint_token("greeter")
    greeter.local("token", "rotate", "greeter", "--overlap", "1h")
    new = greeter.endpoint_token("greeter")
    assert new != old
    until(lambda: greeter.call("greeter", new, {"who": "x"}).status_code == 200)
    assert greeter.call("greeter", old, {"who": "x"}).status_code == 200
    greeter.local("token", "rotate", "greeter", "--overlap", "0")
    until(lambda: greeter.call("greeter", new, {"who": "x"}).status_code == 403)


def test_a_schedule_fires_at_the_minute(served: Served) -> None:
    spec = {"schedule": {"cron": "* * * * *", "timeZone": "Europe/Paris"}, "inputs": [{"name": "who", "value": "x"}]}
    spec["outputs"] = [{"name": "text", "void": True}]
    served.cli.write("d.yaml", pipeline("greet", GREET, **WHO), deployment("each-minute", "greet", **spec))
    served.start("d.yaml")
    until(lambda: "nextTime" in served.get("deployment", "each-minute").get("status", {}))
    planned = served.get("deployment", "each-minute")["status"]["nextTime"]
    until(
        lambda: any(
            each["status"].get("phase") == "Succeeded" for each in served.executions().values() if "status" in each
        )
    )
    (first, *_) = served.executions().values()
    assert first["metadata"]["annotations"]["penstock.dev/scheduled-at"] == planned
    assert first["metadata"]["labels"]["penstock.dev/trigger"] == "schedule"


def test_what_runs_when_it_is_killed_goes_on_and_runs_once(served: Served, tmp_path: Path) -> None:
    served.cli.write("d.yaml", pipeline("wait", waiting(tmp_path)), deployment("waits", "wait"))
    served.start("d.yaml")
    token = served.endpoint_token("waits")
    name = served.call("waits", token, {}, follow_redirects=False).json()["execution_id"]
    until(lambda: served.cli.lines("ran"))
    served.process.kill()
    served.start("d.yaml")
    (tmp_path / "go").touch()
    until(lambda: served.phase(name) == "Succeeded")
    assert served.cli.lines("ran") == [name]
    assert served.endpoint_token("waits") == token
    assert served.call("waits", token, {}).status_code == 200


def test_concurrency_holds(served: Served, tmp_path: Path) -> None:
    queue = deployment("waits", "wait", concurrency={"policy": "Queue", "limit": 1})
    served.cli.write("d.yaml", pipeline("wait", waiting(tmp_path)), queue)
    served.start("d.yaml")
    token = served.endpoint_token("waits")

    def call() -> str:
        return str(served.call("waits", token, {}, follow_redirects=False).json()["execution_id"])

    names = [call()]
    until(lambda: served.cli.lines("ran"))
    names += [call(), call()]
    until(lambda: served.get("deployment", "waits")["status"].get("waiting") == 2)
    assert served.cli.lines("ran") == names[:1]
    (tmp_path / "go").touch()
    until(lambda: all(served.phase(name) == "Succeeded" for name in names))
    assert sorted(served.cli.lines("ran")) == sorted(names)


def test_values_come_from_config_maps(served: Served) -> None:
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"who": "Map"}}
    bound = [{"name": "who", "configMapKeyRef": {"name": "settings", "key": "who"}}]
    served.cli.write("d.yaml", settings, pipeline("greet", GREET, **WHO), deployment("mapped", "greet", inputs=bound))
    served.start("d.yaml")
    answer = served.call("mapped", served.endpoint_token("mapped"), {})
    assert answer.json()["outputs"] == {"text": "Hello, Map!"}


def test_what_cannot_be_served_is_told_in_one_line(served: Served, tmp_path: Path) -> None:
    cli: Cli = served.cli
    missing = cli("get", "executions", "--local")
    assert missing.code == 2 and "penstock serve" in missing.err and "Traceback" not in missing.err
    cli.write("broken.yaml", pipeline("p", [{"name": "a", "script": "x", "dependsOn": ["b"]}]))
    broken = cli("serve", "--port", "0", "broken.yaml")
    assert broken.code == 2 and '"b"' in broken.err and "Traceback" not in broken.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = cli("serve", "--port", str(port))
    assert refused.code == 2 and f"--port {port}" in refused.err
    served.start()
    second = cli("serve", "--port", "0")
    assert second.code != 0 and "another penstock process" in second.err
    assert served.http.get(f"{served.url}/kubernetes/apis/penstock.dev/v1alpha1/executions").status_code == 401
    private = [cli.home / name for name in ("token", "kubeconfig", "penstock.db", "penstock.db-wal")]
    assert [path.stat().st_mode & 0o077 for path in private] == [0] * len(private)
    ended = served.stop()
    assert ended.code == 0 and "Traceback" not in ended.err
