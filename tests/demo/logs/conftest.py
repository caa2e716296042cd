"""The logs under test, loaded once, and the place of the public data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.demo.logs.jd import load_jd
from dovetail.demo.logs.obd import load_obd
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.demo.logs.simulator import simulate
from tests.places import ROOT

DATA = ROOT.parent / "shared" / "data"


def _data_set(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not here")
    return folder


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def obd_folder() -> Path:
    return _data_set("obd-40k")


@pytest.fixture(scope="session")
def jd_folder() -> Path:
    return _data_set("jd-actions-89k")


@pytest.fixture(scope="session")
def simulated() -> RecordedLog:
    return simulate()


@pytest.fixture(scope="session")
def obd(obd_folder: Path) -> RecordedLog:
    return load_obd(obd_folder)


@pytest.fixture(scope="session")
def jd(jd_folder: Path) -> RecordedLog:
    return load_jd(jd_folder)


@pytest.fixture(params=["simulated", "obd", "jd"])
def log(request: pytest.FixtureRequest) -> RecordedLog:
    """Each log in turn."""
    value: RecordedLog = request.getfixturevalue(request.param)
    return value
