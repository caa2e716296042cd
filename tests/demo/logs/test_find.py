from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.demo.logs.find import find_log
from dovetail.platform.errors import ConfigError


def test_layout_tells_the_loader(obd_folder: Path, jd_folder: Path) -> None:
    assert find_log(obd_folder).name == "open-bandit"
    assert find_log(str(jd_folder)).name == "jd"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; give the folder of a data set"):
        find_log(tmp_path / "nowhere")


def test_unknown_folder_is_refused_with_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no known log; expected the Open Bandit data .* or the JD data"):
        find_log(tmp_path)


def test_incomplete_data_set_is_recognised_and_refused(tmp_path: Path) -> None:
    (tmp_path / "bo_action.parquet").touch()
    with pytest.raises(ConfigError, match="the JD data lacks bo_user"):
        find_log(tmp_path)
