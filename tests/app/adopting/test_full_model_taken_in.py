"""``train --adopt``: the running trainer goes on from a model trained on the archive, killed anywhere meanwhile."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from dovetail.app.worker import assemble
from dovetail.features import load
from dovetail.platform.config.load import load_config
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.intake import WATERMARK_HEADER
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.trainer.models.checkpoint import CheckpointStore
from tests import forked
from tests.app.small_project import NOON_MS, at, exposure, request, write_project
from tests.app.test_trained_on_shards import TABLES, declared
from tests.cli.trained_project import call
from tests.seeds import SEEDS

MORTAL = Path(__file__).parent / "mortal_worker.py"
#: Requests of a wave, of three candidates each.
WAVE = 20
ROWS = 2 * WAVE * 3
HOUR_S = 3_600


def send(folder: Path, hour: int) -> None:
    """A wave of requests with what belongs to them, in its hour, and announcements that the hour is over."""
    start, over_us = hour * HOUR_S, NOON_MS * 1_000 + (hour + 1) * HOUR_S * 1_000_000
    numbers = range(hour * WAVE, (hour + 1) * WAVE)
    rows = {
        "behaviour": [{"user_id": "u", "event_time": at(start + n)} for n in range(5)],
        "requests": [request(f"r{n}", "u", [1, n % 7 + 2, n % 5 + 10], start + 30 + n) for n in numbers],
        "exposure": [exposure(f"r{n}", item, start + 31 + n) for n in numbers for item in (1, n % 7 + 2, n % 5 + 10)],
        "click": [
            {"request_id": f"r{n}", "user_id": "u", "item_id": n % 7 + 2, "event_time": at(start + 40 + n)}
            for n in numbers[::3]
        ],
    }
    topics = load_config(folder).topics()
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        for topic, values in rows.items():
            log.create_topic(topic, topics[topic])
            sent = [json.dumps(value).encode() for value in values]
            log.append([Outgoing(topic, value, partition=0, timestamp_ms=NOON_MS + start * 1_000) for value in sent])
            header = ((WATERMARK_HEADER, str(over_us).encode()),)
            log.append([Outgoing(topic, b"", partition=0, timestamp_ms=over_us // 1_000, headers=header)])


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose trainer has read two waves; a model trained after the first one waits for it."""
    folder = tmp_path_factory.mktemp("lived") / "project"
    write_project(folder, declared("").replace("[labels.order]\nblock_rows = 2\n", ""), {})
    (folder / "sql" / "tables.sql").write_text(TABLES)
    send(folder, 0)
    told = live(folder, 0)
    assert told is not None
    assert told["samples"] == ROWS // 2
    answer = call("train", "-p", folder, "--adopt")
    assert f"goes on from here, behind {ROWS // 2} samples" in answer["checkpoint"]
    waiting = folder / "state/checkpoints/first/handed-over.npz"
    waiting.rename(folder / "aside")
    send(folder, 1)
    told = live(folder, 0)
    assert told is not None
    assert told["samples"] == ROWS
    (folder / "aside").rename(waiting)
    return folder


def live(folder: Path, die_at: int) -> dict[str, Any] | None:
    """What is told of a life that went to its end; None of one that was killed."""
    result = folder / "result.json"
    code = forked.start([MORTAL, folder, result, str(die_at)]).wait(120)
    assert code in (0, -signal.SIGKILL)
    return None if code else json.loads(result.read_text())


def require_whole(folder: Path, told: dict[str, Any] | None) -> None:
    assert told is not None
    assert told["wrong"] == []
    assert told["accounts"] == {"read": ROWS, "trained": ROWS, "duplicate": 0}
    assert told["samples"] == ROWS
    latest = CheckpointStore(folder / "state/checkpoints/first").latest()
    assert latest is not None
    assert latest.progress.handed_over
    assert not list((folder / "state/checkpoints/first").glob("handed-over*"))


def test_killed_at_any_step_no_sample_counts_twice_and_none_is_lost(lived: Path, tmp_path: Path) -> None:
    undisturbed = shutil.copytree(lived, tmp_path / "undisturbed")
    with pytest.raises(ConfigError, match="a model that was handed over before waits here"):
        call("train", "-p", undisturbed, "--adopt")
    told = live(undisturbed, 0)
    require_whole(undisturbed, told)
    assert told is not None
    assert f"behind {ROWS} samples" in call("train", "-p", undisturbed, "--adopt", "--last-days", 2)["checkpoint"]
    steps = range(1, told["steps"] + 1)
    assert len(steps) > 5
    for die_at in random.Random(11).sample(steps, min(SEEDS, len(steps))):
        folder = shutil.copytree(lived, tmp_path / f"killed-{die_at}")
        assert live(folder, die_at) is None
        require_whole(folder, live(folder, 0))


def test_one_that_the_trainer_would_not_go_on_from_is_refused(lived: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lived, tmp_path / "project")
    where = ("-p", folder, "--adopt")
    with pytest.raises(
        ConfigError, match=r"trained with alpha = 0\.7, where the project has 0\.05\. Leave out .*--seed$"
    ):
        call("train", *where, "--set", "alpha=0.7")
    with pytest.raises(ConfigError, match=r"it was trained with adagrad, where the project has ftrl\. Leave out"):
        call("train", *where, "--optimizer", "adagrad")
    with pytest.raises(ConfigError, match="--seed is for a trainer without checkpoints, --adopt for one that has some"):
        call("train", *where, "--seed")
    with pytest.raises(ConfigError, match="hand this model over to it by --adopt"):
        call("train", "-p", folder, "--seed")
    assemble(load(folder)).stores.close()
