"""The stored world, for commands over stored rows, and a project with a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.trained_project import PROJECT
from tests.features.stored.conftest import world

__all__ = ["world"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dovetail.toml").write_text(PROJECT, encoding="utf-8")
    return tmp_path
