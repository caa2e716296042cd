"""Shared by all tests: helper modules beside the tests, real servers, hypothesis profiles, the recorded logs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.places import ROOT
from tests.real_servers import (
    kafka_server,
    kafka_url,
    postgresql_server,
    postgresql_url,
    redis_server,
    redis_url,
    running_server,
)

__all__ = [
    "kafka_server",
    "kafka_url",
    "postgresql_server",
    "postgresql_url",
    "redis_server",
    "redis_url",
    "running_server",
]

settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def recorded_logs() -> Path:
    """The folder of recorded logs; tests that need it are skipped where it is not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the recorded logs are not here (they are not part of the repository)")
    return folder


_left_out: list[pytest.Item] = []


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember the tests that were left out because they need servers."""
    _left_out.extend(item for item in items if item.get_closest_marker("services") is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out: silence would look like everything."""
    if _left_out:
        terminalreporter.write_line(f"left out: {len(_left_out)} tests that need servers; run `make services-test`")
