"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A deadline is an assertion on time: on a loaded machine it fails for nothing.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a test that was skipped is a failure: a green run means that everything was run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if reporter is not None and skipped and exitstatus == 0 and os.environ.get("CI"):
        reporter.write_line(f"{len(skipped)} tests were skipped, and CI must run them all", red=True)
        session.exitstatus = 1


@pytest.fixture
def without_root() -> Iterator[None]:
    """Runs the test without root's right to read and write everything, so that permissions count everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
