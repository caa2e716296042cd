"""Backfill against hand-written DuckDB queries for the same values, each in a process of its own.

    python benchmarks/backfill.py [EVENTS REQUESTS]        (default 2,000,000 and 200,000)

All read the same Parquet files and write Parquet. There are two texts an expert would write, each whole, with 2 GiB for
DuckDB: *windows* is the union of requests and events under the view's own windows; *join* pairs every request with its
user's events of the longest window and groups. What is printed is wall time, CPU time (the better measure where other
work runs on the machine), the largest memory a process held (peak RSS, interpreter included), and the ratio to the
better of the two by CPU. The values are compared, too.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.features import load
from dovetail.features.batch.pieces import Limits, PieceEvaluator, Span
from dovetail.features.duck.macros import MACROS
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles

SEED = 20240229
START = 19_700 * DAY_US
DAYS = 28

TOML = """
[streams.events]
key = "user_id"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
SCHEMAS = f"""
CREATE TABLE events (user_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL, action VARCHAR, price DECIMAL(12, 2));
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {LABEL}
CREATE TABLE click {LABEL}
"""
AGGREGATES = """
       count(*) FILTER (WHERE NOT probe)                          OVER hour AS events_1h,
       count(*) FILTER (WHERE action = 'click')                   OVER hour AS clicks_1h,
       count(*) FILTER (WHERE NOT probe)                          OVER day  AS events_1d,
       count(*) FILTER (WHERE action = 'click')                   OVER day  AS clicks_1d,
       sum(price)                                                 OVER day  AS spend_1d,
       count(*) FILTER (WHERE NOT probe)                          OVER week AS events_7d,
       count(*) FILTER (WHERE action = 'click')                   OVER week AS clicks_7d,
       sum(price) FILTER (WHERE action = 'order')                 OVER week AS spend_7d,
       min(price)                                                 OVER week AS min_price_7d,
       max(price)                                                 OVER week AS max_price_7d
"""
WINDOWS = """
WINDOW hour AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       day  AS (PARTITION BY user_id ORDER BY event_time
                RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW),
       week AS (PARTITION BY user_id ORDER BY event_time
                RANGE BETWEEN hop(event_time, INTERVAL 7 DAY, INTERVAL 6 HOUR) PRECEDING AND CURRENT ROW)
"""
NAMES = [line.split(" AS ")[1].strip(" ,") for line in AGGREGATES.strip().splitlines()]


def write_project(folder: Path) -> None:
    """Definitions of one view with ten aggregates over three windows, and a feature set that hands them out."""
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML, encoding="utf-8")
    (folder / "sql" / "schemas.sql").write_text(SCHEMAS, encoding="utf-8")
    view = f"SELECT user_id, {AGGREGATES} FROM events {WINDOWS}".replace(" FILTER (WHERE NOT probe)", "")
    (folder / "sql" / "activity.sql").write_text(view, encoding="utf-8")
    columns = ", ".join(f"activity.{name}" for name in NAMES)
    ranking = f"SELECT request_id, item_id, {columns} FROM request LEFT JOIN activity USING (user_id)"
    (folder / "sql" / "ranking.sql").write_text(ranking, encoding="utf-8")


def write_log(folder: Path, events: int, requests: int) -> None:
    """A log of DAYS days, a file a day: users by a skewed law, 100 events each on average."""
    rng = np.random.default_rng(SEED)
    users = max(events // 100, 1)
    for what in ("events", "requests"):
        (folder / what).mkdir()
    for day in range(DAYS):
        low = START + day * DAY_US
        rows, asked = events // DAYS, requests // DAYS
        cents = pa.array(rng.integers(1, 10**6, rows)).cast(pa.decimal128(19, 0)).cast(pa.decimal128(38, 2))
        table = pa.table(
            {
                "user_id": (users * rng.random(rows) ** 2).astype(np.int64),
                "event_time": pa.array(low + np.sort(rng.integers(0, DAY_US, rows))).cast(pa.timestamp("us")),
                "action": pa.array(["impression", "click", "cart", "order"]).take(pa.array(rng.integers(0, 4, rows))),
                "price": pa.array(cents).cast(pa.decimal128(12, 2)),
            }
        )
        pq.write_table(table, folder / "events" / f"{day:02d}.parquet", compression="zstd")
        table = pa.table(
            {
                "request_id": pa.array(np.arange(asked) + day * asked).cast(pa.string()),
                "item_id": rng.integers(0, 1000, asked),
                "user_id": (users * rng.random(asked) ** 2).astype(np.int64),
                "request_time": pa.array(low + np.sort(rng.integers(0, DAY_US, asked))).cast(pa.timestamp("us")),
            }
        )
        pq.write_table(table, folder / "requests" / f"{day:02d}.parquet", compression="zstd")


def windows(folder: Path) -> None:
    """By hand: requests among the events, under windows."""
    _copy(
        folder,
        "windows",
        f"""
        SELECT number, {", ".join(NAMES)} FROM (
            SELECT probe, number, {AGGREGATES}
            FROM (SELECT user_id, event_time, action, price, false AS probe, NULL::BIGINT AS number
                  FROM read_parquet('{folder}/events/*.parquet')
                  WHERE user_id IN (SELECT user_id FROM read_parquet('{folder}/requests/*.parquet'))
                  UNION ALL BY NAME
                  SELECT user_id, request_time AS event_time, true AS probe, request_id::BIGINT AS number
                  FROM read_parquet('{folder}/requests/*.parquet'))
            {WINDOWS}
        ) WHERE probe
        """,
    )


def join(folder: Path) -> None:
    """By hand: each request joined with its user's events of the longest window, and grouped."""
    _copy(
        folder,
        "join",
        f"""
        SELECT number,
               count(*) FILTER (WHERE event_time >= hour)                       AS events_1h,
               count(*) FILTER (WHERE event_time >= hour AND action = 'click')  AS clicks_1h,
               count(*) FILTER (WHERE event_time >= day)                        AS events_1d,
               count(*) FILTER (WHERE event_time >= day AND action = 'click')   AS clicks_1d,
               sum(price) FILTER (WHERE event_time >= day)                      AS spend_1d,
               count(event_time)                                                AS events_7d,
               count(*) FILTER (WHERE action = 'click')                         AS clicks_7d,
               sum(price) FILTER (WHERE action = 'order')                       AS spend_7d,
               min(price)                                                       AS min_price_7d,
               max(price)                                                       AS max_price_7d
        FROM (SELECT request_id::BIGINT AS number, user_id, request_time AS asked,
                     request_time - INTERVAL 1 HOUR AS hour,
                     time_bucket(INTERVAL 1 HOUR, request_time - INTERVAL 1 DAY) AS day,
                     time_bucket(INTERVAL 6 HOUR, request_time - INTERVAL 7 DAY) AS week
              FROM read_parquet('{folder}/requests/*.parquet')) AS r
        LEFT JOIN read_parquet('{folder}/events/*.parquet') AS e
        ON e.user_id = r.user_id AND e.event_time BETWEEN r.week AND r.asked
        GROUP BY number
        """,
    )


def _copy(folder: Path, what: str, query: str) -> None:
    connection = duckdb.connect(config={"temp_directory": str(folder / f"{what}-spill"), "memory_limit": "2GiB"})
    for macro in MACROS:
        connection.execute(macro)
    connection.execute(f"COPY ({query} ORDER BY number) TO '{folder}/{what}.parquet' (COMPRESSION zstd)")


def dovetail(folder: Path) -> None:
    """The same by the definitions."""
    project = load(folder)
    features = project.feature_set
    requests = DayFiles.at(folder / "requests", "request_time")
    evaluator = PieceEvaluator(
        features,
        features.columns,
        project.stream_views,
        project.batch_views,
        {"events": DayFiles.at(folder / "events", "event_time")},
        _no_batch_views,
        limits=Limits(),
        scratch=folder / "scratch",
    )
    low, high = START, START + DAYS * DAY_US
    span = Span(requests.rows(low, high), low, high)
    with pq.ParquetWriter(folder / "dovetail.parquet", features.schema, compression="zstd") as writer:
        for _, part in evaluator.evaluate(lambda: requests.read(None, low, high), span):
            writer.write_table(part)


def _no_batch_views(view: str, version_us: int) -> pa.Table:
    raise AssertionError(f"there is no batch view {view} as of {version_us}")


def measured(what: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of one of the two, in its own process."""
    command = [sys.executable, __file__, "--one", what, str(folder)]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result["seconds"], result["cpu"], result["mib"]


def main(events: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder)
        write_log(folder, events, requests)
        print(f"backfill: {events:,} events x {requests:,} requests, {len(NAMES)} aggregates over 3 windows")
        taken = {what: measured(what, folder) for what in WAYS}
        best = min(("windows", "join"), key=lambda what: taken[what][1])
        other = pq.read_table(folder / "dovetail.parquet").select(NAMES)
        for what, (seconds, cpu, mib) in taken.items():
            same = pq.read_table(folder / f"{what}.parquet").select(NAMES).cast(other.schema).equals(other)
            ratio = f"{seconds / taken[best][0]:6.2f} {cpu / taken[best][1]:6.2f}"
            print(f"  {what:<10}{seconds:8.1f} s {cpu:8.1f} CPU s {mib:8.0f} MiB   {ratio}   equal: {same}", flush=True)


WAYS = {"windows": windows, "join": join, "dovetail": dovetail}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        began = time.perf_counter()
        WAYS[sys.argv[2]](Path(sys.argv[3]))
        spent = resource.getrusage(resource.RUSAGE_SELF)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": time.perf_counter() - began, "cpu": spent.ru_utime + spent.ru_stime, "mib": peak}))
    else:
        main(*(int(text) for text in sys.argv[1:3] or ("2000000", "200000")))
