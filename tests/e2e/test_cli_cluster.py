"""The command line against a real cluster and a real operator, which runs here and looks after the test's namespace."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from e2e.cluster.shell import wait_until
from e2e.kubectl import Kubectl
from e2e.manifests import BUSYBOX
from integration.cli.support import Cli, Ended, Running, execution, pipeline

SECONDS = 120
DEFAULTS = {"image": BUSYBOX, "podTemplate": {"spec": {"securityContext": {"runAsUser": 65532}}}}
CHAIN = pipeline(
    "chain",
    [
        {
            "name": "first",
            "script": 'echo "first got $INPUT_ROWS"; echo "n=$((INPUT_ROWS + 1))" >> "$PENSTOCK_OUTPUT"',
            "inputs": [{"name": "rows", "from": "inputs.rows"}],
            "outputs": [{"name": "n", "type": "number"}],
        },
        {
            "name": "second",
            "script": 'echo "second got $INPUT_N"; echo bye; echo "n=$((INPUT_N * 2))" >> "$PENSTOCK_OUTPUT"',
            "inputs": [{"name": "n", "from": "steps.first.outputs.n"}],
            "outputs": [{"name": "n", "type": "number"}],
        },
    ],
    defaults=DEFAULTS,
    inputs=[{"name": "rows", "type": "number", "default": 3}],
    outputs=[{"name": "total", "type": "number", "from": "steps.second.outputs.n"}],
)
ITEMS = pipeline(
    "items",
    [
        {
            "name": "each",
            "forEach": {"items": ["x", "y", "z"]},
            "inputs": [{"name": "one", "from": "item"}],
            "script": 'echo "this is $INPUT_ONE"; test "$INPUT_ONE" != y',
        }
    ],
    defaults=DEFAULTS,
    failurePolicy="FinishRunning",
)
SLOW = pipeline(
    "slow",
    [{"name": "wait", "script": "echo waiting; trap 'exit 1' TERM; while true; do sleep 1; done"}],
    defaults=DEFAULTS,
    **{"finally": [{"name": "tidy", "script": "echo tidied"}]},
)


class OnCluster:
    """`penstock` with a kubeconfig, that of `kubectl` unless told, and the test's namespace."""

    def __init__(self, cli: Cli, kubectl: Kubectl, kubeconfig: Path | None = None) -> None:
        self.cli = cli
        self.kubectl = kubectl
        self.where = ("--kubeconfig", str(kubeconfig or kubectl.kubeconfig), "--namespace", kubectl.namespace)

    def __call__(self, *arguments: str, code: int = 0) -> Ended:
        """Run a command; it must end with this code."""
        ended = self.cli(*arguments, *self.where)
        assert ended.code == code, f"{arguments}: {ended}"
        return ended

    def start(self, *arguments: str) -> Running:
        """Start a command in the background."""
        return self.cli.start(*arguments, *self.where)

    def object(self, kind: str, name: str) -> dict[str, Any]:
        """What `get -o json` prints."""
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json").out)
        return found

    def status(self, name: str) -> dict[str, Any]:
        """The status of an execution, by `kubectl`, which asks again at a tenth of the cost."""
        found: dict[str, Any] = self.kubectl.get("executions.penstock.dev", name).get("status", {})
        return found

    def await_phase(self, name: str, *phases: str) -> dict[str, Any]:
        """Wait until an execution is in one of these phases."""
        wait_until(
            lambda: self.status(name).get("phase") in phases,
            timeout=SECONDS,
            what=f"{name} to be {' or '.join(phases)}",
            every=0.3,
        )
        return self.object("exec", name)

    def await_step(self, name: str, step: str, phase: str) -> None:
        """Wait until a step is in this phase."""

        def there() -> bool:
            steps = self.status(name).get("steps", [])
            return any(each["name"] == step and each["phase"] == phase for each in steps)

        wait_until(there, timeout=SECONDS, what=f"{step} of {name} to be {phase}", every=0.3)


@pytest.fixture
def operator(crds: None, kubectl: Kubectl, namespace: str, tmp_path: Path) -> Iterator[None]:
    """The operator, outside of the cluster and for the test's namespace alone."""
    env = {
        **os.environ,
        "PENSTOCK_NAMESPACES": namespace,
        "PENSTOCK_LEASE_NAMESPACE": namespace,
        "PENSTOCK_HTTP_PORT": "0",
    }
    log = tmp_path / "operator.log"
    with log.open("wb") as out:
        command = (sys.executable, "-m", "penstock.cli", "operator", "--kubeconfig", str(kubectl.kubeconfig))
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        yield
        assert process.poll() is None, f"the operator ended:\n{log.read_text()}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def penstock(operator: None, kubectl: Kubectl, tmp_path: Path) -> OnCluster:
    """The command line, with an operator at work."""
    folder = tmp_path / "cli"
    folder.mkdir()
    return OnCluster(Cli(folder), kubectl)


def header(text: str) -> list[str]:
    """The words of a table's head."""
    return re.split(r" {2,}", text.splitlines()[0])


def test_a_run_on_the_cluster_has_the_result_and_the_exit_code_of_a_local_one(penstock: OnCluster) -> None:
    chain = penstock.cli.write("chain.yaml", CHAIN)
    there = penstock("run", "--cluster", chain, "--input", "rows=20", "--output", "json")
    here = penstock.cli("run", chain, "--input", "rows=20", "--output", "json")
    assert there.object["status"]["outputs"] == here.object["status"]["outputs"] == [{"name": "total", "value": 42}]
    assert (there.code, there.phases) == (here.code, here.phases)
    assert "first" in there.err and "Succeeded in" in there.err
    text = penstock("run", "--cluster", chain, "--quiet")
    assert re.fullmatch(r"chain-\w+ Succeeded in \S+\n  total  8\n", text.out)
    assert text.err == ""


def test_a_run_that_fails_shows_the_last_lines_of_what_failed(penstock: OnCluster) -> None:
    items = penstock.cli.write("items.yaml", ITEMS)
    ended = penstock("run", "--cluster", items, code=1)
    name = ended.out.split()[0]
    assert "Failed" in ended.out
    assert f"penstock logs {name} each --item 1" in ended.err
    assert "\n  this is y\n" in ended.err
    assert len(re.findall(r"^each\[0\] +Succeeded", ended.err, re.MULTILINE)) == 1


def test_ctrl_c_cancels_the_execution_and_its_finally_steps_run(penstock: OnCluster) -> None:
    running = penstock.start("run", "--cluster", penstock.cli.write("slow.yaml", SLOW), "--name", "mine", "-o", "json")
    wait_until(lambda: re.search(r"wait +Running", running.err), timeout=SECONDS, what="the step to run")
    running.signal(signal.SIGINT)
    ended = running.ended()
    assert ended.code == 130, ended
    assert ended.object["status"]["phase"] == "Cancelled"
    assert ended.phases == {"wait": "Cancelled", "tidy": "Succeeded"}
    again = penstock("run", "--cluster", "slow.yaml", "--name", "mine", code=2)
    assert 'there is an execution "mine" already; give another --name' in again.err


def test_a_pipeline_that_no_cluster_can_run_is_refused_before_an_execution_is_made(penstock: OnCluster) -> None:
    broken = penstock.cli.write("broken.yaml", pipeline("broken", [{"name": "only", "script": "true"}], defaults={}))
    ended = penstock("run", "--cluster", broken, code=2)
    assert 'pipeline "broken" cannot run on this cluster' in ended.err and "has no image" in ended.err
    assert penstock("get", "exec").out == ""


def test_an_inline_execution_runs_without_a_pipeline_object(penstock: OnCluster) -> None:
    inline = execution({"name": "inline"}, pipelineSpec=CHAIN["spec"], inputs=[{"name": "rows", "value": 1}])
    assert "total  4" in penstock("run", "--cluster", penstock.cli.write("inline.yaml", inline)).out
    assert penstock("get", "pipe").err.startswith("no pipelines in namespace")


def test_what_is_applied_can_be_listed_described_and_deleted(penstock: OnCluster, kubectl: Kubectl) -> None:
    chain = penstock.cli.write("chain.yaml", CHAIN)
    run = penstock.cli.write("run.yaml", execution({"name": "one"}, pipeline={"name": "chain"}))
    said = penstock("apply", run, chain).out  # what is named comes first, whatever the order of files
    assert said.splitlines() == ["pipeline.penstock.dev/chain created", "execution.penstock.dev/one created"]
    changed = {**CHAIN, "spec": {**CHAIN["spec"], "description": "a chain"}}
    penstock.await_phase("one", "Succeeded")
    assert penstock("apply", chain).out == "pipeline.penstock.dev/chain unchanged\n"
    assert penstock("apply", penstock.cli.write("new.yaml", changed)).out == "pipeline.penstock.dev/chain configured\n"

    table = penstock("get").out
    assert header(table) == ["NAME", "PIPELINE", "PHASE", "PROGRESS", "AGE", "DURATION"]
    assert re.fullmatch(r"one +chain +Succeeded +2/2 +\d+[sm] +\d\S+", table.splitlines()[1])
    assert "chain-1" in penstock("get", "exec", "one", "-o", "wide").out
    assert penstock("get", "executions", "-o", "name").out == "execution.penstock.dev/one\n"
    listed = yaml.safe_load(penstock("get", "pipe", "-o", "yaml").out)
    assert [each["metadata"]["name"] for each in listed["items"]] == ["chain"]
    assert "managedFields" not in listed["items"][0]["metadata"]

    about = penstock("describe", "execution/one").out
    assert "Phase:      Succeeded" in about and re.search(r"  second +Succeeded +1 ", about) and "total  8" in about
    assert "Description:  a chain" in penstock("describe", "pipe", "chain").out

    assert penstock("delete", "exec", "one").out == "execution.penstock.dev/one deleted\n"
    wait_until(lambda: not kubectl.items("jobs"), timeout=SECONDS, what="its Jobs to go")
    gone = penstock("get", "pipe", "chian", code=2)
    assert 'there is no pipeline "chian"' in gone.err and 'did you mean "chain"?' in gone.err


def test_a_spec_that_may_not_change_is_refused_with_the_reason_of_the_server(penstock: OnCluster) -> None:
    penstock("apply", penstock.cli.write("a.yaml", CHAIN, execution({"name": "one"}, pipeline={"name": "chain"})))
    other = execution({"name": "one"}, pipeline={"name": "chain"}, inputs=[{"name": "rows", "value": 9}])
    ended = penstock("apply", penstock.cli.write("b.yaml", other), code=2)
    assert ended.err.startswith("penstock: ") and "Execution" in ended.err and "Traceback" not in ended.err


def test_suspend_resume_cancel_and_retry(penstock: OnCluster) -> None:
    waiting = execution({"name": "held"}, pipeline={"name": "chain"}, suspend=True)
    penstock("apply", penstock.cli.write("held.yaml", CHAIN, waiting))
    penstock.await_phase("held", "Suspended")
    assert "is suspended already" in penstock("suspend", "held").out
    assert penstock("resume", "held").out == "execution.penstock.dev/held resumed\n"
    first = penstock.await_phase("held", "Succeeded")
    assert "has finished already" in penstock("cancel", "held", code=2).err

    again = penstock("retry", "held").out.strip()
    second = penstock.await_phase(again, "Succeeded")
    assert again.startswith("held-") and second["status"]["outputs"] == first["status"]["outputs"]
    assert second["metadata"]["annotations"] == {"penstock.dev/retry-of": "held"}

    penstock("apply", penstock.cli.write("slow.yaml", SLOW, execution({"name": "slow"}, pipeline={"name": "slow"})))
    penstock.await_step("slow", "wait", "Running")
    assert "has not finished, it is Running" in penstock("retry", "slow", code=2).err
    assert penstock("cancel", "slow").out == "execution.penstock.dev/slow is being cancelled\n"
    penstock.await_phase("slow", "Cancelled")


def test_logs_of_steps_items_and_attempts(penstock: OnCluster) -> None:
    flaky = pipeline(
        "flaky",
        [
            {
                "name": "try",
                "script": 'echo "attempt $PENSTOCK_ATTEMPT"; test "$PENSTOCK_ATTEMPT" = 2',
                "retry": {"limit": 2, "delaySeconds": 0},
            }
        ],
        defaults=DEFAULTS,
    )
    runs = [execution({"name": name}, pipeline={"name": name}) for name in ("chain", "items", "flaky")]
    penstock("apply", penstock.cli.write("all.yaml", CHAIN, ITEMS, flaky, *runs))
    penstock.await_phase("chain", "Succeeded")
    penstock.await_phase("items", "Failed")
    penstock.await_phase("flaky", "Succeeded")

    assert penstock("logs", "chain").out == "first | first got 3\nsecond | second got 4\nsecond | bye\n"
    assert penstock("logs", "chain", "second").out == "second got 4\nbye\n"
    assert penstock("logs", "chain", "second", "--tail", "1").out == "bye\n"
    assert penstock("logs", "items", "each", "--item", "2").out == "this is z\n"
    assert penstock("logs", "items").out.splitlines()[1] == "each[1] | this is y"
    assert penstock("logs", "flaky", "try").out == "attempt 2\n"
    assert penstock("logs", "flaky", "try", "--attempt", "1").out == "attempt 1\n"
    assert "had 2 attempts so far" in penstock("logs", "flaky", "try", "--attempt", "3", code=2).err
    assert 'did you mean "second"?' in penstock("logs", "chain", "secnd", code=2).err
    assert "has 3 items, from 0 to 2" in penstock("logs", "items", "each", "--item", "3", code=2).err


def test_logs_that_are_followed_go_on_to_the_end_of_the_execution(penstock: OnCluster) -> None:
    penstock("apply", penstock.cli.write("slow.yaml", SLOW, execution({"name": "slow"}, pipeline={"name": "slow"})))
    follower = penstock.start("logs", "--follow", "slow")
    printed = penstock.cli.folder / ".background-1.out"
    penstock.await_step("slow", "wait", "Running")
    wait_until(
        lambda: "wait | waiting" in printed.read_text(encoding="utf-8"),
        timeout=SECONDS,
        what="the log of the running step",
    )
    assert follower.alive
    penstock("cancel", "slow")
    ended = follower.ended()
    assert ended.code == 0
    assert ended.out == "wait | waiting\ntidy | tidied\n"


def test_what_one_is_not_allowed_to_do_is_said_in_one_paragraph(
    penstock: OnCluster, kubectl: Kubectl, tmp_path: Path
) -> None:
    kubectl("create", "serviceaccount", "nobody")
    content = yaml.safe_load(kubectl.kubeconfig.read_text(encoding="utf-8"))
    content["users"][0]["user"] = {"token": kubectl("create", "token", "nobody").strip()}
    theirs = tmp_path / "nobody.kubeconfig"
    theirs.write_text(yaml.safe_dump(content), encoding="utf-8")
    ended = OnCluster(penstock.cli, kubectl, theirs)("get", code=2)
    assert ended.err.startswith("penstock: you are not allowed to do this: executions.penstock.dev is forbidden")
    assert len(ended.err.splitlines()) == 1


def test_fields_that_others_own_are_a_conflict_that_names_them(penstock: OnCluster, kubectl: Kubectl) -> None:
    kubectl.apply({**CHAIN, "spec": {**CHAIN["spec"], "description": "theirs", "maxParallel": 3}})
    mine = {**CHAIN, "spec": {**CHAIN["spec"], "description": "mine", "maxParallel": 2}}
    chain = penstock.cli.write("chain.yaml", mine)
    for command in (("apply", chain), ("run", "--cluster", chain)):
        refused = penstock(*command, code=2).err
        assert 'pipeline "chain" was not changed' in refused
        assert '"kubectl" owns spec.description and spec.maxParallel;' in refused and "--force-conflicts" in refused
        assert len(refused.splitlines()) == 1
    assert kubectl.get("pipelines", "chain")["spec"]["description"] == "theirs"
    assert penstock("apply", "--force-conflicts", "-f", chain).out == "pipeline.penstock.dev/chain configured\n"
    assert kubectl.get("pipelines", "chain")["spec"]["description"] == "mine"
    assert penstock("apply", chain).out == "pipeline.penstock.dev/chain unchanged\n"


def test_an_execution_may_run_what_the_cluster_has_an_older_revision_too(penstock: OnCluster, kubectl: Kubectl) -> None:
    penstock("run", "--cluster", "--quiet", penstock.cli.write("chain.yaml", CHAIN))
    extra = {"name": "third", "script": "true", "dependsOn": ["second"]}
    changed = {**CHAIN, "spec": {**CHAIN["spec"], "steps": [*CHAIN["spec"]["steps"], extra]}}
    penstock("run", "--cluster", "--quiet", penstock.cli.write("changed.yaml", changed))
    old = execution({"generateName": "old-"}, pipeline={"name": "chain", "revision": 1})
    old_file = penstock.cli.write("old.yaml", changed, old)  # the pipeline beside it is not applied
    ended = penstock("run", "--cluster", old_file, "--input", "rows=20", "--output", "json")
    assert (ended.object["status"]["revision"], ended.phases) == (
        "chain-1",
        {"first": "Succeeded", "second": "Succeeded"},
    )
    assert ended.object["status"]["outputs"] == [{"name": "total", "value": 42}]
    new = penstock.cli.write("new.yaml", execution({"generateName": "new-"}, pipeline={"name": "chain"}))
    assert "third" in penstock("run", "--cluster", new, "--output", "json").phases
    for wanted, message in (
        ({"name": "chain", "revision": 7}, 'pipeline "chain" has no revision 7 in namespace'),
        ({"name": "chian"}, 'there is no pipeline "chian"'),
    ):
        wrong = penstock.cli.write("wrong.yaml", execution({"generateName": "x-"}, pipeline=wanted))
        assert message in penstock("run", "--cluster", wrong, code=2).err
    assert '--input "rowz"' in penstock("run", "--cluster", old_file, "--input", "rowz=1", code=2).err


def test_what_changes_is_watched(penstock: OnCluster) -> None:
    watcher = penstock.start("get", "-w", "-o", "wide", "-l", "team=a")
    printed = penstock.cli.folder / ".background-1.out"
    chain = penstock.cli.write("chain.yaml", CHAIN)
    wait_until(lambda: "PHASE" in printed.read_text(encoding="utf-8"), timeout=SECONDS, what="the head of the table")
    runs = [
        execution({"name": name, "labels": {"team": team}}, pipeline={"name": "chain"})
        for name, team in (("mine", "a"), ("theirs", "b"))
    ]
    penstock("apply", chain, penstock.cli.write("runs.yaml", *runs))
    penstock.await_phase("theirs", "Succeeded")
    wait_until(
        lambda: re.search(r"mine +chain +Succeeded", printed.read_text(encoding="utf-8")),
        timeout=SECONDS,
        what="the end of the execution",
    )
    watcher.signal(signal.SIGINT)
    ended = watcher.ended()
    assert ended.code == 130
    assert re.search(r"mine +chain +Running", ended.out) and "theirs" not in ended.out
    assert ended.out.count("NAME ") == 1


def test_kubectl_shows_phase_progress_age_and_duration(penstock: OnCluster, kubectl: Kubectl) -> None:
    run = execution({"name": "one"}, pipeline={"name": "chain"})
    penstock("apply", penstock.cli.write("all.yaml", CHAIN, run))
    penstock.await_phase("one", "Succeeded")
    head, row = kubectl("get", "exec").splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "PIPELINE", "REVISION", "AGE", "DURATION"]
    assert re.fullmatch(r"one +Succeeded +2/2 +chain +chain-1 +\d+\w* +\d[\d.ms]*s", row.rstrip())


class Line:
    """A connection to the cluster that can be cut."""

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self._target = (str(address.hostname), int(address.port or 443))
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
        finally:
            source.close()  # each end is closed by who reads from it

    def cut(self) -> None:
        """All connections break off; new ones can be made."""
        for each in self._open:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        """No more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def test_logs_are_followed_through_lost_connections_without_gaps_and_doubles(
    penstock: OnCluster, kubectl: Kubectl, tmp_path: Path
) -> None:
    content = yaml.safe_load(kubectl.kubeconfig.read_text(encoding="utf-8"))
    line = Line(content["clusters"][0]["cluster"]["server"])
    content["clusters"][0]["cluster"]["server"] = line.url
    through = tmp_path / "through.kubeconfig"
    through.write_text(yaml.safe_dump(content), encoding="utf-8")
    count = 'i=0; while [ $i -lt 60 ]; do i=$((i + 1)); echo "a $i"; echo "b $i"; sleep 0.1; done'
    steps: list[dict[str, Any]] = [
        {"name": "count", "script": count},
        {"name": "later", "script": "echo end", "dependsOn": ["count"]},
    ]
    run = execution({"name": "one"}, pipelineSpec={**pipeline("x", steps)["spec"], "defaults": DEFAULTS})
    penstock("apply", penstock.cli.write("run.yaml", run))
    follower = OnCluster(penstock.cli, kubectl, through).start("logs", "-f", "one")
    printed = penstock.cli.folder / ".background-1.out"

    def has(mark: str) -> bool:
        return mark in printed.read_text(encoding="utf-8")

    for mark in ("a 5\n", "b 20\n", "a 40\n"):
        wait_until(partial(has, mark), timeout=SECONDS, what=mark, every=0.05)
        line.cut()
    ended = follower.ended()
    line.close()
    assert ended.code == 0, ended
    lines = [f"count | {letter} {number}" for number in range(1, 61) for letter in "ab"]
    assert ended.out.splitlines() == [*lines, "later | end"]
    assert "trouble, trying again" in ended.err
