"""A demo ends with a command that shows its run in a browser, as it can be typed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from dovetail.cli.demo import _looking
from tests.command_lines import parsed
from tests.places import ROOT


@pytest.mark.parametrize("called", ["dovetail", "/opt/with space/dovetail", "/usr/bin/python"])
def test_the_command_opens_the_run_that_was_kept(called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called, "demo"])
    program, *words = shlex.split(_looking(Path("my runs/demo")))
    assert Path(program).name == "dovetail"
    name, parameters = parsed(words)
    assert (name, parameters["kept"]) == ("console", Path("my runs/demo"))


def test_make_demo_keeps_its_run() -> None:
    (recipe,) = [line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if "/dovetail demo" in line]
    words = shlex.split(recipe.partition("$(if")[0])
    assert parsed(words[1:])[1]["keep"] == Path(".dovetail/demo")
