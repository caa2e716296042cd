"""``dovetail --version`` names the installed version and nothing else."""

from __future__ import annotations

from typer.testing import CliRunner

from dovetail.cli.main import app
from dovetail.sdk import __version__


def test_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"], catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, f"dovetail {__version__}\n")
