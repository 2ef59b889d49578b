"""`penstock describe`: all that people want to know of one object of a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.cluster import Where, fetch, on_cluster, targets, where_options
from penstock.cli.main import OK, emit
from penstock.kube.resources import EVENTS

if TYPE_CHECKING:
    from penstock.cli.cluster import Cluster

Body = Mapping[str, Any]

_VALUE = 200
"""Characters of a value that are shown."""
_NEXT = 3
"""Times of a schedule that are shown."""
_FAILED_ITEMS = 20
"""Items of a fan-out that are shown of each step."""


@click.command("describe")
@click.argument("words", nargs=-1, required=True, metavar="KIND NAME…")
@where_options
def command(where: Where, words: tuple[str, ...]) -> int:
    """Show all about objects: what they are, where they stand and why, their steps, and their events.

    KIND is pipeline (pipe), deployment (pdep) or execution (exec); KIND/NAME works as well.
    """
    wanted = targets(words)

    async def work(cluster: Cluster) -> int:
        for number, (resource, name) in enumerate(wanted):
            body = await fetch(cluster, resource, name)
            lines = [*describe(body, time.time()), *await _events(cluster, body)]
            emit("\n".join(["", *lines] if number else lines))
        return OK

    return on_cluster(where, work)


def describe(body: Body, now: float) -> list[str]:
    """Lines about an object."""
    from penstock.cli.columns import age  # noqa: PLC0415

    meta = body["metadata"]
    made = meta.get("creationTimestamp")
    facts = [
        ("Kind", body["kind"]),
        ("Name", meta["name"]),
        ("Namespace", meta.get("namespace")),
        ("Created", f"{made} ({age(made, now)} ago)" if made else None),
        ("Labels", ", ".join(f"{key}={value}" for key, value in (meta.get("labels") or {}).items())),
    ]
    about = {"Execution": _execution, "Pipeline": _pipeline, "Deployment": _deployment}[body["kind"]]
    more, rest = about(body, now)
    facts += more
    shown = [(name, text) for name, text in facts if text not in {None, ""}]
    width = max(len(name) for name, _ in shown) + 1
    return [*(f"{name + ':':<{width}}  {_line(text)}" for name, text in shown), *rest]


_About = tuple[list[tuple[str, Any]], list[str]]


def _execution(body: Body, now: float) -> _About:
    from penstock.cli.columns import NONE, phase, took  # noqa: PLC0415

    spec, status = body["spec"], body.get("status") or {}
    why = ": ".join(each for each in (status.get("reason"), status.get("message")) if each)
    found = phase(body)
    ran = took(status, now)
    wanted = spec.get("pipeline") or {}
    facts = [
        ("Pipeline", wanted.get("name") or "(written in place)"),
        ("Revision", status.get("revision")),
        ("Phase", f"{found} ({why})" if why and why != found else found),
        ("Progress", status.get("progress")),
        ("Started", status.get("startedAt")),
        ("Finished", status.get("finishedAt")),
        ("Duration", None if ran == NONE else ran),
        ("Suspended", "since " + status["suspendedAt"] if status.get("suspendedAt") else None),
        ("Timeout", f"{spec['timeoutSeconds']} s" if spec.get("timeoutSeconds") else None),
    ]
    lines = _values("Inputs", spec.get("inputs"))
    if status.get("steps"):
        from penstock.cli.columns import table  # noqa: PLC0415

        rows = [("STEP", "PHASE", "ATTEMPTS", "DURATION", "MESSAGE"), *_steps(status["steps"], now)]
        lines += ["Steps:", *table(rows, indent="  ")]
    return facts, lines + _values("Outputs", status.get("outputs"))


def _steps(steps: Sequence[Body], now: float) -> Iterator[tuple[str, ...]]:
    from penstock.cli.columns import took  # noqa: PLC0415

    for step in steps:
        about = f"{step.get('itemsFinished', 0)}/{step['itemCount']} items" if "itemCount" in step else ""
        yield step["name"], step["phase"], _attempts(step), took(step, now), _why(step, about)
        items = [item for item in step.get("items") or () if item["phase"] != "Pending"]
        for item in items[:_FAILED_ITEMS]:
            yield f"  [{item['index']}]", item["phase"], _attempts(item), took(item, now), _why(item, "")
        if len(items) > _FAILED_ITEMS:
            yield "  …", f"{len(items) - _FAILED_ITEMS} more", "", "", ""


def _attempts(record: Body) -> str:
    return str(record.get("attempts", 0))


def _why(record: Body, about: str) -> str:
    return _line(": ".join(each for each in (about, record.get("reason"), record.get("message")) if each))


def _pipeline(body: Body, now: float) -> _About:
    spec, status = body["spec"], body.get("status") or {}
    facts = [("Description", spec.get("description")), ("Revision", status.get("revision")), _ready(body)]
    lines = _declarations("Inputs", spec.get("inputs")) + _declarations("Outputs", spec.get("outputs"))
    for title, steps in (("Steps", spec.get("steps")), ("Finally", spec.get("finally"))):
        if steps:
            lines += [f"{title}:", *(f"  {step['name']}{_about_step(step, spec)}" for step in steps)]
    return facts, lines


def _about_step(step: Body, spec: Body) -> str:
    image = step.get("image") or step.get("imageFrom") or (spec.get("defaults") or {}).get("image")
    parts = [f"image {image}" if image else "", "for each item" if step.get("forEach") else ""]
    parts.append(f"when {step['when']}" if step.get("when") else "")
    return "".join(f"  {_line(part)}" for part in parts if part)


def _deployment(body: Body, now: float) -> _About:
    from penstock.cli.columns import age  # noqa: PLC0415
    from penstock.engine.status import from_timestamp  # noqa: PLC0415

    spec, status = body["spec"], body.get("status") or {}
    schedule, endpoint = spec.get("schedule") or {}, spec.get("endpoint") or {}
    last, shared = status.get("lastTime"), spec.get("concurrency")
    access = status.get("endpoint") or {}
    valid = [each for each in access.get("tokens") or () if "until" not in each or from_timestamp(each["until"]) > now]
    old = next((each["until"] for each in valid if "until" in each), None)
    facts = [
        ("Pipeline", spec["pipeline"]["name"]),
        ("Rule", status.get("summary")),
        ("Schedule", " ".join(each for each in (schedule.get("cron"), schedule.get("timeZone")) if each)),
        ("Endpoint", status.get("url") or endpoint.get("path")),
        ("Token", f"in Secret {access['tokenSecret']}, key token" if access else None),
        ("Old token", f"valid until {old}" if old else None),
        ("Suspended", "yes" if spec.get("suspend") else "no"),
        ("Concurrency", f"{shared.get('policy', 'Allow')} {shared.get('limit', '')}".strip() if shared else None),
        ("Active", status.get("active")),
        ("Waiting", status.get("waiting") or None),
        ("Last", f"{last} ({age(last, now)} ago): {status.get('lastExecution', '')}" if last else None),
        ("Next", ", ".join(_next_times(schedule, now)) if status.get("nextTime") else None),
        _ready(body),
    ]
    return facts, _values("Inputs", spec.get("inputs")) + _values("Outputs", spec.get("outputs"))


def _next_times(schedule: Body, now: float) -> list[str]:
    """When a schedule comes next, for people in its time zone."""
    from datetime import datetime  # noqa: PLC0415
    from zoneinfo import ZoneInfo  # noqa: PLC0415

    from penstock.api.deployment import Schedule  # noqa: PLC0415
    from penstock.engine.cron import upcoming  # noqa: PLC0415

    read = Schedule.model_validate(schedule)
    zone = ZoneInfo(read.time_zone)
    found = upcoming(read, now, _NEXT)
    return [datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M %Z") for at in found]


def _ready(body: Body) -> tuple[str, Any]:
    from penstock.cli.columns import condition  # noqa: PLC0415

    found = condition(body, "Ready")
    why = ": ".join(each for each in (found.get("reason"), found.get("message")) if each)
    return "Ready", f"{found['status']} ({why})" if found else "Unknown (no operator has looked at it yet)"


def _values(title: str, entries: Sequence[Body] | None) -> list[str]:
    """Named values or bindings."""
    if not entries:
        return []
    width = max(len(entry["name"]) for entry in entries)
    lines = [f"{title}:"]
    for entry in entries:
        rest = {key: value for key, value in entry.items() if key != "name"}
        value = rest["value"] if set(rest) == {"value"} else rest
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"  {entry['name']:<{width}}  {_line(text)}")
    return lines


def _declarations(title: str, entries: Sequence[Body] | None) -> list[str]:
    if not entries:
        return []
    from penstock.cli.columns import table  # noqa: PLC0415

    rows = []
    for entry in entries:
        default = f"default {json.dumps(entry['default'], ensure_ascii=False)}" if "default" in entry else ""
        rows.append((entry["name"], entry.get("type", ""), _line(default or entry.get("from") or "")))
    return [f"{title}:", *table(rows, indent="  ")]


def _line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _VALUE else text[: _VALUE - 1] + "…"


async def _events(cluster: Cluster, body: Body) -> list[str]:
    from penstock.cli.columns import age, table  # noqa: PLC0415
    from penstock.kube.errors import Forbidden  # noqa: PLC0415

    meta = body["metadata"]
    try:
        listing = await cluster.client.list(
            EVENTS, namespace=meta["namespace"], fields=f"involvedObject.uid={meta['uid']}", keep=lambda event: event
        )
    except Forbidden:
        return ["Events:  you are not allowed to see them"]
    if not listing.items:
        return []
    now = time.time()
    found = sorted(listing.items, key=_seen)
    rows = [("AGE", "TYPE", "REASON", "MESSAGE")]
    rows += [
        (age(_seen(one), now), one.get("type", ""), one.get("reason", ""), _line(one.get("message"))) for one in found
    ]
    return ["Events:", *table(rows, indent="  ")]


def _seen(event: Body) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
