"""The `craft-ai-sdk` from PyPI in an environment of its own, and what its users do with it. No tests.

The second half of this file runs there, with nothing of ours: `python craft_sdk.py URL TOKEN ENDPOINT_TOKEN [FILE]`.
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


def main(url: str, token: str, endpoint_token: str, file: str | None = None) -> None:
    from craft_ai_sdk import CraftAiSdk

    sdk = CraftAiSdk(sdk_token=token, environment_url=url, control_url=url)
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
