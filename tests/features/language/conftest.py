"""A small project that tests change one file at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail.features import Project, load

TOML = """
[streams.behaviour]
key = "user_id"

[tables.items]
path = "items.parquet"

[batch_views.item_profile]
every = "6h"

[labels]
window = "1h"

[labels.streams.exposure]

[labels.streams.click]
"""
MODEL = """
[model]
inputs = [{ column = "hour_of_day" }]
"""

BEHAVIOUR = """CREATE TABLE behaviour (
    user_id BIGINT NOT NULL, item_id BIGINT, shop VARCHAR, action VARCHAR, price DECIMAL(12,2), weight DOUBLE,
    ratio FLOAT, quantity INTEGER, wide BIGINT, tags VARCHAR[], event_time TIMESTAMP NOT NULL, other TIMESTAMP
);
"""
ITEMS = "CREATE TABLE items (item_id BIGINT, category VARCHAR, score DOUBLE, available_at TIMESTAMP NOT NULL);\n"
REQUEST = """CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL, page INTEGER, tags VARCHAR[],
    ctx STRUCT(os VARCHAR, app STRUCT(name VARCHAR)), candidates STRUCT(item_id BIGINT, slot INTEGER)[] NOT NULL
);
"""
LABELS = """CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
"""
USER_ACTIVITY = """SELECT user_id,
       count(*)                                  OVER last_hour AS impressions_1h,
       count(*) FILTER (WHERE action = 'click')  OVER last_hour AS clicks_1h,
       avg(price)                                OVER last_week AS avg_price_7d
FROM behaviour
WINDOW last_hour AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW),
       last_week AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN hop(event_time, INTERVAL 7 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW);
"""
ITEM_STATS = """SELECT item_id,
       count(*)                                 OVER last_day AS impressions_1d,
       count(*) FILTER (WHERE action = 'click') OVER last_day AS clicks_1d
FROM behaviour
WINDOW last_day AS (PARTITION BY item_id ORDER BY event_time
                    RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW);
"""
ITEM_PROFILE = "SELECT item_id, max(category) AS category FROM items GROUP BY item_id;\n"
RANKING = """SELECT request_id, item_id,
       hour(request_time)                                           AS hour_of_day,
       user_activity.clicks_1h,
       item_stats.clicks_1d / nullif(item_stats.impressions_1d, 0)  AS item_ctr_1d,
       item_profile.category
FROM request
LEFT JOIN user_activity USING (user_id)
LEFT JOIN item_stats    USING (item_id)
LEFT JOIN item_profile  USING (item_id);
"""
FILES = {
    "sql/behaviour.sql": BEHAVIOUR,
    "sql/items.sql": ITEMS,
    "sql/request.sql": REQUEST,
    "sql/labels.sql": LABELS,
    "sql/user_activity.sql": USER_ACTIVITY,
    "sql/item_stats.sql": ITEM_STATS,
    "sql/item_profile.sql": ITEM_PROFILE,
    "sql/ranking.sql": RANKING,
}

LoadProject = Callable[..., Project]


@pytest.fixture
def load_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadProject:
    """Loads the project with some files replaced (None removes one); file names in errors are like ``sql/x.sql``."""

    def load_it(files: dict[str, str | None] | None = None, *, more_toml: str = MODEL) -> Project:
        (tmp_path / "sql").mkdir(exist_ok=True)
        for name, text in {**FILES, "dovetail.toml": TOML + more_toml, **(files or {})}.items():
            if text is not None:
                (tmp_path / name).write_text(text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        return load(".")

    return load_it
