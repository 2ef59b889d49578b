"""Values pass through steps intact, whatever their size and whichever way the collector learns that a step is over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.cluster import Cluster
from e2e.cluster.images import ctr
from e2e.cluster.shell import wait_until
from e2e.image import PYTHON_IMAGE
from e2e.kubectl import Kubectl
from e2e.manifests import BUSYBOX
from e2e.operator_fixtures import (
    Place,
    execution,
    local_operator,
    restricted_namespace,
    script,
    step_of,
    steps,
    values,
)

pytest_plugins = ["e2e.operator_fixtures"]

SIZES = (1, 4_095, 4_096, 4_097, 60_000)
# Quotes, dollars, backslashes, blank ends, letters of two, three and four bytes, and what looks like another output.
AWKWARD = 'a "b" $(INPUT_X) $HOME \\n\ttab\n\nöß € 🐍\nEND\nx=1\nlast  '
MODES = ("sharedPid", "sidecar")

# Writes a text of as many bytes as it is told; no two lines of it are the same, so that what is missing is noticed.
MAKE = """
import os
size = int(os.environ["INPUT_SIZE"])
text = "".join(f"{line:063d}\\n" for line in range(size // 64 + 1))[: size - 1] + "z"
with open(os.environ["PENSTOCK_OUTPUT"], "a") as file:
    file.write(f"text<<EOT-EOT\\n{text}\\nEOT-EOT\\n")
"""
READ = """
import hashlib, os
with open(os.environ["PENSTOCK_INPUTS"] + "/text", "rb") as file:
    data = file.read()
with open(os.environ["PENSTOCK_OUTPUT"], "a") as file:
    file.write(f"digest={hashlib.sha256(data).hexdigest()}\\nsize={len(data)}\\n")
"""


@pytest.fixture(params=MODES)
def place(request: pytest.FixtureRequest) -> Place:
    """A namespace with each kind of collector."""
    found: Place = request.getfixturevalue("operator" if request.param == "sharedPid" else "sidecar_operator")
    return found


def made(size: int) -> str:
    """What MAKE writes."""
    return "".join(f"{line:063d}\n" for line in range(size // 64 + 1))[: size - 1] + "z"


def passing_on(size: int) -> dict[str, Any]:
    """A pipeline that makes a text, gives it to a second step, and says what arrived there."""
    python = {"image": PYTHON_IMAGE, "shell": ["python3", "-c"]}
    return steps(
        {
            "name": "make",
            "inputs": [{"name": "size", "value": size}],
            "outputs": [{"name": "text", "type": "string"}],
            "script": MAKE,
            **python,
        },
        {
            "name": "read",
            "inputs": [{"name": "text", "from": "steps.make.outputs.text"}],
            "outputs": [{"name": "digest", "type": "string", "maxBytes": 64}, {"name": "size", "type": "number"}],
            "script": READ,
            **python,
        },
        outputs=[
            {"name": "text", "type": "string", "from": "steps.make.outputs.text"},
            {"name": "digest", "type": "string", "from": "steps.read.outputs.digest"},
        ],
    )


def assert_intact(status: dict[str, Any], size: int) -> None:
    """The text is as it was made, in the second step and in the status."""
    assert status["phase"] == "Succeeded", status
    text = made(size)
    assert values(step_of(status, "make"))["text"] == text
    read = values(step_of(status, "read"))
    assert read == {"digest": hashlib.sha256(text.encode()).hexdigest(), "size": size}


def test_texts_of_all_sizes_arrive_as_they_were_made(place: Place) -> None:
    # Without outputs of the pipeline: together with its quotes, the largest is over the bound of an execution's.
    asked = {size: execution({**passing_on(size), "outputs": []}) for size in SIZES}
    place.start_all(list(asked.values()))
    ended = place.wait_all([each["metadata"]["name"] for each in asked.values()])
    for size, each in asked.items():
        assert_intact(ended[each["metadata"]["name"]], size)
    pods = place.pods(asked[1]["metadata"]["name"])
    made_by = next(pod for pod in pods if pod["metadata"]["labels"]["penstock.dev/step"] == "make")["spec"]
    assert made_by.get("shareProcessNamespace", False) is (place.operator != "local")
    assert bool(made_by.get("initContainers")) is (place.operator == "local")


def test_awkward_text_and_other_types_arrive_as_they_were_given(place: Place) -> None:
    both = [{"name": "text", "type": "string"}, {"name": "data", "type": "json"}]
    copy = """{
        echo "text<<A-B"; cat "$PENSTOCK_INPUTS/text"; echo; echo A-B
        echo "data=$(cat "$PENSTOCK_INPUTS/data")"
    } >> "$PENSTOCK_OUTPUT"
    """
    data = {"deep": [1, 2.5, None, True, {"ö": "€"}], "text": 'x"\n'}
    status = place.wait(
        place.start(
            steps(
                script(
                    "first",
                    copy,
                    outputs=both,
                    inputs=[{"name": "text", "value": AWKWARD}, {"name": "data", "value": data}],
                ),
                script(
                    "second",
                    copy,
                    outputs=both,
                    inputs=[
                        {"name": "text", "from": "steps.first.outputs.text"},
                        {"name": "data", "from": "steps.first.outputs.data"},
                    ],
                ),
            )
        )
    )
    assert status["phase"] == "Succeeded", status
    assert values(step_of(status, "second")) == {"text": AWKWARD, "data": data}


def test_a_step_that_failed_keeps_the_sound_outputs_and_one_without_them_is_told_so(place: Place) -> None:
    wanted = [{"name": "text", "type": "string"}]
    failed, empty, silent = place.start_all(
        [
            execution(
                steps(script("s", 'echo text=kept >> "$PENSTOCK_OUTPUT"; echo oh no >&2; exit 3', outputs=wanted))
            ),
            execution(steps(script("s", "exit 0", outputs=wanted))),
            execution(steps(script("s", "sleep 2", outputs=wanted))),
        ]
    )
    ended = place.wait_all([failed, empty, silent])
    first = step_of(ended[failed], "s")
    assert (first["phase"], first["reason"], first["exitCode"]) == ("Failed", "StepFailed", 3)
    assert values(first) == {"text": "kept"}
    assert first["message"] == "oh no"
    for name in (empty, silent):
        step = step_of(ended[name], "s")
        assert (step["phase"], step["reason"]) == ("Failed", "InvalidOutputs")
        assert "text" in step["message"]


def test_outputs_are_collected_from_a_step_whose_image_came_long_after_its_collector(
    place: Place, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    if cluster.layout is None:
        pytest.skip("only images of a cluster that was started here can be made to come late")
    layout, late = cluster.ours, f"docker.io/library/late-{place.kubectl.namespace}:1"
    request.addfinalizer(lambda: ctr(layout, "images", "rm", late))
    step = script("s", 'echo "text=came late" >> "$PENSTOCK_OUTPUT"', outputs=[{"name": "text", "type": "string"}])
    name = place.start(steps({**step, "image": late}))
    waiting = place.wait_for_step(name, "s", reason="ImagePullFailed")
    assert waiting["phase"] == "Pending"
    assert late in waiting["message"]
    ctr(layout, "images", "tag", BUSYBOX, late)
    status = place.wait(name)
    assert status["phase"] == "Succeeded", status
    assert values(step_of(status, "s")) == {"text": "came late"}


@pytest.fixture(params=MODES)
def roomy_place(
    request: pytest.FixtureRequest,
    cluster_kubectl: Kubectl,
    crds: None,
    image: str,
    example_images: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """An operator whose limits are raised as far as they go, with each kind of collector."""
    del crds, example_images
    more = {"COLLECTOR": request.param, "COLLECTOR_IMAGE": image, "INPUT_BYTES": "1048576", "OUTPUT_BYTES": "1048576"}
    folder = tmp_path_factory.mktemp("roomy")
    with restricted_namespace(cluster_kubectl, "roomy") as work, local_operator(work, folder, **more):
        yield Place(work, "local")


def test_a_value_of_a_million_bytes_passes_where_the_limits_are_raised(roomy_place: Place) -> None:
    status = roomy_place.wait(roomy_place.start({**passing_on(1_000_000), "outputs": []}))
    assert_intact(status, 1_000_000)


def test_a_value_that_would_be_stored_twice_and_does_not_fit_twice_is_refused_and_kept_once(
    roomy_place: Place,
) -> None:
    status = roomy_place.wait(roomy_place.start(passing_on(1_000_000)))
    assert (status["phase"], status["reason"]) == ("Failed", "OutputsTooLarge"), status["message"]
    assert "together over the limit" in status["message"]
    assert "pass large data as files" in status["message"]
    assert values(step_of(status, "make"))["text"] == made(1_000_000)


def test_a_status_that_no_server_stores_ends_the_execution_with_what_fits_and_says_why(roomy_place: Place) -> None:
    # What items give that do not succeed is stored with each of them and once more in the outputs of the step.
    text = {"name": "text", "type": "string"}
    python = {"image": PYTHON_IMAGE, "shell": ["python3", "-c"]}
    many = {
        "name": "many",
        "forEach": {"items": list(range(9))},
        "inputs": [{"name": "size", "value": 100_000}],
        "outputs": [text],
        "onFailure": "Continue",
        "script": f"{MAKE}\nraise SystemExit(3)",
        **python,
    }
    name = roomy_place.start(steps(many, script("small", 'echo text=x >> "$PENSTOCK_OUTPUT"', outputs=[text])))
    status = roomy_place.wait(name, seconds=150)
    assert (status["phase"], status["reason"]) == ("Failed", "OutputsTooLarge"), status.get("message")
    assert "more than an API server stores in one object" in status["message"]
    assert 'of step "many"' in status["message"]
    assert values(step_of(status, "small")) == {"text": "x"}

    def all_ended() -> bool:
        return all(job.get("status", {}).get("conditions") for job in roomy_place.jobs(name))

    wait_until(all_ended, timeout=30, what="its Jobs to end", every=0.3)


@pytest.fixture
def place_of_images_users(
    cluster_kubectl: Kubectl, crds: None, image: str, example_images: None, tmp_path: Path
) -> Iterator[Place]:
    """An operator that leaves it to images who steps run as."""
    del crds, example_images
    more = {"COLLECTOR_IMAGE": image, "RUN_AS_USER": "0"}
    with restricted_namespace(cluster_kubectl, "users") as work, local_operator(work, tmp_path, **more):
        yield Place(work, "local")


def test_a_step_runs_as_whom_its_template_names_or_as_nobody_in_particular_where_the_image_names_root(
    place_of_images_users: Place,
) -> None:
    place = place_of_images_users
    number = {"outputs": [{"name": "user", "type": "number"}]}
    who = 'echo "user=$(id -u)" >> "$PENSTOCK_OUTPUT"'

    def by(**context: Any) -> dict[str, Any]:
        return {"podTemplate": {"spec": context}}

    pod = by(securityContext={"runAsUser": 1234})
    container = by(containers=[{"name": "step", "securityContext": {"runAsUser": 2345}}])
    spec = steps(
        script("image", who, **number),
        script("items", who, forEach={"items": [1, 2, 3]}, **number),
        script("pod", who, **number, **pod),
        script("container", who, **number, **container),
        script("again", who, dependsOn=["image"], **number),
    )
    status = place.wait(place.start(spec))
    assert status["phase"] == "Succeeded", status
    assert {step["name"]: values(step)["user"] for step in status["steps"]} == {
        "image": 65_532, "items": [65_532] * 3, "pod": 1234, "container": 2345, "again": 65_532,
    }  # fmt: skip
    assert all(step.get("disruptions", 0) == 0 for step in status["steps"])
    assert all(step["attempts"] == 1 for step in status["steps"] if "itemCount" not in step)


def test_a_step_without_collected_outputs_has_a_folder_to_write_to_as_others_have(operator: Place) -> None:
    leave = 'test -z "$(ls "$PENSTOCK_OUTPUTS")" && mkdir "$PENSTOCK_OUTPUTS/x" && echo y > "$PENSTOCK_OUTPUTS/x/y"'
    sealed = {"containers": [{"name": "step", "securityContext": {"readOnlyRootFilesystem": True}}]}
    status = operator.wait(
        operator.start(
            steps(
                script("open", leave),
                script("sealed", f"! touch /y && {leave}", podTemplate={"spec": sealed}),
                script("small", leave, outputs=[{"name": "n", "type": "number"}], onFailure="Continue"),
            )
        )
    )
    assert [step["phase"] for step in status["steps"]] == ["Succeeded", "Succeeded", "Failed"], status
    assert "was not written" in step_of(status, "small")["message"]


def test_a_collector_costs_what_the_documentation_says(
    operator: Place, sidecar_operator: Place, record_property: Any
) -> None:
    """Measures and tells; how long things take is no reason to fail."""
    chain = [script(f"s{n}", 'echo "text=x" >> "$PENSTOCK_OUTPUT"') for n in range(3)]
    for number, step in enumerate(chain):
        step["dependsOn"] = [f"s{number - 1}"] if number else []
    plain = steps(*(step | {"outputs": [{"name": "text", "type": "string", "maxBytes": 9}]} for step in chain))
    collected = steps(*(step | {"outputs": [{"name": "text", "type": "string"}]} for step in chain))
    for kind, place, spec in (
        ("plain", operator, plain),
        ("sharedPid", operator, collected),
        ("sidecar", sidecar_operator, collected),
    ):
        status = place.wait(place.start(spec))
        assert status["phase"] == "Succeeded", status
        taken = (seconds(status["finishedAt"]) - seconds(status["startedAt"])) / len(chain)
        record_property(f"seconds a step, {kind}", round(taken, 2))
        print(f"{kind}: {taken:.2f} s a step")


def seconds(text: str) -> float:
    """A moment as seconds."""
    return datetime.fromisoformat(text).timestamp()
