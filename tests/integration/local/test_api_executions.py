"""Executions at one machine's API server: created, waiting for their pipeline, changed, deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.local.api_support import Served, a_pipeline, an_execution, named
from penstock.api.execution import ExecutionPhase
from penstock.engine.status import conditions
from penstock.engine.types import File
from penstock.kube.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from penstock.kube.resources import EXECUTIONS, PIPELINES
from penstock.local.pipelines import SOURCE_ANNOTATION

ONE = EXECUTIONS.path(namespace="default", name="one")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "home")
    yield found
    found.close()


async def test_an_execution_runs_the_newest_revision_or_the_one_it_names(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    await served.client.apply(PIPELINES, a_pipeline(run="false"))
    newest = await served.client.create(EXECUTIONS, an_execution("newest"))
    first = an_execution("first")
    first["spec"]["pipeline"]["revision"] = 1
    older = await served.client.create(EXECUTIONS, first)
    assert served.runner.started == [newest["metadata"]["uid"], older["metadata"]["uid"]]
    for body, revision in ((newest, "iris-2"), (older, "iris-1")):
        loaded = await served.store.load(body["metadata"]["uid"])
        assert loaded is not None
        assert loaded.revision == revision


async def test_an_execution_with_a_pipeline_of_its_own_needs_no_other(served: Served) -> None:
    body = {"metadata": named("one"), "spec": {"pipelineSpec": a_pipeline()["spec"]}}
    made = await served.client.create(EXECUTIONS, body)
    assert made["spec"] == body["spec"]
    assert served.runner.started == [made["metadata"]["uid"]]


async def test_an_execution_waits_for_its_pipeline_and_says_so(served: Served) -> None:
    waiting = await served.client.create(EXECUTIONS, an_execution())
    status = waiting["status"]
    assert (status["phase"], status["reason"]) == ("Pending", "Pending")
    assert status["message"] == 'there is no pipeline "iris" in namespace "default" yet'
    assert [each["type"] for each in status["conditions"]] == [
        each["type"] for each in conditions(ExecutionPhase.PENDING, "Pending", "", "")
    ]
    assert served.store.unfinished() == []  # nobody else may take it up
    broken = a_pipeline()
    broken["spec"]["steps"][0]["dependsOn"] = ["nobody"]
    await served.client.create(PIPELINES, broken)
    told = (await served.client.get(EXECUTIONS, "one", "default"))["status"]["message"]
    assert told.startswith('pipeline "iris" is not Ready: ')
    assert served.runner.started == []
    await served.client.apply(PIPELINES, a_pipeline() | {"spec": a_pipeline()["spec"]})
    body = await served.client.patch(PIPELINES, "iris", "default", {"spec": a_pipeline()["spec"]})
    assert body["status"]["revision"] == 1
    assert served.runner.started == [waiting["metadata"]["uid"]]
    begun = await served.client.get(EXECUTIONS, "one", "default")
    assert begun["metadata"]["uid"] == waiting["metadata"]["uid"]
    assert begun["status"] == {"observedGeneration": -1}
    assert served.store.unfinished() == [waiting["metadata"]["uid"]]


async def test_a_revision_that_is_not_there_is_waited_for_too(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    body = an_execution()
    body["spec"]["pipeline"]["revision"] = 3
    made = await served.client.create(EXECUTIONS, body)
    assert made["status"]["message"] == 'pipeline "iris" has no revision 3; there are: 1'


async def test_what_waits_is_taken_up_after_a_restart(tmp_path: Path) -> None:
    first = Served(tmp_path / "home")
    made = await first.client.create(EXECUTIONS, an_execution())
    first.close()
    second = Served(tmp_path / "home")
    await second.server.start()
    assert second.runner.started == []
    source = tmp_path / "files"
    source.mkdir()
    (source / "train.py").write_text("x")
    annotations = {SOURCE_ANNOTATION: str(source)}
    await second.client.create(PIPELINES, a_pipeline(annotations=annotations))
    uid = made["metadata"]["uid"]
    assert second.runner.started == [uid]
    assert (second.home.source(uid) / "train.py").read_text() == "x"
    assert second.store.run_info(uid).source == second.home.source(uid)
    second.close()


async def test_the_folder_beside_a_manifest_goes_along(served: Served, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    (source / "train.py").write_text("x")
    await served.client.create(PIPELINES, a_pipeline(annotations={SOURCE_ANNOTATION: str(source)}))
    made = await served.client.create(EXECUTIONS, an_execution())
    tree = served.runner.sources[made["metadata"]["uid"]]
    assert tree is not None
    assert (tree.root, tree.files) == (source, ("train.py",))
    own = {"metadata": named("own", annotations={SOURCE_ANNOTATION: str(source)})}
    made = await served.client.create(EXECUTIONS, own | {"spec": {"pipelineSpec": a_pipeline()["spec"]}})
    assert served.runner.sources[made["metadata"]["uid"]] is not None
    (source / "train.py").unlink()
    source.rmdir()
    with pytest.raises(Invalid, match="cannot be read"):
        await served.client.create(EXECUTIONS, an_execution("two"))
    with pytest.raises(NotFound):
        await served.client.get(EXECUTIONS, "two", "default")


async def test_an_input_that_is_not_in_the_data_store_is_told(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    body = an_execution()
    body["spec"]["inputs"] = [{"name": "table", "object": "raw/iris.csv"}]
    with pytest.raises(Invalid) as caught:
        await served.client.create(EXECUTIONS, body)
    assert caught.value.details["causes"][0]["field"] == "spec.inputs[table].object"
    place = served.home.datastore / "raw"
    place.mkdir()
    (place / "iris.csv").write_text("1,2\n")
    made = await served.client.create(EXECUTIONS, body)
    loaded = await served.store.load(made["metadata"]["uid"])
    assert loaded is not None
    table = loaded.request.inputs["table"]
    assert isinstance(table, File)
    assert table.size == 4


async def test_only_what_a_cluster_lets_change_can_be_changed(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(EXECUTIONS, an_execution(labels={"a": "b"}))
    uid = made["metadata"]["uid"]
    suspended = await served.client.patch(EXECUTIONS, "one", "default", {"spec": {"suspend": True}})
    assert (suspended["spec"]["suspend"], suspended["metadata"]["generation"]) == (True, 2)
    change: dict[str, Any] = {"metadata": {"labels": {"a": None}, "annotations": {"note": "x"}, "uid": uid}}
    marked = await served.client.patch(EXECUTIONS, "one", "default", change)
    assert (marked["metadata"]["annotations"], marked["metadata"]["generation"]) == ({"note": "x"}, 2)
    assert "labels" not in marked["metadata"]
    cancelled = await served.client.patch(EXECUTIONS, "one", "default", {"spec": {"cancel": True, "suspend": False}})
    assert (cancelled["spec"]["cancel"], cancelled["spec"]["suspend"]) == (True, False)
    assert served.runner.looked == [uid] * 3
    loaded = await served.store.load(uid)
    assert loaded is not None
    assert (loaded.request.cancel, loaded.request.suspend) == (True, False)
    for spec, said in (
        ({"inputs": [{"name": "x", "value": 1}]}, "spec.inputs: `inputs` cannot be changed, only `suspend`, `cancel`"),
        ({"pipeline": {"name": "other"}}, "`pipeline` cannot be changed"),
        ({"cancel": False}, "`cancel` cannot be taken back once it is true"),
        ({"cancl": True}, "spec.cancl: unknown field"),
        ({"suspend": "yes"}, "spec.suspend: wanted true or false"),
    ):
        with pytest.raises(Invalid) as caught:
            await served.client.patch(EXECUTIONS, "one", "default", {"spec": spec})
        assert said in caught.value.message
    with pytest.raises(ApiError, match="written by what runs it") as refused:
        await served.client.patch_status(EXECUTIONS, "one", "default", {"phase": "Succeeded"})
    assert refused.value.status == 405
    with pytest.raises(Conflict):
        version = made["metadata"]["resourceVersion"]
        await served.client.replace(EXECUTIONS, {**cancelled, "metadata": named("one", resourceVersion=version)})
    assert await served.client.get(EXECUTIONS, "one", "default") == cancelled


async def test_true_is_not_one(served: Served) -> None:
    body = {"metadata": named("one"), "spec": {"pipelineSpec": a_pipeline()["spec"]}}
    body["spec"]["inputs"] = [{"name": "x", "value": 1}]
    await served.client.create(EXECUTIONS, body)
    with pytest.raises(Invalid, match="`inputs` cannot be changed"):
        change = {"spec": {"inputs": [{"name": "x", "value": True}]}}
        await served.client.patch(EXECUTIONS, "one", "default", change)


async def test_an_execution_can_be_applied(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    first = await served.client.apply(EXECUTIONS, an_execution(labels={"a": "b", "c": "d"}), manager="cli", force=False)
    again = await served.client.apply(EXECUTIONS, an_execution(labels={"a": "b", "c": "d"}), manager="cli", force=False)
    assert first == again
    less = await served.client.apply(EXECUTIONS, an_execution(labels={"a": "b"}), manager="cli", force=False)
    assert less["metadata"]["labels"] == {"a": "b"}
    await served.client.patch(EXECUTIONS, "one", "default", {"spec": {"suspend": True}})
    wanted = an_execution(labels={"a": "b"})
    wanted["spec"]["suspend"] = False
    with pytest.raises(Conflict, match=r"spec\.suspend"):
        await served.client.apply(EXECUTIONS, wanted, manager="cli", force=False)


async def test_names_are_taken_once_and_made_from_prefixes(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    await served.client.create(EXECUTIONS, an_execution())
    with pytest.raises(AlreadyExists) as caught:
        await served.client.create(EXECUTIONS, an_execution())
    assert caught.value.details["name"] == "one"
    body = {"metadata": {"generateName": "iris-", "namespace": "default"}, "spec": an_execution()["spec"]}
    made = await served.client.create(EXECUTIONS, body)
    assert made["metadata"]["name"].startswith("iris-")
    assert made["metadata"]["generateName"] == "iris-"


async def test_a_deleted_execution_is_gone_and_its_runner_told(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(EXECUTIONS, an_execution())
    assert await served.client.delete(EXECUTIONS, "one", "default", uid=made["metadata"]["uid"])
    assert served.runner.deleted == [made["metadata"]["uid"]]
    assert not await served.client.delete(EXECUTIONS, "one", "default")
    assert (await served.client.create(EXECUTIONS, an_execution()))["metadata"]["uid"] != made["metadata"]["uid"]


async def test_executions_of_other_processes_are_listed(served: Served, tmp_path: Path) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    other = Served(tmp_path / "home")
    made = await other.client.create(EXECUTIONS, an_execution(labels={"a": "b"}))
    listing = await served.client.list(EXECUTIONS, labels="a=b", keep=lambda body: body)
    assert list(listing.items) == [made]
    other.close()


async def test_lists_show_what_gets_show_with_steps_and_items(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    for number in range(3):
        made = await served.client.create(EXECUTIONS, an_execution(f"e{number}"))
        uid = made["metadata"]["uid"]
        with served.database.transaction() as connection:
            head = {"phase": "Failed", "progress": "1/2"}
            connection.execute(
                "UPDATE executions SET head = ?, phase = 'Failed' WHERE uid = ?", (json.dumps(head), uid)
            )
            for position, step in enumerate(("load", "train")):
                entry = json.dumps({"name": step, "phase": "Failed", "attempts": number})
                connection.execute("INSERT INTO steps VALUES (?, ?, ?, ?)", (uid, position, step, entry))
            entry = json.dumps({"index": 0, "phase": "Failed"})
            connection.execute("INSERT INTO items VALUES (?, 'train', 0, ?)", (uid, entry))
    listed = (await served.client.list(EXECUTIONS, chunk=2, keep=lambda body: body)).items
    assert [body["metadata"]["name"] for body in listed] == ["e0", "e1", "e2"]
    for number, body in enumerate(listed):
        assert body == await served.client.get(EXECUTIONS, f"e{number}", "default")
        assert body["status"] == {
            "observedGeneration": 1,
            "revision": "iris-1",
            "phase": "Failed",
            "progress": "1/2",
            "steps": [
                {"name": "load", "phase": "Failed", "attempts": number},
                {"name": "train", "phase": "Failed", "attempts": number, "items": [{"index": 0, "phase": "Failed"}]},
            ],
        }
    failed = await served.client.list(EXECUTIONS, fields="status.phase=Failed", keep=lambda body: 1)
    assert len(failed.items) == 3
    other = await served.client.list(EXECUTIONS, fields="spec.pipeline.name!=iris", keep=lambda body: 1)
    assert not other.items


async def test_text_that_is_no_unicode_is_refused(served: Served) -> None:
    body = an_execution("odd", annotations={"lone": "\ud800"})
    status, answer = await served.ask("POST", EXECUTIONS.path(namespace="default"), body)
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert "no Unicode" in answer["message"]
