"""Flink SQL through PyFlink, in a local cluster of one slot: a tumbling window; state on the heap or in RocksDB.

The files are read and written by Flink's own connectors, so nothing of it runs in Python. Checkpoints go to disk each
second.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.json as pj
from pyflink.table import EnvironmentSettings, TableEnvironment

PACKAGES = ("apache-flink",)
START_S = 1_700_006_400

_EVENTS = """
CREATE TABLE events (
    user_id STRING, event_time TIMESTAMP(3), action STRING, cents BIGINT,
    WATERMARK FOR event_time AS event_time - INTERVAL '5' MINUTE
) WITH ('connector' = 'filesystem', 'path' = 'file://{folder}/events.jsonl', 'format' = 'json')
"""
_MADE = """
CREATE TABLE made (user_id STRING, hour_start TIMESTAMP(3), events BIGINT, clicks BIGINT, cents BIGINT, most BIGINT)
WITH ('connector' = 'filesystem', 'path' = 'file://{made}', 'format' = 'json')
"""
_QUERY = """
INSERT INTO made
SELECT user_id, window_start, count(*), count(*) FILTER (WHERE action = 'click'), sum(cents), max(cents)
FROM TUMBLE(TABLE events, DESCRIPTOR(event_time), INTERVAL '1' HOUR)
GROUP BY user_id, window_start, window_end
"""


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``hashmap`` or ``rocksdb``. The cluster's JVM starts here."""
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for key, value in {
        "parallelism.default": "1",
        "state.backend.type": way,
        "execution.checkpointing.interval": "1 s",
        "execution.checkpointing.dir": f"file://{folder}/checkpoints-{way}",
        "table.local-time-zone": "UTC",
    }.items():
        tables.get_config().set(key, value)
    tables.execute_sql(_EVENTS.format(folder=folder))

    def run() -> pa.Table:
        made = folder / f"flink-{way}-{uuid.uuid4().hex}"
        tables.execute_sql("DROP TABLE IF EXISTS made")
        tables.execute_sql(_MADE.format(made=made))
        tables.execute_sql(_QUERY).wait()
        table = pa.concat_tables([pj.read_json(path) for path in made.iterdir() if path.is_file()])
        shutil.rmtree(made)
        seconds = table.column("hour_start").cast(pa.timestamp("s")).cast(pa.int64()).to_numpy()
        hours = pa.array((seconds - START_S) // 3600)
        columns = [table.column("user_id"), hours, *(table.column(n) for n in ("events", "clicks", "cents", "most"))]
        answers = pa.table(columns, names=["user_id", "hour", "events", "clicks", "cents", "most"])
        return answers.sort_by([("user_id", "ascending"), ("hour", "ascending")])

    return run
