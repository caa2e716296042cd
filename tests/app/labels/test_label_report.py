"""``dovetail join`` and ``dovetail audit`` over a kept run of the simulator, with every policy at once."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dovetail.cli.stored import audit, join, labels, quality
from dovetail.demo import run as demo
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.platform.errors import ConfigError
from dovetail.platform.stores.registry.store import Registry
from tests.app.quality.receiver import Receiver
from tests.places import ROOT

TARGETS = """
[labels.order]
block_rows = 32
max_delay = "6h"

[labels.targets.quick]
policy = "fast_emit"
window = "15m"
emit_after = ["1m", "5m"]
samples_topic = "quick"

[labels.targets.buys]
policy = "return_days"
window = "15m"
exposure = "exposure"
positive = "conversion"
days = [1]
samples_topic = "buys"
"""


BROKEN_RULE = """
[quality]
window = "6h"
warmup = 1
least_rows = 1
rules = [{ measure = "rows", limit = 1000, datasets = ["requests"] }]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with the state of a finished run in ``state``."""
    folder = tmp_path_factory.mktemp("project")
    log = simulate(SimulatorConfig(requests=40))
    shutil.copytree(ROOT / "sql", folder / "sql")
    text = (ROOT / "dovetail.toml").read_text(encoding="utf-8").replace(".dovetail", "state")
    text = re.sub(r'(?m)^window = "15m"', f'window = "{log.label_window_us}us"\ncorrections = "2h"', text)
    (folder / "dovetail.toml").write_text(text + TARGETS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "project_folder", lambda: folder)
        result = asyncio.run(demo.run_demo(log, folder / "state", on_progress=lambda _: None))
    assert result.passed, result.audit.unbalanced
    return folder


@pytest.mark.parametrize("target", ["", "quick", "buys"])
def test_batch_and_stream_make_the_same_samples(
    project: Path, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert join.run(project, str(tmp_path / "out"), target, compare=True, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["compared"] == {
        "compared": said["samples"], "only_batch": 0, "only_stream": 0, "columns": {}, "equal": True
    }  # fmt: skip
    assert said["samples"] > 20
    written = ds.dataset(tmp_path / "out", format="parquet", partitioning="hive").to_table()
    assert written.num_rows == said["samples"]
    emissions = set(written.column("emission").to_pylist())
    assert emissions >= {"": {"delayed"}, "quick": {"negative", "positive"}, "buys": {"aged"}}[target]


@pytest.mark.parametrize("target", ["", "quick", "buys"])
def test_the_audit_balances_and_names_keys(
    project: Path, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.run(project, target, tmp_path / "keys.parquet", as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["balanced"]
    assert all(check["holds"] for check in said["checks"])
    rows = pq.read_table(tmp_path / "keys.parquet")
    assert rows.num_rows == sum(line["rows"] for line in said["labels"])
    assert all(0 < len(line["keys"]) <= 3 for line in said["labels"])
    outcomes = {(line["what"], line["outcome"]) for line in said["labels"]}
    assert {("exposure", "duplicate"), ("snapshots", "unexposed")} <= outcomes


def test_a_lost_sample_is_named_and_both_commands_fail(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "project"
    shutil.copytree(project, broken)
    registry = Registry(f"sqlite:///{broken / 'state' / 'registry.sqlite'}")
    path = broken / "state" / "offline" / registry.files("samples")[0].path
    registry.close()
    rows = pq.read_table(path, partitioning=None)
    key = f"{rows['request_id'][0].as_py()}/{rows['item_id'][0].as_py()}"
    pq.write_table(rows.slice(1), path)
    assert audit.run(broken, "", None, as_json=False) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "audit FAILS" in said
    assert re.search(rf"1 lost, such as {key}", said)
    assert join.run(broken, None, "", compare=True, as_json=False) == 1
    assert "NOT the same as the stream's" in " ".join(capsys.readouterr().out.split())


def test_the_trainer_has_read_the_samples_in_repaired_order(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.run(project, "", None, as_json=True) == 0
    checks = {check["what"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["samples: ordered, and trained on"]["left"] >= 32


def test_people_are_told_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.run(project, "", None, as_json=False) == 0
    assert join.run(project, None, "", compare=True, as_json=False) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "audit holds" in said
    assert "the same as the stream's" in said


def test_delays_are_told_from_the_archive(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, Any] = {
        "since": "request",
        "slices": ["channel"],
        "windows_us": [60_000_000],
        "wanted": 0.9,
        "horizon_us": None,
    }
    assert labels.run(project, "", **asked, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    clicks = [kind for kind in said["kinds"] if kind["kind"] == "click"]
    assert clicks[0]["slice"] == ""
    assert clicks[0]["labels"] > 10
    assert clicks[0]["rows"] == sum(kind["rows"] for kind in clicks[1:])
    assert {window["window_us"] for window in clicks[0]["windows"]} >= {60_000_000, *said["declared_us"]}
    assert labels.run(project, "quick", **asked, as_json=False) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "how long labels take, from the request on" in shown
    assert "windows for 'click'" in shown
    assert "recommended is a window of" in shown
    asked["since"] = "exposure"
    assert labels.run(project, "", **asked, as_json=False) == 0
    assert "recommended" not in capsys.readouterr().out


def test_the_quality_of_the_archive_is_judged(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert quality.run(project, first=None, last=None, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["windows"]) == 1  # whole days of three
    assert said["alerts"] == []
    profiled = {(row["dataset"], row["column"]) for row in said["profiles"]}
    assert {("behaviour", "price"), ("snapshots", "channel"), ("samples", "category"), ("samples", "label")} <= profiled
    assert {("snapshots", "category"), ("behaviour", "event_time"), ("click", "request_id")}.isdisjoint(profiled)
    clicks = sum(row["rows"] for row in said["profiles"] if (row["dataset"], row["column"]) == ("click", "item_id"))
    assert clicks > 0
    other = project.parent / "judged"
    shutil.copytree(project, other)
    with Receiver() as receiver:
        broken = f'{BROKEN_RULE}webhook = "{receiver.url("hunter2")}"\n'
        (other / "dovetail.toml").write_text((project / "dovetail.toml").read_text(encoding="utf-8") + broken, "utf-8")
        assert quality.run(other, first=None, last=None, as_json=False) == 1
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    ((_, posted),) = receiver.received
    lines = [line for line in captured.err.splitlines() if " quality alert: dataset=" in line]
    assert len(lines) == len(posted["alerts"]) > 1
    assert ("rows", "requests") in {(alert["measure"], alert["dataset"]) for alert in posted["alerts"]}
    shown = " ".join(captured.out.split())
    assert f"webhook posted to {receiver.shown} in 1 attempt" in shown
    assert "quality FAILS" in shown
    assert "requests: " in shown
    assert "rows, " in shown
    with pytest.raises(ConfigError, match="no whole window of"):
        quality.run(project, first="2030-01-01", last=None, as_json=True)


def test_an_unknown_target_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"--target x: no such target in .*; there are: buys, quick"):
        join.run(project, None, "x", compare=False, as_json=True)
