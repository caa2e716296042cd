"""``dovetail train`` over a model's life: other inputs, the days that matter, requests that it never learns from."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.storage import open_stores
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.store import DataFile
from dovetail.trainer.models.checkpoint import CheckpointStore
from tests.cli.trained_project import PROJECT, archive, call, samples, show


def test_an_input_may_be_added_and_one_taken_away(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet")
    where = ("-p", project, project / "s.parquet", "--out", project / "m")
    assert "started_with" not in call("train", *where)
    declared = '{ column = "price", kind = "standardised" }'
    assert declared in PROJECT
    (project / "dovetail.toml").write_text(PROJECT.replace(declared, '{ column = "tier" }'), encoding="utf-8")
    told = call("train", *where, "--start", f"{project / 'm'}@1")
    assert told["started_with"] == {"kept": ["city", "city*tier"], "added": ["tier"], "removed": ["price"]}
    said = show("train", *where, "--start", f"{project / 'm'}@1")
    assert "kept city, city*tier; new tier; gone price" in " ".join(said.split())


def test_the_last_days_of_the_archive(project: Path) -> None:
    stores, files, table = open_stores(load_config(project)), [], samples()
    at = table.column_names.index("_partition")
    table = table.set_column(at, "_partition", pa.array([1] * 200 + [0] * 400, pa.int32()))  # 1 has old ones only
    for number, day in enumerate(("2024-10-04", "2024-10-05", "2024-10-06")):
        path = f"samples/day={day}/00000.parquet"
        stores.offline.write(path, table.slice(200 * number, 200))
        files.append(DataFile("samples", day, path, 200, int(number == 0), 20 * number, 20 * number + 19))
    stores.registry.commit("a.samples", 0, expected=0, progress=Progress(60), accounts=[], files=files)
    stores.close()
    where = ("-p", project, "--out", project / "m")
    newest = call("train", *where, "--last-days", 2)
    assert newest["samples"] == 400
    assert newest["metrics"] == call("train", *where, "--from-day", "2024-10-05")["metrics"]
    assert call("train", *where, "--last-days", 9)["samples"] == 600
    seeded = call("train", "-p", project, "--seed", "--last-days", 1)
    assert "behind 200 samples, and 400 that were left out" in seeded["checkpoint"]
    laid = CheckpointStore(project / ".dovetail/checkpoints/ranking").latest()
    assert laid is not None
    assert laid.progress.positions == {"samples": {0: 60, 1: 20}}
    counts = {(one.partition, one.outcome): one.rows for one in laid.progress.accounts}
    assert counts == {
        (0, "read"): 400, (0, "trained"): 200, (0, "left_out"): 200, (1, "read"): 200, (1, "left_out"): 200,
    }  # fmt: skip
    assert not any(balance(laid.progress.accounts).values())
    with pytest.raises(ConfigError, match="--last-days counts back from the end of the project's archive"):
        call("train", *where, "--last-days", 2, "--to-day", "2024-10-05")


def test_days_without_samples_are_said(project: Path) -> None:
    archive(project, "samples", samples())
    where = ("-p", project, "--out", project / "m")
    with pytest.raises(ConfigError, match="no sample is of the days that were chosen"):
        call("train", *where, "--from-day", "2030-01-01")
    with pytest.raises(ConfigError, match="--from-day 2024-10-06 is after --to-day 2024-10-04"):
        call("train", *where, "--from-day", "2024-10-06", "--to-day", "2024-10-04")
    assert not (project / "m").exists()


def test_positions_of_an_ordered_topic_are_not_guessed(project: Path) -> None:
    ordered = '[labels.order]\nblock_rows = 64\nmax_delay = "1h"\n'
    (project / "dovetail.toml").write_text(PROJECT + ordered, encoding="utf-8")
    archive(project, "samples", samples())
    with pytest.raises(ConfigError, match=r"with \[labels.order\] the worker trains on"):
        call("train", "-p", project, "--seed")


def test_what_is_held_out_is_told_apart(project: Path) -> None:
    pq.write_table(samples(), project / "s.parquet")
    held = PROJECT.replace("window = 100 }", "window = 100, holdout = 0.25 }")
    (project / "dovetail.toml").write_text(held, encoding="utf-8")
    trained = call("train", "-p", project, project / "s.parquet", "--out", project / "m")
    assert trained["samples"] == 600
    of_training = {scope: one["samples"] for scope, one in trained["groups"].items() if "holdout" in scope}
    groups = call("evaluate", "-p", project, project / "s.parquet", "-m", project / "m")["groups"]
    parts = {scope: one["samples"] for scope, one in groups.items() if scope.startswith("slice:holdout=")}
    assert sum(parts.values()) == 600
    assert of_training == parts
    assert 100 < parts["slice:holdout=held"] < 200
    (project / "dovetail.toml").write_text(held.replace('"tier"]', '"holdout"]'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"makes a column holdout, and the model reads one"):
        load_config(project)
