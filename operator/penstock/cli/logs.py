"""`penstock logs`: what the steps of an execution on a cluster have printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Refused, Where, fetch, on_cluster, where_options
from penstock.cli.main import OK, complain
from penstock.engine.types import AttemptId, TaskId
from penstock.kube import names
from penstock.kube.resources import EXECUTIONS, PODS
from penstock.step.report import is_report

if TYPE_CHECKING:
    from penstock.cli.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Choice:
    """Which logs are wanted.

    Attributes:
        step: of which step; empty: of all.
        item: of which item of a fan-out; None: of all.
        attempt: of which attempt; None: the last one.
        tail: so many lines at most; None: all.
    """

    step: str = ""
    item: int | None = None
    attempt: int | None = None
    tail: int | None = None


@dataclass(frozen=True, slots=True)
class Printed:
    """The log of one attempt.

    Attributes:
        attempt: whose.
        pod: name of the Pod that has it.
        waiting: why its container has not started; empty if it has.
    """

    attempt: AttemptId
    pod: str
    waiting: str


@click.command("logs")
@click.argument("execution", metavar="EXECUTION")
@click.argument("step", default="", metavar="[STEP]")
@click.option("--follow", "-f", is_flag=True, help="Go on until the execution, or STEP, has finished.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Which attempt; the last one by default.")
@click.option(
    "--item", type=click.IntRange(min=0), metavar="I", help="Which item of a fan-out, from 0; all by default."
)
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="No more than the last N lines of each.")
@where_options
def command(
    where: Where, execution: str, step: str, follow: bool, attempt: int | None, item: int | None, tail: int | None
) -> int:
    """Print what a step of an execution has printed, or what all of its steps have.

    With several steps or items each line begins with whose it is.
    """
    if item is not None and not step:
        raise click.UsageError("--item: say of which STEP.")
    name = execution.removeprefix("execution/").removeprefix("execution.penstock.dev/").removeprefix("exec/")
    choice = Choice(step, item, attempt, tail)

    async def work(cluster: Cluster) -> int:
        body = await fetch(cluster, EXECUTIONS, name)
        check(body, choice)
        if follow:
            from penstock.cli.log_follow import follow as follow_logs  # noqa: PLC0415

            await follow_logs(cluster, body, choice)
        else:
            await _print(cluster, body, choice)
        return OK

    try:
        return on_cluster(where, work)
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def steps_of(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The steps of an execution by name, as its status has them."""
    return {step["name"]: step for step in (body.get("status") or {}).get("steps") or ()}


def check(body: Mapping[str, Any], choice: Choice) -> None:
    """Whether there is such a step; one of an execution that nobody has taken up may yet come to be."""
    steps = steps_of(body)
    if choice.step and steps and choice.step not in steps:
        from penstock.api.problems import suggest  # noqa: PLC0415

        near = suggest(choice.step, steps) or f"; it has {', '.join(list(steps)[:20])}"
        raise Refused(f'execution "{body["metadata"]["name"]}" has no step "{choice.step}"{near}')
    if choice.item is not None and choice.step in steps:
        count = steps[choice.step].get("itemCount")
        if count is None and steps[choice.step]["phase"] != "Pending":
            raise Refused(f'step "{choice.step}" has no items; leave --item out')
        if count is not None and choice.item >= count:
            raise Refused(f'step "{choice.step}" has {count} items, from 0 to {count - 1}')


async def find(cluster: Cluster, body: Mapping[str, Any], choice: Choice) -> list[Printed]:
    """The logs that there are, in the order of steps, items and attempts."""
    wanted = {names.EXECUTION_UID: body["metadata"]["uid"]}
    if choice.step:
        wanted[names.STEP] = choice.step
    if choice.item is not None:
        wanted[names.ITEM] = str(choice.item)
    if choice.attempt is not None:
        wanted[names.ATTEMPT] = str(choice.attempt)
    labels = ",".join(f"{key}={value}" for key, value in wanted.items())
    namespace = body["metadata"]["namespace"]
    listing = await cluster.client.list(PODS, namespace=namespace, labels=labels, keep=_printed)
    order = {name: position for position, name in enumerate(steps_of(body))}
    found = [each for each in listing.items if each is not None]
    return sorted(found, key=lambda each: (order.get(each.attempt.step, len(order)), *each.attempt))


def _printed(pod: Mapping[str, Any]) -> Printed | None:
    attempt = names.attempt_of(pod["metadata"].get("labels") or {})
    if attempt is None:
        return None
    status = pod.get("status") or {}
    ours = [each for each in status.get("containerStatuses") or () if each["name"] == names.STEP_CONTAINER]
    state = ours[0].get("state") or {} if ours else {}
    waiting = ""
    if not ours:
        unmet = [
            each for each in status.get("conditions") or () if each.get("status") == "False" and each.get("message")
        ]
        waiting = unmet[0]["message"] if unmet else status.get("message") or "it is being placed"
    elif "running" not in state and "terminated" not in state:
        why = state.get("waiting") or {}
        waiting = ": ".join(each for each in (why.get("reason"), why.get("message")) if each) or "it is being started"
    return Printed(attempt, pod["metadata"]["name"], waiting)


def _latest(found: Iterable[Printed]) -> list[Printed]:
    """The last attempt of each step and item."""
    return list({each.attempt.task: each for each in found}.values())  # they are in the order of attempts


async def tail_of(cluster: Cluster, body: Mapping[str, Any], task: TaskId, lines: int) -> list[str]:
    """The last lines that the last attempt of a step or item has printed; none where they cannot be had."""
    from penstock.kube.errors import ApiError  # noqa: PLC0415

    try:
        found = await find(cluster, body, Choice(task.step, task.index if task.index >= 0 else None))
        if not found or found[-1].waiting:
            return []
        text = await cluster.client.log(
            found[-1].pod, namespace=body["metadata"]["namespace"], container=names.STEP_CONTAINER, tail=lines
        )
    except ApiError:
        return []  # the execution's own outcome matters more
    return [line for line in text.decode("utf-8", "replace").splitlines() if not is_report(line)][-lines:]


async def _print(cluster: Cluster, body: Mapping[str, Any], choice: Choice) -> None:
    from penstock.kube.errors import NotFound  # noqa: PLC0415

    found = _latest(await find(cluster, body, choice))
    if not found:
        raise Refused(_why_none(body, choice))
    many = len(found) > 1
    for each in found:
        if each.waiting:
            complain(f"{title_of(each.attempt)} has not started: {each.waiting}")
            continue
        try:
            text = await cluster.client.log(
                each.pod,
                namespace=body["metadata"]["namespace"],
                container=names.STEP_CONTAINER,
                tail=choice.tail,
            )
        except NotFound:
            complain(f"{title_of(each.attempt)}: its Pod is gone, and its log with it")
            continue
        lines = text.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        write(lines, each.attempt, many)


def _why_none(body: Mapping[str, Any], choice: Choice) -> str:
    name, status = body["metadata"]["name"], body.get("status") or {}
    entry = steps_of(body).get(choice.step, {})
    attempts = entry.get("attempts", 0)
    if choice.step and choice.attempt is not None and choice.attempt > attempts and "itemCount" not in entry:
        return f'step "{choice.step}" had {attempts} attempt{"" if attempts == 1 else "s"} so far'
    if choice.step and (entry.get("phase", "Pending") == "Pending" or not entry.get("startedAt")):
        why = f": {entry['message']}" if entry.get("message") else ""
        return f'step "{choice.step}" has printed nothing, it is {entry.get("phase", "Pending")}{why}'
    if not any(step.get("startedAt") for step in steps_of(body).values()):
        why = f": {status['message']}" if status.get("message") else ""
        return f'no step of execution "{name}" has started; it is {status.get("phase", "Pending")}{why}'
    return f"the Pods of {f'step {choice.step!r}' if choice.step else f'execution {name!r}'} are gone, and their logs"


def title_of(attempt: AttemptId) -> str:
    """Whose log it is, for people."""
    from penstock.cli.view import title  # noqa: PLC0415

    return title(attempt.task)


def write(lines: Sequence[bytes], attempt: AttemptId, prefixed: bool) -> None:
    """Print lines of a log, each with whose it is if there are several; what a function gave is not for people."""
    prefix = f"{title_of(attempt)} | ".encode() if prefixed else b""
    out = sys.stdout.buffer
    for line in lines:
        if not is_report(line.decode("utf-8", "replace")):
            out.write(prefix + line + b"\n")
    out.flush()
