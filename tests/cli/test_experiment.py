"""``dovetail experiment`` and ``model promote``: arms from the archive, and a version that serves by verdict."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.reports.verdict_log import given_verdicts, kind_of_experiment
from dovetail.app.storage import open_stores
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from dovetail.trainer.models.publish import ModelDirectory
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
    with pytest.raises(ConfigError, match=r"no verdict that new is better \(undecided, click_rate .*--force"):
        call("model", "promote", "trial", "new", "--project", tried)
    with pytest.raises(ConfigError, match="nothing to promote"):
        call("model", "promote", "trial", "control", "--project", tried)
    with pytest.raises(ConfigError, match="its arms are control, new"):
        call("model", "promote", "trial", "old", "--project", tried)
    forced = call("model", "promote", "trial", "new", "--force", "--project", tried)
    assert forced == {"serving": 1, "pinned": True, "verdict": "undecided", "forced": True}


def declare(project: Path, *, control: str, new: str, label: int | None = None) -> None:
    """Other models of the arms; with ``label``, that of most samples of the control, and the other one of the arm."""
    arms = f'share = 0.5\nmodel = "{control}"', f'share = 0.5\nmodel = "{new}"'
    section = (
        EXPERIMENT.replace('share = 0.5\nmodel = "@1"', "NEW").replace("share = 0.5", arms[0]).replace("NEW", arms[1])
    )
    (project / "dovetail.toml").write_text(PROJECT + section, encoding="utf-8")
    if label is not None:
        file = project / ".dovetail/offline/samples/a.parquet"
        rows = pq.read_table(file)
        usual = np.where(rows["arm"].to_numpy(zero_copy_only=False) == "control", label, 1 - label)
        labels = pa.array(np.where(np.arange(len(usual)) % 7 == 0, 1 - usual, usual), pa.int8())
        pq.write_table(rows.set_column(rows.column_names.index("label"), "label", labels), file)


def rollback(project: Path, *more: str) -> Any:
    return call("model", "rollback", "--experiment", "trial", "--arm", "new", "--project", project, *more)


def test_what_serves_is_rolled_back_to_the_control_when_it_is_worse(tried: Path) -> None:
    call("train", "--project", tried, "--out", tried / ".dovetail/models/ranking")
    directory = ModelDirectory(tried / ".dovetail/models/ranking")
    declare(tried, control="@1", new="serving")
    with pytest.raises(ConfigError, match=r"no verdict that new is worse \(undecided, click_rate"):
        rollback(tried)
    declare(tried, control="@1", new="serving", label=0)
    with pytest.raises(ConfigError, match=r"no verdict that new is worse \(better, click_rate"):
        rollback(tried)
    assert directory.pinned is None
    declare(tried, control="@1", new="serving", label=1)
    assert rollback(tried) == {"serving": 1, "pinned": True, "verdict": "worse", "forced": False}
    assert directory.pinned == 1


def test_what_was_promoted_and_is_worse_is_taken_back(tried: Path) -> None:
    call("train", "--project", tried, "--out", tried / ".dovetail/models/ranking")
    directory = ModelDirectory(tried / ".dovetail/models/ranking")
    declare(tried, control="serving", new="@1", label=1)
    with pytest.raises(ConfigError, match=r"is scored by @1, which serves nobody else"):
        rollback(tried)
    call("model", "promote", "trial", "new", "--force", "--project", tried)
    assert rollback(tried) == {"serving": 2, "pinned": False, "verdict": "worse", "forced": False}
    assert directory.pinned is None
    directory.pin(1)
    declare(tried, control="@2", new="@1")
    assert "version 2, that of control" in show(
        "model", "rollback", "--experiment", "trial", "--arm", "new", "--project", tried
    )
    assert directory.pinned == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--experiment", "trial"), "by verdict: model rollback --experiment EXPERIMENT --arm ARM"),
        (("@1", "--experiment", "trial", "--arm", "new"), "without a model and --release"),
        (("@1", "--force"), "--force is of a verdict"),
        (("--experiment", "trial", "--arm", "control"), "compares new with its control control; there is no verdict"),
    ],
)
def test_a_rollback_by_verdict_says_what_it_needs(tried: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call("model", "rollback", *arguments, "--project", tried)


def test_a_control_of_elsewhere_is_not_rolled_back_to(tried: Path) -> None:
    declare(tried, control="elsewhere.onnx", new="serving", label=1)
    with pytest.raises(ConfigError, match=r"scored by elsewhere\.onnx, which is no version of the project's own model"):
        rollback(tried)


def test_an_unknown_experiment_is_named_beside_the_known(tried: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no experiment trail; dovetail\.toml declares: trial"):
        call("experiment", "trail", "--project", tried)
