"""What commands against a cluster say without one: wrong usage, no kubeconfig, no server, too little installed."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from integration.cli.support import Cli, Ended, execution, pipeline

COMMANDS = (
    ("get",),
    ("get", "pipe", "x"),
    ("get", "outputs", "x"),
    ("describe", "exec", "x"),
    ("logs", "x"),
    ("cancel", "x"),
    ("suspend", "x"),
    ("resume", "x"),
    ("retry", "x"),
    ("delete", "exec", "x"),
    ("apply", "p.yaml"),
    ("run", "--cluster", "p.yaml"),
)
PIPELINE = pipeline("p", [{"name": "only", "image": "any", "script": "true"}])
every_command = pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`penstock` in a folder with one good manifest, and without any kubeconfig."""
    found = Cli(tmp_path)
    found.write("p.yaml", PIPELINE)
    return found


def call(cli: Cli, *arguments: str, **env: str) -> Ended:
    """Run it in an environment that knows no cluster."""
    nowhere = {"HOME": str(cli.folder), "KUBECONFIG": "", "KUBERNETES_SERVICE_HOST": ""}
    return cli(*arguments, env=nowhere | env)


def kubeconfig(cli: Cli, server: str, **user: object) -> str:
    """Write a kubeconfig with one context, `here`."""
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
    }
    return cli.write("kubeconfig", json.dumps(content))


def one_paragraph(ended: Ended) -> str:
    """Standard error, if it is one message and nothing else was printed."""
    assert ended.out == ""
    assert ended.err.startswith("penstock: ")
    assert len(ended.err.splitlines()) == 1, ended.err
    return ended.err


@every_command
def test_without_a_kubeconfig_it_says_where_it_looked(cli: Cli, arguments: tuple[str, ...]) -> None:
    ended = call(cli, *arguments)
    assert ended.code == 2
    assert f"{cli.folder}/.kube/config: there is no such kubeconfig; set KUBECONFIG" in one_paragraph(ended)


@every_command
def test_a_server_that_does_not_answer_is_told_as_such(cli: Cli, arguments: tuple[str, ...]) -> None:
    with socket.socket() as unused:  # bound but not listening: nobody else takes the port, and it refuses
        unused.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{unused.getsockname()[1]}"
        ended = call(cli, *arguments, "--kubeconfig", kubeconfig(cli, server))
    assert ended.code == 3
    message = one_paragraph(ended)
    assert f"the cluster cannot be reached: {server}" in message and "is it the right --context?" in message


@every_command
def test_the_light_installation_names_the_extra_to_install(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.write("light/aiohttp.py", "raise ImportError('No module named aiohttp', name='aiohttp')\n")
    ended = call(cli, *arguments, PYTHONPATH=str(cli.folder / "light"))
    assert ended.code == 2
    assert '(aiohttp); run: pip install "penstock[cluster]"' in one_paragraph(ended)


def test_groups_without_a_user_cannot_be_taken_on(cli: Cli) -> None:
    ended = call(cli, "get", "--as-group", "g", "--kubeconfig", kubeconfig(cli, "https://127.0.0.1:1"))
    assert ended.code == 2
    assert "only be taken on together with a user; name one with --as" in one_paragraph(ended)


def test_an_unknown_context_is_told_with_those_that_there_are(cli: Cli) -> None:
    ended = call(cli, "get", "--context", "there", KUBECONFIG=kubeconfig(cli, "https://127.0.0.1:1"))
    assert ended.code == 2
    assert "there is no context 'there'; there is: here" in one_paragraph(ended)


def test_a_kubeconfig_goes_before_the_service_account_of_a_pod(cli: Cli) -> None:
    config = kubeconfig(cli, "https://127.0.0.1:1", tokenFile="none")
    ended = call(cli, "get", KUBECONFIG=config, KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert "none: the token cannot be read" in one_paragraph(ended)


V1 = "client.authentication.k8s.io/v1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": ""}, "users[u].user.exec.command: is missing"),
        (
            {"apiVersion": "client.authentication.k8s.io/v1alpha1"},
            "not 'client.authentication.k8s.io/v1alpha1'; let the",
        ),
        ({"args": [1]}, "users[u].user.exec.args: must be a list of texts"),
        ({"env": [{"name": "A"}]}, "users[u].user.exec.env: must be a list of entries with name and value"),
        ({"interactiveMode": "Maybe"}, "exec.interactiveMode: must be Never, IfAvailable or Always, not 'Maybe'"),
        ({"interactiveMode": "Always"}, "wants to ask you something, but standard input is no terminal"),
        ({"command": "no-such-login"}, '"no-such-login" cannot be found, or not be run; install it'),
        ({"command": "no-such-login", "installHint": "brew install it"}, "not be run; brew install it"),
        ({"args": ["hello"]}, 'the credential plugin "echo" did not print JSON'),
        ({"args": ["[]"]}, "did not print an ExecCredential"),
        ({"answer": {"apiVersion": "v1"}}, "printed apiVersion 'v1', but the kubeconfig says"),
        ({"answer": {}}, "gave no credentials: what it printed has no status"),
        ({"answer": {"status": {}}}, "gave neither a token nor a client certificate"),
        ({"answer": {"status": {"token": 7}}}, "gave credentials that are not texts"),
        ({"answer": {"status": {"clientKeyData": "x"}}}, "gave a client certificate or a key without the other"),
        (
            {"answer": {"status": {"token": "x", "expirationTimestamp": "soon"}}},
            "an expirationTimestamp that is none: 'soon'",
        ),
        ({"answer": {"status": {"clientKeyData": "x", "clientCertificateData": "x"}}}, "cannot be used"),
    ],
)
def test_a_credential_plugin_that_cannot_be_used(cli: Cli, fields: dict[str, Any], message: str) -> None:
    answer = {"kind": "ExecCredential", "apiVersion": V1, **fields.pop("answer", {})}
    plugin = {"command": "echo", "apiVersion": V1, "args": [json.dumps(answer)], **fields}
    ended = call(cli, "get", KUBECONFIG=kubeconfig(cli, "https://127.0.0.1:1", exec=plugin))
    assert ended.code == 2
    assert message in one_paragraph(ended)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("get", "pipelnes"), 'There is no kind "pipelnes"; did you mean "pipelines"?'),
        (("get", "foo", "x"), 'There is no kind "foo"; there are pipelines (pipe), deployments (pdep)'),
        (("-n", "x", "get", "exec"), "stand after its name: penstock get exec -n x"),
        (("--context", "run", "get", "-o", "wide"), "stand after its name: penstock get -o wide --context run"),
        (("apply",), "Say what to apply: FILE…, a folder, or - for standard input."),
        (("apply", "-f", "https://x/y.yaml"), "run: curl -fsSL https://x/y.yaml | penstock apply -"),
        (("get", "exec/x", "exec/y", "-w"), "--watch: name one object, or a kind."),
        (("get", "exec", "x", "-A"), "Objects that are named need neither --selector nor --all-namespaces."),
        (("describe", "pipe"), "Say which Pipeline: give its name."),
        (("delete", "exec/"), '"exec/": write KIND NAME or KIND/NAME.'),
        (("delete",), "Missing argument 'KIND NAME…'."),
        (("cancel", "pipe/x"), "pipeline/x: only an execution can be named here."),
        (("retry", "pdep/x"), "deployment/x: only an execution can be named here."),
        (("suspend", "pipe/x"), "A pipeline does not run by itself: name an execution or a deployment."),
        (("logs", "x", "--item", "3"), "--item: say of which STEP."),
        (("logs", "x", "y", "--attempt", "0"), "0 is not in the range x>=1"),
        (("run", "p.yaml", "-n", "team"), "say which cluster is meant and for whom; add --cluster."),
        (("run", "p.yaml", "--cluster", "--runner", "docker"), "--runner is for runs on this machine; leave it out"),
        (("run", "p.yaml", "--cluster", "--new"), "--new is for runs on this machine; leave it out"),
    ],
)
def test_wrong_usage_is_told_before_a_cluster_is_looked_for(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    ended = call(cli, *arguments)
    assert ended.code == 2
    assert message in ended.err and "kubeconfig; set" not in ended.err
    assert ended.out == ""


def test_nothing_is_applied_unless_all_is_right(cli: Cli) -> None:
    cli.write("bad.yaml", pipeline("bad", [{"name": "x", "image": "any", "scrip": "true"}]))
    ended = call(cli, "apply", "p.yaml", "bad.yaml")
    assert ended.code == 2
    assert 'did you mean "script"?' in ended.err and "kubeconfig" not in ended.err


def test_only_other_kinds_are_left_to_kubectl(cli: Cli) -> None:
    cli.write("other.yaml", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}})
    ended = call(cli, "apply", "other.yaml")
    assert ended.code == 2
    assert 'ConfigMap "settings" is not applied here: use kubectl apply' in ended.err
    assert "There is no Pipeline, Deployment or Execution in what was given." in ended.err


def test_a_namespace_that_is_not_that_of_the_manifest_is_refused_before_anything_is_sent(cli: Cli) -> None:
    config = kubeconfig(cli, "https://127.0.0.1:1")
    cli.write("mine.yaml", execution({"name": "x", "namespace": "a"}, pipelineSpec=PIPELINE["spec"]))
    for arguments in (("apply", "mine.yaml"), ("run", "--cluster", "mine.yaml")):
        ended = call(cli, *arguments, "-n", "b", "--kubeconfig", config)
        assert ended.code == 2
        assert 'metadata.namespace is "a", but --namespace says "b"' in one_paragraph(ended)


def test_a_file_of_this_machine_needs_a_gateway_before_anything_is_done(cli: Cli) -> None:
    step = {"name": "s", "image": "any", "script": "true", "inputs": [{"name": "t", "from": "inputs.table"}]}
    cli.write("file.yaml", pipeline("f", [step], inputs=[{"name": "table", "type": "file"}]))
    config = kubeconfig(cli, "http://127.0.0.1:9")
    ended = call(cli, "run", "--cluster", "file.yaml", "--input", "table=@p.yaml", "--kubeconfig", config)
    assert ended.code == 2
    assert "--gateway URL or PENSTOCK_GATEWAY" in one_paragraph(ended)
