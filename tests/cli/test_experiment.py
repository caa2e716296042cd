"""``dovetail experiment`` and ``model promote``: arms from the archive, and a version that serves by verdict."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dovetail.app.reports.verdict_log import given_verdicts, kind_of_experiment
from dovetail.app.storage import open_stores
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from tests.cli.trained_project import PROJECT, archive, call, samples, show

EXPERIMENT = """
[experiments.trial]
by = "user_id"
min_users = 30
[experiments.trial.arms.control]
share = 0.5
[experiments.trial.arms.new]
share = 0.5
model = "@1"
"""


@pytest.fixture
def tried(tmp_path: Path) -> Path:
    """A project with version 1, and 600 samples of as many users."""
    (tmp_path / "dovetail.toml").write_text(PROJECT + EXPERIMENT, encoding="utf-8")
    rows = samples()
    new = np.arange(600) % 2 == 1
    draw = np.where(new, 0.5, 0.0) + np.arange(600) / 1_200
    for name, column in (("experiment", ["trial"] * 600), ("arm", np.where(new, "new", "control")), ("arm_draw", draw)):
        rows = rows.append_column(name, pa.array(column))
    archive(tmp_path, "samples", rows)
    call("train", "--project", tmp_path, "--out", tmp_path / ".dovetail" / "models" / "ranking")
    return tmp_path


def test_the_arms_are_shown(tried: Path) -> None:
    found = call("experiment", "--project", tried)
    assert [(arm["arm"], arm["users"], arm["samples"]) for arm in found["arms"]] == [
        ("control", 300, 300), ("new", 300, 300),
    ]  # fmt: skip
    assert [each["metric"] for each in found["differences"]] == ["click_rate", "log_loss", "gauc"]
    assert [each["verdict"] for each in found["differences"]] == ["undecided", "undecided", "too few users"]
    text = show("experiment", "trial", "--project", tried)
    assert "less control" in text
    assert "undecided" in text


def test_a_report_is_kept_for_the_console_unless_it_is_not_to_be(tried: Path) -> None:
    found = call("experiment", "--project", tried)
    call("experiment", "--no-log", "--project", tried)
    with closing(open_stores(load_config(tried), read_only=True)) as stores:
        (kept,) = given_verdicts(stores.registry, kind_of_experiment("trial"), 9)
        assert not kept.holds
        assert kept.report == found
        assert given_verdicts(stores.registry, kind_of_experiment("other"), 9) == []


def test_a_version_is_promoted_by_verdict_or_by_force(tried: Path) -> None:
    with pytest.raises(ConfigError, match=r"no verdict for new \(undecided, click_rate .*--force"):
        call("model", "promote", "trial", "new", "--project", tried)
    with pytest.raises(ConfigError, match="nothing to promote"):
        call("model", "promote", "trial", "control", "--project", tried)
    with pytest.raises(ConfigError, match="its arms are control, new"):
        call("model", "promote", "trial", "old", "--project", tried)
    forced = call("model", "promote", "trial", "new", "--force", "--project", tried)
    assert forced == {"serving": 1, "pinned": True, "verdict": "undecided", "forced": True}


def test_an_unknown_experiment_is_named_beside_the_known(tried: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no experiment trail; dovetail\.toml declares: trial"):
        call("experiment", "trail", "--project", tried)
