"""The run that the console's tests look at, made once in a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetail.console import vega_script
from tests.console.shown_run import make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("shown") / "run")


@pytest.fixture(scope="session", autouse=True)
def vega_is_made_once() -> Iterator[None]:
    """The script that draws charts takes seconds of a processor: consoles of one process of tests share it."""
    make, made = vega_script._made, dict[str, bytes]()

    async def kept() -> bytes:
        if sys.executable not in made:
            made[sys.executable] = await make()
        return made[sys.executable]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vega_script, "_made", kept)
        yield
