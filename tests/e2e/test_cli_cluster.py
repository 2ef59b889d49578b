"""The command line against a real cluster and a real operator, which runs here and looks after the test's namespace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """`penstock` with a kubeconfig and the test's namespace."""

    def __init__(self, cli: Cli, kubeconfig: Path, namespace: str) -> None:
        self.cli = cli
        self.where = ("--kubeconfig", str(kubeconfig), "--namespace", namespace)

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

    def await_phase(self, name: str, *phases: str) -> dict[str, Any]:
        """Wait until an execution is in one of these phases."""
        wait_until(
            lambda: self.object("exec", name).get("status", {}).get("phase") in phases,
            timeout=SECONDS,
            what=f"{name} to be {' or '.join(phases)}",
        )
        return self.object("exec", name)

    def await_step(self, name: str, step: str, phase: str) -> None:
        """Wait until a step is in this phase."""

        def there() -> bool:
            steps = self.object("exec", name).get("status", {}).get("steps", [])
            return any(each["name"] == step and each["phase"] == phase for each in steps)

        wait_until(there, timeout=SECONDS, what=f"{step} of {name} to be {phase}")


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
def penstock(operator: None, kubectl: Kubectl, namespace: str, tmp_path: Path) -> OnCluster:
    """The command line, with an operator at work."""
    folder = tmp_path / "cli"
    folder.mkdir()
    return OnCluster(Cli(folder), kubectl.kubeconfig, namespace)


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
    penstock: OnCluster, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    kubectl("create", "serviceaccount", "nobody")
    content = yaml.safe_load(kubectl.kubeconfig.read_text(encoding="utf-8"))
    content["users"][0]["user"] = {"token": kubectl("create", "token", "nobody").strip()}
    theirs = tmp_path / "nobody.kubeconfig"
    theirs.write_text(yaml.safe_dump(content), encoding="utf-8")
    ended = OnCluster(penstock.cli, theirs, namespace)("get", code=2)
    assert ended.err.startswith("penstock: you are not allowed to do this: executions.penstock.dev is forbidden")
    assert len(ended.err.splitlines()) == 1
