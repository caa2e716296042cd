"""Shared by all tests: helper modules beside the tests, real servers, hypothesis profiles, the recorded logs."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from tests.generated import load_profile
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

load_profile()
# Typer's runner makes the command of an app anew at each call, in 0.05 s: the same one, of hundreds of calls.
vars(typer.testing)["_get_command"] = cache(typer.main.get_command)


@pytest.fixture(scope="session")
def recorded_logs() -> Path:
    """The folder of recorded logs; tests that need it are skipped where it is not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the recorded logs are not here (they are not part of the repository)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: with several processes, one that begins last would be waited for at the end."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Spare what was imported and collected, two million objects: no test looks for garbage in it.

    Not where tests run on servers: a client's connection that is garbage is to be found by the test that left it.
    """
    if "DOVETAIL_TEST_SERVICES" not in os.environ:
        gc.collect()
        gc.freeze()


#: Tests left out because they need servers, of this process, or with several processes of each of them.
_left_out: list[int] = [0]


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember how many tests were left out because they need servers."""
    _left_out[0] += sum(item.get_closest_marker("services") is not None for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In one of several processes: tell the first."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = _left_out[0]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the first of several processes: each of the others has collected all tests."""
    _left_out.append(getattr(node, "workeroutput", {}).get("left_out", 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out: silence would look like everything."""
    if number := max(_left_out):
        terminalreporter.write_line(f"left out: {number} tests that need servers; run `make services-test`")
