"""The demo as a user runs it, on the simulator and on recorded logs: verdicts, JSON, samples as DuckDB makes them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.app.jobs import served_rows
from dovetail.app.storage import Stores, load_table, open_stores
from dovetail.demo.shipped import project_folder
from dovetail.features import Project, load
from dovetail.features.batch.point_in_time import evaluate_feature_set
from dovetail.features.plan.request import flatten_requests
from dovetail.features.stored.consistency import equal_bits
from dovetail.joiners.batch.join import join_samples
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.config.load import load_config
from tests import forked
from tests.e2e.shortened import replayed
from tests.places import ROOT

DOVETAIL = Path(sys.executable).parent / "dovetail"
LOGS = ("simulator", "obd-40k", "jd-actions-89k")
KEYS = ["request_id", "item_id"]
#: The windows and lateness the demo takes for each log.
SETTINGS: dict[str, dict[str, Any]] = {
    "simulator": {"labels": {"window": "15m"}},
    "obd-40k": {"labels": {"window": "5m"}},
    "jd-actions-89k": {"labels": {"window": "1h"}, "streams": {"behaviour": {"allowed_lateness": "6h"}}},
}


@dataclass(frozen=True)
class Run:
    """A finished demo: what it wrote, and its stores opened again."""

    log: str
    said: str
    result: dict[str, Any]
    project: Project
    stores: Stores

    def dataset(self, name: str) -> pa.Table:
        return read_dataset(self.stores.registry, self.stores.offline, name)

    def events(self) -> dict[str, pa.Table]:
        return {name: self.dataset(name) for name in self.project.streams}


def dovetail(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return forked.run([DOVETAIL, *arguments], cwd=ROOT, env={**os.environ, **environment}, timeout=600)


@pytest.fixture(scope="module", params=LOGS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    log: str = request.param
    folder = tmp_path_factory.mktemp(log)
    arguments = ["demo", "--keep", str(folder / "keep"), "--json", str(folder / "result.json")]
    if log == "simulator":
        arguments += ["--requests", "300"]
    else:
        arguments += ["--data", str(replayed(request.getfixturevalue("recorded_logs") / log, folder / "log"))]
    done = dovetail(*arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    project = load(
        project_folder(),
        storage={"state": str(folder / "keep")},
        tables={"item": {"path": str(folder / "keep" / "item.parquet")}},
        **SETTINGS[log],
    )
    return Run(log, done.stdout, json.loads((folder / "result.json").read_text()), project, open_stores(project.config))


def test_the_result_has_everything_a_program_may_want(run: Run) -> None:
    result = run.result
    assert result["consistency"]["compared"] > 0
    assert result["consistency"]["mismatched"] == 0
    assert result["audit"]["balanced"] is True
    assert {stage["stage"] for stage in result["audit"]["stages"]} >= {"samples", "snapshots", "trainer"}
    for name in ("events", "requests", "snapshot_rows", "labels", "samples", "positives"):
        assert isinstance(result[name], int)
        assert result[name] > 0, name
    for name in ("log_loss", "auc", "normalized_entropy", "calibration", "seconds"):
        assert isinstance(result[name], float), name


@pytest.mark.parametrize("run", ["simulator"], indirect=True)
def test_the_readme_quotes_what_a_run_says(run: Run) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = re.search(r"`dovetail demo --requests 300` ends like this:\n\n```text\n(.*?)```", readme, re.DOTALL)
    assert quoted is not None
    assert f"\n{quoted[1]}seconds " in run.said


def test_what_was_late_in_the_log_is_reported_as_late(run: Run) -> None:
    assert (run.result["consistency"]["late"] > 0) == (run.log == "simulator")


def oracle_keys_and_labels(run: Run) -> pa.Table:
    """Keys and labels from the archived requests and labels alone."""
    labels = run.project.config.labels
    candidates = flatten_requests(run.dataset("requests"))
    # The `delayed` policy weighs nothing by the score.
    candidates = candidates.append_column("score", pa.nulls(candidates.num_rows, pa.float32()))
    logs = {kind: run.dataset(kind) for kind in labels.streams if run.dataset(kind).num_rows}
    joined = join_samples(
        candidates, logs, labels, allowed_lateness_us=labels.allowed_lateness, early_us=labels.early_us
    )
    return joined.drop_columns(["_lane", "_at"])


def by_key(rows: pa.Table) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in KEYS])


def test_the_streams_samples_have_the_keys_and_labels_of_one_query_over_the_logs(run: Run) -> None:
    made, expected = by_key(run.dataset("samples")), by_key(oracle_keys_and_labels(run))
    assert made.num_rows == expected.num_rows == run.result["samples"]
    for name in expected.column_names:
        assert equal_bits(made.column(name), expected.column(name).cast(made.schema.field(name).type)).all(), name


def test_the_streams_samples_have_the_features_that_duckdb_computes_from_the_logs(run: Run) -> None:
    """Where nothing was late, from events and requests alone; else with what each request could see."""
    samples = by_key(run.dataset("samples"))
    wanted = samples.select(KEYS)
    tables = partial(load_table, run.project.config)
    if run.result["consistency"]["late"]:
        requests = served_rows(run.project.feature_set, run.dataset("snapshots"))
        visibility = "as_served"
    else:
        requests = flatten_requests(run.dataset("requests"))
        visibility = "event_time"
    at = pa.array(range(requests.num_rows), pa.int64())
    chosen = requests.select(KEYS).append_column("at", at).join(wanted, keys=KEYS, join_type="left semi")
    requests = by_key(requests.take(chosen.column("at").combine_chunks()))
    features = evaluate_feature_set(
        run.project,
        run.project.feature_set,
        requests,
        run.events(),
        tables,
        visibility=visibility,  # type: ignore[arg-type]
    )
    assert features.num_rows == samples.num_rows
    for column in run.project.feature_set.columns:
        assert equal_bits(samples.column(column.name), features.column(column.name)).all(), column.name


@pytest.mark.parametrize("run", ["simulator"], indirect=True)
def test_going_on_from_a_finished_run_changes_nothing(run: Run) -> None:
    """And what it says fits a terminal of 80 columns."""
    before = run.dataset("samples")
    keep = run.project.config.storage.state
    result = keep.parent / "again.json"
    terminal = {"COLUMNS": "80", "FORCE_COLOR": "1"}
    done = dovetail("demo", "--requests", "300", "--keep", str(keep), "--json", str(result), **terminal)
    assert done.returncode == 0, done.stderr
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in done.stdout
    assert any(re.match(r"snapshots\.candidates +requests +30,000 +0 +snapshotted 30,000 *$", line) for line in lines)
    again = json.loads(result.read_text())
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in run.result.items() if k != "seconds"}
    assert run.dataset("samples").equals(before)


@pytest.mark.parametrize("run", ["simulator"], indirect=True)
def test_a_folder_of_another_run_is_refused(run: Run) -> None:
    done = dovetail("demo", "--requests", "301", "--keep", str(run.project.config.storage.state))
    assert done.returncode == 2
    assert "holds a run of" in done.stderr.replace("\n", " ")


def test_a_folder_that_is_no_demos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    done = dovetail("demo", "--keep", str(tmp_path))
    assert done.returncode == 2
    assert "not empty and not a demo's folder" in done.stderr.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--data", "no-such-folder"], "no such folder"),
        (["demo", "--data", "tests", "--seed", "3"], "--requests and --seed are for the simulator"),
        (["demo", "--requests", "0"], "Invalid value for '--requests'"),
        (["check", "-p", "no-such-project"], "no such file; run `dovetail init DIR`"),
        (["worker", "--agents", "feature"], "there is no agent 'feature'"),
        (["no-such-command"], "No such command"),
    ],
)
def test_misuse_exits_with_2_and_says_what_to_do(arguments: list[str], message: str) -> None:
    done = dovetail(*arguments, COLUMNS="200")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_bad_definition_stops_the_worker_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    for source in (project_folder() / "sql").glob("*.sql"):
        text = source.read_text()
        if source.name == "item_stats.sql":
            text = text.replace("min(price)", "min(prise)")
        (tmp_path / "sql" / source.name).write_text(text)
    (tmp_path / "dovetail.toml").write_text((project_folder() / "dovetail.toml").read_text())
    done = dovetail("worker", "-p", str(tmp_path))
    assert done.returncode == 2
    said = done.stderr.replace("\n", " ")
    assert "item_stats.sql:" in said
    assert "did you mean price?" in said
    assert not (tmp_path / ".dovetail").exists()


def test_a_bad_config_stops_the_worker_before_anything_starts(tmp_path: Path) -> None:
    text = (project_folder() / "dovetail.toml").read_text().replace("publish_every", "publish_evry")
    (tmp_path / "dovetail.toml").write_text(text)
    done = dovetail("worker", "-p", str(tmp_path))
    assert done.returncode == 2
    assert "model.publish_evry: unknown key 'publish_evry'; did you mean 'publish_every'?" in done.stderr.replace(
        "\n", " "
    )
    assert not (tmp_path / ".dovetail").exists()


def test_a_new_project_is_a_good_one_and_an_old_one_is_not_overwritten(tmp_path: Path) -> None:
    assert dovetail("init", str(tmp_path / "new")).returncode == 0
    assert dovetail("check", "-p", str(tmp_path / "new")).returncode == 0
    before = (tmp_path / "new" / "dovetail.toml").stat().st_mtime_ns
    again = dovetail("init", str(tmp_path / "new"))
    assert again.returncode == 2
    assert "exists; choose another folder" in again.stderr.replace("\n", " ")
    assert (tmp_path / "new" / "dovetail.toml").stat().st_mtime_ns == before


def test_check_lists_every_definition() -> None:
    done = dovetail("check", "-p", str(project_folder()), "--json")
    assert done.returncode == 0, done.stderr
    kinds = {entry["name"]: entry["kind"] for entry in json.loads(done.stdout)}
    assert kinds == {
        "user_activity": "streaming", "item_stats": "streaming", "item_profile": "batch", "ranking": "feature set",
    }  # fmt: skip
    assert load_config(project_folder()).request.feature_set == "ranking"
