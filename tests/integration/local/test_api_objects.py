"""Pipelines, deployments, ConfigMaps and Secrets at one machine's API server, through the client of clusters."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.local.api_support import Served, a_deployment, a_pipeline, an_execution, named
from penstock.api.labels import DIGEST, PIPELINE
from penstock.api.pipeline import PipelineSpec
from penstock.kube.deployments import _edited_at
from penstock.kube.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from penstock.kube.resources import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    EXECUTIONS,
    JOBS,
    NAMESPACES,
    PIPELINES,
    SECRETS,
)
from penstock.kube.revisions import object_name
from penstock.kube.tokens import read_token, write_token

IRIS = PIPELINES.path(namespace="default", name="iris")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path / "home")
    yield found
    found.close()


def _ready(body: dict[str, Any]) -> tuple[str, str]:
    condition = next(each for each in body["status"]["conditions"] if each["type"] == "Ready")
    return condition["status"], condition["message"]


async def test_an_object_has_all_that_a_cluster_gives_it(served: Served) -> None:
    made = await served.client.create(PIPELINES, a_pipeline(labels={"app": "x"}, uid="mine", resourceVersion="77"))
    meta = made["metadata"]
    assert (meta["name"], meta["namespace"], meta["generation"]) == ("iris", "default", 1)
    assert len(meta["uid"]) == 36
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) > 1
    assert meta["labels"] == {"app": "x"}
    assert made == await served.client.get(PIPELINES, "iris", "default")
    listing = await served.client.list(PIPELINES, namespace="default", keep=lambda body: body)
    assert (list(listing.items), listing.resource_version) == ([made], meta["resourceVersion"])


async def test_a_name_is_taken_once(served: Served) -> None:
    await served.client.create(CONFIG_MAPS, {"metadata": named("x"), "data": {"a": "1"}})
    with pytest.raises(AlreadyExists) as caught:
        await served.client.create(CONFIG_MAPS, {"metadata": named("x")})
    assert caught.value.details == {"name": "x", "kind": "configmaps"}
    await served.client.create(SECRETS, {"metadata": named("x")})  # another kind, another name


async def test_names_are_made_from_prefixes(served: Served) -> None:
    body = {"metadata": {"generateName": "c-", "namespace": "default"}}
    names = {(await served.client.create(CONFIG_MAPS, body))["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("c-") and len(name) == 7 for name in names)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"steps": [{"name": "a", "comand": ["x"]}]}, 'spec.steps[a].comand: unknown field "comand"; did you mean'),
        ({"steps": [{"name": "a", "command": ["x"], "script": "x"}]}, "spec.steps[a].script: a step runs one thing"),
        ({"steps": [{"name": "A", "command": ["x"]}]}, 'spec.steps[A].name: "A" is not allowed: wanted lower case'),
        ({}, "spec.steps: is required"),
    ],
)
async def test_what_is_wrong_with_a_manifest_is_said_in_its_words(
    served: Served, spec: dict[str, Any], said: str
) -> None:
    with pytest.raises(Invalid) as caught:
        await served.client.create(PIPELINES, {"metadata": named("iris"), "spec": spec})
    assert said in caught.value.message
    (field, _, message) = said.partition(": ")
    cause = caught.value.details["causes"][0]
    assert (cause["field"], message in cause["message"]) == (field, True)
    with pytest.raises(NotFound):
        await served.client.get(PIPELINES, "iris", "default")


async def test_a_change_of_spec_is_a_new_generation_and_revision_and_nothing_else_is(served: Served) -> None:
    made = await served.client.create(PIPELINES, a_pipeline())
    assert (made["status"]["revision"], _ready(made)) == (1, ("True", "can be run"))
    marked = await served.client.patch(PIPELINES, "iris", "default", {"metadata": {"labels": {"a": "b"}}})
    assert marked["metadata"]["generation"] == 1
    assert int(marked["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    same = await served.client.patch(PIPELINES, "iris", "default", {"metadata": {"labels": {"a": "b"}}})
    assert same == marked
    changed = await served.client.replace(
        PIPELINES, {**marked, **a_pipeline(run="false"), "metadata": marked["metadata"]}
    )
    assert (changed["metadata"]["generation"], changed["status"]["revision"]) == (2, 2)
    assert changed["status"]["observedGeneration"] == 2
    since = [each["conditions"][0]["lastTransitionTime"] for each in (made["status"], changed["status"])]
    assert since[0] == since[1]  # it was ready all the time
    back = await served.client.apply(PIPELINES, a_pipeline())
    assert (back["metadata"]["generation"], back["status"]["revision"]) == (3, 1)


async def test_revisions_are_found_by_the_names_and_labels_of_a_cluster(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    changed = await served.client.apply(PIPELINES, a_pipeline(run="false"))
    found = await served.client.get(CONTROLLER_REVISIONS, object_name("iris-2"), "default")
    assert (found["revision"], found["data"]) == (2, changed["spec"])
    assert PipelineSpec.model_validate(found["data"])
    assert found["metadata"]["labels"].keys() == {PIPELINE, DIGEST}
    listing = await served.client.list(
        CONTROLLER_REVISIONS, namespace="default", labels=f"{PIPELINE}=iris", keep=lambda body: body["revision"]
    )
    assert list(listing.items) == [1, 2]
    with pytest.raises(NotFound):
        await served.client.get(CONTROLLER_REVISIONS, object_name("iris-3"), "default")


async def test_a_pipeline_that_cannot_run_says_why_and_keeps_its_revision(served: Served) -> None:
    good = await served.client.create(PIPELINES, a_pipeline())
    broken = {"steps": [{"name": "train", "command": ["true"], "dependsOn": ["nobody"]}]}
    body = await served.client.patch(PIPELINES, "iris", "default", {"spec": broken})
    status, why = _ready(body)
    assert (status, body["status"]["revision"]) == ("False", 1)
    assert "nobody" in why
    assert [each["type"] for each in body["status"]["conditions"]] == ["Ready", "Stalled"]
    healed = await served.client.patch(
        PIPELINES, "iris", "default", {"spec": good["spec"] | broken | {"steps": good["spec"]["steps"]}}
    )
    assert _ready(healed)[0] == "True"


async def test_a_write_with_an_old_version_or_another_uid_is_refused(served: Served) -> None:
    made = await served.client.create(DEPLOYMENTS, a_deployment())
    await served.client.patch(DEPLOYMENTS, "calls", "default", {"spec": {"suspend": True}})
    with pytest.raises(Conflict, match="has been modified"):
        await served.client.replace(DEPLOYMENTS, made)
    version = made["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await served.client.patch_status(DEPLOYMENTS, "calls", "default", {"active": 1}, resource_version=version)
    with pytest.raises(Conflict, match="UID in precondition"):
        await served.client.patch(DEPLOYMENTS, "calls", "default", {"metadata": {"uid": "other"}})
    with pytest.raises(Conflict, match="UID in precondition"):
        await served.client.delete(DEPLOYMENTS, "calls", "default", uid="other")
    with pytest.raises(Invalid, match="must be specified for an update"):
        await served.client.replace(DEPLOYMENTS, a_deployment())
    assert (await served.client.get(DEPLOYMENTS, "calls", "default"))["spec"]["suspend"] is True


async def test_status_and_the_rest_are_written_apart(served: Served) -> None:
    made = await served.client.create(DEPLOYMENTS, {**a_deployment(), "status": {"active": 9}})
    assert made["status"] == {"observedGeneration": -1}  # as our definitions have it on a cluster
    told = await served.client.patch_status(DEPLOYMENTS, "calls", "default", {"active": 1, "waiting": 2})
    assert (told["status"], told["metadata"]["generation"]) == (made["status"] | {"active": 1, "waiting": 2}, 1)
    told = await served.client.patch_status(DEPLOYMENTS, "calls", "default", {"waiting": None})
    assert told["status"] == made["status"] | {"active": 1}
    both = {"spec": {"suspend": True}, "status": {"active": 5}}
    assert (await served.client.patch(DEPLOYMENTS, "calls", "default", both))["status"] == told["status"]
    body = await served.client.patch(
        DEPLOYMENTS, "calls", "default", both | {"spec": {"suspend": False}}, subresource="status"
    )
    assert (body["status"], body["spec"]["suspend"]) == (made["status"] | {"active": 5}, True)
    with pytest.raises(Invalid, match=r"status\.actve: unknown field"):
        await served.client.patch_status(DEPLOYMENTS, "calls", "default", {"actve": 1})


async def test_when_the_spec_came_to_be_as_it_is_is_told_as_a_cluster_tells_it(served: Served) -> None:
    made = await served.client.create(DEPLOYMENTS, a_deployment())
    assert _edited_at(made["metadata"]) is not None
    changed = await served.client.patch(DEPLOYMENTS, "calls", "default", {"spec": {"suspend": True}})
    edited = _edited_at(changed["metadata"])
    assert edited is not None
    told = await served.client.patch_status(DEPLOYMENTS, "calls", "default", {"active": 1})
    assert _edited_at(told["metadata"]) == edited


async def test_a_json_patch_tests_and_changes(served: Served) -> None:
    await served.client.create(CONFIG_MAPS, {"metadata": named("c"), "data": {"a": "1"}})
    good = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "replace", "path": "/data/a", "value": "2"}]
    assert (await served.client.patch(CONFIG_MAPS, "c", "default", good))["data"] == {"a": "2"}
    with pytest.raises(Invalid, match="testing value /data/a failed"):
        await served.client.patch(CONFIG_MAPS, "c", "default", good)


async def test_apply_takes_back_what_it_gave_and_nothing_else(served: Served) -> None:
    body = a_deployment(labels={"app": "x", "tier": "y"})
    first = await served.client.apply(DEPLOYMENTS, body, manager="cli", force=False)
    assert first["metadata"]["labels"] == {"app": "x", "tier": "y"}
    again = await served.client.apply(DEPLOYMENTS, body, manager="cli", force=False)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    await served.client.patch(DEPLOYMENTS, "calls", "default", {"metadata": {"annotations": {"note": "mine"}}})
    body = a_deployment(labels={"app": "x"})
    body["spec"] = {"pipeline": {"name": "iris"}, "schedule": {"cron": "@daily"}}
    after = await served.client.apply(DEPLOYMENTS, body, manager="cli", force=False)
    assert after["metadata"]["labels"] == {"app": "x"}
    assert after["metadata"]["annotations"] == {"note": "mine"}
    assert after["spec"].keys() == {"pipeline", "schedule"}


async def test_apply_names_those_who_own_what_it_would_change(served: Served) -> None:
    body = a_deployment()
    body["spec"]["suspend"] = False
    await served.client.apply(DEPLOYMENTS, body, manager="cli", force=False)
    await served.client.patch(DEPLOYMENTS, "calls", "default", {"spec": {"suspend": True}})
    with pytest.raises(Conflict) as caught:
        await served.client.apply(DEPLOYMENTS, body, manager="cli", force=False)
    assert caught.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "penstock"', "field": ".spec.suspend"}
    ]
    assert caught.value.has_cause("FieldManagerConflict")
    assert (await served.client.apply(DEPLOYMENTS, body, manager="cli"))["spec"]["suspend"] is False


async def test_status_is_applied_apart_from_the_rest(served: Served) -> None:
    await served.client.apply(DEPLOYMENTS, a_deployment(), manager="x")
    status = {"metadata": named("calls"), "status": {"active": 1, "waiting": 1}}
    body = await served.client.apply(DEPLOYMENTS, status, subresource="status", manager="x")
    assert body["status"] == {"observedGeneration": -1, "active": 1, "waiting": 1}
    status["status"] = {"active": 2}
    body = await served.client.apply(DEPLOYMENTS, status, subresource="status", manager="x")
    assert (body["status"], body["spec"]) == (
        {"observedGeneration": -1, "active": 2},
        a_deployment()["spec"],
    )


async def test_secrets_keep_texts_as_data(served: Served) -> None:
    made = await served.client.create(SECRETS, {"metadata": named("s"), "stringData": {"token": "geheim"}})
    assert made["data"] == {"token": base64.b64encode(b"geheim").decode()}
    assert (made["type"], "stringData" in made) == ("Opaque", False)
    with pytest.raises(Invalid, match=r"data\.x: wanted base64"):
        await served.client.patch(SECRETS, "s", "default", {"data": {"x": "?"}})
    owner = {"apiVersion": "penstock.dev/v1alpha1", "kind": "Deployment", "name": "calls", "uid": "nobody"}
    await write_token(served.client, "default", "s", "another", owner=owner)
    assert await read_token(served.client, "default", "s") == "another"


async def test_what_an_object_owns_goes_with_it(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(DEPLOYMENTS, a_deployment())
    uid = made["metadata"]["uid"]
    owner = {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": "Deployment",
        "name": "calls",
        "uid": uid,
        "controller": True,
    }
    await write_token(served.client, "default", "calls-token", "x" * 43, owner=owner)
    execution = await served.client.create(EXECUTIONS, an_execution(ownerReferences=[owner]))
    assert await served.client.delete(DEPLOYMENTS, "calls", "default", uid=uid)
    for kind, name in ((SECRETS, "calls-token"), (EXECUTIONS, "one"), (DEPLOYMENTS, "calls")):
        with pytest.raises(NotFound):
            await served.client.get(kind, name, "default")
    assert served.runner.deleted == [execution["metadata"]["uid"]]
    assert not await served.client.delete(DEPLOYMENTS, "calls", "default")
    # One that is made for an owner that has just gone does not stay.
    await served.client.create(EXECUTIONS, an_execution("two", ownerReferences=[owner]))
    with pytest.raises(NotFound):
        await served.client.get(EXECUTIONS, "two", "default")


async def test_what_has_lost_its_owner_while_nobody_looked_goes_at_the_next_start(tmp_path: Path) -> None:
    first = Served(tmp_path / "home")
    await first.client.create(PIPELINES, a_pipeline())
    made = await first.client.create(DEPLOYMENTS, a_deployment())
    owner = {"apiVersion": "x", "kind": "Deployment", "name": "calls", "uid": made["metadata"]["uid"]}
    await first.client.create(EXECUTIONS, an_execution(ownerReferences=[owner]))
    await first.client.create(SECRETS, {"metadata": named("s", ownerReferences=[owner])})
    first.database.execute("DELETE FROM objects WHERE plural = 'deployments'")  # killed before the rest was deleted
    first.close()
    second = Served(tmp_path / "home")
    await second.server.start()
    for kind, name in ((SECRETS, "s"), (EXECUTIONS, "one")):
        with pytest.raises(NotFound):
            await second.client.get(kind, name, "default")
    assert len(second.runner.deleted) == 1
    second.close()


async def test_deletions_are_not_remembered_for_ever(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.local.registry.REMEMBERED", 3)
    monkeypatch.setattr("penstock.local.apiserver.REMEMBERED", 3)
    for number in range(10):
        await served.client.create(CONFIG_MAPS, {"metadata": named(f"c{number}")})
        await served.client.delete(CONFIG_MAPS, f"c{number}", "default")
    assert len(served.database.rows("SELECT version FROM tombstones")) <= 6


async def test_orphans_can_be_kept(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    made = await served.client.create(DEPLOYMENTS, a_deployment())
    owner = {**{"apiVersion": "x", "kind": "Deployment", "name": "calls"}, "uid": made["metadata"]["uid"]}
    await served.client.create(EXECUTIONS, an_execution(ownerReferences=[owner], labels={"a": "b"}))
    await served.client.delete(DEPLOYMENTS, "calls", "default", propagation="Orphan")
    kept = (await served.client.get(EXECUTIONS, "one", "default"))["metadata"]
    assert ("ownerReferences" in kept, kept["labels"]) == (False, {"a": "b"})


async def test_lists_come_in_pieces_and_by_labels(served: Served) -> None:
    for number in range(7):
        labels = {"odd": str(number % 2)}
        await served.client.create(CONFIG_MAPS, {"metadata": named(f"c{number}", labels=labels)})
    names = lambda body: body["metadata"]["name"]  # noqa: E731
    everything = await served.client.list(CONFIG_MAPS, chunk=3, keep=names)
    assert list(everything.items) == [f"c{number}" for number in range(7)]
    odd = await served.client.list(CONFIG_MAPS, labels="odd in (1)", chunk=2, keep=names)
    assert list(odd.items) == ["c1", "c3", "c5"]
    one = await served.client.list(CONFIG_MAPS, namespace="default", fields="metadata.name=c4", keep=names)
    assert list(one.items) == ["c4"]
    assert not (await served.client.list(CONFIG_MAPS, namespace="other", keep=names)).items
    with pytest.raises(ApiError, match="unable to parse requirement"):
        await served.client.list(CONFIG_MAPS, labels="a b", keep=names)
    metadata = await served.client.list(CONFIG_MAPS, metadata_only=True, keep=lambda body: body)
    assert metadata.items[0]["kind"] == "PartialObjectMetadata"
    found = await served.client.get(CONFIG_MAPS, "c1", "default", metadata_only=True)
    assert found.keys() == {"kind", "apiVersion", "metadata"}


async def test_a_dry_run_writes_nothing(served: Served) -> None:
    path = PIPELINES.path(namespace="default")
    status, body = await served.ask("POST", path, a_pipeline(), params={"dryRun": "All"})
    assert (status, body["metadata"]["name"]) == (201, "iris")
    made = await served.client.create(PIPELINES, a_pipeline())
    given = {"params": {"dryRun": "All"}, "content_type": "application/merge-patch+json"}
    status, body = await served.ask("PATCH", IRIS, {"metadata": {"labels": {"a": "b"}}}, **given)
    assert (status, body["metadata"]["labels"]) == (200, {"a": "b"})
    await served.ask("DELETE", IRIS, params={"dryRun": "All"})
    assert await served.client.get(PIPELINES, "iris", "default") == made


async def test_what_makes_no_sense_is_said(served: Served) -> None:
    pipelines = PIPELINES.path(namespace="default")
    for method, path, body, given, code, said in (
        ("POST", pipelines, b"{", {}, 400, "not JSON"),
        ("POST", pipelines, b'{"spec": NaN}', {}, 400, "NaN is no number"),
        ("POST", pipelines, b"[" * 100_000, {}, 400, "not JSON"),
        ("POST", pipelines, [], {}, 400, "wanted an object"),
        ("POST", pipelines, {"kind": "Pod", **a_pipeline()}, {}, 400, "does not match the expected kind"),
        (
            "POST",
            PIPELINES.path(namespace="other"),
            a_pipeline(namespace="other"),
            {},
            404,
            'namespaces "other" not found',
        ),
        ("POST", PIPELINES.path(namespace="other"), {}, {}, 404, 'namespaces "other" not found'),
        ("PATCH", IRIS, {}, {"content_type": "application/strategic-merge-patch+json"}, 415, "not understood"),
        (
            "PATCH",
            IRIS,
            {"metadata": {"name": "x"}},
            {"content_type": "application/merge-patch+json"},
            400,
            "cannot be changed",
        ),
        ("PUT", IRIS, {"metadata": {"name": "x"}}, {}, 400, "does not match the name on the URL"),
        ("GET", "/apis/batch/v1/jobs", None, {}, 404, "could not find"),
        ("GET", f"{IRIS}/scale", None, {}, 404, "could not find"),
        ("DELETE", pipelines, None, {}, 405, "DELETE"),
        ("POST", "/api/v1/namespaces/default/pods", {}, {}, 405, "made of other objects"),
        ("GET", pipelines, None, {"params": {"limit": "x"}}, 400, "limit: wanted a whole number"),
        ("GET", pipelines, None, {"params": {"continue": "x"}}, 400, "continue"),
        ("GET", pipelines, None, {"params": {"fieldSelector": "spec.x=1"}}, 400, "field label not supported"),
        ("POST", pipelines, b"\x00", {"content_type": "application/vnd.kubernetes.protobuf"}, 415, "JSON"),
    ):
        await served.client.apply(PIPELINES, a_pipeline())
        status, answer = await served.ask(method, path, body, **given)
        assert (status, answer["kind"], answer["code"]) == (code, "Status", code), answer
        assert said in answer["message"]


async def test_a_client_finds_out_what_is_served(served: Served) -> None:
    assert (await served.client.version()).at_least(1, 30)
    for resource in (PIPELINES, DEPLOYMENTS, EXECUTIONS, CONFIG_MAPS, CONTROLLER_REVISIONS):
        assert await served.client.serves(resource)
    assert not await served.client.serves(JOBS)
    _, groups = await served.ask("GET", "/apis")
    assert {each["name"] for each in groups["groups"]} >= {"penstock.dev", "apps", "authorization.k8s.io"}
    assert (await served.client.get(NAMESPACES, "default"))["status"]["phase"] == "Active"
    with pytest.raises(NotFound):
        await served.client.get(NAMESPACES, "other")
    status, events = await served.ask("GET", "/api/v1/namespaces/default/events")
    assert (status, events["items"]) == (200, [])


async def test_kubectl_gets_the_columns_of_our_definitions(served: Served) -> None:
    await served.client.create(PIPELINES, a_pipeline())
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    for path in (IRIS, PIPELINES.path(namespace="default")):
        _, found = await served.ask("GET", path, accept=accept)
        columns = [each["name"] for each in found["columnDefinitions"] if not each["priority"]]
        assert (found["kind"], columns) == ("Table", ["Name", "Ready", "Revision", "Age"])
        (row,) = found["rows"]
        assert row["cells"][:3] == ["iris", "True", 1]
        assert row["object"]["kind"] == "PartialObjectMetadata"
    _, found = await served.ask("GET", "/api/v1/namespaces/default/pods", accept=accept)
    assert [each["name"] for each in found["columnDefinitions"]] == ["Name", "Status", "Age"]


async def test_kubectl_finds_out_that_manifests_are_checked_here(served: Served) -> None:
    _, root = await served.ask("GET", "/openapi/v3")
    for place, where in root["paths"].items():
        _, found = await served.ask("GET", where["serverRelativeURL"])
        assert found["components"]["schemas"], place
    _, ours = await served.ask("GET", "/openapi/v3/apis/penstock.dev/v1alpha1")
    patch = ours["paths"]["/apis/penstock.dev/v1alpha1/namespaces/{namespace}/pipelines/{name}"]["patch"]
    assert "fieldValidation" in [each["name"] for each in patch["parameters"]]
    assert patch["x-kubernetes-group-version-kind"]["kind"] == "Pipeline"
    assert (await served.ask("GET", "/openapi/v3/apis/batch/v1"))[0] == 404


async def test_yaml_can_be_applied(served: Served) -> None:
    text = b"metadata: {name: iris}\nspec:\n  steps:\n  - {name: a, command: ['true']}\n"
    given = {"content_type": "application/apply-patch+yaml", "params": {"fieldManager": "x"}}
    assert (await served.ask("PATCH", IRIS, text, **given))[0] == 201
    assert (await served.ask("PATCH", IRIS, text, **given))[0] == 200
    status, answer = await served.ask("PATCH", IRIS, b"a: [", **given)
    assert (status, "not YAML" in answer["message"]) == (400, True)


async def test_all_of_it_outlives_the_process(tmp_path: Path) -> None:
    first = Served(tmp_path / "home")
    made = await first.client.create(PIPELINES, a_pipeline())
    await first.client.apply(DEPLOYMENTS, a_deployment(labels={"a": "b"}), manager="cli")
    first.close()
    second = Served(tmp_path / "home")
    await second.server.start()
    assert await second.client.get(PIPELINES, "iris", "default") == made
    after = await second.client.apply(DEPLOYMENTS, a_deployment(), manager="cli", force=False)
    assert "labels" not in after["metadata"]
    second.close()


async def test_many_writes_at_once_are_one_after_another(served: Served) -> None:
    await served.client.create(CONFIG_MAPS, {"metadata": named("c"), "data": {}})
    changes = [served.client.patch(CONFIG_MAPS, "c", "default", {"data": {f"k{n}": "v"}}) for n in range(20)]
    bodies = await asyncio.gather(*changes)
    assert len({body["metadata"]["resourceVersion"] for body in bodies}) == 20
    assert len((await served.client.get(CONFIG_MAPS, "c", "default"))["data"]) == 20
