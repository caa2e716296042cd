"""A command that cannot draw what it is asked to says so before it computes anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dovetail.cli.main import app
from dovetail.platform.errors import ConfigError


def asked(arguments: tuple[str, ...], nowhere: Path, plot: Path) -> None:
    """There is neither a project nor a sample, which the command would come to first were it to compute."""
    CliRunner().invoke(app, [*arguments, "-p", str(nowhere), "--plot", str(plot)], catch_exceptions=False)


@pytest.mark.parametrize(
    "arguments",
    [("evaluate", "none"), ("staleness", "none"), ("model", "compare", "none"), ("model", "compare", "--live")],
    ids=" ".join,
)
def test_what_a_plot_needs_is_looked_for_first(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=r"plots are written as"):
        asked(arguments, nowhere, tmp_path / "x.pdf")
    with pytest.raises(ConfigError, match=r"there is no folder"):
        asked(arguments, nowhere, nowhere / "x.svg")
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ConfigError, match=r"x.svg: a plot needs vl_convert.*dovetail-samples\[plots\]"):
        asked(arguments, nowhere, tmp_path / "x.svg")
