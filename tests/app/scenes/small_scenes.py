"""A small project of two scenes with features of their own, and requests as they are sent to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

__all__ = ["asked", "at", "write_project"]

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
TOML = """
name = "calls"
[storage]
state = "state"
[streams.behaviour]
key = "user_id"
[request]
feature_set = "search"
[labels]
window = "15m"
[labels.streams.exposure]
[labels.streams.click]
[api]
port = 0
[scenes.feed.request]
table = "feed_request"
feature_set = "feed_features"
unique_within = "1h"
[scenes.feed.labels]
window = "1h"
"""
SQL = {
    "tables": """
CREATE TABLE behaviour (user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL, request_time TIMESTAMP NOT NULL, query VARCHAR,
    candidates STRUCT(item_id BIGINT)[] NOT NULL
);
CREATE TABLE feed_request (
    request_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT, rank INTEGER)[] NOT NULL
);
CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
""",
    "activity": """
SELECT user_id, count(*) OVER w AS events FROM behaviour
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
""",
    "search": "SELECT request_id, item_id, activity.events, query FROM request LEFT JOIN activity USING (user_id)",
    "feed_features": """
SELECT request_id, item_id, activity.events AS seen, f.rank + 1 AS place
FROM feed_request f LEFT JOIN activity USING (user_id)
""",
}


def write_project(folder: Path, more: str = "") -> None:
    """Write the project, with ``more`` sections, into ``folder``."""
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML + more)
    for name, text in SQL.items():
        (folder / "sql" / f"{name}.sql").write_text(text)


def at(second: int) -> str:
    return (NOON + timedelta(seconds=second)).isoformat()


def asked(name: str, candidates: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"request_id": name, "user_id": "u", "request_time": at(60), "candidates": candidates, **more}
