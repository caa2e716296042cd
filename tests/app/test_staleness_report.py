"""``dovetail staleness`` over stored samples of the simulator, as a program and as a person would call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dovetail.app.reports.staleness_report import known_after
from dovetail.cli.main import app
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.errors import ConfigError

PROJECT = """
name = "shop"
[streams.behaviour]
key = "user_id"
[labels]
window = "1h"
allowed_lateness = "5m"
streams = { exposure = {}, click = {} }
[model]
bits = 10
inputs = [{ column = "city" }]
optimizer = { alpha = 1.0 }
"""
HOUR = 3_600_000_000
DAY = 24 * HOUR


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with samples of three days in files of a day and a half; which city sells changes every 12 hours."""
    (tmp_path / "dovetail.toml").write_text(PROJECT, encoding="utf-8")
    rng = np.random.default_rng(1)
    n = 3_000
    times = 20_000 * DAY + np.arange(n) * (3 * DAY // n)
    city = rng.integers(0, 2, n)
    likely = np.where(city == times // (12 * HOUR) % 2, 0.7, 0.1)
    table = pa.table(
        {
            "request_id": [f"r{number // 5}" for number in range(n)],
            "request_time": pa.array(times, pa.timestamp("us")),
            "city": [f"c{c}" for c in city],
            "label": pa.array((rng.random(n) < likely).astype(np.int8)),
            "emission": ["delayed"] * n,
        }
    )
    (tmp_path / "samples").mkdir()
    for number, part in enumerate((table.slice(n // 2), table.slice(0, n // 2))):
        pq.write_table(part, tmp_path / "samples" / f"{number}.parquet")
    return tmp_path


TITLES = ("log-loss", "AUC", "GAUC", "calibration (Σp / Σy)")


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["staleness", *(str(a) for a in arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_older_model_loses_more(project: Path) -> None:
    asked = (project / "samples", "-p", project, "--every", "10m", "--age", "6h", "--age", "10m")
    found: dict[str, Any] = json.loads(call(*asked, "--json"))
    young, old = found["ages"]
    assert (young["age_us"], old["age_us"]) == (HOUR // 6, 6 * HOUR)
    assert young["metrics"]["samples"] == old["metrics"]["samples"]
    # Known after 1 h 5 min, with a version every 10 minutes.
    assert found["first_us"] == 20_000 * DAY + HOUR + HOUR // 6 + 6 * HOUR
    assert old["metrics"]["log_loss"] > 1.02 * young["metrics"]["log_loss"]
    assert old["metrics"]["ranking"]["requests"] == young["metrics"]["ranking"]["requests"] > 100
    plot = project / "ages.html"
    shown = call(*asked, "--plot", plot)
    assert "loss by the age of the model" in shown
    assert "worse by" in shown
    assert all(f">{title}</text>" in plot.read_text(encoding="utf-8") for title in TITLES)


def test_usual_ages_are_those_there_are_samples_for(project: Path) -> None:
    asked = (project / "samples", "-p", project, "--every", "1h", "--from-day", "2024-10-05", "--to-day", "2024-10-05")
    found = json.loads(call(*asked, "--json"))
    assert [each["age_us"] for each in found["ages"]] == [
        HOUR // 60, HOUR // 12, HOUR // 4, HOUR, 3 * HOUR, 6 * HOUR,
    ]  # fmt: skip
    assert found["last_us"] < 20_002 * DAY


def test_a_sample_is_known_when_its_policy_has_looked() -> None:
    minute, late = HOUR // 60, 7

    def waits(emissions: list[str], **policy: Any) -> list[int]:
        table = pa.table({"emission": emissions, "elapsed_days": pa.array([3] * len(emissions), pa.int16())})
        return list(known_after(PolicyConfig.model_validate(policy), late)(table))

    assert waits(["delayed", "unexposed", "correction"], window="1h", corrections="1h") == [
        HOUR + late, HOUR + late, 2 * HOUR + late,
    ]  # fmt: skip
    fast = {"policy": "fast_emit", "window": "1h", "emit_after": ["1m", "5m"]}
    assert waits(["negative", "positive"], **fast) == [minute + late, HOUR + late]
    assert waits(["aged"], policy="return_days", window="1h", days=[1, 3]) == [3 * DAY + late]
    plain = known_after(PolicyConfig.model_validate({"window": "1h"}), late)
    assert plain(pa.table({"label": [1]})).tolist() == [HOUR + late]


def test_refusals(project: Path) -> None:
    options = ("-p", project)
    with pytest.raises(ConfigError, match="--age: 'soon' is not a duration"):
        call(*options, "--age", "soon")
    with pytest.raises(ConfigError, match="the project has no archived samples yet"):
        call(*options)
    with pytest.raises(ConfigError, match="there are no samples of these days"):
        call(project / "samples", *options, "--from-day", "2030-01-01")
    text = (project / "dovetail.toml").read_text(encoding="utf-8")
    (project / "dovetail.toml").write_text(text.partition("[model]")[0], encoding="utf-8")
    with pytest.raises(ConfigError, match=r"dovetail.toml has no \[model\]"):
        call(project / "samples", *options)
