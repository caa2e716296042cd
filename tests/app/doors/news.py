"""A small news log, as projects have them: impressions with many candidates, all shown, in an order nobody knows.

What a user reads is at once a label of the impression and an event that later impressions see. Some events and labels
come late.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["NewsLog", "make_log", "write_project"]

START = datetime(2024, 3, 1, 8, tzinfo=UTC).replace(tzinfo=None)
TOML = """
name = "news"
[streams.reads]
key = "user_id"
partitions = 2
allowed_lateness = "10m"
[request]
partitions = 2
[labels]
window = "30m"
allowed_lateness = "5m"
exposure = "shown"
positive = "click"
[labels.streams.shown]
partitions = 2
[labels.streams.click]
partitions = 2
[model]
bits = 10
publish_every = 500
inputs = [{ column = "item_id" }, { column = "item_reads", kind = "numeric" }]
[archive]
max_rows = 100000
"""
SQL = {
    "reads": "CREATE TABLE reads (user_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);",
    "request": """
CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id VARCHAR)[] NOT NULL
);""",
    "labels": """
CREATE TABLE shown (request_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);""",
    "users": """
SELECT user_id, count(*) OVER w AS reads, last(item_id) OVER w AS last_read FROM reads
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW);""",
    "items": """
SELECT item_id, count(*) OVER w AS reads FROM reads
WINDOW w AS (PARTITION BY item_id ORDER BY event_time RANGE BETWEEN INTERVAL 2 HOUR PRECEDING AND CURRENT ROW);""",
    "ranking": """
SELECT request_id, item_id, hour(request_time) AS hour, users.reads AS user_reads, users.last_read,
       items.reads AS item_reads
FROM request LEFT JOIN users USING (user_id) LEFT JOIN items USING (item_id);""",
}


class NewsLog:
    """Tables of a log, in the order of arrival, with a column ``arrival_time`` where that is asked for."""

    def __init__(self, tables: dict[str, pa.Table]) -> None:
        self.reads, self.requests = tables["reads"], tables["requests"]
        self.labels = {"shown": tables["shown"], "click": tables["click"]}


def make_log(impressions: int, *, seed: int = 7, arrival: bool = False) -> NewsLog:
    """``impressions`` of some 20 candidates each, over half a day."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, Any]]] = {"reads": [], "requests": [], "shown": [], "click": []}
    seconds = np.sort(rng.uniform(0, 12 * 3600, impressions))
    for number, second in enumerate(seconds.tolist()):
        time = START + timedelta(seconds=int(second))
        user = f"U{int(rng.zipf(1.5)) % 40}"
        items = [f"N{item}" for item in rng.choice(120, int(rng.integers(5, 36)), replace=False)]
        rows["requests"].append(
            {
                "request_id": f"I{number}", "user_id": user, "request_time": time, "arrival_time": time,
                "candidates": [{"item_id": item} for item in items],
            }
        )  # fmt: skip
        label = {"request_id": f"I{number}", "event_time": time, "arrival_time": time}
        rows["shown"] += [{**label, "item_id": item} for item in items]
        for item in items[: int(rng.integers(0, 3))]:
            read = time + timedelta(seconds=int(rng.integers(1, 600)))
            came = read + timedelta(seconds=int(rng.integers(0, 900)) if rng.random() < 0.1 else 0)
            times = {"event_time": read, "arrival_time": came}
            rows["click"].append({"request_id": f"I{number}", "item_id": item, **times})
            rows["reads"].append({"user_id": user, "item_id": item, **times})
    time, text = pa.timestamp("us"), pa.string()
    types = {"arrival_time": time, "event_time": time, "request_time": time, "candidates": pa.list_(
        pa.struct([("item_id", text)])
    )}  # fmt: skip
    tables = {}
    for name, found in rows.items():
        columns = found[0].keys()
        table = pa.table(
            {column: pa.array([row[column] for row in found], types.get(column, text)) for column in columns}
        )
        table = table.sort_by([("arrival_time", "ascending")])
        tables[name] = table if arrival else table.drop_columns(["arrival_time"])
    return NewsLog(tables)


def write_project(folder: Path, toml: str = TOML) -> None:
    """``dovetail.toml`` and ``sql/``."""
    (folder / "sql").mkdir(parents=True)
    (folder / "dovetail.toml").write_text(toml)
    for name, text in SQL.items():
        (folder / "sql" / f"{name}.sql").write_text(text)
