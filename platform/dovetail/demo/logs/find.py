"""Finds the loader that fits a folder."""

from __future__ import annotations

from pathlib import Path

from dovetail.demo.logs.jd import is_jd, load_jd
from dovetail.demo.logs.obd import is_obd, load_obd
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.platform.errors import ConfigError

__all__ = ["find_log"]


def find_log(path: str | Path) -> RecordedLog:
    """The log in the folder ``path``, told by the files it holds.

    Raises:
        ConfigError: no such folder, no known data set in it, or one that lacks files.
        WireError: a file is not what its name says.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder of a data set, or no --data for the simulator")
    if is_obd(folder):
        return load_obd(folder)
    if is_jd(folder):
        return load_jd(folder)
    raise ConfigError(
        f"{folder}: no known log; expected the Open Bandit data (bts/men/men.csv, …) or the JD data "
        "(bo_action.parquet, …); docs/demo-logs.md says where to get them"
    )
