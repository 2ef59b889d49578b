"""A store by HTTPS whose certificate an authority of one's own has signed: for containers and for functions."""

from __future__ import annotations

from pathlib import Path

from e2e.cluster.cluster import Cluster
from e2e.files_fixtures import laboratory, on_this_machine
from e2e.kubectl import Kubectl
from e2e.object_store import private_tls
from e2e.operator_fixtures import script, step_of, steps
from e2e.test_operator_functions_files import FILE_OUT, FROM_GIVE, function_step, mount_code

pytest_plugins = ["e2e.operator_fixtures", "e2e.files_fixtures"]

# More than is given in one request.
BYTES = 100_000_000
# What transfers trusts that authority; the step itself goes on to trust those that all trust.
COPY = 'test -z "$SSL_CERT_FILE"; cp "$INPUT_TABLE" "$PENSTOCK_OUTPUTS/table"'


def test_only_what_transfers_trusts_the_authority_of_the_store(
    cluster: Cluster, cluster_kubectl: Kubectl, crds: None, image: str, example_images: None, tmp_path: Path
) -> None:
    del crds, example_images
    on_this_machine(cluster)
    give = function_step(image, "give", "give", inputs=[{"name": "size", "value": BYTES}], outputs=FILE_OUT)
    copy = script("copy", COPY, inputs=[FROM_GIVE], outputs=FILE_OUT)
    inputs = [{"name": "table", "from": "steps.copy.outputs.table"}, {"name": "seconds", "value": 0}]
    take = function_step(image, "take", "waits", inputs=inputs, outputs=FILE_OUT)
    with laboratory(cluster_kubectl, image, tmp_path, private_tls(tmp_path)) as lab:
        mount_code(lab.place.kubectl)
        status = lab.place.wait(lab.place.start(steps(give, copy, take)), seconds=150)
    assert status["phase"] == "Succeeded", status
    found = [step_of(status, name)["outputs"][0]["file"] for name in ("give", "copy", "take")]
    assert {each["size"] for each in found} == {BYTES}
    assert len({each["sha256"] for each in found}) == 1
