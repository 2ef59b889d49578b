"""The `craft-ai-sdk` from PyPI in an environment of its own, and what its users do with it. No tests.

The second half of this file runs there, with nothing of ours: `python craft_sdk.py URL TOKEN ENDPOINT_TOKEN [FILE]`, or
`python craft_sdk.py URL TOKEN`, which makes and changes deployments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSIONS = ("0.48.1", "0.74.7")


def use(version: str, url: str, token: str, endpoint_token: str, file: Path) -> dict[str, Any]:
    """What came of all that it can do, by the names of the calls."""
    return _run(version, url, token, endpoint_token, str(file))


def use_values(version: str, url: str, token: str, endpoint_token: str) -> dict[str, Any]:
    """The same without files and mistakes."""
    return _run(version, url, token, endpoint_token)


def deploy(version: str, url: str, token: str) -> dict[str, Any]:
    """What came of making, changing and removing deployments."""
    return _run(version, url, token)


def _run(version: str, *arguments: str) -> dict[str, Any]:
    from .isolated import python  # not where this file runs by itself

    command = [str(python("craft-ai-sdk", version)), "-W", "ignore", __file__, *arguments]
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "CRAFT_AI"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=clean)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _told(work: Any) -> Any:
    """The status and text of the error that something ends with."""
    from craft_ai_sdk import SdkException  # type: ignore[import-not-found]

    try:
        work()
    except SdkException as error:
        return [error.status_code, error.name]
    return None


def main(url: str, token: str, endpoint_token: str | None = None, file: str | None = None) -> None:
    from craft_ai_sdk import CraftAiSdk

    sdk = CraftAiSdk(sdk_token=token, environment_url=url, control_url=url)
    if endpoint_token is None:
        print(json.dumps(_deployments(sdk)))
        return
    found: dict[str, Any] = {"who": sdk.who_am_i()}
    found["pipelines"] = sdk.list_pipelines()
    found["pipeline"] = sdk.get_pipeline("iris")
    found["run"] = sdk.run_pipeline("iris", inputs={"rows": 3, "title": "12"})
    found["executions"] = sdk.list_pipeline_executions("iris")
    found["execution"] = sdk.get_pipeline_execution(found["run"]["execution_id"])
    found["output"] = sdk.get_pipeline_execution_output(found["run"]["execution_id"], "accuracy")
    found["deployments"] = sdk.list_deployments()
    found["deployment"] = sdk.get_deployment("iris")
    found["endpoint"] = sdk.trigger_endpoint("iris", endpoint_token, {"rows": 5})
    found["results"] = sdk.retrieve_endpoint_results("iris", found["endpoint"]["execution_id"], endpoint_token)
    if file is not None:
        _files_and_mistakes(sdk, found, endpoint_token, file)
    print(json.dumps(found, default=lambda value: {"bytes": len(value)}))


def _deployments(sdk: Any) -> dict[str, Any]:
    from craft_ai_sdk.io import InputSource, OutputDestination  # type: ignore[import-not-found]

    found: dict[str, Any] = {}
    made = sdk.create_deployment(
        "iris",
        "made",
        "endpoint",
        inputs_mapping=[
            InputSource("rows", endpoint_input_name="count", is_required=True),
            InputSource("title", constant_value="fixed"),
            InputSource("flags", is_null=True),
            InputSource("table", is_null=True),
        ],
        outputs_mapping=[OutputDestination("accuracy", endpoint_output_name="score")],
        description="ours",
    )
    found["made"] = made
    shown = sdk.get_deployment("made")
    found["shown"] = shown
    token = shown["endpoint_token"]
    found["called"] = sdk.trigger_endpoint("made", token, {"count": 9})["outputs"]
    new = sdk.generate_new_endpoint_token("made")["endpoint_token"]
    found["tokens differ"] = new != token
    found["old token"] = _told(lambda: sdk.trigger_endpoint("made", token, {"count": 1}))
    found["new token"] = sdk.trigger_endpoint("made", new, {"count": 2})["outputs"]
    if hasattr(sdk, "update_deployment"):
        found["off"] = sdk.update_deployment("made", is_enabled=False)["is_enabled"]
        found["while off"] = _told(lambda: sdk.trigger_endpoint("made", new, {"count": 1}))
        found["on"] = sdk.update_deployment("made", is_enabled=True)["is_enabled"]
    periodic = [InputSource(name, is_null=True) for name in ("title", "flags", "table")]
    periodic.append(InputSource("rows", constant_value=1))
    nowhere = [OutputDestination("accuracy", is_null=True)]
    sdk.create_deployment(
        "iris", "nightly", "periodic", schedule="0 3 * * *", inputs_mapping=periodic, outputs_mapping=nowhere
    )
    found["nightly"] = sdk.get_deployment("nightly")
    found["listed"] = sorted(each["name"] for each in sdk.list_deployments())
    found["taken"] = _told(lambda: sdk.create_deployment("iris", "made", "endpoint"))
    found["no pipeline"] = _told(lambda: sdk.create_deployment("nothing", "lost", "endpoint"))
    found["deleted"] = [sdk.delete_deployment(name) for name in ("made", "nightly")]
    found["gone"] = _told(lambda: sdk.get_deployment("made"))
    return found


def _files_and_mistakes(sdk: Any, found: dict[str, Any], endpoint_token: str, file: str) -> None:
    found["run with a file"] = sdk.run_pipeline("iris", inputs={"rows": 4, "table": file})
    found["execution"] = sdk.get_pipeline_execution(found["run with a file"]["execution_id"])
    with open(file, "rb") as content:  # noqa: PTH123 - what users write
        found["file"] = sdk.trigger_endpoint("iris", endpoint_token, {"table": content})
    found["array"] = sdk.trigger_endpoint("iris", endpoint_token, {"rows": 6, "flags": [1, "a"]})
    found["unknown"] = _told(lambda: sdk.run_pipeline("nothing"))
    found["wrong"] = _told(lambda: sdk.trigger_endpoint("iris", endpoint_token, {"rows": "x"}))
    found["token"] = _told(lambda: sdk.trigger_endpoint("iris", "w" * 43, {}))
    found["unsupported"] = _told(sdk.list_environment_variables)


if __name__ == "__main__":
    main(*sys.argv[1:])
