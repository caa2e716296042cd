"""A view on a re-keyed stream, through the whole worker: the same samples as on the stream itself, and all accounts."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dovetail.app.storage import open_stores
from dovetail.app.worker import assemble, features_of
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import DemoResult, run_demo
from dovetail.demo.shipped import project_folder
from dovetail.features import load
from dovetail.features.plan.request import flatten_requests
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.errors import ConfigError

REKEYED = {"behaviour_by_item": {"stream": "behaviour", "key": "item_id", "partitions": 3}}
SLICE_US = 90 * 60_000_000
KEYS = [("request_id", "ascending"), ("item_id", "ascending")]


def rekeyed(folder: Path) -> dict[str, Any]:
    """What makes the demo's project read ``item_stats`` from a re-keyed stream."""
    shutil.copytree(project_folder() / "sql", folder / "sql")
    view = folder / "sql" / "item_stats.sql"
    text = view.read_text()
    assert text.count("FROM behaviour\n") == 1
    view.write_text(text.replace("FROM behaviour\n", "FROM behaviour_by_item\n"))
    return {"sql": str((folder / "sql").absolute()), "rekeyed": REKEYED}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, DemoResult]]:
    log = replace(simulate(SimulatorConfig(requests=200, seed=5)), slice_us=SLICE_US)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("plain", "rekeyed")}
    overrides: dict[str, dict[str, Any]] = {"plain": {}, "rekeyed": rekeyed(folders["rekeyed"])}
    return {
        name: (
            folder / "keep",
            asyncio.run(run_demo(log, folder / "keep", on_progress=lambda _: None, overrides=overrides[name])),
        )
        for name, folder in folders.items()
    }


def test_samples_do_not_depend_on_how_the_stream_is_partitioned(runs: dict[str, tuple[Path, DemoResult]]) -> None:
    tables = []
    for keep, _ in runs.values():
        project = load(project_folder(), storage={"state": str(keep.absolute())})
        stores = open_stores(project.config)
        table = read_dataset(stores.registry, stores.offline, "samples").sort_by(KEYS)
        stores.close()
        features = list(project.feature_set.schema.names)
        tables.append(table.select([*features, "label"]).combine_chunks())
    plain, other = tables
    assert plain.num_rows > 500
    assert plain.equals(other)


def test_everything_served_is_recomputed_from_the_re_keyed_archive(runs: dict[str, tuple[Path, DemoResult]]) -> None:
    _, result = runs["rekeyed"]
    assert result.consistency.mismatched == 0
    item_views = [f for f in result.consistency.features if f.feature == "item_views_log_1h"]
    assert item_views[0].compared > 0
    assert result.passed
    accounts = {stage.stage: stage for stage in result.audit.stages}
    events = accounts["archive.behaviour"].outcomes["archived"]
    assert accounts["rekey.behaviour_by_item"].outcomes["rekeyed"] == events
    assert accounts["archive.behaviour_by_item"].outcomes["archived"] == events
    assert accounts["features.item_stats"].read == events
    assert "re-keyed, and archived as behaviour_by_item" in " ".join(check.what for check in result.audit.checks)
    assert result.summary["events"] == events


def test_a_view_of_a_re_keyed_stream_gets_its_past_from_the_archive_of_it(
    runs: dict[str, tuple[Path, DemoResult]],
) -> None:
    keep, _ = runs["rekeyed"]
    # As in the run: state reaches back a slice, and with another lateness it would be another state.
    streams = {"behaviour": {"allowed_lateness": f"{SLICE_US}us"}}
    overrides = {"sql": str(keep.parent / "sql"), "rekeyed": REKEYED, "streams": streams}
    project = load(project_folder(), storage={"state": str(keep.absolute())}, **overrides)
    stores = open_stores(project.config)
    requests = read_dataset(stores.registry, stores.offline, "requests")
    asked = flatten_requests(requests.sort_by([("request_time", "descending")]).slice(0, 20))
    features, view = features_of(project, stores), project.stream_views["item_stats"]
    before = features.serve(asked)
    assert before.answerable.any()
    result = bootstrap(view, stores.registry, stores.offline, stores.online, replace_existing=True)
    after = features.serve(asked)
    stores.close()
    assert before.features.equals(after.features)
    assert before.seen == after.seen
    assert list(result.positions) == ["behaviour_by_item"]


def test_re_keying_is_a_role_of_its_own(tmp_path: Path) -> None:
    overrides = rekeyed(tmp_path)
    state = {"storage": {"state": str(tmp_path / "state")}}
    worker = assemble(load(project_folder(), **overrides, **state), roles=["rekey"])
    assert list(worker.stages) == ["rekey.behaviour_by_item"]
    worker.stores.close()
    with pytest.raises(ConfigError, match=r"--agents: rekey needs a \[rekeyed.NAME\] section"):
        assemble(load(project_folder(), **state), roles=["rekey"])
