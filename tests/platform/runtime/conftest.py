"""Where a runtime's log is, and silence about crashes that are meant."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    # A crash is logged by every service it takes down.
    with caplog.at_level(logging.CRITICAL):
        yield
