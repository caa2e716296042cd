"""The data of both comparisons of history, and how answers must agree."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START_US, DAYS, DAY_US = 1_702_080_000_000_000, 28, 86_400_000_000
SEED = 20240229
EVENTS, REQUESTS = 400_000, 100_000

AS_OF_TOML = """
[streams.events]
key = "user_id"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
"""
_LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
AS_OF_SQL = {
    "schemas": f"""
CREATE TABLE events (user_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL, action VARCHAR, cents BIGINT);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {_LABEL}
CREATE TABLE click {_LABEL}
""",
    "newest": """
SELECT user_id, last(action) OVER so_far AS action, last(cents) OVER so_far AS cents FROM events
WINDOW so_far AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
""",
    "ranking": "SELECT request_id, item_id, newest.action, newest.cents FROM request LEFT JOIN newest USING (user_id)",
}


def prepare_as_of(folder: Path, scale: float) -> tuple[int, str]:
    """Events and requests of 28 days, each kind sorted by time; no event happens when another one does.

    Users are drawn by a skewed law, 20 events each on average, so that some requests come before any event.
    """
    events, requests = int(EVENTS * scale), int(REQUESTS * scale)
    rng = np.random.default_rng(SEED)
    users = max(events // 20, 1)
    step = DAYS * DAY_US // events
    times = START_US + np.arange(events) * step + rng.integers(0, step, events)
    asked = START_US + np.sort(rng.integers(0, DAYS * DAY_US, requests))
    zeros = np.zeros(events, np.int32)
    rows = pa.table(
        {
            "user_id": (users * rng.random(events) ** 2).astype(np.int64),
            "event_time": pa.array(times).cast(pa.timestamp("us")),
            "action": pa.array(["impression", "click", "cart", "order"]).take(pa.array(rng.integers(0, 4, events))),
            "cents": rng.integers(1, 10**6, events),
            # Dovetail's own: where in a topic a row stood.
            "_partition": zeros,
            "_offset": np.arange(events),
            "_row": zeros,
        }
    )
    request = pa.table(
        {
            "request_id": pa.array(np.arange(requests)).cast(pa.string()),
            "item_id": np.zeros(requests, np.int64),
            "user_id": (users * rng.random(requests) ** 2).astype(np.int64),
            "request_time": pa.array(asked).cast(pa.timestamp("us")),
        }
    )
    for name, table in (("events", rows), ("requests", request)):
        (folder / name).mkdir()
        pq.write_table(table, folder / name / "all.parquet", compression="zstd")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(AS_OF_TOML, encoding="utf-8")
    for name, text in AS_OF_SQL.items():
        (folder / "sql" / f"{name}.sql").write_text(text, encoding="utf-8")
    return requests, (
        f"{requests:,} requests ask for the newest of {events:,} events of their user, {users:,} users, 28 days: two "
        "values as of the request's time. From Parquet to Parquet."
    )


def prepare_windows(folder: Path, scale: float) -> tuple[int, str]:
    """The data of ``benchmarks/backfill.py``, in the same files."""
    backfill = importlib.import_module("benchmarks.backfill")
    events, requests = int(1_000_000 * scale), int(100_000 * scale)
    backfill.write_project(folder)
    backfill.write_log(folder, events, requests)
    return requests // DAYS * DAYS, (
        f"{requests:,} requests ask for ten aggregates over three windows (an hour, a day that moves by hours, a week "
        f"that moves by six hours) of {events:,} events of 28 days: data and definitions of `backfill.py`. "
        "From Parquet to Parquet."
    )


def equal(ours: pa.Table, theirs: pa.Table) -> str:
    """All values are the same, NULLs included, once types are: row by row, in the order of the requests."""
    wrong = {
        name: theirs.num_rows
        for name in ours.column_names
        if not theirs.column(name).cast(ours.schema.field(name).type).equals(ours.column(name))
    }
    if wrong or theirs.num_rows != ours.num_rows:
        raise DifferentError(f"columns {', '.join(wrong)} of {theirs.num_rows:,} rows differ from {ours.num_rows:,}")
    return f"all {ours.num_rows * ours.num_columns:,} values equal Dovetail's"


def equal_where_any(ours: pa.Table, theirs: pa.Table) -> str:
    """The values of each ``row`` there is are the same, and of the rows left out Dovetail's are all NULL."""
    there = theirs.column("row").to_numpy()
    missing = np.setdiff1d(np.arange(ours.num_rows), there)
    left = ours.take(pa.array(missing))
    if any(column.null_count < len(missing) for column in left.columns):
        raise DifferentError(f"{len(missing):,} rows are left out, and some of them have values")
    said = equal(ours.take(pa.array(there)), theirs.drop_columns("row"))
    return (
        f"{said}; {len(missing):,} requests, of users whose events all come later, get no row, where Dovetail has NULL"
    )


class DifferentError(Exception):
    """Answers that should be equal are not."""
