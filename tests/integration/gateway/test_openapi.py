"""What our OpenAPI document says holds: schemathesis makes requests of it, and reads the answers."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

from .cluster import TOKEN
from .endpoints_fixtures import Endpoints, value
from .isolated import python

VERSION = "4.32.5"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
CONFIG = """[parameters]
"path.namespace" = "ours"
"path.path" = "iris"
"""


def test_no_server_error_and_no_status_that_is_not_documented(endpoints: Endpoints, tmp_path: Path) -> None:
    def soon(body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        outputs = {"outputs": [value("accuracy", 1)]}
        threading.Thread(target=endpoints.server.end, args=[name], kwargs=outputs).start()

    endpoints.server.on_create = soon
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = python("schemathesis", VERSION).with_name("schemathesis")
    options = ["--checks", CHECKS, "--exclude-path-regex", "/api/v1/", "--max-examples", "15", "--seed", "1"]
    header = f"Authorization: EndpointToken {TOKEN}"
    done = subprocess.run(
        [command, "--config-file", config, "run", f"{endpoints.url}/openapi.json", "--header", header, *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Tested: 5" in done.stdout
    assert endpoints.server.executions()  # it got as far as that
