"""Every test of `decide` runs twice: with the state kept in memory, and with it stored and loaded after every pass."""

from __future__ import annotations

from typing import Any

import pytest

from builders import Drive, Driver, PipelineBuilder
from penstock.engine.compile import CompiledPipeline


@pytest.fixture(params=[False, True], ids=["kept", "reloaded"])
def drive(request: pytest.FixtureRequest) -> Drive:
    def make(told: PipelineBuilder | CompiledPipeline, **options: Any) -> Driver:
        return Driver(told, reload=request.param, **options)

    return make
