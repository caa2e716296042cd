"""Shared by all tests: helper modules beside the tests, hypothesis profiles, where the recorded logs are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
for folder in ("platform", "joiners"):
    sys.path.insert(0, str(TESTS / folder))

settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def recorded_logs() -> Path:
    """The folder of recorded logs; tests that need it are skipped where it is not."""
    folder = TESTS.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the recorded logs are not here (they are not part of the repository)")
    return folder
