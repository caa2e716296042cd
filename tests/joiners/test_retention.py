"""Label rows stay for as long as a request is not answered, however far the labels are ahead of the requests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.joiners.label_agent import label_scope
from dovetail.joiners.progress import retire_labels
from dovetail.joiners.snapshot_agent import SNAPSHOT_SCOPE
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.rows.accounts import READ
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.labels import LABEL_ROWS
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.labels import SqlLabelStore
from tests.places import ROOT

HOUR_US = 3_600_000_000
T0_US = 1_704_110_400_000_000


@pytest.fixture
def config() -> Config:
    return load_config(ROOT, labels={"retention": "1h"}, request={"partitions": 2})


@pytest.fixture
def store(config: Config, tmp_path: Path) -> SqlLabelStore:
    """Ten exposures, one an hour, and all label partitions read far beyond them."""
    found = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    ahead = Progress(100, watermark_us=T0_US + 1_000 * HOUR_US)
    times = [T0_US + hour * HOUR_US for hour in range(10)]
    names = [f"r{hour}" for hour in range(10)]
    columns = [names, ["i"] * 10, ["exposure"] * 10, times, times, [0] * 10, list(range(10)), [0] * 10]
    rows = pa.table([pa.array(c, f.type) for c, f in zip(columns, LABEL_ROWS, strict=True)], schema=LABEL_ROWS)
    for kind, stream in config.labels.streams.items():
        for partition in range(stream.partitions):
            mine = rows if (kind, partition) == ("exposure", 0) else rows.slice(0, 0)
            found.insert(label_scope(kind), partition, expected=0, progress=ahead, rows=mine, topic=kind)
    return found


def left(config: Config, store: SqlLabelStore, registry: Registry) -> int:
    """Rows that have not been retired, when each request partition ends at offset 5 and no snapshot waits."""
    ends = {config.request.topic: 5, config.request.snapshots_topic: 0}
    retire_labels(config, store, registry, lambda topic, _number: ends[topic])
    return 10 - sum(a.rows for a in store.accounts() if a.stage == "labels.exposure.retired" and a.outcome == READ)


def test_labels_wait_for_requests_that_are_not_answered(config: Config, store: SqlLabelStore, tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")

    def answer(partition: int, before: int, offset: int, hour: int) -> None:
        progress = Progress(offset, watermark_us=T0_US + hour * HOUR_US)
        registry.commit(SNAPSHOT_SCOPE, partition, expected=before, progress=progress, accounts=[])

    assert left(config, store, registry) == 10  # nothing is answered
    answer(0, 0, 5, 9)
    assert left(config, store, registry) == 10  # the other partition is not
    answer(1, 0, 1, 4)
    assert left(config, store, registry) == 7  # what is not answered is of hour 4 or later; retention is an hour
    answer(1, 1, 5, 9)
    assert left(config, store, registry) == 0  # all is answered and sampled
