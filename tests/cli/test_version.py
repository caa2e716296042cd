"""``dovetail --version`` names the installed version and nothing else."""

from __future__ import annotations

import atexit
import gc
import sys

import pytest
from typer.testing import CliRunner

from dovetail.cli.main import app, main
from dovetail.sdk import __version__


def test_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"], catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, f"dovetail {__version__}\n")


def test_a_process_that_ends_does_not_look_for_garbage_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go through all that has been imported: a tenth of a short command's time."""
    at_the_end: list[object] = []
    monkeypatch.setattr(atexit, "register", at_the_end.append)
    monkeypatch.setattr(sys, "argv", ["dovetail", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert gc.freeze in at_the_end
