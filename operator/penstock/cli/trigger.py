"""`penstock trigger` and `penstock token rotate`: what people do with a deployment of a cluster by hand."""

from __future__ import annotations

import secrets
import string
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Refused, Where, fetch, lacking, on_cluster, where_options
from penstock.cli.main import ERROR, OK, emit
from penstock.cli.options import gateway_options
from penstock.kube.resources import CONFIG_MAPS, DEPLOYMENTS, EXECUTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.api.deployment import DeploymentSpec
    from penstock.api.pipeline import PipelineSpec
    from penstock.cli.cluster import Cluster
    from penstock.engine.mapping import ConfigKey, Given

_RANDOM = 10
_ALPHABET = string.ascii_lowercase + string.digits
_LONGEST = 63
ANSWER_SECONDS = 15.0
"""How long the operator is given to make a token before people are told that it has not."""


@click.command("trigger")
@click.argument("deployment", metavar="DEPLOYMENT")
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE|NAME=@FILE",
    help="One input of the endpoint; may be repeated. For a file also NAME=PATH of the data store.",
)
@gateway_options
@where_options
def trigger(where: Where, deployment: str, inputs: tuple[str, ...], gateway: str | None, token: str | None) -> int:
    """Start an execution of a deployment by hand, with your own rights; prints its name.

    It gets what the deployment binds: constants, keys of ConfigMaps and objects as they are now. With an endpoint you
    give what a caller would give; a schedule takes no inputs. Concurrency limits hold as for any other execution.
    """
    if (code := lacking()) is not None:
        return code
    name = deployment.removeprefix("deployment/").removeprefix("pdep/")

    async def work(cluster: Cluster) -> int:
        from penstock.controller.ports import NewExecution  # noqa: PLC0415
        from penstock.engine.mapping import NotBound, bind  # noqa: PLC0415
        from penstock.kube.deployments import execution_body  # noqa: PLC0415

        body = await fetch(cluster, DEPLOYMENTS, name)
        spec, pipeline = await _specs(cluster, body)
        given = _given(spec, pipeline, inputs, where, gateway, token)
        try:
            bound = bind(pipeline, spec, given, await _config(cluster, spec))
        except NotBound as error:
            raise Refused(f'deployment "{name}": {error}') from None
        random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
        new = NewExecution(
            name=f"{name[: _LONGEST - _RANDOM - 1].rstrip('-.')}-{random}",
            pipeline=spec.pipeline.name,
            revision=spec.pipeline.revision,
            bound=bound,
            queued=spec.concurrency.policy != "Allow",
        )
        made = execution_body(cluster.namespace, name, body["metadata"]["uid"], new)
        await cluster.client.create(EXECUTIONS, made)
        emit(new.name)
        return OK

    return on_cluster(where, work)


async def _specs(cluster: Cluster, body: dict[str, Any]) -> tuple[DeploymentSpec, PipelineSpec]:
    """A deployment and its pipeline, both without problems.

    Raises:
        Refused: it cannot start executions.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from penstock.api.deployment import DeploymentSpec  # noqa: PLC0415
    from penstock.cli.cluster_run import stored_pipeline  # noqa: PLC0415
    from penstock.controller.checking import deployment_problems  # noqa: PLC0415

    name = body["metadata"]["name"]
    try:
        spec = DeploymentSpec.model_validate(body["spec"])
    except ValidationError as error:
        raise Refused(f'deployment "{name}" is not one that this version of penstock understands: {error}') from None
    if spec.suspend:
        raise Refused(f'deployment "{name}" is suspended; let it go on with `penstock resume deployment/{name}` first')
    pipeline = await stored_pipeline(cluster, spec.pipeline, None)
    if problems := deployment_problems(pipeline, spec):
        said = "; ".join(problem.sentence() for problem in problems)
        raise Refused(f'deployment "{name}" does not fit its pipeline: {said}')
    return spec, pipeline


def _given(
    spec: DeploymentSpec,
    pipeline: PipelineSpec,
    inputs: Sequence[str],
    where: Where,
    gateway: str | None,
    token: str | None,
) -> Mapping[str, Given]:
    from penstock.api.pipeline import PipelineInput  # noqa: PLC0415
    from penstock.cli.inputs import parse  # noqa: PLC0415
    from penstock.engine.mapping import ObjectAt, endpoint_inputs  # noqa: PLC0415

    wanted = endpoint_inputs(pipeline, spec)
    if inputs and spec.endpoint is None:
        raise Refused("a deployment with a schedule takes no inputs: its executions get what it binds; drop --input")
    declared = [PipelineInput(name=each.name, type=each.type, max_bytes=each.max_bytes) for each in wanted]
    try:
        found = parse(declared, inputs)
    except click.UsageError as error:
        raise Refused(error.message) from None
    if found.urls:
        raise Refused(f'--input "{next(iter(found.urls))}": give a file of this machine as @FILE, or a path')
    given: dict[str, Given] = {**found.values, **{name: ObjectAt(path) for name, path in found.objects.items()}}
    if found.files:
        from penstock.cli.gateway_client import find_gateway  # noqa: PLC0415
        from penstock.cli.stores import ClusterData  # noqa: PLC0415

        data = ClusterData(find_gateway(where, gateway, token))
        given |= {name: ObjectAt(data.add_input(path)[0]) for name, path in found.files.items()}
    return given


async def _config(cluster: Cluster, spec: DeploymentSpec) -> dict[ConfigKey, str]:
    from penstock.engine.mapping import config_keys  # noqa: PLC0415
    from penstock.kube.errors import NotFound  # noqa: PLC0415

    keys = config_keys(spec)
    found: dict[ConfigKey, str] = {}
    for name in dict.fromkeys(name for name, _ in keys):
        try:
            data = (await cluster.client.get(CONFIG_MAPS, name, cluster.namespace)).get("data") or {}
        except NotFound:
            continue
        found |= {(name, key): data[key] for other, key in keys if other == name and key in data}
    return found


@click.group("token")
def token() -> None:
    """Tokens of endpoints."""


@token.command("show")
@click.argument("deployment", metavar="DEPLOYMENT")
@where_options
def show(where: Where, deployment: str) -> int:
    """Print the token of an endpoint. On a cluster it takes the right to read the Secret that holds it."""
    if (code := lacking()) is not None:
        return code
    name = deployment.removeprefix("deployment/").removeprefix("pdep/")

    async def work(cluster: Cluster) -> int:
        from penstock.controller.ports import Refused as NotRead  # noqa: PLC0415
        from penstock.kube.tokens import read_token  # noqa: PLC0415

        body = await _with_endpoint(cluster, name)
        secret = ((body.get("status") or {}).get("endpoint") or {}).get("tokenSecret")
        if not secret:
            raise Refused(f'deployment "{name}" has no token yet; see `penstock describe deployment/{name}`', ERROR)
        try:
            emit(await read_token(cluster.client, cluster.namespace, secret))
        except NotRead:
            raise Refused(
                f'you may not read Secret "{secret}" in namespace "{cluster.namespace}", which has it'
            ) from None
        return OK

    return on_cluster(where, work)


async def _with_endpoint(cluster: Cluster, name: str) -> dict[str, Any]:
    """A deployment with an endpoint.

    Raises:
        Refused: there is none.
    """
    body = await fetch(cluster, DEPLOYMENTS, name)
    if "endpoint" not in body["spec"]:
        raise Refused(f'deployment "{name}" has a schedule and no endpoint, so it has no token')
    return body


@token.command("rotate")
@click.argument("deployment", metavar="DEPLOYMENT")
@click.option("--overlap", default="1h", show_default=True, help="How long the old token stays valid: 30m, 1h, 2d, 0.")
@where_options
def rotate(where: Where, deployment: str, overlap: str) -> int:
    """Have a new token made for an endpoint. The old one stays valid for the overlap: no call is refused meanwhile."""
    if (code := lacking()) is not None:
        return code
    from penstock.controller.tokens import overlap_seconds  # noqa: PLC0415

    name = deployment.removeprefix("deployment/").removeprefix("pdep/")
    try:
        overlap_seconds(overlap)
    except ValueError as error:
        raise click.UsageError(f"--overlap: {error}.") from None
    return on_cluster(where, lambda cluster: _rotate(cluster, name, overlap))


async def _rotate(cluster: Cluster, name: str, overlap: str) -> int:
    import asyncio  # noqa: PLC0415
    from contextlib import aclosing  # noqa: PLC0415

    from penstock.cli.cluster_follow import versions  # noqa: PLC0415
    from penstock.controller.tokens import OVERLAP_ANNOTATION, ROTATE_ANNOTATION  # noqa: PLC0415

    await _with_endpoint(cluster, name)
    asked = secrets.token_hex(8)
    change = {"metadata": {"annotations": {ROTATE_ANNOTATION: asked, OVERLAP_ANNOTATION: overlap}}}
    await cluster.client.patch(DEPLOYMENTS, name, cluster.namespace, change)
    try:
        following = versions(cluster, DEPLOYMENTS, name, cluster.namespace)
        async with asyncio.timeout(ANSWER_SECONDS), aclosing(following) as seen:
            async for found in seen:
                endpoint = (found.get("status") or {}).get("endpoint") or {}
                if endpoint.get("rotation") == asked:
                    emit(f"the token of deployment {name} is a new one; the old one is valid for {overlap}")
                    emit(f"read it with: penstock token show {name} --namespace {cluster.namespace}")
                    return OK
    except TimeoutError:
        message = "no operator has made the token so far: is one running, and does it look after namespace"
        raise Refused(f'{message} "{cluster.namespace}"? It will once it does', ERROR) from None
    raise Refused(f'deployment "{name}" was deleted meanwhile', ERROR)
