"""What is sent to the API server for an attempt: the parts that something depends on, each for its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_objects import IDENTITY, SETTINGS, an_attempt
from penstock.controller.contract import CannotStart
from penstock.engine.types import File
from penstock.kube.manifests import Attempt, command_line, config_map, end_now, job, job_status, pod, secret
from penstock.kube.merging import merge
from penstock.kube.transports import CollectorMode, PodSettings
from penstock.step.inputs import expand

SHARED = PodSettings(collector_image="penstock:1", collector_mode=CollectorMode.SHARED, collector_pull_policy="Never")


def a_pod(settings: PodSettings = SETTINGS, **fields: Any) -> dict[str, Any]:
    return pod(an_attempt(settings, **fields), job_uid="j-1")


def step_of(found: dict[str, Any]) -> dict[str, Any]:
    (container,) = [item for item in found["spec"]["containers"] if item["name"] == "step"]
    return dict(container)


def env_of(found: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in step_of(found)["env"]}


def names(found: list[dict[str, Any]] | None) -> list[str]:
    return [item["name"] for item in found or []]


# --- Jobs, owners, labels ---------------------------------------------------------------------------


def test_a_managed_job_is_left_alone_by_the_job_controller_and_owned_by_its_execution() -> None:
    found = job(an_attempt(index=3, attempt=2))
    assert found["spec"]["managedBy"] == "penstock.dev/operator"
    assert {key: found["spec"][key] for key in ("backoffLimit", "completions", "parallelism")} == {
        "backoffLimit": 0, "completions": 1, "parallelism": 1,
    }  # fmt: skip
    assert found["metadata"]["namespace"] == "science"
    assert found["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "penstock.dev/v1alpha1", "kind": "Execution", "name": "iris-7", "uid": IDENTITY.uid,
            "controller": True,
        }
    ]  # fmt: skip
    assert found["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "penstock",
        "penstock.dev/execution": "iris-7",
        "penstock.dev/execution-uid": IDENTITY.uid,
        "penstock.dev/pipeline": "iris",
        "penstock.dev/step": "train",
        "penstock.dev/item": "3",
        "penstock.dev/attempt": "2",
    }


def test_an_ordinary_job_is_run_by_the_job_controller_and_carries_the_inputs() -> None:
    ordinary = PodSettings(managed=False)
    found = job(an_attempt(ordinary, inputs={"rows": 5}))
    assert "managedBy" not in found["spec"]
    assert found["spec"]["template"]["metadata"]["annotations"] == {"inputs.penstock.dev/rows": "5"}
    assert found["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert "annotations" not in job(an_attempt(inputs={"rows": 5}))["spec"]["template"]["metadata"]


def test_the_pod_is_what_the_job_controller_would_have_made() -> None:
    attempt = an_attempt(inputs={"rows": 5})
    found, template = pod(attempt, job_uid="j-1"), job(attempt)["spec"]["template"]
    assert found["spec"] == template["spec"]
    assert found["metadata"]["name"] == attempt.name == job(attempt)["metadata"]["name"]
    ours = {
        "batch.kubernetes.io/controller-uid": "j-1", "batch.kubernetes.io/job-name": attempt.name,
        "controller-uid": "j-1", "job-name": attempt.name,
    }  # fmt: skip
    assert found["metadata"]["labels"] == {**template["metadata"]["labels"], **ours}
    assert found["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "batch/v1", "kind": "Job", "name": attempt.name, "uid": "j-1",
            "controller": True, "blockOwnerDeletion": True,
        }
    ]  # fmt: skip


def test_building_twice_gives_the_same_and_shares_nothing() -> None:
    attempt = an_attempt(SHARED, outputs={"j": "json"}, podTemplate={"spec": {"nodeSelector": {"a": "b"}}})
    first = pod(attempt, job_uid="j-1")
    again = pod(attempt, job_uid="j-1")
    assert first == again
    first["spec"]["nodeSelector"]["a"] = "c"
    for container in first["spec"]["containers"]:
        container["securityContext"]["capabilities"]["drop"].clear()
    assert pod(attempt, job_uid="j-1") == again


# --- files ------------------------------------------------------------------------------------------

STORE = replace(SHARED, files=True, files_size_limit="2Gi", transfer_patience_seconds=100)
FILE = File("executions/u/prepare/1/table", "0" * 64, 3)


def volumes(found: dict[str, Any]) -> dict[str, Any]:
    return {each.pop("name"): each for each in found["spec"]["volumes"]}


def mounts(container: dict[str, Any]) -> dict[str, Any]:
    return {
        each["mountPath"]: (each["name"], each.get("subPath"), each.get("readOnly"))
        for each in container["volumeMounts"]
    }


def test_file_inputs_are_fetched_by_an_init_container_that_puts_the_values_beside_them() -> None:
    found = a_pod(STORE, inputs={"table": FILE, "parts": [FILE, None], "rows": 5})
    (fetch,) = found["spec"]["initContainers"]
    assert (fetch["name"], fetch["image"]) == ("penstock-fetch", "penstock:1")
    assert fetch["command"] == ["python", "-I", "-B", "-m", "penstock.step.fetch"]
    assert {each["name"]: each["value"] for each in fetch["env"]} == {
        "PENSTOCK_TRANSFERS": "/penstock/transfers/plan.json",
        "PENSTOCK_INPUTS": "/penstock/inputs",
        "PENSTOCK_FETCH_MESSAGE": "/dev/termination-log",
        "PENSTOCK_GIVEN": "/penstock/given",
        "PENSTOCK_TRANSFER_PATIENCE": "100",
    }
    assert mounts(fetch) == {
        "/penstock/inputs": ("penstock-inputs", None, None),
        "/penstock/given": ("penstock-given", "..data", True),
        "/penstock/transfers": ("penstock-transfers", None, True),
    }
    assert mounts(step_of(found)) == {"/penstock/inputs": ("penstock-inputs", None, True)}
    env = env_of(found)
    assert (env["INPUT_TABLE"], env["INPUT_PARTS"]) == ("/penstock/inputs/table", "/penstock/inputs/parts")
    assert env["INPUT_ROWS"]["fieldRef"]["fieldPath"] == "metadata.annotations['inputs.penstock.dev/rows']"
    assert names(found["spec"]["containers"]) == ["step"]
    given = volumes(found)
    assert set(given) == {"penstock-inputs", "penstock-given", "penstock-transfers"}
    assert given["penstock-inputs"] == {"emptyDir": {"sizeLimit": "2Gi"}}
    assert [each["path"] for each in given["penstock-given"]["downwardAPI"]["items"]] == ["rows"]
    assert given["penstock-transfers"] == {"secret": {"secretName": found["metadata"]["name"]}}
    assert "terminationGracePeriodSeconds" not in found["spec"]


def test_file_outputs_are_uploaded_by_the_collector_which_alone_has_the_plan() -> None:
    found = a_pod(STORE, outputs={"model": "file"})
    (collector,) = [each for each in found["spec"]["containers"] if each["name"] == "collector"]
    env = {each["name"]: each["value"] for each in collector["env"]}
    assert env["PENSTOCK_TRANSFERS"] == "/penstock/transfers/plan.json"
    assert (env["TMPDIR"], env["PENSTOCK_TRANSFER_PATIENCE"]) == ("/tmp", "100")
    assert mounts(collector) == {
        "/penstock/values": ("penstock-values", None, True),
        "/penstock/outputs": ("penstock-outputs", None, True),
        "/penstock/transfers": ("penstock-transfers", None, True),
        "/tmp": ("penstock-scratch", None, None),
    }
    assert set(mounts(step_of(found))) == {"/penstock/values", "/penstock/outputs"}
    given = volumes(found)
    assert set(given) == {"penstock-values", "penstock-outputs", "penstock-transfers", "penstock-scratch"}
    assert given["penstock-outputs"] == given["penstock-scratch"] == {"emptyDir": {"sizeLimit": "2Gi"}}
    assert given["penstock-values"] == {"emptyDir": {}}
    assert "terminationGracePeriodSeconds" not in found["spec"]


def test_a_sidecar_has_the_time_for_an_upload_that_begins_when_it_is_told_to_end() -> None:
    sidecar = replace(STORE, collector_mode=CollectorMode.SIDECAR)
    assert a_pod(sidecar, outputs={"model": "file"})["spec"]["terminationGracePeriodSeconds"] == 160
    assert "terminationGracePeriodSeconds" not in a_pod(sidecar, outputs={"model": "json"})["spec"]
    template = {"spec": {"terminationGracePeriodSeconds": 5}}
    own = a_pod(sidecar, outputs={"model": "file"}, podTemplate=template)
    assert own["spec"]["terminationGracePeriodSeconds"] == 5


def test_what_a_template_starts_first_is_there_when_files_are_fetched() -> None:
    proxy = {"name": "proxy", "image": "p:1", "restartPolicy": "Always"}
    found = a_pod(
        STORE, inputs={"table": FILE}, outputs={"m": "file"}, podTemplate={"spec": {"initContainers": [proxy]}}
    )
    assert names(found["spec"]["initContainers"]) == ["collector", "proxy", "penstock-fetch"]


def test_the_plan_is_a_secret_of_the_attempts_job() -> None:
    attempt = an_attempt(STORE, outputs={"model": "file"})
    found = secret(IDENTITY, attempt.start.id, attempt.pipeline, job_uid="j-1", plan="{}", authority="")
    assert found["stringData"] == {"plan.json": "{}"}
    assert found["metadata"]["name"] == attempt.name
    assert found["metadata"]["labels"] == attempt.labels
    assert found["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": attempt.name, "uid": "j-1"}
    ]
    assert "immutable" not in found


def test_a_store_with_an_authority_of_its_own_is_trusted_by_what_transfers_and_by_nothing_else() -> None:
    attempt = an_attempt(replace(STORE, store_authority="PEM"), inputs={"table": FILE}, outputs={"model": "file"})
    found = secret(IDENTITY, attempt.start.id, "", job_uid="j-1", plan="{}", authority="PEM")
    assert found["stringData"] == {"plan.json": "{}", "ca.crt": "PEM"}
    spec = pod(attempt, job_uid="j-1")["spec"]
    trusting = {
        each["name"]: [item["value"] for item in each["env"] if item["name"] == "SSL_CERT_FILE"]
        for each in (*spec["initContainers"], *spec["containers"])
    }
    place = ["/penstock/transfers/ca.crt"]
    assert trusting == {"penstock-fetch": place, "step": [], "collector": place}


def test_files_need_the_collectors_image_too() -> None:
    with pytest.raises(CannotStart, match=r"spec\.steps\[train\]\.inputs: the operator has no collector image"):
        a_pod(PodSettings(files=True), inputs={"table": FILE})


# --- security ---------------------------------------------------------------------------------------

WILD = {
    "spec": {
        "securityContext": {"runAsNonRoot": False, "fsGroup": 5},
        "restartPolicy": "Always",
        "enableServiceLinks": True,
        "automountServiceAccountToken": True,
        "containers": [
            {"name": "step", "securityContext": {"allowPrivilegeEscalation": True, "runAsUser": 7}},
            {"name": "proxy", "image": "p:1", "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}}},
        ],
        "initContainers": [{"name": "fetch", "image": "f:1"}],
    }
}


@pytest.mark.parametrize("template", [None, WILD])
@pytest.mark.parametrize("settings", [SETTINGS, SHARED])
@pytest.mark.parametrize("outputs", [{}, {"n": "number"}, {"j": "json"}, {"f": "file"}])
@pytest.mark.parametrize("inputs", [{"rows": 1}, {"rows": 1, "table": FILE}])
def test_every_pod_is_restricted_whatever_its_template_says(
    template: Any, settings: PodSettings, outputs: dict[str, Any], inputs: dict[str, Any]
) -> None:
    settings = replace(settings, files=True)
    spec = a_pod(settings, outputs=outputs, inputs=inputs, podTemplate=template)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (spec["restartPolicy"], spec["enableServiceLinks"]) == ("Never", False)
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert container["securityContext"].get("runAsNonRoot", True)
    assert all(set(item) & {"emptyDir", "downwardAPI", "configMap", "secret"} for item in spec.get("volumes", []))


def test_a_service_account_that_a_template_names_brings_its_token() -> None:
    spec = a_pod(podTemplate={"spec": {"serviceAccountName": "trainer"}})["spec"]
    assert "automountServiceAccountToken" not in spec
    without = {"serviceAccountName": "trainer", "automountServiceAccountToken": False}
    assert a_pod(podTemplate={"spec": without})["spec"]["automountServiceAccountToken"] is False


def test_the_settings_user_is_for_steps_whose_template_names_none() -> None:
    settings = PodSettings(run_as_user=1_000)
    assert a_pod(settings)["spec"]["securityContext"]["runAsUser"] == 1_000
    own = {"spec": {"securityContext": {"runAsUser": 7}}}
    assert a_pod(settings, podTemplate=own)["spec"]["securityContext"]["runAsUser"] == 7
    assert "runAsUser" not in a_pod()["spec"]["securityContext"]


# --- what runs --------------------------------------------------------------------------------------


def test_command_and_args_are_left_to_the_kubelets_expansion() -> None:
    step = step_of(a_pod(command=["python", "a.py"], args=["--rows", "$(INPUT_ROWS)"]))
    assert (step["command"], step["args"]) == (["python", "a.py"], ["--rows", "$(INPUT_ROWS)"])
    only_args = step_of(a_pod(args=["x"]))
    assert "command" not in only_args
    assert only_args["args"] == ["x"]
    neither = step_of(a_pod())
    assert not {"command", "args"} & set(neither)


def test_a_script_reaches_its_shell_as_it_is() -> None:
    script = 'echo $(date) $$ "$HOME" $(INPUT_ROWS) $$(x)'
    step = step_of(a_pod(script=script, inputs={"rows": 1}))
    assert step["command"] == ["/bin/sh", "-ec"]
    assert expand(step["args"][0], {"INPUT_ROWS": "1", "date": "no"}) == script
    other = step_of(a_pod(script="print(1)", shell=["python", "-c"]))
    assert (other["command"], other["args"]) == (["python", "-c"], ["print(1)"])


def test_a_function_is_run_by_the_runtime_and_told_its_types() -> None:
    found = a_pod(function="iris.train:run", inputs={"rows": 1, "names": ["a"], "on": True}, outputs={"n": "number"})
    assert step_of(found)["command"] == ["python", "-m", "penstock.step", "iris.train:run"]
    env = env_of(found)
    assert env["PENSTOCK_INPUT_TYPES"] == '{"rows":"number","names":"array","on":"boolean"}'
    assert env["PENSTOCK_OUTPUT_TYPES"] == '[["n","number",null]]'


def test_resources_image_and_deadline_are_the_steps() -> None:
    limits = {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}
    found = a_pod(resources=limits, timeout=1_800)
    assert step_of(found)["resources"] == limits
    assert step_of(found)["image"] == "img:1"
    assert found["spec"]["activeDeadlineSeconds"] == 1_800
    assert "activeDeadlineSeconds" not in a_pod()["spec"]


def test_an_attempt_without_an_image_is_refused_with_the_remedy() -> None:
    with pytest.raises(CannotStart, match=r"spec\.steps\[train\]\.image: a container needs an image; name one"):
        an_attempt(image=None, command=["x"])
    by_template = {"spec": {"containers": [{"name": "step", "image": "t:1"}]}}
    assert step_of(a_pod(image=None, command=["x"], podTemplate=by_template))["image"] == "t:1"


# --- environment and inputs -------------------------------------------------------------------------


def test_the_contracts_variables_come_first_and_the_steps_own_may_refer_to_them() -> None:
    ref = {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}
    found = a_pod(
        env=[{"name": "OUT", "value": "$(PENSTOCK_OUTPUT)"}, {"name": "TOKEN", "valueFrom": ref}],
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "m"}}],
        inputs={"data-rows": 5},
        attempt=2,
        index=0,
    )
    step = step_of(found)
    assert names(step["env"]) == [
        "PENSTOCK_INPUTS", "PENSTOCK_OUTPUT", "PENSTOCK_OUTPUTS", "PENSTOCK_EXECUTION", "PENSTOCK_STEP",
        "PENSTOCK_ATTEMPT", "PENSTOCK_PIPELINE", "PENSTOCK_INDEX", "INPUT_DATA_ROWS", "OUT", "TOKEN",
    ]  # fmt: skip
    env = env_of(found)
    assert env["PENSTOCK_INPUTS"] == "/penstock/inputs"
    assert (env["PENSTOCK_ATTEMPT"], env["PENSTOCK_INDEX"]) == ("2", "0")
    assert (env["OUT"], env["TOKEN"]) == ("$(PENSTOCK_OUTPUT)", ref)
    assert step["envFrom"] == [{"prefix": "P_", "configMapRef": {"name": "m"}}]


def test_small_inputs_travel_in_annotations_into_files_and_variables() -> None:
    found = a_pod(inputs={"rows": 5, "text": "$(PATH) $$\n", "_odd": {"a": [1, "ä"]}})
    assert found["metadata"]["annotations"] == {
        "inputs.penstock.dev/rows": "5",
        "inputs.penstock.dev/text": "$(PATH) $$\n",
        "inputs.penstock.dev/input.2": '{"a":[1,"ä"]}',
    }
    (volume,) = found["spec"]["volumes"]
    paths = {item["path"]: item["fieldRef"]["fieldPath"] for item in volume["downwardAPI"]["items"]}
    assert paths == {
        "rows": "metadata.annotations['inputs.penstock.dev/rows']",
        "text": "metadata.annotations['inputs.penstock.dev/text']",
        "_odd": "metadata.annotations['inputs.penstock.dev/input.2']",
    }
    assert step_of(found)["volumeMounts"] == [
        {"name": "penstock-inputs", "mountPath": "/penstock/inputs", "readOnly": True, "subPath": "..data"}
    ]
    # Taken from the annotation, a text with `$(PATH)` in it is not expanded.
    assert env_of(found)["INPUT_TEXT"]["fieldRef"]["fieldPath"] == paths["text"]
    assert env_of(found)["INPUT__ODD"]["fieldRef"]["fieldPath"] == paths["_odd"]
    assert config_map(an_attempt(inputs={"rows": 5}), job_uid="j-1") is None


def test_large_inputs_travel_in_one_immutable_config_map_owned_by_the_job() -> None:
    attempt = an_attempt(inputs={"text": "x" * 30_000, "huge": "y" * 40_000, "rows": 5})
    found = config_map(attempt, job_uid="j-1")
    assert found is not None
    assert found["immutable"] is True
    assert found["data"] == {"text": "x" * 30_000, "huge": "y" * 40_000, "rows": "5"}
    assert found["metadata"]["name"] == attempt.name
    assert found["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": attempt.name, "uid": "j-1"}
    ]
    pod_ = pod(attempt, job_uid="j-1")
    assert "annotations" not in pod_["metadata"]
    assert pod_["spec"]["volumes"] == [{"name": "penstock-inputs", "configMap": {"name": attempt.name}}]
    assert env_of(pod_)["INPUT_ROWS"] == {"configMapKeyRef": {"name": attempt.name, "key": "rows"}}
    assert "INPUT_HUGE" not in env_of(pod_)  # an environment has no room for it; the file is there


# --- outputs ----------------------------------------------------------------------------------------


def test_small_outputs_are_the_termination_message_of_one_plain_container() -> None:
    found = a_pod(SHARED, outputs={"n": "number"})
    step = step_of(found)
    assert env_of(found)["PENSTOCK_OUTPUT"] == step["terminationMessagePath"] == "/penstock/output"
    assert step["terminationMessagePolicy"] == "File"
    assert names(found["spec"]["containers"]) == ["step"]
    assert not {"initContainers", "volumes", "shareProcessNamespace"} & set(found["spec"])
    # Nothing is declared, so the log cannot be taken for it.
    assert step_of(a_pod())["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_collector_in_a_shared_pid_namespace_comes_after_the_step() -> None:
    found = a_pod(SHARED, outputs={"j": "json", "s": {"type": "string", "maxBytes": 9}})
    assert names(found["spec"]["containers"]) == ["step", "collector"]
    assert found["spec"]["shareProcessNamespace"] is True
    assert found["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == "step"
    assert env_of(found)["PENSTOCK_OUTPUT"] == "/penstock/values/output"
    assert step_of(found)["terminationMessagePath"] == "/dev/termination-log"
    collector = found["spec"]["containers"][1]
    env = {item["name"]: item["value"] for item in collector["env"]}
    assert env["PENSTOCK_COLLECTOR_WAIT"] == "processes"
    assert env["PENSTOCK_OUTPUT"] == "/penstock/values/output"
    assert env["PENSTOCK_OUTPUT_TYPES"] == '[["j","json",null],["s","string",9]]'
    assert env["PENSTOCK_COLLECTOR_MESSAGE"] == collector["terminationMessagePath"]
    assert collector["image"] == "penstock:1"
    assert collector["imagePullPolicy"] == "Never"
    security = collector["securityContext"]
    assert (security["runAsUser"], security["readOnlyRootFilesystem"]) == (64_999, True)
    shared = {mount["name"] for mount in collector["volumeMounts"] if mount["readOnly"]}
    assert shared == {"penstock-values", "penstock-outputs"} == set(names(found["spec"]["volumes"]))
    assert shared <= {mount["name"] for mount in step_of(found)["volumeMounts"] if not mount.get("readOnly")}


def test_a_collector_as_a_native_sidecar_is_the_first_init_container() -> None:
    fetch = {"spec": {"initContainers": [{"name": "fetch", "image": "f:1"}]}}
    found = a_pod(outputs={"j": "json"}, podTemplate=fetch)
    assert names(found["spec"]["initContainers"]) == ["collector", "fetch"]
    collector = found["spec"]["initContainers"][0]
    assert collector["restartPolicy"] == "Always"
    assert {item["name"]: item["value"] for item in collector["env"]}["PENSTOCK_COLLECTOR_WAIT"] == "signal"
    assert "shareProcessNamespace" not in found["spec"]
    assert names(found["spec"]["containers"]) == ["step"]


def test_without_a_collector_image_outputs_of_any_size_are_refused_with_the_remedy() -> None:
    with pytest.raises(CannotStart, match=r"spec\.steps\[train\]\.outputs: the operator has no collector image"):
        an_attempt(PodSettings(), outputs={"j": "json"})


def test_folders_that_hold_nothing_are_there_only_by_a_setting() -> None:
    plain = a_pod()
    assert "volumes" not in plain["spec"]
    # A folder that may be written to all the same.
    assert {"name": "PENSTOCK_OUTPUTS", "value": "/dev/shm"} in step_of(plain)["env"]
    spec = a_pod(PodSettings(empty_folders=True))["spec"]
    assert {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]} == {
        "/penstock/inputs", "/penstock/outputs",
    }  # fmt: skip


# --- podTemplate ------------------------------------------------------------------------------------


def test_what_a_template_says_beyond_ours_stays() -> None:
    template = {
        "metadata": {"labels": {"team": "x", "penstock.dev/step": "forged"}, "annotations": {"note": "y"}},
        "spec": {
            "priorityClassName": "high",
            "nodeSelector": {"gpu": "a100"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "imagePullSecrets": [{"name": "registry"}],
            "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "penstock-inputs", "emptyDir": {}}],
            "containers": [
                {
                    "name": "step",
                    "image": "other:1",
                    "imagePullPolicy": "Always",
                    "args": ["of", "the", "template"],
                    "workingDir": "/data",
                    "env": [{"name": "PENSTOCK_STEP", "value": "forged"}, {"name": "A", "value": "$(INPUT_ROWS)"}],
                    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "9Gi"}},
                }
            ],
        },
    }
    found = a_pod(
        podTemplate=template, command=["x"], inputs={"rows": 5}, env=[{"name": "B", "value": "$(A)"}],
        resources={"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    )  # fmt: skip
    spec, step = found["spec"], step_of(found)
    assert found["metadata"]["labels"]["team"] == "x"
    assert found["metadata"]["labels"]["penstock.dev/step"] == "train"
    assert found["metadata"]["annotations"]["note"] == "y"
    for field in (
        "priorityClassName",
        "nodeSelector",
        "tolerations",
        "imagePullSecrets",
        "terminationGracePeriodSeconds",
    ):
        assert spec[field] == template["spec"][field]  # type: ignore[index]
    assert names(spec["volumes"]) == ["scratch", "penstock-inputs"]
    assert "downwardAPI" in spec["volumes"][1]
    assert (step["image"], step["imagePullPolicy"], step["workingDir"]) == ("img:1", "Always", "/data")
    assert step["command"] == ["x"]
    assert "args" not in step  # of another command
    assert env_of(found)["PENSTOCK_STEP"] == "train"
    assert names(step["env"])[-3:] == ["INPUT_ROWS", "A", "B"]
    assert [mount["mountPath"] for mount in step["volumeMounts"]] == ["/scratch", "/penstock/inputs"]
    assert step["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"containers": "x"}, "podTemplate.spec.containers: wanted a list"),
        ({"containers": [{"image": "x"}]}, "podTemplate.spec.containers[0]: wanted a map with a `name`"),
        (
            {"containers": [{"name": "collector"}]},
            "podTemplate.spec.containers[collector]: this name is Penstock's own",
        ),
        ({"initContainers": [{"name": "step"}]}, "podTemplate.spec.initContainers[step]: this name is Penstock's own"),
        ({"containers": [{"name": "step", "env": [1]}]}, "podTemplate.spec.containers[step].env[0]: wanted a map"),
        ({"volumes": {}}, "podTemplate.spec.volumes: wanted a list"),
    ],
)
def test_a_template_that_is_none_is_refused_with_the_place(spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(CannotStart) as refused:
        an_attempt(podTemplate={"spec": spec})
    assert f"spec.steps[train].{problem}" in str(refused.value)


def test_merging_maps_lists_and_what_is_neither() -> None:
    template = {"a": {"x": 1, "y": {"z": 1}}, "volumes": [{"name": "v", "k": 1}, {"name": "w"}], "list": [1], "only": 1}
    ours = {"a": {"y": {"z": 2}, "q": 3}, "volumes": [{"name": "v", "l": 2}, {"name": "u"}], "list": [2]}
    assert merge(template, ours) == {
        "a": {"x": 1, "y": {"z": 2}, "q": 3},
        "volumes": [{"name": "w"}, {"name": "v", "l": 2}, {"name": "u"}],
        "list": [2],
        "only": 1,
    }


# --- the end ----------------------------------------------------------------------------------------


def test_the_final_status_of_a_job_is_what_the_api_server_accepts() -> None:
    done = job_status(succeeded=True, started_at=10.0, finished_at=12.9, reason="Succeeded", message="all went well")
    assert [item["type"] for item in done["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    assert (done["succeeded"], done["startTime"], done["completionTime"]) == (
        1, "1970-01-01T00:00:10Z", "1970-01-01T00:00:12Z",
    )  # fmt: skip
    failed = job_status(succeeded=False, started_at=20.0, finished_at=12.0, reason="StepFailed", message="exit code 3")
    assert [item["type"] for item in failed["conditions"]] == ["FailureTarget", "Failed"]
    assert failed["failed"] == 1
    assert "completionTime" not in failed
    assert failed["startTime"] == "1970-01-01T00:00:12Z"  # never after the end
    for status in (done, failed):
        assert status["uncountedTerminatedPods"] == {}


def test_ending_a_pod_keeps_its_log_and_says_who_ended_it() -> None:
    assert end_now() == {
        "metadata": {"annotations": {"penstock.dev/ended": "true"}},
        "spec": {"activeDeadlineSeconds": 1},
    }


def test_command_line_alone() -> None:
    attempt: Attempt = an_attempt(command=["a"], args=["b"])
    assert command_line(attempt.step) == (["a"], ["b"])
