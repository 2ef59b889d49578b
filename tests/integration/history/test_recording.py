"""What is recorded comes back as it was, once, and never older than it was."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from history_bodies import MANIFEST, NOON, a_step, an_execution, moment, uid
from penstock.storage.history.filters import Filter, MetricFilter, StepFilter, StepSort, StepSortKey
from penstock.storage.history.history import History
from penstock.storage.history.records import Attempt, Metric, NotAnExecution, Version


async def test_an_execution_comes_back_as_it_was(history: History) -> None:
    body = an_execution(
        labels={"team": "a"},
        author="ann",
        outputs=[{"name": "accuracy", "value": 0.97}, {"name": "odd", "value": "a\x00b\ud800\U0001f600"}],
        steps=[
            a_step("prepare", outputs=[{"name": "rows", "value": [1, 2.5, None, {"a": True}]}]),
            a_step("train", "Failed", message="no\x00good", exitCode=3, itemCount=2, items=[{"index": 1}]),
        ],
    )
    assert await history.record(body, sequence=1, revision_manifest=MANIFEST)
    found = await history.get("default", "iris-00000")
    assert found is not None
    assert (found.body, found.manifest, found.deleted_at) == (body, MANIFEST, None)
    assert await history.get("default", uid=uid(0)) == found
    assert await history.get("other", uid=uid(0)) is None
    assert await history.get("default", "other") is None


async def test_an_execution_with_its_pipeline_written_in_place_comes_back(history: History) -> None:
    body = an_execution()
    body["spec"] = {"pipelineSpec": MANIFEST}
    body["status"]["steps"] = []
    await history.record(body, sequence=1)
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert (found.body, found.manifest) == (body, MANIFEST)


async def test_lists_leave_out_what_is_large(history: History) -> None:
    body = an_execution(labels={"team": "a"})
    body["spec"]["pipelineSpec"] = MANIFEST
    await history.record(body, sequence=1)
    (found,) = (await history.list()).items
    del body["status"]["steps"], body["spec"]["pipelineSpec"]
    assert (found.body, found.manifest) == (body, None)


async def test_what_servers_and_kubectl_add_for_themselves_is_left_out(history: History) -> None:
    body = an_execution(author="ann")
    added = json.loads(json.dumps(body))
    added["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    added["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}"
    await history.record(added, sequence=1)
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert found.body == body


async def test_recording_twice_is_recording_once(history: History) -> None:
    for _ in range(2):
        assert await history.record(an_execution(labels={"a": "b"}), sequence=7, revision_manifest=MANIFEST)
    assert await history.count() == 1
    assert await history.count_steps() == 1


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (("Running", 1), ("Running", 2), 2),
        (("Running", 2), ("Running", 1), 2),
        (("Running", 9), ("Succeeded", 1), 1),
        (("Succeeded", 1), ("Running", 9), 1),
        (("Succeeded", 1), ("Succeeded", 2), 2),
        (("Succeeded", 2), ("Succeeded", 1), 2),
    ],
)
@pytest.mark.parametrize("together", [False, True])
async def test_older_states_never_replace_newer_ones(
    history: History, first: tuple[str, int], second: tuple[str, int], kept: int, together: bool
) -> None:
    versions = [Version(an_execution(phase=phase, message=f"{n}"), n) for phase, n in (first, second)]
    if together:
        await history.record_many(versions)
    else:
        for version in versions:
            await history.record_many([version])
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert (found.sequence, found.body["status"]["message"]) == (kept, str(kept))


async def test_steps_and_labels_follow_the_newest_state(history: History) -> None:
    before = an_execution(
        phase="Running", labels={"a": "1", "b": "1"}, steps=[a_step("one", "Running"), a_step("two", "Pending")]
    )
    after = an_execution(labels={"b": "2", "c": "1"}, steps=[a_step("one"), a_step("three")])
    for number, body in enumerate((before, after)):
        await history.record(body, sequence=number)
        found = await history.get("default", uid=uid(0))
        assert found is not None
        assert found.body == body
    assert [each.status["name"] for each in (await history.steps()).items] == ["one", "three"]


async def test_what_was_known_of_manifest_and_inputs_stays_known(history: History) -> None:
    running = an_execution(phase="Running", steps=[a_step(phase="Running")])
    await history.record(running, sequence=1, revision_manifest=MANIFEST, step_inputs={"train": {"rows": 5}})
    await history.record(an_execution(), sequence=2)
    found = await history.get("default", uid=uid(0))
    (step,) = (await history.steps(StepFilter(executions=(uid(0),)))).items
    assert found is not None
    assert (found.manifest, step.inputs, step.status["phase"]) == (MANIFEST, {"rows": 5}, "Succeeded")


async def test_a_removed_execution_stays(history: History) -> None:
    await history.record(an_execution(), sequence=5)
    assert await history.deleted(uid(0), NOON + 60)
    assert not await history.deleted(uid(0), NOON + 90)
    assert not await history.deleted(uid(1), NOON)
    await history.record(an_execution(labels={"late": "news"}), sequence=6)
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert (found.deleted_at, found.body["metadata"]["labels"]) == (NOON + 60, {"late": "news"})


async def test_one_that_is_removed_while_it_runs_is_cancelled(history: History) -> None:
    steps = [a_step("done"), a_step("on", "Running"), {"name": "later", "phase": "Pending"}]
    await history.record(an_execution(phase="Running", steps=steps), sequence=5, revision_manifest=MANIFEST)
    await history.deleted(uid(0), NOON + 60)
    await history.record(an_execution(phase="Running", steps=steps), sequence=9)
    found = await history.get("default", uid=uid(0))
    assert found is not None
    status = found.body["status"]
    assert (status["phase"], status["reason"], status["finishedAt"]) == ("Cancelled", "Deleted", moment(NOON + 60))
    assert [step["phase"] for step in status["steps"]] == ["Succeeded", "Cancelled", "Omitted"]
    assert await history.count(Filter(phases=("Running",))) == 0
    assert await history.count(Filter(phases=("Cancelled",), deleted=True)) == 1


async def test_an_end_that_is_known_late_is_better_than_a_removal(history: History) -> None:
    await history.record(an_execution(phase="Running"), sequence=5)
    await history.deleted(uid(0), NOON + 60)
    await history.record(an_execution(phase="Succeeded"), sequence=6)
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert (found.body["status"]["phase"], found.deleted_at) == ("Succeeded", NOON + 60)


async def test_of_several_executions_with_one_name_the_newest_is_found(history: History) -> None:
    for number in (3, 1, 2):
        await history.record(an_execution(number, name="same"), sequence=1)
    found = await history.get("default", "same")
    assert found is not None
    assert found.uid == uid(3)


async def test_attempts_are_kept_one_by_one(history: History) -> None:
    first = a_step(phase="Retrying", attempts=1, exitCode=1, reason="StepFailed")
    third = a_step(phase="Failed", attempts=3, exitCode=2, reason="StepFailed")
    for number, (phase, step) in enumerate((("Running", first), ("Failed", third))):
        await history.record(an_execution(phase=phase, steps=[step]), sequence=number)
    kept = {key: value for key, value in first.items() if key != "name"}
    assert await history.attempts(uid(0), "train") == [
        Attempt("train", -1, 1, kept),
        Attempt("train", -1, 2, None),
        Attempt("train", -1, 3, third),
    ]
    assert await history.attempts(uid(0), "other") == []


async def test_attempts_of_items_are_kept_too(history: History) -> None:
    item = {"index": 4, "phase": "Retrying", "attempts": 1}
    step = a_step(phase="Running", attempts=0, itemCount=5, items=[item])
    await history.record(an_execution(phase="Running", steps=[step]), sequence=1)
    after = a_step(phase="Running", attempts=0, itemCount=5, items=[item | {"phase": "Running", "attempts": 2}])
    await history.record(an_execution(phase="Running", steps=[after]), sequence=2)
    found = await history.attempts(uid(0), "train")
    assert [(each.item, each.number, each.status and each.status["phase"]) for each in found] == [
        (4, 1, "Retrying"),
        (4, 2, "Running"),
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body.pop("metadata"),
        lambda body: body["metadata"].pop("uid"),
        lambda body: body["metadata"].update(creationTimestamp="soon"),
        lambda body: body["status"].update(steps=["no step"]),
        lambda body: body["status"].update(outputs=[{"name": "x", "value": math.nan}]),
        lambda body: body["spec"].update(timeoutSeconds=2**80),
    ],
)
async def test_what_is_no_execution_is_refused_and_nothing_is_recorded(history: History, spoil: Any) -> None:
    body = an_execution(1)
    spoil(body)
    with pytest.raises(NotAnExecution):
        await history.record_many([Version(an_execution(0), 1), Version(body, 1)])
    assert await history.count() == 0


async def test_many_writers_at_once_leave_the_newest(url: str) -> None:
    histories = [await History.open(url) for _ in range(2)]
    versions = [Version(an_execution(n % 5, "Running", message=f"{n}"), n) for n in range(100)]
    await asyncio.gather(*(histories[n % 2].record_many(versions[n : n + 7]) for n in range(0, 100, 3)))
    found = await histories[0].list()
    assert sorted(each.sequence for each in found.items) == [95, 96, 97, 98, 99]
    for each in histories:
        await each.close()


async def test_thousands_of_steps_are_recorded_and_few_are_changed(history: History) -> None:
    steps = [a_step(f"s{n}", "Running") for n in range(3_000)]
    await history.record(an_execution(phase="Running", steps=steps), sequence=1)
    steps[1_500] = a_step("s1500", "Failed")
    await history.record(an_execution(phase="Running", steps=steps), sequence=2)
    found = await history.get("default", uid=uid(0))
    assert found is not None
    assert found.body["status"]["steps"] == steps


async def test_metrics_are_kept_once_and_listed(history: History) -> None:
    points = [
        Metric(uid(e), "train", name, value / (e + 1), NOON + n, number=n)
        for e in range(2)
        for name in ("accuracy", "loss")
        for n, value in enumerate((0.5, math.inf, 0.25))
    ]
    await history.record_metrics(points)
    await history.record_metrics([*reversed(points), points[0]])
    seen: list[Metric] = []
    after: str | None = None
    while True:
        page = await history.metrics(limit=5, after=after)
        seen += page.items
        after = page.after
        if after is None:
            break
    assert seen == points
    last = await history.metrics(MetricFilter(executions=(uid(0), uid(1)), names=("loss",), last=True))
    assert [(each.execution, each.number, each.value) for each in last.items] == [(uid(0), 2, 0.25), (uid(1), 2, 0.125)]


async def test_a_metric_that_is_no_number_is_kept(history: History) -> None:
    await history.record_metrics([Metric(uid(0), "train", "loss", math.nan, NOON)])
    (found,) = (await history.metrics()).items
    assert math.isnan(found.value)


async def test_old_executions_are_pruned_and_live_ones_are_not(history: History) -> None:
    for number in range(4):
        phase = "Running" if number == 0 else "Succeeded"
        body = an_execution(number, phase, created=NOON + 100 * number, labels={"a": "b"})
        await history.record(body, sequence=1, revision_manifest=MANIFEST | {"description": f"{number // 2}"})
        await history.record_metrics([Metric(uid(number), "train", "loss", 1.0, NOON)])
    assert await history.prune(older_than=NOON + 250) == 2
    assert [each.uid for each in (await history.list()).items] == [uid(3), uid(0)]
    assert await history.count_steps() == 2
    assert len((await history.metrics()).items) == 2
    for number in (0, 3):
        kept = await history.get("default", uid=uid(number))
        assert kept is not None
        assert kept.manifest is not None


async def test_the_newest_of_each_pipeline_are_spared(history: History) -> None:
    bodies = [an_execution(n, pipeline=f"p{n % 2}", namespace=f"n{n // 10}") for n in range(20)]
    await history.record_many([Version(body, 1) for body in bodies])
    assert await history.prune(keep=2, namespaces=["n0"]) == 6
    left = {each.uid for each in (await history.list()).items}
    assert left == {uid(n) for n in (6, 7, 8, 9, *range(10, 20))}
    assert await history.prune(keep=1, older_than=NOON + 15) == 2 + 3
    assert await history.prune(keep=0) == 9
    with pytest.raises(ValueError, match="older_than"):
        await history.prune()


async def test_steps_of_many_executions_can_be_asked_for(history: History) -> None:
    for number in range(6):
        phase = ("Succeeded", "Cached", "Failed")[number % 3]
        steps = [
            a_step("a", phase, queuedAt=moment(NOON + number)),
            a_step("b", queuedAt=moment(NOON + 10 + number), finishedAt=moment(NOON + 30 - number)),
        ]
        body = an_execution(number, namespace=f"n{number % 2}", steps=steps)
        await history.record(body, sequence=1)
    cached = await history.steps(StepFilter(cached=True), StepSort(StepSortKey.CREATED))
    assert [each.execution for each in cached.items] == [uid(1), uid(4)]
    wanted = StepFilter(namespaces=("n0",), names=("b",), created_from=NOON + 12)
    found = await history.steps(wanted, StepSort(StepSortKey.DURATION))
    assert [each.execution for each in found.items] == [uid(4), uid(2)]
    again = await history.steps(StepFilter(ids=tuple(each.id for each in found.items)))
    assert {each.id for each in again.items} == {each.id for each in found.items}
    assert await history.count_steps(wanted) == 2
