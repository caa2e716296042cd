"""The run that the console's tests look at, made once in a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console.shown_run import make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("shown") / "run")
