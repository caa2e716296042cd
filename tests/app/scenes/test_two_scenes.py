"""Two scenes over the same events: one state of each view, and samples, a model and verdicts of each scene's own."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.app.reports.archived import archived_snapshots
from dovetail.app.worker import assemble
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.features import load
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.rows.accounts import READ
from tests import forked
from tests.app.replay import mortal_replay
from tests.app.scenes.both_judged import Ended, judged
from tests.app.scenes.two_scenes import small_log, write_scenes
from tests.seeds import SEEDS

MORTAL = Path(mortal_replay.__file__)
#: What depends on how far the model was when a request came.
SCORED = ("score", "model_version")


def lived(folder: Path, rng: random.Random, steps: int = 0) -> Ended:
    """The samples of a replay that, if it has ``steps``, is killed three times at random ones; all verdicts hold."""
    for die_at in [*(rng.randrange(1, steps) for _ in range(3 if steps else 0)), 0]:
        output = folder.parent / "log"
        with output.open("wb") as there:
            process = forked.start([MORTAL, folder, str(die_at), "60"], stdout=there, stderr=subprocess.STDOUT)
        assert process.wait(600) in (0, -signal.SIGKILL), output.read_text()[-4_000:]
    return judged(folder)


@pytest.fixture(scope="module")
def log() -> RecordedLog:
    return small_log()


@pytest.fixture(scope="module")
def undisturbed(log: RecordedLog, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended, set[str], set[str]]:
    folder = tmp_path_factory.mktemp("two") / "scenes"
    folder.mkdir()
    shop, feed = write_scenes(folder, log)
    return folder, lived(folder, random.Random(0)), shop, feed


def states(folder: Path) -> dict[tuple[str, bytes, int], bytes]:
    """The states of views that the online store keeps, by view, key and partition."""
    with closing(sqlite3.connect(folder / ".dovetail" / "online_store.sqlite")) as store:
        rows = store.execute('SELECT "view", "key", partition, state FROM feature_state')
        return {(view, key, partition): state for view, key, partition, state in rows}


def ids(rows: pa.Table) -> set[str]:
    return set(rows.column("request_id").to_pylist())


@pytest.mark.slow
def test_each_scene_has_the_samples_of_its_requests(undisturbed: tuple[Path, Ended, set[str], set[str]]) -> None:
    folder, samples, shop, feed = undisturbed
    project = load(folder)
    worker = assemble(project)
    try:
        assert ids(archived_snapshots(worker.stores)) == shop
        assert ids(archived_snapshots(worker.stores, scene="feed")) == feed
        assert ids(samples["."]) <= shop
        assert ids(samples["feed."]) | ids(samples["feed.bought"]) <= feed
        assert {"clicks", "rank", "brand"} <= set(samples["feed."].column_names)
        assert "affinity" in samples["."].column_names
        assert min(rows.num_rows for rows in samples.values()) > 100
        assert samples["feed."].column("brand").null_count < samples["feed."].num_rows
    finally:
        worker.stores.close()


@pytest.mark.slow
def test_the_state_of_a_view_is_kept_once(
    undisturbed: tuple[Path, Ended, set[str], set[str]], log: RecordedLog
) -> None:
    folder, _, _, _ = undisturbed
    project = load(folder)
    worker = assemble(project)
    try:
        events = read_dataset(worker.stores.registry, worker.stores.offline, "behaviour")
        assert events.num_rows == log.events.num_rows
        messages = {p: at.next_offset for p, at in worker.stores.registry.progress("archive.behaviour").items()}
        for view in ("user_activity", "item_stats"):
            assert {p: at.next_offset for p, at in worker.stores.online.progress(view).items()} == messages
        read = Counter[str]()
        for one in worker.accounts():
            if one.stage.startswith("features.") and one.outcome == READ:
                read[one.stage] += one.rows
        assert read == dict.fromkeys(("features.user_activity", "features.item_stats"), log.events.num_rows)
        users = set(log.events.column("user_id").to_pylist())
        assert [key[0] for key in states(folder)].count("user_activity") == len(users)
        names = set(worker.stages)
        assert {"snapshots", "snapshots.feed", "samples.feed", "samples.feed.1", "samples.feed.bought"} <= names
        assert {"trainer", "trainer.feed"} <= names
    finally:
        worker.stores.close()


@pytest.mark.slow
def test_a_scene_changes_nothing_for_the_one_without_a_name(
    undisturbed: tuple[Path, Ended, set[str], set[str]], log: RecordedLog, tmp_path: Path
) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    write_scenes(folder, log, feed=False)
    alone = lived(folder, random.Random(0))
    assert states(folder) == states(undisturbed[0])
    assert list(alone) == ["."]
    with_feed = undisturbed[1]["."]
    assert alone["."].drop_columns(list(SCORED)).equals(with_feed.drop_columns(list(SCORED)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_random_moments_both_scenes_end_as_if_they_had_not_been(
    tmp_path: Path, seed: int, undisturbed: tuple[Path, Ended, set[str], set[str]], log: RecordedLog
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    write_scenes(folder, log)
    steps = int((undisturbed[0] / "steps").read_text())
    killed = lived(folder, random.Random(seed), steps)
    assert list(killed) == list(undisturbed[1])
    for name, samples in undisturbed[1].items():
        differing = [c for c in samples.column_names if not samples.column(c).equals(killed[name].column(c))]
        assert differing == []
