"""A day of events as lines of JSON, and how answers must agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

START_US, HOUR_US, HOURS = 1_700_006_400_000_000, 3_600_000_000, 24
SEED = 20240229
EVENTS = 200_000

TOML = """
[streams.events]
key = "user_id"
allowed_lateness = "5m"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
"""
_LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
SQL = {
    "schemas": f"""
CREATE TABLE events (user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL, action VARCHAR, cents BIGINT);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {_LABEL}
CREATE TABLE click {_LABEL}
""",
    "hourly": """
SELECT user_id, count(*) OVER hour AS events, count(*) FILTER (WHERE action = 'click') OVER hour AS clicks,
       sum(cents) OVER hour AS cents, max(cents) OVER hour AS most
FROM events
WINDOW hour AS (PARTITION BY user_id ORDER BY event_time
                RANGE BETWEEN hop(event_time, INTERVAL 1 HOUR, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW)
""",
    "ranking": """
SELECT request_id, item_id, hourly.events, hourly.clicks, hourly.cents, hourly.most
FROM request LEFT JOIN hourly USING (user_id)
""",
}
#: The columns of answers, which are sorted by the first two.
COLUMNS = ("user_id", "hour", "events", "clicks", "cents", "most")


def prepare(folder: Path, scale: float) -> tuple[int, str]:
    """Events in the order of their times, none on a full hour, so that nobody's window is closed or open there."""
    events = int(EVENTS * scale)
    rng = np.random.default_rng(SEED)
    users = max(events // 20, 1)
    millis = np.sort(rng.integers(0, HOURS * HOUR_US // 1000, events))
    millis += millis % (HOUR_US // 1000) == 0
    times = (START_US // 1000 + millis).astype("datetime64[ms]").astype(str)
    who = (users * rng.random(events) ** 2).astype(np.int64).tolist()
    actions = np.array(["impression", "click", "cart", "order"])[rng.integers(0, 4, events)].tolist()
    cents = rng.integers(1, 10**6, events).tolist()
    with (folder / "events.jsonl").open("w", encoding="utf-8") as file:
        for user, at, action, price in zip(who, np.char.replace(times, "T", " ").tolist(), actions, cents, strict=True):
            line = {"user_id": f"u{user}", "event_time": at, "action": action, "cents": price}
            file.write(json.dumps(line) + "\n")
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML, encoding="utf-8")
    for name, text in SQL.items():
        (folder / "sql" / f"{name}.sql").write_text(text, encoding="utf-8")
    return events, (
        f"{events:,} JSON events of {users:,} users in {HOURS} hours, sorted by time; of each user and hour with an "
        "event the count, the clicks, the sum and the largest price. Events may come five minutes late. One thread, or "
        "a parallelism of one."
    )


def equal(ours: pa.Table, theirs: pa.Table) -> str:
    """All rows are the same, once types are."""
    theirs = theirs.select(list(COLUMNS)).cast(ours.schema)
    if not ours.equals(theirs):
        raise DifferentError(
            f"{theirs.num_rows} rows {theirs.slice(0, 3)}, Dovetail {ours.num_rows} {ours.slice(0, 3)}"
        )
    return f"all {ours.num_rows:,} rows of users and hours equal Dovetail's"


class DifferentError(Exception):
    """Answers that should be equal are not."""
